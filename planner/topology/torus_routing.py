"""Link loads of a torus whose routers send a message along one axis after the other.

A message first travels along axis 0 to the coordinate of its target, then along axis 1, and
so on; along an axis that closes into a ring it goes the shorter way round, and half goes
each way when both are equally long. Only for tori without wounds: a torus with a dead chip
or link has to route around it (:mod:`planner.topology.routing`).
"""

from __future__ import annotations

import math

import numpy as np

from planner.topology.network import Floats, Ints, Network
from planner.topology.routing import LinkLoads, outside_loads
from planner.topology.traffic import Exchange, Matrix, Traffic, chip_places, group_labels

_PAIRS = 1 << 21  # ordered pairs that are enumerated at a time


def _key(columns: list[Ints], sizes: list[int]) -> Ints:
    """One integer per row of coordinates."""
    key = np.zeros(len(columns[0]), dtype=np.int64)
    for column, size in zip(columns, sizes, strict=True):
        key = key * size + column
    return key


class _Lines:
    """Bytes of each (line, from, to) of every axis.

    A line of axis ``a`` is named by the place and by all coordinates but that one.
    """

    def __init__(self, shape: tuple[int, ...], places: Ints, coords: Ints) -> None:
        self.shape = shape
        self.places = places
        self.coords = coords
        self.num_places = max(1, int(places.max()) + 1)
        self.sizes = [
            self.num_places * math.prod(shape) // length * length * length for length in shape
        ]
        self.bytes = [np.zeros(size) for size in self.sizes]

    def add_pairs(self, sources: Ints, targets: Ints, num_bytes: Floats) -> None:
        """Messages between chips of the same place."""
        here, there = self.coords[sources], self.coords[targets]
        for axis, length in enumerate(self.shape):
            # Axes before this one have been travelled, those behind it have not.
            columns = [
                self.places[sources],
                *there[:, :axis].T,
                *here[:, axis + 1 :].T,
                here[:, axis],
                there[:, axis],
            ]
            others = self.shape[:axis] + self.shape[axis + 1 :]
            key = _key(columns, [self.num_places, *others, length, length])
            self.bytes[axis] += np.bincount(key, weights=num_bytes, minlength=self.sizes[axis])

    def add_group(self, chips: Ints, num_bytes: float) -> None:
        """Every chip of one place to every other, without going through the pairs.

        The target alone decides on the coordinates that have been travelled, the source
        alone on the others: counts of lines are products of counts of chips.
        """
        place = int(self.places[chips[0]])
        coords = self.coords[chips]
        for axis, length in enumerate(self.shape):
            before, behind = list(self.shape[:axis]), list(self.shape[axis + 1 :])
            target = _key([coords[:, a] for a in range(axis + 1)], [*before, length])
            source = _key(
                [coords[:, axis], *(coords[:, a] for a in range(axis + 1, len(self.shape)))],
                [length, *behind],
            )
            to = np.bincount(target, minlength=math.prod(before) * length)
            of = np.bincount(source, minlength=length * math.prod(behind))
            pairs = np.einsum(
                "pj,ir->prij",
                to.reshape(-1, length).astype(np.float64),
                of.reshape(length, -1).astype(np.float64),
            )
            size = pairs.size
            self.bytes[axis][place * size : (place + 1) * size] += num_bytes * pairs.reshape(-1)


