"""Refined placements, prices, the greedy rule and domains against brute force."""

from itertools import combinations, product

import numpy as np
import pytest

from planner.errors import SpecError
from planner.search.expert_bounds import even_caps, expert_lower_bound
from planner.search.expert_check import (
    DomainRule,
    PricedLoad,
    placement_violations,
    refutes,
)
from planner.search.expert_domains import (
    Domains,
    bottleneck_partition,
    domain_caps,
    place_in_domains,
)
from planner.search.expert_greedy import count_repeats, greedy_slots, greedy_slots_by_domain
from planner.search.expert_layers import place_layers
from planner.search.expert_price_program import solve_prices
from planner.search.expert_prices import dearest, piece_prices, price_table
from planner.search.experts import chip_loads


def placements(num_experts, caps):
    """Every way to give each chip a set of experts."""
    experts = range(num_experts)
    choices = [[c for size in range(cap + 1) for c in combinations(experts, size)] for cap in caps]
    for groups in product(*choices):
        copies = np.bincount([e for g in groups for e in g], minlength=num_experts)
        if (copies > 0).all():
            yield groups, copies


def optimum(row, caps, rule=None):
    """Least hottest load over all placements that follow the rule."""
    best = np.inf
    for groups, copies in placements(len(row), caps):
        load = max(sum(row[e] / copies[e] for e in g) for g in groups)
        if load < best and not (rule and placement_violations(groups, row, sum(caps), rule)):
            best = load
    return best


def layers_of(row, caps, gap=0.0):
    """The refined placement of one layer."""
    (placed,) = place_layers(np.array([row]), np.array(caps), gap=gap)
    return placed


def certificate(placed):
    """The solver's certificate as the check takes it."""
    found = placed.certificate
    return PricedLoad(
        limit=found.limit,
        prices=tuple(
            zip(
                found.sizes.tolist(), found.thresholds.tolist(), found.weights.tolist(), strict=True
            )
        ),
    )


# --- bound <= optimum <= found -----------------------------------------------------------


@pytest.mark.parametrize("seed", range(150))
def test_refined_bound_and_placement_bracket_the_optimum(seed):
    rng = np.random.default_rng(seed)
    chips = int(rng.integers(2, 5))
    num_slots = int(rng.integers(chips, 2 * chips + 1))
    num_experts = int(rng.integers(2, min(5, num_slots) + 1))
    row = rng.integers(0 if seed % 4 else 1, 30, num_experts).astype(float)
    row[0] += 1
    row /= row.sum()
    caps = even_caps(num_slots, chips)
    best = optimum(row, caps.tolist())
    placed = layers_of(row, caps)
    assert placed.bound <= best * (1 + 1e-9)
    assert best <= placed.max_load * (1 + 1e-9)
    assert not placement_violations(placed.groups, row, num_slots)
    if placed.gap == 0:
        assert placed.max_load == pytest.approx(best)
    if placed.certificate is not None:
        assert refutes(certificate(placed), row, caps.tolist())


def test_refinement_finds_the_optimum_of_most_tiny_instances():
    # Pairs (two slots) are solved by choosing copies: nothing else is left to decide.
    hits = []
    for seed in range(60):
        row = np.random.default_rng(seed).integers(1, 30, 4).astype(float)
        row /= row.sum()
        hits.append(layers_of(row, [2, 2, 2]).max_load <= optimum(row, [2] * 3) * (1 + 1e-9))
    assert np.mean(hits) >= 0.9


@pytest.mark.parametrize("seed", range(60))
def test_a_refuted_load_is_below_the_optimum(seed):
    # Whatever prices refute, no placement reaches: tried close to the optimum.
    rng = np.random.default_rng(1000 + seed)
    caps = [[2, 2, 2], [3, 3], [3, 2], [2, 2, 1]][seed % 4]
    row = np.sort(rng.integers(1, 20, int(rng.integers(2, 5))).astype(float))[::-1]
    best = optimum(row, caps)
    for factor in (0.9, 0.97, 0.999, 1.0, 1.05):
        table = price_table(row, np.array(caps), best * factor)
        if table is None:
            assert factor < 1
            continue
        found = solve_prices(table, best * factor, 20)
        assert found.certificate is None or factor < 1


def test_prices_by_hand():
    # Two slots, t = 0.3 T: a piece of 0.3 costs 1, one above 0.7 leaves no room for it: 2.
    thresholds = np.array([0.3])
    pieces = np.array([0.29, 0.3, 0.7, 0.71, 1.0])
    assert piece_prices(pieces, thresholds, 2)[:, 0].tolist() == [0, 1, 1, 2, 2]
    # At most two pieces that weigh 1: 0.3 + 0.3 and 0.71 + nothing both cost 2.
    assert dearest(thresholds, 2, 2).tolist() == [2]
    # Four slots: above 1 - 3 t three small ones do not fit beside it, above 1 - 2 t not two.
    prices = piece_prices(np.array([0.1, 0.69, 0.71, 0.81, 0.91]), np.array([0.1]), 4)
    assert prices[:, 0].tolist() == [1, 1, 2, 3, 4]


