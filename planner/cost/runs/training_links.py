"""Messages of a training step, priced on the axes of its mesh.

Assumptions
-----------
- Across slices of a torus the data-parallel ranks of one slice reduce among themselves first;
  each chip then exchanges its share with its peers in the other slices (MaxText shards over
  the slice and replicates across slices).
- An expert exchange sends a token once to each node that holds one of its experts, where it is
  copied on (DeepEP, HybridEP): across ``n`` nodes a token of ``k`` experts reaches
  ``n (1 - (1 - 1/n)^k)`` of them.
"""

from __future__ import annotations

from dataclasses import dataclass

from planner.cost.runs.mesh_links import MeshLinks
from planner.domain.curves import Op
from planner.domain.run import Mesh
from planner.topology.collectives import collective_rates
from planner.topology.graph import Topology
from planner.topology.groups import group_shape
from planner.topology.rate import FREE, CollectiveRate


@dataclass(frozen=True, kw_only=True, slots=True)
class AxisPrice:
    """Algorithms of one operation on one axis, and how its group lies on the machine."""

    rates: tuple[CollectiveRate, ...]
    num_domains: int
    size: int

    def seconds(self, num_bytes: float) -> float:
        """Time of one call by the fastest algorithm; 0 for a group of one."""
        if self.size == 1 or num_bytes <= 0:
            return 0.0
        return min(rate.seconds(num_bytes) for rate in self.rates)


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingLinks:
    """Prices of the collectives of one mesh on one machine, remembered by the topology."""

    links: MeshLinks

    @property
    def mesh(self) -> Mesh:
        """Degrees."""
        return self.links.mesh

    @property
    def topology(self) -> Topology:
        """The machine."""
        return self.links.topology

    def price(self, axis: str, op: Op) -> AxisPrice:
        """Price of an operation on an axis of :meth:`MeshLinks.group`."""
        key = ("training", self.mesh, axis, op)
        found = self.topology.memo.get(key)
        if not isinstance(found, AxisPrice):
            found = self._price(self.links.group(axis), op)
            self.topology.memo[key] = found
        return found

    def _price(self, chips: tuple[int, ...], op: Op) -> AxisPrice:
        domains = len({self.topology.domain_of(chip) for chip in chips})
        rates: tuple[CollectiveRate, ...] = ()
        if len(chips) > 1 and not (self.topology.is_torus and domains > 1):
            shape = group_shape(self.topology, chips)
            rates = tuple(collective_rates(self.topology, op, shape).values())
        elif len(chips) > 1:
            inner = chips[: len(chips) // domains]
            if len(inner) > 1:
                shape = group_shape(self.topology, inner)
                rates = tuple(collective_rates(self.topology, op, shape).values())
        return AxisPrice(rates=rates, num_domains=domains, size=len(chips))

    def seconds(self, axis: str, op: Op, num_bytes: float) -> float:
        """Time of one collective; across slices of a torus, of both of its levels."""
        if num_bytes <= 0:
            return 0.0
        pairs = self.rates(axis, op)
        return min((a.seconds(num_bytes) + b.seconds(num_bytes) for a, b in pairs), default=0.0)

    def _between_slices(self, op: Op, inner: int, slices: int) -> CollectiveRate:
        """Exchange of each chip's share, of ``inner``, with its peers of the other slices."""
        fabric = self.topology.spec.scale_out
        assert fabric is not None
        curve = fabric.curves.of(op)
        times = 2 if op is Op.ALL_REDUCE else 1
        rate = fabric.chip_bytes_per_s * curve.derate
        return CollectiveRate(
            latency_s=curve.base_s + times * (slices - 1) * curve.step_s,
            s_per_byte=times * (slices - 1) / slices / rate / inner,
            fill_s=curve.fill_s,
        )

    def rates(self, axis: str, op: Op) -> tuple[tuple[CollectiveRate, CollectiveRate], ...]:
        """Algorithms of a collective: price inside a domain or over nodes, and over slices.

        A call takes the fastest; none where there is one rank.
        """
        price = self.price(axis, op)
        if price.size == 1:
            return ()
        if not self.topology.is_torus or price.num_domains == 1:
            return tuple((rate, FREE) for rate in price.rates)
        inner = price.size // price.num_domains
        outside = self._between_slices(op, inner, price.num_domains)
        return tuple((rate, outside) for rate in price.rates or (FREE,))

    def expert_exchange_seconds(self, op: Op, token_bytes: float, top_k: int) -> float:
        """Time to send every token of a chip to its experts (or back) over ``ep`` groups.

        Parameters
        ----------
        token_bytes : float
            All tokens of one chip, each once.
        top_k : int
            Experts of a token.
        """
        price = self.price("ep", op)
        if price.size == 1:
            return 0.0
        if self.topology.is_torus and price.num_domains > 1:
            return self.seconds("ep", op, token_bytes * top_k)
        groups = price.size
        copies = groups * (1.0 - (1.0 - 1.0 / groups) ** top_k)
        nodes = price.num_domains
        if nodes == 1:
            return price.seconds(token_bytes * copies)
        # Of the copies of a message, those for other nodes: (1 - 1/nodes) of a full exchange.
        reached = nodes * (1.0 - (1.0 - 1.0 / nodes) ** top_k)
        return price.seconds(token_bytes * min(reached, copies))
