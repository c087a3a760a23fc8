"""Places copies of the experts of MoE layers on the chips of an expert-parallel group.

Sets        layers l, experts e in 0..E-1, chips g in 0..G-1
Data        w_le >= 0  share of the routed tokens of layer l that go to expert e
            c_g        slots of chip g, sum c_g >= E
Variables   copies r_e >= 1 and the slots that hold them, per layer
Objective   least load of the hottest chip, per layer

Constraints (kept by every move of ``expert_moves``, modelled in ``expert_patterns``)
    placed     every expert has at least one copy
    distinct   no two copies of an expert on one chip
    capacity   at most c_g copies on chip g
    even       the copies of an expert share its tokens equally (the engines' rule)

Layers are independent. Each is solved by packing and local search and stops within
``tolerance`` of a bound from ``expert_bounds``, or after a fixed number of moves. A gap that
is left goes to the counting model of ``expert_patterns`` when loads take few values; when
they are nearly equal, its answer for equal loads is a second start of the local search.

Decisions
---------
Experts and chips are sorted by load and size before solving, so that the result does not
depend on how they are numbered, and equal layers are solved once. The search counts moves,
never seconds: the same input gives the same placement on every machine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from planner.errors import SpecError
from planner.search.expert_bounds import (
    FloatArray,
    IntArray,
    as_caps,
    even_caps,
    expert_lower_bound,
    require_slots,
    uniform_imbalance,
)
from planner.search.expert_flow import TokenSplit, split_tokens
from planner.search.expert_moves import Packing
from planner.search.expert_patterns import solve_patterns
from planner.search.expert_prices import PriceCertificate
from planner.search.expert_refine import Refined, never, refine_row

__all__ = [
    "TOLERANCE",
    "ExpertPlacement",
    "TokenSplit",
    "as_caps",
    "chip_loads",
    "even_caps",
    "expert_lower_bound",
    "place_experts",
    "refine_placement",
    "split_tokens",
    "uniform_imbalance",
]

TOLERANCE = 2e-3
_MOVES_PER_CHIP = 40
# Heaviest over lightest expert up to which the structure for equal loads is worth a try.
_NEARLY_EQUAL = 1.5


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ExpertPlacement:
    """Expert copies of one layer; arrays are read-only.

    Attributes
    ----------
    slots : int array, shape ``[num_chips, c_max]``
        Expert of each slot, -1 for an empty or absent one; filled slots come first.
    max_load : float
        Share of the routed tokens on the hottest chip when copies split evenly.
    bound : float
        No placement with even splits has a lower ``max_load``.
    num_copies : int array, shape ``[num_experts]``
    certificate : PriceCertificate or None
        Why the bound holds, where prices gave it (only :func:`refine_placement` asks them).
    """

    slots: IntArray
    max_load: float
    bound: float
    num_copies: IntArray
    certificate: PriceCertificate | None = None

    @property
    def gap(self) -> float:
        """``(max_load - bound) / max_load``, in [0, 1)."""
        return (self.max_load - self.bound) / self.max_load if self.max_load > 0 else 0.0

    @property
    def groups(self) -> tuple[tuple[int, ...], ...]:
        """Experts of each chip without the empty slots."""
        return tuple(tuple(e for e in row if e >= 0) for row in self.slots.tolist())


def chip_loads(slots: IntArray, loads_row: FloatArray) -> FloatArray:
    """Share of the routed tokens on each chip when copies split evenly.

    Parameters
    ----------
    slots : int array, shape ``[num_chips, c_max]``
        Expert of each slot, -1 for none.
    loads_row : array, shape ``[num_experts]``

    Returns
    -------
    array, shape ``[num_chips]``
    """
    copies = np.bincount(slots[slots >= 0], minlength=len(loads_row))
    per_copy = np.append(loads_row / np.maximum(copies, 1), 0.0)
    loads: FloatArray = per_copy[slots].sum(axis=1)
    return loads


def place_experts(
    loads: FloatArray,
    num_chips: int,
    slots_per_chip: int | IntArray,
    *,
    tolerance: float = TOLERANCE,
) -> tuple[ExpertPlacement, ...]:
    """Place the experts of every layer so that the hottest chip has the least load.

    Parameters
    ----------
    loads : array, shape ``[num_layers, num_experts]``
        Share of the routed tokens of each expert; rows add up to 1.
    num_chips : int
        Chips of the expert-parallel group (the EP degree).
    slots_per_chip : int or int array, shape ``[num_chips]``
        Expert copies that a chip can hold.
    tolerance : float
        The search of a layer stops at ``bound * (1 + tolerance)``.

    Returns
    -------
    tuple of ExpertPlacement
        One per layer; layers with equal loads share one record.

    Raises
    ------
    SpecError
        If the experts do not fit in the slots or a load is negative or not finite.
    """
    rows = np.ascontiguousarray(loads, dtype=np.float64)
    if rows.ndim != 2 or rows.shape[1] == 0:
        raise SpecError(f"expert loads have shape {rows.shape}, expected [layers, experts]")
    if not (np.isfinite(rows).all() and (rows >= 0).all()):
        raise SpecError("expert loads must be finite and not negative")
    caps = as_caps(num_chips, slots_per_chip)
    require_slots(rows.shape[1], int(caps.sum()))
    sizes = tuple(caps.tolist())
    return tuple(_place_row(row.tobytes(), sizes, tolerance) for row in rows)


@lru_cache(maxsize=2048)
def _place_row(row_bytes: bytes, caps: tuple[int, ...], tolerance: float) -> ExpertPlacement:
    """Solve one layer in the order of :func:`_solve_sorted` and number it back."""
    row = np.frombuffer(row_bytes, dtype=np.float64)
    sizes = np.array(caps, dtype=np.int64)
    experts = np.argsort(-row, kind="stable")
    chips = np.argsort(-sizes, kind="stable")
    packed, bound = _solve_sorted(row[experts].tobytes(), tuple(sizes[chips].tolist()), tolerance)
    return _numbered(row, experts, chips, Refined(slots=packed, reached=np.inf, bound=bound))


def _numbered(
    row: FloatArray, experts: IntArray, chips: IntArray, found: Refined
) -> ExpertPlacement:
    """Give experts and chips of a sorted answer their own numbers."""
    slots = np.full_like(found.slots, -1)
    slots[chips] = np.append(experts, -1)[found.slots]
    return _finished(row, slots, found.bound, found.certificate)


def _finished(
    row: FloatArray, slots: IntArray, bound: float, certificate: PriceCertificate | None
) -> ExpertPlacement:
    """Filled slots first, in the order of expert numbers; loads are computed afresh."""
    slots = np.sort(np.where(slots < 0, len(row), slots), axis=1)
    slots[slots == len(row)] = -1
    copies = np.bincount(slots[slots >= 0], minlength=len(row))
    max_load = float(chip_loads(slots, row).max())
    for array in (slots, copies):
        array.setflags(write=False)
    return ExpertPlacement(
        slots=slots,
        max_load=max_load,
        bound=min(bound, max_load),
        num_copies=copies,
        certificate=certificate,
    )


def with_slots(placed: ExpertPlacement, loads_row: FloatArray, slots: IntArray) -> ExpertPlacement:
    """The same layer with other slots (-1 where empty); the bound stays."""
    return _finished(loads_row, slots, placed.bound, placed.certificate)


def improve_placement(
    placed: ExpertPlacement, loads_row: FloatArray, caps: IntArray, target: float
) -> ExpertPlacement:
    """Continue the local search until the hottest chip has ``target`` or no move helps."""
    slots = np.where(placed.slots < 0, len(loads_row), placed.slots)
    packing = Packing(loads_row, caps, slots)
    packing.improve(target, _MOVES_PER_CHIP * len(caps))
    return with_slots(
        placed, loads_row, np.where(packing.slots == len(loads_row), -1, packing.slots)
    )


def refine_placement(
    placed: ExpertPlacement,
    loads_row: FloatArray,
    caps: IntArray,
    gap: float,
    expired: Callable[[], bool] = never,
) -> ExpertPlacement:
    """Improve a placement of :func:`place_experts` and its bound until ``gap`` is proven.

    Parameters
    ----------
    placed : ExpertPlacement
    loads_row : array, shape ``[num_experts]``
    caps : int array, shape ``[num_chips]``
    gap : float
    expired : callable
        Whether to stop early with what there is.
    """
    if placed.gap <= gap:
        return placed
    experts = np.argsort(-loads_row, kind="stable")
    chips = np.argsort(-caps, kind="stable")
    position = np.empty(len(experts) + 1, dtype=np.int64)
    position[experts] = np.arange(len(experts))
    position[-1] = len(experts)
    start = Refined(
        slots=position[placed.slots[chips]], reached=placed.max_load, bound=placed.bound
    )
    found = refine_row(loads_row[experts], caps[chips], start, gap, expired)
    return _numbered(loads_row, experts, chips, found)


@lru_cache(maxsize=2048)
def _solve_sorted(
    row_bytes: bytes, caps: tuple[int, ...], tolerance: float
) -> tuple[IntArray, float]:
    """Slots (``num_experts`` when empty) and bound for loads and caps in descending order."""
    row = np.frombuffer(row_bytes, dtype=np.float64)
    sizes = np.array(caps, dtype=np.int64)
    bound = _even_bound(row, sizes)
    packing = Packing(row, sizes)
    packing.improve(bound * (1 + tolerance), _MOVES_PER_CHIP * len(sizes))
    slots, reached = packing.slots, float(packing.chip_load.max())
    if reached <= bound * (1 + tolerance):
        return slots, min(bound, reached)
    counted = solve_patterns(row, sizes, lower=bound, upper=reached)
    bound = max(bound, counted.bound)
    if counted.slots is not None:
        return counted.slots, bound
    if row[-1] < row[0] <= _NEARLY_EQUAL * row[-1]:
        equal = np.full_like(row, row.sum() / len(row))
        start, _ = _solve_sorted(equal.tobytes(), caps, tolerance)
        second = Packing(row, sizes, start)
        second.improve(bound * (1 + tolerance), _MOVES_PER_CHIP * len(sizes))
        if second.chip_load.max() < reached:
            slots, reached = second.slots, float(second.chip_load.max())
    return slots, min(bound, reached)


def _even_bound(row: FloatArray, caps: IntArray) -> float:
    """Best bound for even splits; uniform loads on even caps have a sharper one."""
    bound = expert_lower_bound(row, len(caps), caps)
    is_even = int(caps.max()) - int(caps.min()) <= 1
    if is_even and row[0] > 0 and row[0] == row[-1]:
        mean = float(row.sum()) / len(caps)
        bound = max(bound, mean * uniform_imbalance(len(row), len(caps), int(caps.sum())))
    return bound
