"""Expert maps by the running example of three layers: layer 0 dense, 4 experts, 6 slots."""

import json

import pytest
import yaml

from planner.domain.deployment import ExpertFormat
from planner.errors import SpecError
from planner.export.expert_maps import CanonicalMap
from planner.export.experts_export import export_experts

ROWS = {1: ((0, 1, 2), (3, 0, 2)), 2: ((1, 0, 3), (2, 0, 1))}
MAP = CanonicalMap(rows=ROWS, num_experts=4, num_layers=3)


def content(target, found=MAP):
    return export_experts(found, target).files[0][1]


def test_sglang_has_a_row_for_every_hidden_layer():
    found = json.loads(content(ExpertFormat.SGLANG))
    # It is passed as keyword arguments: the map must be the only key. p % E in the dense layer.
    assert found == {
        "physical_to_logical_map": [[0, 1, 2, 3, 0, 1], [0, 1, 2, 3, 0, 2], [1, 0, 3, 2, 0, 1]]
    }


def test_trtllm_numbers_moe_layers_as_the_model_does():
    assert yaml.safe_load(content(ExpertFormat.TRTLLM)) == {
        "num_slots": 6,
        "initial_global_assignments": {1: [0, 1, 2, 3, 0, 2], 2: [1, 0, 3, 2, 0, 1]},
        "layer_updates_per_iter": 0,
    }


def test_ascend_lists_layers_by_position():
    found = json.loads(content(ExpertFormat.ASCEND))
    assert found["moe_layer_count"] == 2
    assert [layer["layer_id"] for layer in found["layer_list"]] == [0, 1]
    assert found["layer_list"][1] == {
        "layer_id": 1,
        "device_count": 2,
        "device_list": [
            {"device_id": 0, "device_expert": [1, 0, 3]},
            {"device_id": 1, "device_expert": [2, 0, 1]},
        ],
    }


def test_vllm_says_that_it_takes_no_map():
    found = export_experts(MAP, ExpertFormat.VLLM)
    assert yaml.safe_load(found.files[0][1])["eplb-config"] == {"num_redundant_experts": 2}
    assert not found.as_planned and "no released vLLM" in found.notes[0]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({1: ((0, 1, 2), (3, 0))}, "2 to 3 slots"),
        ({1: ((0, 1, 2), (0, 1, 2))}, "no copy of expert 3"),
        ({1: ((0, 0, 1), (3, 0, 2))}, "twice on one rank"),
        ({}, "no experts"),
    ],
)
def test_maps_that_engines_refuse(rows, message):
    broken = CanonicalMap(rows=rows, num_experts=4, num_layers=3)
    for target in ExpertFormat:
        with pytest.raises(SpecError, match=message):
            export_experts(broken, target)


def test_sglang_needs_the_model():
    with pytest.raises(SpecError, match="all hidden layers"):
        content(ExpertFormat.SGLANG, CanonicalMap(rows=ROWS, num_experts=4))


def test_an_unchecked_version_is_said():
    found = export_experts(MAP, ExpertFormat.TRTLLM, "1.9")
    assert found.notes == ("version 1.9 was not checked; flags are those of 1.3",)
    with pytest.raises(SpecError, match="--engine-version"):
        export_experts(MAP, ExpertFormat.TRTLLM, "new")
