"""Outcomes in groups: errors, ranking within sweeps, memory, worst rows, refusals."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from planner.errors import SpecError
from planner.validation.outcome import Outcome, RowClass
from planner.validation.statistics import ErrorStats, error_stats, median, spearman

MIN_LAYOUTS = 10
NUM_WORST = 10


def _kind(outcome: Outcome) -> str:
    """The two latencies of serving are kinds of their own."""
    latency = outcome.row_class in (RowClass.TTFT, RowClass.TPOT)
    return outcome.row_class.value if latency else outcome.kind


KEYS: dict[str, Callable[[Outcome], str]] = {
    "kind": _kind,
    "class": lambda outcome: outcome.row_class.value,
    "chip": lambda outcome: outcome.chip,
    "chips": lambda outcome: f"{outcome.num_chips:,}",
    "source": lambda outcome: outcome.source,
    "model": lambda outcome: outcome.model,
    "quality": lambda outcome: outcome.quality,
    "software": lambda outcome: outcome.software,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Sweep:
    """Layouts of one run: how well predictions rank them.

    ``rank`` is Spearman's correlation of predicted and measured times over all ``num_rows``;
    None where one side has a single value.
    """

    name: str
    num_rows: int
    num_layouts: int
    rank: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryScore:
    """How often the memory model is right about layouts that ran, and that did not."""

    ran_right: int = 0
    ran_total: int = 0
    oom_right: int = 0
    oom_total: int = 0

    @property
    def right(self) -> int:
        """Right answers."""
        return self.ran_right + self.oom_right

    @property
    def total(self) -> int:
        """Layouts that were judged."""
        return self.ran_total + self.oom_total


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Rows that agree in one or more keys.

    Parameters
    ----------
    num_rows, num_represented : int
        Rows of the group, and those that the cost model could represent.
    errors : ErrorStats, optional
        Over the rows with a measured and a predicted time; None without any.
    rank : float, optional
        Median of Spearman's correlation over the sweeps that lie in the group.
    """

    name: tuple[str, ...]
    num_rows: int
    num_represented: int
    errors: ErrorStats | None
    rank: float | None
    num_sweeps: int
    memory: MemoryScore

    @property
    def share(self) -> float:
        """Fraction of the rows that could be represented."""
        return self.num_represented / self.num_rows


