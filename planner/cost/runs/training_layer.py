"""One layer of a training step on one chip, per microbatch: computation and messages.

Assumptions
-----------
- Attention runs in a fused kernel that recomputes its scores in the backward pass: five
  multiplies against two, 2.5 times the forward FLOP (FlashAttention-2, arXiv 2307.08691,
  section 3.1.2), in 16 bits whatever the multiplies use.
- Context parallelism balances causal work: every rank has ``1 / cp`` of it.
- Routing is balanced; every chip holds ``experts / ep`` experts, split ``expert_tp`` ways, and
  computes ``tokens x top_k`` pairs for each token of its own stage share.
- Elementwise kernels pass HBM once per operand in 16 bits. Per token and layer: each norm
  reads and writes the hidden state (backward: two reads, a write), each residual addition
  reads two and writes one (backward the same), rotary embedding reads and writes queries and
  keys, the activation reads its inputs and writes its output (backward: output gradient and
  inputs in, input gradients out); routed tokens are copied to expert order and back.
- Norms and residuals see ``1 / tp`` of the tokens with sequence parallelism, all without.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from planner.cost.block import matmul_rate
from planner.cost.overlap import core_share
from planner.cost.runs.gemm import achieved_hbm_bytes_per_s
from planner.cost.runs.training_links import TrainingLinks
from planner.cost.runs.training_matmul import (
    PassTimes,
    Rows,
    kernel_times,
    layer_matmuls,
    local_kernel,
    narrow_copy_bytes,
)
from planner.cost.runs.training_pipeline import StageLayers
from planner.cost.sequence_attention import sequence_core
from planner.domain.curves import Op
from planner.domain.dtypes import BYTES_PER_ELEMENT, DType
from planner.domain.hardware import Chip
from planner.domain.model import (
    CompressedAttention,
    GroupedQueryAttention,
    LatentAttention,
    Layer,
    LinearAttention,
    ModelSpec,
    MoeFfn,
    WeightRole,
)
from planner.domain.run import Run

WIRE = 2.0  # activations travel in 16 bits
BACKWARD_CORE = 2.5
FULL_HEAD = 128
EAGER = "eager"
# Engines with FlashAttention-2, which gains nothing from chips after the A100: 370 TFLOP/s
# forward on an H100 (arXiv 2407.08608, figure 5), with a causal mask some 15 % less.
SECOND_CORE = frozenset({"2022", "2023", EAGER})
SECOND_CORE_FLOP_PER_S = 315e12
# HBM passes of elementwise kernels, where norms run in pieces, over those of fused norms;
# calibrated on every fourth layout of a published sweep that ran with and without fused norms.
EAGER_PASSES = 2.25
NOTHING = PassTimes()


@dataclass(frozen=True, kw_only=True, slots=True)
class Site:
    """A run on a machine: everything that a layer's price depends on but the layer."""

    model: ModelSpec
    chip: Chip
    links: TrainingLinks
    run: Run
    stages: tuple[StageLayers, ...]

    @property
    def tokens(self) -> float:
        """Tokens of a microbatch on one chip."""
        return self.run.microbatch * self.run.seq_len / self.run.mesh.cp

    @property
    def splits_sequence(self) -> bool:
        """Whether activations between the multiplies are split over ``attn_tp``.

        XLA's partitioner does so on a torus without being asked.
        """
        return self.run.sequence_parallel or self.links.topology.is_torus

    @property
    def is_eager(self) -> bool:
        """Whether norms run in pieces, as the run's engine says."""
        return self.run.engine == EAGER

    @property
    def core_share(self) -> float:
        """Share of the chip that a hidden message holds; copies of a TPU need no core."""
        return core_share(self.chip, on_torus=self.links.topology.is_torus)

    @property
    def compute(self) -> DType:
        """Format of matrix multiplies."""
        return self.model.precision.activations

    @property
    def grad_bytes(self) -> float:
        """Bytes of a gradient, as it is accumulated and reduced."""
        return BYTES_PER_ELEMENT[self.run.gradients]


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerTimes:
    """Seconds of one layer and microbatch on one chip, messages apart.

    ``core`` is part of ``compute`` by itself, for recomputation; messages are forward,
    backward.
    """

    matmul: PassTimes = NOTHING
    core: PassTimes = NOTHING
    elementwise: PassTimes = NOTHING
    host: PassTimes = NOTHING
    tp: tuple[float, float] = (0.0, 0.0)
    cp: tuple[float, float] = (0.0, 0.0)
    ep: tuple[float, float] = (0.0, 0.0)

    def __add__(self, other: LayerTimes) -> LayerTimes:
        return LayerTimes(
            matmul=self.matmul + other.matmul,
            core=self.core + other.core,
            elementwise=self.elementwise + other.elementwise,
            host=self.host + other.host,
            tp=(self.tp[0] + other.tp[0], self.tp[1] + other.tp[1]),
            cp=(self.cp[0] + other.cp[0], self.cp[1] + other.cp[1]),
            ep=(self.ep[0] + other.ep[0], self.ep[1] + other.ep[1]),
        )

    @property
    def compute(self) -> PassTimes:
        """All computation."""
        return self.matmul + self.core + self.elementwise


