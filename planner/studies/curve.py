"""Library of ``planner curve``: the lecture's drawings, from the full model.

Along ``batch``, ``context`` and ``bandwidth`` one layout is kept: the degrees that are best for the
question as asked; its batch, stages and placement are solved anew at every point. Along ``chips``
and ``stages`` every point is a plan of its own. Beside each point stand the lecture's ideal lines
(:mod:`planner.studies.ideal`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from planner.api import plan, read_question
from planner.catalog.machine_size import sized
from planner.catalog.machines import load_machine
from planner.cost.runs.inference_contexts import Contexts
from planner.cost.runs.model_flop import decode_flop
from planner.domain.changed import Change
from planner.domain.cost import Prediction
from planner.domain.degrees import Degrees
from planner.domain.hardware import MachineSpec
from planner.domain.layout import Layout
from planner.domain.model import ModelSpec
from planner.domain.outcome import Infeasible
from planner.domain.pinned import pinned
from planner.domain.question import Question
from planner.domain.workload import Phase
from planner.errors import SpecError
from planner.studies.ideal import Ideal, Napkin, ideal, napkin
from planner.studies.knobs import SCALE_OUT, SCALE_UP, Knob
from planner.studies.record import ChipMemory, Tell, TermCost, silent
from planner.what_if import solve

MOST_POINTS = 200
MOST_STAGES = 64
# How far each quantity is followed unless the user says.
SHORTEST_CONTEXT = 1024
LONGEST_CONTEXT = 131_072
BANDWIDTHS = (1 / 16, 16.0)
FEW_STAGES = 8


class Along(StrEnum):
    """What is varied."""

    BATCH = "batch"
    CONTEXT = "context"
    CHIPS = "chips"
    STAGES = "stages"
    BANDWIDTH = "bandwidth"


@dataclass(frozen=True, kw_only=True, slots=True)
class CurvePoint:
    """One point: the full model, and the ideal lines.

    Parameters
    ----------
    x : float
        Sequences, tokens, chips, stages, or bandwidth over that of the machine.
    terms : tuple of TermCost
        Seconds of each term; they add up to ``step_s``.
    usd_per_million_tokens : float, optional
        Of the chips in use, as the ideal line has it; None without a price.
    mfu : float
        Model FLOP over the dense peak of the chips in use.
    critical_batch : float, optional
        B* of the full model for this layout.
    """

    x: float
    batch: int
    step_s: float
    terms: tuple[TermCost, ...]
    usd_per_million_tokens: float | None
    mfu: float
    memory: ChipMemory
    critical_batch: float | None
    ideal: Ideal


@dataclass(frozen=True, kw_only=True, slots=True)
class Landmark:
    """A value that the lecture names, on one axis; ``of`` says for which drawings."""

    name: str
    axis: str
    value: float
    of: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """Points in ascending order, and what is marked.

    Parameters
    ----------
    left_out : tuple of float
        Values at which nothing fits.
    """

    model: str
    machine: str
    context_tokens: int
    along: Along
    label: str
    points: tuple[CurvePoint, ...]
    landmarks: tuple[Landmark, ...]
    left_out: tuple[float, ...]

    @property
    def has_prices(self) -> bool:
        """Whether a price of the chips is known."""
        return self.points[0].usd_per_million_tokens is not None


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """How far to follow the quantity, and at how many points; None for the usual."""

    low: float | None = None
    high: float | None = None
    points: int = 13


def _check(question: Question, span: Span, along: Along) -> None:
    if question.phase is not Phase.DECODE:
        raise SpecError(
            f"a curve is one of decode, not of {question.phase.value}", "leave --phase out"
        )
    if not 2 <= span.points <= MOST_POINTS:
        raise SpecError(
            f"--points: {span.points} is not in 2..{MOST_POINTS}", "write for example --points 13"
        )
    if along is Along.BATCH and question.batch is not None:
        raise SpecError("--batch contradicts --x batch", "leave one out")
    for option, value in (("--from", span.low), ("--to", span.high)):
        if value is not None and not 0 < value < math.inf:
            raise SpecError(
                f"{option}: {value:g} is not a number greater than zero", "write for example 1"
            )


def curve(
    question: Question, along: Along, span: Span | None = None, tell: Tell = silent
) -> Curve | Infeasible:
    """Follow one quantity.

    Raises
    ------
    SpecError, CatalogError
        The question cannot be understood, or the range is empty.
    """
    span = Span() if span is None else span
    _check(question, span, along)
    tell("the layout to follow", 0.0)
    base = plan(question)
    if isinstance(base, Infeasible):
        return base
    sketch = _sketch(question, base)
    values = _values(sketch, along, span)
    points, left_out = [], []
    for place, x in enumerate(values):
        tell(f"{along.value} {x:g}", place / len(values))
        point = sketch.point(along, x)
        if point is None:
            left_out.append(x)
        else:
            points.append(point)
    if not points:
        return Infeasible(
            resource=along.value,
            needed=f"{values[0]:g}",
            available=f"{values[-1]:g}",
            message=f"no layout from {along.value} {values[0]:g} to {values[-1]:g}",
            remedies=(),
        )
    return Curve(
        model=question.model,
        machine=base.inputs.machine.name,
        context_tokens=question.context_tokens,
        along=along,
        label=sketch.label(along),
        points=tuple(points),
        landmarks=sketch.landmarks(along, points),
        left_out=tuple(left_out),
    )


def _sketch(question: Question, base: Layout) -> _Sketch:
    inputs, case = read_question(question)
    return _Sketch(
        question=question,
        base=base,
        model=case.setting.model,
        machine=sized(load_machine(question.machine), question.sizing),
        price=inputs.price_usd_per_hour,
    )


def _values(sketch: _Sketch, along: Along, span: Span) -> tuple[float, ...]:
    """Points to look at: even by ratio, whole where the quantity is counted.

    Raises
    ------
    SpecError
        There is none.
    """
    low, high = sketch.usual(along)
    low = low if span.low is None else span.low
    high = high if span.high is None else span.high
    if low > high:
        raise SpecError(
            f"--from {low:g} --to {high:g} is an empty range", "write the smaller value first"
        )
    ratio = (high / low) ** (1.0 / (span.points - 1))
    found = [low * ratio**place for place in range(span.points)]
    if along is Along.BANDWIDTH:
        return tuple(found)
    if along is Along.CHIPS:
        return sketch.sizes(low, high)
    return tuple(float(x) for x in dict.fromkeys(round(x) for x in found))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Sketch:
    """A question, the layout that answers it, and what both are made of."""

    question: Question
    base: Layout
    model: ModelSpec
    machine: MachineSpec
    price: float | None

    @property
    def knob(self) -> Knob:
        """The links that are varied: those out of a domain where there are any."""
        return SCALE_UP if SCALE_OUT.read(self.machine) is None else SCALE_OUT

    def label(self, along: Along) -> str:
        """Name of the horizontal axis."""
        return {
            Along.BATCH: "sequences of the machine",
            Along.CONTEXT: "tokens of context",
            Along.CHIPS: "chips",
            Along.STAGES: "pipeline stages",
            Along.BANDWIDTH: f"{self.knob.label}, as a multiple",
        }[along]

    def usual(self, along: Along) -> tuple[float, float]:
        """How far a quantity is followed."""
        degrees = self.base.degrees
        match along:
            case Along.BATCH:
                least = float(degrees.replicas * degrees.microbatches)
                return least, float(self.base.prediction.largest_batch)
            case Along.CONTEXT:
                most = self.model.max_context or LONGEST_CONTEXT
                return float(min(SHORTEST_CONTEXT, most)), float(most)
            case Along.CHIPS:
                return 1.0, float(self.machine.num_chips)
            case Along.STAGES:
                return 1.0, float(min(FEW_STAGES, len(self.model.layers)))
        return BANDWIDTHS

    def sizes(self, low: float, high: float) -> tuple[float, ...]:
        """Chips that a machine may have: powers of two in a domain, then whole domains.

        Raises
        ------
        SpecError
            There is none between the two.
        """
        domain, most = self.machine.domain_chips, self.machine.num_chips
        inside = [2**power for power in range(domain.bit_length()) if 2**power < domain]
        whole = range(domain, most + 1, domain)
        found = tuple(float(n) for n in (*inside, *whole) if low <= n <= high)
        if not found:
            raise SpecError(
                f"no size between {low:g} and {high:g} chips: a machine has powers of two in a "
                f"{self.machine.scale_up.unit} of {domain}, or whole ones up to {most}",
                "change --from and --to, or size the machine up",
            )
        return found

    def point(self, along: Along, x: float) -> CurvePoint | None:
        """The model at one value; None where nothing fits."""
        question, change = self.question, None
        match along:
            case Along.BATCH:
                question = replace(self._kept(), batch=int(x))
            case Along.CONTEXT:
                question = replace(self._kept(), context_tokens=int(x))
            case Along.BANDWIDTH:
                question, change = self._kept(), self._wider(x)
            case Along.STAGES:
                limits = replace(question.limits, pp=frozenset({int(x)}))
                question = replace(question, limits=limits)
            case Along.CHIPS:
                question = self._with_chips(int(x))
        try:
            found = solve(question, change)
        except SpecError:
            return None
        if found is None:
            return None
        best = found[0]
        return self._point(question, x, best.assignment.degrees, best.prediction)

    def _kept(self) -> Question:
        """The question with the degrees of its answer."""
        return replace(self.question, limits=pinned(self.base.degrees))

    def _wider(self, factor: float) -> Change:
        return lambda spec: self.knob.scale(spec, factor)

    def _with_chips(self, count: int) -> Question:
        """The question on a part of the machine: spares in one domain, or fewer domains."""
        domain = self.machine.domain_chips
        domains = max(1, count // domain)
        question = replace(self.question, reserve=max(0, domain - count))
        if self.machine.num_domains == 1 or self.machine.shape:
            return question
        match self.machine.scale_up.unit:
            case "node":
                return replace(question, nodes=domains)
            case "rack":
                return replace(question, racks=domains)
        return replace(question, slices=domains)

    def _napkin(self, context: int) -> Napkin:
        return napkin(self.model, self.machine.chip, float(context))

    def _point(self, question: Question, x: float, degrees: Degrees, own: Prediction) -> CurvePoint:
        paper = self._napkin(question.context_tokens)
        lines = ideal(paper, degrees, float(own.batch), self.price)
        contexts = Contexts(mean=float(question.context_tokens))
        flop = decode_flop(self.model, 1.0, contexts).total
        chips, memory = degrees.chips_used, own.memory
        rate = own.tokens_per_s
        usd = None
        if lines.usd_per_million_tokens is not None:
            ideal_rate = own.batch / lines.step_s
            usd = lines.usd_per_million_tokens * ideal_rate / rate
        return CurvePoint(
            x=x,
            batch=own.batch,
            step_s=own.step_s,
            terms=tuple(TermCost(name=term.name, value=term.seconds) for term in own.terms),
            usd_per_million_tokens=usd,
            mfu=flop * rate / (chips * paper.flop_per_s),
            memory=ChipMemory(
                weights_bytes=memory.weights_bytes,
                kv_bytes=memory.kv_bytes,
                states_bytes=0.0,
                activations_bytes=memory.activations_bytes,
                reserve_bytes=memory.reserve_bytes,
                capacity_bytes=memory.capacity_bytes,
            ),
            critical_batch=own.critical_batch,
            ideal=lines,
        )

    def landmarks(self, along: Along, points: Sequence[CurvePoint]) -> tuple[Landmark, ...]:
        """B*, balanced context, floors, drain time: what of them belongs to a drawing."""
        paper, degrees = self._napkin(self.question.context_tokens), self.base.degrees
        found = [
            Landmark(
                name="weights read once", axis="y", value=points[-1].ideal.floor_s, of=("step",)
            ),
            Landmark(name="HBM drained once", axis="y", value=paper.drain_s, of=("step",)),
        ]
        floor = points[-1].ideal.floor_usd
        if floor is not None and along is Along.BATCH:
            found.append(Landmark(name="cost floor", axis="y", value=floor, of=("cost",)))
        every: tuple[str, ...] = ("step", "cost", "mfu", "memory")
        if along is Along.BATCH:
            ideal_batch = paper.critical_batch * degrees.replicas
            found.append(Landmark(name="ideal B*", axis="x", value=ideal_batch, of=every))
            own = points[-1].critical_batch
            if own is not None:
                found.append(Landmark(name="B* of the model", axis="x", value=own, of=every))
        if along is Along.CONTEXT:
            context = paper.balanced_context
            found.append(Landmark(name="balanced context", axis="x", value=context, of=every))
        if along is Along.BANDWIDTH:
            found.append(Landmark(name="as it is", axis="x", value=1.0, of=every))
        return tuple(found)