@dataclass(frozen=True, kw_only=True, slots=True)
class Grouping:
    """The groups of one key, or of several at once (``kind+chip``), by name."""

    by: str
    groups: tuple[Group, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """Rows that could not be represented for one reason; ``example`` is the id of one."""

    reason: str
    num_rows: int
    example: str


def parse_keys(text: str) -> tuple[tuple[str, ...], ...]:
    """Read ``kind,chip+quality``: one table for each part, keys joined by ``+`` in one table.

    Raises
    ------
    SpecError
        A key is not known.
    """
    parts = tuple(tuple(key.strip() for key in part.split("+")) for part in text.split(","))
    for key in (key for part in parts for key in part):
        if key not in KEYS:
            raise SpecError(f"--by: unknown key '{key}'", f"known: {', '.join(KEYS)}")
    return tuple(dict.fromkeys(parts))


def sweeps(outcomes: Iterable[Outcome]) -> tuple[Sweep, ...]:
    """Every sweep of ten or more layouts that were measured and predicted, by name.

    Rows belong to one sweep when everything but the layout is the same: see
    :func:`planner.validation.predict_rows.sweep_text`. A layout that was measured twice
    (two releases of one software) counts once, its times are ranked both.
    """
    rows: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        if outcome.sweep and outcome.pair is not None:
            rows[outcome.sweep].append(outcome)
    found = []
    for name, members in sorted(rows.items()):
        num_layouts = len({outcome.layout for outcome in members})
        if num_layouts >= MIN_LAYOUTS:
            pairs = [outcome.pair for outcome in members if outcome.pair is not None]
            rank = spearman(*(list(side) for side in zip(*pairs, strict=True)))
            found.append(
                Sweep(name=name, num_rows=len(members), num_layouts=num_layouts, rank=rank)
            )
    return tuple(found)


def memory_score(outcomes: Iterable[Outcome]) -> MemoryScore:
    """Right answers of the memory model: a layout that was timed fits, one that was not doesn't."""
    counts = {(ran, right): 0 for ran in (True, False) for right in (True, False)}
    for outcome in outcomes:
        if outcome.memory is not None:
            ran = outcome.measured_s is not None
            counts[ran, outcome.memory.fits is ran] += 1
    return MemoryScore(
        ran_right=counts[True, True],
        ran_total=counts[True, True] + counts[True, False],
        oom_right=counts[False, True],
        oom_total=counts[False, True] + counts[False, False],
    )


def make_group(
    name: tuple[str, ...], outcomes: Sequence[Outcome], beside: Iterable[Outcome] = ()
) -> Group:
    """Statistics of some rows, one at least; ``beside`` counts for memory alone."""
    pairs = [outcome.pair for outcome in outcomes if outcome.pair is not None]
    inside = sweeps(outcomes)
    ranks = [sweep.rank for sweep in inside if sweep.rank is not None]
    return Group(
        name=name,
        num_rows=len(outcomes),
        num_represented=sum(outcome.represented for outcome in outcomes),
        errors=error_stats([pair[0] for pair in pairs], [pair[1] for pair in pairs]),
        rank=median(ranks) if ranks else None,
        num_sweeps=len(inside),
        memory=memory_score((*outcomes, *beside)),
    )


def _split(
    outcomes: Iterable[Outcome], keys: tuple[str, ...]
) -> dict[tuple[str, ...], list[Outcome]]:
    rows: dict[tuple[str, ...], list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        rows[tuple(KEYS[key](outcome) or "-" for key in keys)].append(outcome)
    return rows


def group_by(
    outcomes: Iterable[Outcome], keys: tuple[str, ...], beside: Iterable[Outcome] = ()
) -> Grouping:
    """Group rows by keys of ``KEYS``; rows without a value make the group ``-``.

    Parameters
    ----------
    beside : iterable of Outcome
        Further rows that score the memory of the groups they belong to.
    """
    others = _split(beside, keys)
    groups = tuple(
        make_group(name, members, others.get(name, ()))
        for name, members in sorted(_split(outcomes, keys).items())
    )
    return Grouping(by="+".join(keys), groups=groups)


def worst(outcomes: Iterable[Outcome], count: int = NUM_WORST) -> tuple[Outcome, ...]:
    """Rows whose prediction is off by the largest factor, the worst first."""

    def factor(outcome: Outcome) -> float:
        ratio = outcome.ratio
        assert ratio is not None
        return max(ratio, 1.0 / ratio)

    compared = [outcome for outcome in outcomes if outcome.ratio is not None]
    return tuple(sorted(compared, key=lambda outcome: (-factor(outcome), outcome.id))[:count])


def misjudged(outcomes: Iterable[Outcome], count: int = NUM_WORST) -> tuple[Outcome, ...]:
    """Layouts about which the memory model is wrong, by the largest factor first."""
    wrong = [
        (max(memory.ratio, 1.0 / memory.ratio), outcome)
        for outcome in outcomes
        if (memory := outcome.memory) is not None
        and memory.fits is not (outcome.measured_s is not None)
    ]
    wrong.sort(key=lambda item: (-item[0], item[1].id))
    return tuple(outcome for _, outcome in wrong[:count])


def refusals(outcomes: Iterable[Outcome]) -> tuple[Refusal, ...]:
    """Rows that could not be represented, by reason, the most frequent first.

    A serving row, which measures two latencies, counts once.
    """
    rows: dict[str, dict[str, None]] = defaultdict(dict)
    for outcome in outcomes:
        if not outcome.represented:
            rows[outcome.reason][outcome.id] = None
    found = [
        Refusal(reason=reason, num_rows=len(ids), example=next(iter(ids)))
        for reason, ids in rows.items()
    ]
    return tuple(sorted(found, key=lambda refusal: (-refusal.num_rows, refusal.reason)))
