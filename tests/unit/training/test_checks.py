"""Every constraint of a training layout, violated one at a time and named."""

import pytest
from msgspec import structs

from planner.domain.hardware import Sizing, Wounds
from planner.domain.run import Recompute, ScheduleKind
from planner.domain.train_layout import TrainLayout
from planner.domain.training import TrainLimits, TrainQuestion
from planner.errors import SpecError
from planner.export.train_file import is_train_layout, read_train_layout, train_layout_json
from planner.train_api import evaluate_training, plan_training, verify_training
from planner.training import checks


def planned(**changes):
    values = {
        "model": "mixtral-8x7b",
        "machine": "h100-hgx",
        "sizing": Sizing(nodes=4),
        "global_batch": 64,
        "seq_len": 4096,
        "limits": TrainLimits(
            tp=frozenset({2}),
            pp=frozenset({4}),
            ep=frozenset({4}),
            schedules=frozenset({ScheduleKind.ONE_F_ONE_B}),
        ),
    }
    found = plan_training(TrainQuestion(**(values | changes)))
    assert isinstance(found, TrainLayout)
    return found


@pytest.fixture(scope="module")
def layout():
    return planned()


def degrees(layout, **changes):
    return structs.replace(layout, degrees=structs.replace(layout.degrees, **changes))


def chunk(layout, index, **changes):
    chunks = list(layout.chunks)
    chunks[index] = structs.replace(chunks[index], **changes)
    return structs.replace(layout, chunks=tuple(chunks))


def swapped(chips, a, b):
    found = list(chips)
    found[a], found[b] = found[b], found[a]
    return tuple(found)


def test_the_answer_is_valid(layout):
    assert verify_training(layout) == ()
    d = layout.degrees
    assert (d.tp, d.cp, d.dp, d.pp, d.ep) == (2, 1, 4, 4, 4)
    assert d.microbatch * d.microbatches * d.dp == 64


