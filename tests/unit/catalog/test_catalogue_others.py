"""The machines of other vendors, re-derived by hand from their documentation."""

import itertools
import math
import tomllib
from pathlib import Path

import pytest

from planner.catalog.machine_size import resize
from planner.catalog.machines import load_machine
from planner.domain.curves import FUSED_ALL_REDUCE, IN_NETWORK_ALL_REDUCE, Op
from planner.domain.scale_up import MeshDomain, SwitchDomain, Torus
from planner.errors import SpecError

TOPOLOGIES = Path(__file__).resolve().parents[3] / "topologies"

MESHES = ("mi300x-hgx", "mi325x-hgx", "mi355x-hgx", "gaudi3")
TORI = ("tpu-v4", "tpu-v5e", "tpu-v5p", "tpu-v6e", "tpu7x", "trn1", "trn2")
ALL = (*MESHES, *TORI, "trn3")


def close(value):
    return pytest.approx(value, rel=1e-9)


def stated(table, prefix=""):
    """Dotted names of the numbers of a parsed file, sources and sizes left out."""
    for key, value in table.items():
        if isinstance(value, dict) and key not in ("source", "size"):
            yield from stated(value, f"{prefix}{key}.")
        elif isinstance(value, int | float | list):
            yield f"{prefix}{key}"


@pytest.mark.parametrize("name", ALL)
def test_every_number_has_a_source_and_a_month(name):
    text = (TOPOLOGIES / f"{name}.toml").read_text(encoding="utf-8")
    parsed = tomllib.loads(text)
    spec = load_machine(name)
    assert sorted(source.field for source in spec.sources) == sorted(stated(parsed))
    assert {source.as_of for source in spec.sources} == {parsed["as_of"]} == {"2026-11"}
    assert all(len(source.text.strip()) > 6 for source in spec.sources)
    assert (spec.name, parsed["summary"]) == (name, spec.summary)
    # two lines or more before the keys say what the machine is
    assert all(line.startswith("# ") for line in text.splitlines()[:2])
    # usable memory stays below the label, or the file says why
    usable = next(item.text for item in spec.sources if item.field == "chip.hbm_usable_GiB")
    assert spec.chip.hbm_usable_bytes <= spec.chip.hbm_bytes or "label counts GiB" in usable


@pytest.mark.parametrize("name", ALL)
def test_one_curve_speaks_for_every_operation(name):
    spec = load_machine(name)
    for curves in (spec.scale_up.curves, spec.scale_out.curves):
        for op in Op:
            curve = curves.of(op)
            assert 0 < curve.derate <= 1
            assert 0 < curve.base_s + curve.step_s < 200e-6
    # no file of these claims that its switches add up
    assert spec.scale_up.curves.kernel(IN_NETWORK_ALL_REDUCE) is None


# name: dense TFLOP/s, GB/s of memory, GiB that the label means, USD per chip-hour
CHIPS = {
    "mi300x-hgx": ({"bf16": 1307.4, "fp8": 2614.9, "int8": 2614.9, "tf32": 653.7, "fp32": 163.4},
                   5300, 192, 1.99),
    "mi325x-hgx": ({"bf16": 1307.4, "fp8": 2614.9, "int8": 2614.9, "tf32": 653.7, "fp32": 163.4},
                   6000, 256, 1.95),
    "mi355x-hgx": ({"bf16": 2516.6, "fp8": 5033, "fp4": 10066, "int8": 5033, "fp32": 157.3},
                   8000, 288, 2.10),
    # 8 engines of 256 x 256 multiply-adds at 1.6 GHz: 8 x 65536 x 2 x 1.6e9 = 1677.7e12
    "gaudi3": ({"bf16": 1677, "fp8": 1677, "tf32": 459, "fp32": 229}, 3700, 128, None),
    # fp32 in six bf16 passes: 275 / 6 = 45.8; 197 / 6 = 32.8; 459 / 6 = 76.5; 918 / 6 = 153
    "tpu-v4": ({"bf16": 275, "int8": 275, "fp32": 45.8}, 1228, 32, 3.22),
    "tpu-v5e": ({"bf16": 197, "int8": 394, "fp32": 32.8}, 819, 16, 1.20),
    "tpu-v5p": ({"bf16": 459, "fp8": 459, "int8": 918, "fp32": 76.5}, 2765, 95, 4.20),
    "tpu-v6e": ({"bf16": 918, "fp8": 918, "int8": 1836, "fp32": 153}, 1638, 32, 2.70),
    "tpu7x": ({"bf16": 2307, "fp8": 4614, "fp32": 384.5}, 7380, 192, 12.0),
    "trn1": ({"bf16": 190, "fp8": 190, "int8": 380, "tf32": 190, "fp32": 47.5}, 820, 32, 1.34),
    "trn2": ({"bf16": 667, "fp8": 1299, "tf32": 667, "fp32": 181}, 2900, 96, 2.24),
    "trn3": ({"bf16": 671, "fp8": 2517, "fp4": 2517, "tf32": 671, "fp32": 183}, 4900, 144, None),
}  # fmt: skip


