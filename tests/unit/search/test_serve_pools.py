"""Two pools on one machine: rooms, pairs and whole plans against brute force and by hand."""

import itertools
import json
import math
import random
from dataclasses import replace

import pytest
from oracle_tiny import tiny

from planner import DegreeLimits, Infeasible
from planner.cli.main import run
from planner.domain.hardware import Sizing, Wounds
from planner.domain.serve import Demand, ServeQuestion
from planner.errors import DisconnectedError, SpecError
from planner.search.mesh import MeshMapper
from planner.search.serve.forms import FormTable
from planner.search.serve.rooms import fill_domains, most_beside
from planner.search.solve import StrategySolver
from planner.serve_api import evaluate_pools, plan_pools, verify_pools
from planner.serve_api.case import read_question, request_of
from planner.serve_api.certificate import verify_pools_certificate


def brute_beside(domains, piece, other, need):
    """Most pieces of ``other`` beside ``need`` pieces, by all ways to deal them to domains."""
    best = -1
    for taken in itertools.product(*(range(chips // piece + 1) for chips in domains)):
        if sum(taken) == need:
            room = sum((c - a * piece) // other for c, a in zip(domains, taken, strict=True))
            best = max(best, room)
    return best


@pytest.mark.parametrize("seed", range(40))
def test_rooms_hold_what_brute_force_finds(seed):
    rng = random.Random(seed)
    domains = [rng.randint(0, 9) for _ in range(rng.randint(1, 4))]
    piece, other = rng.randint(1, 5), rng.randint(1, 5)
    found = most_beside(domains, piece, other)
    for need in range(len(found) + 1):
        best = brute_beside(domains, piece, other, need)
        assert (found[need] if need < len(found) else -1) == best
        if best >= 0:
            filled = fill_domains(domains, (piece, other), (need, best))
            assert sum(a for a, _ in filled) == need
            assert sum(b for _, b in filled) == best
            for chips, (a, b) in zip(domains, filled, strict=True):
                assert a * piece + b * other <= chips
        assert fill_domains(domains, (piece, other), (need, best + 1)) is None


def test_rooms_by_hand():
    # 70 + 72 chips, pieces of 8 and 18: three of 18 leave 16 in the one and 18 in the other
    # domain, room for two of 8 in each; four of 18 in the second leave nothing there.
    assert most_beside([70, 72], 18, 8)[6] == 4
    assert most_beside([70, 72], 18, 8)[7] == 2
    assert len(most_beside([70, 72], 18, 8)) == 8


def serve(seed, folder, **options):
    """A tiny question about two pools."""
    case = tiny(seed, folder, batch=None)
    asked, rng = case.question, random.Random(seed)
    most = max(4, asked.context_tokens)
    demand = Demand(
        input_len=rng.choice([40, 300]),
        output_len=rng.randint(2, most),
        prefix_hit=rng.choice([0.0, 0.5]),
        ttft_s=rng.choice([None, 2e-3, 2e-2]),
        tpot_s=rng.choice([None, 2e-3, 2e-2]),
        rate_per_s=options.pop("rate", None),
    )
    pins = DegreeLimits(cp=frozenset({1}), overlap=frozenset({0}))
    return ServeQuestion(
        model=asked.model,
        machine=asked.machine,
        demand=demand,
        weights=asked.weights,
        kv=asked.kv,
        loads=asked.loads,
        limits=pins,
        prefill_limits=pins,
        gap=0.0,
        price_usd_per_hour=2.0,
        **options,
    )


def every_worker(table, per_request):
    """Requests per second of every worker layout, by its form: each strategy solved alone."""
    found = {}
    solver = StrategySolver(table.request, MeshMapper.of(table.request.topology))
    for form, indices in table.by_form.items():
        for index in indices.tolist():
            try:
                solved = solver.solve(table.strategies.degrees(index), int(table.table.most[index]))
            except DisconnectedError:
                continue
            if solved is not None:
                own = solved.prediction.tokens_per_s / per_request
                found[form] = max(found.get(form, 0.0), own)
    return found


def brute_force(asked):
    """Most requests per second, the transfer left aside: all forms, all numbers of workers."""
    _, case = read_question(asked)
    request = request_of(asked, case)
    demand, topology = asked.demand, case.serve.topology
    prefill = every_worker(FormTable.of(request.prefill, demand.new_tokens), demand.new_tokens)
    decode = every_worker(
        FormTable.of(request.decode, demand.decoded_tokens), demand.decoded_tokens
    )
    domains = [len(domain) for domain in topology.domains]
    best, fewest = 0.0, math.inf
    for (mine, rate_p), (theirs, rate_d) in itertools.product(prefill.items(), decode.items()):
        for few in range(1, topology.num_chips // mine.chips + 1):
            room = brute_beside(domains, mine.piece, theirs.piece, few * mine.num_pieces)
            for many in range(1, max(0, room) // theirs.num_pieces + 1):
                served = min(few * rate_p, many * rate_d)
                best = max(best, served)
                if demand.rate_per_s is not None and served >= demand.rate_per_s:
                    fewest = min(fewest, few * mine.chips + many * theirs.chips)
    return best, fewest, topology.num_chips


def test_pools_equal_brute_force(tmp_path):
    answered = 0
    for seed in range(9000, 9014):
        asked = serve(seed, tmp_path)
        # A transfer between tiny machines is short, but not nothing: no limit on it here.
        asked = replace(asked, demand=replace(asked.demand, ttft_s=None))
        best, _, chips = brute_force(asked)
        found = plan_pools(asked)
        if best == 0.0:
            assert isinstance(found, Infeasible), seed
            continue
        assert not isinstance(found, Infeasible), (seed, found.message)
        proof, together = found.certificate, found.prediction
        assert proof.bound <= chips / best * (1 + 1e-9), seed
        assert verify_pools(found) == (), seed
        if together.limited_by != "links":
            # Hops between stages of workers that lie on two domains are slower than on the block.
            crosses = max(found.prefill.degrees.pp, found.decode.degrees.pp) > 1
            loose = 0.1 if crosses or asked.loads else 1e-9
            assert chips / together.requests_per_s == pytest.approx(chips / best, rel=loose), seed
        answered += 1
    assert answered >= 6


def test_a_rate_takes_the_fewest_chips(tmp_path):
    answered = 0
    for seed in range(9100, 9110):
        asked = serve(seed, tmp_path)
        asked = replace(asked, demand=replace(asked.demand, ttft_s=None), loads=None)
        most, _, _ = brute_force(asked)
        if most == 0.0:
            continue
        part = random.Random(seed).choice([0.05, 0.5, 0.9])
        asked = replace(asked, demand=replace(asked.demand, rate_per_s=most * part))
        _, fewest, _ = brute_force(asked)
        found = plan_pools(asked)
        if isinstance(found, Infeasible):
            continue
        assert found.certificate.bound <= fewest
        assert found.prediction.chips_used >= found.certificate.bound
        assert found.prediction.requests_per_s >= most * part * (1 - 1e-9)
        if found.decode.degrees.pp == found.prefill.degrees.pp == 1:
            assert found.prediction.chips_used == fewest
        answered += 1
    assert answered >= 4


ASKED = ServeQuestion(
    model="mixtral-8x7b",
    machine="h100-hgx",
    demand=Demand(input_len=2048, output_len=256, ttft_s=1.0, tpot_s=0.03),
    sizing=Sizing(nodes=2),
)


def test_figures_follow_from_each_other():
    found = plan_pools(ASKED)
    together, demand = found.prediction, ASKED.demand
    prefill, decode = found.prefill.prediction, found.decode.prediction
    # A request is one prompt and 255 further tokens.
    assert together.prefill_requests_per_s == pytest.approx(prefill.tokens_per_s / 2048)
    assert together.decode_requests_per_s == pytest.approx(decode.tokens_per_s / 255)
    assert together.requests_per_s == min(
        together.prefill_requests_per_s,
        together.decode_requests_per_s,
        together.link_requests_per_s,
    )
    assert together.ttft_s == pytest.approx(prefill.step_s + together.transfer_s)
    assert together.ttft_s <= demand.ttft_s * (1 + 1e-9)
    assert together.tpot_s <= demand.tpot_s * (1 + 1e-9)
    # 32 layers, 8 KV heads of 128, keys and values, two bytes, 2048 tokens.
    assert together.kv_bytes == 32 * 2 * 8 * 128 * 2 * 2048
    chips = [{rank.chip for rank in pool.ranks} for pool in (found.prefill, found.decode)]
    assert not chips[0] & chips[1]
    assert len(chips[0] | chips[1]) == together.chips_used == 16 - len(found.idle_chips)
    assert found.certificate.gap <= 0.01


def test_more_time_is_never_worse():
    rates = []
    for factor in (0.5, 1.0, 3.0):
        demand = replace(ASKED.demand, ttft_s=factor, tpot_s=0.03 * factor)
        rates.append(plan_pools(replace(ASKED, demand=demand, gap=0.0)).prediction.requests_per_s)
    assert rates == sorted(rates)


def test_dead_chips_are_left_out_and_racks_host_what_fits():
    wounds = Wounds(without=("chip:n0/c3", "chip:n1/c0", "chip:n1/c1"))
    found = plan_pools(replace(ASKED, sizing=Sizing(nodes=2, wounds=wounds)))
    whole = plan_pools(ASKED)
    assert verify_pools(found) == ()
    assert found.prediction.chips_used <= 13
    assert found.prediction.requests_per_s <= whole.prediction.requests_per_s * (1 + 1e-9)


def test_a_spoilt_file_is_caught(tmp_path, capsys):
    path = str(tmp_path / "pools.json")
    asked = ["mixtral-8x7b", "--on", "h100-hgx", "--phase", "serve", "--input", "2k"]
    asked += ["--output", "256", "--ttft", "1s", "--tpot", "30ms", "--no-overlap", "--pp", "1"]
    asked += ["--prefill-pp", "1", "--prefill-cp", "1"]
    assert run(["plan", *asked, "-o", path]) == 0
    assert "requests/s" in capsys.readouterr().out
    assert run(["verify", path]) == 0
    assert run(["evaluate", path, "--json"]) == 0
    with open(path) as file:
        text = file.read()
    capsys.readouterr()
    assert run(["diff", path, path]) == 2
    assert "is one of two pools" in " ".join(capsys.readouterr().err.split())
    record = json.loads(text)
    # The first decode rank on a chip of the prefill pool.
    record["decode"]["ranks"][0]["chip"] = record["prefill"]["ranks"][0]["chip"]
    spoilt = tmp_path / "spoilt.json"
    spoilt.write_text(json.dumps(record))
    assert run(["verify", str(spoilt)]) == 1
    assert "both pools" in capsys.readouterr().out
    record = json.loads(text)
    record["inputs"]["ttft_s"] = 1e-3
    spoilt.write_text(json.dumps(record))
    assert run(["verify", str(spoilt)]) == 1
    assert "time to the first token" in capsys.readouterr().out
    record = json.loads(text)
    record["certificate"]["bound"] = record["certificate"]["objective"] * 1.5
    record["certificate"]["gap"] = -0.5
    spoilt.write_text(json.dumps(record))
    assert run(["verify", "--certificate", str(spoilt)]) == 1
    assert "above the objective" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("demand", "resource"),
    [
        ({"tpot_s": 1e-5}, "tpot"),
        ({"ttft_s": 1e-5}, "ttft"),
        ({"rate_per_s": 1e6}, "rate"),
        ({"input_len": 4_000_000, "ttft_s": None, "tpot_s": None}, "memory"),
    ],
)
def test_what_nothing_can_serve_says_what_is_short(demand, resource):
    asked = replace(ASKED, demand=replace(ASKED.demand, **demand))
    try:
        found = plan_pools(asked)
    except SpecError as error:
        assert "--context" in error.message
        return
    assert isinstance(found, Infeasible)
    assert found.resource == resource
    assert found.remedies


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--output 1k", "--input is missing"),
        ("--input 1k", "--output is missing"),
        ("--input 1k --output 1", "--output"),
        ("--input 1k --output 1k --prefix-hit 1", "--prefix-hit"),
        ("--input 1k --output 1k --context 8k", "--context"),
        ("--input 1k --output 1k --batch 8", "--batch"),
        ("--input 1k --output 1k --rate 10", "--rate"),
        ("--input 1k --output 1k --workers 0", "--workers"),
        ("--input 1k --output 1k --objective latency", "--objective"),
    ],
)
def test_questions_without_sense_are_refused(words, message, capsys):
    asked = ["plan", "mixtral-8x7b", "--on", "h100-hgx", "--phase", "serve", *words.split()]
    assert run(asked) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_serving_options_belong_to_serving(capsys):
    asked = ["plan", "mixtral-8x7b", "--on", "h100-hgx", "--context", "8k", "--input", "4k"]
    assert run(asked) == 2
    assert "belongs to --phase serve" in capsys.readouterr().err


def test_the_proof_of_pools_is_checked_again(tmp_path):
    checked = 0
    for seed in range(9200, 9206):
        asked = serve(seed, tmp_path)
        found = plan_pools(replace(asked, demand=replace(asked.demand, ttft_s=None)))
        if isinstance(found, Infeasible):
            continue
        again = verify_pools_certificate(found)
        assert again.violations == ()
        # Divisible chips serve no less than whole workers.
        assert again.rederived_bound <= found.certificate.objective * (1 + 1e-9)
        assert again.rederived_bound <= found.certificate.bound * (1 + 1e-3)
        checked += 1
    assert checked >= 3


def test_pins_hold():
    asked = replace(
        ASKED,
        limits=DegreeLimits(tp=frozenset({2}), replicas=frozenset({2})),
        prefill_limits=DegreeLimits(ep=frozenset({4}), replicas=frozenset({1})),
    )
    found = plan_pools(asked)
    assert found.decode.degrees.attn_tp == 2
    assert found.decode.degrees.replicas == 2
    assert found.prefill.degrees.ep == 4
    assert found.prefill.degrees.replicas == 1
    assert evaluate_pools(found) is found
