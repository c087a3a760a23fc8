"""Collectives against published measurements.

Absolute relative error of the predicted time for messages of 1 MB and more, where
bandwidth rules, and the factor between the two times below, where latency rules.
"""

import functools
import math
from pathlib import Path

import pytest

from planner.catalog.machines import load_machine, machine_names
from planner.catalog.measured import read_measured
from planner.catalog.measured_rows import CollectiveRow
from planner.domain.curves import Op
from planner.topology.build import build_topology
from planner.topology.collectives import collective_cost
from planner.validation.bench import Bench
from planner.validation.collective_rows import (
    EXPERTS,
    FUSED,
    LIBRARY,
    collective_row_cost,
    family,
)

MEASURED = Path(__file__).resolve().parent / "measured" / "visible.csv"

LARGE = 1e6  # bytes


@functools.cache
def topology(name):
    return build_topology(load_machine(name))


@functools.cache
def compared():
    """``(kind, bytes, predicted / measured, id)`` of every row on a machine we know."""
    known = machine_names()
    bench = Bench()
    rows = [row for row in read_measured(str(MEASURED)) if isinstance(row, CollectiveRow)]
    rows = [row for row in rows if row.machine.topology in known]
    costs = [collective_row_cost(row, bench.topology(row.machine)) for row in rows]
    return [
        (family(row), row.num_bytes, cost.seconds / row.time_s, row.origin.id)
        for row, cost in zip(rows, costs, strict=True)
    ]


def large_errors(*kinds):
    """Sorted absolute relative errors of the large messages."""
    chosen = [(ratio, size) for kind, size, ratio, _ in compared() if kind in kinds]
    return sorted(abs(ratio - 1) for ratio, size in chosen if size >= LARGE)


def quantile(values, fraction):
    """Smallest value that ``fraction`` of the sorted ``values`` do not exceed."""
    return values[math.ceil(fraction * len(values)) - 1]


def test_large_messages_are_close():
    errors = large_errors(LIBRARY, FUSED, EXPERTS)
    assert len(errors) > 250
    assert quantile(errors, 0.5) <= 0.15
    assert quantile(errors, 0.9) <= 0.40


@pytest.mark.parametrize(
    ("kind", "rows", "median", "ninetieth"),
    [(LIBRARY, 130, 0.08, 0.25), (FUSED, 15, 0.20, 0.60), (EXPERTS, 100, 0.10, 0.30)],
)
def test_large_messages_of_each_kind(kind, rows, median, ninetieth):
    # One curve stands for the fused kernels of two engines, which differ by up to 2x.
    errors = large_errors(kind)
    assert len(errors) >= rows
    assert quantile(errors, 0.5) <= median
    assert quantile(errors, 0.9) <= ninetieth


def test_small_messages_are_within_a_factor_of_two():
    ratios = [(name, ratio) for _, size, ratio, name in compared() if size < LARGE]
    assert len(ratios) > 150
    outside = [name for name, ratio in ratios if not 1 / 2 <= ratio <= 2]
    # Share within: 0.98. The rest are 2024 kernels three times slower than their
    # successors (pplx-kernels) and one engine's call on eight B200.
    assert len(outside) <= 0.05 * len(ratios), outside


def test_no_prediction_is_biased_by_much():
    # Errors that all point one way would add up over the layers of a model.
    logs = sorted(math.log(ratio) for _, size, ratio, _ in compared() if size >= LARGE)
    assert abs(quantile(logs, 0.5)) <= 0.05


@pytest.mark.parametrize(("chips", "gb_per_s"), [(2, 23), (4, 85), (8, 135)])
def test_which_chips_of_a_cube_mesh_matters(chips, gb_per_s):
    # vTrain, NCCL all-reduce of 1 GiB on a DGX-1V: chips 0 and 1 share one link of 25 GB/s,
    # a quad has four links per chip, all eight chips have six.
    num_bytes = 2**30
    cost = collective_cost(topology("v100-dgx"), Op.ALL_REDUCE, range(chips), num_bytes)
    bus = 2 * (chips - 1) / chips * num_bytes / cost.seconds
    assert bus == pytest.approx(gb_per_s * 1e9, rel=0.05)
