"""Places all layers of a table of loads, each to a proven gap.

Layers that differ only in the numbers of their experts are solved once. Those that
``place_experts`` leaves open are refined one by one, in processes when there are many: each
answer depends on its layer alone, not on who computed it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

import numpy as np

from planner.search.expert_bounds import FloatArray, IntArray
from planner.search.expert_greedy import count_repeats, greedy_slots
from planner.search.experts import (
    ExpertPlacement,
    chip_loads,
    improve_placement,
    place_experts,
    refine_placement,
    with_slots,
)
from planner.search.processes import can_fork, ignore_interrupts

# A process costs as much as the refinement of about two layers.
_LAYERS_PER_JOB = 4


def place_layers(
    loads: FloatArray,
    caps: IntArray,
    *,
    gap: float,
    jobs: int = 1,
    deadline: float | None = None,
) -> tuple[ExpertPlacement, ...]:
    """Place the experts of every layer and prove the gap where it can be proven.

    No layer is balanced worse than by the greedy rule, unless that puts two copies of an
    expert on one chip.

    Parameters
    ----------
    loads : array, shape ``[num_layers, num_experts]``
        Rows add up to 1.
    caps : int array, shape ``[num_chips]``
        Slots of each chip.
    gap : float
        ``(reached - bound) / reached`` to prove.
    jobs : int
        Processes at most.
    deadline : float or None
        ``time.monotonic()`` after which no layer is refined further.

    Raises
    ------
    SpecError
        If the experts do not fit in the slots or a load is negative or not finite.
    """
    # Chips in another order get the same placement; equal layers in another order become
    # equal rows.
    chips = np.argsort(-caps, kind="stable")
    caps = caps[chips]
    order = np.argsort(-loads, axis=1, kind="stable")
    ordered = np.take_along_axis(loads, order, axis=1)
    rows, which = np.unique(ordered, axis=0, return_inverse=True)
    which = which.ravel()
    placed = list(place_experts(rows, len(caps), caps))
    for layer, row in enumerate(which.tolist()):
        position = np.empty_like(order[layer])
        position[order[layer]] = np.arange(len(position))
        placed[row] = _not_below_greedy(placed[row], loads[layer], position, caps)
    open_rows = [index for index, one in enumerate(placed) if one.gap > gap]
    refine = partial(_refine, caps=caps, gap=gap, deadline=deadline)
    tasks = [(placed[index], rows[index]) for index in open_rows]
    for index, better in zip(open_rows, _map(refine, tasks, jobs), strict=True):
        placed[index] = better
    return tuple(
        _in_order(placed[row], order[layer], chips) for layer, row in enumerate(which.tolist())
    )


def _not_below_greedy(
    placed: ExpertPlacement, loads_row: FloatArray, position: IntArray, caps: IntArray
) -> ExpertPlacement:
    """Go on where the search, which stops near its bound, ended above the greedy rule.

    The rule breaks ties by the numbers of the experts: it sees the layer's own ones;
    ``position`` are those of the placement.
    """
    slots = greedy_slots(loads_row, caps)
    max_load = float(chip_loads(slots, loads_row).max())
    if max_load >= placed.max_load:
        return placed
    own = np.empty_like(loads_row)
    own[position] = loads_row
    found = improve_placement(placed, own, caps, max_load)
    if found.max_load <= max_load or count_repeats(slots):
        return found
    return with_slots(found, own, np.append(position, -1)[slots])


def _map(
    refine: Callable[[tuple[ExpertPlacement, FloatArray]], ExpertPlacement],
    tasks: list[tuple[ExpertPlacement, FloatArray]],
    jobs: int,
) -> list[ExpertPlacement]:
    jobs = min(jobs, len(tasks) // _LAYERS_PER_JOB)
    if jobs < 2:
        return [refine(task) for task in tasks]
    pool = ProcessPoolExecutor(
        jobs,
        mp_context=get_context("fork" if can_fork() else "spawn"),
        initializer=ignore_interrupts,
    )
    try:
        return list(pool.map(refine, tasks))
    finally:
        # After Ctrl-C: the layers at work are finished, the others are not begun.
        pool.shutdown(cancel_futures=True)


def _refine(
    task: tuple[ExpertPlacement, FloatArray],
    *,
    caps: IntArray,
    gap: float,
    deadline: float | None,
) -> ExpertPlacement:
    placed, row = task

    def expired() -> bool:
        return deadline is not None and time.monotonic() >= deadline

    return refine_placement(placed, row, caps, gap, expired)


def _in_order(placed: ExpertPlacement, experts: IntArray, chips: IntArray) -> ExpertPlacement:
    """The placement of a row with its experts and its chips in another order."""
    if _is_sorted(experts) and _is_sorted(chips):
        return placed
    slots = np.empty_like(placed.slots)
    slots[chips] = np.append(experts, len(experts))[placed.slots]
    slots = np.sort(slots, axis=1)
    slots[slots == len(experts)] = -1
    slots.setflags(write=False)
    copies = np.empty_like(placed.num_copies)
    copies[experts] = placed.num_copies
    return ExpertPlacement(
        slots=slots,
        max_load=placed.max_load,
        bound=placed.bound,
        num_copies=copies,
        certificate=placed.certificate,
    )


def _is_sorted(order: IntArray) -> bool:
    return bool(np.array_equal(order, np.arange(len(order))))
