"""What engines refuse, and what is exported instead."""

import pytest
from deploy_factory import case_for, degrees, layout_for
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.deployment.express import express
from planner.deployment.rules import RuleCase, expressible, misfits
from planner.domain.degrees import OverlapMode
from planner.domain.deployment import Engine

MODEL = "qwen3-30b-a3b"  # 128 experts, 32 heads, 4 KV heads
SERVING = [Engine.VLLM, Engine.SGLANG, Engine.TRTLLM]


def rules(engine, model=MODEL, **more):
    return RuleCase(engine=engine, model=case_for(model)[1].setting.model, **more)


def moe(**given):
    return degrees(**{"num_slots": 128, **given})


def reasons(engine, own, **more):
    return " ".join(found.reason for found in misfits(rules(engine, **more), own))


def test_plain_layouts_need_no_change():
    own = moe(attn_dp=8, ep=8)
    for engine in SERVING:
        assert expressible(rules(engine), own) == (own,)


def test_vllm_spreads_experts_over_all_ranks_or_none():
    own = moe(attn_tp=2, attn_dp=4, ep=4, expert_tp=2)
    found = expressible(rules(Engine.VLLM), own)
    assert {(d.ep, d.expert_tp) for d in found} == {(8, 1), (1, 8)}
    assert "EP 8 or EP 1" in reasons(Engine.VLLM, own)
    assert not reasons(Engine.SGLANG, own)


def test_trtllm_splits_attention_over_all_ranks_or_none():
    own = moe(attn_tp=2, attn_dp=4, ep=8)
    found = expressible(rules(Engine.TRTLLM), own)
    assert {(d.attn_tp, d.attn_dp) for d in found} == {(8, 1), (1, 8)}


def test_slots_are_rounded_to_equal_ranks():
    # 130 slots on 8 ranks: 136 or 128.
    own = moe(attn_dp=8, ep=8, num_slots=130)
    for engine in SERVING:
        assert {d.num_slots for d in expressible(rules(engine), own)} == {128, 136}


def test_only_vllm_spreads_experts_unevenly_without_copies():
    own = moe(attn_dp=12, ep=12)
    assert not reasons(Engine.VLLM, own)
    assert "equally many" in reasons(Engine.SGLANG, own)


def test_contexts_are_shared_over_copies_of_kv_heads():
    # TP 8 = 4 x CP 2 over 4 KV heads: two copies of each, CP 2 shares them.
    assert not reasons(Engine.VLLM, moe(attn_tp=4, cp=2, ep=8))
    # TP 4 has no copies to share over.
    assert "copies of KV heads" in reasons(Engine.VLLM, moe(attn_tp=2, cp=2, ep=4))
    assert "latent attention only" in reasons(Engine.TRTLLM, moe(attn_tp=4, cp=2, ep=8))


def test_overlap_of_tensor_parallelism_is_offered_by_none():
    own = moe(attn_tp=2, attn_dp=4, ep=8, overlap=OverlapMode.EP_TP)
    for engine in (Engine.VLLM, Engine.SGLANG):
        assert {d.overlap for d in expressible(rules(engine), own)} == {
            OverlapMode.EP,
            OverlapMode.NONE,
        }
    assert {d.overlap for d in expressible(rules(Engine.TRTLLM), own)} == {OverlapMode.NONE}


def test_heads_must_divide():
    own = degrees(attn_tp=3)
    found = expressible(rules(Engine.VLLM, "llama-3.1-8b"), own)
    assert {d.attn_tp for d in found} == {2}


def test_drafts_need_something_that_drafts():
    own = moe(attn_dp=8, ep=8, draft=2)
    assert "--draft-model" in reasons(Engine.VLLM, own)
    assert not reasons(Engine.VLLM, own, has_draft_model=True)
    staged = moe(attn_dp=4, ep=4, pp=2, draft=2)
    assert "one pipeline stage" in reasons(Engine.SGLANG, staged, has_draft_model=True)


@st.composite
def any_degrees(draw):
    tp, dp = draw(st.sampled_from([1, 2, 3, 4, 6])), draw(st.integers(1, 6))
    cp = draw(st.sampled_from([1, 2]))
    stage = tp * dp * cp
    ep = draw(st.sampled_from([d for d in range(1, min(stage, 6) + 1) if stage % d == 0]))
    return moe(
        attn_tp=tp,
        attn_dp=dp,
        cp=cp,
        ep=ep,
        expert_tp=stage // ep,
        num_slots=128 + draw(st.integers(0, 9)),
        microbatches=draw(st.integers(1, 3)),
        overlap=draw(st.sampled_from(OverlapMode)),
    )


@settings(max_examples=60, deadline=None, derandomize=True)
@given(engine=st.sampled_from(SERVING), own=any_degrees())
def test_replacements_satisfy_every_rule(engine, own):
    found = expressible(rules(engine), own)
    assert found
    for one in found:
        assert not list(misfits(rules(engine), one))
        assert one.ep * one.expert_tp == one.stage_chips <= own.stage_chips


def test_the_cost_of_the_nearest_layout_is_said():
    planned = layout_for(moe(attn_tp=2, attn_dp=4, ep=4, expert_tp=2), 16, MODEL)
    found = express(planned, Engine.VLLM)
    assert not found.as_planned
    ratio = planned.prediction.tokens_per_s_per_chip / found.layout.prediction.tokens_per_s_per_chip
    word = "worse" if ratio > 1 else "better"
    assert found.notes[-1].endswith(f"% {word}")
    assert f"{found.layout.prediction.tokens_per_s_per_chip:,.0f}" in found.notes[-1]


def test_uneven_batches_are_said():
    from msgspec import structs

    planned = layout_for(moe(attn_dp=4, ep=4), 6, MODEL)
    split = structs.replace(planned.batches[0], sequences=((6, 6, 6, 5),))
    found = express(structs.replace(planned, batches=(split,)), Engine.SGLANG)
    assert "5 to 6 sequences" in found.notes[0]
    assert found.layout.prediction.batch == 24


def test_a_rank_order_that_hosts_cannot_hold_is_priced():
    # Two stages on two nodes each: vLLM puts both stages of a DP rank on one node.
    own = moe(attn_dp=16, pp=2, ep=16)
    planned = layout_for(own, 8, MODEL)
    assert express(planned, Engine.SGLANG).as_planned
    found = express(planned, Engine.VLLM)
    assert "numbers its ranks" in found.notes[0]
    assert [node.host for node in found.instances[0].nodes] == ["n0", "n1", "n2", "n3"]
    # The exchange of a stage now crosses four nodes instead of two.
    assert found.layout.prediction.step_s > planned.prediction.step_s


@pytest.mark.parametrize("engine", SERVING)
def test_instances_share_a_node_by_devices(engine):
    planned = layout_for(degrees(attn_tp=2, replicas=4), 8, "llama-3.1-8b")
    found = express(planned, engine)
    assert [one.nodes[0].devices for one in found.instances] == [(0, 1), (2, 3), (4, 5), (6, 7)]
