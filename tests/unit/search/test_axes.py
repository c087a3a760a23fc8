"""Axes of the decode space: shared contexts, overlap, drafts, microbatches."""

import pytest

from planner import DegreeLimits
from planner.catalog.machines import load_machine
from planner.catalog.model_config import load_model
from planner.compose import degrees_of, degrees_record, rank_records
from planner.cost.routing import moe_layer_indices, moe_shape, uniform_loads
from planner.cost.runs.gemm import sustained_chip
from planner.cost.step import Setting
from planner.domain.assignment import Assignment
from planner.domain.degrees import Degrees, OverlapMode
from planner.domain.workload import Objective, TimeModel
from planner.search.request import PlanRequest
from planner.search.space import strategy_space
from planner.search.strategies import (
    draft_lengths,
    microbatch_counts,
    overlap_modes,
    shares_contexts,
)
from planner.topology.build import build_topology


def request(name="mixtral-8x7b", context=8192, limits=DegreeLimits(), **changes):  # noqa: B008
    topology = build_topology(load_machine("h100-hgx"))
    model = load_model(name)
    shape = moe_shape(model)
    return PlanRequest(
        setting=Setting(
            model=model,
            chip=sustained_chip(topology.chip),
            context_tokens=context,
            time_model=changes.get("time_model", TimeModel.SUM),
            reserve_fraction=0.1,
            acceptance=changes.get("acceptance", 0.0),
        ),
        topology=topology,
        loads=uniform_loads(len(moe_layer_indices(model)), shape[0] if shape else 1),
        uniform=True,
        objective=Objective.THROUGHPUT,
        limits=limits,
    )


NONE, EP, TP, BOTH = OverlapMode


@pytest.mark.parametrize(
    ("allowed", "communicates", "modes"),
    [
        # Free: nothing, or everything that communicates.
        (None, BOTH, [NONE, BOTH]),
        (None, TP, [NONE, TP]),
        (None, EP, [NONE, EP]),
        (None, NONE, [NONE]),
        # Pinned: hiding ep alone is dominated where both may be hidden.
        ({EP, TP, BOTH}, BOTH, [BOTH]),
        ({EP}, BOTH, [EP]),
        ({EP, TP}, BOTH, [EP, TP]),
        # A mode that hides nothing here is like none.
        ({EP}, TP, [EP]),
        ({NONE}, BOTH, [NONE]),
    ],
)
def test_only_modes_that_hide_most_are_left(allowed, communicates, modes):
    limits = DegreeLimits(overlap=None if allowed is None else frozenset(map(int, allowed)))
    assert overlap_modes(request(limits=limits), communicates) == modes


def test_an_overlapped_time_model_hides_everything_already():
    assert overlap_modes(request(time_model=TimeModel.OVERLAP), BOTH) == [NONE]


def test_nothing_is_drafted_without_an_acceptance():
    assert draft_lengths(request()) == [0]
    assert draft_lengths(request(acceptance=0.8)) == [0, 1, 2, 3]
    pinned = DegreeLimits(draft=frozenset({2}))
    assert draft_lengths(request(acceptance=0.8, limits=pinned)) == [2]
    assert draft_lengths(request(limits=pinned)) == []


def test_long_contexts_are_shared_and_short_ones_are_not():
    # Mixtral, one sequence on one chip: 1,024 tokens are 4.2 MB a layer, under 2 us to read
    # and less than two collectives take; 131,072 are 537 MB, 0.2 ms.
    assert not shares_contexts(request(context=1024), 1)
    assert shares_contexts(request(context=131_072), 1)
    # Where collectives are hidden, sharing may always pay.
    assert shares_contexts(request(context=1024, time_model=TimeModel.OVERLAP), 1)
    short = strategy_space(request(context=1024)).every()
    long = strategy_space(request(context=131_072)).every()
    assert set(short.cp.tolist()) == {1}
    assert set(long.cp.tolist()) == set(range(1, 9))
    assert {NONE, BOTH} <= set(long.overlap[long.cp > 1].tolist())


def test_a_stage_is_full_on_every_axis():
    found = strategy_space(request(context=131_072)).every()
    stage = found.attn_tp * found.cp * found.attn_dp
    assert (stage == found.ep * found.expert_tp).all()
    assert (stage * found.pp * found.replicas <= 8).all()


@pytest.mark.parametrize(
    ("pp", "counts"),
    [
        (1, {1}),
        (3, {1, 2, 3, 4, 6}),
        # 61 layers in 16 stages: 4 in the longest, so from 61 // 4 = 15 on, in twos.
        (16, {1, 2, 4, 8, 15, 16, 17, 32}),
        # 40 stages: 2 in the longest, from 30 on in fives.
        (40, {1, 2, 4, 8, 16, 30, 35, 40, 41, 80}),
    ],
)
def test_microbatches_of_long_pipelines_lie_near_the_balance(pp, counts):
    assert microbatch_counts(61, pp) == counts


def test_a_given_batch_tries_every_number_of_microbatches():
    assert microbatch_counts(61, 16, every=True) == {*range(1, 18), 32}


def test_ranks_of_a_shared_context_stand_between_tensor_and_data_ranks():
    degrees = Degrees(
        attn_tp=2,
        cp=2,
        attn_dp=2,
        pp=1,
        ep=4,
        expert_tp=2,
        num_slots=8,
        microbatches=1,
        replicas=1,
        overlap=OverlapMode.EP_TP,
        draft=1,
    )
    assert degrees.stage_chips == 8
    topology = build_topology(load_machine("h100-hgx"))
    assignment = Assignment(
        degrees=degrees,
        stage_ends=(32,),
        cells=((tuple(range(8)),),),
        slot_maps=(),
        sequences=(((1, 1),),),
    )
    ranks = rank_records(assignment, topology)
    places = [(rank.attn_dp_rank, rank.cp_rank, rank.attn_tp_rank) for rank in ranks]
    assert places == [(d, c, t) for d in range(2) for c in range(2) for t in range(2)]
    record = degrees_record(degrees)
    assert record.overlap == "ep,tp"
    assert degrees_of(record) == degrees