@pytest.mark.parametrize("name", ALL)
def test_chips(name):
    peaks, gb_per_s, gib, price = CHIPS[name]
    chip = load_machine(name).chip
    assert dict(chip.peak_flop_per_s) == {key: close(rate * 1e12) for key, rate in peaks.items()}
    assert {key for key, _ in chip.efficiency.matmul} == set(peaks)
    assert chip.hbm_bytes_per_s == close(gb_per_s * 1e9)
    # between the label read in GB and in GiB, and never more than is soldered on
    assert gib * 1e9 <= chip.hbm_bytes <= gib * 2**30 * 1.002
    assert 0.91 * gib * 2**30 < chip.hbm_usable_bytes < gib * 2**30 * (1 + 1e-9)
    assert chip.price_usd_per_hour == price


def test_instances_add_up_to_the_sheets():
    # trn1.32xlarge: 3040 TFLOP/s; trn2.48xlarge 20.8 fp8 and 10.7 bf16 PFLOP/s, 46.4 TB/s;
    # Trn3 Gen2 UltraServer 362,448 fp8 and 96,624 bf16 TFLOP/s, 705.6 TB/s
    for name, *sheet in (
        ("trn1", 3040, 3040, 13.12),
        ("trn2", 10_700, 20_800, 46.4),
        ("trn3", 96_624, 362_448, 705.6),
    ):
        spec = load_machine(name)
        peaks = dict(spec.chip.peak_flop_per_s)
        rates = (peaks["bf16"], peaks["fp8"], spec.chip.hbm_bytes_per_s)
        total = [spec.domain_chips * rate / 1e12 for rate in rates]
        assert total == pytest.approx(sheet, rel=3e-3)


# name: links per pair, GB/s of a pair, of a chip, of the bisection, egress of a node
MESH_GB_PER_S = {
    # 7 x 64 = 448; halves of four: 16 pairs x 64 = 1024; 8 x 50 = 400
    "mi300x-hgx": (1, 64, 448, 1024, 400),
    "mi325x-hgx": (1, 64, 448, 1024, 400),
    # 7 x 76.8 = 537.6; 16 x 76.8 = 1228.8
    "mi355x-hgx": (1, 76.8, 537.6, 1228.8, 400),
    # 3 x 25 = 75; 7 x 75 = 525; 16 x 75 = 1200; 8 x 3 x 25 = 600
    "gaudi3": (3, 75, 525, 1200, 600),
}


def mesh_cut(mesh, side):
    """GB/s between the chips of ``side`` and the others."""
    across = (links for a, b, links in mesh.pairs if (a in side) != (b in side))
    return sum(across) * mesh.link_bytes_per_s / 1e9