def _add_exchange(lines: _Lines, labels: Ints, traffic: Exchange) -> None:
    chips = np.flatnonzero(labels >= 0)
    key = labels[chips] * lines.num_places + lines.places[chips]
    order = np.argsort(key, kind="stable")
    chips = chips[order]
    _, first, counts = np.unique(key[order], return_index=True, return_counts=True)
    separate = counts * counts > max(lines.sizes) // lines.num_places
    for start, count in zip(first[separate].tolist(), counts[separate].tolist(), strict=True):
        lines.add_group(chips[start : start + count], traffic.bytes_per_pair)
    for size in np.unique(counts[~separate]).tolist():
        alike = first[~separate & (counts == size)]
        members = chips[alike[:, None] + np.arange(size)]
        step = max(1, _PAIRS // (size * size))
        for i in range(0, len(members), step):
            some = members[i : i + step]
            sources = np.repeat(some, size, axis=1).reshape(-1)
            targets = np.tile(some, (1, size)).reshape(-1)
            lines.add_pairs(sources, targets, np.full(len(sources), traffic.bytes_per_pair))


def _add_matrix(lines: _Lines, traffic: Matrix) -> None:
    place = lines.places[traffic.chips]
    step = max(1, _PAIRS // len(traffic.chips))
    for i in range(0, len(traffic.chips), step):
        together = (place[i : i + step, None] == place) & (place >= 0)
        num_bytes = np.where(together, traffic.num_bytes[i : i + step], 0.0)
        source, target = np.nonzero(num_bytes)
        lines.add_pairs(traffic.chips[source + i], traffic.chips[target], num_bytes[source, target])


def _along(bytes_between: Floats, length: int, wraps: bool) -> Floats:
    """Bytes over the links of lines, shape ``[lines, length, 2]``.

    Link ``x`` joins ``x`` and ``x + 1``; the last axis is upwards and downwards.
    ``bytes_between`` has shape ``[lines, from, to]``.
    """
    start, steps = np.ogrid[:length, :length]
    upwards = bytes_between[:, start, (start + steps) % length]
    downwards = bytes_between[:, start, (start - steps) % length]
    reach = np.arange(length)
    if wraps:
        # From half way round on, the other way is as short or shorter.
        weight = np.where(2 * reach < length, 1.0, np.where(2 * reach == length, 0.5, 0.0))
        upwards, downwards = upwards * weight, downwards * weight
    else:
        upwards = np.where(start + steps < length, upwards, 0.0)
        downwards = np.where(start - steps >= 0, downwards, 0.0)
    out = np.zeros((*bytes_between.shape[:2], 2))
    for direction, parts in enumerate((upwards, downwards)):
        # passing[:, i, k]: bytes that start at i and go on after k steps.
        passing = np.flip(np.cumsum(np.flip(parts, axis=2), axis=2), axis=2)
        passing = np.concatenate((passing[:, :, 1:], np.zeros_like(passing[:, :, :1])), axis=2)
        link, k = np.ogrid[:length, :length]
        origin = (link - k if direction == 0 else link + 1 + k) % length
        out[:, :, direction] = passing[:, origin, k].sum(axis=2)
    return out


def torus_loads(
    network: Network,
    shape: tuple[int, ...],
    wraps: tuple[bool, ...],
    traffic: Traffic,
    coords: Ints,
) -> LinkLoads:
    """Bytes over every link, both ways, of a machine of healthy tori.

    Parameters
    ----------
    network : Network
        Links of a domain carry their axis. Traffic between domains is routed by ECMP.
    shape : tuple of int
        Axis lengths of a domain.
    wraps : tuple of bool
        Which axes close into rings.
    traffic : Exchange or Matrix
        What is sent.
    coords : array of int
        Shape ``[num_chips, axes]``: where each chip sits in its domain.

    Raises
    ------
    SpecError
        Two chips of different domains are not connected.
    ValueError
        The links of a domain are not those of the torus.
    """
    loads = outside_loads(network, traffic)
    places = chip_places(network)
    lines = _Lines(shape, places, coords)
    if isinstance(traffic, Matrix):
        _add_matrix(lines, traffic)
    else:
        labels = np.where(places < 0, -1, group_labels(network, traffic.groups))
        _add_exchange(lines, labels, traffic)
    a, b = network.ends.T
    for axis, length in enumerate(shape):
        if length == 1:
            continue
        on_axis = np.flatnonzero(network.scale_up & (network.axes == axis))
        over = _along(lines.bytes[axis].reshape(-1, length, length), length, wraps[axis])
        step = (coords[b[on_axis], axis] - coords[a[on_axis], axis]) % length
        if not np.isin(step, (1, length - 1)).all():
            raise ValueError(f"axis {axis} has links that do not join neighbours")
        # With two chips on an axis both directions are one step; the link is counted from 0.
        upwards = np.where(length == 2, coords[a[on_axis], axis] == 0, step == 1)
        low = np.where(upwards, a[on_axis], b[on_axis])
        columns = [places[low], *np.delete(coords[low], axis, axis=1).T]
        line = _key(columns, [lines.num_places, *shape[:axis], *shape[axis + 1 :]])
        found = over[line, coords[low, axis]]
        loads[on_axis] = np.where(upwards[:, None], found, found[:, ::-1])
    return LinkLoads(forward=loads[:, 0], backward=loads[:, 1])
