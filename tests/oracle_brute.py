"""Brute force: every strategy, cut, placement and batch of a tiny question, priced in full.

Sets, with S chips in a stage, D chips in the largest domain, E experts, L layers:

    S         1 .. D, and n equal pieces of D/2 .. D chips over n domains
    attn_tp   divides S, at most the heads; attn_dp = S / attn_tp, 1 without experts
    ep        divides S; expert_tp = S / ep
    slots     E, or ceil(E / ep) + 0..3 on every group, at most E ep
    pp        1 .. L;  microbatches 1 .. pp + 1 and 2 pp, 1 where pp is 1
    cp        divides S / attn_tp; every overlap mode; draft 0, up to 3 with an acceptance
    replicas  as many as fit; fewer too where cost with a pinned batch or a pin asks for it
    ends      all compositions of L into pp parts
    maps      all ways to give every group its slots, groups being alike; per distinct row of
              loads, those that no other way beats in both hot share and touched copies
    batch     pinned: all ways to split it that are even over replicas; free: every number of
              sequences per replica, from one per microbatch until memory or TPOT fails, dealt
              evenly, alike for all replicas; the smallest one where latency counts

Every combination is priced by ``planner.cost.evaluate.evaluate`` and nothing else; nothing of
``planner.search`` is used but the names of the limits.
"""

import itertools
import math
from functools import cache

import numpy as np

from planner import api
from planner.cost.evaluate import evaluate
from planner.cost.memory import budget_bytes
from planner.cost.routing import map_load, moe_layer_indices, moe_shape
from planner.domain.assignment import Assignment, SlotMap
from planner.domain.degrees import Degrees, OverlapMode
from planner.domain.workload import Objective, Phase
from planner.topology.groups import carve, max_cells


def permits(allowed, value):
    return allowed is None or value in allowed


def divisors(number):
    return [d for d in range(1, number + 1) if number % d == 0]


class TooManyError(Exception):
    """A question with more layouts than a test should price."""


