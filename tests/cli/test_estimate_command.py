"""``planner estimate`` as a user types it: output, JSON, exit codes, messages."""

import json
import re
import shlex
import subprocess
import sys

import pytest

from planner.cli import estimate as module
from planner.cli.main import run
from planner.domain.run import Overlap
from planner.errors import SpecError

DECODE = "llama-3.1-70b --on h100-hgx --kind decode --tp 8 --batch 64 --context 4096"
TRAIN = "llama-3.1-70b --on h100-hgx --nodes 4 --kind train --tp 8 --batch 64 --seq 8k"
EXAMPLES = [
    " ".join(part.split())
    for part in (module.command.help or "").split("Example: planner estimate ")[1:]
]
# Every option once, on small machines.
OTHERS = (
    "llama-3.1-405b --on h100-hgx --nodes 128 --kind train --tp 8 --pp 8 --cp 2 --batch 512 "
    "--seq 8192 --microbatch 1 --schedule interleaved --virtual-stages 4 --recompute selective "
    "--zero 1 --sequence-parallel --overlap dp,tp --weights bf16 --activations fp8",
    "deepseek-v3 --on h200-hgx --nodes 4 --kind prefill --tp 1 --dp 32 --ep 32 --batch 64 "
    "--seq 4096 --context 8192 --context-spread 2k --chunk 8192",
    f"{DECODE} --context-spread 1000 --ideal --kv fp8 --price 2.5 --engine 2024",
    "llama-3.1-70b --on tpu-v5p --shape 2x2x4 --kind decode --tp 16 --batch 64 --context 4k",
    f"{DECODE} --nodes 2 --dp 1 --without node:n1",
    "deepseek-r1 --on b200-hgx --kind serve --tp 1 --dp 8 --ep 8 --input 1024 --output 1024 "
    "--rate 4/s --engine sglang --draft 1 --acceptance 0.8 --prefix-hit 0.5 --chunk 4k",
    "llama-3.1-8b --on h100-hgx --kind serve --workers 8 --input 512 --output 128 --concurrency 64",
)
POOLS = (
    "llama-3.1-8b --on h100-hgx --nodes 2 --kind serve --tp 2 --dp 1 --prefill-tp 4 "
    "--input 4096 --output 512"
)
MIX = "input,output,weight\n1024,512,3\n16384,128,1\n"


def answer(text, *options):
    return run(["estimate", *shlex.split(text), *options])


@pytest.mark.parametrize("text", [*EXAMPLES, *OTHERS])
def test_every_example_is_priced_and_fits(text, capsys):
    assert answer(text) == 0
    out = capsys.readouterr().out
    for part in ("Figures", "MFU", "Terms", "waits for", "Memory of the fullest chip", "fits: "):
        assert part in out
    assert "Model FLOP: " in out and "\x1b" not in out


def test_help_has_an_example_of_every_kind():
    kinds = [text.split("--kind ")[1].split()[0] for text in EXAMPLES]
    assert kinds == ["train", "prefill", "decode", "request", "serve", "serve", "serve"]


@pytest.mark.parametrize("text", EXAMPLES)
def test_json_has_the_same_keys_for_every_kind(text, capsys):
    assert answer(text, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {
        *("kind", "model", "machine", "size", "precision", "mesh", "workers", "chips"),
        *("machine_chips", "rented_chips", "workload", "seconds", "ttft_s", "tpot_s"),
        *("tokens_per_s", "tokens_per_s_per_chip", "tokens_per_s_per_user"),
        *("model_flop_per_s_per_chip", "mfu", "bubble", "running", "usd_per_million_tokens"),
        *("flop", "terms", "memory", "served", "changes"),
    }
    assert (found["served"] is not None) == (found["kind"] == "serve")
    assert set(found["terms"][0]) == {"name", "seconds", "share", "bound"}
    assert sum(term["share"] for term in found["terms"]) == pytest.approx(1.0)
    memory = found["memory"]
    parts = ("weights", "gradients", "optimizer", "activations", "kv", "reserve")
    needed = sum(memory[f"{part}_bytes"] for part in parts)
    assert memory["needed_bytes"] == pytest.approx(needed)
    assert memory["fits"] and needed <= memory["capacity_bytes"]
    flop = found["flop"]
    assert found["mfu"] == pytest.approx(
        found["model_flop_per_s_per_chip"] / flop["peak_flop_per_s"]
    )


def test_same_question_prints_the_same_bytes(capsys):
    texts = []
    for _ in range(2):
        assert answer(DECODE, "--context-spread", "1000", "--json") == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]