def layer_rows(site: Site, layer: Layer) -> Rows:
    """Rows of the multiplies of a layer."""
    mesh = site.run.mesh
    if not isinstance(layer.ffn, MoeFfn):
        return Rows(tokens=site.tokens)
    groups = mesh.ep
    # Chips of a tensor-parallel group hold the same tokens: each routes its share of them.
    own = site.tokens / mesh.attn_tp
    return Rows(
        tokens=site.tokens,
        expert_pairs=own * layer.ffn.top_k * mesh.expert_tp,
        local_experts=layer.ffn.num_experts / groups,
    )


def layer_heads(layer: Layer) -> tuple[float, float]:
    """Elements per token of queries and of keys with values, before any split."""
    attention = layer.attention
    match attention:
        case GroupedQueryAttention():
            return (
                float(attention.num_heads * attention.head_dim),
                2.0 * attention.num_kv_heads * attention.head_dim,
            )
        case LatentAttention():
            key = attention.qk_nope_head_dim + attention.qk_rope_head_dim
            heads = attention.num_heads
            return float(heads * key), float(heads * (key + attention.v_head_dim))
        case CompressedAttention():
            return float(attention.num_heads * attention.head_dim), float(attention.head_dim)
        case LinearAttention():
            keys = float(attention.num_key_heads * attention.key_head_dim)
            return keys, keys + float(attention.num_value_heads * attention.value_head_dim)


def head_size_share(layer: Layer) -> float:
    """Speed of a core with small heads against one with heads of 128.

    A pair of tokens costs one exponential whatever the head's size, beside ``4 d`` FLOP:
    ``sqrt(d / 128)`` lies between Hopper, where FlashAttention-3 loses a quarter at ``d = 64``
    (arXiv 2407.08608, figure 5), and Blackwell, whose exponentials then bound it to a half.
    """
    size = getattr(layer.attention, "head_dim", FULL_HEAD)
    return min(1.0, math.sqrt(size / FULL_HEAD))


def _matmul_times(site: Site, layer: Layer, routed: bool) -> tuple[PassTimes, PassTimes]:
    """Multiplies of the routed experts, or all others, and conversions to narrow formats."""
    rows = layer_rows(site, layer)
    mesh = site.run.mesh
    total, copies = PassTimes(), PassTimes()
    hbm = achieved_hbm_bytes_per_s(site.chip)
    for matmul in layer_matmuls(site.model, layer):
        if (matmul.weight.role is WeightRole.ROUTED_EXPERT) is not routed:
            continue
        kernel = local_kernel(matmul, rows, mesh.attn_tp, mesh.expert_tp)
        dtype = site.compute
        if matmul.weight.role is WeightRole.ROUTER:
            dtype = DType.BF16
        total += kernel_times(site.chip, dtype, kernel, site.grad_bytes)
        into, out = narrow_copy_bytes(dtype, kernel)
        copies += PassTimes(forward=into / hbm, input_grad=out / hbm)
    return total, copies


