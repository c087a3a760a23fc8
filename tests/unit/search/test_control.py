"""When a search stops: gap, time limit, Ctrl-C; signals are sent by the tests to themselves."""

import math
import signal
import threading
import time

import pytest

from planner.search import control as module
from planner.search.control import SearchControl, SearchState, UnfinishedError


@pytest.fixture
def clock(monkeypatch):
    """Time that a test moves by hand."""
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def press_ctrl_c():
    signal.raise_signal(signal.SIGINT)


def spin(seconds):
    """Work in Python that a signal may leave."""
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass
    return "done"


def test_enough_once_the_next_bound_gains_no_more_than_the_gap():
    control = SearchControl(0.01)
    assert not control.enough(1.0)  # no incumbent: anything is an improvement
    control.offer(100.0)
    assert not control.enough(98.9)
    assert control.enough(99.0)  # 1 % of 100
    assert control.why == "gap"


def test_offer_keeps_the_best():
    control = SearchControl(0.0)
    for value in (5.0, 3.0, 4.0):
        control.offer(value)
    assert control.incumbent == 3.0


def test_an_infinite_bound_means_that_nothing_is_left():
    control = SearchControl(0.0)
    assert control.enough(math.inf)
    control.offer(1.0)
    press = SearchControl(0.0, time_limit_s=0.0)
    press.offer(1.0)
    press.report(math.inf)
    # The limit has passed too, but only after everything was solved.
    assert press.stopped()
    assert (control.why, press.why) == ("exhausted", "exhausted")


def test_report_counts_and_tells(clock):
    told = []
    control = SearchControl(0.005, progress=told.append)
    control.begin(7)
    control.offer(4.0)
    clock[0] += 2.5
    control.report(3.0)
    assert told == [
        SearchState(
            incumbent=math.inf, bound=0.0, gap=math.inf, solved=0, remaining=7, elapsed_s=0.0
        ),
        # (4 - 3) / 4
        SearchState(incumbent=4.0, bound=3.0, gap=0.25, solved=1, remaining=6, elapsed_s=2.5),
    ]


def test_a_bound_above_the_incumbent_is_no_negative_gap():
    control = SearchControl(0.0)
    control.offer(4.0)
    assert control.state(5.0).gap == 0.0
    assert control.state(math.inf).bound == 4.0


def test_the_time_limit_waits_for_an_incumbent(clock):
    control = SearchControl(0.0, time_limit_s=2.0)
    clock[0] += 3.0
    assert not control.stopped()
    control.offer(1.0)
    assert control.stopped()
    assert control.why == "time limit"


def test_before_the_time_limit_nothing_stops(clock):
    control = SearchControl(0.0, time_limit_s=2.0)
    control.offer(1.0)
    clock[0] += 1.9
    assert not control.stopped()
    assert control.time_left_s() == pytest.approx(module.GRACE_S)
    clock[0] -= 1.4
    assert control.time_left_s() == pytest.approx(1.5)


def test_what_stopped_the_search_first_stays_the_reason(clock):
    control = SearchControl(0.5, time_limit_s=1.0)
    control.offer(1.0)
    assert control.enough(0.9)
    clock[0] += 2.0
    assert control.stopped()
    assert control.why == "gap"


def test_overdue_comes_a_grace_after_the_limit(clock):
    control = SearchControl(0.0, time_limit_s=1.0)
    control.offer(1.0)
    clock[0] += 1.0
    assert control.stopped() and not control.is_overdue()
    clock[0] += module.GRACE_S
    assert control.is_overdue()


def test_ctrl_c_with_an_incumbent_stops():
    control = SearchControl(0.0)
    control.offer(1.0)
    with control.listening():
        assert not control.stopped()
        press_ctrl_c()
        assert control.stopped()
    assert control.why == "interrupted"


def test_ctrl_c_without_an_incumbent_ends_at_once():
    control = SearchControl(0.0)
    with pytest.raises(KeyboardInterrupt), control.listening():
        press_ctrl_c()


def test_a_second_ctrl_c_ends_at_once():
    control = SearchControl(0.0)
    control.offer(1.0)
    with pytest.raises(KeyboardInterrupt), control.listening():
        press_ctrl_c()
        press_ctrl_c()


def test_the_handler_from_before_comes_back():
    before = signal.getsignal(signal.SIGINT)
    with SearchControl(0.0).listening():
        assert signal.getsignal(signal.SIGINT) != before
    assert signal.getsignal(signal.SIGINT) is before
    with pytest.raises(ValueError, match="inside"), SearchControl(0.0).listening():
        raise ValueError("inside")
    assert signal.getsignal(signal.SIGINT) is before


def test_listening_can_be_left_off():
    before = signal.getsignal(signal.SIGINT)
    with SearchControl(0.0).listening(on=False):
        assert signal.getsignal(signal.SIGINT) is before


def test_an_ignored_ctrl_c_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        control = SearchControl(0.0)
        control.offer(1.0)
        with control.listening():
            press_ctrl_c()
            assert not control.stopped()
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_search_without_signals():
    found = []

    def search():
        control = SearchControl(0.0, time_limit_s=0.0)
        with control.listening():
            control.offer(1.0)
            found.append((control.stopped(), control.attempt(lambda: "solved"), control.why))

    thread = threading.Thread(target=search)
    thread.start()
    thread.join()
    assert found == [(True, "solved", "time limit")]


@pytest.mark.parametrize("work", [spin, time.sleep])
@pytest.mark.parametrize("limit_s", [None, 0.05])
def test_a_long_strategy_is_left_unfinished(monkeypatch, limit_s, work):
    monkeypatch.setattr(module, "GRACE_S", 0.1)
    control = SearchControl(0.0, time_limit_s=limit_s)
    control.offer(1.0)
    started = time.perf_counter()
    with control.listening():
        if limit_s is None:
            press_ctrl_c()
        with pytest.raises(UnfinishedError):
            control.attempt(lambda: work(20.0))
        assert control.stopped()
    assert 0.1 <= time.perf_counter() - started < 5.0
    assert control.why == ("interrupted" if limit_s is None else "time limit")


def test_a_strategy_that_ends_within_the_grace_is_finished():
    control = SearchControl(0.0)
    control.offer(1.0)
    with control.listening():
        press_ctrl_c()
        assert control.attempt(lambda: spin(0.01)) == "done"


def test_the_alarm_disturbs_nothing_outside_of_an_attempt(monkeypatch):
    monkeypatch.setattr(module, "GRACE_S", 0.02)
    control = SearchControl(0.0, time_limit_s=0.0)
    control.offer(1.0)
    with control.listening():
        assert spin(0.1) == "done"
        # The alarm was spent: a later Ctrl-C is one.
        press_ctrl_c()
    assert control.stopped() and control.why == "interrupted"
    assert spin(0.05) == "done"


def test_errors_of_a_strategy_pass():
    def fail():
        raise ValueError("no")

    control = SearchControl(0.0)
    with pytest.raises(ValueError, match="no"):
        control.attempt(fail)
    assert control.attempt(lambda: 3) == 3