def test_what_does_not_fit_is_priced_and_exits_with_3(capsys):
    assert answer(TRAIN) == 3
    out = capsys.readouterr().out
    # 70.6e9 weights over 8 ranks: two bytes each, and twelve of Adam, are 123 GB.
    assert re.search(r"does not fit: needs \d+ GB of 85\.5 GB", out)
    assert "missing" in out and "step  " in out
    assert answer(TRAIN, "--json") == 3
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert not found["memory"]["fits"] and found["seconds"] > 0
    assert "does not fit: needs" in captured.err


@pytest.mark.parametrize(
    "text",
    [
        TRAIN,
        f"{TRAIN} --recompute full",
        f"{DECODE} --batch 2048 --context 8k",
        f"{DECODE} --tp 4 --batch 2048 --context 4k",
    ],
)
def test_every_change_that_would_help_does(text, capsys):
    assert answer(text) == 3
    lines = capsys.readouterr().out.splitlines()
    changes = [line.split("would help: ")[1] for line in lines if "would help: " in line]
    assert 1 <= len(changes) <= 3
    for change in changes:
        assert answer(f"{text} {change}") == 0


def test_a_served_model_that_does_not_fit_exits_with_3(capsys):
    text = "llama-3.1-405b --on h100-hgx --kind serve --tp 8 --input 1k --output 1k --rate 1/s"
    assert answer(text) == 3
    err = capsys.readouterr().err
    assert "one request does not fit" in err and "would help: --weights fp8" in err
    assert answer(text, "--json") == 3
    assert json.loads(capsys.readouterr().out)["resource"] == "memory"


def test_pools_are_shown_apart(capsys):
    assert answer(f"{POOLS} --concurrency 64 --workers 2 --prefill-workers 3") == 0
    out = capsys.readouterr().out
    for part in (
        *("prefill 3 x (TP4 x DP1 x PP1) = 12 chips; decode 2 x (TP2 x DP1 x PP1) = 4 chips",),
        *("waiting", "KV transfer, not hidden", "front end", "prefill pool in use"),
        *("decode pool in use", "links between them in use", "limits", "balanced pools: "),
        *("Memory of the fullest chip that prefills", "Memory of the fullest chip that decodes"),
    ):
        assert part in out
    # 4,096 tokens of 2 x 8 x 128 x 32 x 2 bytes.
    assert re.search(r"KV cache sent per request +537 MB", out)


