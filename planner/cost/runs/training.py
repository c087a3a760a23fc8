"""Time and memory of one optimizer step of a given layout.

    step = m t + bubble + hops + gradients + optimizer

with ``m`` microbatches of ``t`` seconds on the slowest stage. ``t`` counts multiplies in three
passes, attention cores, elementwise kernels and messages by layer
(:mod:`planner.cost.runs.training_layer`), what is exposed of each message
(:mod:`planner.cost.overlap`), and embedding and head on the first and last stage.
"""

from __future__ import annotations

from collections.abc import Sequence

from planner.cost.block import matmul_rate
from planner.cost.overlap import exposed_seconds, hides
from planner.cost.price import chip_flop_per_s
from planner.cost.runs.gemm import achieved_hbm_bytes_per_s, sustained_chip
from planner.cost.runs.mesh_links import MeshLinks
from planner.cost.runs.optimizer import layer_update_flop, traffic_bytes
from planner.cost.runs.record import RunPrediction, RunTerm
from planner.cost.runs.train_memory import training_memory
from planner.cost.runs.training_layer import WIRE, Site
from planner.cost.runs.training_links import TrainingLinks
from planner.cost.runs.training_pipeline import bubble_seconds, head_stage, stage_layers
from planner.cost.runs.training_shards import LocalParams, dense_ranks, layer_local, table_local
from planner.cost.runs.training_stage import StageCost, stage_costs
from planner.domain.cost import Bound
from planner.domain.curves import Op
from planner.domain.dtypes import BYTES_PER_ELEMENT
from planner.domain.model import Layer, ModelSpec
from planner.domain.run import Optimizer, Overlap, Run, ScheduleKind
from planner.errors import SpecError
from planner.topology.graph import Topology

# Kernels of a step outside the layers, launched one by one: optimizer, norm of the gradients,
# copies. Calibrated on every fourth published training step.
STEP_KERNELS = 10_000

BOUNDS = {
    "matmul": Bound.COMPUTE,
    "attention": Bound.COMPUTE,
    "elementwise": Bound.MEMORY,
    "host": Bound.OVERHEAD,
    "tensor_parallel": Bound.NETWORK,
    "context_parallel": Bound.NETWORK,
    "expert_parallel": Bound.NETWORK,
    "recompute": Bound.COMPUTE,
    "weight_sharding": Bound.NETWORK,
    "embedding": Bound.MEMORY,
    "head": Bound.COMPUTE,
    "bubble": Bound.IDLE,
    "pipeline_hops": Bound.NETWORK,
    "gradients": Bound.NETWORK,
    "optimizer": Bound.MEMORY,
}


def _check(model: ModelSpec, topology: Topology, run: Run) -> None:
    mesh = run.mesh
    if mesh.num_chips > topology.num_chips:
        raise SpecError(
            f"the run uses {mesh.num_chips} chips, the machine has {topology.num_chips}",
            "size the machine up",
        )
    try:
        matmul_rate(topology.chip, model.precision.activations, model.precision.activations)
    except ValueError as error:
        raise SpecError(str(error), "choose another format for the multiplies") from error
    if run.microbatch < 1 or run.seq_len < 1:
        raise SpecError(
            "a training run needs a microbatch and a sequence length",
            "give microbatch and seq_len",
        )
    # Embedding and head may be the first and the last chunk.
    if mesh.pp * max(1, mesh.virtual_stages) > len(model.layers) + 2:
        raise SpecError(
            f"{model.name} has {len(model.layers)} layers for "
            f"{mesh.pp} x {mesh.virtual_stages} pipeline chunks",
            "use fewer stages or chunks",
        )
    if mesh.stage_chips % (mesh.ep * mesh.expert_tp):
        raise SpecError(
            f"expert groups of {mesh.ep} x {mesh.expert_tp} chips do not divide a stage of "
            f"{mesh.stage_chips}",
            "choose ep and expert_tp that divide attn_tp x cp x attn_dp",
        )


def _hop_seconds(site: Site) -> tuple[float, float]:
    """Pipeline messages: on the path of filling and draining, and beside the microbatches.

    A plain schedule waits for its two messages per microbatch; an interleaved one sends behind
    the next chunk's computation (Megatron-LM ``overlap_p2p_comm``).
    """
    run, mesh = site.run, site.run.mesh
    if mesh.pp == 1:
        return 0.0, 0.0
    interleaved = run.schedule is ScheduleKind.INTERLEAVED
    num_bytes = WIRE * site.tokens * site.model.hidden_size
    if run.sequence_parallel or interleaved:
        num_bytes /= mesh.attn_tp
    hop = site.links.links.hop_seconds(num_bytes)
    each = 2.0 * hop * max(1, mesh.virtual_stages)
    share = site.core_share if interleaved else 1.0
    return 2.0 * (mesh.pp - 1) * hop, share * run.num_microbatches * each


