"""Machines sized to the chips of a measurement."""

import pytest

from planner.catalog.machines import load_machine
from planner.catalog.measured_rows import MachineUse
from planner.errors import SpecError
from planner.validation.bench import Bench
from planner.validation.machines import machine_topology, sized_machine, slice_shape


def sized(topology, num_chips, **rest):
    return sized_machine(MachineUse(topology=topology, num_chips=num_chips, **rest))


@pytest.mark.parametrize(
    ("topology", "chips", "domains"),
    [
        ("h100-hgx", 4, 1),
        ("h100-hgx", 8, 1),
        ("h100-hgx", 12, 2),
        ("a100-80-hgx", 11200, 1400),
        ("gb200-nvl72", 8, 1),
        ("gb200-nvl72", 256, 4),  # 3.56 racks
        ("mi300x-hgx", 16, 2),
        ("trn1", 16, 1),
        ("trn1", 17, 2),
    ],
)
def test_nodes_and_racks_are_counted_up(topology, chips, domains):
    assert sized(topology, chips).num_domains == domains


@pytest.mark.parametrize(
    ("topology", "chips", "shape"),
    [
        ("tpu-v4", 64, (4, 4, 4)),
        ("tpu-v5p", 128, (4, 4, 8)),
        ("tpu-v5p", 1024, (8, 8, 16)),
        ("tpu-v4", 3072, (12, 16, 16)),
        ("tpu7x", 1, (1, 1, 1)),
        ("tpu7x", 4, (1, 2, 2)),
        ("tpu7x", 32, (2, 4, 4)),  # smaller than a cube
        ("tpu-v6e", 8, (2, 4)),
        ("tpu-v6e", 32, (4, 8)),
        ("tpu-v5e", 256, (16, 16)),
    ],
)
def test_slices_are_as_compact_as_they_can_be(topology, chips, shape):
    spec = sized(topology, chips)
    assert (spec.shape, spec.num_domains) == (shape, 1)


@pytest.mark.parametrize(
    ("topology", "chips", "slices", "shape", "domains"),
    [
        # Of two pods of at most 4096 chips each; stated or not.
        ("tpu-v4", 6144, None, (12, 16, 16), 2),
        ("tpu-v4", 6144, 2, (12, 16, 16), 2),
        # One slice would do, but the source had four.
        ("tpu-v4", 256, 4, (4, 4, 4), 4),
        ("tpu-v5e", 8192, None, (16, 16), 32),
    ],
)
def test_jobs_over_several_slices(topology, chips, slices, shape, domains):
    spec = sized(topology, chips, slices=slices)
    assert (spec.shape, spec.num_domains) == (shape, domains)


def test_no_slice_mixes_cubes_and_parts_of_cubes():
    # 96 = 4 x 4 x 6 is neither whole cubes nor inside one.
    assert slice_shape(load_machine("tpu-v4").scale_up, 96) is None
    with pytest.raises(SpecError, match="no slice shape for 100 chips in 3 slices"):
        sized("tpu-v4", 100, slices=3)


def test_slower_memory_replaces_that_of_the_chip():
    plain, slow = sized("h100-hgx", 8), sized("h100-hgx", 8, hbm_bytes_per_s=2.4e12)
    assert slow.chip.hbm_bytes_per_s == 2.4e12
    assert slow.chip.hbm_bytes == plain.chip.hbm_bytes


def test_efa_slows_what_crosses_nodes_and_nothing_else():
    plain, efa = sized("h200-hgx", 16), sized("h200-hgx", 16, efa=True)
    assert efa.scale_up == plain.scale_up and efa.chip == plain.chip
    assert efa.scale_out.curves != plain.scale_out.curves
    assert sized("h200-hgx", 8, efa=True) == sized("h200-hgx", 8)


def test_unknown_machine_and_size():
    with pytest.raises(SpecError, match="unknown machine"):
        sized("h100-hxg", 8)
    with pytest.raises(SpecError, match="1 to 8192 nodes"):
        sized("h100-hgx", 10**6)


def test_bench_builds_each_machine_and_model_once():
    bench = Bench()
    use = MachineUse(topology="h100-hgx", num_chips=16)
    assert bench.topology(use) is bench.topology(MachineUse(topology="h100-hgx", num_chips=16))
    assert bench.topology(use).num_chips == machine_topology(use).num_chips == 16
    assert bench.model("llama-3.1-8b") is bench.model("llama-3.1-8b")
    for _ in range(2):
        with pytest.raises(SpecError, match="unknown model"):
            bench.model("lama")


def test_a_malformed_model_file_is_a_refusal(tmp_path):
    path = tmp_path / "broken.json"
    path.write_text("{")
    with pytest.raises(SpecError, match=r"broken\.json"):
        Bench().model(str(path))
