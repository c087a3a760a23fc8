"""The line that shows a search."""

import io
import math

from planner.report.progress import search_line, state_text, steps_line, steps_text
from planner.search.control import SearchState

UNIT = "seconds per step"


class Terminal(io.StringIO):
    def isatty(self):
        return True


def state(**changes):
    given = {
        "incumbent": 0.04,
        "bound": 0.03,
        "gap": 0.25,
        "solved": 12,
        "remaining": 3456,
        "elapsed_s": 1.26,
    }
    return SearchState(**{**given, **changes})


def test_text_of_each_stage():
    assert state_text(state(), UNIT) == (
        "1.3 s: gap 25.0 %, best 0.04, bound 0.03 seconds per step, 12 solved, 3,456 left"
    )
    none = {"incumbent": math.inf, "gap": math.inf}
    assert state_text(state(**none, solved=0, bound=0.0), UNIT) == (
        "1.3 s: bounding 3,456 strategies"
    )
    assert state_text(state(**none, solved=0), UNIT) == "1.3 s: solving 3,456 strategies"
    assert state_text(state(**none), UNIT) == "1.3 s: no layout yet, 12 solved, 3,456 left"


def test_nothing_is_shown_off_a_terminal():
    stream = io.StringIO()
    with search_line(stream, UNIT) as show:
        assert show is None
    assert stream.getvalue() == ""


def test_a_short_search_shows_nothing():
    stream, now = Terminal(), [0.0]
    with search_line(stream, UNIT, lambda: now[0]) as show:
        show(state())
        now[0] = 0.49
        show(state())
    assert stream.getvalue() == ""


def test_the_line_is_written_ten_times_a_second_and_wiped():
    stream, now = Terminal(), [0.0]
    with search_line(stream, UNIT, lambda: now[0]) as show:
        # 2,000 reports in 2 s; the first is shown at 0.5 s, then one in 0.1 s.
        for tick in range(2000):
            now[0] = tick / 1000
            show(state())
    text = stream.getvalue()
    assert 10 <= text.count("gap 25.0 %") <= 15
    assert "\n" not in text and text.endswith("\r\x1b[2K")


def test_the_line_fits_a_narrow_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "30")
    stream, now = Terminal(), [0.0]
    with search_line(stream, UNIT, lambda: now[0]) as show:
        now[0] = 1.0
        show(state())
    shown = stream.getvalue().removesuffix("\r\x1b[2K").removeprefix("\r\x1b[2K")
    assert len(shown) == 29


def test_the_line_is_wiped_after_an_error():
    stream, now = Terminal(), [0.0]
    try:
        with search_line(stream, UNIT, lambda: now[0]) as show:
            now[0] = 1.0
            show(state())
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert stream.getvalue().endswith("\r\x1b[2K")


def test_a_bar_fills_with_the_share():
    assert steps_text("a plan", 0.5, width=8) == "[####....]  50%  a plan"
    assert steps_text("all", 1.0, width=4) == "[####] 100%  all"


def test_steps_are_shown_on_a_terminal_and_wiped():
    stream, now = Terminal(), iter([0.0, 0.1, 5.0])
    with steps_line(stream, clock=lambda: next(now)) as tell:
        tell("too soon to be seen", 0.1)
        tell("planning ep", 0.5)
    shown = stream.getvalue()
    assert "planning ep" in shown and "too soon" not in shown
    assert shown.endswith("\r\x1b[2K")


def test_steps_are_silent_elsewhere():
    stream = io.StringIO()
    with steps_line(stream) as tell:
        tell("planning ep", 0.5)
    assert stream.getvalue() == ""