class Problem:
    """A question with its files read, as brute force sees it."""

    def __init__(self, case, question, inputs, most_evaluations=math.inf):
        self.setting, self.topology, self.loads = case.setting, case.topology, case.loads
        self.model = case.setting.model
        self.question = question
        self.objective = question.objective
        self.limit_s = question.tpot_s
        if question.phase is Phase.PREFILL:
            self.limit_s = question.ttft_s
        self.batch = question.batch
        self.price = inputs.price_usd_per_hour
        self.evaluations = 0
        self.most_evaluations = most_evaluations

    def value(self, prediction):
        """Objective, smaller is better."""
        if self.objective is Objective.LATENCY:
            return prediction.step_s
        if self.objective is Objective.THROUGHPUT:
            return self.topology.num_chips / prediction.tokens_per_s
        return self.price / 3600 * prediction.chips_rented / prediction.tokens_per_s * 1e6

    def price_of(self, assignment):
        """Prediction of an assignment."""
        self.evaluations += 1
        if self.evaluations > self.most_evaluations:
            raise TooManyError
        return evaluate(self.setting, self.topology, assignment, self.loads, self.price)

    def is_small(self, prediction):
        used = prediction.memory.used_bytes - prediction.memory.reserve_bytes
        return used <= budget_bytes(self.setting) * (1 + 1e-12)

    def is_fast(self, prediction):
        return self.limit_s is None or prediction.step_s <= self.limit_s

    def strategies(self):
        """Degrees of every strategy, with the cells that their stages may take."""
        limits, domains = self.question.limits, self.topology.domains
        largest, total = max(map(len, domains)), self.topology.num_chips
        heads = max(layer.attention.num_heads for layer in self.model.layers)
        shape = moe_shape(self.model)
        sizes = {*range(1, largest + 1)}
        sizes |= {
            n * piece
            for n in range(2, len(domains) + 1)
            for piece in range(math.ceil(largest / 2), largest + 1)
        }
        for size in sorted(s for s in sizes if s <= total):
            for attn_tp, ep in itertools.product(divisors(size), repeat=2):
                expert_tp = size // ep
                if shape is None and ep > 1:
                    continue
                if shape is None:
                    expert_tp = 1
                allowed = (
                    permits(limits.tp, attn_tp)
                    and permits(limits.ep, ep)
                    and permits(limits.expert_tp, expert_tp)
                )
                if attn_tp > heads or not allowed:
                    continue
                unit = self.unit(attn_tp, expert_tp)
                if unit is None or not max_cells(self.topology, size, unit):
                    continue
                cells = [cell.chips for cell in carve(self.topology, size, unit)]
                for slots, (cp, overlap, draft) in itertools.product(
                    self.slot_counts(ep), self.habits(size // attn_tp)
                ):
                    attn_dp = size // attn_tp // cp
                    if shape is None and attn_dp > 1:
                        continue
                    for pp, microbatches, replicas in self.pipelines(len(cells), attn_dp):
                        yield (
                            Degrees(
                                attn_tp=attn_tp,
                                attn_dp=attn_dp,
                                pp=pp,
                                ep=ep,
                                expert_tp=expert_tp,
                                num_slots=slots,
                                microbatches=microbatches,
                                replicas=replicas,
                                cp=cp,
                                overlap=overlap,
                                draft=draft,
                            ),
                            cells,
                        )

    def habits(self, groups):
        """Ways to share contexts, what to hide, and tokens to draft."""
        limits = self.question.limits
        modes = [mode for mode in OverlapMode if permits(limits.overlap, int(mode))]
        ways = [cp for cp in divisors(groups) if permits(limits.cp, cp)]
        drafts = range(4) if self.question.acceptance else (0,)
        drafts = [draft for draft in drafts if permits(limits.draft, draft)]
        return list(itertools.product(ways, modes, drafts))

    def unit(self, attn_tp, expert_tp):
        largest = max(map(len, self.topology.domains))
        unit = math.lcm(attn_tp, expert_tp)
        if unit <= largest:
            return unit
        inner = [degree for degree in (attn_tp, expert_tp) if degree <= largest]
        return None if len(inner) == 2 else max(inner, default=1)

    def slot_counts(self, ep):
        shape = moe_shape(self.model)
        if shape is None:
            return [0]
        experts = shape[0]
        counts = {experts, *(ep * (-(-experts // ep) + more) for more in range(4))}
        return sorted(
            c for c in counts if ep <= c <= experts * ep and permits(self.question.limits.slots, c)
        )

    def pipelines(self, cells, attn_dp):
        limits = self.question.limits
        fewer = self.objective is Objective.COST and self.batch is not None
        fewer = fewer or limits.replicas is not None or limits.dp is not None
        for pp in range(1, min(cells, len(self.model.layers)) + 1):
            free = {1} if pp == 1 else {*range(1, pp + 2), 2 * pp}
            for microbatches in sorted(
                free if limits.microbatches is None else limits.microbatches
            ):
                most = cells // pp
                if self.batch is not None:
                    # Every microbatch of every replica holds at least one sequence.
                    most = min(most, self.batch // microbatches)
                for replicas in range(1 if fewer else max(most, 1), most + 1):
                    if not (permits(limits.pp, pp) and permits(limits.replicas, replicas)):
                        continue
                    if permits(limits.dp, attn_dp * replicas):
                        yield pp, microbatches, replicas

    def cuts(self, pp):
        layers = len(self.model.layers)
        for inner in itertools.combinations(range(1, layers), pp - 1):
            yield (*inner, layers)

    def slot_maps(self, degrees, tokens):
        """Every combination over layers of the maps worth trying."""
        layers, shape = moe_layer_indices(self.model), moe_shape(self.model)
        if shape is None:
            yield ()
            return
        rows = [tuple(row) for row in self.loads.tolist()]
        distinct = list(dict.fromkeys(rows))
        choices = [
            undominated(row, shape[1], degrees.ep, degrees.num_slots, tokens) for row in distinct
        ]
        for chosen in itertools.product(*choices):
            by_row = dict(zip(distinct, chosen, strict=True))
            grouped = {}
            for layer, row in zip(layers, rows, strict=True):
                grouped.setdefault(by_row[row], []).append(layer)
            yield tuple(SlotMap(layers=tuple(own), slots=slots) for slots, own in grouped.items())

    def batches(self, degrees):
        """Sequences of every replica: for each number per group, all splits worth trying."""
        if self.batch is not None:
            yield from pinned_splits(degrees, self.batch)
            return
        for share in itertools.count(degrees.microbatches):
            one = even_table(share, degrees.microbatches, degrees.attn_dp)
            yield (one,) * degrees.replicas
            if self.objective is Objective.LATENCY:
                return

    def assignments(self, degrees, cells):
        """Every assignment with its prediction, within the limits."""
        placed = tuple(
            tuple(cells[replica * degrees.pp + stage] for stage in range(degrees.pp))
            for replica in range(degrees.replicas)
        )
        for sequences in self.batches(degrees):
            tokens = max(sum(microbatch) for replica in sequences for microbatch in replica)
            any_fits = False
            for ends in self.cuts(degrees.pp):
                for maps in self.slot_maps(degrees, float(tokens)):
                    assignment = Assignment(
                        degrees=degrees,
                        stage_ends=ends,
                        cells=placed,
                        slot_maps=maps,
                        sequences=sequences,
                    )
                    prediction = self.price_of(assignment)
                    if self.is_small(prediction) and self.is_fast(prediction):
                        any_fits = True
                        yield assignment, prediction
            if self.batch is None and not any_fits:
                return

    def best_of(self, degrees, cells):
        """Least objective of one strategy, infinite when nothing meets the limits."""
        return min(
            (self.value(found) for _, found in self.assignments(degrees, cells)), default=math.inf
        )

    def optimum(self):
        """Least objective of all, infinite when nothing meets the limits."""
        return min((self.best_of(*strategy) for strategy in self.strategies()), default=math.inf)


def problem_of(question, most_evaluations=math.inf):
    """The problem of a question, and what the planner searches in."""
    inputs, case = api.read_question(question)
    request = api.request_of(question, inputs, case)
    return Problem(case, question, inputs, most_evaluations), request


def pinned_splits(degrees, batch):
    """All splits of a pinned batch, even over replicas; even ones alone where there are many."""
    shares = [len(range(r, batch, degrees.replicas)) for r in range(degrees.replicas)]
    per_share = {share: tables(share, degrees.microbatches, degrees.attn_dp) for share in {*shares}}
    for chosen in itertools.product(*(per_share[share] for share in sorted({*shares}))):
        by_share = dict(zip(sorted({*shares}), chosen, strict=True))
        yield tuple(by_share[share] for share in shares)


@cache
def tables(share, rows, columns):
    """Tables of ``rows`` microbatches by ``columns`` groups that add up to ``share``.

    Of tables that agree in the fullest cell, microbatch and group one is kept: nothing else
    has a price. Those that another one is nowhere above are left out.
    """
    kept = {}
    cells = rows * columns
    if cells <= 4 and share <= 5:
        flats = (c for c in itertools.product(range(share + 1), repeat=cells) if sum(c) == share)
        found = (
            tuple(flat[row * columns : (row + 1) * columns] for row in range(rows))
            for flat in flats
        )
    else:
        found = [even_table(share, rows, columns)]
    for table in found:
        key = (
            max(map(max, table)),
            max(map(sum, table)),
            max(map(sum, zip(*table, strict=True))),
        )
        kept.setdefault(key, table)
    return [
        table
        for key, table in kept.items()
        if not any(
            other != key and all(o <= k for o, k in zip(other, key, strict=True)) for other in kept
        )
    ]


def even_table(share, rows, columns):
    """A table that is as even as whole numbers allow, in rows, columns and cells.

    No other one has a lower fullest cell, row or column.
    """
    flat = [0] * (rows * columns)
    turn = 0
    for column in range(columns):
        base, extra = divmod(len(range(column, share, columns)), rows)
        for row in range(rows):
            flat[row * columns + column] = base
        for _ in range(extra):
            flat[(turn % rows) * columns + column] += 1
            turn += 1
    return tuple(tuple(flat[row * columns : (row + 1) * columns]) for row in range(rows))


@cache
def every_map(experts, ep, num_slots):
    """All ways to fill the slots of ``ep`` alike groups, evenly many each, every expert placed."""
    base, extra = divmod(num_slots, ep)
    larger = itertools.combinations_with_replacement(
        list(itertools.combinations(range(experts), base + 1)), extra
    )
    smaller = list(
        itertools.combinations_with_replacement(
            list(itertools.combinations(range(experts), base)), ep - extra
        )
    )
    return [
        (*big, *small)
        for big in larger
        for small in smaller
        if len({expert for group in (*big, *small) for expert in group}) == experts
    ]


@cache
def undominated(row, top_k, ep, num_slots, tokens):
    """Maps that no other one beats in hot share and touched copies, one of each kind."""
    loads = np.array([row])
    found = {}
    for slots in every_map(len(row), ep, num_slots):
        hot, touched = map_load(SlotMap(layers=(0,), slots=slots), loads, top_k, tokens)
        found.setdefault((float(hot[0]), float(touched[0])), slots)
    return [
        slots
        for (hot, touched), slots in found.items()
        if not any(
            h <= hot * (1 + 1e-12)
            and t <= touched * (1 + 1e-12)
            and (h, t) != (hot, touched)
            and (h < hot * (1 - 1e-12) or t < touched * (1 - 1e-12))
            for h, t in found
        )
    ]
