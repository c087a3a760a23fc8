"""The degrees of a layout: how many chips share what."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Degrees:
    """Parallel degrees of one layout.

    A *stage* is ``attn_tp * attn_dp`` chips, the same chips as ``ep * expert_tp``; a
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
    """

    attn_tp: int
    attn_dp: int
    pp: int
    ep: int
    expert_tp: int
    num_slots: int
    microbatches: int
    replicas: int

    @property
    def stage_chips(self) -> int:
        """Chips of one stage."""
        return self.attn_tp * self.attn_dp

    @property
    def chips_used(self) -> int:
        """Chips that hold part of the model."""
        return self.stage_chips * self.pp * self.replicas
