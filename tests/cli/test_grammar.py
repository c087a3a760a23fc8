"""The grammar, with a library that records the question instead of answering it."""

import json
import os
import subprocess
import sys

import click
import pytest
from layout_factory import small_layout

import planner.api
from planner.cli.main import COMMANDS, cli, run
from planner.domain.dtypes import DType
from planner.domain.outcome import Infeasible
from planner.domain.question import DegreeLimits, Question
from planner.domain.workload import Objective, TimeModel
from planner.errors import CatalogError, ModelBugError, SpecError
from planner.export.layout_file import layout_json

BASE = ["toy", "--on", "box", "--context", "8k"]
NOTHING_FITS = Infeasible(
    resource="memory",
    needed="90 GB",
    available="77 GB",
    message="HBM: 13 GB are missing",
    remedies=("--nodes 2", "--kv fp8"),
)


@pytest.fixture
def library(monkeypatch):
    """The functions that commands call; ``asked`` holds their arguments."""

    class Library:
        answer = small_layout()

        def ask(self, *arguments, **_):
            self.asked.append(arguments)
            if isinstance(self.answer, BaseException):
                raise self.answer
            return self.answer

    found = Library()
    found.asked = []
    for name in ("plan", "evaluate", "evaluate_layout", "verify"):
        monkeypatch.setattr(planner.api, name, found.ask)
    return found


def question(library, *options, command="plan"):
    assert run([command, *BASE, *options]) == 0
    return library.asked[-1][0]


def expected(**changes):
    return Question(**{"model": "toy", "machine": "box", "context_tokens": 8192, **changes})


@pytest.mark.parametrize("command", ["plan", "evaluate"])
def test_bare_question_has_the_defaults_of_the_record(library, command):
    assert question(library, command=command) == expected()


@pytest.mark.parametrize(
    ("options", "changes"),
    [
        (["--phase", "decode"], {}),
        (["--context", "4096"], {"context_tokens": 4096}),
        (["--context", "1M"], {"context_tokens": 2**20}),
        (["--nodes", "18"], {"nodes": 18}),
        (["--racks", "8"], {"racks": 8}),
        (["--shape", "8x8x16"], {"shape": (8, 8, 16)}),
        (["--tpot", "20ms"], {"tpot_s": 0.020}),
        (["--tpot", "0.5 s"], {"tpot_s": 0.5}),
        (["--batch", "9216"], {"batch": 9216}),
        (["--weights", "fp8"], {"weights": DType.FP8}),
        (["--activations", "bf16"], {"activations": DType.BF16}),
        (["--kv", "nvfp4"], {"kv": DType.NVFP4}),
        (["--price", "2.95"], {"price_usd_per_hour": 2.95}),
        (["--price", "$2.95/h"], {"price_usd_per_hour": 2.95}),
        (["--loads", "loads.csv"], {"loads": "loads.csv"}),
        (["--objective", "latency"], {"objective": Objective.LATENCY}),
        (["--objective", "cost"], {"objective": Objective.COST}),
        (["--time-model", "overlap"], {"time_model": TimeModel.OVERLAP}),
        (["--ideal"], {"ideal": True}),
        (["--gap", "0.01"], {"gap": 0.01}),
        (["--time-limit", "1min"], {"time_limit_s": 60.0}),
        (["--seed", "7"], {"seed": 7}),
        (["--exclude", "rack:r1", "--exclude", "c0"], {"exclude": ("rack:r1", "c0")}),
        (["--reserve", "4"], {"reserve": 4}),
        (["--reserve", "2/domain"], {"reserve_per_domain": 2}),
        (["--reserve", "2/node"], {"reserve_per_domain": 2}),
        (["--no-overlap"], {"limits": DegreeLimits(overlap=frozenset({0}))}),
        (["--overlap", "ep,tp"], {"limits": DegreeLimits(overlap=frozenset({3}))}),
        (
            ["--draft", "0..2", "--acceptance", "0.8"],
            {"limits": DegreeLimits(draft=frozenset({0, 1, 2})), "acceptance": 0.8},
        ),
    ],
)
def test_every_option_reaches_the_question(library, options, changes):
    assert question(library, *options) == expected(**changes)


@pytest.mark.parametrize(
    "name", ["tp", "pp", "ep", "dp", "expert-tp", "slots", "microbatches", "replicas", "cp"]
)
@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("8", {8}),
        ("64,72", {64, 72}),
        ("1..4", {1, 2, 3, 4}),
        ("1,2,8..12", {1, 2, 8, 9, 10, 11, 12}),
        ("3..3", {3}),
        ("2, 4", {2, 4}),
    ],
)
def test_every_degree_takes_values_lists_and_ranges(library, name, text, values):
    limits = DegreeLimits(**{name.replace("-", "_"): frozenset(values)})
    assert question(library, f"--{name}", text) == expected(limits=limits)


