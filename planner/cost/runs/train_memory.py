"""Memory of a training step on the fullest chip.

    weights      2 bytes (8-bit weights: 1) per parameter, over d with ZeRO-3
    gradients    2 bytes (or the run's format), over d from ZeRO-2
    optimizer    12 bytes (32-bit weights and two Adam moments), over d from ZeRO-1; other
                 optimizers and formats of moments in :mod:`planner.cost.runs.optimizer`
    activations  what a microbatch keeps, times the microbatches in flight on the stage
    reserve      context, library buffers and what the allocator cannot use

``d`` are the ranks that hold the same parameters: ``4 + 12 / d`` bytes with a distributed
optimizer. Gradients are kept in 16 bits as performance recipes do
(``grad_reduce_in_fp32=False``, and a published 13 B model that runs unsharded on 80 GB);
accumulating them in 32 bits makes it ``6 + 12 / d`` (Megatron-LM, dist_optimizer.md).

Assumptions
-----------
- A layer keeps the tensors that its backward pass needs: inputs of norms, inputs of multiplies
  (in the compute format), queries, keys, values and output of the attention core, inputs of
  the activation and of the down projection; a fused core keeps no scores. With a plain
  (ungated) FFN, as in the GPT family, two dropout masks of one byte. For GPT in 16 bits this is
  ``s b h (10 + 24 / t)``, and ``34 s b h / t`` with sequence parallelism (Korthikanti 2022,
  table 2, without the scores).
- Full recomputation keeps the input of each layer and works on one layer at a time;
  reversible layers keep one layer's input in all.
- Engines of a time whose elementwise kernels were not fused
  (:attr:`~planner.domain.hardware.Efficiency.elementwise` below a third, the A100's) keep
  a second copy of each RMSNorm's input, the activation of a gate before it multiplies, and
  under tensor parallelism logits gathered from all ranks; where norms run in pieces (engine
  ``eager``), the input in 32 bits too.
- With selective recomputation latent attention keeps its latents in place of queries, keys and
  values (Megatron-LM's ``mla_up_proj``).
- A compiled TPU program reuses buffers: it prefetches one layer, keeps logits in 16 bits, and
  has no reserve beyond what its usable HBM leaves out.
- Microbatches in flight on stage ``i``: ``p - i`` (1F1B), ``p + (p - 1) / v`` on the first
  stage (interleaved), ``2 p - 1`` (ZB-H2), ``p + 1`` (DualPipe, which holds two stages'
  parameters), all (GPipe).
"""

from __future__ import annotations

from planner.cost.runs.optimizer import state_bytes
from planner.cost.runs.record import RunMemory
from planner.cost.runs.training_layer import Site, layer_heads
from planner.cost.runs.training_pipeline import StageLayers, head_stage
from planner.cost.runs.training_shards import LocalParams, layer_local
from planner.domain.dtypes import BYTES_PER_ELEMENT
from planner.domain.model import LatentAttention, Layer, MoeFfn
from planner.domain.run import Recompute, ScheduleKind

WIDE = 2.0
# Logits in 16 and in 32 bits, and their gradient in 32; gathered, all of it twice.
LOGIT_BYTES = 10.0
GATHERED_LOGIT_BYTES = 2.0 * LOGIT_BYTES
# What unfused engines keep beside; calibrated, like the reserve, on every fourth layout of a
# published sweep with its layouts that ran out of memory.
UNFUSED_BELOW = 1 / 3
UNFUSED_NORM_BYTES = 2.0
# A norm in pieces keeps its input in 32 bits and what it normalised in 16.
EAGER_NORM_BYTES = 6.0
# Share of a layer's tensors that are alive a second time while its backward pass runs.
WORK_SHARE = 0.25
# Context, kernels and collective buffers of one process, and the share of the memory that the
# allocator loses to fragments.
RESERVE_BYTES = 2e9
RESERVE_SHARE = 0.04


def is_unfused(site: Site) -> bool:
    """Whether the training engines of the chip's time ran norms and activations in pieces."""
    return site.chip.efficiency.elementwise < UNFUSED_BELOW


def layer_activation_bytes(site: Site, layer: Layer) -> float:
    """Bytes that one microbatch keeps of one layer without recomputation."""
    mesh, tokens = site.run.mesh, site.tokens
    hidden = float(site.model.hidden_size)
    unfused = is_unfused(site)
    norm_kept = UNFUSED_NORM_BYTES if unfused and not layer.norm_bias else 0.0
    norm_kept = EAGER_NORM_BYTES if site.is_eager else norm_kept
    outside = tokens / mesh.attn_tp if site.splits_sequence else tokens
    inner = tokens / mesh.attn_tp
    narrow = min(WIDE, BYTES_PER_ELEMENT[site.compute])
    attention = layer.attention
    queries, keys = layer_heads(layer)
    norms = min(2, layer.num_norms) if layer.num_norms else 0
    kept = outside * hidden * ((WIDE + norm_kept) * norms + 2.0 * narrow)
    if site.run.recompute is Recompute.SELECTIVE and isinstance(attention, LatentAttention):
        latents = attention.kv_lora_rank + (attention.q_lora_rank or 0)
        kept += tokens * WIDE * latents
    else:
        kept += inner * WIDE * (queries + keys)
    kept += inner * narrow * queries
    ffn = layer.ffn
    inputs = 2.0 if ffn.gated else 1.0
    gate_output = 1.0 if ffn.gated and unfused else 0.0
    per_width = WIDE * (inputs + gate_output) + narrow
    if isinstance(ffn, MoeFfn):
        hidden_in = float(ffn.expert_hidden or hidden)
        kept += inner * ffn.top_k * (narrow * hidden_in + per_width * ffn.expert_width)
        return kept + inner * per_width * ffn.shared_width
    masks = 0.0 if ffn.gated else 2.0 * outside * hidden
    return kept + masks + inner * per_width * ffn.width