def _core_times(site: Site, layer: Layer) -> PassTimes:
    """Attention core of the busiest chip."""
    run, chip = site.run, site.chip
    core = sequence_core(layer.attention, run.seq_len)
    split = min(run.mesh.attn_tp, core.num_heads)
    flop = (core.flop - core.replicated_flop) / split + core.replicated_flop
    flop *= run.microbatch / run.mesh.cp
    moved = WIRE * core.moved_elements / split * run.microbatch / run.mesh.cp
    peak = dict(chip.peak_flop_per_s)[matmul_rate(chip, DType.BF16, DType.BF16)]
    peak *= head_size_share(layer)
    hbm = achieved_hbm_bytes_per_s(chip)
    ahead = peak * chip.efficiency.attention_forward
    back = peak * chip.efficiency.attention_backward
    if run.engine in SECOND_CORE:
        limit = min(1.0, SECOND_CORE_FLOP_PER_S * head_size_share(layer) / ahead)
        ahead, back = ahead * limit, back * limit
    forward = max(flop / ahead, moved / hbm)
    backward = max(BACKWARD_CORE * flop / back, 2.0 * moved / hbm)
    launch = chip.efficiency.kernel_s
    return PassTimes(forward=forward + launch, input_grad=backward + launch)


def _elementwise_bytes(site: Site, layer: Layer) -> tuple[float, float]:
    """HBM bytes of a layer's elementwise kernels, forward and backward."""
    mesh, tokens = site.run.mesh, site.tokens
    hidden = float(site.model.hidden_size)
    outside = tokens / mesh.attn_tp if site.splits_sequence else tokens
    queries, keys = layer_heads(layer)
    norms = float(layer.num_norms)
    state = outside * hidden
    turned = tokens / mesh.attn_tp * (queries + keys)
    forward = (2.0 * norms + 6.0) * state + 2.0 * turned
    backward = (3.0 * norms + 6.0) * state + 2.0 * turned
    ffn = layer.ffn
    inputs = 2.0 if ffn.gated else 1.0
    if isinstance(ffn, MoeFfn):
        own = tokens / mesh.attn_tp
        inner = own * (ffn.top_k * ffn.expert_width + ffn.shared_width)
        routed = own * ffn.top_k * float(ffn.expert_hidden or hidden)
        # Copied to expert order, and gathered back into the sum; the same backward.
        forward += 4.0 * routed
        backward += 4.0 * routed
    else:
        inner = tokens / mesh.attn_tp * ffn.width
    forward += (inputs + 1.0) * inner
    backward += (2.0 * inputs + 1.0) * inner
    passes = EAGER_PASSES if site.is_eager else 1.0
    return WIRE * passes * forward, WIRE * passes * backward


def _elementwise_times(site: Site, layer: Layer) -> PassTimes:
    forward, backward = _elementwise_bytes(site, layer)
    hbm = achieved_hbm_bytes_per_s(site.chip) * site.chip.efficiency.elementwise
    kernels = float(layer.num_norms) + 4.0
    if isinstance(layer.ffn, MoeFfn):
        kernels += 6.0
    launch = kernels * site.chip.efficiency.kernel_s
    return PassTimes(forward=forward / hbm + launch, input_grad=backward / hbm + launch)


def _host_times(site: Site, layer: Layer) -> PassTimes:
    """Waiting for the host in an MoE layer, a third of it in the forward pass."""
    if not isinstance(layer.ffn, MoeFfn):
        return PassTimes()
    wait = site.chip.efficiency.expert_layer_s
    return PassTimes(forward=wait / 3.0, input_grad=2.0 * wait / 3.0)