# Four chips of two slots. The mean is 76 / 4 = 19, and no closed form says more; brute force
# over all placements finds 20.
PRICED = np.array([21.0, 20.0, 17.0, 10.0, 8.0]) / 76


def test_prices_prove_what_closed_forms_cannot():
    placed = layers_of(PRICED, [2, 2, 2, 2])
    assert optimum(PRICED, [2, 2, 2, 2]) == pytest.approx(20 / 76)
    assert expert_lower_bound(PRICED, 4, 2) == pytest.approx(19 / 76)
    assert placed.max_load == pytest.approx(20 / 76)
    assert placed.bound == pytest.approx(20 / 76, rel=1e-5)
    assert refutes(certificate(placed), PRICED, [2, 2, 2, 2])


def test_the_check_refuses_a_forged_certificate():
    true = certificate(layers_of(PRICED, [2, 2, 2, 2]))
    too_high = PricedLoad(limit=20.01 / 76, prices=true.prices)
    assert not refutes(too_high, PRICED, [2, 2, 2, 2])


@pytest.mark.parametrize(
    ("loads", "chips", "least"),
    [
        # Pairs: choosing copies beats the greedy rule, whose balance is 0.797.
        ("zipf", 144, 0.82),
        # Prices alone prove four pieces of which the heaviest fills a chip.
        ("steep", 72, 0.89),
        # Chips of four and five slots.
        ("steep", 64, 0.99),
    ],
)
def test_hard_cases_of_256_experts(loads, chips, least):
    exponent = {"zipf": 0.5, "steep": 1.0}[loads]
    row = np.arange(1, 257) ** -exponent
    row /= row.sum()
    caps = even_caps(288, chips)
    placed = layers_of(row, caps, gap=0.005)
    greedy = chip_loads(greedy_slots(row, caps), row).max()
    assert placed.max_load <= greedy
    assert 1 / (placed.max_load * chips) >= least
    assert placed.gap <= (0.007 if loads == "zipf" else 0.005)
    assert not placement_violations(placed.groups, row, 288)


def test_certificates_of_256_experts_hold_in_plain_python():
    rng = np.random.default_rng(5)
    row = rng.lognormal(0, 1, 256)
    row /= row.sum()
    placed = layers_of(row, [2] * 144, gap=0.005)
    assert placed.gap <= 0.005
    assert refutes(certificate(placed), row.tolist(), [2] * 144)


def test_processes_change_nothing():
    rng = np.random.default_rng(2)
    rows = rng.uniform(0, 200, (9, 64))
    rows /= rows.sum(axis=1, keepdims=True)
    caps = even_caps(72, 36)
    one = place_layers(rows, caps, gap=0.002, jobs=1)
    two = place_layers(rows, caps, gap=0.002, jobs=2)
    for first, second in zip(one, two, strict=True):
        assert np.array_equal(first.slots, second.slots)
        assert first.bound == second.bound


def test_a_deadline_in_the_past_keeps_the_first_answer_and_its_honest_gap():
    row = np.arange(1, 257) ** -0.5
    row /= row.sum()
    (placed,) = place_layers(row[None], even_caps(288, 144), gap=0.005, deadline=0.0)
    assert placed.gap > 0.05
    assert not placement_violations(placed.groups, row, 288)


# --- the greedy rule ---------------------------------------------------------------------


def test_greedy_rule_reproduces_its_published_example():
    # README of deepseek-ai/EPLB: 12 experts in 4 groups, 16 slots on 8 chips of 2 nodes.
    loads = np.array(
        [
            [90, 132, 40, 61, 104, 165, 39, 4, 73, 56, 183, 86],
            [20, 107, 104, 64, 19, 197, 187, 157, 172, 86, 16, 27],
        ],
        dtype=float,
    )
    published = [
        [[5, 6], [5, 7], [8, 4], [3, 4], [10, 9], [10, 2], [0, 1], [11, 1]],
        [[7, 10], [6, 8], [6, 11], [8, 9], [2, 4], [5, 1], [5, 0], [3, 1]],
    ]
    for row, expected in zip(loads, published, strict=True):
        slots = greedy_slots_by_domain(row, np.full(8, 2), 2, 4)
        assert [sorted(chip) for chip in slots.tolist()] == [sorted(chip) for chip in expected]


def test_greedy_rule_by_hand():
    # 8, 3, 1 in four slots: the spare copy halves 8; 4, 4 open two chips, 3 and 1 join.
    slots = greedy_slots(np.array([8.0, 3.0, 1.0]), np.array([2, 2]))
    assert sorted(map(sorted, slots.tolist())) == [[0, 1], [0, 2]]
    # All of the load on one expert: three copies on two chips must repeat.
    assert count_repeats(greedy_slots(np.array([9.0, 0.0]), np.array([2, 2]))) == 1


