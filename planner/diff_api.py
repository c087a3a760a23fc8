"""Library of ``planner diff``: two layouts side by side, and what it takes to change over."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from msgspec import Struct, to_builtins

from planner.api import case_of_layout, limits_of
from planner.compose import assignment_of
from planner.cost.holdings import expert_rows, experts_held
from planner.cost.migration import Transition, migrate
from planner.cost.migration_time import migration_time
from planner.domain.differences import (
    Difference,
    ExpertChange,
    FigureChange,
    LayoutDifferences,
)
from planner.domain.layout import Layout
from planner.domain.train_layout import TrainLayout
from planner.domain.workload import Phase
from planner.errors import SpecError
from planner.moves import migration_record, on_other_machine
from planner.search.validate import structure_violations

__all__ = ["diff", "diff_training"]

# Long values are named, not shown.
_MOST_TEXT = 60


def diff(first: Layout, second: Layout) -> LayoutDifferences:
    """Compare two layouts of decode or of prefill.

    Raises
    ------
    SpecError
        They are of different phases, or one contradicts itself.
    """
    if first.inputs.phase != second.inputs.phase:
        raise SpecError(
            f"one layout is of {first.inputs.phase}, the other of {second.inputs.phase}",
            "compare layouts of one phase",
        )
    step = _transition(first, second)
    decisions = [
        *_fields(to_builtins(first.degrees), to_builtins(second.degrees)),
        *_one("layers of stages", _stages(first), _stages(second)),
        *_one("reserved chips", _listed(first.reserved_chips), _listed(second.reserved_chips)),
    ]
    chips = [{rank.chip for rank in one.ranks} for one in (first, second)]
    migration = None
    if step is not None and Phase(first.inputs.phase) is Phase.DECODE:
        found = migrate(step)
        migration = migration_record(step, found, migration_time(step, found))
    return LayoutDifferences(
        same=first == second,
        question=tuple(_question(first.inputs, second.inputs)),
        decisions=tuple(decisions),
        chips_first=tuple(sorted(chips[0] - chips[1])),
        chips_second=tuple(sorted(chips[1] - chips[0])),
        experts=None if step is None else _experts(step),
        figures=tuple(_figures(first, second)),
        terms=_terms(first, second),
        migration=migration,
    )


def diff_training(first: TrainLayout, second: TrainLayout) -> LayoutDifferences:
    """Compare two layouts of training. What moves is not worked out."""
    chips = [set(one.chips) for one in (first, second)]
    decisions = [
        *_fields(to_builtins(first.degrees), to_builtins(second.degrees)),
        *_one("layers of chunks", _chunks(first), _chunks(second)),
    ]
    return LayoutDifferences(
        same=first == second,
        question=tuple(_question(first.inputs, second.inputs)),
        decisions=tuple(decisions),
        chips_first=tuple(sorted(chips[0] - chips[1])),
        chips_second=tuple(sorted(chips[1] - chips[0])),
        experts=None,
        figures=tuple(_train_figures(first, second)),
        terms=_terms(first, second),
        migration=None,
    )


def _transition(first: Layout, second: Layout) -> Transition | None:
    """From the first layout to the second on its machine; None where models differ."""
    before, after = case_of_layout(first), case_of_layout(second)
    old = assignment_of(first, before.topology)
    new = assignment_of(second, after.topology)
    sides = ((first, before, old), (second, after, new))
    for which, (layout, case, assignment) in zip(("first", "second"), sides, strict=True):
        limits = limits_of(layout, case)
        broken = structure_violations(assignment, case.setting.model, limits)
        if broken:
            raise SpecError(
                f"the {which} layout contradicts itself: {'; '.join(broken[:3])}",
                "planner verify lists every violation",
            )
    if before.setting.model != after.setting.model:
        return None
    return Transition(
        topology=after.topology,
        before=before.setting,
        after=after.setting,
        old=on_other_machine(old, before.topology, after.topology),
        new=new,
    )


def _experts(step: Transition) -> ExpertChange | None:
    rows = expert_rows(step.after.model, with_draft=False)
    if not rows.layers:
        return None
    chips = step.topology.num_chips
    held = experts_held(step.after.model, rows, step.old, chips)
    need = experts_held(step.after.model, rows, step.new, chips)
    maps = [
        {layer: one.slots for one in side.slot_maps for layer in one.layers}
        for side in (step.old, step.new)
    ]
    return ExpertChange(
        layers=sum(maps[0][layer] != maps[1][layer] for layer in rows.layers),
        new_copies=int((need & ~held).sum()),
        copies=int(need.sum()),
    )


def _one(name: str, first: object, second: object) -> Iterator[Difference]:
    if first != second:
        texts = [_text(value) for value in (first, second)]
        if texts[0] == texts[1]:
            texts = ["one", "another"]
        yield Difference(name=name, first=texts[0], second=texts[1])


def _text(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_text(own)}" for key, own in value.items()) or "-"
    text = ", ".join(map(_text, value)) if isinstance(value, list | tuple) else str(value)
    return text if len(text) <= _MOST_TEXT else f"{text[: _MOST_TEXT - 4]} ..."


def _fields(
    first: dict[str, Any], second: dict[str, Any], prefix: str = ""
) -> Iterator[Difference]:
    for name in {**first, **second}:
        label = prefix + name.replace("_", " ")
        yield from _one(label, first.get(name), second.get(name))


def _question(first: Struct, second: Struct) -> Iterator[Difference]:
    """What was asked: the machine's facts by table, the rest field by field."""
    sides = [dict(to_builtins(one)) for one in (first, second)]
    models = [side.pop("model") for side in sides]
    machines = [side.pop("machine") for side in sides]
    loads = [side.pop("routing_loads", None) for side in sides]
    configs = [side.pop("config") for side in models]
    facts = [side.pop("facts") for side in machines]
    yield from _fields(models[0], models[1], "model ")
    if configs[0] != configs[1]:
        yield Difference(name="model config", first="one", second="another")
    yield from _fields(machines[0], machines[1], "machine ")
    for table in {**facts[0], **facts[1]}:
        if table != "sources":
            yield from _one(f"machine {table}", facts[0].get(table), facts[1].get(table))
    if loads[0] != loads[1]:
        texts = ["uniform" if one is None else "measured" for one in loads]
        texts = texts if texts[0] != texts[1] else ["measured", "measured, others"]
        yield Difference(name="routing loads", first=texts[0], second=texts[1])
    yield from _fields(sides[0], sides[1])


