"""A question about a run made ready: files read, degrees completed, numbers checked."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from planner.catalog.machine_size import sized
from planner.catalog.machines import load_machine
from planner.catalog.model_config import load_model, override_precision
from planner.cost.attention import decode_core
from planner.cost.block import matmul_rate
from planner.cost.runs.inference_engine import ENGINES
from planner.domain.dtypes import DType
from planner.domain.hardware import ideal
from planner.domain.model import ModelSpec, MoeFfn
from planner.domain.run import Mesh, Run, RunKind, ScheduleKind
from planner.domain.run_question import EstimateKind, RunQuestion, check_run_question
from planner.errors import SpecError
from planner.topology.build import build_topology
from planner.topology.graph import Topology

_LONGEST = 16  # times the model's context: more is a slip of the unit


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A question with its files read and its degrees completed.

    Parameters
    ----------
    base, model : ModelSpec
        In the formats of its configuration, and of the question.
    mesh : Mesh
        Of one worker.
    prefill_mesh : Mesh, optional
        Of one worker that only prefills.
    """

    question: RunQuestion
    base: ModelSpec
    model: ModelSpec
    topology: Topology
    mesh: Mesh
    prefill_mesh: Mesh | None = None

    @property
    def prefill_chips(self) -> int:
        """Chips of all workers that only prefill."""
        if self.prefill_mesh is None:
            return 0
        return self.prefill_mesh.num_chips * (self.question.prefill_workers or 1)

    @property
    def chips(self) -> int:
        """Chips of all workers."""
        return self.mesh.num_chips * self.question.workers + self.prefill_chips


def _mesh(question: RunQuestion, model: ModelSpec, topology: Topology, taken: int = 0) -> Mesh:
    """Degrees, with ``dp`` from the machine's chips where it was left out.

    Parameters
    ----------
    taken : int
        Chips that other workers have.

    Raises
    ------
    SpecError
        They do not divide the chips, or the model.
    """
    q = question
    fixed = q.tp * q.cp * q.pp * q.workers
    text = " x ".join(
        f"{name} {value}"
        for name, value in (("tp", q.tp), ("cp", q.cp), ("pp", q.pp), ("workers", q.workers))
        if value > 1 or name == "tp"
    )
    chips, name = topology.num_chips - taken, topology.spec.name
    beside = f" beside {taken} that prefill" if taken else ""
    dp = q.dp
    if dp is None:
        if chips < fixed or chips % fixed:
            raise SpecError(
                f"{text} is {fixed} chips, which do not divide the {chips} of {name}{beside}",
                "change a degree or the size of the machine, or give --dp",
            )
        dp = chips // fixed
    if fixed * dp > chips:
        raise SpecError(
            f"{text} x dp {dp} is {fixed * dp} chips, {name} has {chips}{beside}",
            "size the machine up, or lower a degree",
        )
    _check_degrees(q, model, topology)
    ep, expert_tp = _expert_degrees(q, model, q.tp * q.cp * dp)
    return Mesh(
        attn_tp=q.tp,
        cp=q.cp,
        attn_dp=dp,
        pp=q.pp,
        virtual_stages=q.virtual_stages,
        ep=ep,
        expert_tp=expert_tp,
    )


def _pool_meshes(question: RunQuestion, model: ModelSpec, topology: Topology) -> tuple[Mesh, Mesh]:
    """Degrees of a decode and of a prefill worker.

    Raises
    ------
    SpecError
        They do not divide the chips, or the model.
    """
    q, count = question, question.prefill_workers or 1
    if q.balance:
        q = replace(q, dp=q.dp or 1)
    if not q.prefill_layout_given:
        both = _mesh(replace(q, workers=q.workers + count), model, topology)
        return both, both
    alone = replace(
        q,
        tp=q.prefill_tp or 1,
        dp=q.prefill_dp or 1,
        ep=q.prefill_ep,
        expert_tp=q.prefill_expert_tp,
        workers=count,
    )
    try:
        prefill = _mesh(alone, model, topology)
    except SpecError as error:
        raise SpecError(
            f"prefill workers: {_of_prefill(error.message)}", _of_prefill(error.remedy)
        ) from None
    return _mesh(q, model, topology, prefill.num_chips * count), prefill


