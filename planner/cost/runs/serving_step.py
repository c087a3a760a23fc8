"""Seconds of one pass of a serving engine: prompt chunks and decoding sequences together.

Weights are read once for all tokens of the pass; attention of the prompts and of the
decoding sequences are two kernels; collectives carry all tokens.

    t = sum over layers (matmuls + attention cores + elementwise kernels + collectives) + head

Assumptions
-----------
- Matrix multiplies follow :mod:`planner.cost.runs.gemm`; experts receive equal shares, an
  expert is touched by none of ``T`` tokens with probability ``(1 - top_k / E)^T``.
- Data-parallel attention ranks hold equal shares of the decoding sequences. Experts receive
  tokens by dispatch and combine, or by gathering all tokens and scattering the sums,
  whichever is faster on the machine: engines offer both.
- An all-reduce of a layer takes :data:`~planner.cost.runs.serving_engine.RANK_SKEW` times as
  long as in a loop of its own, a paged attention kernel reads the cache at
  :data:`~planner.cost.runs.serving_engine.PAGED_READ` of a stream.
- Workers start at the first chip of a scale-up domain.
- Sampling reads and writes the logits twice.
- Elementwise kernels (norms with residual, rotary embedding, activation, quantisation) read
  and write the residual stream twice per half layer, and the inner widths once.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from planner.cost.attention import decode_core, kv_bytes_per_sequence, kv_bytes_read, kv_shard_ways
from planner.cost.block import WIRE_BYTES, expert_bytes, matmul_rate, shard_share
from planner.cost.price import CORE_RATE
from planner.cost.runs.gemm import achieved_hbm_bytes_per_s, matmul_seconds
from planner.cost.runs.mesh_links import MeshLinks
from planner.cost.runs.serving_engine import PAGED_READ, RANK_SKEW, small_kernels
from planner.cost.sequence_attention import sequence_core
from planner.cost.step import layer_groups
from planner.cost.weights import layer_weights, table_weights, weight_bytes
from planner.domain.curves import Op
from planner.domain.dtypes import BYTES_PER_ELEMENT
from planner.domain.hardware import Chip
from planner.domain.model import DenseFfn, Layer, ModelSpec, MoeFfn, Weight, WeightRole
from planner.domain.run import Mesh
from planner.domain.serving import ServingPool
from planner.topology.collectives import collective_rates
from planner.topology.graph import Topology
from planner.topology.groups import group_shape
from planner.topology.rate import CollectiveRate

_SAMPLING_PASSES = 4.0  # of the bf16 logits: two reads, two writes


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """What one pass carries, over all attention ranks of a worker.

    Parameters
    ----------
    prompt_tokens : float
        New prompt tokens.
    prompt_len, cached_len : float
        Tokens of the prompts that they belong to, and those of them that are cached.
    sequences : float
        Decoding sequences.
    context : float
        Their mean cached tokens.
    queries : int
        Tokens that each decoding sequence sends through the model: 1 and the drafts.
    prompt_ranks : int
        Attention ranks among which the prompts are spread: a prompt is not split.
    """

    sequences: float = 0.0
    context: float = 0.0
    prompt_tokens: float = 0.0
    prompt_len: float = 0.0
    cached_len: float = 0.0
    queries: int = 1
    prompt_ranks: int = 1

    @property
    def tokens(self) -> float:
        """Tokens that go through every layer."""
        return self.prompt_tokens + self.sequences * self.queries


@dataclass(frozen=True, kw_only=True, slots=True)
class StepSeconds:
    """One pass, part by part.

    ``matmuls`` are those of attention, dense FFNs, shared experts and routers, ``experts``
    those of routed experts, ``head`` the output head with gathering and sampling.
    """

    matmuls: float = 0.0
    experts: float = 0.0
    attention: float = 0.0
    elementwise: float = 0.0
    collectives: float = 0.0
    head: float = 0.0

    @property
    def total(self) -> float:
        """All of it."""
        return (
            self.matmuls
            + self.experts
            + self.attention
            + self.elementwise
            + self.collectives
            + self.head
        )


@dataclass(frozen=True, slots=True)
class _Matmul:
    """Matrix multiplies of one rate: FLOP of one token, bytes, kernels."""

    rate: str
    flop: float
    num_bytes: float
    num_kernels: int


@dataclass(frozen=True, kw_only=True, slots=True)
class _LayerPlan:
    """One kind of layer, counted once for a layout.

    Shares are those of the fullest chip; ``inner_width`` are elements of FFN intermediates
    of one token on it, ``expert_params`` and ``expert_bytes`` its part of one expert.
    """

    layer: Layer
    count: int
    matmuls: tuple[_Matmul, ...]
    cache_share: float
    head_share: float
    inner_width: float
    expert_params: float
    expert_bytes: float
    expert_kernels: int


def _matmuls(
    model: ModelSpec, chip: Chip, weights: tuple[Weight, ...], attn_tp: int
) -> tuple[_Matmul, ...]:
    found: dict[str, list[float]] = {}
    for weight in weights:
        if weight.role is WeightRole.ROUTED_EXPERT or not weight.matmul_params:
            continue
        dtype = model.precision.of_role(weight.role.value)
        rate = matmul_rate(chip, dtype, model.precision.activations)
        share = float(shard_share(weight, attn_tp))
        sums = found.setdefault(rate, [0.0, 0.0, 0.0])
        sums[0] += 2.0 * weight.matmul_params * share
        sums[1] += weight_bytes(weight, model.precision) * share
        sums[2] += 1
    return tuple(_Matmul(rate, s[0], s[1], int(s[2])) for rate, s in found.items())


def _ceil_share(ways: float, degree: float) -> float:
    """Fraction of ``ways`` equal parts on the fullest of ``degree`` chips."""
    used = min(ways, degree)
    return -(-ways // used) / ways


def _plan(model: ModelSpec, chip: Chip, pool: ServingPool, layer: Layer, count: int) -> _LayerPlan:
    weights = layer_weights(model, layer)
    experts = [w for w in weights if w.role is WeightRole.ROUTED_EXPERT]
    ffn = layer.ffn
    width = float(ffn.width if isinstance(ffn, DenseFfn) else ffn.shared_width) / pool.attn_tp
    share = 1.0
    if isinstance(ffn, MoeFfn):
        share = _ceil_share(float(ffn.expert_width), float(pool.expert_tp))
        width += ffn.top_k * ffn.expert_width / (pool.expert_tp * pool.ep / pool.attn_dp)
    ways = float(kv_shard_ways(layer.attention))
    return _LayerPlan(
        layer=layer,
        count=count,
        matmuls=_matmuls(model, chip, weights, pool.attn_tp),
        cache_share=_ceil_share(ways, float(pool.attn_tp)),
        head_share=_ceil_share(
            float(decode_core(layer.attention, 1.0).num_heads), float(pool.attn_tp)
        ),
        inner_width=width,
        expert_params=share * sum(w.matmul_params for w in experts),
        expert_bytes=share * (expert_bytes(model, layer) if experts else 0.0),
        expert_kernels=sum(w.matmul_params > 0 for w in experts),
    )


class StepPricer:
    """Prices passes of one worker of a pool; counts everything once.

    Parameters
    ----------
    model : ModelSpec
        With the precision of the run.
    topology : Topology
        The machine.
    pool : ServingPool
        Layout of the worker; the number of workers does not matter.

    Raises
    ------
    ValueError
        The chip has no rate for a number format of the model.
    """

    def __init__(self, model: ModelSpec, topology: Topology, pool: ServingPool) -> None:
        self.model = model
        self.topology = topology
        self.pool = pool
        self.chip = topology.chip
        self.hbm = achieved_hbm_bytes_per_s(self.chip)
        peak = dict(self.chip.peak_flop_per_s)[CORE_RATE]
        self.decode_core_rate = peak * self.chip.efficiency.attention
        self.prompt_core_rate = peak * self.chip.efficiency.attention_forward
        self.dispatch_element = BYTES_PER_ELEMENT[model.precision.activations]
        self._links = MeshLinks(
            topology=topology,
            mesh=Mesh(
                attn_tp=pool.attn_tp,
                attn_dp=pool.attn_dp,
                ep=pool.ep,
                expert_tp=pool.expert_tp,
            ),
        )
        self._rates: dict[tuple[str, Op], tuple[CollectiveRate, ...]] = {}

    @cached_property
    def plans(self) -> tuple[_LayerPlan, ...]:
        """Layers by kind."""
        return tuple(
            _plan(self.model, self.chip, self.pool, group.layer, len(group.indices))
            for group in layer_groups(self.model)
        )

    @cached_property
    def head(self) -> tuple[_Matmul, ...]:
        """The output head."""
        tables = tuple(w for w in table_weights(self.model) if w.role is WeightRole.HEAD)
        return _matmuls(self.model, self.chip, tables, self.pool.attn_tp)

    def _group(self, axis: str) -> tuple[int, ...]:
        if axis == "worker":
            return tuple(range(self.pool.worker_chips))
        return self._links.group(axis)

    def collective_s(self, axis: str, op: Op, num_bytes: float) -> float:
        """One collective by the fastest kernel of the machine."""
        rates = self._rates.get((axis, op))
        if rates is None:
            chips = self._group(axis)
            rates = ()
            if len(chips) > 1:
                shape = group_shape(self.topology, chips)
                rates = tuple(collective_rates(self.topology, op, shape).values())
            self._rates[axis, op] = rates
        return min((rate.seconds(num_bytes) for rate in rates), default=0.0)

    def _all_matmuls(self, matmuls: tuple[_Matmul, ...], tokens: float) -> float:
        return sum(
            matmul_seconds(self.chip, m.rate, m.flop * tokens, m.num_bytes, tokens, m.num_kernels)
            for m in matmuls
        )

    def _experts(self, plan: _LayerPlan, tokens: float) -> float:
        ffn = plan.layer.ffn
        if not isinstance(ffn, MoeFfn):
            return 0.0
        local = -(-ffn.num_experts // self.pool.ep)
        touched = local * (1.0 - (1.0 - ffn.top_k / ffn.num_experts) ** tokens)
        pairs = tokens * ffn.top_k * local / ffn.num_experts
        rate = matmul_rate(
            self.chip, self.model.precision.routed_expert, self.model.precision.activations
        )
        return matmul_seconds(
            self.chip,
            rate,
            2.0 * plan.expert_params * pairs,
            touched * plan.expert_bytes,
            pairs / touched,
            plan.expert_kernels,
        )

    def _attention(self, plan: _LayerPlan, batch: Batch) -> float:
        attention = plan.layer.attention
        total = 0.0
        if batch.sequences > 0:
            own = batch.sequences / self.pool.attn_dp
            core = decode_core(attention, batch.context)
            flop = (core.flop - core.replicated_flop) * plan.head_share + core.replicated_flop
            read = kv_bytes_read(attention, batch.context, self.model.precision.kv)
            compute = flop * own * batch.queries / self.decode_core_rate
            total += max(compute, read * plan.cache_share * own / (self.hbm * PAGED_READ))
            total += self.chip.efficiency.kernel_s
        if batch.prompt_tokens > 0:
            # Only whole prompts are counted: chunks of one prompt cost what it costs.
            prompts = batch.prompt_tokens / max(1.0, batch.prompt_len - batch.cached_len)
            own = prompts / min(self.pool.attn_dp, batch.prompt_ranks)
            long = sequence_core(attention, batch.prompt_len - batch.cached_len, batch.cached_len)
            split = long.flop - long.replicated_flop + long.expand_flop
            flop = split * plan.head_share + long.replicated_flop
            total += own * flop / self.prompt_core_rate
            total += self.chip.efficiency.kernel_s
        return total

    def _rank_tokens(self, batch: Batch) -> float:
        """Tokens of the busiest attention rank."""
        decoding = batch.sequences * batch.queries / self.pool.attn_dp
        return decoding + batch.prompt_tokens / min(self.pool.attn_dp, batch.prompt_ranks)

    def _elementwise(self, plan: _LayerPlan, own: float) -> float:
        moved = WIRE_BYTES * own * (8.0 * self.model.hidden_size + 3.0 * plan.inner_width)
        return moved / self.hbm + small_kernels(plan.layer) * self.chip.efficiency.kernel_s

    def _collectives(self, plan: _LayerPlan, tokens: float, own: float) -> float:
        pool, hidden = self.pool, float(self.model.hidden_size)
        reduce = RANK_SKEW * self.collective_s("tp", Op.ALL_REDUCE, own * hidden * WIRE_BYTES)
        if not isinstance(plan.layer.ffn, MoeFfn) or pool.attn_dp == 1:
            return 2.0 * reduce
        copies = own / pool.attn_tp * plan.layer.ffn.top_k * hidden
        sent = self.collective_s("ep", Op.DISPATCH, copies * self.dispatch_element)
        sent += self.collective_s("ep", Op.COMBINE, copies * WIRE_BYTES)
        everyone = tokens * hidden
        gathered = self.collective_s(
            "worker", Op.ALL_GATHER, everyone * self.dispatch_element
        ) + self.collective_s("worker", Op.REDUCE_SCATTER, everyone * WIRE_BYTES)
        if pool.expert_tp > 1 or pool.ep == 1:
            return reduce + gathered
        return reduce + min(sent, gathered)

    def _head(self, batch: Batch) -> float:
        finished = batch.prompt_tokens / max(1.0, batch.prompt_len - batch.cached_len)
        rows = (batch.sequences * batch.queries + finished) / self.pool.attn_dp
        logits = rows * self.model.vocab_size * WIRE_BYTES
        gather = self.collective_s("tp", Op.ALL_GATHER, logits)
        sampling = _SAMPLING_PASSES * logits / self.hbm
        return self._all_matmuls(self.head, rows) + gather + sampling

    def seconds(self, batch: Batch) -> StepSeconds:
        """Time of one pass of one worker, host work excluded."""
        tokens = batch.tokens
        if tokens <= 0:
            return StepSeconds()
        own = self._rank_tokens(batch)
        plans = self.plans
        return StepSeconds(
            matmuls=sum(p.count * self._all_matmuls(p.matmuls, own) for p in plans),
            experts=sum(p.count * self._experts(p, tokens) for p in plans),
            attention=sum(p.count * self._attention(p, batch) for p in plans),
            elementwise=sum(p.count * self._elementwise(p, own) for p in plans),
            collectives=sum(p.count * self._collectives(p, tokens, own) for p in plans),
            head=self._head(batch),
        )

    @cached_property
    def num_operations(self) -> float:
        """Operations of one pass that the host launches when no graph is replayed."""
        total = 0.0
        for plan in self.plans:
            own = float(sum(m.num_kernels for m in plan.matmuls) + plan.expert_kernels)
            own += small_kernels(plan.layer) + 1
            own += 2 * (self.pool.attn_tp > 1) + 2 * (self.pool.attn_dp > 1)
            total += plan.count * own
        return total

    def cache_bytes(self, tokens: float) -> float:
        """Cached bytes of one sequence on the fullest chip of its attention group."""
        kv = self.model.precision.kv
        return sum(
            p.count * p.cache_share * kv_bytes_per_sequence(p.layer.attention, tokens, kv)
            for p in self.plans
        )

    def sequence_bytes(self, tokens: float) -> float:
        """Cached bytes of one sequence, every element once."""
        kv = self.model.precision.kv
        return sum(
            p.count * kv_bytes_per_sequence(p.layer.attention, tokens, kv) for p in self.plans
        )

    @cached_property
    def weights_bytes(self) -> float:
        """Weights on the fullest chip."""
        model, pool = self.model, self.pool
        total = 0.0
        for plan in self.plans:
            for weight in layer_weights(model, plan.layer):
                if weight.role is not WeightRole.ROUTED_EXPERT:
                    share = float(shard_share(weight, pool.attn_tp))
                    total += plan.count * share * weight_bytes(weight, model.precision)
            if isinstance(plan.layer.ffn, MoeFfn):
                local = -(-plan.layer.ffn.num_experts // pool.ep)
                total += plan.count * local * plan.expert_bytes
        for weight in table_weights(model):
            if not weight.tied:
                share = float(shard_share(weight, pool.attn_tp))
                total += share * weight_bytes(weight, model.precision)
        return total
