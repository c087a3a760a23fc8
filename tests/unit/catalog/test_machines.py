"""The catalogue of machines, their sizes, and the facts that travel with a layout."""

import json
import re
import tomllib
from pathlib import Path

import pytest

from planner.catalog import machines
from planner.catalog.machine_size import parse_shape, resize
from planner.catalog.machines import (
    load_machine,
    machine_facts,
    machine_from_facts,
    machine_names,
)
from planner.domain.curves import PERFECT_CURVES, Op
from planner.domain.hardware import ideal
from planner.domain.scale_up import SwitchDomain, Torus
from planner.errors import CatalogError, SpecError

NAMES = (
    *("a100-40-hgx", "a100-80-hgx", "b200-hgx", "b300-hgx", "gaudi3"),
    *("gb200-nvl36x2", "gb200-nvl72", "gb300-nvl72", "h100-hgx", "h20-hgx"),
    *("h200-hgx", "h800-hgx", "mi300x-hgx", "mi325x-hgx", "mi355x-hgx"),
    *("tpu-v4", "tpu-v5e", "tpu-v5p", "tpu-v6e", "tpu7x"),
    *("trn1", "trn2", "trn3", "v100-dgx", "vr200-nvl72"),
)
TOPOLOGIES = Path(__file__).resolve().parents[3] / "topologies"


def write(folder, text, name="mine.toml"):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_names():
    assert machine_names() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_number_of_the_catalogue_has_a_source_and_a_date(name):
    spec = load_machine(name)
    assert spec.name == name
    assert spec.summary
    text = (TOPOLOGIES / f"{name}.toml").read_text(encoding="utf-8")
    facts, _, _ = text.partition("[size]")
    if "extends" not in tomllib.loads(text):
        numbers = re.findall(r"^(\w+) = (?:\[|-?[\d.])", facts, flags=re.MULTILINE)
        levels = facts.count("[[scale_up.levels]]")
        assert len(spec.sources) == len(numbers) - (3 * levels - 1 if levels else 0)
    assert all(len(source.text) > 6 for source in spec.sources)
    assert not any(source.text.startswith("given in") for source in spec.sources)
    assert {source.as_of for source in spec.sources} <= {"2026-11"}


def test_h100_in_si_units():
    spec = load_machine("h100-hgx")
    chip, scale_up, fabric = spec.chip, spec.scale_up, spec.scale_out
    assert chip.name == "H100-SXM"
    assert dict(chip.peak_flop_per_s)["fp8"] == pytest.approx(1.9789e15)
    assert chip.hbm_bytes == 80e9
    assert chip.hbm_usable_bytes == pytest.approx(81559 * 2**20, rel=1e-4)
    assert chip.hbm_bytes_per_s == pytest.approx(3.35e12)
    assert chip.efficiency.kernel_s == pytest.approx(3e-6)
    assert dict(chip.efficiency.matmul)["bf16"] == 0.78
    assert fabric.curves.default.derate == 0.9
    assert isinstance(scale_up, SwitchDomain)
    assert (scale_up.links_per_chip, scale_up.bytes_per_s) == (18, 450e9)
    # every operation has a curve, listed or not
    assert all(0 < scale_up.curves.of(op).derate <= 1 for op in Op)
    assert scale_up.curves.kernel("in_network_all_reduce") is not None
    assert (fabric.nic_bytes_per_s, fabric.leaves_per_unit) == (50e9, 8)
    assert (spec.num_domains, spec.num_chips, spec.size_text) == (1, 8, "1 node")


def test_dense_peaks_are_not_sparse_ones():
    # bf16 doubles to fp8 and fp8 to fp4; sparse figures would double once more
    for name, bf16 in (("h100-hgx", 989.4e12), ("gb200-nvl72", 2.5e15)):
        peaks = dict(load_machine(name).chip.peak_flop_per_s)
        assert peaks["bf16"] == pytest.approx(bf16)
        assert peaks["fp8"] / peaks["bf16"] == pytest.approx(2, rel=1e-3)


def test_prices():
    names = ("gb200-nvl72", "h100-hgx", "h200-hgx", "h800-hgx", "tpu-v5e")
    prices = {name: load_machine(name).chip.price_usd_per_hour for name in names}
    assert prices == {
        "gb200-nvl72": 4.54,
        "h100-hgx": 2.95,
        "h200-hgx": 3.5,
        "h800-hgx": None,
        "tpu-v5e": 1.2,
    }


def test_tpu_wraps_only_at_full_length():
    torus = load_machine("tpu-v5e").scale_up
    assert isinstance(torus, Torus)
    assert torus.wraps((16, 8)) == (True, False)
    assert torus.wraps((16, 16)) == (True, True)


