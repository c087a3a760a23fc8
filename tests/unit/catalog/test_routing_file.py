"""Loads for plans, from tables and from what engines record: equal numbers, equal shares."""

import json

import numpy as np
import pytest

from planner.catalog.routing_file import load_routing
from planner.errors import CatalogError

TABLE = [[3.0, 1.0, 2.0, 2.0], [1.0, 1.0, 1.0, 1.0]]
SHARES = ((0.375, 0.125, 0.25, 0.25), (0.25, 0.25, 0.25, 0.25))


def shares(path):
    return load_routing(str(path), (4, 2), 2)


def test_plain_tables(tmp_path):
    (tmp_path / "t.json").write_text(json.dumps(TABLE))
    (tmp_path / "t.csv").write_text("3,1,2,2\n1,1,1,1\n")
    assert shares(tmp_path / "t.json") == shares(tmp_path / "t.csv") == SHARES


def test_recorded_counts_sum_steps_and_drop_dense_layers(tmp_path):
    # Two steps that add up to the table, behind a dense layer that routes nothing.
    half = np.array(TABLE) / 2
    steps = np.stack([np.vstack([np.zeros(4), half])] * 2)
    (tmp_path / "s.json").write_text(json.dumps({"logical_count": steps.tolist()}))
    np.savez(tmp_path / "s.npz", logical_count=steps)
    np.save(tmp_path / "s.npy", np.array(TABLE))
    (tmp_path / "o.json").write_text(json.dumps({"loads": TABLE, "layers": [1, 2]}))
    for name in ("s.json", "s.npz", "s.npy", "o.json"):
        assert shares(tmp_path / name) == SHARES


def test_ids_are_counted(tmp_path):
    # [tokens, layers, top_k]: the first layer chooses 0 and 1, 0 and 2; the second each once.
    ids = np.array([[[0, 1], [0, 1]], [[0, 2], [2, 3]]], dtype=np.uint8)
    np.save(tmp_path / "ids.npy", ids)
    assert shares(tmp_path / "ids.npy") == ((0.5, 0.25, 0.25, 0.0), SHARES[1])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (TABLE[:1], "expected 2 of 4"),
        ([[9.0, 1.0, 0.0, 0.0]] * 2, "no expert can exceed 50.0%"),
    ],
)
def test_recorded_loads_must_be_the_models(tmp_path, rows, message):
    np.save(tmp_path / "t.npy", np.array(rows))
    with pytest.raises(CatalogError, match=message):
        shares(tmp_path / "t.npy")
