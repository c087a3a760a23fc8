"""What of a hidden message is left to see."""

import numpy as np
import pytest

from planner.catalog.machines import load_machine
from planner.cost.overlap import CORE_SHARE, core_share, exposed_seconds
from planner.cost.price import PricedTerm
from planner.cost.step import Hidden, LayerPrice, layer_seconds, term_seconds
from planner.domain.hardware import ideal
from planner.domain.workload import TimeModel


def test_exposed_part_of_a_message():
    # 3 s behind 2 s leave 1 s, and a tenth of the chip for 2 s costs 0.2 s.
    assert exposed_seconds(3.0, 2.0, 0.1) == pytest.approx(1.2)
    assert exposed_seconds(1.0, 2.0, 0.0) == 0.0


def test_exposed_parts_of_many_messages():
    message, compute = np.array([3.0, 1.0, 0.0]), np.array([2.0, 2.0, 2.0])
    assert exposed_seconds(message, compute, 0.25) == pytest.approx([1.5, 0.25, 0.0])


def test_hiding_lies_between_nothing_and_all():
    grid = np.linspace(0.0, 5.0, 21)
    message, compute = np.meshgrid(grid, grid)
    shown = exposed_seconds(message, compute, CORE_SHARE)
    assert np.all(shown >= np.maximum(message - compute, 0.0) - 1e-12)
    assert np.all(shown <= message + 1e-12)
    # A bound that leaves out computation or bytes stays a bound.
    assert np.all(np.diff(shown, axis=1) >= 0.0)
    assert np.all(np.diff(compute + shown, axis=0) >= 0.0)


def test_a_gpu_gives_cores_to_messages_and_a_torus_none():
    spec = load_machine("h100-hgx")
    assert core_share(spec.chip, on_torus=False) == pytest.approx(20 / 132)
    assert core_share(spec.chip, on_torus=True) == 0.0
    assert core_share(ideal(spec).chip, on_torus=False) == 0.0


def test_a_layer_with_one_axis_hidden():
    # Two halves of 2 s compute, 3 s exchange behind it, 1 s all-reduce in the open:
    # 2 x (2 + (1 + 0.25 x 2) + 1) = 9 s.
    price = LayerPrice(
        compute=(PricedTerm(name="matmul", compute_s=2.0, busy_s=2.0),),
        tp=(PricedTerm(name="all_reduce", network_s=1.0),),
        ep=(PricedTerm(name="dispatch", network_s=3.0),),
    )
    hidden = Hidden(ep=1.0, parts=2.0, share=0.25)
    assert layer_seconds(price, hidden, TimeModel.SUM) == pytest.approx(9.0)
    shown = {term.name: seconds for term, seconds in term_seconds(price, hidden, TimeModel.SUM)}
    assert shown == pytest.approx({"matmul": 4.0, "all_reduce": 2.0, "dispatch": 3.0})
