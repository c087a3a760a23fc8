"""Every shipped configuration reproduces its independently computed and published counts."""

import csv
import json
from pathlib import Path

import pytest

from planner.catalog.model_config import CATALOGUE, load_model, model_names
from planner.cost.weights import (
    active_params,
    layer_weights,
    mtp_params,
    table_weights,
    total_params,
    weight_bytes,
)
from planner.domain.model import WeightRole

TABLE = Path(__file__).parent / "model_totals.csv"
COLLECTION = Path(__file__).resolve().parents[3] / "shared" / "models"


def read_table():
    lines = TABLE.read_text(encoding="utf-8").splitlines()
    return list(csv.DictReader(line for line in lines if not line.startswith("#")))


ROWS = read_table()
IDS = [row["model"] for row in ROWS]


def test_every_shipped_model_has_a_row():
    assert sorted(IDS) == list(model_names())


@pytest.mark.parametrize("row", ROWS, ids=IDS)
def test_total_equals_the_independent_count_to_its_last_digit(row):
    assert f"{total_params(load_model(row['model'])) / 1e9:.3f}" == row["total"]


@pytest.mark.parametrize("row", ROWS, ids=IDS)
def test_active_equals_the_independent_count_to_its_last_digit(row):
    active = active_params(load_model(row["model"]))
    assert f"{active.with_tables / 1e9:.2f}" == row["active_all"]
    assert f"{active.core / 1e9:.2f}" == row["active_core"]


@pytest.mark.parametrize("row", ROWS, ids=IDS)
def test_total_is_within_half_a_percent_of_the_published_one_or_explained(row):
    model = load_model(row["model"])
    if model.published_total_params is None:
        pytest.skip("no published total")
    error = abs(total_params(model) / model.published_total_params - 1)
    explained = bool(row["published_differs_because"])
    # An explanation that is no longer needed must go, so the condition is an equivalence.
    assert (error > 0.005) == explained, f"{error:.2%} off"


@pytest.mark.parametrize("name", IDS)
def test_no_shipped_field_is_unknown_to_the_reader(name):
    assert load_model(name).ignored_fields == ()


@pytest.mark.parametrize("name", IDS)
def test_every_shipped_model_names_its_source(name):
    assert load_model(name).source


# Publishers' checkpoint sizes count the prediction layer with its own copy of both tables:
# DeepSeek-V3 685B ("671B main + 14B MTP", README), GLM-4.5 358B (Hugging Face).
@pytest.mark.parametrize(("name", "published"), [("deepseek-v3", 685e9), ("glm-4.5", 358e9)])
def test_checkpoint_with_prediction_layer_has_the_published_size(name, published):
    model = load_model(name)
    tables = 2 * model.vocab_size * model.hidden_size
    stored = total_params(model) + mtp_params(model) + tables
    assert stored == pytest.approx(published, rel=0.001)


def test_gpt_oss_checkpoint_takes_the_published_bytes():
    # Model card: 60.8 GiB (experts in MXFP4 of 4.25 bits, the rest in bf16).
    model = load_model("gpt-oss-120b")
    stored = sum(weight_bytes(weight, model.precision) for weight in table_weights(model))
    for layer in model.layers:
        for weight in layer_weights(model, layer):
            copies = layer.ffn.num_experts if weight.role is WeightRole.ROUTED_EXPERT else 1
            stored += copies * weight_bytes(weight, model.precision)
    assert stored / 2**30 == pytest.approx(60.8, rel=0.002)


@pytest.mark.skipif(not COLLECTION.is_dir(), reason="the model collection is not beside us")
@pytest.mark.parametrize("name", IDS)
def test_shipped_facts_are_those_of_the_collection(name):
    def every_field_unchanged(shipped, original):
        for key, value in shipped.items():
            if isinstance(value, dict):
                every_field_unchanged(value, original[key])
            else:
                assert original[key] == value

    shipped = json.loads((CATALOGUE / f"{name}.json").read_text(encoding="utf-8"))
    original = json.loads((COLLECTION / f"{name}.json").read_text(encoding="utf-8"))
    every_field_unchanged(shipped, original)
