"""Whether the layers of a pipeline find room on its devices, and how fast the slowest can be.

Where all layers are equal the times of the devices depend on how many layers each has alone, and
the smallest time within which the devices have room for all of them is that of the slowest
device: no cut is better, and without room for all none fits. Two kinds of layers are placed by
dynamic programming over the devices; more kinds are bounded by two.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from planner.search.training.cases import (
    BoolArray,
    FloatArray,
    IntArray,
    least_layers,
    most_layers,
)

Counts = tuple[int, ...]
Limits = tuple[Counts, Counts]

# Layers of another kind that are told apart from the common one.
MOST_OTHERS = 40


def limits_of(num_layers: int, num_chunks: int) -> Limits:
    """Fewest and most layers of each chunk."""
    if num_chunks == 1:
        return (num_layers,), (num_layers,)
    chunks = np.array(num_chunks)
    least, most = int(least_layers(num_layers, chunks)), int(most_layers(num_layers, chunks))
    return (0, *[least] * (num_chunks - 2), 0), (most,) * num_chunks


@dataclass(frozen=True, kw_only=True, eq=False)
class Pipeline:
    """What a cut is judged by.

    Parameters
    ----------
    layer_s : array, shape ``[layers]``
        Seconds of one microbatch of every layer, three passes.
    layer_bytes : array, shape ``[devices, layers]``
        Bytes of a layer, its states and what is kept for its microbatches in flight.
    ends_s : (float, float)
        Seconds that come with the first and the last chunk.
    fixed_bytes : array, shape ``[devices]``
        Bytes of a device whatever layers it holds; ``work_bytes`` more if it holds any.
    budget_bytes : float
        Of a device.
    devices : array, shape ``[chunks]``
        Device of every chunk.
    mirrored : bool
        Whether a device takes half of the time of its own stage and half of the mirrored one.
    """

    layer_s: FloatArray
    layer_bytes: FloatArray
    ends_s: tuple[float, float]
    fixed_bytes: FloatArray
    work_bytes: float
    budget_bytes: float
    devices: IntArray
    mirrored: bool

    @property
    def num_devices(self) -> int:
        """Devices."""
        return len(self.fixed_bytes)

    def _by_device(self, chunks: FloatArray) -> FloatArray:
        found = np.bincount(self.devices, weights=chunks, minlength=self.num_devices)
        return np.asarray(found, dtype=np.float64)

    def device_s(self, counts: Counts) -> FloatArray:
        """Seconds of every device."""
        ends = np.concatenate([[0], np.cumsum(counts)])
        prefix = np.concatenate([[0.0], np.cumsum(self.layer_s)])
        chunks = prefix[ends[1:]] - prefix[ends[:-1]]
        chunks[0] += self.ends_s[0]
        chunks[-1] += self.ends_s[1]
        times = self._by_device(chunks)
        return (times + times[::-1]) / 2.0 if self.mirrored else times

    def device_bytes(self, counts: Counts) -> FloatArray:
        """Bytes of every device."""
        owner = np.repeat(self.devices, counts)
        own = self.layer_bytes[owner, np.arange(len(owner))]
        held = np.bincount(owner, weights=own, minlength=self.num_devices)
        busy = np.bincount(owner, minlength=self.num_devices) > 0
        return np.asarray(self.fixed_bytes + held + busy * self.work_bytes)

    def rooms(self, num_bytes: FloatArray, taken: FloatArray | float = 0.0) -> FloatArray:
        """Most layers of ``num_bytes`` on each device beside what is ``taken`` there."""
        free = self.budget_bytes - self.fixed_bytes - self.work_bytes - taken
        # A stage that fits exactly must fit: sums are a few ulp off.
        return np.floor(np.maximum(0.0, free * (1 + 1e-9)) / np.maximum(num_bytes, 1e-9))

    def rank(self, counts: Counts) -> tuple[float, ...]:
        """Order of cuts: bytes that are missing, then times from the slowest down."""
        over = np.maximum(0.0, self.device_bytes(counts) - self.budget_bytes)
        times = np.sort(self.device_s(counts))[::-1]
        return (float(over.sum()), *np.round(times, 12).tolist())


@dataclass(frozen=True, kw_only=True, slots=True)
class TwoKinds:
    """The layers as two kinds, no cut of which is dearer than the same cut of the layers.

    The dearest kind, or the most common one where others are many, stands for itself and for all
    that are no cheaper; the cheapest of the others stands for those, which are left out where they
    are many.

    Parameters
    ----------
    number, seconds : int, float
        Of the common kind; ``num_bytes``, shape ``[devices]``, of one of it on each device.
    others, other_s : int, float
        Of the other kind.
    places : frozenset of int
        Devices that may hold them: where they are the first layers of the model, those of its
        first chunks, since inner chunks are not empty.
    """

    number: int
    seconds: float
    num_bytes: FloatArray
    others: int
    other_s: float
    places: frozenset[int]

    @classmethod
    def of(cls, pipeline: Pipeline) -> TwoKinds:
        """Sort the layers of a pipeline."""
        keys = np.concatenate([pipeline.layer_s[None, :], pipeline.layer_bytes[:1]])
        _, first, counts = np.unique(keys, axis=1, return_index=True, return_counts=True)
        dearest = int(first[np.argmax(pipeline.layer_s[first])])
        main, dearer = dearest, _no_cheaper(pipeline, dearest)
        if int((~dearer).sum()) > MOST_OTHERS:
            main = int(first[np.argmax(counts)])
            dearer = _no_cheaper(pipeline, main)
        own_s, own_bytes = pipeline.layer_s[main], pipeline.layer_bytes[:, main]
        others = pipeline.layer_s[~dearer]
        few = len(others) if len(others) <= MOST_OTHERS else 0
        ahead = not dearer[: len(others)].any()
        chunks = pipeline.devices[: few + 1] if ahead else pipeline.devices
        return cls(
            number=int(dearer.sum()),
            seconds=float(own_s),
            num_bytes=own_bytes,
            others=few,
            other_s=float(others.min()) if few else 0.0,
            places=frozenset(int(device) for device in chunks),
        )


def _no_cheaper(pipeline: Pipeline, layer: int) -> BoolArray:
    """Layers that take no less time, and no fewer bytes anywhere, than one of them."""
    seconds, num_bytes = pipeline.layer_s, pipeline.layer_bytes
    found = seconds >= seconds[layer]
    return np.asarray(found & (num_bytes >= num_bytes[:, layer, None]).all(axis=0))


@dataclass(frozen=True, kw_only=True, slots=True)
class Slowest:
    """What the slowest device takes at least, and what it may hold then.

    Parameters
    ----------
    seconds : float
        Infinite where no cut fits.
    devices : tuple of (float, int, bool)
        Seconds and layers that the slowest device has at least, and whether it holds nothing
        else: for each thing that it can be; empty where layers differ.
    """

    seconds: float
    devices: tuple[tuple[float, int, bool], ...] = ()


def slowest_device(pipeline: Pipeline) -> Slowest:
    """Bound on the slowest device over all cuts that fit.

    Exact for equal layers, and for two kinds that may be mixed in any order.
    """
    p = pipeline.num_devices
    kinds = TwoKinds.of(pipeline)
    room = pipeline.rooms(kinds.num_bytes)
    if p > 1:
        room = np.minimum(room, float(most_layers(len(pipeline.layer_s), np.array(p))))
    if room.sum() < kinds.number:
        return Slowest(seconds=math.inf)
    start = np.zeros(p)
    start[pipeline.devices[0]] += pipeline.ends_s[0]
    start[pipeline.devices[-1]] += pipeline.ends_s[1]
    low, _ = limits_of(len(pipeline.layer_s), len(pipeline.devices))
    least = np.bincount(pipeline.devices, weights=low, minlength=p).astype(float)
    bins = Bins(start=start, room=room, least=least)
    if pipeline.mirrored:
        # A pair of devices shares the work of its two stages.
        pairs = replace(kinds, places=frozenset(min(d, p - 1 - d) for d in kinds.places))
        return Slowest(seconds=_soonest(pairs, bins.folded()) / 2.0)
    slowest = _soonest(kinds, bins)
    if kinds.number < len(pipeline.layer_s) or p == 1:
        return Slowest(seconds=slowest)
    found = []
    for own in np.unique(start).tolist():
        fewest = max(0, math.ceil((slowest - own) / kinds.seconds - 1e-9))
        plain = own == 0.0
        found += [(own + n * kinds.seconds, n, plain) for n in (fewest, fewest + 1)]
    return Slowest(seconds=slowest, devices=tuple(found))


@dataclass(frozen=True, kw_only=True, eq=False)
class Bins:
    """Devices as places for layers: seconds that are taken, most and fewest layers."""

    start: FloatArray
    room: FloatArray
    least: FloatArray

    def folded(self) -> Bins:
        """Pairs of a device and its mirror image, as one."""
        half = len(self.start) // 2

        def fold(values: FloatArray) -> FloatArray:
            return np.asarray(values[:half] + values[: half - 1 : -1])

        return Bins(start=fold(self.start), room=fold(self.room), least=fold(self.least))


def _soonest(kinds: TwoKinds, bins: Bins) -> float:
    """The smallest time of the slowest device that has room for all layers, by bisection."""
    most = int(bins.room.max())
    grid = (
        np.arange(kinds.others + 1)[:, None, None] * kinds.other_s
        + np.arange(most + 1)[None, :, None] * kinds.seconds
        + np.unique(bins.start)[None, None, :]
    )
    times = np.unique(grid)
    times = times[times >= bins.start.max()]
    low, high = 0, len(times) - 1
    while low < high:
        middle = (low + high) // 2
        if _most_common(kinds, bins, float(times[middle])) >= kinds.number:
            high = middle
        else:
            low = middle + 1
    return float(times[low])


def _most_common(kinds: TwoKinds, bins: Bins, limit_s: float) -> float:
    """Most layers of the common kind within ``limit_s`` on every device, all others placed."""
    others = np.arange(kinds.others + 1)
    left = limit_s * (1 + 1e-12) - bins.start[:, None] - others[None, :] * kinds.other_s
    held = np.minimum(bins.room[:, None], np.floor(left / kinds.seconds))
    held = np.where((left >= 0) & (held + others >= bins.least[:, None]), held, -np.inf)
    places = [device for device in sorted(kinds.places) if kinds.others]
    best = np.where(others == 0, 0.0, -np.inf)
    # Of n others, k on this device: index n - k of what is placed before.
    before = others[:, None] - others[None, :]
    for device in places:
        placed = np.where(before >= 0, best[np.maximum(before, 0)], -np.inf)
        best = (placed + held[device][None, :]).max(axis=1)
    alone = np.delete(held[:, 0], places).sum()
    return float(best[-1] + alone)