def test_ideal_machines_have_no_friction():
    for name in NAMES:
        spec = load_machine(name)
        perfect = ideal(spec)
        efficiency = perfect.chip.efficiency
        assert {fraction for _, fraction in efficiency.matmul} == {1.0}
        assert (efficiency.hbm, efficiency.attention) == (1.0, 1.0)
        assert efficiency.kernel_s == 0.0
        assert perfect.scale_up.curves == perfect.scale_out.curves == PERFECT_CURVES
        assert perfect.chip.peak_flop_per_s == spec.chip.peak_flop_per_s
        assert ideal(perfect) == perfect


# --- facts that travel with a layout ---------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_facts_give_the_same_machine(name):
    facts = json.loads(json.dumps(machine_facts(name)))
    assert machine_from_facts(facts) == load_machine(name)


def test_facts_are_checked():
    facts = json.loads(json.dumps(machine_facts("h100-hgx")))
    facts["chip"]["hbm_GB"] = -1
    with pytest.raises(CatalogError) as caught:
        machine_from_facts(facts, file="layout.json")
    assert (caught.value.file, caught.value.field) == ("layout.json", "chip.hbm_GB")
    with pytest.raises(CatalogError, match="missing"):
        machine_from_facts({"name": "nothing"})
    with pytest.raises(CatalogError) as caught:
        machine_from_facts({**machine_facts("h100-hgx"), "sources": 3})
    assert caught.value.field == "sources"


def test_facts_of_a_broken_file(tmp_path):
    text = 'extends = "h100-hgx"\nas_of = "2027-01"\n[chip]\nhbm_GB = 0\nsource.all = "a guess"\n'
    with pytest.raises(CatalogError, match="outside"):
        machine_facts(write(tmp_path, text))


# --- sizes ---------------------------------------------------------------------------


def test_resizing():
    assert resize(load_machine("h100-hgx"), nodes=4).num_chips == 32
    assert resize(load_machine("gb200-nvl72"), racks=8).size_text == "8 racks"
    slice_of_eight = resize(load_machine("tpu-v5e"), shape=(4, 2))
    assert (slice_of_eight.num_chips, slice_of_eight.size_text) == (8, "4x2 slice")
    spec = load_machine("h100-hgx")
    assert resize(spec) is spec


@pytest.mark.parametrize(
    ("name", "size", "remedy"),
    [
        ("h100-hgx", {"racks": 2}, "--nodes"),
        ("h100-hgx", {"shape": (4, 4)}, "--nodes"),
        ("gb200-nvl72", {"nodes": 2}, "--racks"),
        ("tpu-v5e", {"nodes": 2}, "--slices and --shape"),
        ("h100-hgx", {"nodes": 2, "racks": 2}, "--nodes"),
    ],
)
def test_sizes_that_do_not_apply(name, size, remedy):
    with pytest.raises(SpecError, match="does not apply") as caught:
        resize(load_machine(name), **size)
    assert remedy in caught.value.remedy


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("h100-hgx", {"nodes": 0}),
        ("h100-hgx", {"nodes": -1}),
        ("h100-hgx", {"nodes": 8193}),
        ("gb200-nvl72", {"racks": 129}),
        ("tpu-v5e", {"shape": (17, 1)}),
        ("tpu-v5e", {"shape": (4, 0)}),
        ("tpu-v5e", {"shape": (4,)}),
        ("tpu-v5e", {"shape": (2, 2, 2)}),
        ("tpu-v5e", {"shape": ()}),
    ],
)
def test_impossible_sizes(name, size):
    with pytest.raises(SpecError, match="not"):
        resize(load_machine(name), **size)


def test_a_single_domain_without_a_fabric_cannot_grow(tmp_path):
    text = (TOPOLOGIES / "h100-hgx.toml").read_text(encoding="utf-8")
    alone = text[: text.index("[scale_out]")] + text[text.index("[size]") :]
    spec = load_machine(write(tmp_path, alone))
    assert spec.scale_out is None
    with pytest.raises(SpecError, match="1 to 1 nodes"):
        resize(spec, nodes=2)
    with pytest.raises(CatalogError, match="scale_out"):
        load_machine(write(tmp_path, alone.replace("domains = 1", "domains = 2")))


def test_reading_a_shape():
    assert parse_shape("4x8") == (4, 8)
    assert parse_shape("16X16") == (16, 16)
    for text in ("", "4x", "x4", "4x-1", "4x0", "4,8", "four", "4x²"):
        with pytest.raises(SpecError, match="--shape"):
            parse_shape(text)


def test_a_wheel_brings_its_own_catalogue(tmp_path, monkeypatch):
    # Inside a wheel the folder lies in the package; it comes before the repository's.
    inside = tmp_path / "planner"
    (inside / "topologies").mkdir(parents=True)
    text = (TOPOLOGIES / "h100-hgx.toml").read_text(encoding="utf-8")
    (inside / "topologies" / "only-one.toml").write_text(text, encoding="utf-8")
    monkeypatch.setattr(machines, "_PACKAGE", inside)
    assert machine_names() == ("only-one",)
    assert load_machine("only-one").num_chips == 8
