"""Bytes from chip to chip, worked out by hand for a dense and an MoE model on one node."""

from dataclasses import replace

import pytest

from planner.catalog.machine_size import resize
from planner.catalog.machines import load_machine
from planner.catalog.model_config import load_model
from planner.cost.attention import kv_bytes_per_sequence
from planner.cost.block import expert_bytes
from planner.cost.holdings import GONE, common, span
from planner.cost.migration import STORAGE, Transition, migrate
from planner.cost.migration_time import migration_time
from planner.cost.step import Setting
from planner.cost.weights import layer_weights, weight_bytes
from planner.domain.assignment import Assignment, SlotMap
from planner.domain.degrees import Degrees
from planner.domain.model import Shard
from planner.domain.workload import TimeModel
from planner.topology.build import build_topology


def setting(name, context=4096):
    topology = build_topology(resize(load_machine("h100-hgx"), nodes=1))
    made = Setting(
        model=load_model(name),
        chip=topology.chip,
        context_tokens=context,
        time_model=TimeModel.SUM,
        reserve_fraction=0.0,
    )
    return made, topology


def dense(layers, tp, cells, sequences):
    """Replicas of one stage of ``tp`` chips each."""
    degrees = Degrees(
        attn_tp=tp, attn_dp=1, pp=1, ep=1, expert_tp=1, num_slots=0, microbatches=1,
        replicas=len(cells),
    )  # fmt: skip
    return Assignment(
        degrees=degrees,
        stage_ends=(layers,),
        cells=tuple((cell,) for cell in cells),
        slot_maps=(),
        sequences=tuple(((count,),) for count in sequences),
    )


def moved(name, old, new, **options):
    made, topology = setting(name)
    step = Transition(topology=topology, before=made, after=made, old=old, new=new, **options)
    return migrate(step), step


def test_parts_are_consecutive_and_shared_beyond_the_ways():
    # 8 heads over 4 ranks: 2 each; over 16: ranks 2k and 2k + 1 hold head k; 6 over 4: 2 each.
    assert [span(8, 4, r) for r in range(4)] == [(0, 2), (2, 4), (4, 6), (6, 8)]
    assert [span(8, 16, r) for r in (0, 1, 15)] == [(0, 1), (0, 1), (7, 8)]
    assert [span(6, 4, r) for r in range(4)] == [(0, 2), (1, 3), (3, 5), (4, 6)]
    assert common((0, 4), (3, 9)) == 1 and common((0, 2), (2, 4)) == 0


def test_the_same_layout_moves_nothing():
    model = load_model("llama-3.1-8b")
    own = dense(len(model.layers), 2, [(0, 1), (2, 3)], [3, 4])
    found, step = moved("llama-3.1-8b", own, own)
    assert found.flows == {} and found.moved_bytes == 0
    assert (found.caches.kept, found.caches.moved, found.caches.lost) == (7, 0, 0)
    assert migration_time(step, found).seconds == 0


def test_half_of_a_rank_comes_from_the_other_half():
    """TP2 on chips 0, 1 becomes TP1 on chip 0: it lacks the upper half of what TP2 splits."""
    model = load_model("llama-3.1-8b")
    layers = len(model.layers)
    old, new = dense(layers, 2, [(0, 1)], [5]), dense(layers, 1, [(0,)], [5])
    found, _ = moved("llama-3.1-8b", old, new)
    split = sum(
        weight_bytes(w, model.precision)
        for w in layer_weights(model, model.layers[0])
        if w.shard is not Shard.REPLICATED
    )
    assert found.flows["layers", 1, 0] == pytest.approx(layers * split / 2)
    # Tables: embedding and head of 128,256 x 4,096 in bf16, half of each.
    assert found.flows["tables", 1, 0] == pytest.approx(2 * 128256 * 4096 * 2 / 2)
    # 8 KV heads: chip 1 holds four of them, of five sequences; a block of 16 tokens is half empty.
    one = kv_bytes_per_sequence(model.layers[0].attention, 4096 + 8, model.precision.kv)
    assert found.flows["caches", 1, 0] == pytest.approx(5 * layers * one / 2)
    assert set(found.flows) == {(kind, 1, 0) for kind in ("layers", "tables", "caches")}


