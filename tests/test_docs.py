"""The README's commands, help text and examples are the program's."""

import runpy
from pathlib import Path

from planner.cli.main import run

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def test_readme_opens_with_the_two_commands():
    first, second = README.splitlines()[:2]
    assert first.startswith("    python3 -m venv .venv") and "planner plan deepseek-v3" in first
    assert second.startswith("    python3 -m venv .venv") and second.endswith("pytest")


def test_help_in_the_readme_is_current(capsys):
    assert run(["--help"]) == 0
    assert capsys.readouterr().out.strip() in README


def test_first_example_prints_the_winner(capsys):
    runpy.run_path(str(ROOT / "examples" / "01_which_layout.py"))
    out = capsys.readouterr().out
    assert out.startswith("EP72, batch ") and "EP64" in out


def test_second_example_prints_what_wounds_cost(capsys):
    runpy.run_path(str(ROOT / "examples" / "02_a_wounded_rack.py"))
    times = [float(line[20:28]) for line in capsys.readouterr().out.splitlines()]
    whole, switch, link, racks = times
    # 18 / 17 of the wire time; twice the wire time of one plane; half of it over slow NICs
    assert whole < switch < link < racks
    assert racks / whole > 4
