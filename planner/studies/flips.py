"""Break-evens: where along one quantity another family takes the lead.

Every family is represented by the degrees that were found best for it so far, at any point. A
point prices those (their batch, stages and placement are solved anew), which is quick; the sign
of "the winner still leads" is bisected. At the crossing the winner and who overtakes it are
planned anew over their whole families: where that finds better degrees, they join and the
bisection goes on from there, until nothing changes.

Assumptions
-----------
- Where memory moves, known degrees are priced at the largest batch that fits.
- Looked at on one side is the end of the range, then a few points on the way, then a crossing
  before the first at which the winner does not lead: a shorter stretch in which another family
  leads is not found.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from planner.domain.changed import Change
from planner.domain.hardware import MachineSpec
from planner.errors import SpecError
from planner.search.processes import map_forked
from planner.studies.knobs import HBM_SIZE, HOP, RATIO, Knob
from planner.studies.record import Flip
from planner.studies.roots import Crossing, crossing

Q = TypeVar("Q")
Limits = TypeVar("Limits")
# How far a quantity is followed: links from a sixteenth to as fast as those of the domain, hops
# up to the lecture's milliseconds, memory over the range of machines that exist.
FAR = 16.0
SLOWEST_HOP_S = 10e-3
HBM_RANGE = 4.0
_RANGES: tuple[tuple[Knob, Callable[[float], tuple[float, float]]], ...] = (
    (RATIO, lambda x: (x / FAR, max(x, 1.0))),
    (HOP, lambda x: (x / FAR, max(x, SLOWEST_HOP_S))),
    (HBM_SIZE, lambda x: (x / HBM_RANGE, x * HBM_RANGE)),
)
# How often the families are planned anew.
MOST_ROUNDS = 2
# A family so much worse at an end, by what is known of it, is not planned anew there.
NEAR = 1.05
DISTANT = 2.5
LEAST_GAIN = 0.002
RIPPLE = 1.1
MOST_RIPPLES = 2
COARSE = 1.15
# Degrees of one family that are kept: the first, and those found last.
MOST_KNOWN = 2
_TIE = 1e-12
# Where a winner that leads at the end is looked at on the way, by logarithm.
INTERIOR = (0.05, 0.5)
MOST_RIVALS = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer(Generic[Limits]):
    """Objective of the best of a question, its degrees as limits, and the batch it found."""

    value: float
    limits: Limits
    batch: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Lever(Generic[Q]):
    """A quantity of a question that can be set.

    Parameters
    ----------
    present : float
        As asked.
    ends : (float, float)
        How far it is followed, down and up.
    set_to : callable
        The question, and the change of its machine, at a value.
    is_neutral : bool
        Whether setting the present value asks the same question again.
    step : float
        What ``present``, ``ends`` and values are counted in.
    is_machine : bool
        Whether it is a figure of the machine, not of the workload.
    keeps_batch : bool
        Whether it leaves the batch that fits as it is, where no limit on the step decides.
    """

    name: str
    label: str
    unit: str
    present: float
    ends: tuple[float, float]
    set_to: Callable[[Q, float], tuple[Q, Change | None]]
    whole: bool = False
    is_neutral: bool = True
    step: float = 1.0
    is_machine: bool = False
    keeps_batch: bool = False

    @property
    def moves_batch(self) -> bool:
        """Whether another batch fits at another value."""
        return self.is_neutral and not self.keeps_batch


Solve = Callable[[Q, Limits, Change | None], Answer[Limits] | None]


@dataclass(kw_only=True, eq=False)
class Contest(Generic[Q, Limits]):
    """Families of one question, and what is known of them.

    Parameters
    ----------
    families : mapping
        Limits of each family, within those of the question.
    pools : mapping
        Degrees that were best for a family somewhere; families in their order, best first.
    solve : callable
        Best answer to a question within limits, on a changed machine; None where nothing fits.
    pin_batch : callable, optional
        The question at a batch, where it may be free; the search for it is most of the work.
    solve_known : callable, optional
        A quicker ``solve`` for limits that pin the degrees.
    """

    question: Q
    families: Mapping[str, Limits]
    pools: dict[str, list[Limits]]
    solve: Solve[Q, Limits]
    pin_batch: Callable[[Q, int], Q] | None = None
    solve_known: Solve[Q, Limits] | None = None
    _batches: dict[Limits, int] = field(default_factory=dict)
    _known: dict[tuple[str, float, Limits], float] = field(default_factory=dict)
    _learned: set[tuple[str, str, float]] = field(default_factory=set)

    def value(self, name: str, lever: Lever[Q], x: float) -> float:
        """Objective of a family's known degrees; infinite where none fits."""
        return min(self._value_of(limits, lever, x) for limits in self.pools[name])

    def _value_of(self, limits: Limits, lever: Lever[Q], x: float) -> float:
        # As it was asked, the question is the same for every lever that changes nothing.
        neutral = x == lever.present and lever.is_neutral
        key = ("" if neutral else lever.name, 0.0 if neutral else x, limits)
        if key not in self._known:
            quick = lever.moves_batch and x != lever.present
            solve = self.solve_known if quick and self.solve_known is not None else self.solve
            found = self._ask(solve, limits, lever, x)
            self._known[key] = math.inf if found is None else found.value
        return self._known[key]

    def _ask(
        self, solve: Solve[Q, Limits], limits: Limits, lever: Lever[Q], x: float
    ) -> Answer[Limits] | None:
        question, change = lever.set_to(self.question, x)
        batch = self._batches.get(limits) if lever.keeps_batch else None
        if batch is not None and self.pin_batch is not None:
            question = self.pin_batch(question, batch)
        try:
            found = solve(question, limits, change)
        except SpecError:
            # Degrees that the changed question does not have at all.
            return None
        if found is not None and found.batch is not None and lever.keeps_batch:
            self._batches[found.limits] = found.batch
        return found

    def learn(self, name: str, lever: Lever[Q], x: float) -> bool:
        """Plan a family anew at ``x``; whether that found something better than was known."""
        if (name, lever.name, x) in self._learned:
            return False
        self._learned.add((name, lever.name, x))
        before = self.value(name, lever, x)
        found = self._ask(self.solve, self.families[name], lever, x)
        if found is None or found.limits in self.pools[name]:
            return False
        self.pools[name].append(found.limits)
        if len(self.pools[name]) > MOST_KNOWN:
            self.pools[name].pop(1)
        return found.value < before * (1.0 - LEAST_GAIN)

    def forget(self) -> None:
        """Go back to the degrees of the question as it was asked."""
        for own in self.pools.values():
            del own[1:]
        self._learned.clear()

    def narrow(self, names: Iterable[str], lever: Lever[Q], ends: tuple[float, float]) -> None:
        """Keep of each family the degrees that are its best at one of two points."""
        for name in names:
            pool = self.pools[name]
            kept = [0]
            for x in ends:
                values = [self._value_of(limits, lever, x) for limits in pool]
                kept.append(values.index(min(values)))
            self.pools[name] = [pool[place] for place in dict.fromkeys(kept)]

    def learn_all(self, names: Iterable[str], lever: Lever[Q], x: float) -> bool:
        """Plan several families anew; whether any of them got better."""
        found = [self.learn(name, lever, x) for name in names]
        return any(found)

    def names(self, lever: Lever[Q]) -> list[str]:
        """Families that may lead somewhere, in their order.

        No figure of the machine makes up for a family that is ``DISTANT`` times as dear as the
        winner on it as it is.
        """
        known = list(self.pools)
        if not lever.is_machine:
            return known
        now = {name: self.value(name, lever, lever.present) for name in known}
        return [name for name in known if now[name] <= DISTANT * now[known[0]]]

    def ranked(self, lever: Lever[Q], x: float) -> list[str]:
        """Those that fit at ``x``, best first."""
        values = {name: self.value(name, lever, x) for name in self.names(lever)}
        fit = [name for name in values if math.isfinite(values[name])]
        return sorted(fit, key=lambda name: values[name])

    def lead(self, name: str, rivals: Sequence[str], lever: Lever[Q], x: float) -> float:
        """Logarithm of the best rival's objective over that of ``name``: positive if it leads."""
        own = self.value(name, lever, x)
        if math.isinf(own):
            return -math.inf
        best = min((self.value(other, lever, x) for other in rivals), default=math.inf)
        return math.inf if math.isinf(best) else math.log(best / own) or _TIE