def test_a_dead_replica_loses_its_sequences_and_a_new_chip_copies_a_living_one():
    model = load_model("llama-3.1-8b")
    layers = len(model.layers)
    old = dense(layers, 1, [(GONE,), (1,)], [3, 4])
    new = dense(layers, 1, [(5,), (1,)], [3, 3])
    found, _ = moved("llama-3.1-8b", old, new)
    assert {(s, t) for _, s, t in found.flows} == {(1, 5)}
    # Three stay on chip 1, the fourth moves to chip 5, the three of the dead chip are lost.
    caches = found.caches
    assert (caches.kept, caches.moved, caches.lost, caches.unplaced) == (3, 1, 3, 0)
    dropped, _ = moved("llama-3.1-8b", old, new, drop_caches=True)
    assert {kind for kind, _, _ in dropped.flows} == {"layers", "tables"}
    assert dropped.caches.lost == 4


def test_without_a_living_holder_weights_come_from_storage():
    model = load_model("llama-3.1-8b")
    layers = len(model.layers)
    old, new = dense(layers, 1, [(GONE,)], [3]), dense(layers, 1, [(2,)], [3])
    found, step = moved("llama-3.1-8b", old, new)
    assert {source for _, source, _ in found.flows} == {STORAGE}
    assert found.storage_bytes == found.moved_bytes > 0
    time = migration_time(step, found)
    # One chip reads it all through its NIC of 400 Gb/s.
    assert time.storage_s == pytest.approx(found.moved_bytes / 50e9)
    # 3 sequences of 4,096 tokens are prefilled again on one chip.
    assert time.refill_s > 0 and time.network_s == 0


def experts(model, slots, cells=((0, 1),)):
    degrees = Degrees(
        attn_tp=1, attn_dp=2, pp=1, ep=2, expert_tp=1, num_slots=sum(map(len, slots)),
        microbatches=1, replicas=1,
    )  # fmt: skip
    layers = tuple(i for i, layer in enumerate(model.layers) if hasattr(layer.ffn, "num_experts"))
    return Assignment(
        degrees=degrees,
        stage_ends=(len(model.layers),),
        cells=(cells,),
        slot_maps=(SlotMap(layers=layers, slots=slots),),
        sequences=(((2, 2),),),
    )


def test_a_swap_of_two_experts_moves_one_copy_each_way():
    model = load_model("mixtral-8x7b")
    old = experts(model, ((0, 1, 2, 3), (4, 5, 6, 7)))
    new = experts(model, ((0, 1, 2, 4), (3, 5, 6, 7)))
    found, _ = moved("mixtral-8x7b", old, new)
    one = len(model.layers) * expert_bytes(model, model.layers[0])
    assert found.flows == {
        ("experts", 0, 1): pytest.approx(one),
        ("experts", 1, 0): pytest.approx(one),
    }
    assert found.lost_copies == ()


def test_lost_experts_are_named():
    model = load_model("mixtral-8x7b")
    old = experts(model, ((0, 1, 2, 3), (4, 5, 6, 7)), cells=((0, GONE),))
    new = experts(model, ((0, 1, 2, 3), (4, 5, 6, 7)), cells=((0, 2),))
    found, _ = moved("mixtral-8x7b", old, new)
    assert {expert for _, expert in found.lost_copies} == {4, 5, 6, 7}
    assert found.flows["experts", STORAGE, 2] == pytest.approx(
        4 * len(model.layers) * expert_bytes(model, model.layers[0])
    )


def test_bytes_over_links_are_those_of_the_routes():
    """One GB from chip 0 to chip 1 of a node passes two NVLink hops: to a switch and from it."""
    model = load_model("mixtral-8x7b")
    old = experts(model, ((0, 1, 2, 3), (4, 5, 6, 7)))
    new = replace(experts(model, ((0, 1, 2, 4), (3, 5, 6, 7))))
    found, step = moved("mixtral-8x7b", old, new)
    time = migration_time(step, found)
    assert dict(time.tiers) == {"nvlink": pytest.approx(2 * found.moved_bytes)}
    assert time.seconds == time.network_s > found.moved_bytes / 2 / 450e9