def in_flight(site: Site, stage: int) -> float:
    """Microbatches whose activations a stage holds at once."""
    run, mesh = site.run, site.run.mesh
    p, count = mesh.pp, float(run.num_microbatches)
    match run.schedule:
        case ScheduleKind.GPIPE:
            held = count
        case ScheduleKind.INTERLEAVED:
            held = p - stage + (p - 1) / max(1, mesh.virtual_stages)
        case ScheduleKind.ZB_H1 | ScheduleKind.ZB_V:
            held = float(p)
        case ScheduleKind.ZB_H2:
            held = 2.0 * p - 1.0
        case ScheduleKind.DUALPIPE:
            held = p + 1.0
        case _:
            held = float(p - stage)
    return min(held, count)


def _activation_bytes(site: Site, stage: int, layers: StageLayers) -> float:
    """Kept by all microbatches in flight, and the working set of one layer."""
    run, mesh = site.run, site.run.mesh
    outside = site.tokens / mesh.attn_tp if site.splits_sequence else site.tokens
    entry = WIDE * outside * site.model.hidden_size
    sizes = [layer_activation_bytes(site, layer) for layer, _ in layers]
    largest = max(sizes, default=0.0)
    held = in_flight(site, stage)
    match run.recompute:
        case Recompute.FULL:
            kept = held * sum(count for _, count in layers) * entry + largest
        case Recompute.REVERSIBLE:
            kept = held * entry + largest
        case _:
            each = zip(sizes, layers, strict=True)
            kept = held * sum(size * count for size, (_, count) in each)
    # Gradients of one layer's tensors are alive beside it: its widest two.
    return kept + WORK_SHARE * largest + 4.0 * entry


def logit_bytes(site: Site) -> float:
    """Bytes of the logits of one microbatch on the last stage."""
    tp = site.run.mesh.attn_tp
    logits = site.tokens * site.model.vocab_size
    if site.links.topology.is_torus:
        return WIDE * logits / tp
    if tp > 1 and is_unfused(site):
        return GATHERED_LOGIT_BYTES * logits
    return LOGIT_BYTES * logits / tp


def _sharded(params: LocalParams, site: Site, sharded: bool) -> float:
    return params.sharded(site.run.mesh) if sharded else params.total


def _stage_memory(site: Site, stage: int, params: LocalParams) -> RunMemory:
    run, chip = site.run, site.chip
    layers = site.stages[stage]
    zero = run.zero_stage
    torus = site.links.topology.is_torus
    stored = BYTES_PER_ELEMENT[site.model.precision.attention]
    copies = 2.0 if run.schedule is ScheduleKind.DUALPIPE else 1.0
    weights = copies * stored * _sharded(params, site, zero >= 3)
    if zero >= 3:
        # The layer at work and the next one, gathered; the gradient of one.
        own = max(
            (layer_local(site.model, layer, run.mesh).total for layer, _ in layers), default=0.0
        )
        ahead = 1.0 if torus else 2.0
        weights += (ahead * stored + WIDE) * own
    activations = _activation_bytes(site, stage, layers)
    if stage == head_stage(run):
        activations += logit_bytes(site)
    return RunMemory(
        weights_bytes=weights,
        gradients_bytes=copies
        * BYTES_PER_ELEMENT[run.gradients]
        * _sharded(params, site, zero >= 2),
        optimizer_bytes=state_bytes(run, params, zero >= 1),
        activations_bytes=activations,
        reserve_bytes=0.0 if torus else RESERVE_BYTES + RESERVE_SHARE * chip.hbm_usable_bytes,
        capacity_bytes=chip.hbm_usable_bytes,
    )


def training_memory(site: Site, params: tuple[LocalParams, ...]) -> RunMemory:
    """Memory of the fullest stage.

    Parameters
    ----------
    params : tuple of LocalParams
        Parameters on one chip of each stage, before data-parallel sharding.
    """
    # Of stages that hold the same, the first keeps the most microbatches in flight.
    distinct = {
        (site.stages[stage], params[stage]): stage for stage in reversed(range(len(params)))
    }
    stages = sorted({*distinct.values(), head_stage(site.run)})
    found = [_stage_memory(site, stage, params[stage]) for stage in stages]
    return max(found, key=lambda memory: memory.needed_bytes)
