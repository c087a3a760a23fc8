"""Expert placement as a question of its own: from files of loads to a placement with proof.

Layers are independent. For each the answer holds the slots of every chip, the balance
(mean over hottest chip), a bound that no placement beats, and what the greedy rule that
engines ship reaches on the same loads.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np

from planner.catalog.recorders import LoadTable, read_loads, read_pairs
from planner.errors import ModelBugError, SpecError
from planner.search.expert_bounds import (
    FloatArray,
    IntArray,
    even_caps,
    expert_lower_bound,
    require_slots,
)
from planner.search.expert_check import DomainRule, chip_totals, placement_violations
from planner.search.expert_coactivation import Together, gather_pairs
from planner.search.expert_domains import Domains, domain_caps, place_in_domains
from planner.search.expert_greedy import count_repeats, greedy_slots, greedy_slots_by_domain
from planner.search.expert_layers import place_layers
from planner.search.expert_prices import PriceCertificate
from planner.search.expert_windows import place_windows
from planner.search.experts import ExpertPlacement, chip_loads, split_tokens, with_slots

MAX_CHIPS = 100_000
_AGREES = 1e-9


class Split(StrEnum):
    """How the copies of an expert share its tokens."""

    EVEN = "even"
    WEIGHTED = "weighted"


@dataclass(frozen=True, kw_only=True, slots=True)
class ExpertQuestion:
    """What to place where.

    Attributes
    ----------
    loads : str
        File or folder that :func:`planner.catalog.recorders.read_loads` reads.
    num_chips, num_slots : int
        Chips of the expert-parallel group; copies that they hold together.
    domains : (int, int) or None
        Domains, and chips of each.
    num_groups : int or None
        Groups of experts that stay in one domain; without it a domain spreads copies.
    split : Split
    co_activation : str or None
        File that :func:`planner.catalog.recorders.read_pairs` reads.
    num_experts : int or None
        Experts of a layer, where the file does not tell.
    gap : float
        ``(hottest - bound) / hottest`` to prove, in [0, 1).
    time_limit_s : float or None
        Stop refining after this long.
    jobs : int
        Processes at most; the answer does not depend on it.
    """

    loads: str
    num_chips: int
    num_slots: int
    domains: tuple[int, int] | None = None
    num_groups: int | None = None
    split: Split = Split.EVEN
    co_activation: str | None = None
    num_experts: int | None = None
    gap: float = 0.005
    time_limit_s: float | None = None
    jobs: int = 1


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PlacedLayer:
    """Placement of one layer.

    Attributes
    ----------
    layer : int
        Model layer, where the file of loads tells, otherwise its row.
    chips : tuple of tuple of int
        Experts on each chip.
    copies : tuple of int
        Copies of each expert.
    weights : tuple of tuple of float or None
        Fraction of its expert's tokens that each copy receives, in the order of ``chips``;
        None where copies share evenly.
    max_load, bound : float
        Share of the layer's tokens on the hottest chip, and the least possible.
    certificate : PriceCertificate or None
        Why, where prices gave the bound.
    hottest_expert : int
    greedy_max_load : float
    greedy_repeats : int
        Copies that the greedy rule wastes beside another copy on the same chip.
    together : (float, float) or None
        Share of co-activated pairs in one domain, before and after moving copies.
    """

    layer: int
    chips: tuple[tuple[int, ...], ...]
    copies: tuple[int, ...]
    weights: tuple[tuple[float, ...], ...] | None
    max_load: float
    bound: float
    certificate: PriceCertificate | None
    hottest_expert: int
    greedy_max_load: float
    greedy_repeats: int
    together: tuple[float, float] | None

    @property
    def balance(self) -> float:
        """Mean over hottest chip, in (0, 1]."""
        return 1 / (len(self.chips) * self.max_load)

    @property
    def best_balance(self) -> float:
        """Balance that no placement exceeds."""
        return 1 / (len(self.chips) * self.bound)

    @property
    def greedy_balance(self) -> float:
        """Balance of the greedy rule."""
        return 1 / (len(self.chips) * self.greedy_max_load)

    @property
    def gap(self) -> float:
        """``(hottest - bound) / hottest``, in [0, 1)."""
        return (self.max_load - self.bound) / self.max_load


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ExpertAnswer:
    """Placements of all layers, and where the loads came from."""

    question: ExpertQuestion
    source: str
    num_experts: int
    layers: tuple[PlacedLayer, ...]
    seconds: float
    greedy_seconds: float

    @property
    def mean_balance(self) -> float:
        """Mean of the layers' balances."""
        return math.fsum(one.balance for one in self.layers) / len(self.layers)

    @property
    def mean_greedy_balance(self) -> float:
        """The same of the greedy rule."""
        return math.fsum(one.greedy_balance for one in self.layers) / len(self.layers)

    @property
    def worst(self) -> PlacedLayer:
        """The layer of least balance."""
        return min(self.layers, key=lambda one: one.balance)

    @property
    def largest_gap(self) -> float:
        """Largest gap of a layer."""
        return max(one.gap for one in self.layers)

    @property
    def num_open(self) -> int:
        """Layers whose gap is larger than the one asked for."""
        return sum(one.gap > self.question.gap for one in self.layers)