def flip(contest: Contest[Q, Limits], winner: str, lever: Lever[Q], end: float) -> Flip:
    """Where the winner stops leading on the way to ``end``."""
    contest.forget()
    start, found, leader = lever.present, None, ""
    for _ in range(MOST_ROUNDS):
        order = contest.ranked(lever, end)
        if order and order[0] == winner:
            if not _is_safe(contest, winner, lever, end):
                continue
            lost = _lost_before(contest, winner, lever, end)
            if lost is None:
                return _flip(lever, None, lever.ends[end > lever.present], winner)
            end = lost
            order = contest.ranked(lever, end)
        unfit = [name for name in contest.names(lever) if name not in order]
        if contest.learn_all(unfit, lever, end):
            continue
        leader = order[0] if order else ""
        found = _last_lead(contest, winner, lever, (leader, start, end))
        pair = dict.fromkeys(name for name in (winner, leader) if name)
        if not contest.learn_all(pair, lever, found.after):
            break
        if contest.lead(winner, [leader], lever, found.after) > 0:
            start = found.after
    if found is None:
        return _flip(lever, end, end, leader)
    found = _refined(contest, winner, lever, (leader, found))
    return _flip(lever, found.after if lever.whole else found.at, end, leader)


def _refined(
    contest: Contest[Q, Limits], winner: str, lever: Lever[Q], coarse: tuple[str, Crossing]
) -> Crossing:
    """A closer enclosure, between the same ends where what was learned left their signs alone."""
    leader, found = coarse
    rivals = [leader] if leader else [name for name in contest.pools if name != winner]

    def lead(x: float) -> float:
        return contest.lead(winner, rivals, lever, x)

    if not lead(found.before) > 0 >= lead(found.after):
        return found
    return crossing(lead, (found.before, found.after), whole=lever.whole)


