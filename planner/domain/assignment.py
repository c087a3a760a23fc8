"""The decisions of a layout in the form that the cost model and the validator read."""

from __future__ import annotations

from dataclasses import dataclass

from planner.domain.degrees import Degrees


@dataclass(frozen=True, kw_only=True, slots=True)
class SlotMap:
    """Expert copies of some MoE layers: ``slots[ep_rank]`` lists the experts it holds."""

    layers: tuple[int, ...]
    slots: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Assignment:
    """All decisions, as indices.

    Parameters
    ----------
    stage_ends : tuple of int
        ``stage_ends[s]`` is one past the last layer of stage ``s``, shape ``[pp]``.
    cells : tuple
        ``cells[replica][stage]`` are the chips of that stage in rank order: rank ``i`` is
        attention TP rank ``i % attn_tp`` of CP rank ``i // attn_tp % cp`` of DP group
        ``i // (attn_tp cp)``, and expert TP rank ``i % expert_tp`` of EP group
        ``i // expert_tp``.
    slot_maps : tuple of SlotMap
        Expert copies, one record per distinct map; empty without experts.
    sequences : tuple
        ``sequences[replica][microbatch][attn_dp_rank]`` sequences.
    """

    degrees: Degrees
    stage_ends: tuple[int, ...]
    cells: tuple[tuple[tuple[int, ...], ...], ...]
    slot_maps: tuple[SlotMap, ...]
    sequences: tuple[tuple[tuple[int, ...], ...], ...]

    @property
    def stage_ranges(self) -> tuple[tuple[int, int], ...]:
        """``(first_layer, end_layer)`` of every stage."""
        starts = (0, *self.stage_ends[:-1])
        return tuple(zip(starts, self.stage_ends, strict=True))

    @property
    def batch(self) -> int:
        """Sequences decoded together on the whole machine."""
        return sum(sum(sum(mb) for mb in replica) for replica in self.sequences)
