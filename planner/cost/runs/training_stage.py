"""One microbatch on one pipeline stage: computation, and what its messages add to it.

Weights sharded over the data-parallel ranks (ZeRO-3, FSDP) are gathered layer by layer in the
forward and again in the backward pass, where their gradients are reduced; every microbatch
does so. Gradients that are kept as shares (ZeRO-2 and up) are reduced by every microbatch too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from planner.cost.overlap import exposed_seconds, hides
from planner.cost.runs.gemm import achieved_hbm_bytes_per_s
from planner.cost.runs.training_layer import LayerTimes, Site, layer_times
from planner.cost.runs.training_matmul import Kernel, PassTimes, kernel_times, split_share
from planner.cost.runs.training_pipeline import head_stage
from planner.cost.runs.training_shards import layer_local
from planner.cost.weights import table_weights
from planner.domain.curves import Op
from planner.domain.dtypes import BYTES_PER_ELEMENT, DType
from planner.domain.model import Layer, WeightRole
from planner.domain.run import Overlap, Recompute, ScheduleKind

# HBM bytes per logit of a softmax cross-entropy in 32 bits: the 16-bit logits read and
# widened, a maximum, exponentials with their sum, and the gradient written in 16 bits.
LOGIT_BYTES = 26.0


@dataclass(frozen=True, kw_only=True, slots=True)
class StageCost:
    """Seconds of one microbatch on one stage by term, in the three passes."""

    terms: Mapping[str, PassTimes] = field(default_factory=dict)

    @property
    def times(self) -> PassTimes:
        """Sums over the terms."""
        total = PassTimes()
        for part in self.terms.values():
            total += part
        return total


def _exposed(site: Site, message: float, compute: float) -> float:
    return exposed_seconds(message, compute, site.core_share)


def _tp_exposed(site: Site, times: LayerTimes) -> PassTimes:
    forward, backward = times.tp
    matmul = times.matmul
    behind = matmul.input_grad + matmul.weight_grad
    if hides(site.run, Overlap.TP) or site.links.topology.is_torus:
        return PassTimes(
            forward=_exposed(site, forward, matmul.forward),
            input_grad=_exposed(site, backward, behind),
        )
    return PassTimes(forward=forward, input_grad=backward)


def _ep_exposed(site: Site, times: LayerTimes) -> PassTimes:
    forward, backward = times.ep
    if not hides(site.run, Overlap.EP):
        return PassTimes(forward=forward, input_grad=backward)
    compute = times.compute
    return PassTimes(
        forward=_exposed(site, forward, compute.forward),
        input_grad=_exposed(site, backward, compute.input_grad + compute.weight_grad),
    )


def _cp_exposed(site: Site, times: LayerTimes) -> PassTimes:
    forward, backward = times.cp
    return PassTimes(
        forward=_exposed(site, forward, times.core.forward),
        input_grad=_exposed(site, backward, times.core.input_grad),
    )


def _gather_seconds(site: Site, layer: Layer) -> tuple[float, float]:
    """Messages of sharded weights of one layer: gather, and reduction of gradients."""
    if site.run.zero_stage < 2:
        return 0.0, 0.0
    local = layer_local(site.model, layer, site.run.mesh)
    stored = BYTES_PER_ELEMENT[site.model.precision.attention]
    links = site.links
    reduce = links.seconds("cp_dp", Op.REDUCE_SCATTER, local.dense * site.grad_bytes)
    reduce += links.seconds("expert_dp", Op.REDUCE_SCATTER, local.expert * site.grad_bytes)
    if site.run.zero_stage < 3:
        return 0.0, reduce
    gather = links.seconds("cp_dp", Op.ALL_GATHER, local.dense * stored)
    gather += links.seconds("expert_dp", Op.ALL_GATHER, local.expert * stored)
    return gather, reduce


def _recomputed(site: Site, times: LayerTimes, messages: PassTimes) -> float:
    """Forward work that the backward pass repeats."""
    match site.run.recompute:
        case Recompute.NONE:
            return 0.0
        case Recompute.SELECTIVE:
            return times.core.forward
        case _:
            return times.compute.forward + messages.forward


def _layer_terms(site: Site, layer: Layer) -> dict[str, PassTimes]:
    times = layer_times(site, layer)
    terms = {
        "matmul": times.matmul,
        "attention": times.core,
        "elementwise": times.elementwise,
        "host": times.host,
        "tensor_parallel": _tp_exposed(site, times),
        "context_parallel": _cp_exposed(site, times),
        "expert_parallel": _ep_exposed(site, times),
    }
    messages = terms["tensor_parallel"] + terms["context_parallel"] + terms["expert_parallel"]
    terms["recompute"] = PassTimes(input_grad=_recomputed(site, times, messages))
    busy = times.compute + messages + terms["recompute"]
    gather, reduce = _gather_seconds(site, layer)
    backward = busy.input_grad + busy.weight_grad
    if hides(site.run, Overlap.DP):
        terms["weight_sharding"] = PassTimes(
            forward=_exposed(site, gather, busy.forward),
            input_grad=_exposed(site, gather + reduce, backward),
        )
    else:
        terms["weight_sharding"] = PassTimes(forward=gather, input_grad=gather + reduce)
    return terms


def head_times(site: Site) -> PassTimes:
    """Output head and loss: multiplies in 16 bits, and passes over the logits."""
    head = next(w for w in table_weights(site.model) if w.role is WeightRole.HEAD)
    share = split_share(head, site.run.mesh.attn_tp)
    hidden = float(site.model.hidden_size)
    width = head.matmul_params / hidden * share
    kernel = Kernel(width_in=hidden, width_out=width, rows=site.tokens)
    times = kernel_times(site.chip, DType.BF16, kernel, site.grad_bytes)
    passes = LOGIT_BYTES * site.tokens * width / achieved_hbm_bytes_per_s(site.chip)
    return times + PassTimes(forward=0.6 * passes, input_grad=0.4 * passes)


def embedding_times(site: Site) -> PassTimes:
    """Look-up of rows, and adding to them backward."""
    moved = 2.0 * site.tokens * site.model.hidden_size
    hbm = achieved_hbm_bytes_per_s(site.chip)
    return PassTimes(forward=2.0 * moved / hbm, weight_grad=3.0 * moved / hbm)


def stage_costs(site: Site) -> tuple[StageCost, ...]:
    """Price every stage for one microbatch."""
    priced: dict[Layer, dict[str, PassTimes]] = {}
    result = []
    for index, layers in enumerate(site.stages):
        terms: dict[str, PassTimes] = {}
        for layer, count in layers:
            if layer not in priced:
                priced[layer] = _layer_terms(site, layer)
            for name, part in priced[layer].items():
                terms[name] = terms.get(name, PassTimes()) + part.times(count)
        if index == 0:
            terms["embedding"] = embedding_times(site)
        if index == head_stage(site.run):
            # Each multi-token-prediction layer passes its own tokens through the head.
            terms["head"] = head_times(site).times(1.0 + len(site.model.mtp_layers))
        result.append(StageCost(terms=terms))
    if site.run.schedule is ScheduleKind.DUALPIPE:
        return tuple(map(_both_directions, result, reversed(result)))
    return tuple(result)


def _both_directions(near: StageCost, far: StageCost) -> StageCost:
    """A device of DualPipe: half of its microbatches see one stage, half the mirrored one."""
    names = dict.fromkeys((*near.terms, *far.terms))
    nothing = PassTimes()
    terms = {
        name: (near.terms.get(name, nothing) + far.terms.get(name, nothing)).times(0.5)
        for name in names
    }
    return StageCost(terms=terms)