BROKEN = {
    "a degree of nothing": (lambda x: degrees(x, tp=0), "degrees.tp is 0"),
    "a ZeRO stage of four": (lambda x: degrees(x, zero_stage=4), "degrees.zero_stage is 4"),
    "a batch that is not split": (
        lambda x: degrees(x, microbatches=x.degrees.microbatches + 1),
        "is not the batch of 64",
    ),
    "more expert groups than a stage holds": (
        lambda x: degrees(x, ep=8, expert_tp=2),
        "does not divide tp x cp x dp",
    ),
    "experts that do not divide": (lambda x: degrees(x, ep=16), "does not divide 8 experts"),
    "experts split too finely": (
        lambda x: degrees(x, ep=1, expert_tp=3),
        "does not divide experts 14336 wide",
    ),
    "no schedule for a pipeline": (
        lambda x: degrees(x, schedule=ScheduleKind.NONE),
        "schedule none with pp 4",
    ),
    "interleaved without chunks": (
        lambda x: degrees(x, schedule=ScheduleKind.INTERLEAVED),
        "interleaved needs at least two chunks",
    ),
    "chunks of another schedule": (
        lambda x: degrees(x, schedule=ScheduleKind.ZB_V),
        "4 chunks listed, the pipeline has 8",
    ),
    "a layer that is left out": (
        lambda x: chunk(x, 3, end_layer=x.chunks[3].end_layer - 1),
        "chunks hold 31 layers of 32",
    ),
    "a layer in two chunks": (
        lambda x: chunk(
            chunk(x, 0, end_layer=x.chunks[0].end_layer + 1),
            3,
            end_layer=x.chunks[3].end_layer - 1,
        ),
        "chunks do not follow one another",
    ),
    "a chunk on another rank": (lambda x: chunk(x, 1, pp_rank=2), "lie on other ranks"),
    "a head in the middle": (lambda x: chunk(x, 1, has_head=True), "chunks do not follow"),
    "an order of ranks that is not the model's": (
        lambda x: structs.replace(x, rank_order=("dp", "tp", "cp", "pp")),
        "rank_order is",
    ),
    "a rank without a chip": (
        lambda x: structs.replace(x, chips=x.chips[:-1], idle_chips=x.chips[-1:]),
        "31 chips listed, the degrees use 32",
    ),
    "a chip that is not there": (
        lambda x: structs.replace(x, chips=("n9/c9", *x.chips[1:])),
        "there is no chip 'n9/c9'",
    ),
    "a chip with two ranks": (
        lambda x: structs.replace(x, chips=(x.chips[1], *x.chips[1:])),
        "has more than one rank",
    ),
    "an idle chip that works": (
        lambda x: structs.replace(x, idle_chips=x.chips[:1]),
        "idle_chips does not list",
    ),
    "a tensor-parallel group over two nodes": (
        lambda x: structs.replace(x, chips=swapped(x.chips, 1, 9)),
        "the tp group of rank 0 is not spread over the machine like the one that is priced",
    ),
    "an expert group over two nodes": (
        # Whole tensor-parallel pairs change places: ranks 2, 3 of node 0 with 8, 9 of node 1.
        lambda x: structs.replace(x, chips=swapped(swapped(x.chips, 2, 8), 3, 9)),
        "the ep group of rank 0 is not spread",
    ),
    "more chips of a node than the part has": (
        lambda x: structs.replace(x, domain_chips=4),
        "domain_chips is 4",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_layout_is_named(layout, name):
    change, words = BROKEN[name]
    found = verify_training(change(layout))
    assert any(words in text for text in found), found
    with pytest.raises(SpecError, match="cannot be priced"):
        evaluate_training(change(layout))


# Of each constraint a broken layout that nothing else names.
ONLY_BY = {
    "degrees_are_positive": "a ZeRO stage of four",
    "batch_is_split": "a batch that is not split",
    "experts_are_spread": "experts split too finely",
    "schedule_exists": "no schedule for a pipeline",
    "layers_are_covered": "a layer in two chunks",
    "chips_are_distinct": "an idle chip that works",
    "groups_lie_alike": "an expert group over two nodes",
}


@pytest.mark.parametrize("constraint", ONLY_BY)
def test_no_constraint_can_be_dropped(layout, constraint, monkeypatch):
    change, words = BROKEN[ONLY_BY[constraint]]
    monkeypatch.setattr(checks, constraint, lambda *given: [])
    try:
        found = verify_training(change(layout))
    except Exception:
        # What the constraint keeps out cannot be priced at all.
        return
    assert not any(words in text for text in found)


def test_experts_of_a_dense_model():
    dense = planned(model="llama-3.1-8b", limits=TrainLimits(pp=frozenset({1})))
    found = verify_training(degrees(dense, ep=2))
    assert any("a model without experts has ep 1" in text for text in found)


def test_too_much_memory_is_named(layout):
    # Nothing recomputed, nothing sharded and the largest microbatch: priced, but it does not fit.
    d = layout.degrees
    wide = degrees(
        layout,
        recompute=Recompute.NONE,
        zero_stage=0,
        microbatch=d.microbatch * d.microbatches,
        microbatches=1,
    )
    found = verify_training(wide)
    assert any("the fullest chip needs" in text for text in found), found


def test_stated_predictions_are_recomputed(layout):
    stated = structs.replace(layout.prediction, step_s=layout.prediction.step_s / 2)
    found = verify_training(structs.replace(layout, prediction=stated))
    assert any("step_s" in text for text in found)


def test_stated_proofs_must_follow(layout):
    proof = structs.replace(layout.certificate, gap=0.25)
    assert any("gap" in x for x in verify_training(structs.replace(layout, certificate=proof)))
    proof = structs.replace(layout.certificate, pruned=layout.certificate.pruned + 1)
    found = verify_training(structs.replace(layout, certificate=proof))
    assert any("enumerated" in text for text in found)


def test_a_file_comes_back_as_it_was(layout, tmp_path):
    path = tmp_path / "training.json"
    path.write_bytes(train_layout_json(layout))
    assert is_train_layout(str(path))
    again = read_train_layout(str(path))
    assert again == layout
    assert evaluate_training(again) == layout
    assert verify_training(again) == ()


def test_two_runs_write_the_same_bytes(layout):
    assert train_layout_json(planned()) == train_layout_json(layout)


def test_an_edited_layout_is_priced_anew(layout):
    moved = chunk(
        chunk(layout, 0, end_layer=layout.chunks[0].end_layer - 1),
        1,
        first_layer=layout.chunks[1].first_layer - 1,
    )
    fresh = evaluate_training(moved)
    assert fresh.certificate is None
    assert fresh.prediction.step_s > layout.prediction.step_s


def test_excluded_chips_and_spares_may_not_train():
    # Two of three nodes are left: one holds the excluded chip, one is in reserve.
    found = planned(
        exclude=("chip:n3/c0",), reserve=1, limits=TrainLimits(), sizing=Sizing(nodes=4)
    )
    assert not any(name.startswith(("n2", "n3")) for name in found.chips)
    for node in ("n2", "n3"):
        taken = tuple(f"{node}/c{i}" for i in range(8))
        chips = (*found.chips[:-8], *taken)
        used = set(chips)
        every = [f"n{n}/c{i}" for n in range(4) for i in range(8)]
        moved = structs.replace(
            found, chips=chips, idle_chips=tuple(name for name in every if name not in used)
        )
        assert any(f"chip {node}/c0 may not train" in text for text in verify_training(moved))


def test_racks_serve_with_as_many_chips_each():
    # Groups of 64 experts do not divide 72 chips: each lies inside the first 64 of a rack.
    found = planned(
        model="deepseek-v3",
        machine="gb200-nvl72",
        sizing=Sizing(racks=4, wounds=Wounds(without=("chip:r1/t3/c2",))),
        global_batch=512,
        limits=TrainLimits(ep=frozenset({64})),
    )
    assert found.domain_chips == 64
    racks = [name.split("/")[0] for name in found.chips]
    for start in range(0, len(racks), 64):
        assert len(set(racks[start : start + 64])) == 1
    assert "r1/t3/c2" not in found.chips
    assert verify_training(found) == ()
    # The rack is paid for as a whole.
    assert found.prediction.chips_rented == 72 * len(found.chips) // 64


def test_one_node_with_a_dead_chip_trains_on_the_others():
    found = planned(
        model="llama-3.1-8b",
        sizing=Sizing(nodes=1, wounds=Wounds(without=("chip:n0/c5",))),
        limits=TrainLimits(),
    )
    assert (found.domain_chips, len(found.chips)) == (4, 4)
    assert found.prediction.chips_rented == 8
    assert verify_training(found) == ()


@pytest.mark.parametrize("name", ["nic:n1/c3", "switch:n1/sw0"])
def test_nodes_that_are_not_as_built_are_left_out(name):
    found = planned(limits=TrainLimits(), sizing=Sizing(nodes=3, wounds=Wounds(without=(name,))))
    assert {chip.split("/")[0] for chip in found.chips} == {"n0", "n2"}


def test_whole_nodes_are_left_out():
    # Four nodes: one holds the excluded chip, one chip of reserve keeps another one free.
    found = planned(
        limits=TrainLimits(), exclude=("chip:n1/c3",), reserve=1, sizing=Sizing(nodes=4)
    )
    nodes = {name.split("/")[0] for name in found.chips}
    assert nodes <= {"n0", "n2"}
    assert {f"n1/c{i}" for i in range(8)} | {f"n3/c{i}" for i in range(8)} <= set(found.idle_chips)
    assert verify_training(found) == ()


def test_no_node_left_is_an_error():
    with pytest.raises(SpecError, match="none is left of 4"):
        planned(reserve=25)