def _lost_before(
    contest: Contest[Q, Limits], winner: str, lever: Lever[Q], end: float
) -> float | None:
    """A point on the way at which the winner does not lead, though it does at the end."""
    rivals = [name for name in contest.names(lever) if name != winner][:MOST_RIVALS]
    for share in INTERIOR:
        x = lever.present ** (1.0 - share) * end**share
        x = float(round(x)) if lever.whole else x
        if contest.lead(winner, rivals, lever, x) <= 0:
            return x
    return None


def _is_safe(contest: Contest[Q, Limits], winner: str, lever: Lever[Q], x: float) -> bool:
    """Whether the winner leads at ``x`` even after its nearest rivals were planned anew there."""
    own = contest.value(winner, lever, x)
    values = {name: contest.value(name, lever, x) for name in contest.names(lever)}
    close = [
        name
        for name, value in values.items()
        if name != winner and not own * NEAR <= value < math.inf
    ]
    return not contest.learn_all(close, lever, x)


def _last_lead(
    contest: Contest[Q, Limits], winner: str, lever: Lever[Q], span: tuple[str, float, float]
) -> Crossing:
    """Where the winner loses its lead over who leads at the end, for more than a ripple.

    Objectives jump by a percent or two where a batch fills one more tile or group: a lead that
    is lost and found again within ``RIPPLE`` of the way is passed over.

    Parameters
    ----------
    span : (str, float, float)
        Who leads at the end, where the winner leads, and the end.
    """
    rival, start, end = span
    rivals = [rival] if rival else [name for name in contest.pools if name != winner]

    contest.narrow((winner, *rivals), lever, (start, end))

    def lead(x: float) -> float:
        return contest.lead(winner, rivals, lever, x)

    if not lead(start) > 0 >= lead(end):
        # What was learned since turned the ranking here.
        return Crossing(before=start, after=start if lead(start) <= 0 else end)
    stride = RIPPLE if end > start else 1.0 / RIPPLE
    for _ in range(MOST_RIPPLES):
        found = crossing(lead, (start, end), whole=lever.whole, tolerance=COARSE)
        onward = found.after * stride
        onward = float(round(onward)) if lever.whole else onward
        if (end - onward) * (end - start) <= 0 or not lead(onward) > 0:
            break
        start = onward
    return found


def _flip(lever: Lever[Q], at: float | None, until: float, leader: str) -> Flip:
    return Flip(
        lever=lever.name,
        label=lever.label,
        unit=lever.unit,
        present=lever.present * lever.step,
        at=None if at is None else at * lever.step,
        until=until * lever.step,
        leader=leader,
    )


def all_flips(
    contest: Contest[Q, Limits],
    winner: str,
    levers: Sequence[Lever[Q]],
    tell: Callable[[str, float], None],
) -> tuple[Flip, ...]:
    """Both sides of every lever, each looked at by itself."""
    sides = [(lever, end) for lever in levers for end in lever.ends if end != lever.present]

    def one(place: int) -> Flip:
        return flip(contest, winner, *sides[place])

    found: list[Flip] = []
    answers = map_forked(one, len(sides))
    for place, (lever, _) in enumerate(sides):
        tell(lever.label, place / len(sides))
        found.append(next(answers))
    answers.close()
    return tuple(found)


def machine_levers(machine: MachineSpec) -> list[Lever[Q]]:
    """Levers on the links and the memory of a machine, those that it has."""
    found: list[Lever[Q]] = []
    for knob, ends in _RANGES:
        present = knob.read(machine)
        if present:
            found.append(_machine_lever(knob, present, ends(present)))
    return found


def _machine_lever(knob: Knob, present: float, ends: tuple[float, float]) -> Lever[Q]:
    def set_to(question: Q, x: float) -> tuple[Q, Change | None]:
        return question, lambda spec: knob.scale(spec, x / present)

    return Lever(
        name=knob.name,
        label=knob.label,
        unit=knob.unit,
        present=present,
        ends=ends,
        set_to=set_to,
        is_machine=True,
        keeps_batch=knob is not HBM_SIZE,
    )
