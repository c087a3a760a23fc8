"""Between a decode layout and what a serving engine is told: both ways."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from planner.api import case_of_layout
from planner.cost.routing import moe_layer_indices, moe_shape
from planner.cost.runs.serving_engine import HABITS
from planner.deployment.assemble import Case, Decisions, most_that_run
from planner.deployment.express import Expressed
from planner.deployment.maps import (
    grouped,
    linear_slots,
    rebalanced_slots,
    rows_of,
    start_slots,
)
from planner.deployment.ranks import ONLY_HOST, by_host, devices_of, host_of
from planner.deployment.rules import NAMES, RuleCase, misfits
from planner.domain.assignment import SlotMap
from planner.domain.degrees import Degrees, OverlapMode
from planner.domain.deployment import Engine, PoolRole, ServingDeployment
from planner.domain.layout import Inputs, Layout
from planner.domain.serving import EngineFamily
from planner.errors import SpecError

# Running sequences of a DP rank where no flag says (vLLM 0.33.0 on chips of 70 GiB and more;
# TensorRT-LLM 1.3); SGLang fills its cache.
DEFAULT_SEQUENCES = {Engine.VLLM: 1024, Engine.SGLANG: 4096, Engine.TRTLLM: 2048}
MOST_SEQUENCES = 1_000_000


def token_budget(engine: Engine, sequences: int, draft: int) -> int:
    """Tokens of one pass of an attention rank: the engine's habit, and room for every sequence."""
    return max(HABITS[EngineFamily(engine.value)].chunk_tokens, sequences * (1 + draft))


def told_to(
    expressed: Expressed,
    *,
    max_context: int | None = None,
    draft_model: str | None = None,
    role: PoolRole | None = None,
) -> ServingDeployment:
    """What the engine is told about a layout that it can express.

    Parameters
    ----------
    max_context : int, optional
        Tokens of the longest sequence. When absent, what the caches of one attention rank hold
        in all, but no more than the model knows: no longer sequence could run.
    """
    layout, engine = expressed.layout, expressed.engine
    case = case_of_layout(layout)
    model, d = case.setting.model, layout.degrees
    num_experts = case.loads.shape[1] if d.num_slots else 0
    sequences = max(
        sum(microbatch[rank] for microbatch in split.sequences)
        for split in layout.batches
        for rank in range(d.attn_dp)
    )
    if max_context is None:
        held = max(sequences, 2) * (layout.inputs.context_tokens + (layout.inputs.seq_len or 0))
        max_context = min(held, model.max_context or held)
    placement = None
    # TensorRT-LLM reads the number of slots from the file of the placement alone.
    silent = expressed.start_slots_hold and not (
        engine is Engine.TRTLLM and d.num_slots > num_experts
    )
    if engine is not Engine.VLLM and d.num_slots and not silent:
        rows = rows_of([SlotMap(layers=m.layers, slots=m.slots) for m in layout.experts])
        placement = tuple(
            (layer, tuple(expert for held_slots in row for expert in held_slots))
            for layer, row in rows.items()
        )
    return ServingDeployment(
        engine=engine,
        tp=d.attn_tp,
        dp=d.attn_dp,
        cp=d.cp,
        pp=d.pp,
        ep=d.ep,
        instances=d.replicas,
        stage_layers=stage_layers_of(layout) if d.pp > 1 else None,
        max_sequences=sequences,
        token_budget=_budget(engine, layout, sequences),
        max_context=max_context,
        kv=model.precision.kv,
        draft=d.draft,
        draft_model=draft_model if d.draft else None,
        overlap_ep=d.overlap == "ep",
        extra_slots=d.num_slots - num_experts if d.num_slots else None,
        total_slots=d.num_slots or None,
        placement=placement,
        rebalances=expressed.rebalances,
        role=role,
    )


def _budget(engine: Engine, layout: Layout, sequences: int) -> int:
    """Tokens of one pass: of a prefill all new ones of its sequences."""
    new = layout.inputs.seq_len
    return token_budget(engine, sequences, layout.degrees.draft) if new is None else sequences * new


def stage_layers_of(layout: Layout) -> tuple[int, ...]:
    """Layers of every stage."""
    return tuple(stage.end_layer - stage.first_layer for stage in layout.stages)


