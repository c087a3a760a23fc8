"""Layers to pipeline chunks: what is left to choose once mesh and policy are fixed.

Sets        layers in model order, chunks ``c = 0 .. C-1``, devices ``d``; chunk ``c`` lies on
            device ``device(c)`` (:mod:`planner.cost.schedules.kinds`)
Data        seconds of one microbatch of every layer, and bytes on device ``d``; embedding with
            chunk 0, head and prediction layers with chunk ``C-1``; budget of a device
Variables   layers ``n_c`` of each chunk, in order
Objective   minimise the time of the slowest device, then that of the second slowest, and so on
Constraints ``sum n_c = layers``; bytes of every device within the budget; ``least <= n_c <= most``
            for inner chunks, ``0 <= n_c <= most`` for the first and the last, and no device has
            more than one layer above the even share

Starts are the even cut, and that of engines that let the last chunk give up layers for its head
(:func:`planner.cost.runs.training_pipeline.chunk_layers`); then a layer moves from a chunk of the
slowest device, or of one that is too full, for as long as that helps. Each start and each end is
priced in full, and so is every cut where they are few.

Where all layers are equal no cut is faster (:mod:`~planner.search.training.rooms`).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator

import numpy as np

from planner.cost.runs.training_pipeline import chunk_layers, prediction_work
from planner.domain.model import ModelSpec
from planner.search.training.borders import moved_borders
from planner.search.training.cases import IntArray, most_layers
from planner.search.training.fillings import Devices, Filling
from planner.search.training.rooms import Counts, Limits, Pipeline, TwoKinds, limits_of

# Layers of another kind at the start of the model that are dealt in every way.
MOST_AHEAD = 8
# Cuts whose borders are moved.
MOST_MOVED = 3
# Cuts of one policy that are priced in full.
MOST_CUTS = 24


def _starts(model: ModelSpec, pipeline: Pipeline) -> Iterator[Counts]:
    num_layers, num_chunks = len(model.layers), len(pipeline.devices)
    low, high = limits_of(num_layers, num_chunks)
    most = most_on_device(pipeline)
    found = [chunk_layers(num_layers, num_chunks, extra) for extra in (prediction_work(model), 0.0)]
    found += _dealt(pipeline, high)
    for counts in dict.fromkeys(found):
        held = np.bincount(pipeline.devices, weights=counts)
        inside = all(a <= n <= b for a, n, b in zip(low, counts, high, strict=True))
        if inside and held.max() <= most:
            yield counts


def most_on_device(pipeline: Pipeline) -> int:
    """Layers that a device holds at most, in the space; all of them where it is alone."""
    num_layers, p = len(pipeline.layer_s), pipeline.num_devices
    return num_layers if p == 1 else int(most_layers(num_layers, np.array(p)))


def _dealt(pipeline: Pipeline, high: Counts) -> list[Counts]:
    """Cuts that hand out layers of the common kind one by one, where they end soonest.

    Layers of another kind at the start of the model fill the first chunks in every way. Within
    a device the chunks are as equal as they can be, the longer ones early or late.
    """
    kinds = TwoKinds.of(pipeline)
    few = kinds.others <= MOST_AHEAD and len(kinds.places) <= kinds.others + 1
    ahead = kinds.others if few else 0
    found = []
    for first in _compositions(ahead, min(high[0], max(1, ahead)), pipeline.num_devices):
        held = _deal(pipeline, kinds, first, high)
        if held is not None:
            found += [
                _spread(pipeline, held, (first, closed), early)
                for closed in sorted({max(0, len(first) - 1), len(first)})
                for early in (True, False)
            ]
    return found


def _compositions(total: int, most: int, places: int) -> Iterator[Counts]:
    """Ways to put ``total`` layers on the first chunks, ``most`` on each, in order."""
    if total == 0:
        yield ()
        return
    if places == 0:
        return
    for first in range(min(total, most), 0, -1):
        for rest in _compositions(total - first, most, places - 1):
            yield (first, *rest)


def _deal(pipeline: Pipeline, kinds: TwoKinds, first: Counts, high: Counts) -> list[int] | None:
    """Common layers of each device, with ``first`` others on the first chunks; None if too many."""
    start = np.zeros(pipeline.num_devices)
    start[pipeline.devices[0]] += pipeline.ends_s[0]
    start[pipeline.devices[-1]] += pipeline.ends_s[1]
    taken = np.zeros(pipeline.num_devices)
    most = np.bincount(pipeline.devices, weights=high, minlength=pipeline.num_devices)
    most = np.minimum(most, most_on_device(pipeline))
    for chunk, count in enumerate(first):
        device = int(pipeline.devices[chunk])
        start[device] += count * kinds.other_s
        taken[device] += count * pipeline.layer_bytes[device, 0]
        most[device] -= count if chunk == len(first) - 1 else high[chunk]
    if pipeline.mirrored:
        start = (start + start[::-1]) / 2.0
    room = np.minimum(pipeline.rooms(kinds.num_bytes, taken), most)
    queue = [(start[d] + kinds.seconds, d) for d in range(len(start)) if room[d] >= 1]
    heapq.heapify(queue)
    held = [0] * len(start)
    for _ in range(len(pipeline.layer_s) - sum(first)):
        if not queue:
            return None
        ends, device = heapq.heappop(queue)
        held[device] += 1
        if held[device] < room[device]:
            heapq.heappush(queue, (ends + kinds.seconds, device))
    return held


def _spread(pipeline: Pipeline, held: list[int], ahead: tuple[Counts, int], early: bool) -> Counts:
    """Layers of each chunk, those of a device as equal as they can be.

    ``ahead`` are the other layers on the first chunks, and how many of these take no more.
    """
    first, num_closed = ahead
    counts = [0] * len(pipeline.devices)
    closed = range(num_closed)
    for device, total in enumerate(held):
        chunks = [int(c) for c in np.flatnonzero(pipeline.devices == device)]
        free = [chunk for chunk in chunks if chunk not in closed] or chunks
        base, extra = divmod(total, len(free))
        longer = free[:extra] if early else free[len(free) - extra :]
        for chunk in free:
            counts[chunk] = base + (chunk in longer)
    for chunk, count in enumerate(first):
        counts[chunk] += count
    return tuple(counts)


def candidate_cuts(model: ModelSpec, pipeline: Pipeline) -> tuple[Counts, ...]:
    """Cuts that are worth pricing, the slowest device as fast as it gets; all where they are few.

    Returns
    -------
    tuple of tuple of int
        Layers of every chunk; empty where no cut of the space was found that fits.
    """
    limits = limits_of(len(model.layers), len(pipeline.devices))
    found = _all_cuts(pipeline, limits)
    if found is None:
        starts = tuple(_starts(model, pipeline))
        improved = {_improved(pipeline, start, limits) for start in starts}
        if _takes_turns(pipeline):
            most = most_on_device(pipeline)
            nearest = sorted({*starts, *improved}, key=lambda own: (pipeline.rank(own), own))
            improved |= {moved_borders(pipeline, own, limits, most) for own in nearest[:MOST_MOVED]}
        found = sorted({*improved, *starts}, key=lambda own: (pipeline.rank(own), own))
    return tuple(own for own in found[:MOST_CUTS] if pipeline.rank(own)[0] == 0.0)


def cuts_of_filling(pipeline: Pipeline, devices: Devices, filling: Filling) -> Iterator[Counts]:
    """Cuts of the space with the layers of a filling on each device, where there are some.

    Devices that are alike take more layers where there is more room. Layers of other kinds than
    the common one fill the first chunks, if they are the first of the model; otherwise only the
    number of layers is that of the filling.
    """
    num_devices = pipeline.num_devices
    held, others = [0] * num_devices, [0] * num_devices
    for device, content in zip(devices.special, filling.special, strict=True):
        held[device], others[device] = content[0], sum(content[1:])
    alike = [d for d in range(num_devices) if d not in devices.special]
    if pipeline.mirrored:
        alike = [d for d in alike if d < num_devices // 2]
    room = pipeline.rooms(pipeline.layer_bytes[:, -1])
    numbers = np.repeat(devices.common, filling.common).tolist()
    for device, number in zip(sorted(alike, key=lambda d: (room[d], d)), numbers, strict=True):
        held[device] = number
    first = _others_ahead(pipeline, others, devices.ahead)
    if not devices.ahead:
        held = [a + b for a, b in zip(held, others, strict=True)]
    if pipeline.mirrored:
        held = _shared(held, others, len(first))
    low, high = limits_of(len(pipeline.layer_s), len(pipeline.devices))
    most = most_on_device(pipeline)
    for closed in sorted({max(0, len(first) - 1), len(first)}):
        for early in (True, False):
            counts = _spread(pipeline, held, (first, closed), early)
            inside = all(a <= n <= b for a, n, b in zip(low, counts, high, strict=True))
            if inside and np.bincount(pipeline.devices, weights=counts).max() <= most:
                yield counts


def _others_ahead(pipeline: Pipeline, others: list[int], ahead: bool) -> Counts:
    """Layers of other kinds on the first chunks."""
    if not ahead:
        return ()
    found, seen = [], set()
    for device in pipeline.devices.tolist():
        found.append(0 if device in seen else others[device])
        seen.add(device)
    while found and not found[-1]:
        found.pop()
    return tuple(found)


def _shared(held: list[int], others: list[int], num_first: int) -> list[int]:
    """Common layers of both stages of every pair, as many on each; none before other layers."""
    found, last = list(held), len(held) - 1
    for near in range(len(held) // 2):
        own = max(0, (held[near] - others[near]) // 2) if near >= num_first - 1 else 0
        found[near], found[last - near] = own, held[near] - own
    return found


def _takes_turns(pipeline: Pipeline) -> bool:
    """Whether layers of one kind come after layers of another more than twice."""
    return int((np.diff(pipeline.layer_s) != 0).sum()) > 2


def _all_cuts(pipeline: Pipeline, limits: Limits) -> list[Counts] | None:
    """Every cut of the space; None where they are more than ``MOST_CUTS``."""
    low, high = limits
    devices, most = pipeline.devices.tolist(), most_on_device(pipeline)
    partial: list[Counts] = [()]
    for place, device in enumerate(devices):
        rest_low, rest_high = sum(low[place + 1 :]), sum(high[place + 1 :])
        longer = []
        for own in partial:
            held = sum(n for n, d in zip(own, devices, strict=False) if d == device)
            left = len(pipeline.layer_s) - sum(own)
            first = max(low[place], left - rest_high)
            last = min(high[place], left - rest_low, most - held)
            longer += [(*own, count) for count in range(first, last + 1)]
        if len(longer) > MOST_CUTS:
            return None
        partial = longer
    return partial


def _improved(pipeline: Pipeline, counts: Counts, limits: Limits) -> Counts:
    best = pipeline.rank(counts)
    while True:
        moved = _best_move(pipeline, counts, limits)
        if moved is None or pipeline.rank(moved) >= best:
            return counts
        counts, best = moved, pipeline.rank(moved)


def _best_move(pipeline: Pipeline, counts: Counts, limits: Limits) -> Counts | None:
    """The best cut with one layer moved from the slowest, or the fullest, device to another."""
    low, high = limits
    times = pipeline.device_s(counts)
    devices = pipeline.devices
    over = pipeline.device_bytes(counts) - pipeline.budget_bytes
    worst = int(np.argmax(over)) if over.max() > 0 else int(np.argmax(times))
    sources = {worst, len(times) - 1 - worst} if pipeline.mirrored else {worst}
    held = np.bincount(devices, weights=counts, minlength=len(times))
    most = most_on_device(pipeline)
    # One chunk to take from and one to give to on each device: which one only shifts layers.
    takers = [
        chunk
        for device in np.argsort(times, kind="stable")
        if held[device] < most and device not in sources
        for chunk in [_emptiest(np.flatnonzero(devices == device), counts, high)]
        if chunk is not None
    ]
    tried = [
        _moved(counts, int(source), taker)
        for source in np.flatnonzero(np.isin(devices, list(sources)))
        if counts[source] > low[source]
        for taker in takers
    ]
    return min(tried, key=lambda own: (pipeline.rank(own), own), default=None)


def _emptiest(chunks: IntArray, counts: Counts, high: Counts) -> int | None:
    able = [int(chunk) for chunk in chunks if counts[chunk] < high[chunk]]
    return min(able, key=lambda chunk: (counts[chunk], chunk), default=None)


def _moved(counts: Counts, source: int, target: int) -> Counts:
    own = list(counts)
    own[source] -= 1
    own[target] += 1
    return tuple(own)
