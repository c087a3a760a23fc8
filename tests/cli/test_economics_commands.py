"""``planner economics`` as a user types it: output, files, exit codes, messages."""

import csv
import io
import json

import pytest

from planner.cli.economics.amounts import (
    parse_amount,
    parse_amount_rate,
    parse_duration,
    parse_price_step,
)
from planner.cli.main import run
from planner.economics.question import PriceStep
from planner.errors import SpecError

SERVE = ["serve", "llama-3.1-70b", "--on", "h100-hgx"]
LOAD = [*SERVE, "--input", "2k", "--output", "256"]
CACHE = ["cache", "llama-3.1-70b", "--on", "h100-hgx", "--context", "8k"]
TRAIN = ["train", "llama-3.1-70b", "--on", "h100-hgx", "--nodes", "8"]
CONTEXT = ["--context", "8k"]


def ask(capsys, *words):
    code = run(["economics", *words])
    found = capsys.readouterr()
    return code, found.out, found.err


def answer(capsys, *words):
    code, out, _ = ask(capsys, *words, "--json")
    assert code == 0
    return json.loads(out)


def table(capsys, *words):
    code, out, _ = ask(capsys, *words, "--csv")
    assert code == 0
    return list(csv.DictReader(io.StringIO(out)))


def test_help_lists_the_three(capsys):
    code, out, _ = ask(capsys, "--help")
    assert code == 0
    assert all(f"\n  {name}  " in out for name in ("serve", "cache", "train"))


# serve.


def test_serve_prints_every_part(capsys):
    words = [*SERVE, *CONTEXT, "--output", "1k", "--price-step", "2x@200k"]
    code, out, err = ask(capsys, *words)
    assert (code, err) == (0, "")
    for part in (
        "$2.95 per chip-hour",
        "full model",
        "napkin",
        "output / input",
        "Price of output against the context",
        "> 8,192",
        "Kink",
        "204,800 tokens implies",
        "a place at 80% load",
        "per joule",
    ):
        assert part in out, part
    assert "\x1b" not in out


