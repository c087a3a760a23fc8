"""Bytes that a chip sends over each class of links, read off the cost model itself.

On a machine without latencies whose other links are infinitely fast, the seconds that a step
spends on a class of links, times the bandwidth of that class, are the bytes that it carries:
the same counting as the step's price, with nothing counted twice.

Assumptions
-----------
- Bytes are those of the busiest link, times the links of a chip: what a chip sends where
  traffic is even, more where it is not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from msgspec import structs

from planner.domain.changed import Changed
from planner.domain.cost import Bound
from planner.domain.curves import PERFECT_CURVES
from planner.domain.hardware import MachineSpec, ideal
from planner.domain.layout import Layout
from planner.domain.scale_up import GraphDomain
from planner.domain.train_layout import TrainLayout
from planner.studies.knobs import (
    COMPUTE,
    HBM_RATE,
    SCALE_OUT,
    SCALE_UP,
    scale_out_bytes_per_s,
    scale_up_bytes_per_s,
)
from planner.train_api import price_training
from planner.what_if import price_layout

# So much faster that what is left of a term is below rounding.
FAST = 1e30
UP, OUT = "scale-up", "scale-out"
# A fraction of a byte is rounding.
_ONE = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class LinkBytes:
    """One class of links.

    Parameters
    ----------
    name : str
        ``scale-up`` or ``scale-out``.
    bytes_per_chip : float
        Of one step; of a token's step in decode.
    """

    name: str
    bytes_per_chip: float


def _plain(spec: MachineSpec) -> MachineSpec:
    """Nothing but bandwidth."""
    spec = ideal(spec)
    if isinstance(spec.scale_up, GraphDomain) or spec.scale_out is None:
        return spec
    return replace(spec, scale_out=replace(spec.scale_out, curves=PERFECT_CURVES))


def _only(name: str) -> Callable[[MachineSpec], MachineSpec]:
    """A machine on which only one class of links takes time."""
    other = SCALE_OUT if name == UP else SCALE_UP

    def change(spec: MachineSpec) -> MachineSpec:
        for knob in (other, COMPUTE, HBM_RATE):
            spec = knob.scale(spec, FAST)
        return _plain(spec)

    return change


def _classes(spec: MachineSpec) -> list[tuple[str, float]]:
    out = scale_out_bytes_per_s(spec)
    found = [(UP, scale_up_bytes_per_s(spec))]
    return found if out is None else [*found, (OUT, out)]


def _of_class(layout_bytes: Callable[[Changed], float], spec: MachineSpec) -> tuple[LinkBytes, ...]:
    found = []
    for name, rate in _classes(spec):
        sent = layout_bytes(Changed(machine=_only(name))) * rate
        found.append(LinkBytes(name=name, bytes_per_chip=sent if sent > _ONE else 0.0))
    return tuple(found)


def decode_bytes(layout: Layout, spec: MachineSpec) -> tuple[LinkBytes, ...]:
    """Bytes per chip and token's step of a decode layout on its machine ``spec``.

    Terms are those of one microbatch through all stages; a chip belongs to one of ``pp`` stages
    and works on every microbatch.
    """
    degrees = layout.degrees
    share = degrees.microbatches / degrees.pp

    def sent(changed: Changed) -> float:
        terms = price_layout(layout, changed).terms
        return share * sum(term.network_s for term in terms)

    return _of_class(sent, spec)


def train_bytes(layout: TrainLayout, spec: MachineSpec) -> tuple[LinkBytes, ...]:
    """Bytes per chip and optimizer step of a training layout on its machine ``spec``.

    Nothing is hidden, so that exposed seconds are all seconds.
    """
    exposed = structs.replace(layout, degrees=structs.replace(layout.degrees, overlap=()))

    def sent(changed: Changed) -> float:
        terms = price_training(exposed, changed).terms
        return sum(term.seconds for term in terms if term.bound is not Bound.IDLE)

    return _of_class(sent, spec)