def default_stages(engine: Engine, num_layers: int, pp: int) -> tuple[int, ...]:
    """The engine's own split of layers over stages.

    vLLM 0.33.0 (``distributed/utils.py``) gives the remainder to stages -2, -3, ...; SGLang
    0.5.23 (``distributed/utils.py``) to the last ones, TensorRT-LLM (``mapping.py``) to the
    first.
    """
    base, more = divmod(num_layers, pp)
    counts = [base] * pp
    for index in range(more):
        match engine:
            case Engine.VLLM:
                counts[-(index + 2) if pp > 1 else 0] += 1
            case Engine.SGLANG:
                counts[-(index + 1)] += 1
            case _:
                counts[index] += 1
    return tuple(counts)


def degrees_of_told(told: ServingDeployment, case: Case) -> Degrees:
    """Degrees of a deployment of the model.

    Raises
    ------
    SpecError
        The flags do not fit the model.
    """
    shape = moe_shape(case.setting.model)
    overlap = OverlapMode.EP if told.overlap_ep else OverlapMode.NONE
    if shape is None:
        return Degrees(
            attn_tp=told.tp,
            attn_dp=1,
            pp=told.pp,
            ep=1,
            expert_tp=1,
            num_slots=0,
            microbatches=told.pp,
            replicas=told.instances * told.dp,
            cp=told.cp,
            draft=told.draft,
        )
    stage = told.tp * told.dp * told.cp
    slots = told.total_slots or shape[0] + (told.extra_slots or 0)
    if stage % told.ep:
        raise SpecError(f"EP {told.ep} does not divide the {stage} chips of a stage")
    if slots < shape[0] or (slots > shape[0] and slots % told.ep):
        raise SpecError(
            f"{slots} expert slots on {told.ep} expert ranks for {shape[0]} experts",
            "the engine refuses them: slots divide by the ranks and hold every expert",
        )
    if told.engine is not Engine.VLLM and slots % told.ep:
        raise SpecError(
            f"{slots} experts on {told.ep} expert ranks",
            "the engine refuses them: equally many on each rank",
        )
    return Degrees(
        attn_tp=told.tp,
        attn_dp=told.dp,
        pp=told.pp,
        ep=told.ep,
        expert_tp=stage // told.ep,
        num_slots=slots,
        microbatches=told.pp,
        replicas=told.instances,
        cp=told.cp,
        overlap=overlap,
        draft=told.draft,
    )


def _slot_maps(told: ServingDeployment, case: Case, degrees: Degrees) -> tuple[SlotMap, ...]:
    if not degrees.num_slots:
        return ()
    layers = moe_layer_indices(case.setting.model)
    num_experts = case.loads.shape[1]
    if told.rebalances and degrees.num_slots % degrees.ep == 0 and degrees.ep > 1:
        return grouped(layers, rebalanced_slots(case.loads, degrees.ep, degrees.num_slots))
    if told.placement is None:
        if degrees.num_slots == num_experts:
            row = linear_slots(num_experts, degrees.ep)
        else:
            row = start_slots(num_experts, degrees.ep, degrees.num_slots)
        return grouped(layers, [row] * len(layers))
    rows = dict(told.placement)
    size = degrees.num_slots // degrees.ep
    found = []
    for layer in layers:
        own = rows.get(layer)
        if own is None:
            raise SpecError(f"the placement has no row for layer {layer}", "write all MoE layers")
        if len(own) != degrees.num_slots:
            raise SpecError(
                f"the placement of layer {layer} has {len(own)} slots, the flags say "
                f"{degrees.num_slots}"
            )
        found.append(tuple(own[r * size : (r + 1) * size] for r in range(degrees.ep)))
    return grouped(layers, found)


@dataclass(frozen=True, kw_only=True, slots=True)
class Deployment:
    """A deployment, priced.

    Parameters
    ----------
    allowed, running : int
        Sequences of an attention rank that the flags allow, and those that memory holds.
    refusals : tuple of str
        What the engine itself would not accept, or would have no use for.
    """

    told: ServingDeployment
    layout: Layout
    allowed: int
    running: int
    refusals: tuple[str, ...] = ()


