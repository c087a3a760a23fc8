"""What training engines can be told, as rules over degrees and policies.

As in :mod:`planner.deployment.rules`, each rule returns None where the engine can express a
decision, otherwise what it cannot express and what it can. Sources:

- Megatron-LM core 0.20.0 (@d98e8a6): ``training/arguments.py``,
  ``core/transformer/transformer_config.py``;
- torchtitan @b5bcd76 and v0.2.2: ``config/configs.py``, ``config/job_config.py``,
  ``distributed/pipeline_parallel.py``;
- MaxText @e591f30: ``configs/base.yml``, ``configs/types.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import gcd

from msgspec import structs

from planner.domain.deployment import Engine
from planner.domain.model import LinearAttention, ModelSpec, MoeFfn
from planner.domain.run import Optimizer, Overlap, Recompute, ScheduleKind
from planner.domain.train_layout import TrainDegrees, TrainInputs

NAMES = {
    Engine.MEGATRON: "Megatron-LM",
    Engine.TORCHTITAN: "torchtitan",
    Engine.MAXTEXT: "MaxText",
}
VIRTUAL_STAGES = (2, 3, 4, 5, 6, 8, 10)
ALL_OVERLAPS = tuple(sorted(item.value for item in Overlap))
_SCHEDULES = {
    Engine.MEGATRON: (ScheduleKind.ONE_F_ONE_B, ScheduleKind.INTERLEAVED),
    Engine.TORCHTITAN: (
        ScheduleKind.ONE_F_ONE_B,
        ScheduleKind.INTERLEAVED,
        ScheduleKind.GPIPE,
        ScheduleKind.ZB_V,
    ),
    Engine.MAXTEXT: (ScheduleKind.GPIPE,),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainRuleCase:
    """Who trains which model on sequences of which length; ``old`` of torchtitan before 2026."""

    engine: Engine
    model: ModelSpec
    inputs: TrainInputs
    old: bool = False

    @property
    def name(self) -> str:
        """What people call the engine."""
        return NAMES[self.engine]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainMisfit:
    """What an engine cannot express, and degrees that it can."""

    reason: str
    instead: tuple[TrainDegrees, ...]


Rule = Callable[[TrainRuleCase, TrainDegrees], TrainMisfit | None]


def schedules_exist(case: TrainRuleCase, d: TrainDegrees) -> TrainMisfit | None:
    """Pipeline schedules by engine; MaxText runs all forward passes first."""
    known = _SCHEDULES[case.engine]
    if d.schedule is ScheduleKind.NONE or d.schedule in known:
        return None
    found = []
    for kind in known:
        if kind is ScheduleKind.INTERLEAVED:
            found += [
                structs.replace(d, schedule=kind, virtual_stages=v)
                for v in VIRTUAL_STAGES
                if d.pp * v <= len(case.model.layers) and d.microbatches % d.pp == 0
            ]
        elif kind is not ScheduleKind.ZB_V or 2 * d.pp <= len(case.model.layers):
            found.append(structs.replace(d, schedule=kind, virtual_stages=1))
    if case.engine is Engine.MAXTEXT:
        found += _without_pipeline(d)
    return TrainMisfit(
        reason=f"schedule {d.schedule.value}: {case.name} has "
        f"{', '.join(kind.value for kind in known)}",
        instead=tuple(found),
    )


def activations_are_recomputed(case: TrainRuleCase, d: TrainDegrees) -> TrainMisfit | None:
    """No engine recomputes from a layer's output."""
    if d.recompute is not Recompute.REVERSIBLE:
        return None
    return TrainMisfit(
        reason="recompute reversible",
        instead=(structs.replace(d, recompute=Recompute.FULL),),
    )