@pytest.mark.parametrize(
    "text",
    ["", ",", "1,", "0", "-1", "4..1", "1..", "..4", "1...4", "1-4", "a", "2.5", "1..9999999"],
)
def test_values_that_are_no_degrees_are_refused_by_option(library, capsys, text):
    assert run(["plan", *BASE, "--expert-tp", text]) == 2
    assert "error: --expert-tp: " in capsys.readouterr().err
    assert library.asked == []


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("--tpot", "20"),
        ("--tpot", "0ms"),
        ("--tpot", "20mss"),
        ("--time-limit", "-1s"),
        ("--context", "8q"),
        ("--context", "0"),
        ("--context", "0.5"),
        ("--price", "-1"),
        ("--price", "2 EUR"),
        ("--shape", "4x"),
        ("--shape", "4x0"),
        ("--gap", "1"),
        ("--gap", "nan"),
        ("--gap", "-0.1"),
        ("--seed", "-1"),
        ("--seed", "99999999999999999999"),
        ("--batch", "many"),
        ("--nodes", "1.5"),
        ("--weights", "fp9"),
        ("--phase", "sleep"),
        ("--objective", "beauty"),
        ("--time-model", "guess"),
    ],
)
def test_value_that_cannot_be_read_names_its_option(library, capsys, option, text):
    assert run(["plan", *BASE, option, text]) == 2
    assert option in capsys.readouterr().err
    assert library.asked == []


def test_phases_that_are_not_evaluated_are_refused_by_name(library, capsys):
    assert run(["evaluate", *BASE, "--phase", "serve"]) == 2
    err = capsys.readouterr().err
    assert "phase serve is not supported by this version" in err
    assert "supported: decode" in err
    assert library.asked == []


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("--input", "4k"),
        ("--output", "1k"),
        ("--rate", "10"),
        ("--concurrency", "64"),
    ],
)
def test_options_of_later_phases_are_refused_by_name(library, capsys, option, text):
    assert run(["plan", *BASE, option, text]) == 2
    assert f"error: {option}" in capsys.readouterr().err
    assert library.asked == []


