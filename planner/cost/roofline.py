"""Closed forms of the lecture, unit-safe: what an engineer computes on a napkin.

Symbols: ``n_total`` / ``n_active`` parameters, ``flop_per_s`` at the matmul's precision,
``hbm_bytes_per_s``, ``weight_bytes`` per parameter. Sources: theory chapters 1 to 4
(R. Pope, lecture on inference and training economics, April 2026) and the inference
chapter of "How to Scale Your Model". Every function returns seconds, bytes or a ratio.
"""

from __future__ import annotations

import math


def ridge(flop_per_s: float, hbm_bytes_per_s: float, weight_bytes: float) -> float:
    """The bracket ``C beta / (2 W)``: tokens per weight byte where a dense matmul turns
    compute-bound; about 300 on many chips."""
    return flop_per_s * weight_bytes / (2.0 * hbm_bytes_per_s)


def critical_batch(ridge_tokens: float, n_total: float, n_active: float) -> float:
    """B* = ridge x N_total / N_active: tokens per step where weight reads and matmuls balance."""
    return ridge_tokens * n_total / n_active


def critical_batch_with_kv(
    ridge_tokens: float, n_total: float, n_active: float, kv_slope: float
) -> float:
    """B* when the KV reads count: ``r N_total / (N_active - r L kv')``.

    ``kv_slope`` is ``L_ctx * kv / beta``: KV reads of one sequence in units of weights.
    Infinite once KV reads grow faster with the batch than the matmuls do.
    """
    denominator = n_active - ridge_tokens * kv_slope
    return ridge_tokens * n_total / denominator if denominator > 0 else math.inf


def balanced_context(n_active: float, ridge_tokens: float, kv_per_token: float) -> float:
    """Context where KV reads take as long as matmuls; ``kv_per_token`` in weight units."""
    return n_active / (ridge_tokens * kv_per_token)


def mfu_at_context(context: float, balanced: float) -> float:
    """Compute use in the KV-bound limit of a large batch: 1/2 at twice the balanced context."""
    return min(1.0, balanced / context)


def drain_s(capacity_bytes: float, bytes_per_s: float) -> float:
    """Seconds to read a memory once: the lecture's train interval T."""
    return capacity_bytes / bytes_per_s


def worst_wait_s(interval_s: float) -> float:
    """Worst wait plus service when a batch departs every ``interval_s``: just missed, 2T."""
    return 2.0 * interval_s


def tokens_per_s(batch: float, step_s: float) -> float:
    """Tokens generated per second by ``batch`` sequences."""
    return batch / step_s


def weight_read_s(n_total_bytes: float, num_chips: int, hbm_bytes_per_s: float) -> float:
    """Latency floor: every weight read once over the chips of one scale-up domain."""
    return n_total_bytes / (num_chips * hbm_bytes_per_s)


def cost_per_token_ratio(batch_a: float, batch_b: float) -> float:
    """Weight-read cost of a token at ``batch_a`` over that at ``batch_b``."""
    return batch_b / batch_a


def overlap_step_s(compute_s: float, weights_s: float, kv_s: float) -> float:
    """The lecture's step: compute against all memory traffic, whichever is longer."""
    return max(compute_s, weights_s + kv_s)


def sum_step_s(compute_s: float, weights_s: float, kv_s: float) -> float:
    """The scaling book's step: attention reads, then matmuls against weight reads."""
    return kv_s + max(compute_s, weights_s)


def memory_per_chip_bytes(
    weights_bytes: float, kv_bytes_per_sequence: float, shape: tuple[int, int], batch: float
) -> tuple[float, float]:
    """Weights and KV bytes per chip under perfect sharding.

    Parameters
    ----------
    shape : (int, int)
        Chips of a stage and stages; decode keeps ``stages`` microbatches of ``batch``
        sequences in flight, so stages cancel in the KV term.
    """
    chips, stages = shape
    kv = stages * batch * kv_bytes_per_sequence / stages / chips
    return weights_bytes / (chips * stages), kv


def whole_expert_chips(num_experts: int, num_chips: int) -> tuple[int, int, int]:
    """Chips used, experts per used chip and idle chips with whole experts and no copies.

    The fullest chip decides the step, so the fewest chips with that many experts do as well.
    """
    per_chip = math.ceil(num_experts / num_chips)
    used = math.ceil(num_experts / per_chip)
    return used, per_chip, num_chips - used


def rack_slowdown(num_racks: int, bandwidth_ratio: float) -> float:
    """Slowdown of an all-to-all over equal racks: ``max(1/R, ratio (R-1)/R)``."""
    return max(1.0 / num_racks, bandwidth_ratio * (num_racks - 1) / num_racks)


def leaving_fraction(num_racks: int) -> float:
    """Share of an all-to-all's bytes that leaves its rack."""
    return (num_racks - 1) / num_racks


def stage_boundary_ratio(out_over_up: float, top_k: int, layers_per_stage: int) -> float:
    """Scale-up time of a stage over scale-out time of its boundary; at 1 or more the
    boundary is never the bottleneck."""
    return out_over_up * top_k * layers_per_stage * 2.0


def token_latency_s(step_s: float, num_hops: int, hop_s: float) -> float:
    """Latency of a token that crosses ``num_hops`` stage boundaries."""
    return step_s + num_hops * hop_s


def training_bubble(stages: int, microbatches: int) -> float:
    """Idle share (P-1)/(M+P-1) of a pipeline that drains every step (GPipe, 1F1B)."""
    return (stages - 1) / (microbatches + stages - 1)
