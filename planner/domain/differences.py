"""What two layouts differ in. The field names are the keys of ``planner diff --json``."""

from __future__ import annotations

import msgspec

from planner.domain.replan import MigrationRecord


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that differs, as each layout has it."""

    name: str
    first: str
    second: str


class FigureChange(msgspec.Struct, frozen=True, kw_only=True):
    """One figure of both layouts, absent where one has none; ``unit`` is s, bytes or empty."""

    name: str
    unit: str
    first: float | None
    second: float | None


class ExpertChange(msgspec.Struct, frozen=True, kw_only=True):
    """How expert copies differ: layers whose maps differ, and copies of the second layout that
    their chips do not hold in the first, of all that it has.
    """

    layers: int
    new_copies: int
    copies: int


class LayoutDifferences(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that two layout files differ in.

    Parameters
    ----------
    question, decisions : tuple of Difference
        What was asked, and what was decided: degrees, stages, batch.
    chips_first, chips_second : tuple of str
        Chips that only the one or the other layout uses.
    terms : tuple of FigureChange
        Seconds of the step, term by term, largest difference first; equal ones are left out.
    migration : MigrationRecord, optional
        From the first to the second; absent for training, and where models are not the same.
    """

    same: bool
    question: tuple[Difference, ...]
    decisions: tuple[Difference, ...]
    chips_first: tuple[str, ...]
    chips_second: tuple[str, ...]
    experts: ExpertChange | None
    figures: tuple[FigureChange, ...]
    terms: tuple[FigureChange, ...]
    migration: MigrationRecord | None
