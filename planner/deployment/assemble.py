"""Layouts from decisions that an engine was given: nothing is searched, all is priced."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from msgspec import structs

from planner.api import step_limit_s
from planner.compose import (
    batch_records,
    degrees_record,
    expert_records,
    idle_chips,
    rank_records,
    reserved_chips,
    stage_records,
)
from planner.cost.evaluate import evaluate as price_assignment
from planner.cost.routing import FloatArray
from planner.cost.step import Setting
from planner.deployment.ranks import cells_of, engine_order
from planner.domain.assignment import Assignment, SlotMap
from planner.domain.degrees import Degrees
from planner.domain.deployment import Engine
from planner.domain.layout import SCHEMA_VERSION, Inputs, Layout
from planner.errors import SpecError
from planner.search.validate import Limits, limit_violations, structure_violations
from planner.topology.graph import Topology
from planner.version import VERSION


class Case(Protocol):
    """What layouts are priced on."""

    @property
    def setting(self) -> Setting:
        """Model, chip and workload."""

    @property
    def topology(self) -> Topology:
        """The machine."""

    @property
    def loads(self) -> FloatArray:
        """Shares of the routed tokens, ``[MoE layers, experts]``."""

    @property
    def uniform(self) -> bool:
        """Whether these are equal because nothing is known."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Decisions:
    """What an engine was given.

    Parameters
    ----------
    chips : tuple of tuple of str
        Chip of every rank of every instance, in the engine's order of ranks.
    stage_layers : tuple of int
        Layers of each stage.
    sequences : int
        Of each attention rank, over all microbatches.
    """

    engine: Engine
    degrees: Degrees
    chips: tuple[tuple[str, ...], ...]
    stage_layers: tuple[int, ...]
    slot_maps: tuple[SlotMap, ...]
    sequences: int


def even_sequences(degrees: Degrees, sequences: int) -> tuple[tuple[tuple[int, ...], ...], ...]:
    """``[replica][microbatch][attention rank]``: equal ranks, the first microbatches one more."""
    base, more = divmod(sequences, degrees.microbatches)
    one = tuple((base + (index < more),) * degrees.attn_dp for index in range(degrees.microbatches))
    return (one,) * degrees.replicas


def ends_of(stage_layers: Sequence[int]) -> tuple[int, ...]:
    """One past the last layer of each stage."""
    return tuple(sum(stage_layers[: index + 1]) for index in range(len(stage_layers)))


def assignment_from(decided: Decisions, topology: Topology) -> Assignment:
    """Decisions as indices.

    Raises
    ------
    SpecError
        A chip is not on the machine.
    """
    place = {name: chip for chip, name in enumerate(topology.chip_names)}
    order = engine_order(decided.engine, decided.degrees)
    unknown = [name for own in decided.chips for name in own if name not in place]
    if unknown:
        raise SpecError(f"there is no chip '{unknown[0]}' on this machine")
    return Assignment(
        degrees=decided.degrees,
        stage_ends=ends_of(decided.stage_layers),
        cells=tuple(
            cells_of(order, [place[name] for name in own], decided.degrees.pp)
            for own in decided.chips
        ),
        slot_maps=decided.slot_maps,
        sequences=even_sequences(decided.degrees, decided.sequences),
    )


def layout_from(inputs: Inputs, case: Case, assignment: Assignment) -> Layout:
    """Price decisions; whether they meet the limits is asked of :func:`broken_limits`.

    Raises
    ------
    SpecError
        They contradict themselves and cannot be priced.
    """
    free = structs.replace(inputs, batch=None, limits={}, gap=None)
    # Spares are a limit of plans; a deployment takes what it takes.
    broken = structure_violations(assignment, case.setting.model, _limits(free, case))
    if broken:
        raise SpecError("the deployment cannot be priced: " + "; ".join(broken[:3]))
    return Layout(
        schema_version=SCHEMA_VERSION,
        planner_version=VERSION,
        inputs=free,
        degrees=degrees_record(assignment.degrees),
        stages=stage_records(assignment),
        ranks=rank_records(assignment, case.topology),
        idle_chips=idle_chips(assignment, case.topology),
        reserved_chips=reserved_chips(assignment, case.topology),
        experts=expert_records(assignment),
        batches=batch_records(assignment),
        prediction=price_assignment(
            case.setting, case.topology, assignment, case.loads, free.price_usd_per_hour
        ),
    )


def _limits(inputs: Inputs, case: Case) -> Limits:
    return Limits(
        num_chips=case.topology.num_chips,
        step_limit_s=step_limit_s(inputs),
        batch=inputs.batch,
        excluded=case.topology.spared.excluded,
    )


def broken_limits(layout: Layout, case: Case) -> tuple[str, ...]:
    """Memory and TPOT limits that a layout does not meet, in words."""
    return limit_violations(layout.prediction, _limits(layout.inputs, case))


def fits(layout: Layout) -> bool:
    """Whether the fullest chip holds what it must."""
    memory = layout.prediction.memory
    return memory.used_bytes <= memory.capacity_bytes * (1 + 1e-9)


def most_that_run(decided: Decisions, inputs: Inputs, case: Case) -> tuple[int, Layout] | None:
    """Sequences per attention rank, as many as memory holds up to those decided, and their layout.

    Returns
    -------
    (int, Layout) or None
        None where not one fits.
    """

    def priced(sequences: int) -> Layout:
        own = replace(decided, sequences=sequences)
        return layout_from(inputs, case, assignment_from(own, case.topology))

    found = priced(decided.sequences)
    if fits(found):
        return decided.sequences, found
    # Fewer sequences never need more memory: halve what is between.
    best: tuple[int, Layout] | None = None
    low, high = 0, decided.sequences
    while high - low > 1:
        middle = (low + high) // 2
        found = priced(middle)
        if fits(found):
            low, best = middle, (middle, found)
        else:
            high = middle
    return best
