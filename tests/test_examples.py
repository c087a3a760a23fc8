"""The walk-throughs run, and print what the theory and the model say."""

import re
import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


@pytest.fixture
def printed(capsys):
    def run(number):
        (path,) = EXAMPLES.glob(f"{number:02d}_*.py")
        runpy.run_path(str(path))
        return capsys.readouterr().out

    return run


def numbers(text, pattern):
    """Numbers that a pattern captures, in order."""
    return [float(found.replace(",", "")) for found in re.findall(pattern, text)]


def test_the_examples_are_numbered_without_a_gap():
    names = sorted(path.name for path in EXAMPLES.glob("*.py"))
    assert [int(name[:2]) for name in names] == list(range(1, len(names) + 1))
    for name in names:
        text = (EXAMPLES / name).read_text()
        assert f"Run: python examples/{name}" in text


def test_chapter_1_cost_falls_with_the_batch(printed):
    out = printed(1)
    assert "a ratio of 300: 2,400" in out and "every 14.4 ms" in out
    costs, ideals = numbers(out, r"\$ *([\d.]+) per"), numbers(out, r"tokens \(ideal *([\d.]+)\)")
    assert costs == sorted(costs, reverse=True) and len(costs) == 4
    assert all(cost > least for cost, least in zip(costs, ideals, strict=True))
    # 300 for a dense model (chapter 1); 141 GB over 8 chips of 3.35 TB/s are 5.3 ms.
    assert numbers(out, r"ideal B\*: ([\d.]+)") == [pytest.approx(295, rel=0.03)]
    assert numbers(out, r"weights read once: ([\d.]+)") == [pytest.approx(5.26, rel=0.01)]


def test_chapter_2_experts_stay_in_a_rack_and_leave_a_node(printed):
    out = printed(2)
    assert "64 used, 4 each, 8 idle" in out and "4, 6, 7 times slower, 50% leaves two" in out
    rate = r", {} *: EP\d+ +([\d,]+) tokens/s/chip"
    rack, node = numbers(out, rate.format("ep")), numbers(out, rate.format("wide-ep"))
    assert rack[0] > node[0]  # two racks: experts within a rack are better
    assert rack[1] < node[1]  # nodes of eight: across them


def test_chapter_3_a_stage_halves_weights_and_nothing_else(printed):
    out = printed(3)
    assert numbers(out, r"boundary ratio ([\d.]+)") == [2.0, 0.25, 1.0, 8.0]
    assert "1 in flight: 75% idle" in out and "4 in flight: 0% idle" in out
    assert numbers(out, r"microbatches: ([\d.]+)%") == [42.86, 27.27, 15.79]
    steps, weights = numbers(out, r"step +([\d.]+) ms"), numbers(out, r"weights +([\d.]+) GB")
    caches = numbers(out, r"cache +([\d.]+) GB")
    assert steps[1] == pytest.approx(steps[0], rel=0.03)
    assert weights[1] == pytest.approx(weights[0] / 2, rel=0.08)
    assert caches[1] == pytest.approx(caches[0], rel=0.02)


def test_chapter_4_stages_cancel_in_the_cache(printed):
    out = printed(4)
    assert numbers(out, r"P = \d: weights +([\d.]+)") == [10.94, 5.47, 2.73, 1.37]
    assert numbers(out, r"P = \d: .*cache ([\d.]+)") == [7.68] * 4
    assert "37.3 ms" in out and "1.74 ms" in out and "on 20 ms: 30 ms" in out
    ranked = re.findall(r"^(ep72\S*) *: [\d,]+ tokens", out, re.MULTILINE)
    assert ranked[0] in ("ep72", "ep72+pp2") and ranked[-1] == "ep72+pp4"
    assert "ep: HBM: the leanest layout" in out and "ep8+pp2: PP2" in out


def test_chapter_5_budgets_balance(printed):
    out = printed(5)
    assert "2.592e+15 tokens" in out and "pre-training 2.592e+14, RL 1.728e+14" in out
    assert "129.6 x" in out
    prices = numbers(out, r"tokens, \$([\d,]+)")
    assert prices == [pytest.approx(prices[0], rel=1e-6)] * 3


def test_chapter_6_a_price_step_marks_the_kink(printed):
    out = printed(6)
    assert "1,666.7 B per token" in out and "2,048 B per token" in out
    costs = numbers(out, r"\$([\d.]+) per million")
    assert costs == sorted(costs)
    assert costs[-1] / costs[0] > 2  # flat, then rising with the context
    drains = numbers(out, r"drained in ([\d.e+]+) s")
    assert drains == sorted(drains)
    assert out.rstrip().endswith("for ever: recompute")


def test_chapter_7_activations_for_flop(printed):
    out = printed(7)
    kept, steps = numbers(out, r"activations +([\d.]+) GB"), numbers(out, r"step ([\d.]+) s")
    assert kept == sorted(kept, reverse=True) and kept[-1] < 0.5 * kept[0]
    assert steps == sorted(steps)
    # One more forward pass on a forward and two backward ones: up to a third.
    assert 1.2 < steps[-1] / steps[0] < 1.45
