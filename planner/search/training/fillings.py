"""Every way to fill the devices of a pipeline with layers, whatever their order on a device.

Sets        devices ``d``; kinds of layers ``k``, the most common one first
Data        layers of every kind; fewest and most layers of a device; contents that a device may
            have: those that fit into its memory and are fast enough for the limit of the search
Variables   ``n_dk``  layers of kind ``k`` on device ``d``
Constraints ``sum_d n_dk = layers of k``; every device has one of its contents

A cut into chunks makes one filling, and a price of a step asks for no more than the filling (but
for 1F1B, whose price asks for the order of devices, and for the two stages of a DualPipe device).
So the cheapest filling is a bound of all cuts: the strongest there is, where they are few.

Devices that hold nothing but common layers are alike, so their fillings are counted: how many of
them have ``n`` layers. Fillings are enumerated up to :data:`MOST_FILLINGS`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from planner.search.training.cases import BoolArray, FloatArray, IntArray

MOST_FILLINGS = 4_000
# Partial fillings that are looked at together.
MOST_TRIED = 400_000
# Devices whose contents are enumerated one by one.
MOST_SPECIAL = 6


@dataclass(frozen=True, kw_only=True, eq=False)
class Devices:
    """What may lie where.

    Parameters
    ----------
    totals : tuple of int
        Layers of every kind.
    special : tuple of int
        Devices that are looked at one by one; ``contents[i]``, shape ``[contents, kinds]``, of
        the ``i``-th of them.
    num_common : int
        All other devices: they hold ``common`` layers of the first kind, ascending, and ``able``
        of them have room for so many.
    seconds, common_s : tuple of array, array
        Time of one microbatch with each content; ``total_s`` of all layers together.
    ahead : bool
        Whether layers of other kinds are the first of the model.
    """

    ahead: bool
    totals: tuple[int, ...]
    special: tuple[int, ...]
    contents: tuple[IntArray, ...]
    num_common: int
    common: IntArray
    able: IntArray
    seconds: tuple[FloatArray, ...]
    common_s: FloatArray
    total_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Filling:
    """Layers by kind of every special device, and how many others have each number of layers."""

    special: tuple[tuple[int, ...], ...]
    common: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Fillings:
    """All fillings.

    Parameters
    ----------
    special : array, shape ``[fillings, special devices, kinds]``
    common : array, shape ``[fillings, len(Devices.common)]``
        How many of the other devices have so many layers.
    """

    special: IntArray
    common: IntArray

    def __len__(self) -> int:
        return len(self.special)

    def filling(self, index: int) -> Filling:
        """One of them."""
        return Filling(
            special=tuple(tuple(own) for own in self.special[index].tolist()),
            common=tuple(self.common[index].tolist()),
        )


def enumerate_fillings(devices: Devices) -> Fillings | None:
    """All fillings; None where they are too many to look at."""
    totals = np.array(devices.totals)
    chosen = np.zeros((1, 0, len(totals)), dtype=np.int64)
    seconds = np.zeros(1)
    for place, contents in enumerate(devices.contents):
        if len(chosen) * len(contents) > MOST_TRIED:
            return None
        every = np.repeat(chosen, len(contents), axis=0)
        added = np.tile(contents, (len(chosen), 1))[:, None, :]
        seconds = (seconds[:, None] + devices.seconds[place][None]).reshape(-1)
        chosen = np.concatenate([every, added], axis=1)
        good = _may_complete(devices, place + 1, totals - chosen.sum(axis=1))
        # Others are no slower than their slowest content, and all times add up.
        good &= seconds + _most_s(devices, place + 1) >= devices.total_s * (1 - 1e-9)
        chosen, seconds = chosen[good], seconds[good]
        if len(chosen) > MOST_FILLINGS:
            return None
    left = totals[0] - chosen.sum(axis=1)[:, 0]
    special: list[IntArray] = []
    common: list[IntArray] = []
    for rest in np.unique(left).tolist():
        counted = _counted(devices, int(rest))
        own = chosen[left == rest]
        if counted is None:
            return None
        many = sum(len(one) for one in special) + len(own) * len(counted)
        if many > MOST_FILLINGS:
            return None
        special.append(np.repeat(own, len(counted), axis=0))
        common.append(np.tile(counted, (len(own), 1)))
    if not special:
        return Fillings(
            special=chosen[:0], common=np.empty((0, len(devices.common)), dtype=np.int64)
        )
    return Fillings(special=np.concatenate(special), common=np.concatenate(common))


def _most_s(devices: Devices, placed: int) -> float:
    """Time of the devices that remain, each with its slowest content."""
    found = sum(float(own.max(initial=0.0)) for own in devices.seconds[placed:])
    return found + devices.num_common * float(devices.common_s.max(initial=0.0))


def _may_complete(devices: Devices, placed: int, left: IntArray) -> BoolArray:
    """Whether the devices that remain can take exactly what is left, by kind."""
    low, high = np.zeros(left.shape[1]), np.zeros(left.shape[1])
    for contents in devices.contents[placed:]:
        if not len(contents):
            return np.zeros(len(left), dtype=np.bool_)
        low, high = low + contents.min(axis=0), high + contents.max(axis=0)
    if devices.num_common and not len(devices.common):
        return np.zeros(len(left), dtype=np.bool_)
    if devices.num_common:
        low[0] += devices.num_common * devices.common[0]
        high[0] += devices.num_common * devices.common[-1]
    return np.asarray(((left >= low) & (left <= high)).all(axis=1))


def _counted(devices: Devices, rest: int) -> IntArray | None:
    """Ways to give ``rest`` layers to the common devices, how many have each number."""
    found: list[tuple[int, ...]] = []
    values = devices.common[::-1].tolist()
    for one in _compositions(values, devices.able[::-1].tolist(), devices.num_common, rest):
        found.append(one[::-1])
        if len(found) > MOST_FILLINGS:
            return None
    return np.array(found, dtype=np.int64).reshape(len(found), len(values))


def _compositions(
    values: list[int], able: list[int], number: int, rest: int, taken: int = 0
) -> Iterator[tuple[int, ...]]:
    """``number`` devices with ``values`` layers, largest first, that add up to ``rest``."""
    if not values:
        if number == 0 and rest == 0:
            yield ()
        return
    first, *others = values
    for count in range(min(number, able[0] - taken) + 1):
        left, after = rest - count * first, number - count
        if left < after * values[-1]:
            return
        if after and (not others or left > after * others[0]):
            continue
        for tail in _compositions(others, able[1:], after, left, taken + count):
            yield (count, *tail)