@pytest.mark.parametrize("name", MESHES)
def test_full_mesh_of_eight(name):
    links, pair, chip, bisection, egress = MESH_GB_PER_S[name]
    spec = load_machine(name)
    mesh = spec.scale_up
    assert isinstance(mesh, MeshDomain)
    assert (mesh.unit, mesh.chips, spec.num_chips, spec.size_text) == ("node", 8, 8, "1 node")
    # 8 x 7 / 2 = 28 edges
    assert mesh.is_full
    assert [(a, b) for a, b, _ in mesh.pairs] == list(itertools.combinations(range(8), 2))
    assert len(mesh.pairs) == 28
    assert [mesh.links_of(position) for position in range(8)] == [7 * links] * 8
    assert links * mesh.link_bytes_per_s == close(pair * 1e9)
    assert mesh.bytes_per_s == close(chip * 1e9)
    assert mesh_cut(mesh, range(4)) == close(bisection)
    # whichever four chips: a full mesh has no better half
    assert mesh_cut(mesh, (0, 2, 5, 7)) == close(bisection)
    # two chips see the rest of the node over 2 x 6 pairs
    assert mesh_cut(mesh, (3, 6)) == close(12 * pair)
    assert mesh.chips * spec.scale_out.chip_bytes_per_s == close(egress * 1e9)
    assert resize(spec, nodes=3).num_chips == 24


def test_pods_need_the_published_switches():
    # 64 servers x 8 NICs over 8 leaves: 64 ports down and 64 up of 128 on each; 8 x 64 / 128
    # = 4 spines
    for name in MESHES[:3]:
        fabric = load_machine(name).scale_out
        down = fabric.domains_per_unit * 8 // fabric.leaves_per_unit
        assert (down, fabric.leaf_ports - down) == (64, 64)
        assert fabric.leaves_per_unit * down / fabric.leaf_ports == 4
        assert (fabric.nic_bytes_per_s, fabric.oversubscription) == (50e9, 1)
    # 64 Gaudi chips under the same leaves, 64 ports down of 128
    fabric = load_machine("gaudi3").scale_out
    assert fabric.domains_per_unit * 8 == fabric.leaves_per_unit * fabric.leaf_ports / 2 == 64


def torus_links(spec):
    """``(axis, a, b)`` of every link of a slice, from its coordinates and wrap rules."""
    shape, wraps = spec.shape, spec.scale_up.wraps(spec.shape)
    for place in itertools.product(*map(range, shape)):
        for axis, (length, ring) in enumerate(zip(shape, wraps, strict=True)):
            step = place[axis] + 1
            if step < length or (ring and length > 2):
                yield axis, place, (*place[:axis], step % length, *place[axis + 1 :])


def torus_cut(spec):
    """GB/s over the cheapest cut that halves an axis of even length."""
    totals = [0.0] * len(spec.shape)
    for axis, a, b in torus_links(spec):
        half = spec.shape[axis] // 2
        if (a[axis] < half) != (b[axis] < half):
            totals[axis] += spec.scale_up.link_bytes_per_s[axis] / 1e9
    even = [total for total, length in zip(totals, spec.shape, strict=True) if length % 2 == 0]
    return min(even)


def most_links(spec):
    """GB/s out of the chip with the most links."""
    degree = dict.fromkeys(itertools.product(*map(range, spec.shape)), 0.0)
    for axis, a, b in torus_links(spec):
        for place in (a, b):
            degree[place] += spec.scale_up.link_bytes_per_s[axis] / 1e9
    return max(degree.values()), min(degree.values())