def deploy(
    told: ServingDeployment,
    inputs: Inputs,
    case: Case,
    chips: Sequence[Sequence[str]] | None = None,
) -> Deployment:
    """The layout of a deployment, priced as the engine places it.

    Parameters
    ----------
    chips : sequence, optional
        Chips of every instance in the engine's order of ranks; those of the machine in its
        order when absent.

    Raises
    ------
    SpecError
        The flags contradict the model or the machine, or not one sequence fits.
    """
    degrees = degrees_of_told(told, case)
    size = degrees.stage_chips * degrees.pp
    if chips is None:
        chips = _first_chips(case, degrees.replicas, size)
    if len(chips) != degrees.replicas or any(len(own) != size for own in chips):
        raise SpecError(
            f"hosts are listed for {len(chips)} instances of {len(chips[0]) if chips else 0} "
            f"chips, the flags are {degrees.replicas} of {size}"
        )
    num_layers = len(case.setting.model.layers)
    if degrees.pp > num_layers:
        raise SpecError(f"PP {degrees.pp} for a model of {num_layers} layers")
    stages = told.stage_layers or default_stages(told.engine, num_layers, degrees.pp)
    if len(stages) != degrees.pp or sum(stages) != num_layers or min(stages) < 1:
        raise SpecError(
            f"stages of {', '.join(map(str, stages))} layers: {degrees.pp} stages of "
            f"{num_layers} layers in all are expected"
        )
    decided = Decisions(
        engine=told.engine,
        degrees=degrees,
        chips=tuple(tuple(own) for own in chips),
        stage_layers=stages,
        slot_maps=_slot_maps(told, case, degrees),
        sequences=min(told.max_sequences or DEFAULT_SEQUENCES[told.engine], MOST_SEQUENCES),
    )
    found = most_that_run(decided, inputs, case)
    if found is None:
        raise SpecError(
            "the deployment does not fit: the memory of a chip does not hold one sequence per rank",
            "shorten --context, or check the format of the weights",
        )
    running, layout = found
    return Deployment(
        told=told,
        layout=layout,
        allowed=decided.sequences,
        running=running,
        refusals=_refusals(told, case, degrees),
    )


def _refusals(told: ServingDeployment, case: Case, degrees: Degrees) -> tuple[str, ...]:
    rules = RuleCase(engine=told.engine, model=case.setting.model, has_draft_model=True)
    found = [f"{NAMES[told.engine]} refuses this: {one.reason}" for one in misfits(rules, degrees)]
    if told.ep > 1 and not degrees.num_slots:
        found.append(f"EP {told.ep} is without effect: the model has no experts")
    return tuple(found)


def _first_chips(case: Case, instances: int, size: int) -> list[tuple[str, ...]]:
    free = [
        name
        for chip, name in enumerate(case.topology.chip_names)
        if chip not in case.topology.spared.excluded
    ]
    if instances * size > len(free):
        raise SpecError(
            f"the deployment takes {instances * size} chips, the machine has {len(free)}",
            "size the machine up, for example --nodes 4",
        )
    return [tuple(free[index * size : (index + 1) * size]) for index in range(instances)]


def chips_on(hosts: Sequence[tuple[str, int]], case: Case, instances: int) -> list[tuple[str, ...]]:
    """Chips by host and device, in the order of ranks.

    Parameters
    ----------
    hosts : sequence of (str, int)
        Host and device of every rank, instance after instance; device -1 for the next free one.

    Raises
    ------
    SpecError
        The machine has no such host or device.
    """
    names = case.topology.chip_names
    devices = devices_of(names)
    place = {(host_of(name), devices[name]): name for name in names}
    known = list(dict.fromkeys(host_of(name) for name in by_host(names)))
    used: set[str] = set()
    found = []
    for host, device in hosts:
        if host not in known:
            raise SpecError(
                f"--hosts: the machine has no host '{host}'",
                f"its hosts are {known[0]} to {known[-1]}" if known != [ONLY_HOST] else "",
            )
        free = [
            number
            for (own, number), name in sorted(place.items())
            if own == host and name not in used
        ]
        number = device if device >= 0 else (free[0] if free else -1)
        chip = place.get((host, number))
        if chip is None or chip in used:
            raise SpecError(f"--hosts: host '{host}' has no free device {max(number, 0)}")
        used.add(chip)
        found.append(chip)
    size = len(found) // instances
    return [tuple(found[index * size : (index + 1) * size]) for index in range(instances)]