def test_json_of_pools_and_splits(capsys):
    assert answer(f"{POOLS} --concurrency 64 --balance --tpot 20ms", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    served, pools = found["served"], found["served"]["pools"]
    assert sum(served["ttft"].values()) == pytest.approx(found["ttft_s"])
    assert pools["prefill_chips"] + pools["decode_chips"] == found["chips"]
    assert pools["prefill_mesh"]["attn_tp"] == 4 and pools["kv_bytes"] == 4096 * 131072
    assert 0 <= pools["hidden_s"] <= pools["transfer_s"]
    best = served["splits"][0]
    assert best["prefill_workers"] == pools["prefill_workers"]
    assert best["decode_workers"] == found["workers"]
    assert best["tokens_per_s"] == found["tokens_per_s"] and best["tpot_s"] <= 0.02
    assert found["workload"]["tpot"] == 0.02


def test_a_mix_from_a_file(tmp_path, capsys):
    path = tmp_path / "mix.csv"
    path.write_text(MIX)
    text = f"llama-3.1-8b --on h100-hgx --kind serve --tp 2 --mix {path}"
    assert answer(f"{text} --concurrency 32") == 0
    out = capsys.readouterr().out
    # (3 x 1,024 + 16,384) / 4 and (3 x 512 + 128) / 4.
    assert "4,864 tokens in and 416 out in the mean of a mix" in " ".join(out.split())
    assert "First token by quantile of the prompt length" in out
    assert answer(f"{text} --rate 2/s", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["workload"]["mix"] == 2 and found["workload"]["input"] == 4864
    assert [band["high"] for band in found["served"]["bands"]] == [0.75, 1.0]
    assert found["tokens_per_s"] == pytest.approx(2 * 416)
    path.write_text("input,output\n0,1\n")
    assert answer(f"{text} --rate 2/s") == 2
    assert f"{path}:2: field 'input'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--rate 90/s", "the prefill pool can take"),
        ("--balance --concurrency 64 --tpot 1ms", "meets --tpot 1.00 ms"),
        ("--balance --rate 9000/s", "no split of the 16 chips serves 9000"),
    ],
)
def test_pools_that_cannot_hold_the_load_exit_with_3(options, message, capsys):
    assert answer(f"{POOLS} {options}") == 3
    err = capsys.readouterr().err
    assert message in err
    changes = [line.split("would help: ")[1] for line in err.splitlines() if "help: " in line]
    assert changes
    for change in changes:
        assert answer(f"{POOLS} {options} {change}") == 0
    assert answer(f"{POOLS} {options}", "--json") == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{POOLS} --concurrency 8 --balance --workers 2", "--balance finds the numbers"),
        (f"{POOLS} --concurrency 8 --ttft 1s", "--ttft is a limit of --balance"),
        (f"{POOLS} --concurrency 8 --balance --ttft 1", "--ttft: cannot read '1'"),
        (f"{POOLS} --concurrency 8 --mix none.csv", "none.csv: no such file"),
        (f"{POOLS} --concurrency 8 --prefill-tp 5", "--prefill-tp 5"),
        (f"{POOLS} --concurrency 8 --prefill-workers 5", "prefill workers: tp 4"),
        (f"{DECODE} --prefill-workers 2", "--prefill-workers does not apply"),
        ("llama-3.1-70b --kind decode --batch 1 --context 1k", "--on is missing"),
        ("llama-3.1-70b --on h100-hgx --batch 1 --context 1k", "--kind"),
        ("llama-3.1-70b --on h100-hgx --kind rest", "--kind"),
        (f"{DECODE} --context 8q", "--context: cannot read"),
        (f"{DECODE} --context-spread -5", "--context-spread"),
        (f"{DECODE} --tp 3", "do not divide the 8 of h100-hgx"),
        (f"{DECODE} --tp 8 --pp 3", "tp 8 x pp 3 is 24 chips"),
        (f"{DECODE} --dp 7", "size the machine up"),
        (f"{DECODE} --batch 0", "--batch: 0"),
        (f"{DECODE} --seq 8k", "--seq does not apply to --kind decode"),
        (f"{DECODE} --recompute full", "--recompute does not apply"),
        (f"{DECODE} --overlap dp,xp", "--overlap: 'xp'"),
        (f"{DECODE} --rate 4/s", "--rate does not apply"),
        (f"{DECODE} --price free", "--price"),
        (f"{DECODE} --weights fp9", "--weights"),
        (f"{DECODE} --engine 1999", "--engine: unknown '1999'"),
        (f"{DECODE} --ep 8", "has no experts"),
        (f"{DECODE} --without chip:n9/c0", "chip:n9/c0"),
        (f"{DECODE} --without chip:n0/c0", "do not divide the 7 of h100-hgx"),
        (f"{TRAIN} --zero 5", "--zero"),
        (f"{TRAIN} --batch 66", "--batch 64 or 68"),
        (f"{TRAIN} --schedule gpipe", "--pp 2 or more"),
        (f"{TRAIN} --cp 3", "tp 8 x cp 3"),
        ("llama-9 --on h100-hgx --kind decode --batch 1 --context 1k", "llama-9"),
        ("llama-3.1-70b --on h900 --kind decode --batch 1 --context 1k", "h900"),
    ],
)
def test_what_cannot_be_understood_exits_with_2(text, message, capsys):
    assert answer(text) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.out == ""
    assert "Traceback" not in captured.err


@pytest.mark.parametrize(
    ("text", "rate"), [("4/s", 4.0), ("90 / min", 1.5), ("1800/h", 0.5), (".5/s", 0.5)]
)
def test_rates(text, rate):
    assert module.parse_rate(text) == rate


@pytest.mark.parametrize("text", ["4", "0/s", "-1/s", "4/day", "fast"])
def test_rates_that_are_none(text):
    with pytest.raises(SpecError, match="--rate"):
        module.parse_rate(text)


def test_overlaps():
    assert module.parse_overlap(None) is None
    assert module.parse_overlap("none") == frozenset()
    assert module.parse_overlap("dp, tp") == {Overlap.DP, Overlap.TP}


def test_help_imports_no_numerical_library():
    code = (
        "import sys; from planner.cli.main import run; run(['estimate', '--help']); "
        "print('numpy' in sys.modules, 'planner.run_api' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False False"