# name, shape: which axes wrap, links, GB/s of the best and the worst chip, of the bisection,
# egress. The first shape of each name is the file's own.
SLICES = [
    # a cube: 3 x 64 links in 48 rings; 6 x 50; 16 rings cut twice x 50; 64 x 6.25
    ("tpu-v4", (4, 4, 4), (1, 1, 1), 192, 300, 300, 1600, 400),
    # 3 x 128; the long axis is cut: 16 rings twice
    ("tpu-v4", (4, 4, 8), (1, 1, 1), 384, 300, 300, 1600, 800),
    # no whole cube: 1 x 16 + 3 x 8 + 3 x 8 links; inner chips 1 + 2 + 2, corners 3; a cut
    # across a long axis crosses 2 x 4 lines once
    ("tpu-v4", (2, 4, 4), (0, 0, 0), 64, 250, 150, 400, 200),
    ("tpu-v4", (2, 2, 1), (0, 0, 0), 4, 100, 100, 100, 25),
    # 2 x 256 links in 32 rings; 4 x 50; 16 rings cut twice x 50 = 1.6 TB/s, as documented;
    # 256 x 3.125 = 800 = 6.4 Tb/s, as documented
    ("tpu-v5e", (16, 16), (1, 1), 512, 200, 200, 1600, 800),
    # 8 rings of 16 links, 16 lines of 7; halves across either axis: 16 links
    ("tpu-v5e", (16, 8), (1, 0), 240, 200, 150, 800, 400),
    # 2 x 4 lines of 3; 4 lines cut once
    ("tpu-v5e", (4, 4), (0, 0), 24, 200, 100, 200, 50),
    # twice tpu-v4 on every link, the same hosts
    ("tpu-v5p", (4, 4, 4), (1, 1, 1), 192, 600, 600, 3200, 400),
    ("tpu-v5p", (2, 2, 4), (0, 0, 0), 28, 400, 300, 400, 100),
    # twice tpu-v5e on every link; 3.2 TB/s, as documented; 256 x 12.5
    ("tpu-v6e", (16, 16), (1, 1), 512, 400, 400, 3200, 3200),
    # 2 x 8 lines of 7; 8 lines cut once
    ("tpu-v6e", (8, 8), (0, 0), 112, 400, 200, 800, 800),
    # 6 x 100; 32 x 100; 64 x 12.5
    ("tpu7x", (4, 4, 4), (1, 1, 1), 192, 600, 600, 3200, 800),
    # 3 x 256 links; across the long axis 16 rings twice
    ("tpu7x", (4, 4, 16), (1, 1, 1), 768, 600, 600, 3200, 3200),
    # 2 x 16 links; 4 x 48; 4 rings cut twice x 48; 16 / 2 x 12.5 = 100 = 800 Gb/s
    ("trn1", (4, 4), (1, 1), 32, 192, 192, 384, 100),
    # 4 links of 2 chips, 2 rings of 4; 1 + 2 links; 2 rings cut twice, or 4 links
    ("trn1", (2, 4), (0, 1), 12, 144, 144, 192, 50),
    # an instance: 2 x 16 links of 128; 4 x 128 = 512; 4 rings cut twice x 128; 16 x 25
    ("trn2", (4, 4, 1), (1, 1, 0), 32, 512, 512, 1024, 400),
    # an UltraServer: 3 x 64; 4 x 128 + 2 x 64 = 640 = half of 1280 both ways; 16 rings of
    # the slow axis cut twice x 64
    ("trn2", (4, 4, 4), (1, 1, 1), 192, 640, 640, 2048, 1600),
    # two instances: 2 x 32 + 16; one slow link each; 16 x 64
    ("trn2", (4, 4, 2), (1, 1, 0), 80, 576, 576, 1024, 800),
]


@pytest.mark.parametrize("row", SLICES, ids=str)
def test_slices(row):
    name, shape, wraps, links, best, worst, bisection, egress = row
    spec = resize(load_machine(name), shape=shape)
    assert isinstance(spec.scale_up, Torus)
    assert spec.scale_up.unit == ("node" if name == "trn1" else "slice")
    assert spec.num_chips == math.prod(shape)
    assert spec.scale_up.wraps(shape) == tuple(map(bool, wraps))
    if shape == next(other for first, other, *_ in SLICES if first == name):
        assert resize(load_machine(name)) == spec == load_machine(name)
    assert len(list(torus_links(spec))) == links
    assert most_links(spec) == (close(best), close(worst))
    assert torus_cut(spec) == close(bisection)
    assert spec.domain_chips * spec.scale_out.chip_bytes_per_s == close(egress * 1e9)


def test_pods_of_cubes():
    # 12 x 12 x 24 and 4 x 8 x 32 are the documentation's; an axis that is no multiple of four
    # opens all of them
    closed = {"tpu-v4": (12, 12, 24), "tpu-v5p": (16, 16, 24), "tpu7x": (4, 8, 32)}
    opened = {"tpu-v4": (4, 4, 6), "tpu-v5p": (2, 8, 8), "tpu7x": (2, 2, 2)}
    for shapes, wrapped in ((closed, True), (opened, False)):
        for name, shape in shapes.items():
            assert load_machine(name).scale_up.wraps(shape) == (wrapped,) * 3
    # 16^3 = 4096; 16 x 16 x 24 = 6144, of 8960 in the pod; 16 x 24 x 24 = 9216
    for name, whole in (
        ("tpu-v4", (16, 16, 16)),
        ("tpu-v5p", (16, 16, 24)),
        ("tpu7x", (16, 24, 24)),
    ):
        torus = load_machine(name).scale_up
        assert (torus.max_chips, torus.wrap_multiple) == (math.prod(whole), 4)
        assert resize(load_machine(name), shape=whole).domain_chips == torus.max_chips
    pod = resize(load_machine("tpu-v4"), shape=(16, 16, 16))
    # six links of 50 on each of 4096 chips: 1.23 PB/s; 256 rings cut twice: 25.6 TB/s (the
    # documentation rounds to 1.1 PB/s and 24 TB/s)
    assert pod.num_chips * 6 * pod.scale_up.link_bytes_per_s[0] == close(1.2288e15)
    assert torus_cut(pod) == close(25_600)


