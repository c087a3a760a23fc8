"""A small layout, complete and written by hand: two stages of two chips, four experts."""

from msgspec import structs

from planner.domain.cost import Bound, Memory, Prediction, Term
from planner.domain.layout import (
    SCHEMA_VERSION,
    BatchSplit,
    Certificate,
    DegreesRecord,
    ExpertMap,
    Inputs,
    Layout,
    MachineInput,
    ModelInput,
    Rank,
    RunnerUp,
    Stage,
)

DEGREES = DegreesRecord(
    attn_tp=1, attn_dp=2, pp=2, ep=2, expert_tp=1, num_slots=6, microbatches=2, replicas=1
)


def rank(index):
    stage, place = divmod(index, 2)
    return Rank(
        rank=index,
        chip=f"node0/chip{index}",
        replica=0,
        stage=stage,
        attn_dp_rank=place,
        attn_tp_rank=0,
        ep_rank=place,
        expert_tp_rank=0,
    )


def prediction():
    # Terms add up to the 20 ms of the step; 22 sequences / 20 ms = 1,100 tokens/s.
    return Prediction(
        step_s=0.020,
        batch=22,
        tokens_per_s=1100.0,
        tokens_per_s_per_user=50.0,
        tokens_per_s_per_chip=220.0,
        usd_per_million_tokens=2.5,
        chips_rented=5,
        terms=(
            Term(name="dispatch", seconds=0.005, bound=Bound.NETWORK, network_s=0.005),
            Term(name="attention_core", seconds=0.015, bound=Bound.MEMORY, memory_s=0.015),
            Term(name="norms", seconds=0.0, bound=Bound.OVERHEAD),
        ),
        stage_s=(0.009, 0.011),
        memory=Memory(
            weights_bytes=40e9,
            kv_bytes=20e9,
            activations_bytes=2e9,
            reserve_bytes=8e9,
            capacity_bytes=80e9,
            stage=1,
        ),
        bubble=0.1,
        critical_batch=64.0,
        largest_batch=30,
        expert_imbalance=1.25,
    )


def certificate(**changes):
    found = Certificate(
        objective=0.0045,
        bound=0.00449,
        gap=1 / 450,
        unit="chip-seconds per token",
        enumerated=1000,
        infeasible_memory=100,
        infeasible_tpot=30,
        infeasible_placement=0,
        pruned=865,
        solved=5,
        dominated=0,
        stopped="gap",
        space={"tp": "1", "ep": "1, 2"},
    )
    return structs.replace(found, **changes)


def small_layout(**changes):
    """The layout, with some of its fields replaced."""
    config = {"model_type": "toy", "hidden_size": 64, "name": "[toy] [1,\n 2]"}
    layout = Layout(
        schema_version=SCHEMA_VERSION,
        planner_version="0.0.0",
        inputs=Inputs(
            model=ModelInput(name="toy", config=config),
            machine=MachineInput(name="box", facts={"chip": {"hbm_gb": 80.0}}, nodes=1),
            phase="decode",
            context_tokens=8192,
            objective="throughput",
            time_model="sum",
            tpot_s=0.025,
        ),
        degrees=DEGREES,
        stages=(
            Stage(first_layer=0, end_layer=3, has_embedding=True, has_head=False),
            Stage(first_layer=3, end_layer=5, has_embedding=False, has_head=True),
        ),
        ranks=tuple(rank(index) for index in range(4)),
        idle_chips=("node0/chip4",),
        experts=(ExpertMap(layers=(1, 2, 3, 4), slots=((0, 1, 2), (0, 2, 3))),),
        batches=(BatchSplit(replica=0, sequences=((6, 5), (6, 5))),),
        prediction=prediction(),
        certificate=certificate(),
        runners_up=(
            RunnerUp(
                degrees=structs.replace(DEGREES, pp=1, microbatches=1),
                batch=12,
                step_s=0.016,
                tokens_per_s_per_chip=110.0,
                bound_only=False,
            ),
        ),
        why="Attention reads the cache.",
    )
    return structs.replace(layout, **changes)