def test_prices_agree_with_plan_and_estimate(capsys):
    # One cost model: the same layouts, asked for directly.
    found = answer(capsys, *SERVE, *CONTEXT)
    assert run(["plan", "llama-3.1-70b", "--on", "h100-hgx", *CONTEXT, "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)["prediction"]
    assert found["output_usd"]["full"] == plan["usd_per_million_tokens"]
    words = ["estimate", "llama-3.1-70b", "--on", "h100-hgx", "--kind", "prefill", "--seq", "8k"]
    size = ["--tp", str(found["prefill_tp"]), "--batch", str(found["prefill_dp"])]
    assert run([*words, *size, "--json"]) == 0
    prefill = json.loads(capsys.readouterr().out)
    assert found["input_usd"]["full"] == prefill["usd_per_million_tokens"]
    ratio = found["output_usd"]["full"] / found["input_usd"]["full"]
    assert found["ratio"]["full"] == pytest.approx(ratio)


def test_the_napkin_is_a_floor(capsys):
    for row in answer(capsys, *SERVE, *CONTEXT)["curve"]:
        floor, napkin = row["floor_usd"] * (1 - 1e-12), row["usd"]["napkin"]
        assert floor <= napkin <= row["usd"]["full"]


def test_price_given_scales_every_dollar(capsys):
    # $5.90 instead of $2.95
    one = answer(capsys, *SERVE, *CONTEXT)
    two = answer(capsys, *SERVE, *CONTEXT, "--price", "5.90")
    for name in ("input_usd", "output_usd"):
        for kind in ("full", "napkin"):
            assert two[name][kind] == pytest.approx(2 * one[name][kind])
    assert two["ratio"] == one["ratio"]


def test_pinned_degrees_and_batch_are_kept(capsys):
    found = answer(capsys, *SERVE, *CONTEXT, "--tp", "4", "--pp", "1", "--batch", "16")
    assert (found["decode"]["attn_tp"], found["batch"]) == (4, 16)
    assert {row["batch"] for row in found["curve"]} == {16}


def test_the_kink_lies_where_the_cache_takes_half_of_a_step(capsys):
    # A step prices that context at the same batch.
    found = answer(capsys, *SERVE, *CONTEXT, "--tp", "8", "--batch", "64")
    context = round(found["kink"]["reads_equal_rest"]["full"])
    words = ["estimate", "llama-3.1-70b", "--on", "h100-hgx", "--kind", "decode", "--tp", "8"]
    assert run([*words, "--batch", "64", "--context", str(context), "--json"]) in (0, 3)
    terms = json.loads(capsys.readouterr().out)["terms"]
    shares = {term["name"]: term["share"] for term in terms}
    assert shares["attention_core"] == pytest.approx(0.5, abs=2e-3)


def test_implied_cache_of_a_price_step(capsys):
    # 2 N W / (C L) with N 69.5e9, W 3.35e12, C 989.4e12, L 204,800: 2,298 B.
    implied = answer(capsys, *SERVE, *CONTEXT, "--price-step", "3x@200k")["implied"]
    expected = 2 * 69_501_714_432 * 3.35e12 / (989.4e12 * 204_800)
    assert implied["kv_bytes"] == pytest.approx(expected)
    assert implied["model_kv_bytes"] == 327_680
    assert implied["covered_context"] == 3 * 204_800


def test_serve_csv_is_the_curve(capsys):
    rows = table(capsys, *SERVE, *CONTEXT)
    assert [int(row["context_tokens"]) for row in rows] == [1024 << n for n in range(8)]
    prices = [float(row["usd_per_million_output"]) for row in rows]
    assert prices == sorted(prices)


def test_capacity_is_what_estimate_says(capsys):
    words = [*LOAD, "--rate", "50/s", "--ttft", "1s", "--tpot", "30ms"]
    best = answer(capsys, *words)["capacity"]
    assert best["ttft_s"] <= 1 and best["tpot_s"] <= 30e-3
    each = ["--tp", str(best["tp"]), "--dp", str(best["dp"]), "--workers", str(best["workers"])]
    nodes = ["--nodes", str(best["rented_chips"] // 8), "--rate", "50/s"]
    serve = ["estimate", "llama-3.1-70b", "--on", "h100-hgx", "--kind", "serve"]
    lengths = ["--input", "2k", "--output", "256"]
    assert run([*serve, *each, *nodes, *lengths, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["chips"] == best["chips"]
    assert found["tpot_s"] == pytest.approx(best["tpot_s"], rel=0.02)
    assert found["ttft_s"] == pytest.approx(best["ttft_s"], rel=0.02)


def test_twice_the_rate_takes_twice_the_chips(capsys):
    limits = ["--ttft", "1s", "--tpot", "30ms"]
    one = answer(capsys, *LOAD, "--rate", "100/s", *limits)["capacity"]
    two = answer(capsys, *LOAD, "--rate", "200/s", *limits)["capacity"]
    assert two["workers"] == pytest.approx(2 * one["workers"], abs=1)
    rows = table(capsys, *LOAD, "--rate", "100/s", *limits)
    assert int(rows[0]["chips"]) == one["chips"]


def test_a_limit_is_never_met_by_more_chips(capsys):
    # Prefill alone would meet 100 ms; the engine's front end and its passes do not.
    code, out, err = ask(capsys, *LOAD, "--rate", "5/s", "--ttft", "100ms")
    assert (code, out) == (3, "")
    assert "no number of chips meets --ttft" in err and "would help: --ttft" in err


def test_a_remedy_of_the_first_token_works(capsys):
    _, _, err = ask(capsys, *LOAD, "--rate", "5/s", "--ttft", "100ms")
    remedy = err.rsplit("would help: ", 1)[1].split()
    assert ask(capsys, *LOAD, "--rate", "5/s", *remedy)[0] == 0


# cache.


def test_cache_prints_every_part(capsys):
    code, out, err = ask(capsys, *CACHE, "--hold", "5min")
    assert (code, err) == (0, "")
    for part in ("for ever", "Held for 5.00 min", "drain time", "hbm to dram", "recompute:"):
        assert part in out, part


def test_drain_times_say_flash_for_five_minutes_and_disk_for_an_hour(capsys):
    # HBM 26 ms, DRAM 4 s, flash 16 min, disk 2.5 h: 5 min is nearest to 16, 1 h to 2.5 h.
    assert answer(capsys, *CACHE, "--hold", "5min")["by_drain_time"] == "flash"
    assert answer(capsys, *CACHE, "--hold", "1h")["by_drain_time"] == "disk"


def test_recomputing_costs_a_prefill(capsys):
    found = answer(capsys, *CACHE)
    assert found["kv_bytes"] == 8192 * 327_680
    input_usd = answer(capsys, *SERVE, *CONTEXT)["input_usd"]["full"]
    assert found["recompute_usd"] == pytest.approx(8192 * input_usd / 1e6)


def test_chosen_tiers_only(capsys):
    rows = table(capsys, *CACHE, "--tier", "flash,dram")
    assert [row["tier"] for row in rows] == ["dram", "flash"]
    assert [row["cheapest_to_s"] == "" for row in rows] == [False, True]


def test_tiers_of_the_user(capsys, tmp_path):
    # Flash at twice the price holds for twice as much; a tape is added; HBM is overridden.
    file = tmp_path / "mine.toml"
    file.write_text(
        "[tier.flash]\nusd_per_GB_hour = 0.00022\n"
        "[tier.tape]\ncapacity_GB = 18000\nGB_per_s = 0.4\nusd_per_GB_hour = 1e-6\n"
        "[tier.hbm]\nGB_per_s = 1000\n"
    )
    before = {tier["name"]: tier for tier in answer(capsys, *CACHE)["tiers"]}
    found = answer(capsys, *CACHE, "--tiers", str(file))
    after = {tier["name"]: tier for tier in found["tiers"]}
    assert after["flash"]["usd_per_byte_s"] == pytest.approx(2 * before["flash"]["usd_per_byte_s"])
    assert after["flash"]["capacity_bytes"] == before["flash"]["capacity_bytes"]
    assert after["hbm"]["bytes_per_s"] == 1e12
    assert str(file) in after["tape"]["source"]
    assert after["dram"] == before["dram"]


def test_a_chip_may_have_a_tier_of_its_own(capsys):
    # Half of a Grace's 450 GB/s instead of PCIe.
    words = ["cache", "llama-3.1-70b", "--on", "gb200-nvl72", "--context", "8k"]
    tiers = {tier["name"]: tier for tier in answer(capsys, *words)["tiers"]}
    assert tiers["dram"]["bytes_per_s"] == 225e9


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("[tier.tape]\ncapacity_GB = 10\nGB_per_s = 1\n", "tier.tape.usd_per_GB_hour"),
        ("[tier.flash]\nusd_per_GB_hour = 0\n", "is outside"),
        ("[tier.flash]\nGB_per_s = -1\n", "is outside"),
        ("[tier.flash]\nGB_per_s = nan\n", "is outside"),
        ("[tier.flash]\nGB_per_s = inf\n", "is outside"),
        ('[tier.flash]\nGB_per_s = "fast"\n', "is not a number"),
        ("[tier.flash]\nGB_per_s = true\n", "is not a number"),
        ("[tier.flash]\nspeed = 3\n", "is not a known field"),
        ("[tier]\nflash = 3\n", "is not a table"),
        ("[tiers.flash]\nGB_per_s = 3\n", "is not a known field"),
        ("", "is missing"),
        ("[tier.flash\n", "not valid TOML"),
        ('[tier.flash.source]\nGB_per_s = "here"\n', "is not in this table"),
    ],
)
def test_bad_tiers_file(capsys, tmp_path, text, part):
    file = tmp_path / "mine.toml"
    file.write_text(text)
    code, out, err = ask(capsys, *CACHE, "--tiers", str(file))
    assert (code, out) == (2, "")
    assert part in err and "mine.toml" in err and "Traceback" not in err


# train.


def test_train_prints_every_part(capsys):
    code, out, err = ask(capsys, *TRAIN, "--pretrain", "15T")
    assert (code, err) == (0, "")
    for part in ("pre-training", "RL rollouts (balanced)", "over-training", "days", "MWh", "MFU"):
        assert part in out, part


def test_the_lectures_hundred_times_chinchilla(capsys):
    # 50M tokens/s for 60 d are 2.592e14; over 20 x 69.5e9 active parameters 186.5.
    found = answer(capsys, *TRAIN, "--serving", "50M/s", "--for", "60d", "--mfu", "0.4")
    tokens = {phase["name"]: phase["tokens"] for phase in found["phases"]}
    assert tokens["inference"] == tokens["pretrain"] == pytest.approx(2.592e14)
    assert tokens["rl"] == pytest.approx(2.592e14 / 1.5)
    assert found["over_training"] == pytest.approx(2.592e14 / (20 * 69_501_714_432))
    assert {round(phase["share"], 9) for phase in found["phases"]} == {round(1 / 3, 9)}


def test_chip_hours_at_a_given_mfu(capsys):
    # 6 N D / (0.4 x 989.4e12) / 3600, and $2 each.
    phases = answer(capsys, *TRAIN, "--pretrain", "15T", "--mfu", "0.4", "--price", "2")["phases"]
    hours = 6 * 69_501_714_432 * 15e12 / (0.4 * 989.4e12) / 3600
    assert phases[0]["napkin_chip_hours"] == pytest.approx(hours)
    assert phases[0]["napkin_usd"] == pytest.approx(2 * hours)
    # Attention is in the full model's FLOP.
    assert 1.0 < phases[0]["chip_hours"] / hours < 1.2


def test_predicted_speed_is_that_of_plan(capsys):
    found = answer(capsys, *TRAIN, "--pretrain", "15T")["training"]
    words = ["--phase", "train", "--batch", "512", "--seq", "8k", "--gap", "0.05", "--json"]
    assert run(["plan", "llama-3.1-70b", "--on", "h100-hgx", "--nodes", "8", *words]) == 0
    plan = json.loads(capsys.readouterr().out)["prediction"]
    assert found["mfu"] == plan["mfu"]
    assert found["tokens_per_s_per_chip"] == pytest.approx(plan["tokens_per_s_per_chip"])


def test_train_csv_has_the_three_phases(capsys):
    rows = table(capsys, *TRAIN, "--pretrain", "15T", "--rl", "1T", "--mfu", "0.4")
    assert [row["phase"] for row in rows] == ["pretrain", "rl", "inference"]
    assert [row["given"] for row in rows] == ["1", "1", "0"]
    assert float(rows[1]["tokens"]) == 1e12


def test_energy_follows_the_power_that_is_given(capsys):
    words = [*TRAIN, "--pretrain", "1T", "--mfu", "0.4", "--kw"]
    one, two = (answer(capsys, *words, kw)["phases"][0] for kw in ("1", "2.5"))
    assert one["energy_kwh"] == pytest.approx(one["chip_hours"])
    assert two["energy_kwh"] == pytest.approx(2.5 * one["chip_hours"])


# What cannot be asked.


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["serve", "llama-3.1-70b", *CONTEXT], "--on is missing"),
        (SERVE, "--context is missing"),
        ([*SERVE, *CONTEXT, "--price", "0"], "--price"),
        ([*SERVE, *CONTEXT, "--price", "-2"], "--price"),
        ([*SERVE, *CONTEXT, "--price", "nan"], "--price"),
        ([*SERVE, *CONTEXT, "--price", "1e400"], "--price"),
        ([*SERVE, "--context", "0"], "--context"),
        ([*SERVE, "--context", "8.5"], "--context"),
        ([*SERVE, "--context", "1000M"], "check the unit"),
        (["serve", "llama-3.1-70b", "--on", "h800-hgx", *CONTEXT], "has no price"),
        ([*SERVE, *CONTEXT, "--load", "1"], "--load"),
        ([*SERVE, *CONTEXT, "--load", "nan"], "--load"),
        ([*SERVE, *CONTEXT, "--kw", "-1"], "--kw"),
        ([*SERVE, *CONTEXT, "--kw", "nan"], "--kw"),
        ([*SERVE, *CONTEXT, "--batch", "0"], "--batch"),
        ([*SERVE, *CONTEXT, "--tpot", "20"], "--tpot"),
        ([*SERVE, *CONTEXT, "--rate", "5/s"], "--rate needs"),
        ([*LOAD, "--rate", "0/s"], "--rate"),
        ([*LOAD, "--rate", "50"], "--rate"),
        ([*SERVE, *CONTEXT, "--price-step", "1x@200k"], "no step up"),
        ([*SERVE, *CONTEXT, "--price-step", "twice"], "2x@200k"),
        ([*SERVE, *CONTEXT, "--price-step", "2x@0"], "2x@200k"),
        ([*SERVE, *CONTEXT, "--prefill-tp", "3"], "--prefill-tp 3"),
        ([*SERVE, *CONTEXT, "--prefill-tp", "16"], "--prefill-tp: 16"),
        ([*SERVE, *CONTEXT, "--tp", "3"], "--tp 3"),
        ([*SERVE, *CONTEXT, "--ep", "8"], "no experts"),
        ([*SERVE, *CONTEXT, "--json", "--csv"], "exclude each other"),
        (["serve", "nomodel", "--on", "h100-hgx", *CONTEXT], "unknown model"),
        (["serve", "llama-3.1-70b", "--on", "nowhere", *CONTEXT], "unknown machine"),
        ([*CACHE, "--tier", "flsh"], "did you mean flash"),
        ([*CACHE, "--tier", ","], "--tier"),
        ([*CACHE, "--hold", "0s"], "--hold"),
        ([*CACHE, "--hold", "0d"], "--hold"),
        ([*CACHE, "--hold", "-5min"], "--hold"),
        ([*CACHE, "--hold", "5"], "units: ms, s, min, h, d"),
        ([*CACHE, "--tiers", "nofile.toml"], "no such file"),
        (TRAIN, "neither --pretrain nor --inference"),
        ([*TRAIN, "--pretrain", "0"], "--pretrain"),
        ([*TRAIN, "--pretrain", "-5T"], "--pretrain"),
        ([*TRAIN, "--pretrain", "nan"], "--pretrain"),
        ([*TRAIN, "--pretrain", "1e999"], "--pretrain"),
        ([*TRAIN, "--pretrain", "15T", "--mfu", "0"], "--mfu"),
        ([*TRAIN, "--pretrain", "15T", "--mfu", "1.2"], "--mfu"),
        ([*TRAIN, "--pretrain", "15T", "--mfu", "nan"], "--mfu"),
        ([*TRAIN, "--pretrain", "15T", "--rl-coefficient", "7"], "--rl-coefficient"),
        ([*TRAIN, "--pretrain", "15T", "--inefficiency", "0.5"], "--inefficiency"),
        ([*TRAIN, "--pretrain", "15T", "--batch-tokens", "1k"], "less than a sequence"),
        ([*TRAIN, "--serving", "50M/s"], "--for is missing"),
        ([*TRAIN, "--for", "60d"], "--serving is missing"),
        ([*TRAIN, "--serving", "50M", "--for", "60d"], "50M/s"),
        ([*TRAIN, "--serving", "50M/s", "--for", "60"], "--for"),
        ([*TRAIN, "--serving", "50M/s", "--for", "60d", "--inference", "1T"], "exclude"),
    ],
)
def test_bad_input_names_the_option(capsys, words, part):
    code, out, err = ask(capsys, *words)
    assert (code, out) == (2, "")
    assert part in err and "Traceback" not in err


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ([*SERVE, *CONTEXT, "--tpot", "1us"], ("TPOT", "1.00 us")),
        ([*SERVE, *CONTEXT, "--ttft", "1ms"], ("--ttft 1.00 ms", "would help: --ttft")),
        ([*SERVE, *CONTEXT, "--batch", "1000000"], ("HBM", "--batch 176")),
        ([*LOAD, "--rate", "5/s", "--tpot", "2ms"], ("TPOT", "2.00 ms")),
        (["serve", "deepseek-v3", "--on", "h100-hgx", *CONTEXT], ("HBM", "--nodes 2")),
        ([*CACHE[:4], "--context", "2M"], ("no prefill fits",)),
        (["train", "llama-3.1-405b", "--on", "h100-hgx", "--pretrain", "15T"], ("--nodes",)),
    ],
)
def test_what_nobody_can_meet_says_why(capsys, words, parts):
    code, out, err = ask(capsys, *words)
    assert (code, out) == (3, "")
    assert err.startswith("infeasible: ")
    assert all(part in err for part in parts), err