def test_output_is_a_token_count_and_out_is_a_file(library, tmp_path):
    path = tmp_path / "layout.json"
    assert run(["plan", *BASE, "--out", str(path)]) == 0
    assert path.exists()
    assert run(["plan", *BASE, "--output", str(tmp_path / "other.json")]) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plan"], "Missing argument"),
        (["plan", "toy", "--context", "8k"], "--on is missing"),
        (["plan", "toy", "--on", "box"], "--context is missing"),
        (["plan", *BASE, "--phse", "decode"], "--phase"),
        (["plan", *BASE, "--micro-batches", "2"], "--microbatches"),
        (["plna", *BASE], "plan"),
        (["topology", "shwo", "x"], "show"),
        (["topologie"], "topologies"),
    ],
)
def test_what_is_missing_or_misspelt_is_named(library, capsys, arguments, message):
    assert run(arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (
            SpecError("unknown model 'toy'", "did you mean toi?"),
            "error: unknown model 'toy'\n  did",
        ),
        (
            CatalogError(
                "is missing", file="box.toml", field="chip.hbm_gb", line=3, remedy="add it"
            ),
            "error: box.toml:3: field 'chip.hbm_gb': is missing\n  add it",
        ),
        (ModelBugError("search and validator disagree"), "error: search and validator disagree"),
    ],
)
def test_errors_are_messages_with_a_remedy(library, capsys, error, text):
    library.answer = error
    assert run(["plan", *BASE]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(text)
    assert captured.out == "" and "Traceback" not in captured.err


@pytest.mark.parametrize("command", ["plan", "evaluate"])
def test_infeasible_goes_to_stderr_with_its_remedies(library, capsys, tmp_path, command):
    library.answer = NOTHING_FITS
    path = tmp_path / "layout.json"
    assert run([command, *BASE, "-o", str(path)]) == 3
    captured = capsys.readouterr()
    assert captured.out == ""
    for part in (NOTHING_FITS.message, *NOTHING_FITS.remedies):
        assert part in captured.err
    assert list(tmp_path.iterdir()) == []


def test_infeasible_as_json_goes_to_stdout_too(library, capsys):
    library.answer = NOTHING_FITS
    assert run(["plan", *BASE, "--json"]) == 3
    captured = capsys.readouterr()
    assert json.loads(captured.out)["remedies"] == ["--nodes 2", "--kv fp8"]
    assert NOTHING_FITS.message in captured.err


def test_file_holds_the_layout_while_the_table_is_printed(library, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(["plan", *BASE, "-o", "layout.json"]) == 0
    captured = capsys.readouterr()
    assert captured.err == "wrote layout.json\n"
    assert captured.out.startswith("toy on box: decode")
    assert (tmp_path / "layout.json").read_bytes() == layout_json(small_layout())


def test_json_is_the_file_and_nothing_else(library, capsys):
    assert run(["plan", *BASE, "--json"]) == 0
    assert capsys.readouterr().out.encode() == layout_json(small_layout())


@pytest.mark.parametrize("path", ["missing/layout.json", ".", "-", ""])
@pytest.mark.parametrize("command", ["plan", "evaluate"])
def test_hopeless_path_is_refused_before_the_planning(
    library, capsys, tmp_path, monkeypatch, command, path
):
    monkeypatch.chdir(tmp_path)
    assert run([command, *BASE, "-o", path]) == 2
    assert "cannot be written" in capsys.readouterr().err
    assert library.asked == [] and list(tmp_path.iterdir()) == []


def test_ctrl_c_exits_with_130_and_leaves_the_old_file(library, capsys, tmp_path):
    path = tmp_path / "layout.json"
    path.write_text("old")
    library.answer = KeyboardInterrupt()
    assert run(["plan", *BASE, "-o", str(path)]) == 130
    assert "Traceback" not in capsys.readouterr().err
    assert path.read_text() == "old" and len(list(tmp_path.iterdir())) == 1


@pytest.fixture(params=["layout.json", "layout.txt"])
def file(request, tmp_path):
    path = tmp_path / request.param
    path.write_bytes(layout_json(small_layout()))
    return str(path)


def test_evaluate_prices_a_file_whatever_it_is_called(library, file):
    assert run(["evaluate", file]) == 0
    assert library.asked == [(small_layout(),)]


@pytest.mark.parametrize(
    "options", [["--tp", "8"], ["--context", "4k"], ["--objective", "throughput"], ["--ideal"]]
)
def test_evaluate_does_not_ignore_options_beside_a_file(library, capsys, file, options):
    assert run(["evaluate", file, *options]) == 2
    assert f"{options[0]} does not apply to a layout file" in capsys.readouterr().err
    assert library.asked == []


def test_evaluate_with_a_machine_takes_a_model(library, file):
    assert run(["evaluate", file, "--on", "box", "--context", "8k"]) == 0
    assert library.asked[-1][0].model == file


def test_verify_exit_code_and_lines(library, capsys, file):
    library.answer = ()
    assert run(["verify", file]) == 0
    assert capsys.readouterr().out == "valid\n"
    library.answer = ("experts [7] have no copy", "stage 1 has no chip")
    assert run(["verify", file]) == 1
    assert capsys.readouterr().out == "experts [7] have no copy\nstage 1 has no chip\n"
    assert run(["verify", file, "--json"]) == 1
    assert json.loads(capsys.readouterr().out) == {
        "valid": False,
        "violations": ["experts [7] have no copy", "stage 1 has no chip"],
    }


def test_verify_of_a_malformed_file_names_file_and_line(library, capsys, tmp_path):
    path = tmp_path / "layout.json"
    path.write_text('{\n  "schema_version": 1,\n  oops\n}\n')
    assert run(["verify", str(path)]) == 2
    assert f"{path}:3: is not valid JSON" in capsys.readouterr().err
    assert library.asked == []


def commands(group, path=()):
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        yield (*path, name)
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


@pytest.mark.parametrize("flag", ["-h", "--help"])
@pytest.mark.parametrize("path", [(), *commands(cli)], ids=" ".join)
def test_every_help_has_an_example_of_its_own_command(capsys, path, flag):
    assert run([*path, flag]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert f"Example: {' '.join(('planner', *path))}" in text


def test_list_of_commands_tells_what_each_one_does(capsys):
    assert run(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(name in out and text in out for name, text in COMMANDS.items())


def python(code, **options):
    command = [sys.executable, "-c", code]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(command, env=environment, capture_output=True, check=False, **options)


def test_help_imports_nothing_heavy():
    done = python(
        "import sys\n"
        "from planner.cli.main import run\n"
        "assert run(['--help']) == 0 and run(['plan', '--help']) == 0\n"
        "heavy = {'numpy', 'ortools', 'networkx', 'rich', 'msgspec'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)\n"
    )
    assert done.returncode == 0, done.stderr.decode()


def test_reader_that_goes_away_is_no_error():
    read, write = os.pipe()
    os.close(read)
    code = "import sys; from planner.cli.main import main; sys.argv = ['planner', 'models']; main()"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        stdout=write,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")
