"""What the studies write: ``--json`` the records, ``--csv`` their main table.

Layouts themselves are left out of the JSON of a comparison: ``plan -o`` writes one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import msgspec

from planner.export.csv_table import Cell, csv_table
from planner.export.layout_file import record_json
from planner.studies.curve import Curve
from planner.studies.frontier import Frontier
from planner.studies.record import Candidate, Comparison
from planner.studies.sensitivity import Sensitivity
from planner.studies.words import degrees_text

COMPARE_HEADER = (
    *("strategy", "degrees", "batch", "step_s", "tokens_per_s_per_user", "tokens_per_s_per_chip"),
    *("mfu", "usd_per_million_tokens", "weights_bytes", "kv_bytes", "states_bytes"),
    *("activations_bytes", "capacity_bytes", "scale_up_bytes", "scale_out_bytes", "idle_share"),
    *("idle_chips", "gap", "reason"),
)


def comparison_json(found: Comparison) -> bytes:
    """A comparison without the layouts that it was made from."""
    bare = tuple(replace(one, layout=None) for one in found.candidates)
    record = msgspec.to_builtins(replace(found, candidates=bare))
    for one in record["candidates"]:
        del one["layout"]
    return record_json(record)


def _row(one: Candidate) -> list[Cell]:
    figures = one.figures
    if figures is None:
        reason = "" if one.infeasible is None else one.infeasible.message
        return [one.name, *([None] * (len(COMPARE_HEADER) - 2)), reason]
    memory = figures.memory
    links = {own.name: own.bytes_per_chip for own in figures.links}
    return [
        one.name,
        degrees_text(figures.degrees),
        *(figures.batch, figures.step_s, figures.tokens_per_s_per_user),
        *(figures.tokens_per_s_per_chip, figures.mfu, figures.usd_per_million_tokens),
        *(memory.weights_bytes, memory.kv_bytes, memory.states_bytes, memory.activations_bytes),
        *(memory.capacity_bytes, links.get("scale-up"), links.get("scale-out")),
        *(figures.bubble, figures.idle_chips, figures.gap, one.note),
    ]


def comparison_csv(found: Comparison) -> bytes:
    """One line per candidate."""
    return csv_table(COMPARE_HEADER, (_row(one) for one in found.candidates))


FRONTIER_HEADER = (
    *("model", "machine", "limit_s", "step_s", "tokens_per_s_per_user", "tokens_per_s_per_chip"),
    *("usd_per_million_tokens", "speed", "price", "batch", "draft", "degrees", "gap"),
)


def frontiers_json(found: Sequence[Frontier]) -> bytes:
    """All frontiers, in the order in which they were asked for."""
    return record_json(tuple(found))


def frontiers_csv(found: Sequence[Frontier]) -> bytes:
    """One line per point."""
    rows: list[list[Cell]] = [
        [
            *(one.model, one.machine, point.limit_s, point.step_s, point.tokens_per_s_per_user),
            *(point.tokens_per_s_per_chip, point.usd_per_million_tokens, point.speed),
            *(point.price, point.batch, point.degrees.draft, degrees_text(point.degrees)),
            point.gap,
        ]
        for one in found
        for point in one.points
    ]
    return csv_table(FRONTIER_HEADER, rows)


CURVE_HEADER = (
    *("x", "batch", "step_s", "ideal_step_s", "ideal_compute_s", "ideal_memory_s"),
    *("usd_per_million_tokens", "ideal_usd_per_million_tokens", "mfu", "ideal_mfu"),
    *("weights_bytes", "kv_bytes", "activations_bytes", "reserve_bytes", "capacity_bytes"),
)


def curve_csv(found: Curve) -> bytes:
    """One line per point: the figures, then the seconds of each term."""
    names = list(dict.fromkeys(term.name for point in found.points for term in point.terms))
    rows: list[list[Cell]] = []
    for point in found.points:
        own, lines = point.memory, point.ideal
        seconds = {term.name: term.value for term in point.terms}
        rows.append(
            [
                *(point.x, point.batch, point.step_s, lines.step_s, lines.compute_s),
                *(lines.weights_s + lines.cache_s, point.usd_per_million_tokens),
                *(lines.usd_per_million_tokens, point.mfu, lines.mfu, own.weights_bytes),
                *(own.kv_bytes, own.activations_bytes, own.reserve_bytes, own.capacity_bytes),
                *(seconds.get(name, 0.0) for name in names),
            ]
        )
    return csv_table((*CURVE_HEADER, *(f"{name}_s" for name in names)), rows)


SENSITIVITY_HEADER = (
    *("kind", "name", "value", "unit", "elasticity", "s_per_unit", "twice_or_half_step_s"),
)


def sensitivity_csv(found: Sensitivity) -> bytes:
    """One line per figure."""
    return csv_table(
        SENSITIVITY_HEADER,
        (
            (
                *(own.kind, own.name, own.value, own.unit, own.elasticity, own.s_per_unit),
                own.twice_s,
            )
            for own in found.parameters
        ),
    )
