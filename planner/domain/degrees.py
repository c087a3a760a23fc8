"""The degrees of a layout: how many chips share what."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

OverlapLabel = Literal["none", "ep", "tp", "ep,tp"]


class OverlapMode(IntEnum):
    """Which collectives of a decode step run behind the other half of a microbatch.

    A number, so that strategies are arrays of it; :attr:`label` is what people write.
    """

    NONE = 0
    EP = 1
    TP = 2
    EP_TP = 3

    @property
    def label(self) -> OverlapLabel:
        """What people write."""
        return _LABELS[self]

    @property
    def hides_ep(self) -> bool:
        """Whether dispatch and combine of experts are hidden."""
        return bool(self & OverlapMode.EP)

    @property
    def hides_tp(self) -> bool:
        """Whether the sums of tensor parallelism are hidden."""
        return bool(self & OverlapMode.TP)


_LABELS: dict[OverlapMode, OverlapLabel] = {
    OverlapMode.NONE: "none",
    OverlapMode.EP: "ep",
    OverlapMode.TP: "tp",
    OverlapMode.EP_TP: "ep,tp",
}
OVERLAP_LABELS: dict[str, OverlapMode] = {label: mode for mode, label in _LABELS.items()}


@dataclass(frozen=True, kw_only=True, slots=True)
class Degrees:
    """Parallel degrees of one layout.

    A *stage* is ``attn_tp * cp * attn_dp`` chips, the same chips as ``ep * expert_tp``; a
    replica of the model is ``pp`` stages; the machine runs ``replicas`` of them.

    Parameters
    ----------
    attn_tp, attn_dp : int
        Tensor- and data-parallel degree of attention, dense FFNs and shared experts.
    ep, expert_tp : int
        Expert-parallel degree and tensor-parallel degree inside an expert; both 1 for a
        model without experts, where ``attn_dp`` is 1 too.
    num_slots : int
        Expert copies per MoE layer, ``>= num_experts``; 0 without experts.
    microbatches : int
        Microbatches in flight in one replica.
    replicas : int
        Replicas of the whole model.
    cp : int
        Tensor-parallel groups that share the caches of their sequences, each its part of
        every context.
    overlap : OverlapMode
        What communication hides behind computation.
    draft : int
        Tokens that are drafted for every sequence before a pass verifies them.
    """

    attn_tp: int
    attn_dp: int
    pp: int
    ep: int
    expert_tp: int
    num_slots: int
    microbatches: int
    replicas: int
    cp: int = 1
    overlap: OverlapMode = OverlapMode.NONE
    draft: int = 0

    @property
    def stage_chips(self) -> int:
        """Chips of one stage."""
        return self.attn_tp * self.cp * self.attn_dp

    @property
    def chips_used(self) -> int:
        """Chips that hold part of the model."""
        return self.stage_chips * self.pp * self.replicas