def weights_are_sharded(case: TrainRuleCase, d: TrainDegrees) -> TrainMisfit | None:
    """ZeRO stages: torchtitan has no 1, MaxText no 2; Megatron-FSDP takes Adam only.

    Ranks that hold other experts are not those that MaxText shards weights over.
    """
    stages: tuple[int, ...]
    match case.engine:
        case Engine.TORCHTITAN if d.zero_stage == 1:
            stages = (2, 0)
        case Engine.MAXTEXT if d.zero_stage == 2:
            stages = (3, 1)
        case Engine.MAXTEXT if d.zero_stage == 3 and d.dp // d.ep == 1:
            stages = (1, 0)
        case Engine.MEGATRON if d.zero_stage > 1 and case.inputs.optimizer != Optimizer.ADAM:
            stages = (1,)
        case Engine.MEGATRON if d.zero_stage == 0 and case.inputs.optimizer_state != "fp32":
            # The precision-aware optimizer is a distributed one.
            stages = (1,)
        case _:
            return None
    return TrainMisfit(
        reason=f"ZeRO stage {d.zero_stage}",
        instead=tuple(structs.replace(d, zero_stage=stage) for stage in stages),
    )


def norms_are_split(case: TrainRuleCase, d: TrainDegrees) -> TrainMisfit | None:
    """Megatron needs sequence parallelism with experts; torchtitan 0.2 has TP only with it."""
    if d.tp == 1 or d.sequence_parallel:
        return None
    if case.engine is Engine.MEGATRON and d.ep > 1:
        reason = f"EP {d.ep} with TP {d.tp} without sequence parallelism"
    elif case.engine is Engine.TORCHTITAN and case.old:
        reason = f"TP {d.tp} without sequence parallelism"
    else:
        return None
    return TrainMisfit(
        reason=reason,
        instead=(structs.replace(d, sequence_parallel=True),),
    )


def _hidden(case: TrainRuleCase, d: TrainDegrees) -> tuple[str, ...]:
    """The nearest communication that the engine can hide."""
    if case.engine is Engine.MAXTEXT:
        return ALL_OVERLAPS
    own = set(d.overlap)
    if case.engine is Engine.TORCHTITAN:
        return tuple(sorted((own - {"ep"}) | {"dp"}))
    if "tp" in own and not (d.tp > 1 and d.sequence_parallel):
        own.discard("tp")
    staged = d.pp > 1 and d.schedule is not ScheduleKind.INTERLEAVED
    if "ep" in own and (d.ep == 1 or d.recompute is Recompute.FULL or staged):
        own.discard("ep")
    return tuple(sorted(own))


def communication_is_hidden(case: TrainRuleCase, d: TrainDegrees) -> TrainMisfit | None:
    """What runs behind computation.

    Megatron hides TP with sequence parallelism, EP without full recompute and with virtual
    stages in a pipeline. torchtitan's FSDP always prefetches. XLA schedules MaxText's
    communication by itself.
    """
    found = _hidden(case, d)
    if found == tuple(sorted(d.overlap)):
        return None
    gone, new = sorted(set(d.overlap) - set(found)), sorted(set(found) - set(d.overlap))
    words = [f"{', '.join(gone)} hidden"] if gone else []
    words += [f"{', '.join(new)} not hidden"] if new else []
    return TrainMisfit(reason=" and ".join(words), instead=(structs.replace(d, overlap=found),))


def experts_are_split(case: TrainRuleCase, d: TrainDegrees) -> TrainMisfit | None:
    """Expert TP: torchtitan none (0.2: 1 or TP), MaxText that of attention, EP inside DP."""
    if not any(isinstance(layer.ffn, MoeFfn) for layer in case.model.layers):
        return None
    num_experts = next(
        layer.ffn.num_experts for layer in case.model.layers if isinstance(layer.ffn, MoeFfn)
    )
    if case.engine is Engine.TORCHTITAN:
        if d.expert_tp == 1 or (case.old and d.expert_tp == d.tp):
            return None
        found = [structs.replace(d, expert_tp=1)]
        wide = d.ep * d.expert_tp
        if num_experts % wide == 0:
            found.append(structs.replace(d, expert_tp=1, ep=wide))
        return TrainMisfit(reason=f"expert TP {d.expert_tp}", instead=tuple(found))
    if case.engine is Engine.MAXTEXT and (d.expert_tp != d.tp or d.dp % d.ep):
        fitting = gcd(d.ep, d.dp)
        return TrainMisfit(
            reason=f"EP {d.ep} x expert TP {d.expert_tp}: experts are split over TP {d.tp} and "
            f"spread over a part of DP {d.dp}",
            instead=(structs.replace(d, expert_tp=d.tp, ep=fitting),),
        )
    return None