def place(question: ExpertQuestion) -> ExpertAnswer:
    """Read the loads and place the experts of every layer.

    Raises
    ------
    SpecError
        A number makes no sense, or the experts do not fit.
    CatalogError
        A file is missing or not understood.
    ModelBugError
        The answer violates what it claims.
    """
    started = time.perf_counter()
    domains = _check(question)
    table = read_loads(question.loads, question.num_experts)
    num_experts = table.rows.shape[1]
    require_slots(num_experts, question.num_slots)
    pairs = None
    if question.co_activation is not None:
        pairs = read_pairs(question.co_activation, num_experts)
        _check_pairs(pairs, table, question)
    rows = np.stack([row / math.fsum(row.tolist()) for row in table.rows])
    caps = _caps(question, domains)
    deadline = None
    if question.time_limit_s is not None:
        deadline = time.monotonic() + question.time_limit_s
    gap, jobs = question.gap, question.jobs
    if domains is None:
        placed = place_layers(rows, caps, gap=gap, jobs=jobs, deadline=deadline)
    else:
        placed = place_in_domains(
            rows, question.num_slots, domains, gap=gap, jobs=jobs, deadline=deadline
        )
    together: list[Together | None] = [None] * len(rows)
    if pairs is not None:
        placed, together = _gather(placed, rows, pairs, question)
    finished = [_finish(one, row, question) for one, row in zip(placed, rows, strict=True)]
    placed_s = time.perf_counter() - started
    greedy = [_greedy(row, caps, domains) for row in rows]
    layers = tuple(
        _layer(table, index, finished[index], rows[index], greedy[index], together[index])
        for index in range(len(rows))
    )
    _verify(layers, rows, question)
    return ExpertAnswer(
        question=question,
        source=table.source,
        num_experts=num_experts,
        layers=layers,
        seconds=placed_s,
        greedy_seconds=time.perf_counter() - started - placed_s,
    )


def _check(question: ExpertQuestion) -> Domains | None:
    """Numbers that contradict each other, named by their options."""
    if not 1 <= question.num_chips <= MAX_CHIPS:
        raise SpecError(
            f"--chips: {question.num_chips} is not in 1..{MAX_CHIPS}",
            "write for example --chips 72",
        )
    if question.num_slots > question.num_chips * 4096:
        raise SpecError(
            f"--slots: {question.num_slots} slots on {question.num_chips} chips",
            "slots are counted over all chips, for example --slots 288",
        )
    if not 0 <= question.gap < 1:
        raise SpecError(f"--gap: {question.gap} is not in [0, 1)", "write for example --gap 0.005")
    if question.domains is None:
        if question.num_groups is not None:
            raise SpecError("--groups needs --domains", "write for example --domains 4x8")
        return None
    num_domains, chips = question.domains
    if num_domains * chips != question.num_chips:
        raise SpecError(
            f"--domains: {num_domains} domains of {chips} chips are {num_domains * chips} chips, "
            f"--chips says {question.num_chips}",
            "the product is the number of chips",
        )
    if question.num_groups is not None and question.co_activation is not None:
        raise SpecError(
            "--groups keeps experts in their domains, --co-activation moves them",
            "leave one of them out",
        )
    return Domains(num_domains=num_domains, chips=chips, num_groups=question.num_groups)


def _check_pairs(pairs: FloatArray, table: LoadTable, question: ExpertQuestion) -> None:
    if len(pairs) not in (1, len(table.rows)):
        raise SpecError(
            f"--co-activation: '{question.co_activation}' has {len(pairs)} tables, the loads have "
            f"{len(table.rows)} layers",
            "give one table for all layers, or one per layer",
        )


def _caps(question: ExpertQuestion, domains: Domains | None) -> IntArray:
    if domains is None:
        return even_caps(question.num_slots, question.num_chips)
    return domain_caps(question.num_slots, domains)