def _of_prefill(text: str) -> str:
    """A message about degrees with the options of prefill workers."""
    return re.sub(r"--(tp|dp|ep|expert-tp)\b", r"--prefill-\1", text)


def _check_degrees(question: RunQuestion, model: ModelSpec, topology: Topology) -> None:
    """Raise where a degree does not divide the model; compilers of a torus split any axis."""
    for layer in model.layers:
        heads = decode_core(layer.attention, 1.0).num_heads
        if heads % question.tp and question.tp % heads and not topology.is_torus:
            raise SpecError(
                f"{heads} attention heads of {model.name} do not divide by --tp {question.tp}",
                "write a divisor of the heads",
            )
    if question.pp > len(model.layers):
        raise SpecError(
            f"{model.name} has {len(model.layers)} layers, fewer than --pp {question.pp}",
            "use fewer stages",
        )


def _expert_degrees(question: RunQuestion, model: ModelSpec, stage_chips: int) -> tuple[int, int]:
    """``ep`` and ``expert_tp``; see :class:`RunQuestion`."""
    ep, expert_tp = question.ep, question.expert_tp
    experts = [layer.ffn for layer in model.layers if isinstance(layer.ffn, MoeFfn)]
    if not experts:
        if (ep or 1) > 1 or (expert_tp or 1) > 1:
            raise SpecError(f"{model.name} has no experts", "leave --ep and --expert-tp out")
        return 1, 1
    if question.kind is EstimateKind.SERVE:
        expert_tp = expert_tp or max(1, stage_chips // (ep or 1))
        ep = ep or max(1, stage_chips // expert_tp)
    expert_tp = expert_tp or (question.tp if ep is None else 1)
    ep = ep or 1
    if stage_chips % (ep * expert_tp):
        raise SpecError(
            f"ep {ep} x expert-tp {expert_tp} chips do not divide the {stage_chips} of "
            "tp x cp x dp",
            "change --ep or --expert-tp",
        )
    for ffn in experts:
        if ffn.expert_width % expert_tp:
            raise SpecError(
                f"experts {ffn.expert_width} wide do not divide by --expert-tp {expert_tp}",
                "write a divisor of the width",
            )
        if question.kind is EstimateKind.TRAIN and ffn.num_experts % ep:
            raise SpecError(
                f"{ffn.num_experts} experts do not divide by --ep {ep}",
                "write a divisor of the experts",
            )
    return ep, expert_tp


def _check_rates(model: ModelSpec, topology: Topology) -> None:
    """Raise where the chip multiplies in none of the formats that a role needs."""
    precision = model.precision
    weights = (precision.attention, precision.dense_ffn, precision.routed_expert, precision.head)
    for dtype in dict.fromkeys((*weights, precision.activations)):
        try:
            matmul_rate(topology.chip, dtype, dtype)
        except ValueError:
            known = ", ".join(key for key, _ in topology.chip.peak_flop_per_s)
            raise SpecError(
                f"{topology.chip.name} does not multiply in {dtype.value}",
                f"its rates: {known}",
            ) from None


def _check_lengths(question: RunQuestion, model: ModelSpec) -> None:
    tokens = sum(
        value or 0 for value in (question.seq, question.context, question.input, question.output)
    )
    tokens = max([tokens, *(round(kind.input_len + kind.output_len) for kind in question.mix)])
    if model.max_context is not None and tokens > _LONGEST * model.max_context:
        raise SpecError(
            f"{tokens} tokens are over {_LONGEST} times the {model.max_context} of {model.name}",
            "check the unit: 8k means 8192 tokens",
        )


def read_case(question: RunQuestion) -> Case:
    """Read model and machine of a question and complete its degrees.

    Raises
    ------
    SpecError
        An option does not apply, is missing, out of range, or does not divide.
    CatalogError
        A file cannot be read.
    """
    check_run_question(question)
    spec = sized(load_machine(question.machine), question.sizing)
    topology = build_topology(ideal(spec) if question.ideal else spec)
    return make_case(question, load_model(question.model), topology)


def make_case(question: RunQuestion, base: ModelSpec, topology: Topology) -> Case:
    """Complete a question whose files have been read.

    Raises
    ------
    SpecError
        As :func:`read_case`.
    """
    model = override_precision(base, question.weights, question.activations, question.kv)
    _check_rates(model, topology)
    _check_lengths(question, model)
    prefill: Mesh | None = None
    if question.disaggregated:
        mesh, prefill = _pool_meshes(question, model, topology)
    else:
        mesh = _mesh(question, model, topology)
    return Case(
        question=question,
        base=base,
        model=model,
        topology=topology,
        mesh=mesh,
        prefill_mesh=prefill,
    )


def _schedule(question: RunQuestion) -> ScheduleKind:
    """The schedule as given; else one forward one backward, interleaved over chunks.

    Raises
    ------
    SpecError
        It does not go with the stages.
    """
    q, given = question, question.schedule
    if q.pp == 1:
        if given not in (None, ScheduleKind.NONE) or q.virtual_stages > 1:
            raise SpecError("a pipeline schedule needs more than one stage", "write --pp 2 or more")
        return ScheduleKind.NONE
    if given is None:
        return ScheduleKind.INTERLEAVED if q.virtual_stages > 1 else ScheduleKind.ONE_F_ONE_B
    if given is ScheduleKind.NONE:
        raise SpecError(f"--pp {q.pp} needs a schedule", "write for example --schedule 1f1b")
    if (given is ScheduleKind.INTERLEAVED) != (q.virtual_stages > 1):
        raise SpecError(
            f"--schedule {given.value} with --virtual-stages {q.virtual_stages}",
            "interleaved needs 2 chunks or more per rank, the others take none",
        )
    return given


def _microbatch(question: RunQuestion, mesh: Mesh) -> int:
    """Sequences per microbatch: 1 in training, the engine's rule (0) elsewhere.

    Raises
    ------
    SpecError
        The batch does not divide.
    """
    batch, dp = question.batch or 0, mesh.attn_dp
    training = question.kind is EstimateKind.TRAIN
    size = question.microbatch or (1 if training else 0)
    per_rank = dp * max(1, size)
    if batch % per_rank:
        parts = f"{dp} data-parallel ranks" + (f" x microbatches of {size}" if size else "")
        below = batch // per_rank * per_rank
        near = f"{below} or {below + per_rank}" if below else f"{per_rank}"
        raise SpecError(
            f"--batch {batch} does not divide over {parts}", f"write for example --batch {near}"
        )
    return size


def _engine(question: RunQuestion) -> str:
    if question.engine is None:
        return "ideal" if question.ideal else "current"
    if question.engine not in ENGINES:
        raise SpecError(f"--engine: unknown '{question.engine}'", f"known: {', '.join(ENGINES)}")
    return question.engine


def run_of(case: Case) -> Run:
    """The run that the cost model prices.

    Raises
    ------
    SpecError
        The batch does not divide, or schedule or engine are none.
    """
    q = case.question
    training = q.kind is EstimateKind.TRAIN
    return Run(
        kind=RunKind(q.kind.value),
        mesh=case.mesh,
        global_batch=q.batch or 0,
        seq_len=q.seq or 0,
        context_len=float(q.context or 0),
        context_spread=float(q.context_spread),
        input_len=q.input or 0,
        output_len=q.output or 0,
        microbatch=_microbatch(q, case.mesh),
        schedule=_schedule(q) if training else ScheduleKind.NONE,
        recompute=q.recompute,
        zero_stage=q.zero,
        sequence_parallel=q.sequence_parallel,
        overlap=q.overlap,
        engine=_engine(q),
        chunk_tokens=q.chunk or 0,
        optimizer=q.optimizer,
        optimizer_state=q.optimizer_state,
        gradients=q.gradients,
    )


def main_format(case: Case) -> DType:
    """Format of the weights that most multiplies take."""
    precision = case.model.precision
    moe = any(isinstance(layer.ffn, MoeFfn) for layer in case.model.layers)
    return precision.routed_expert if moe else precision.dense_ffn


def main_rate(case: Case) -> str:
    """Rate key of most multiplies; in training all operands have the compute format."""
    inputs = case.model.precision.activations
    training = case.question.kind is EstimateKind.TRAIN
    return matmul_rate(case.topology.chip, inputs if training else main_format(case), inputs)