def shapes_divide(case: TrainRuleCase, d: TrainDegrees) -> TrainMisfit | None:
    """``heads % tp = 0``; with CP ``seq % (2 cp) = 0``."""
    heads = [
        layer.attention.num_heads
        for layer in case.model.layers
        if not isinstance(layer.attention, LinearAttention)
    ]
    if heads and heads[0] % d.tp:
        return TrainMisfit(reason=f"{heads[0]} heads over TP {d.tp}", instead=())
    if d.cp > 1 and case.inputs.seq_len % (2 * d.cp):
        return TrainMisfit(
            reason=f"sequences of {case.inputs.seq_len} in 2 x CP {d.cp} parts", instead=()
        )
    return None


def _without_pipeline(d: TrainDegrees) -> list[TrainDegrees]:
    """The same chips without stages, weights sharded over all data-parallel ranks."""
    own = d.microbatch * d.microbatches
    if own % d.pp:
        return []
    return [
        structs.replace(
            d,
            pp=1,
            dp=d.dp * d.pp,
            schedule=ScheduleKind.NONE,
            virtual_stages=1,
            zero_stage=3,
            microbatch=1,
            microbatches=own // d.pp,
        )
    ]


def stages_are_even(case: TrainRuleCase, d: TrainDegrees) -> TrainMisfit | None:
    """MaxText: stages of equally many layers, microbatches a multiple of the stages."""
    if case.engine is not Engine.MAXTEXT or d.pp == 1:
        return None
    layers = len(case.model.layers)
    if layers % d.pp == 0 and d.microbatches % d.pp == 0:
        return None
    found = []
    own = d.microbatch * d.microbatches
    if layers % d.pp == 0:
        found = [
            structs.replace(d, microbatches=count, microbatch=own // count)
            for count in range(d.pp, own + 1, d.pp)
            if own % count == 0
        ]
    found += _without_pipeline(d)
    return TrainMisfit(
        reason=f"{layers} layers and {d.microbatches} microbatches on PP {d.pp}: stages hold "
        "equally many layers, microbatches are a multiple of them",
        instead=tuple(found),
    )


RULES: tuple[Rule, ...] = (
    shapes_divide,
    schedules_exist,
    stages_are_even,
    activations_are_recomputed,
    weights_are_sharded,
    norms_are_split,
    experts_are_split,
    communication_is_hidden,
)


def train_misfits(case: TrainRuleCase, d: TrainDegrees) -> Iterator[TrainMisfit]:
    """Everything that an engine cannot express."""
    for rule in RULES:
        found = rule(case, d)
        if found is not None:
            yield found


def train_expressible(case: TrainRuleCase, d: TrainDegrees) -> tuple[TrainDegrees, ...]:
    """Degrees that the engine takes; ``d`` alone where nothing is to be replaced."""
    found: list[TrainDegrees] = []
    seen, open_ones = [d], [d]
    while open_ones:
        own = open_ones.pop(0)
        first = next(train_misfits(case, own), None)
        if first is None:
            found.append(own)
            continue
        for other in first.instead:
            if other not in seen:
                seen.append(other)
                open_ones.append(other)
    return tuple(found)


def fitting_inputs(engine: Engine, inputs: TrainInputs) -> tuple[TrainInputs, tuple[str, ...]]:
    """Optimizer and formats that the engine has, and what had to change.

    torchtitan reduces gradients in fp32 (``mixed_precision_reduce``) and keeps moments as the
    weights; MaxText sets the format of Adam's first moment alone.
    """
    reasons = []
    changes: dict[str, str] = {}
    if engine is Engine.TORCHTITAN:
        if inputs.optimizer != Optimizer.ADAM:
            reasons.append(f"optimizer {inputs.optimizer}")
            changes["optimizer"] = Optimizer.ADAM.value
        if inputs.gradients != "fp32":
            reasons.append(f"gradients in {inputs.gradients}: it reduces them in fp32")
            changes["gradients"] = "fp32"
    if engine is not Engine.MEGATRON and inputs.optimizer_state != "fp32":
        reasons.append(f"moments in {inputs.optimizer_state}")
        changes["optimizer_state"] = "fp32"
    return structs.replace(inputs, **changes), tuple(reasons)