def test_infeasible_as_json(capsys):
    code, out, _ = ask(capsys, *SERVE, *CONTEXT, "--ttft", "1ms", "--json")
    assert code == 3
    assert json.loads(out)["resource"] == "ttft"


# Amounts.


@pytest.mark.parametrize(
    ("text", "value"),
    [("15T", 15e12), ("400B", 4e11), ("2.6e15", 2.6e15), ("1_000k", 1e6), ("7", 7.0), (".5G", 5e8)],
)
def test_amounts(text, value):
    assert parse_amount(text, "--pretrain") == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "T", "15 Tera", "1e31", "0", "inf", "1,5x"])
def test_no_amounts(text):
    with pytest.raises(SpecError, match="--pretrain"):
        parse_amount(text, "--pretrain")


def test_rates_durations_and_steps():
    assert parse_amount_rate("50M/s", "--serving") == 50e6
    assert parse_amount_rate("86.4B/d", "--serving") == pytest.approx(1e6)
    assert parse_duration("60d", "--for") == 60 * 86400
    assert parse_duration("1.5 days", "--for") == 1.5 * 86400
    assert parse_duration("5min", "--for") == 300
    assert parse_price_step("2x@200k", "--price-step") == PriceStep(context=204_800, factor=2.0)
    assert parse_price_step("200000", "--price-step") == PriceStep(context=200_000, factor=2.0)
    assert parse_price_step("1.5x@128k", "--price-step").factor == 1.5


@pytest.mark.parametrize(
    ("words", "label"),
    [
        ([*SERVE, *CONTEXT, "--tp", "8", "--batch", "64"], "tokens of context"),
        (CACHE, "seconds until it is read"),
        ([*TRAIN, "--inference", "1T", "--mfu", "0.4"], "chip-hours"),
    ],
)
def test_plots_are_written(capsys, tmp_path, words, label):
    path = tmp_path / "plot.svg"
    code, out, err = ask(capsys, *words, "-o", str(path))
    assert code == 0 and out and "wrote" in err
    assert label.encode() in path.read_bytes()


def test_curves_are_drawn_in_the_terminal(capsys):
    code, out, _ = ask(capsys, *CACHE)
    assert code == 0 and "seconds until it is read" in out and "from here on host DRAM" in out