def _stage_params(site: Site) -> tuple[LocalParams, ...]:
    """Parameters on one chip of each stage."""
    mesh, model = site.run.mesh, site.model
    known: dict[Layer, LocalParams] = {}
    result = []
    for index, layers in enumerate(site.stages):
        total = LocalParams()
        for layer, count in layers:
            if layer not in known:
                known[layer] = layer_local(model, layer, mesh)
            total += known[layer].times(count)
        if index == 0:
            total += table_local(model, mesh, head=False)
        if index == head_stage(site.run):
            total += table_local(model, mesh, head=True)
        result.append(total)
    return tuple(result)


def _gradient_seconds(site: Site, params: LocalParams, stage: StageCost, layers: int) -> float:
    """Reduction of gradients once per step, and return of the weights.

    The reduction runs behind the backward pass of the last microbatch, all but its last
    layer's; weights return behind the first forward pass.
    """
    run, links = site.run, site.links
    if run.zero_stage >= 3:
        return 0.0
    stored = BYTES_PER_ELEMENT[site.model.precision.attention]
    op = Op.REDUCE_SCATTER if run.zero_stage else Op.ALL_REDUCE
    # From ZeRO-2 on every microbatch reduces its layers' gradients; tables are left.
    kept = params if run.zero_stage < 2 else LocalParams(dense=params.tables)
    reduce = links.seconds("cp_dp", op, kept.dense * site.grad_bytes)
    reduce += links.seconds("expert_dp", op, kept.expert * site.grad_bytes)
    gather = 0.0
    if run.zero_stage:
        gather = links.seconds("cp_dp", Op.ALL_GATHER, params.dense * stored)
        gather += links.seconds("expert_dp", Op.ALL_GATHER, params.expert * stored)
    if not hides(run, Overlap.DP):
        return reduce + gather
    times = stage.times
    backward = (times.input_grad + times.weight_grad) * (1.0 - 1.0 / layers)
    forward = times.forward * (1.0 - 1.0 / layers)
    ends = (reduce + gather) / layers
    rest = 1.0 - 1.0 / layers
    share = site.core_share
    return (
        ends
        + exposed_seconds(reduce * rest, backward, share)
        + exposed_seconds(gather * rest, forward, share)
    )


def _optimizer_seconds(site: Site, params: LocalParams) -> float:
    run = site.run
    sharded = run.zero_stage >= 1
    return (
        STEP_KERNELS * site.chip.efficiency.kernel_s
        + traffic_bytes(run, params, sharded) / achieved_hbm_bytes_per_s(site.chip)
        + _update_seconds(site, sharded)
    )


def _update_seconds(site: Site, sharded: bool) -> float:
    """Matrix products of the update on the busiest stage; Adam has none."""
    run, model = site.run, site.model
    if run.optimizer is not Optimizer.MUON:
        return 0.0
    per_layer = {
        layer: layer_update_flop(model, layer, run.mesh)
        for layers in site.stages
        for layer, _ in layers
    }
    flop = max(sum(per_layer[layer] * count for layer, count in layers) for layers in site.stages)
    shares = dense_ranks(run.mesh) if sharded else 1
    return flop / shares / chip_flop_per_s(site.chip, "bf16")


def predict_training(
    model: ModelSpec, topology: Topology, run: Run, counts: Sequence[int] | None = None
) -> RunPrediction:
    """Predict one optimizer step.

    Parameters
    ----------
    model : ModelSpec
        ``precision.activations`` is the format of matrix multiplies, ``precision.attention``
        that of the stored weights.
    topology : Topology
        At least as many chips as the run uses.
    counts : sequence of int, optional
        Layers of each pipeline chunk; as even as they divide by default.

    Raises
    ------
    SpecError
        The layout does not fit the model or the machine: names the reason.
    """
    _check(model, topology, run)
    links = TrainingLinks(links=MeshLinks(topology=topology, mesh=run.mesh))
    site = Site(
        model=model,
        chip=sustained_chip(topology.chip),
        links=links,
        run=run,
        stages=stage_layers(model, run, counts),
    )
    stages = stage_costs(site)
    params = _stage_params(site)
    times = tuple(stage.times for stage in stages)
    slowest = max(range(len(stages)), key=lambda index: times[index].total)
    count = run.num_microbatches
    seconds = {name: part.total * count for name, part in stages[slowest].terms.items()}
    fill, beside = _hop_seconds(site)
    seconds["bubble"] = bubble_seconds(run, times)
    seconds["pipeline_hops"] = fill + beside
    layers = max(1, sum(count for _, count in site.stages[slowest]))
    fullest = max(params, key=lambda own: own.total)
    seconds["gradients"] = _gradient_seconds(site, fullest, stages[slowest], layers)
    seconds["optimizer"] = _optimizer_seconds(site, fullest)
    terms = tuple(
        RunTerm(name=name, seconds=value, bound=BOUNDS[name])
        for name, value in seconds.items()
        if value > 0
    )
    return RunPrediction(
        seconds=sum(term.seconds for term in terms),
        terms=terms,
        memory=training_memory(site, params),
    )