def _tp_seconds(site: Site, layer: Layer) -> tuple[float, float]:
    """Tensor-parallel messages: two all-reduces forward and two backward.

    With sequence parallelism each is an all-gather and a reduce-scatter, and the backward
    pass gathers both inputs again for the weight gradient (Korthikanti 2022, section 4.2.2).
    An MoE block that is split over experts needs none.
    """
    mesh, links = site.run.mesh, site.links
    if mesh.attn_tp == 1:
        return 0.0, 0.0
    num_bytes = WIRE * site.tokens * site.model.hidden_size
    blocks = 2.0
    ffn = layer.ffn
    if isinstance(ffn, MoeFfn) and not ffn.shared_width:
        blocks = 1.0
    if not site.splits_sequence:
        once = links.seconds("tp", Op.ALL_REDUCE, num_bytes)
        return blocks * once, blocks * once
    gather = links.seconds("tp", Op.ALL_GATHER, num_bytes)
    scatter = links.seconds("tp", Op.REDUCE_SCATTER, num_bytes)
    return blocks * (gather + scatter), blocks * (2.0 * gather + scatter)


def _cp_seconds(site: Site, layer: Layer) -> tuple[float, float]:
    """Ring of keys and values; backward also their gradients. A state travels once."""
    mesh = site.run.mesh
    if mesh.cp == 1:
        return 0.0, 0.0
    _, keys = layer_heads(layer)
    heads = getattr(layer.attention, "num_kv_heads", mesh.attn_tp)
    num_bytes = WIRE * site.tokens * keys / min(mesh.attn_tp, heads)
    hop = site.links.seconds("cp", Op.ALL_GATHER, num_bytes * mesh.cp)
    return hop, 2.0 * hop


def _ep_seconds(site: Site, layer: Layer) -> tuple[float, float]:
    """Dispatch and combine, forward and backward; gathers inside an expert's own group."""
    mesh, links, ffn = site.run.mesh, site.links, layer.ffn
    if not isinstance(ffn, MoeFfn):
        return 0.0, 0.0
    hidden = float(ffn.expert_hidden or site.model.hidden_size)
    token_bytes = site.tokens / mesh.attn_tp * hidden
    sent = min(WIRE, BYTES_PER_ELEMENT[site.compute])
    there = links.expert_exchange_seconds(Op.ALL_TO_ALL, token_bytes * sent, ffn.top_k)
    back = links.expert_exchange_seconds(Op.ALL_TO_ALL, token_bytes * WIRE, ffn.top_k)
    gathered = WIRE * token_bytes * mesh.expert_tp * ffn.top_k
    if mesh.ep == 1:
        gathered = WIRE * token_bytes * mesh.expert_tp
    gather = links.seconds("expert_tp", Op.ALL_GATHER, gathered)
    scatter = links.seconds("expert_tp", Op.REDUCE_SCATTER, gathered)
    return there + back + gather + scatter, 2.0 * back + gather + scatter


def block_times(site: Site, layer: Layer) -> LayerTimes:
    """Price one layer of one microbatch without its routed experts.

    Depends on the run's tokens, ``attn_tp`` and ``cp``, not on how experts are spread.
    """
    matmul, copies = _matmul_times(site, layer, routed=False)
    return LayerTimes(
        matmul=matmul,
        core=_core_times(site, layer),
        elementwise=_elementwise_times(site, layer) + copies,
        host=_host_times(site, layer),
        tp=_tp_seconds(site, layer),
        cp=_cp_seconds(site, layer),
        ep=(0.0, 0.0),
    )


def expert_times(site: Site, layer: Layer) -> LayerTimes:
    """Price the routed experts of one layer and their messages.

    Depends on ``tokens / attn_tp``, ``ep`` and ``expert_tp`` alone.
    """
    matmul, copies = _matmul_times(site, layer, routed=True)
    return LayerTimes(matmul=matmul, elementwise=copies, ep=_ep_seconds(site, layer))


def layer_times(site: Site, layer: Layer) -> LayerTimes:
    """Price one layer of one microbatch."""
    return block_times(site, layer) + expert_times(site, layer)
