"""Work in forked processes answers as work in one does."""

import os

import pytest

from planner.search.processes import can_fork, map_forked


@pytest.mark.parametrize("jobs", [1, 2, 3, None])
def test_answers_come_in_order_whoever_computes_them(jobs):
    shift = 10
    assert list(map_forked(lambda place: place + shift, 7, jobs)) == list(range(10, 17))


def test_nothing_to_do():
    assert list(map_forked(lambda place: place, 0, 4)) == []


@pytest.mark.skipif(not can_fork(), reason="processes cannot be forked here")
def test_more_than_one_process_works_and_each_may_fork_again():
    def inner(place):
        return os.getpid(), tuple(map_forked(lambda other: place * other, 3, 2))

    found = list(map_forked(inner, 4, 2))
    assert os.getpid() not in {process for process, _ in found}
    assert [products for _, products in found] == [(0, place, 2 * place) for place in range(4)]


def test_a_failure_reaches_who_asked():
    def fail(place):
        raise ValueError(f"piece {place}")

    with pytest.raises(ValueError, match="piece 0"):
        list(map_forked(fail, 3, 2))
    assert list(map_forked(lambda place: place, 2, 2)) == [0, 1]
