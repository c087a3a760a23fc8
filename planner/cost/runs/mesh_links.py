"""Which chips take part in a collective of each mesh axis, and what it costs.

Ranks are numbered with ``attn_tp`` fastest, then ``cp``, ``attn_dp`` and ``pp``, and placed on
the chips of the machine in order: the innermost axes share a node.
"""

from __future__ import annotations

from dataclasses import dataclass

from planner.domain.curves import Op
from planner.domain.run import Mesh
from planner.topology.collectives import collective_rates, send_recv_rate
from planner.topology.graph import Topology
from planner.topology.groups import group_shape

AXES = ("tp", "cp", "dp", "tp_cp", "cp_dp", "ep", "expert_tp", "expert_dp")


@dataclass(frozen=True, kw_only=True, eq=False)
class MeshLinks:
    """Prices of collectives along the axes of one mesh on one machine."""

    topology: Topology
    mesh: Mesh

    def group(self, axis: str) -> tuple[int, ...]:
        """Chips of the first group of an axis.

        ``cp_dp`` are the ranks that hold the same weights of attention; ``ep`` and
        ``expert_tp`` lie inside a stage, ``expert_tp`` fastest; ``expert_dp`` are the ranks
        that hold the same experts.
        """
        mesh = self.mesh
        inner = mesh.attn_tp * mesh.cp
        stride, size = {
            "tp": (1, mesh.attn_tp),
            "cp": (mesh.attn_tp, mesh.cp),
            "dp": (inner, mesh.attn_dp),
            "tp_cp": (1, inner),
            "cp_dp": (mesh.attn_tp, mesh.cp * mesh.attn_dp),
            "expert_tp": (1, mesh.expert_tp),
            "ep": (mesh.expert_tp, mesh.ep),
            "expert_dp": (
                mesh.ep * mesh.expert_tp,
                max(1, mesh.stage_chips // (mesh.ep * mesh.expert_tp)),
            ),
        }[axis]
        return tuple(range(0, stride * size, stride))

    def seconds(self, axis: str, op: Op, num_bytes: float) -> float:
        """Time of one collective of ``num_bytes`` (see :class:`Op`); 0 in a group of one."""
        chips = self.group(axis)
        if len(chips) == 1 or num_bytes <= 0:
            return 0.0
        rates = collective_rates(self.topology, op, group_shape(self.topology, chips))
        return min(rate.seconds(num_bytes) for rate in rates.values())

    def hop_seconds(self, num_bytes: float) -> float:
        """Time of a message from a pipeline stage to the next; 0 without a pipeline.

        Of several stages in a domain, that of the one whose next lies in another.
        """
        if self.mesh.pp == 1:
            return 0.0
        source, target = hop_ends(self.topology, self.mesh.stage_chips, self.mesh.pp)
        return send_recv_rate(self.topology, source, target).seconds(num_bytes)


def hop_ends(topology: Topology, stage_chips: int, pp: int) -> tuple[int, int]:
    """Chips of the first message between stages that leaves a domain, or of the first at all."""
    for stage in range(pp - 1):
        source, target = stage * stage_chips, (stage + 1) * stage_chips
        if topology.domain_of(source) != topology.domain_of(target):
            return source, target
    return 0, stage_chips
