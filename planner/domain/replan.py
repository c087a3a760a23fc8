"""What a replan says: what moves, how long that takes, what it gains, what is proven.

The field names of these records are the keys of ``planner replan --json``.
"""

from __future__ import annotations

import msgspec

from planner.domain.layout import DegreesRecord


class LayoutFigures(msgspec.Struct, frozen=True, kw_only=True):
    """One layout in a comparison; ``objective`` is smaller-is-better, in the search's unit."""

    degrees: DegreesRecord
    chips: int
    batch: int
    step_s: float
    tokens_per_s: float
    objective: float
    moved_bytes: float
    migration_s: float


class Move(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes of one kind from a chip, or from ``storage``, to a chip.

    ``kind`` is ``experts``, ``layers`` (all other weights of layers), ``tables`` (embedding and
    head), ``draft`` or ``caches``.
    """

    kind: str
    source: str
    target: str
    num_bytes: float


class CacheRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Cached sequences that stay, move, are lost with a chip, or find no room.

    ``lost_tokens`` are those of the last two kinds: they are prefilled again.
    """

    kept: int
    moved: int
    lost: int
    unplaced: int
    lost_bytes: float
    lost_tokens: int


class MigrationRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What moves, and over which links.

    ``storage_bytes`` are read from host or storage since no living chip holds them;
    ``storage_s`` is absent where the machine states no rate for that, ``refill_s`` prefills lost
    caches again. ``link_bytes`` are the
    bytes over all links of a kind. ``lost_experts`` counts pairs of layer and expert whose last
    copy is gone.
    """

    moved_bytes: float
    by_kind: dict[str, float]
    storage_bytes: float
    seconds: float
    network_s: float
    storage_s: float | None
    refill_s: float
    busiest_link: str
    busiest_link_kind: str
    link_bytes: dict[str, float]
    caches: CacheRecord
    lost_experts: int
    moves: tuple[Move, ...]


class ReplanRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of ``planner replan``, beside the new layout.

    Parameters
    ----------
    changes : tuple of str
        What is different from the question of the old layout.
    old_is_valid : bool
        Whether the old layout could stay as it is.
    chosen, least, scratch : LayoutFigures
        The new layout, the one that moves least, the best without regard to moves.
    gain : float
        How much more per second (or less time per step) than ``least``: 0.02 is 2 %.
    break_even_s : float, optional
        After so long the gain has made up for the migration; absent where nothing is gained.
    unit, bound, gap :
        No layout of the space has an objective below ``bound``, whatever it moves; that none with
        as few moved bytes is better than the chosen one is not proven. ``gap`` is
        absent where the old layout stays, lies outside of the space and is better than all in it.
    candidates : int
        Layouts that were priced with their migrations.
    """

    planner_version: str
    changes: tuple[str, ...]
    old_is_valid: bool
    chosen: LayoutFigures
    least: LayoutFigures
    scratch: LayoutFigures
    gain: float
    break_even_s: float | None
    max_move_bytes: float | None
    amortise_s: float | None
    unit: str
    bound: float
    gap: float | None
    candidates: int
    migration: MigrationRecord