# more chips than a pod of 4096; 8960 cannot be had whole; a long axis that is not the last;
# 12288 chips of 9216; longer than the pod; three axes of two; longer than the instance
MISSING = [
    *(("tpu-v4", (16, 16, 24)), ("tpu-v5p", (16, 20, 28)), ("tpu-v5p", (16, 24, 16))),
    *(("tpu7x", (16, 24, 32)), ("tpu7x", (24, 24, 24)), ("tpu-v5e", (32, 8))),
    *(("tpu-v6e", (16, 16, 1)), ("trn1", (4, 8)), ("trn2", (4, 4, 8))),
]


@pytest.mark.parametrize(("name", "shape"), MISSING)
def test_slices_that_do_not_exist(name, shape):
    with pytest.raises(SpecError):
        resize(load_machine(name), shape=shape)


def test_several_slices():
    spec = resize(load_machine("tpu-v5e"), shape=(16, 16), slices=32)
    assert (spec.num_chips, spec.size_text) == (8192, "32 slices of 16x16")
    assert resize(load_machine("trn1"), nodes=4).num_chips == 64
    # a pod of 256 chips has 64 of the 128 ports of each of its four leaves
    fabric = spec.scale_out
    assert 256 / fabric.leaves_per_unit == fabric.leaf_ports / 2 == 64


def test_trn3_levels():
    spec = load_machine("trn3")
    domain = spec.scale_up
    assert isinstance(domain, SwitchDomain)
    assert (domain.unit, domain.chips, domain.chips_per_tray) == ("rack", 144, 4)
    # 36 servers of 4, two racks of 18 servers: 4, 72, 144; in both directions 256, 320 and
    # 128 GB/s per chip over 4, 5 and 2 links of 32 GB/s
    assert [level.span for level in domain.levels] == [4, 4 * 18, 4 * 36]
    assert [level.links_per_switch for level in domain.levels] == [(4,), (5,), (2,)]
    assert [level.bytes_per_s for level in domain.levels] == close([128e9, 160e9, 64e9])
    assert (domain.links_per_chip, domain.bytes_per_s) == (11, close(352e9))
    server, rack, whole = domain.levels
    # rack from rack: 72 x 64 = 4608; half of a rack from the other: 36 x 160 = 5760; two
    # chips of a server from the other two: 2 x 128
    assert whole.span / 2 * whole.bytes_per_s == close(4608e9)
    assert rack.span / 2 * rack.bytes_per_s == close(5760e9)
    assert server.span / 2 * server.bytes_per_s == close(256e9)
    # 28.8 Tb/s leave an UltraServer
    assert domain.chips * spec.scale_out.chip_bytes_per_s == close(3600e9)
    assert resize(spec, racks=2).num_chips == 288


def seconds(curve, x_s, steps=1):
    """The price of a collective whose busiest link needs ``x_s`` at nameplate."""
    return curve.seconds(steps, x_s / curve.derate)


def test_mi300x_all_reduce():
    # 313 GB/s bus bandwidth on eight chips, 47.7 on two, 4 GiB; a pair carries V / n twice
    curve = load_machine("mi300x-hgx").scale_up.curves.of(Op.ALL_REDUCE)
    size = 2**32
    for chips, published in ((8, 312.9e9), (2, 47.7e9)):
        time = seconds(curve, 2 * size / (chips * 64e9))
        bus = 2 * (chips - 1) / chips * size / time
        assert bus == pytest.approx(published, rel=0.05)
    # RCCL: 13.8 us at 8 KB, 52.96 us at 4 MB, 1540 us at 256 MiB
    for size, published in ((8192, 13.76e-6), (2**22, 52.96e-6), (2**28, 1540.4e-6)):
        assert seconds(curve, 2 * size / (8 * 64e9)) == pytest.approx(published, rel=0.06)


