"""Cells over domains that they share: the counting model against brute force and by hand."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.search import mapping_model
from planner.search.mapping_case import (
    MappingCase,
    offered,
    piece_bound,
    smallest_piece,
    violations,
    whole_cells,
)
from planner.search.mapping_model import (
    Answer,
    columns,
    compositions,
    partitions,
    pour,
    slot_patterns,
    solve_mapping,
)


def case(capacities, need, num_cells):
    return MappingCase(capacities=tuple(capacities), need=need, num_cells=num_cells)


def splits(need, room):
    """Ways to lay one cell over domains with ``room`` units left."""
    if len(room) == 1:
        if need <= room[0]:
            yield (need,)
        return
    for first in range(min(need, room[0]) + 1):
        for rest in splits(need - first, room[1:]):
            yield (first, *rest)


def brute_force(asked):
    """Largest smallest piece of any mapping, 0 if there is none."""

    def best(cells, room, floor):
        if cells == 0:
            return asked.need
        top = 0
        for own in splits(asked.need, room):
            piece = min(units for units in own if units)
            if piece > max(top, floor):
                left = tuple(r - u for r, u in zip(room, own, strict=True))
                top = max(top, min(piece, best(cells - 1, left, max(top, floor))))
        return top

    return best(asked.num_cells, asked.capacities, 0)


small = st.builds(
    case,
    st.lists(st.integers(1, 6), min_size=2, max_size=4).filter(lambda own: sum(own) <= 12),
    st.integers(1, 8),
    st.integers(1, 4),
)


@settings(max_examples=300, deadline=None)
@given(small)
def test_the_model_is_as_good_as_brute_force(asked):
    best = brute_force(asked)
    found = solve_mapping(asked)
    assert piece_bound(asked) >= best
    if best == 0:
        assert found is None
        return
    assert found.smallest == found.bound == best
    assert violations(asked, found.cells) == []
    assert smallest_piece(found.cells) == best


@settings(max_examples=60, deadline=None)
@given(small, st.randoms(use_true_random=False))
def test_names_of_domains_do_not_matter(asked, random):
    order = list(asked.capacities)
    random.shuffle(order)
    here, there = solve_mapping(asked), solve_mapping(case(order, asked.need, asked.num_cells))
    if here is None:
        assert there is None
        return
    assert (here.smallest, here.bound) == (there.smallest, there.bound)
    pieces = [sum(len(cell) for cell in found.cells) for found in (here, there)]
    assert pieces[0] == pieces[1]


@settings(max_examples=60, deadline=None)
@given(small, st.data())
def test_a_lost_chip_never_makes_pieces_larger(asked, data):
    place = data.draw(st.integers(0, len(asked.capacities) - 1))
    fewer = list(asked.capacities)
    fewer[place] -= 1
    before, after = solve_mapping(asked), solve_mapping(case(fewer, asked.need, asked.num_cells))
    assert after is None or after.smallest <= before.smallest


@settings(max_examples=40, deadline=None)
@given(small)
def test_more_cells_never_have_larger_pieces(asked):
    found = [solve_mapping(case(asked.capacities, asked.need, n)) for n in range(1, 6)]
    sizes = [0 if mapping is None else mapping.smallest for mapping in found]
    assert sizes == sorted(sizes, reverse=True)


def test_cells_are_kept_whole_where_pieces_cannot_be_larger():
    # two of two on 1 1 1 2: one cell is whole, the other 1 + 1, whatever comes first
    for capacities in ([1, 1, 1, 2], [2, 1, 1, 1]):
        found = solve_mapping(case(capacities, 2, 2))
        assert sorted(len(cell) for cell in found.cells) == [1, 2]


def test_cells_of_72_on_racks_of_70():
    # 15 cells on 16 racks. Pieces of 25 or more leave two per cell, so cells join racks to
    # chains (a ring of k racks would hold 72 k chips). Along a chain a rack that gives 72 - a to
    # one cell has a - 2 left for the next: from 47 down to 25 that is 12 cells on 13 racks, and
    # two chains need 17. Pieces of 24, three to a cell, do.
    found = solve_mapping(case([70] * 16, 72, 15))
    assert found.smallest == found.bound == 24
    # Three racks hold two cells of 100 as 64 + 36 each: the third is cut in half.
    assert solve_mapping(case([72] * 3, 100, 2)).smallest == 36


def test_what_needs_no_solver(monkeypatch):
    monkeypatch.setattr(mapping_model, "_Model", None)
    found = solve_mapping(case([72, 70, 64, 71], 35, 7))
    assert found.cells == (
        ((0, 35),),
        ((0, 35),),
        ((1, 35),),
        ((1, 35),),
        ((2, 35),),
        *found.cells[5:],
    )
    assert found.smallest == found.bound == 35
    assert solve_mapping(case([8, 8], 9, 2)) is None


def test_counting():
    assert list(partitions(7, 3, 1, 4)) == [(4, 2, 1), (3, 3, 1), (3, 2, 2)]
    assert list(partitions(0, 0, 1, 4)) == [()]
    assert list(compositions(6, 2, 4)) == [(4, 2), (3, 3), (2, 2, 2)]
    # nine units in slots of 3 to 5: one slot can be no larger than a cell
    assert list(slot_patterns(9, 5, 3)) == [(5,), (5, 4), (3, 3, 3)]
    assert [offered(units, 5, 3) for units in (2, 4, 9, 12)] == [0, 4, 9, 12]
    assert offered(8, 5, 5) == 5
    assert whole_cells(case([9, 4, 10], 5, 1)) == 3
    assert columns(case([4, 4, 3], 6, 1), 3).classes == ((3, 1), (4, 2))


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4))
def test_no_cut_of_a_domain_has_larger_slots(capacity, need, piece):
    patterns = list(slot_patterns(capacity, need, piece))
    for count in range(1, capacity // piece + 1):
        for total in range(capacity + 1):
            for cut in partitions(total, count, piece, need):
                assert any(
                    len(p) == count and all(s >= c for s, c in zip(p, cut, strict=True))
                    for p in patterns
                )


def test_pouring_always_completes():
    asked = case([5, 1, 4], 3, 3)
    assert violations(asked, pour(asked)) == []
    assert pour(asked) == (((0, 3),), ((0, 2), (1, 1)), ((2, 3),))


# A case that the whole model answers, and what it says without one of its rules.
DROPPED = {
    "cells_are_all_made": (case([4, 4], 5, 2), 2, Answer.NO),
    "domains_are_not_exceeded": (case([4, 4], 5, 2), 2, Answer.NO),
    "pieces_find_slots": (case([4, 4], 5, 2), 2, Answer.NO),
}


@pytest.mark.parametrize("rule", DROPPED)
def test_no_rule_can_be_dropped(rule, monkeypatch):
    asked, piece, answer = DROPPED[rule]
    ask = mapping_model._at_threshold
    assert ask(asked, piece, fewest_pieces=False)[0] is answer
    monkeypatch.setattr(mapping_model._Model, rule, lambda self: None)
    assert ask(asked, piece, fewest_pieces=False)[0] is not answer


def test_violations_are_told():
    asked = case([3, 3], 4, 1)
    assert violations(asked, [((0, 2), (1, 2))]) == []
    for cells, word in [
        ([], "are mapped"),
        ([((0, 4),)], "more than it has"),
        ([((0, 2), (0, 2))], "two pieces"),
        ([((0, 4), (1, 0))], "empty"),
        ([((0, 1), (1, 2))], "needs 4"),
        ([((0, 2), (5, 2))], "domain 5"),
    ]:
        assert any(word in text for text in violations(asked, cells)), word


RACKS = [72] * 13 + [70, 64, 71]


@pytest.mark.parametrize("need", [32, 64, 72, 96, 136, 144, 288])
def test_sixteen_racks_are_proved(need):
    asked = case(RACKS, need, sum(RACKS) // need)
    found = solve_mapping(asked)
    assert violations(asked, found.cells) == []
    assert found.smallest == found.bound


@pytest.mark.parametrize("fill", [0.9, 1.0])
@pytest.mark.parametrize("need", [12, 16, 64])
def test_four_thousand_nodes_are_proved(need, fill):
    nodes = [8 - (7 * node % 30 < 6) for node in range(4096)]
    asked = case(nodes, need, int(fill * sum(nodes)) // need)
    found = solve_mapping(asked)
    assert violations(asked, found.cells) == []
    assert found.smallest == found.bound


def test_too_many_ways_leave_an_honest_bound(monkeypatch):
    monkeypatch.setattr(mapping_model, "MAX_COLUMNS", 40)
    solve_mapping.cache_clear()
    asked = case(RACKS, 144, 7)
    found = solve_mapping(asked)
    solve_mapping.cache_clear()
    assert violations(asked, found.cells) == []
    assert 24 <= found.smallest <= 48 <= found.bound


def test_the_same_question_has_the_same_answer():
    answers = []
    for _ in range(2):
        solve_mapping.cache_clear()
        answers.append(solve_mapping(case(RACKS, 72, 15)))
    assert answers[0] == answers[1]


def test_all_small_machines_of_two_domains():
    for a, b, need in itertools.product(range(1, 6), range(1, 6), range(1, 7)):
        for cells in range(1, 4):
            asked = case([a, b], need, cells)
            found = solve_mapping(asked)
            assert (0 if found is None else found.smallest) == brute_force(asked)