def _gather(
    placed: tuple[ExpertPlacement, ...],
    rows: FloatArray,
    pairs: FloatArray,
    question: ExpertQuestion,
) -> tuple[tuple[ExpertPlacement, ...], list[Together | None]]:
    """Move copies together while no chip becomes hotter than the gap allows."""
    num_domains = question.num_chips if question.domains is None else question.domains[0]
    moved, found = [], []
    for index, (one, row) in enumerate(zip(placed, rows, strict=True)):
        limit = max(one.max_load, one.bound / (1 - question.gap))
        table = pairs[index % len(pairs)]
        together = gather_pairs(
            one.slots, row, table, num_domains, limit, spread=question.domains is not None
        )
        moved.append(with_slots(one, row, together.slots))
        found.append(together)
    return tuple(moved), list(found)


def _finish(
    placed: ExpertPlacement, row: FloatArray, question: ExpertQuestion
) -> tuple[ExpertPlacement, FloatArray | None]:
    """Weights of the copies where they do not share evenly."""
    if question.split is Split.EVEN:
        return placed, None
    caps = even_caps(question.num_slots, question.num_chips)
    bound = expert_lower_bound(row, question.num_chips, caps)
    spare = question.num_slots - len(row)
    is_free = question.domains is None and question.co_activation is None
    if is_free and caps[0] == caps[-1] and spare >= question.num_chips - 1:
        slots, weights = place_windows(row, question.num_chips, int(caps[0]))
        max_load = _weighted_max(slots, weights, row)
        copies = np.bincount(slots[slots >= 0], minlength=len(row))
        return ExpertPlacement(
            slots=slots, max_load=max_load, bound=min(bound, max_load), num_copies=copies
        ), weights
    split = split_tokens(placed, row)
    max_load = min(split.max_load, placed.max_load)
    weights = split.weights
    if split.max_load > placed.max_load:
        even = 1.0 / np.append(placed.num_copies, 1)
        weights = np.where(placed.slots >= 0, even[placed.slots], 0.0)
    # Prices speak of even splits; closed forms hold for both.
    return replace(placed, max_load=max_load, bound=min(bound, max_load), certificate=None), weights


def _weighted_max(slots: IntArray, weights: FloatArray, row: FloatArray) -> float:
    return float((weights * np.append(row, 0.0)[slots]).sum(axis=1).max())


def _greedy(row: FloatArray, caps: IntArray, domains: Domains | None) -> tuple[float, int]:
    """Hottest chip and repeats of the greedy rule; hierarchical where groups stay whole."""
    if domains is None or domains.num_groups is None:
        slots = greedy_slots(row, caps)
    else:
        slots = greedy_slots_by_domain(row, caps, domains.num_domains, domains.num_groups)
    return float(chip_loads(slots, row).max()), count_repeats(slots)


def _layer(
    table: LoadTable,
    index: int,
    finished: tuple[ExpertPlacement, FloatArray | None],
    row: FloatArray,
    greedy: tuple[float, int],
    together: Together | None,
) -> PlacedLayer:
    placed, weights = finished
    shares = None
    if weights is not None:
        shares = tuple(
            tuple(float(weight) for weight, expert in zip(own, held, strict=True) if expert >= 0)
            for own, held in zip(weights, placed.slots, strict=True)
        )
    return PlacedLayer(
        layer=table.layers[index],
        chips=placed.groups,
        copies=tuple(placed.num_copies.tolist()),
        weights=shares,
        max_load=placed.max_load,
        bound=placed.bound,
        certificate=placed.certificate,
        hottest_expert=int(row.argmax()),
        greedy_max_load=greedy[0],
        greedy_repeats=greedy[1],
        together=None if together is None else (together.before, together.after),
    )


def _verify(layers: tuple[PlacedLayer, ...], rows: FloatArray, question: ExpertQuestion) -> None:
    """Raise :class:`ModelBugError` when the independent check disagrees."""
    rule = None
    if question.domains is not None:
        rule = DomainRule(num_domains=question.domains[0], num_groups=question.num_groups)
    for one, row in zip(layers, rows, strict=True):
        loads = row.tolist()
        found = placement_violations(one.chips, loads, question.num_slots, rule)
        if one.weights is None:
            hottest = max(chip_totals(one.chips, loads))
        else:
            hottest = max(
                math.fsum(weight * loads[expert] for weight, expert in zip(own, held, strict=True))
                for own, held in zip(one.weights, one.chips, strict=True)
            )
        if abs(hottest - one.max_load) > _AGREES * hottest:
            found.append(f"the hottest chip carries {hottest}, not {one.max_load}")
        if found:
            raise ModelBugError(f"layer {one.layer}: {found[0]}")
