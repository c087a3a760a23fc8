"""Link loads of a wounded torus: one axis after the other where that way is whole.

Routers keep sending along axis 0, then 1, ... A message whose way crosses a dead link or a
dead chip takes the shortest ways around instead, split over all of them. So a wound concerns
those whose way it blocks, and nobody else.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from planner.domain.hardware import NO_WOUNDS
from planner.topology.builders import build_network, torus_places
from planner.topology.graph import Topology
from planner.topology.network import Bools, Ints, Network
from planner.topology.routing import LinkLoads, ecmp_loads, inside_loads, outside_loads
from planner.topology.torus_routing import torus_loads
from planner.topology.traffic import Matrix, Traffic

# Chips of one exchange up to which its pairs are listed.
MAX_CHIPS = 2048


class WoundedTorus:
    """A wounded torus beside itself in health; chips of both by their place."""

    def __init__(self, topology: Topology) -> None:
        self.topology = topology
        spec = replace(topology.spec, wounds=NO_WOUNDS)
        self.healthy: Network = build_network(spec)
        size = spec.domain_chips
        self.places: Ints = np.array(
            [domain * size + position for domain, position in topology.places], dtype=np.int64
        )
        inside = np.array(torus_places(spec.shape), dtype=np.int64)
        self.coords: Ints = np.tile(inside, (spec.num_domains, 1))
        self.shape = spec.shape
        self.wraps = topology.wraps
        self._links, self._alive = self._match()
        self._blocked = [self._blocked_legs(axis) for axis in range(len(self.shape))]

    def _match(self) -> tuple[Ints, Bools]:
        """Healthy link of every scale-up link that is left, and which links are left."""
        network = self.topology.network
        size = self.healthy.num_chips

        def keys(net: Network, names: Ints) -> Ints:
            ends = np.sort(names[net.ends[net.scale_up]], axis=1)
            # Two chips may be joined twice, along different axes.
            return (net.axes[net.scale_up] * size + ends[:, 0]) * size + ends[:, 1]

        whole = keys(self.healthy, np.arange(self.healthy.num_nodes))
        order = np.argsort(whole)
        own = keys(network, np.concatenate((self.places, np.zeros(network.num_nodes, np.int64))))
        links = np.flatnonzero(self.healthy.scale_up)[order[np.searchsorted(whole[order], own)]]
        alive = np.zeros(self.healthy.num_links, dtype=np.bool_)
        alive[links] = True
        return links, alive

    def _line(self, axis: int, before: Ints, behind: Ints, domain: Ints) -> Ints:
        """Number of the line along ``axis`` through given other coordinates."""
        key = domain
        for other, length in enumerate(self.shape):
            if other != axis:
                column = before[:, other] if other < axis else behind[:, other]
                key = key * length + column
        return key

    def _blocked_legs(self, axis: int) -> Bools:
        """Whether the leg ``from -> to`` of each line is broken, shape ``[lines, X, X]``."""
        length, ring = self.shape[axis], self.wraps[axis]
        size = math.prod(self.shape)
        links = np.flatnonzero(self.healthy.scale_up & (self.healthy.axes == axis))
        start = self.healthy.ends[links, 0]
        lines = self._line(axis, self.coords[start], self.coords[start], start // size)
        count = self.healthy.num_chips // length
        dead = np.zeros((count, length), dtype=np.int64)
        dead[lines, self.coords[start, axis]] = ~self._alive[links]
        # A line that is no ring has no link from its last chip to its first.
        passed = np.concatenate((dead, dead), axis=1).cumsum(axis=1)
        passed = np.concatenate((np.zeros((count, 1), np.int64), passed), axis=1)
        here, there = np.meshgrid(np.arange(length), np.arange(length), indexing="ij")
        up, down = (there - here) % length, (here - there) % length
        if not ring:
            up, down = np.where(there >= here, up, length), np.where(here >= there, down, length)
        forward = passed[:, here + np.minimum(up, length)] - passed[:, here]
        backward = passed[:, there + np.minimum(down, length)] - passed[:, there]
        blocked: Bools = ((up <= down) & (forward > 0)) | ((down <= up) & (backward > 0))
        return blocked

    def broken(self, sources: Ints, targets: Ints) -> Bools:
        """Whether the way of each message is blocked; chips by place, of one slice."""
        here, there = self.coords[sources], self.coords[targets]
        domain = sources // math.prod(self.shape)
        found = np.zeros(len(sources), dtype=np.bool_)
        for axis, blocked in enumerate(self._blocked):
            line = self._line(axis, there, here, domain)
            found |= blocked[line, here[:, axis], there[:, axis]]
        return found

    def loads(self, traffic: Traffic) -> LinkLoads:
        """Bytes over every link that is left.

        Raises
        ------
        DisconnectedError
            Chips that talk are not connected.
        """
        network = self.topology.network
        matrix = as_matrix(traffic)
        if matrix is None:
            return ecmp_loads(network, traffic)
        total = outside_loads(network, traffic)
        place = self.places[matrix.chips]
        size = math.prod(self.shape)
        same = (place[:, None] // size) == (place[None, :] // size)
        sent = np.where(same, matrix.num_bytes, 0.0)
        rows, columns = np.nonzero(sent)
        around = np.zeros(sent.shape, dtype=np.bool_)
        around[rows, columns] = self.broken(place[rows], place[columns])
        straight = torus_loads(
            self.healthy,
            self.shape,
            self.wraps,
            Matrix(chips=place, num_bytes=np.where(around, 0.0, sent)),
            self.coords,
        )
        kept = np.flatnonzero(network.scale_up)
        both = np.stack((straight.forward, straight.backward), axis=1)[self._links]
        # The ends of a link may have changed their order with their numbers.
        turned = self.places[network.ends[kept, 0]] != self.healthy.ends[self._links, 0]
        total[kept] += np.where(turned[:, None], both[:, ::-1], both)
        if around.any():
            rest = Matrix(chips=matrix.chips, num_bytes=np.where(around, sent, 0.0))
            total += inside_loads(network, rest)
        return LinkLoads(forward=total[:, 0], backward=total[:, 1])


def as_matrix(traffic: Traffic) -> Matrix | None:
    """The traffic pair by pair; None where that would be too many."""
    if isinstance(traffic, Matrix):
        return traffic
    chips = np.concatenate(traffic.groups)
    if len(chips) > MAX_CHIPS:
        return None
    group = np.repeat(np.arange(len(traffic.groups)), [len(g) for g in traffic.groups])
    num_bytes = np.where(group[:, None] == group[None, :], traffic.bytes_per_pair, 0.0)
    np.fill_diagonal(num_bytes, 0.0)
    return Matrix(chips=chips, num_bytes=num_bytes)


def wounded_torus(topology: Topology) -> WoundedTorus:
    """The machine beside itself in health; built once."""
    found = topology.memo.get(WoundedTorus)
    if not isinstance(found, WoundedTorus):
        found = WoundedTorus(topology)
        topology.memo[WoundedTorus] = found
    return found
