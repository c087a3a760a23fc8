"""Tables: aligned plain text in a pipe; on a terminal drawn, whole, and as wide as it."""

import io
import re

import pytest

from planner.report.tables import print_table, print_text

HEADER = ("term", "time", "waits for")
ROWS = [("> attention core", "10.1 ms", "memory"), ("  [bold]x[/bold]", "9 us", "net")]
ESCAPE = re.compile(r"\x1b\[[0-9;]*m")


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")

    def draw(width, print_it):
        monkeypatch.setenv("COLUMNS", str(width))
        stream = Terminal()
        print_it(stream)
        return stream.getvalue()

    return draw


def test_pipe_gets_aligned_plain_text():
    stream = io.StringIO()
    print_table("Step", HEADER, ROWS, stream, words=(0, 2))
    assert stream.getvalue() == (
        "\n"
        "Step\n"
        "  term                 time  waits for\n"
        "  > attention core  10.1 ms  memory\n"
        "    [bold]x[/bold]     9 us  net\n"
    )


def test_empty_header_is_left_out():
    stream = io.StringIO()
    print_table("Figures", ("", ""), [("step", "19.9 ms"), ("tokens/s", "50")], stream)
    assert stream.getvalue() == "\nFigures\n  step      19.9 ms\n  tokens/s       50\n"


@pytest.mark.parametrize("width", [30, 40, 80, 200])
def test_terminal_gets_every_character_within_its_width(terminal, width):
    text = terminal(width, lambda stream: print_table("Step", HEADER, ROWS, stream))
    plain = ESCAPE.sub("", text)
    assert max(len(line) for line in plain.split("\n")) <= width
    squeezed = re.sub(r"[\s─]", "", plain)
    for part in ("attention", "10.1", "[bold]x[/bold]") if width >= 80 else ("10.1", "Step"):
        assert part in squeezed


def test_marked_row_is_bold_on_a_terminal(terminal):
    text = terminal(80, lambda stream: print_table("Step", HEADER, ROWS, stream))
    marked = next(line for line in text.split("\n") if "attention" in line)
    other = next(line for line in text.split("\n") if "9 us" in line)
    assert "\x1b[1m" in marked and "\x1b[1m" not in other


def test_no_color_and_dumb_terminals_get_no_colour(terminal, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    text = terminal(80, lambda stream: print_table("Step", HEADER, ROWS, stream))
    # Bold is no colour; colours are the codes 30 to 49 and 90 to 107.
    assert set(ESCAPE.findall(text)) <= {"\x1b[0m", "\x1b[1m"}
    monkeypatch.setenv("TERM", "dumb")
    assert "\x1b" not in terminal(80, lambda stream: print_table("Step", HEADER, ROWS, stream))


def test_paragraphs_wrap(terminal):
    words = "[why] " + " ".join(["word"] * 60)
    stream = io.StringIO()
    print_text(words, stream)
    lines = stream.getvalue().split("\n")
    assert max(map(len, lines)) <= 88 and " ".join(lines).split() == words.split()
    narrow = terminal(40, lambda terminal_stream: print_text(words, terminal_stream))
    assert max(map(len, narrow.split("\n"))) <= 40 and narrow.split() == words.split()
