"""Published decode deployments, evaluated as given, without any search over degrees."""

import pytest

from planner import DegreeLimits, Question, evaluate
from planner.domain.degrees import OverlapMode


def one(value):
    return frozenset({value})


@pytest.mark.parametrize(
    ("machine", "nodes", "chips", "per_chip", "context", "measured_s"),
    [
        # DeepSeek-V3/R1 inference system overview: EP144 decode, 18 nodes, 14.8k tokens/s/node
        # at 88 sequences per chip and 4,989 context: 48 ms. Bar: 25 %.
        ("h800-hgx", 18, 144, 88, 4989, 48e-3),
        # SGLang on 96 H100 (LMSYS 2025-05-05): EP72, 256 sequences per chip, 22,282 tok/s/node.
        ("h100-hgx", 9, 72, 256, 2050, 91.9e-3),
    ],
)
def test_deepseek_expert_parallel_decode(machine, nodes, chips, per_chip, context, measured_s):
    layout = evaluate(
        Question(
            model="deepseek-v3",
            machine=machine,
            nodes=nodes,
            context_tokens=context,
            batch=per_chip * chips,
            limits=DegreeLimits(
                tp=one(1),
                dp=one(chips),
                ep=one(chips),
                pp=one(1),
                slots=one(288),
                overlap=one(OverlapMode.NONE),
            ),
        )
    )
    assert layout.prediction.step_s == pytest.approx(measured_s, rel=0.25)
    assert layout.degrees.ep == chips
    # 17 of about 22 GB per chip are replicated attention, shared experts and tables.
    assert 20e9 < layout.prediction.memory.weights_bytes < 30e9
