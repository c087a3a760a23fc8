"""Messages of chips whose way out of their domain is broken.

A chip without a working NIC, or whose leaf is dead, sends through the NICs of the other chips
of its domain, an equal share through each: over the scale-up links to them, then over the
fabric (libraries call it PXN). What comes in takes the same way back.
"""

from __future__ import annotations

import numpy as np

from planner.topology.graph import Topology
from planner.topology.network import Floats
from planner.topology.soundness import leaving_chips
from planner.topology.torus_wounds import as_matrix
from planner.topology.traffic import Matrix, Traffic


def with_relays(topology: Topology, traffic: Traffic) -> Traffic:
    """The same traffic with detours for chips that cannot leave their domain.

    Returns
    -------
    Traffic
        ``traffic`` itself where nobody needs a detour, or nobody of a domain can help.
    """
    if topology.wounded is None or len(topology.domains) == 1:
        return traffic
    ways_out = leaving_chips(topology)
    if all(len(way) == len(own) for way, own in zip(ways_out, topology.domains, strict=True)):
        return traffic
    matrix = as_matrix(traffic)
    if matrix is None:
        return traffic
    chips = matrix.chips.tolist()
    owners = np.array([topology.domain_of(chip) for chip in chips])
    outside = np.where(owners[:, None] == owners[None, :], 0.0, matrix.num_bytes)
    talks = outside.sum(axis=1) + outside.sum(axis=0) > 0
    leaves = {chip for way in ways_out for chip in way}
    stuck = [row for row, chip in enumerate(chips) if talks[row] and chip not in leaves]
    if not stuck or any(not ways_out[owners[row]] for row in stuck):
        return traffic
    everyone = sorted({*chips, *(chip for row in stuck for chip in ways_out[owners[row]])})
    at = {chip: column for column, chip in enumerate(everyone)}
    own = np.array([at[chip] for chip in chips])
    # Row: a chip of the traffic; column: whose NIC it uses, and for which share.
    share: Floats = np.zeros((len(chips), len(everyone)))
    share[np.arange(len(chips)), own] = 1.0
    for row in stuck:
        helpers = [at[chip] for chip in ways_out[owners[row]]]
        share[row] = 0.0
        share[row, helpers] = 1 / len(helpers)
    moved = share.T @ outside @ share
    inside = matrix.num_bytes - outside
    moved[np.ix_(own, own)] += inside
    for row in stuck:
        moved[own[row]] += outside[row].sum() * share[row]
        moved[:, own[row]] += outside[:, row].sum() * share[row]
    np.fill_diagonal(moved, 0.0)
    return Matrix(chips=np.array(everyone, dtype=np.int64), num_bytes=moved)
