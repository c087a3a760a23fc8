"""A replan as people read it: the layouts compared, what moves, what it is worth, the proof."""

from __future__ import annotations

from collections import defaultdict
from typing import TextIO

from planner.domain.layout import Layout
from planner.domain.replan import LayoutFigures, MigrationRecord, ReplanRecord
from planner.report.plan_text import degrees_line
from planner.report.tables import print_table, print_text
from planner.units import (
    format_bytes,
    format_count,
    format_integer,
    format_percent,
    format_precise,
    format_seconds,
)

KINDS = {
    "experts": "experts",
    "layers": "other weights of layers",
    "tables": "embedding and head",
    "draft": "drafting layer",
    "caches": "KV caches",
}
MOST_ROUTES = 12


def show_replan(layout: Layout, record: ReplanRecord, stream: TextIO) -> None:
    """Print a replan."""
    inputs = layout.inputs
    print_text(
        f"{inputs.model.name} on {inputs.machine.name}: "
        + ("; ".join(record.changes) or "nothing has changed"),
        stream,
    )
    print_text(degrees_line(record.chosen.degrees, record.chosen.batch), stream)
    _layouts(record, stream)
    show_moves(record.migration, stream)
    stream.write("\n")
    for line in (*lost_lines(record.migration), *_worth(record), _proof(record)):
        print_text(line, stream)


def _row(name: str, one: LayoutFigures) -> tuple[str, ...]:
    return (
        name,
        format_integer(one.chips),
        format_integer(one.batch),
        format_seconds(one.step_s),
        format_count(one.tokens_per_s),
        format_bytes(one.moved_bytes) if one.moved_bytes else "nothing",
        format_seconds(one.migration_s) if one.migration_s else "-",
    )


def _layouts(record: ReplanRecord, stream: TextIO) -> None:
    least = "old layout" if record.old_is_valid else "fewest moves"
    rows = [
        _row("> next layout", record.chosen),
        _row(f"  {least}", record.least),
        _row("  best from scratch", record.scratch),
    ]
    header = ("", "chips", "batch", "step", "tokens/s", "moves", "for")
    print_table("Layouts", header, rows, stream)


def show_moves(migration: MigrationRecord, stream: TextIO) -> None:
    """Print what moves, over which links, from where to where."""
    _moves(migration, stream)
    _routes(migration, stream)


def _moves(migration: MigrationRecord, stream: TextIO) -> None:
    chips: dict[str, set[str]] = defaultdict(set)
    stored: dict[str, float] = defaultdict(float)
    for move in migration.moves:
        chips[move.kind].add(move.target)
        stored[move.kind] += move.num_bytes if move.source == "storage" else 0.0
    rows = [
        (
            KINDS[kind],
            format_bytes(size),
            format_bytes(stored[kind]) if stored[kind] else "-",
            str(len(chips[kind])),
        )
        for kind, size in migration.by_kind.items()
        if size
    ]
    if rows:
        header = ("what moves", "bytes", "from storage", "chips that get some")
        print_table("Migration", header, rows, stream)
    if migration.link_bytes:
        over = [(name, format_bytes(size)) for name, size in migration.link_bytes.items()]
        print_table("Over links", ("kind of link", "bytes, all links together"), over, stream)


def _place(chip: str) -> str:
    """Node, tray or storage that a chip's name says."""
    return chip.rpartition("/")[0] or chip


def _routes(migration: MigrationRecord, stream: TextIO) -> None:
    """Largest flows from chip to chip, or from place to place where there are many."""
    by_chip: dict[tuple[str, str], float] = defaultdict(float)
    for move in migration.moves:
        by_chip[move.source, move.target] += move.num_bytes
    by_place: dict[tuple[str, str], float] = defaultdict(float)
    for (source, target), size in by_chip.items():
        by_place[_place(source), _place(target)] += size
    routes = by_chip if len(by_chip) <= MOST_ROUTES else by_place
    ordered = sorted(routes.items(), key=lambda item: (-item[1], item[0]))
    rows = [(a, b, format_bytes(size)) for (a, b), size in ordered[:MOST_ROUTES]]
    if not rows:
        return
    left = ordered[MOST_ROUTES:]
    if left:
        rest = format_bytes(sum(size for _, size in left))
        rows.append((f"{len(left)} more", "", rest))
    print_table("From where to where", ("from", "to", "bytes"), rows, stream, words=(0, 1))


def lost_lines(migration: MigrationRecord) -> list[str]:
    """What is gone: experts without a copy, caches."""
    found = []
    if migration.lost_experts:
        found.append(
            f"No copies to spare: {format_integer(migration.lost_experts)} experts (counted layer "
            f"by layer) have no living copy. {format_bytes(migration.storage_bytes)} are read "
            "from host or storage, and until then their tokens cannot be served. "
            "planner plan --survive keeps a second copy of every expert elsewhere."
        )
    elif migration.storage_bytes:
        found.append(
            f"{format_bytes(migration.storage_bytes)} of weights have no living holder and are "
            "read from host or storage."
        )
    if migration.storage_bytes and migration.storage_s is None:
        found.append("The machine states no rate for storage: the time to read is not counted.")
    caches = migration.caches
    if caches.lost or caches.unplaced:
        found.append(
            f"Sequences: {format_integer(caches.kept)} stay, {format_integer(caches.moved)} move, "
            f"{format_integer(caches.lost)} lose their caches, "
            f"{format_integer(caches.unplaced)} find no room. The last two start again: "
            f"{format_integer(caches.lost_tokens)} tokens to prefill."
        )
    return found


def _worth(record: ReplanRecord) -> list[str]:
    migration = record.migration
    found = []
    parts = []
    if migration.network_s:
        link = f"{migration.busiest_link_kind} link {migration.busiest_link} is busiest"
        parts.append(f"{format_seconds(migration.network_s)} over links ({link})")
    if migration.storage_s:
        parts.append(f"{format_seconds(migration.storage_s)} from storage")
    if migration.refill_s:
        parts.append(f"{format_seconds(migration.refill_s)} to prefill lost caches")
    if not migration.moved_bytes:
        found.append("Nothing moves.")
    if parts:
        found.append(
            f"Changing over takes {format_seconds(migration.seconds)}: {', '.join(parts)}."
        )
    if record.break_even_s is not None:
        than = "the old layout" if record.old_is_valid else "the layout that moves least"
        found.append(
            f"Gain over {than}: {format_percent(record.gain)}. It has "
            f"paid for itself after {format_seconds(record.break_even_s)}, nothing being decoded "
            "while it moves."
        )
    return found


def _proof(record: ReplanRecord) -> str:
    own = format_precise(record.chosen.objective)
    bound = format_precise(record.bound)
    if record.gap is None:
        text = (
            f"The layout ({own} {record.unit}) is none that plan searches, and better than all of "
            f"those: none is below {bound}."
        )
    else:
        text = (
            f"Certificate: {own} {record.unit}; no layout of the changed machine is below {bound}, "
            f"whatever it moves: at most {format_percent(record.gap)} are left."
        )
    if record.migration.moved_bytes:
        text += " That fewer bytes would not do is not proven."
    return text
