"""Which groups of chips are alike, so that one price serves all of them.

A group is described by where each of its ranks first meets every part of the machine that
prices know: its domain, its run of chips under every level of switches, its scalable unit
and its leaf switch; on a torus, by where its ranks sit relative to the first one. Two groups with
equal descriptions differ by names alone: any collective among the same ranks costs the same.
Groups among wounds, in a mesh that is not full or on a machine that is listed link by link
are only like themselves.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from planner.domain.scale_up import MeshDomain, SwitchDomain, Torus
from planner.topology.fabric_size import leaf_index
from planner.topology.graph import Topology
from planner.topology.soundness import soundness

Ints = NDArray[np.int64]
Kind = tuple[int, bytes] | tuple[int, ...]


def _part_columns(topology: Topology) -> tuple[Ints, ...]:
    """Parts of the machine that hold each chip, arrays of shape ``[num_chips]``."""
    key = "columns of kinds"
    found = topology.memo.get(key)
    if isinstance(found, tuple):
        return found
    hall, position = np.array(topology.places, dtype=np.int64).reshape(-1, 2).T
    owner = np.array([topology.domain_of(chip) for chip in range(topology.num_chips)])
    columns = [owner.astype(np.int64)]
    scale_up = topology.spec.scale_up
    if isinstance(scale_up, SwitchDomain) and len(scale_up.levels) > 1:
        span = topology.spec.domain_chips
        columns += [owner * span + position // level.span for level in scale_up.levels]
    fabric = topology.spec.scale_out
    if fabric is not None and topology.contention > 1:
        unit = hall // fabric.domains_per_unit
        nic = position // fabric.chips_per_nic
        leaf = np.asarray(leaf_index(fabric, topology.spec.domain_chips, hall, nic))
        columns += [unit, unit * fabric.leaves_per_unit + leaf]
    result = tuple(columns)
    topology.memo[key] = result
    return result


def first_meetings(table: Ints) -> Ints:
    """For every entry of a row the place of the first entry that equals it, shape ``[n, k]``."""
    order = np.argsort(table, axis=1, kind="stable")
    ordered = np.take_along_axis(table, order, axis=1)
    places = np.broadcast_to(np.arange(table.shape[1]), table.shape).copy()
    places[:, 1:][ordered[:, 1:] == ordered[:, :-1]] = 0
    starts = np.maximum.accumulate(places, axis=1)
    firsts = np.take_along_axis(order, starts, axis=1)
    result = np.empty_like(order)
    np.put_along_axis(result, order, firsts, axis=1)
    return result


def _sound_rows(topology: Topology, table: Ints) -> NDArray[np.bool_]:
    """Groups whose surroundings are as built, whatever part of them talks."""
    state = soundness(topology)
    if state.untouched:
        return np.ones(len(table), dtype=np.bool_)
    owner = _part_columns(topology)[0][table]
    inside = np.array(state.domains)[owner].all(axis=1)
    single = (owner == owner[:, :1]).all(axis=1)
    outside = np.array(state.nics)[owner].all(axis=1) & state.fabric
    return np.asarray(inside & (single | outside))


def _torus_columns(topology: Topology) -> tuple[NDArray[np.int32], Ints]:
    """Coordinates of every chip, and its slice."""
    key = "columns of kinds on a torus"
    found = topology.memo.get(key)
    if isinstance(found, tuple):
        return found
    halls = np.array([hall for hall, _ in topology.places], dtype=np.int64)
    result = np.array(topology.coordinates, dtype=np.int32), halls
    topology.memo[key] = result
    return result


def _torus_kinds(topology: Topology, table: Ints) -> list[Kind]:
    """Where ranks sit relative to the first, for groups of one slice that lost nothing."""
    coordinates, halls = _torus_columns(topology)
    places = coordinates[table]
    moved = (places - places[:, :1]).reshape(len(table), -1)
    owner = halls[table]
    alike = (owner == owner[:, :1]).all(axis=1) & soundness(topology).untouched
    return [
        (table.shape[1], row.tobytes()) if good else tuple(own)
        for row, good, own in zip(moved, alike.tolist(), table.tolist(), strict=True)
    ]


def group_kinds(topology: Topology, groups: Sequence[Sequence[int]] | Ints) -> list[Kind]:
    """Kind of each group of ranks; equal kinds cost the same, rank for rank.

    Parameters
    ----------
    groups : array of int, shape ``[n, ranks]``
        Chips of every group in rank order.
    """
    table = np.asarray(groups, dtype=np.int64)
    scale_up = topology.spec.scale_up
    if isinstance(scale_up, Torus):
        return _torus_kinds(topology, table)
    uniform = isinstance(scale_up, SwitchDomain)
    uniform = uniform or (isinstance(scale_up, MeshDomain) and scale_up.is_full)
    if not uniform:
        return [tuple(row) for row in table.tolist()]
    columns = [first_meetings(column[table]) for column in _part_columns(topology)]
    described = np.concatenate(columns, axis=1).astype(np.int32)
    sound = _sound_rows(topology, table)
    return [
        (table.shape[1], row.tobytes()) if good else tuple(own)
        for row, good, own in zip(described, sound.tolist(), table.tolist(), strict=True)
    ]


def is_named_alike(kind: Kind) -> bool:
    """Whether a kind holds more than the one group that it was read off."""
    return len(kind) == 2 and isinstance(kind[1], bytes)


def distinct_groups(topology: Topology, groups: Sequence[Sequence[int]] | Ints) -> Ints:
    """One group of each kind, in order of appearance, shape ``[kinds, ranks]``."""
    table = np.asarray(groups, dtype=np.int64)
    if len(table) < 2 or table.shape[1] == 1:
        # A chip alone sends nothing, wherever it is.
        return table[:1]
    found: dict[Kind, int] = {}
    for row, kind in enumerate(group_kinds(topology, table)):
        found.setdefault(kind, row)
    return table[list(found.values())]
