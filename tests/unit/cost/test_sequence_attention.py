"""Attention cores of whole sequences, counted by brute force."""

import pytest

from planner.cost.sequence_attention import sequence_core, visible_tokens
from planner.domain.model import GroupedQueryAttention, LatentAttention


@pytest.mark.parametrize("new", [1, 5, 16])
@pytest.mark.parametrize("cached", [0, 3, 20])
@pytest.mark.parametrize("window", [None, 1, 4, 8, 100])
def test_visible_tokens(new, cached, window):
    expected = sum(min(cached + i, window or 10**9) for i in range(1, new + 1))
    assert visible_tokens(new, cached, window) == expected


def test_causal_half_of_the_square():
    # 32 heads of 128: 4 x 32 x 128 x 1024 x 1025 / 2 FLOP
    attention = GroupedQueryAttention(num_heads=32, num_kv_heads=8, head_dim=128)
    core = sequence_core(attention, 1024)
    assert core.flop == 4 * 32 * 128 * 1024 * 1025 / 2
    # queries and outputs 2 x 32 heads, keys and values 2 x 8 heads
    assert core.moved_elements == (64 + 16) * 128 * 1024


def test_one_token_is_a_decode_step_of_the_expanded_form():
    attention = LatentAttention(
        num_heads=128,
        q_lora_rank=1536,
        kv_lora_rank=512,
        qk_nope_head_dim=128,
        qk_rope_head_dim=64,
        v_head_dim=128,
    )
    core = sequence_core(attention, 1, 4095)
    assert core.flop == 2 * 128 * (192 + 128) * 4096
    # the latents of 4,095 cached tokens are expanded: 512 x 128 x 256 multiply-adds each
    assert core.expand_flop == 2 * 512 * 128 * 256 * 4095
