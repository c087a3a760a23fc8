"""How many switches a scale-out fabric needs, and in how many tiers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from planner.domain.hardware import Fabric

Index = TypeVar("Index", int, NDArray[np.int64])


@dataclass(frozen=True, kw_only=True, slots=True)
class FabricSize:
    """Switches of a leaf-spine fabric, with a core above where one pod does not suffice.

    Parameters
    ----------
    units_per_pod : int
        Scalable units whose leaves share their spines.
    spines_per_pod, cores_per_spine : int
        Core switches are planes: spine ``j`` of every pod reaches the cores of plane ``j``.
    uplink_bytes_per_s : float
        From one leaf to all its spines, one direction.
    spine_uplink_bytes_per_s : float
        From one spine to all its cores; 0 without a core.
    """

    leaves: int
    spines: int
    cores: int
    units_per_pod: int
    spines_per_pod: int
    cores_per_spine: int
    uplink_bytes_per_s: float
    spine_uplink_bytes_per_s: float


def fabric_size(fabric: Fabric, domain_chips: int, num_units: int) -> FabricSize:
    """Fewest switches whose ports take every cable of ``num_units`` scalable units.

    A leaf has one downlink per NIC of a full unit, spread evenly over its leaves, and
    uplinks for ``1 / oversubscription`` of their bandwidth: 32 down and 32 up for 32 nodes
    on 8 leaves, hence 4 spines of 64 ports for one unit, 8 for two, 16 for four. Beyond as
    many leaves as a spine has ports, spines keep half of their ports for the core: 16 units
    need 128 leaves, 128 spines and 64 cores (all counts of the DGX SuperPOD reference
    architecture).
    """
    nics = fabric.domains_per_unit * domain_chips // fabric.chips_per_nic
    down = math.ceil(nics / fabric.leaves_per_unit)
    up = math.ceil(down / fabric.oversubscription)
    ports = fabric.leaf_ports
    leaves = num_units * fabric.leaves_per_unit
    uplink = down * fabric.nic_bytes_per_s / fabric.oversubscription
    if leaves <= ports or num_units == 1:
        spines = math.ceil(leaves * up / ports)
        return FabricSize(
            leaves=leaves,
            spines=spines,
            cores=0,
            units_per_pod=num_units,
            spines_per_pod=spines,
            cores_per_spine=0,
            uplink_bytes_per_s=uplink,
            spine_uplink_bytes_per_s=0.0,
        )
    half = max(1, ports // 2)
    units_per_pod = max(1, half // fabric.leaves_per_unit)
    spines_per_pod = math.ceil(units_per_pod * fabric.leaves_per_unit * up / half)
    pods = math.ceil(num_units / units_per_pod)
    cores_per_spine = math.ceil(pods * half / ports)
    return FabricSize(
        leaves=leaves,
        spines=pods * spines_per_pod,
        cores=spines_per_pod * cores_per_spine,
        units_per_pod=units_per_pod,
        spines_per_pod=spines_per_pod,
        cores_per_spine=cores_per_spine,
        uplink_bytes_per_s=uplink,
        spine_uplink_bytes_per_s=units_per_pod * fabric.leaves_per_unit * uplink / spines_per_pod,
    )


def leaf_index(fabric: Fabric, domain_chips: int, domain: Index, nic: Index) -> Index:
    """Leaf, within its scalable unit, of NIC ``nic`` of scale-up domain ``domain``.

    NIC ``i`` of every domain goes to leaf ``i``, modulo the leaves. Where a unit has several
    times as many leaves as a domain has NICs, its domains are shared out between as many
    groups of leaves: the first half of 64 nodes with 8 NICs to leaves 0-7, the others to
    leaves 8-15. With rails, the NICs of a unit are counted rail after rail, and each leaf takes
    the next of them: 144 per rail of an eight-rack unit fill four and a half leaves of 32.
    """
    nics = domain_chips // fabric.chips_per_nic
    if fabric.rails:
        per_domain = nics // fabric.rails
        in_rail = domain % fabric.domains_per_unit * per_domain + nic // fabric.rails
        count = nic % fabric.rails * per_domain * fabric.domains_per_unit + in_rail
        return count * fabric.leaves_per_unit // (nics * fabric.domains_per_unit)
    groups = max(1, fabric.leaves_per_unit // nics)
    group = domain % fabric.domains_per_unit * groups // fabric.domains_per_unit
    return (group * nics + nic) % fabric.leaves_per_unit
