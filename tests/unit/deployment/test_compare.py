"""Deployments compared with the best layout, on a machine small enough to think through."""

from dataclasses import replace

import pytest

from planner import Question
from planner.catalog.deployed_sglang import read_sglang
from planner.catalog.deployed_vllm import read_vllm
from planner.deployment.compare import compare, read_deployment
from planner.deployment.serving import default_stages, deploy
from planner.domain.deployment import Engine, ServingDeployment
from planner.domain.dtypes import DType
from planner.errors import SpecError

MOE = Question(model="qwen3-30b-a3b", machine="h100-hgx", context_tokens=4096)
DENSE = Question(model="llama-3.1-8b", machine="h100-hgx", context_tokens=4096)


def told(engine=Engine.VLLM, **given):
    return ServingDeployment(engine=engine, **given)


def price(deployment, question=MOE, ranks=None):
    return read_deployment(deployment, question, ranks)


def test_default_stages_of_61_layers_on_4():
    # The remainder of one layer: vLLM to stage -2, SGLang to the last, TensorRT-LLM to the first.
    assert default_stages(Engine.VLLM, 61, 4) == (15, 15, 16, 15)
    assert default_stages(Engine.SGLANG, 61, 4) == (15, 15, 15, 16)
    assert default_stages(Engine.TRTLLM, 61, 4) == (16, 15, 15, 15)
    assert default_stages(Engine.VLLM, 7, 1) == (7,)
    assert default_stages(Engine.VLLM, 63, 4) == (16, 16, 16, 15)


def test_as_many_sequences_run_as_fit():
    current, _, _ = price(told(tp=8, max_sequences=100_000))
    assert current.running < current.allowed == 100_000
    memory = current.layout.prediction.memory
    assert memory.used_bytes <= memory.capacity_bytes
    more, _, _ = price(told(tp=8, max_sequences=current.running + 1))
    assert more.running == current.running
    fewer, _, _ = price(told(tp=8, max_sequences=current.running - 1))
    assert fewer.running == current.running - 1


def test_data_parallelism_of_a_dense_model_is_copies():
    current, _, _ = price(told(tp=2, dp=4, max_sequences=16), DENSE)
    degrees = current.layout.degrees
    assert (degrees.attn_tp, degrees.attn_dp, degrees.replicas) == (2, 1, 4)
    assert current.layout.prediction.batch == 64


def test_formats_of_the_cache_are_those_of_the_flags():
    small, _, _ = price(told(tp=8, max_sequences=100_000, kv=DType.FP8))
    large, _, _ = price(told(tp=8, max_sequences=100_000))
    # Half the bytes per token, twice the sequences (but for what sequences take beside it).
    assert small.running == pytest.approx(2 * large.running, rel=0.02)


def test_hosts_decide_where_ranks_run():
    question = replace(MOE, nodes=2)
    deployment = told(Engine.SGLANG, tp=8, ep=8, max_sequences=8)
    near, _, _ = price(deployment, question, [("n1", device) for device in range(8)])
    far, _, _ = price(deployment, question, [(f"n{i % 2}", -1) for i in range(8)])
    assert near.layout.ranks[0].chip == "n1/c0"
    assert far.layout.prediction.step_s > near.layout.prediction.step_s
    with pytest.raises(SpecError, match="no host 'n7'"):
        price(deployment, question, [("n7", -1)] * 8)
    with pytest.raises(SpecError, match="no free device"):
        price(deployment, question, [("n1", 0)] * 8)


@pytest.mark.parametrize(
    ("deployment", "message"),
    [
        (told(tp=16), "takes 16 chips, the machine has 8"),
        (told(tp=2, dp=4, ep=8, extra_slots=3), "131 expert slots on 8"),
        (told(tp=2, pp=2, stage_layers=(40, 9)), "48 layers in all"),
        (told(Engine.SGLANG, tp=6, ep=6), "equally many"),
        (told(tp=2, draft=1), "acceptance"),
        (told(Engine.SGLANG, tp=2, ep=2, placement=((0, (0, 1)),)), "2 slots"),
    ],
)
def test_what_cannot_be_is_said(deployment, message):
    with pytest.raises(SpecError, match=message):
        price(deployment)


def test_two_flags_are_the_difference():
    # Eight chips as one TP group read each expert's slice and sum over all chips at every layer;
    # the best layout is another split of the same chips.
    current, _, case = price(told(tp=8, max_sequences=256, ep=8))
    found = compare(current, MOE, case)
    assert found.ratio >= found.told_ratio > 1.3
    why = found.explanation
    names = [name for name, _, _ in why.flags]
    assert 1 <= len(names) <= 4 and why.gain > 1.3
    # The price of what is proposed is that of a deployment with just these flags.
    again = deploy(told(**_flags(why.layout)), current.layout.inputs, case)
    assert again.layout.prediction.step_s == pytest.approx(why.layout.prediction.step_s)
    # Nothing that is proposed is slower per token than what there is.
    for layout in (why.layout, found.told, found.best):
        assert layout.prediction.step_s <= current.layout.prediction.step_s * (1 + 3e-9)


def _flags(layout):
    d = layout.degrees
    ranks = d.attn_dp * d.replicas
    return {
        "tp": d.attn_tp,
        "dp": d.attn_dp,
        "pp": d.pp,
        "ep": d.ep,
        "instances": d.replicas,
        "max_sequences": layout.prediction.batch // ranks,
        "rebalances": d.num_slots % d.ep == 0 and d.num_slots > 128,
        "extra_slots": d.num_slots - 128,
    }


def test_the_best_deployment_has_no_better_one():
    current, _, case = price(told(tp=8, max_sequences=256, ep=8))
    best = compare(current, MOE, case)
    d = best.told.degrees
    own = told(**_flags(best.told))
    again, _, case = price(own)
    assert again.layout.degrees == d
    found = compare(again, MOE, case)
    # The certificate of the search allows half a percent.
    assert found.told_ratio <= 1.006


def test_a_deployment_that_is_the_best_is_found_to_be():
    # Its own step is the limit, and must pass it.
    current, _, case = price(told(tp=8, max_sequences=64, ep=8))
    found = compare(current, MOE, case)
    assert found.best.degrees == current.layout.degrees
    assert found.ratio == pytest.approx(1.0) and found.explanation is None


def test_flags_and_yaml_agree(tmp_path):
    lines = read_vllm("--flags", "-tp 4 -dp 2 -ep --max-num-seqs 32")
    path = tmp_path / "c.yaml"
    path.write_text(
        "tensor-parallel-size: 4\ndata-parallel-size: 2\nenable-expert-parallel: true\n"
        "max-num-seqs: 32\n"
    )
    assert lines.told == read_vllm(str(path)).told
    twin = read_sglang("--flags", "--tp 8 --attn-dp-size 2 --ep 8 --max-running-requests 64")
    a, b = price(lines.told)[0], price(twin.told)[0]
    assert a.layout.prediction.step_s == b.layout.prediction.step_s


def test_what_the_engine_refuses_is_said():
    current, _, _ = price(told(tp=3, max_sequences=4), DENSE)
    assert current.refusals == ("vLLM refuses this: 32 attention heads do not divide by TP 3",)
    current, _, _ = price(told(tp=2, ep=2, max_sequences=4), DENSE)
    assert current.refusals == ("EP 2 is without effect: the model has no experts",)
    assert price(told(tp=2, max_sequences=4), DENSE)[0].refusals == ()
