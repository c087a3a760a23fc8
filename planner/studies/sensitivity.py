"""Library of ``planner sensitivity``: what moves the step of a layout, and what would.

Every figure of the machine, the model and the workload is turned a little while the decisions of
the layout stay; the layout is priced anew. Elasticities say by how many percent the step grows
when a figure grows by one; those of rates and latencies of the machine say what the step waits
for. Slack is what the step would not miss: its length less what a resource needs alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from planner.api import machine_of, verify
from planner.catalog.model_config import model_from_facts
from planner.domain.changed import UNCHANGED, Changed
from planner.domain.hardware import MachineSpec
from planner.domain.model import ModelSpec
from planner.domain.train_layout import TrainLayout
from planner.errors import SpecError
from planner.studies.dials import AnyLayout, Dial, model_dials, workload_dials
from planner.studies.knobs import (
    COMPUTE,
    HARDWARE,
    HBM_RATE,
    HBM_SIZE,
    HOP,
    KERNEL,
    SCALE_OUT,
    SCALE_UP,
    SCALE_UP_LATENCY,
    Knob,
)
from planner.studies.record import Tell, silent
from planner.studies.roots import crossing
from planner.train_api import price_training, verify_training
from planner.what_if import price_layout

# Half-width of a difference quotient, by ratio.
SMALL = 1e-3
# So much more of a resource that it takes no time.
FREE = 1e30
MOST_RELIEF = 1e6
RATES = (COMPUTE, HBM_RATE, SCALE_UP, SCALE_OUT)
WAITS = (SCALE_UP_LATENCY, HOP, KERNEL)
LEAST_ELASTICITY = 1e-9


@dataclass(frozen=True, kw_only=True, slots=True)
class Parameter:
    """What one figure does to the step.

    Parameters
    ----------
    kind : str
        ``hardware``, ``model`` or ``workload``.
    elasticity : float
        d ln step / d ln value.
    s_per_unit : float
        d step / d value: seconds per unit of the figure.
    twice_s : float, optional
        The step with twice as much of it (of a latency: half); None for figures that are no
        offer of a vendor.
    """

    kind: str
    name: str
    label: str
    unit: str
    value: float
    elasticity: float
    s_per_unit: float
    twice_s: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Resource:
    """One resource of the machine.

    Parameters
    ----------
    alone_s : float
        The step if everything else were free.
    slack : float
        Share of the step that it is not needed for.
    """

    name: str
    label: str
    alone_s: float
    slack: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Bottleneck:
    """What the step waits for, and what comes next.

    Parameters
    ----------
    behind : str
        What the step waits for most once the bottleneck is relieved.
    relief : float, optional
        How many times as much of the bottleneck until the next one matters as much; None where
        it stays the largest however much there is.
    free_s : float
        The step if the bottleneck took no time.
    """

    name: str
    label: str
    behind: str
    behind_label: str
    relief: float | None
    free_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Sensitivity:
    """Everything about one layout; parameters of each kind by the size of their elasticity.

    ``hbm_free`` is the free share of the usable HBM of the fullest chip; ``largest_batch`` what
    fits now, and ``largest_batch_twice`` with twice the HBM (decode).
    """

    model: str
    machine: str
    phase: str
    step_s: float
    parameters: tuple[Parameter, ...]
    resources: tuple[Resource, ...]
    bottleneck: Bottleneck
    hbm_free: float
    largest_batch: int | None
    largest_batch_twice: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Subject:
    layout: AnyLayout
    machine: MachineSpec
    model: ModelSpec

    def step_s(self, changed: Changed = UNCHANGED, layout: AnyLayout | None = None) -> float:
        """The step where something is otherwise."""
        own = self.layout if layout is None else layout
        if isinstance(own, TrainLayout):
            return price_training(own, changed).step_s
        return price_layout(own, changed).step_s

    def turned(self, *turns: tuple[Knob, float]) -> float:
        """The step with figures of the machine multiplied."""

        def machine(spec: MachineSpec) -> MachineSpec:
            for knob, factor in turns:
                spec = knob.scale(spec, factor)
            return spec

        return self.step_s(Changed(machine=machine))

    def elasticity(self, knob: Knob, *turns: tuple[Knob, float]) -> float:
        """Of the step in a figure of the machine, with others multiplied before."""
        up = self.turned(*turns, (knob, 1.0 + SMALL))
        down = self.turned(*turns, (knob, 1.0 / (1.0 + SMALL)))
        found = math.log(up / down) / (2.0 * math.log1p(SMALL))
        return found if abs(found) > LEAST_ELASTICITY else 0.0


def sensitivity(layout: AnyLayout, tell: Tell = silent) -> Sensitivity:
    """Turn every figure of a layout's machine, model and workload.

    Parameters
    ----------
    layout : Layout or TrainLayout
        Of decode, prefill or training.

    Raises
    ------
    SpecError
        The decisions of the layout contradict themselves and cannot be priced.
    """
    given = layout.inputs.model
    subject = _Subject(
        layout=layout,
        machine=machine_of(layout.inputs.machine),
        model=model_from_facts(given.config, given.name, "layout: inputs.model.config"),
    )
    _check(layout)
    step = subject.step_s()
    tell("figures of the machine", 0.05)
    knobs = [knob for knob in HARDWARE if knob.read(subject.machine)]
    hardware = [_hardware(subject, knob, step) for knob in knobs]
    tell("figures of model and workload", 0.4)
    others = [*_dialled(subject, step)]
    tell("resources", 0.7)
    resources = _resources(subject, step)
    tell("the next bottleneck", 0.85)
    memory = layout.prediction.memory
    largest, twice = _largest_batches(layout)
    return Sensitivity(
        model=given.name,
        machine=subject.machine.name,
        phase=layout.inputs.phase,
        step_s=step,
        parameters=(*_ordered(hardware), *_ordered(others)),
        resources=resources,
        bottleneck=_bottleneck(subject, hardware),
        hbm_free=1.0 - memory.used_bytes / memory.capacity_bytes,
        largest_batch=largest,
        largest_batch_twice=twice,
    )


def _check(layout: AnyLayout) -> None:
    broken = verify_training(layout) if isinstance(layout, TrainLayout) else verify(layout)
    if broken:
        raise SpecError(
            "the layout does not hold together: " + "; ".join(broken[:3]),
            "planner verify lists every violation",
        )


def _ordered(found: list[Parameter]) -> list[Parameter]:
    return sorted(found, key=lambda own: (own.kind, -abs(own.elasticity), own.name))


def _hardware(subject: _Subject, knob: Knob, step: float) -> Parameter:
    value = knob.read(subject.machine)
    assert value is not None
    elasticity = subject.elasticity(knob)
    return Parameter(
        kind="hardware",
        name=knob.name,
        label=knob.label,
        unit=knob.unit,
        value=value,
        elasticity=elasticity,
        s_per_unit=elasticity * step / value,
        twice_s=subject.turned((knob, 2.0 if knob.more_is_better else 0.5)),
    )


def _dialled(subject: _Subject, step: float) -> Iterator[Parameter]:
    kinds: tuple[tuple[str, list[Dial]], ...] = (
        ("model", model_dials(subject.model, subject.layout)),
        ("workload", workload_dials(subject.layout)),
    )
    for kind, dials in kinds:
        for dial in dials:
            slope = _slope(subject, dial, step)
            if slope is None:
                continue
            yield Parameter(
                kind=kind,
                name=dial.name,
                label=dial.label,
                unit=dial.unit,
                value=float(dial.value),
                elasticity=slope * dial.value / step,
                s_per_unit=slope,
                twice_s=None,
            )


def _slope(subject: _Subject, dial: Dial, step: float) -> float | None:
    """Seconds per unit, over a step to both sides, or to the one that can be priced."""
    points = [(dial.value, step)]
    for value in (dial.value - dial.step, dial.value + dial.step):
        if value <= 0:
            continue
        try:
            layout, changed = dial.turn(value)
            points.append((value, subject.step_s(changed, layout)))
        except SpecError:
            continue
    low, high = min(points), max(points)
    return None if low[0] == high[0] else (high[1] - low[1]) / (high[0] - low[0])


def _resources(subject: _Subject, step: float) -> tuple[Resource, ...]:
    """What each rate needs alone, and all latencies together, in order of slack."""
    waits = [(knob, 0.0) for knob in WAITS]
    free = [(knob, FREE) for knob in RATES]
    # What no figure of the machine explains: constants of engines.
    rest = subject.turned(*free, *waits)
    found = []
    for knob in RATES:
        if knob.read(subject.machine):
            others = [turn for turn in free if turn[0] is not knob]
            alone = subject.turned(*others, *waits) - rest
            found.append(_resource(knob.name, knob.label, alone, step))
    found.append(
        _resource("latencies", "latencies and kernels", subject.turned(*free) - rest, step)
    )
    if rest > SMALL * SMALL * step:
        found.append(_resource("engine", "constants of the engine", rest, step))
    return tuple(sorted(found, key=lambda own: own.slack))


def _resource(name: str, label: str, alone_s: float, step_s: float) -> Resource:
    alone = max(0.0, alone_s)
    return Resource(name=name, label=label, alone_s=alone, slack=1.0 - alone / step_s)


def _relieved(knob: Knob, factor: float) -> tuple[Knob, float]:
    """So many times as much of it: of a latency, the part."""
    return knob, factor if knob.more_is_better else 1.0 / factor


def _bottleneck(subject: _Subject, hardware: list[Parameter]) -> Bottleneck:
    """The figure that the step hangs on most, and the next one behind it."""
    knobs = {knob.name: knob for knob in HARDWARE}
    order = sorted(
        (own for own in hardware if own.name != HBM_SIZE.name), key=lambda own: -abs(own.elasticity)
    )
    first = knobs[order[0].name]
    others = [knobs[own.name] for own in order[1:]]

    def behind(factor: float) -> tuple[float, Knob]:
        turn = _relieved(first, factor)
        sizes = [(abs(subject.elasticity(knob, turn)), knob) for knob in others]
        return max(sizes, key=lambda pair: pair[0])

    def lead(factor: float) -> float:
        own = abs(subject.elasticity(first, _relieved(first, factor)))
        return own - behind(factor)[0]

    relief, beyond = None, MOST_RELIEF
    if lead(1.0) > 0 >= lead(MOST_RELIEF):
        found = crossing(lead, (1.0, MOST_RELIEF))
        relief, beyond = found.at, found.after
    _, following = behind(beyond)
    return Bottleneck(
        name=first.name,
        label=first.label,
        behind=following.name,
        behind_label=following.label,
        relief=relief,
        free_s=subject.turned(_relieved(first, FREE)),
    )


def _largest_batches(layout: AnyLayout) -> tuple[int | None, int | None]:
    """Batches that fit now, and with twice the HBM; of a training step there is no such thing."""
    if isinstance(layout, TrainLayout):
        return None, None
    twice = price_layout(layout, Changed(machine=lambda spec: HBM_SIZE.scale(spec, 2.0)))
    return layout.prediction.largest_batch, twice.largest_batch