def test_fused_all_reduce_of_serving_engines():
    # MSCCL++ on MI300X and AITER on MI355X, eight chips
    for name, rate, rows in (
        ("mi300x-hgx", 64e9, ((1024, 5.39), (16384, 6.57), (262144, 11.68))),
        ("mi355x-hgx", 76.8e9, ((24576, 6.4), (196608, 7.0), (1572864, 12.9))),
    ):
        curve = load_machine(name).scale_up.curves.kernel(FUSED_ALL_REDUCE)
        for size, published in rows:
            predicted = seconds(curve, 2 * size / (8 * rate))
            assert predicted == pytest.approx(published * 1e-6, rel=0.08)


def test_mi300x_dispatch_and_combine():
    # UCCL-EP, 128 tokens: dispatch 7.34 MB in 65 us on 8 chips, 136 on 16; combine 14.7 MB in
    # 207 on 16. Inside V / (n w); across V (1 - p / N) over the NIC.
    spec = load_machine("mi300x-hgx")
    inside, across = spec.scale_up.curves, spec.scale_out.curves
    dispatched, combined = 7_340_032, 14_680_064
    eight = seconds(inside.of(Op.DISPATCH), dispatched / (8 * 64e9))
    assert eight == pytest.approx(65e-6, rel=0.02)
    for op, size, published in ((Op.DISPATCH, dispatched, 136e-6), (Op.COMBINE, combined, 207e-6)):
        sixteen = seconds(across.of(op), size * 0.5 / 50e9)
        assert sixteen == pytest.approx(published, rel=0.05)


def test_mi355x_all_reduce_over_two_nodes():
    # RCCL with Pollara NICs: 67 us at 256 KiB, 262 us at 16 MiB, 43.6 ms at 8 GiB. The links
    # inside bind: 2 V / (8 x 76.8e9) > 2 V / (2 x 8 x 50e9) = V / 400e9.
    spec = load_machine("mi355x-hgx")
    inside, across = spec.scale_up.curves, spec.scale_out.curves
    latency = inside.of(Op.REDUCE_SCATTER).base_s + inside.of(Op.ALL_GATHER).base_s
    curve = across.of(Op.ALL_REDUCE)
    for size, published in ((2**18, 67.2e-6), (2**24, 261.6e-6), (2**33, 43.643e-3)):
        links = 2 * size / (8 * 76.8e9) / inside.of(Op.ALL_REDUCE).derate
        nics = size / 400e9 / curve.derate
        assert links > nics
        assert latency + curve.seconds(2, links) == pytest.approx(published, rel=0.08)


def test_gaudi_collectives():
    # HCCL: all-reduce of 256 MiB 915.8 us, all-gather of 128 MiB 230.6 us; 75 GB/s per pair
    curves = load_machine("gaudi3").scale_up.curves
    reduced = seconds(curves.of(Op.ALL_REDUCE), 2 * 2**28 / (8 * 75e9))
    gathered = seconds(curves.of(Op.ALL_GATHER), 2**27 / (8 * 75e9))
    assert reduced == pytest.approx(915.8e-6, rel=0.04)
    assert gathered == pytest.approx(230.6e-6, rel=0.04)


def test_tpu7x_all_gather():
    # 2 x 2 x 1, two links of 100 GB/s into each chip, two hops: 1.57 MB at 71.8 GB/s = 21.9 us,
    # 6.29 MB at 129.2 = 48.7 us, 403 MB at 178.8 = 2252 us
    curve = load_machine("tpu7x").scale_up.curves.of(Op.ALL_GATHER)
    for received, rate in ((1.572864e6, 71.77e9), (6.291456e6, 129.19e9), (0.402653e9, 178.77e9)):
        predicted = seconds(curve, received / 200e9, steps=2)
        assert predicted == pytest.approx(received / rate, rel=0.03)
