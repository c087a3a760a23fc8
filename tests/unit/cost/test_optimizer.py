"""State, traffic and work of optimizers, by hand."""

from dataclasses import replace

import pytest

from planner.catalog.model_config import load_model
from planner.cost.runs.optimizer import layer_update_flop, state_bytes, traffic_bytes
from planner.cost.runs.training_shards import LocalParams
from planner.domain.dtypes import DType
from planner.domain.model import DenseFfn, GroupedQueryAttention, Layer
from planner.domain.run import Mesh, Optimizer, Run, RunKind

RUN = Run(kind=RunKind.TRAIN, mesh=Mesh(attn_dp=8), global_batch=8, seq_len=1024)
# A million parameters, a tenth of them tables; eight ranks hold the same.
PARAMS = LocalParams(dense=1e6, tables=1e5)


@pytest.mark.parametrize(
    ("state", "optimizer", "expected"),
    [
        (DType.FP32, Optimizer.ADAM, 12e6),
        (DType.BF16, Optimizer.ADAM, 8e6),
        (DType.FP8, Optimizer.ADAM, 6e6),
        # 0.9e6 x (4 + 4) and 0.1e6 x (4 + 8)
        (DType.FP32, Optimizer.MUON, 8.4e6),
    ],
)
def test_state(state, optimizer, expected):
    run = replace(RUN, optimizer=optimizer, optimizer_state=state)
    assert state_bytes(run, PARAMS, sharded=False) == pytest.approx(expected)
    assert state_bytes(run, PARAMS, sharded=True) == pytest.approx(expected / 8)


def test_traffic_of_adam():
    # 16-bit gradient and weight, three 32-bit values in and out: 2 + 2 + 24
    assert traffic_bytes(RUN, PARAMS, sharded=False) == pytest.approx(28e6)
    wide = replace(RUN, gradients=DType.FP32)
    assert traffic_bytes(wide, PARAMS, sharded=False) == pytest.approx(30e6)


def test_iterations_of_a_layer():
    model = load_model("llama-3.1-8b")
    attention = GroupedQueryAttention(num_heads=32, num_kv_heads=8, head_dim=128)
    layer = Layer(attention=attention, ffn=DenseFfn(width=14336, gated=True))
    # q and o 4096^2, k and v 2048 x 4096, gate and up 4096 x 28672, down 4096 x 14336:
    # five times 4 m^2 n + 2 m^3
    sides = [(4096, 4096), (2048, 4096), (4096, 4096), (4096, 28672), (4096, 14336)]
    expected = sum(5 * (4 * m * m * n + 2 * m**3) for m, n in sides)
    found = layer_update_flop(model, layer, Mesh())
    assert found == pytest.approx(expected)
    assert layer_update_flop(model, layer, Mesh(attn_tp=4)) == pytest.approx(expected / 4)