def _stages(layout: Layout) -> tuple[str, ...]:
    return tuple(f"{one.first_layer}..{one.end_layer - 1}" for one in layout.stages)


def _chunks(layout: TrainLayout) -> tuple[str, ...]:
    return tuple(f"{one.pp_rank}: {one.first_layer}..{one.end_layer - 1}" for one in layout.chunks)


def _listed(chips: tuple[str, ...]) -> tuple[str, ...] | None:
    return chips or None


def _figures(first: Layout, second: Layout) -> Iterator[FigureChange]:
    one, other = first.prediction, second.prediction
    yield _figure("step", "s", one.step_s, other.step_s)
    yield _figure("batch", "", float(one.batch), float(other.batch))
    yield _figure("tokens/s", "", one.tokens_per_s, other.tokens_per_s)
    yield _figure("tokens/s/chip", "", one.tokens_per_s_per_chip, other.tokens_per_s_per_chip)
    yield _figure("$/M tokens", "", one.usd_per_million_tokens, other.usd_per_million_tokens)
    yield _figure(
        "memory of the fullest chip", "bytes", one.memory.used_bytes, other.memory.used_bytes
    )
    for name in ("weights_bytes", "kv_bytes"):
        label = f"  {name.removesuffix('_bytes')}"
        yield _figure(label, "bytes", getattr(one.memory, name), getattr(other.memory, name))
    yield _figure("busiest expert group / mean", "", one.expert_imbalance, other.expert_imbalance)


def _train_figures(first: TrainLayout, second: TrainLayout) -> Iterator[FigureChange]:
    one, other = first.prediction, second.prediction
    yield _figure("step", "s", one.step_s, other.step_s)
    yield _figure("tokens/s", "", one.tokens_per_s, other.tokens_per_s)
    yield _figure("tokens/s/chip", "", one.tokens_per_s_per_chip, other.tokens_per_s_per_chip)
    yield _figure("MFU", "", one.mfu, other.mfu)
    yield _figure("bubble", "", one.bubble, other.bubble)
    yield _figure("$/M tokens", "", one.usd_per_million_tokens, other.usd_per_million_tokens)
    yield _figure(
        "memory of the fullest chip", "bytes", one.memory.used_bytes, other.memory.used_bytes
    )


def _figure(name: str, unit: str, first: float | None, second: float | None) -> FigureChange:
    return FigureChange(name=name, unit=unit, first=first, second=second)


def _terms(first: Layout | TrainLayout, second: Layout | TrainLayout) -> tuple[FigureChange, ...]:
    seconds = [
        {term.name: term.seconds for term in one.prediction.terms} for one in (first, second)
    ]
    found = [
        _figure(name.replace("_", " "), "s", seconds[0].get(name), seconds[1].get(name))
        for name in {**seconds[0], **seconds[1]}
    ]
    changed = [one for one in found if one.first != one.second]
    return tuple(sorted(changed, key=lambda one: -abs((one.second or 0.0) - (one.first or 0.0))))
