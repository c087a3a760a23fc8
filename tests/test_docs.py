"""The README's commands, help text and examples are the program's."""

import runpy
import shlex
import shutil
from pathlib import Path

import pytest

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
    runpy.run_path(str(ROOT / "examples" / "08_which_layout.py"))
    out = capsys.readouterr().out
    assert out.startswith("EP72, batch ") and "EP64" in out


def test_second_example_prints_what_wounds_cost(capsys):
    runpy.run_path(str(ROOT / "examples" / "09_a_wounded_rack.py"))
    times = [float(line[20:28]) for line in capsys.readouterr().out.splitlines()]
    whole, switch, link, racks = times
    # 18 / 17 of the wire time; twice the wire time of one plane; half of it over slow NICs
    assert whole < switch < link < racks
    assert racks / whole > 4


def commands(section):
    """Command lines that a section of the README shows in its indented blocks."""
    text = README.split(f"\n## {section}\n")[1].split("\n## ")[0]
    lines = [line.strip() for line in text.splitlines() if line.startswith("    planner ")]
    assert lines
    return lines


# Searches over many chips, which take longer than a test should, and what reads files that the
# README does not show.
LONG = ("plan deepseek-v3 --on gb200-nvl72 --racks 2",)
NEED_FILES = (
    *("layout.json", "topo.txt", "placement.json", "serve.sh", "train.sh"),
    "export training.json",
    "trace.jsonl",
    "pools.sh",
)
MACHINE = README.split("    extends = ")[1].split("\n\nor list")[0]
MACHINE = "\n".join(line.removeprefix("    ") for line in f"    extends = {MACHINE}".splitlines())


@pytest.mark.parametrize("line", [*commands("Use"), *commands("Machines"), *commands("Launching")])
def test_commands_of_the_readme_run(line, tmp_path, monkeypatch, capsys):
    if any(name in line for name in NEED_FILES) or any(name in line for name in LONG):
        pytest.skip("needs a file, or takes long")
    measured = ROOT / "tests" / "reference" / "measured" / "showcase.csv"
    shutil.copy(measured, tmp_path / "measured.csv")
    (tmp_path / "mine.toml").write_text(MACHINE)
    monkeypatch.chdir(tmp_path)
    words = shlex.split(line)[1:]
    assert run(words) == 0
    captured = capsys.readouterr()
    assert captured.out or "wrote" in captured.err
    if "-o" in words:
        assert (tmp_path / words[words.index("-o") + 1]).stat().st_size > 100