# --- domains -----------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(40))
def test_spread_copies_bracket_the_optimum(seed):
    rng = np.random.default_rng(seed)
    row = rng.integers(1, 20, int(rng.integers(2, 5))).astype(float)
    row /= row.sum()
    num_slots = int(rng.integers(max(4, len(row)), 9))
    domains = Domains(num_domains=2, chips=2)
    caps = domain_caps(num_slots, domains)
    rule = DomainRule(num_domains=2)
    best = optimum(row, caps.tolist(), rule)
    (placed,) = place_in_domains(row[None], num_slots, domains, gap=0.0)
    assert not placement_violations(placed.groups, row, num_slots, rule)
    assert placed.bound <= best * (1 + 1e-9) <= placed.max_load * (1 + 2e-9)


@pytest.mark.parametrize("seed", range(30))
def test_whole_groups_bracket_the_optimum(seed):
    rng = np.random.default_rng(seed)
    row = rng.integers(1, 20, 4).astype(float)
    row /= row.sum()
    groups = 2 if seed % 2 else 4
    num_slots = int(rng.choice([4, 6, 8]))
    domains = Domains(num_domains=2, chips=2, num_groups=groups)
    rule = DomainRule(num_domains=2, num_groups=groups)
    best = optimum(row, domain_caps(num_slots, domains).tolist(), rule)
    (placed,) = place_in_domains(row[None], num_slots, domains, gap=0.0)
    assert not placement_violations(placed.groups, row, num_slots, rule)
    assert placed.bound <= best * (1 + 1e-9) <= placed.max_load * (1 + 2e-9)
    if placed.gap == 0:
        assert placed.max_load == pytest.approx(best)


def test_groups_are_not_worse_than_the_hierarchical_rule():
    rng = np.random.default_rng(4)
    rows = rng.lognormal(0, 1, (6, 256))
    rows /= rows.sum(axis=1, keepdims=True)
    domains = Domains(num_domains=4, chips=8, num_groups=8)
    caps = domain_caps(288, domains)
    for row, placed in zip(rows, place_in_domains(rows, 288, domains, gap=0.005), strict=True):
        greedy = chip_loads(greedy_slots_by_domain(row, caps, 4, 8), row).max()
        assert placed.max_load <= greedy
        assert placed.gap <= 0.005


def test_many_groups_have_a_bound_and_a_placement():
    # 16 groups in 2 domains of 8: 12,870 sets, too many to list.
    row = np.arange(1, 33) ** -1.0
    row /= row.sum()
    domains = Domains(num_domains=2, chips=4, num_groups=16)
    rule = DomainRule(num_domains=2, num_groups=16)
    (placed,) = place_in_domains(row[None], 40, domains, gap=0.005)
    assert not placement_violations(placed.groups, row, 40, rule)
    assert placed.bound >= 1 / 8
    assert placed.gap < 0.1


def test_bottleneck_partition_by_enumeration():
    rng = np.random.default_rng(0)
    for _ in range(20):
        values = {pair: float(rng.integers(1, 50)) for pair in combinations(range(6), 2)}
        by_hand = min(
            max(values[a], values[b], values[c])
            for a, b, c in combinations(values, 3)
            if len({*a, *b, *c}) == 6
        )
        largest, sets = bottleneck_partition(values, 6)
        assert largest == by_hand == max(values[one] for one in sets)
        assert sorted(item for one in sets for item in one) == list(range(6))


@pytest.mark.parametrize(
    ("groups", "domains", "slots", "message"),
    [
        (3, 2, 8, "do not split into 3 equal groups"),
        (2, 4, 8, "cannot be dealt equally to 4 domains"),
        (4, 2, 9, "do not split into 2 equal domains"),
    ],
)
def test_groups_that_cannot_be_dealt_are_refused(groups, domains, slots, message):
    row = np.full((1, 8), 1 / 8)
    with pytest.raises(SpecError, match=message):
        place_in_domains(
            row, slots, Domains(num_domains=domains, chips=2, num_groups=groups), gap=0.0
        )


# --- the check ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("chips", "message"),
    [
        ([[0, 0], [1]], "two copies"),
        ([[0, 1], [1]], "nowhere"),
        ([[0, 1, 2], [1]], "more than its slots"),
        ([[0, 5], [1, 2]], "not there"),
    ],
)
def test_the_check_names_what_is_wrong(chips, message):
    found = placement_violations(chips, [1.0, 1.0, 1.0], 4)
    assert any(message in sentence for sentence in found)


def test_the_check_knows_domains():
    chips = [[0, 1], [0, 2], [1, 3], [2, 3]]
    loads = [1.0] * 4
    assert placement_violations(chips, loads, 8, DomainRule(num_domains=2)) == [
        "the copies of expert 0 are not spread over the domains",
        "the copies of expert 3 are not spread over the domains",
    ]
    assert placement_violations(chips, loads, 8, DomainRule(num_domains=2, num_groups=4)) == [
        "group 1 is in 2 domains",
        "group 2 is in 2 domains",
    ]
