"""The NVIDIA machines of the catalogue, re-derived by hand from their spec sheets."""

import itertools
import tomllib
from pathlib import Path

import pytest

from planner.catalog.machines import load_machine
from planner.domain.curves import FUSED_ALL_REDUCE, IN_NETWORK_ALL_REDUCE, Op
from planner.domain.scale_up import MeshDomain, SwitchDomain

TOPOLOGIES = Path(__file__).resolve().parents[3] / "topologies"

# name: chips, switches of one domain, links per chip, GB/s of a chip, GB/s of the bisection,
# NICs of one domain, GB/s of their egress
SWITCHED = {
    # six NVSwitches, two of 12 links to each; 12 x 25 = 300; 4 x 300; 8 NICs of 200 Gb/s = 25
    "a100-40-hgx": (8, 6, 12, 300, 1200, 8, 200),
    "a100-80-hgx": (8, 6, 12, 300, 1200, 8, 200),
    # four NVSwitches, 5 + 4 + 4 + 5 = 18 links of 25 = 450; 4 x 450; 8 NICs of 400 Gb/s = 50
    "h100-hgx": (8, 4, 18, 450, 1800, 8, 400),
    "h20-hgx": (8, 4, 18, 450, 1800, 8, 400),
    "h200-hgx": (8, 4, 18, 450, 1800, 8, 400),
    # 8 of the 18 links left: 8 x 25 = 200; 4 x 200
    "h800-hgx": (8, 4, 8, 200, 800, 8, 400),
    # two NVSwitches, nine of 18 links to each; 18 x 50 = 900; 4 x 900
    "b200-hgx": (8, 2, 18, 900, 3600, 8, 400),
    # the same with NICs of 800 Gb/s = 100
    "b300-hgx": (8, 2, 18, 900, 3600, 8, 800),
    # nine switch trays of two chips, one link to each; 18 x 50 = 900; 36 x 900 = 32,400;
    # 72 NICs of 400 Gb/s = 50
    "gb200-nvl72": (72, 18, 18, 900, 32_400, 72, 3600),
    # two racks of nine switch trays of two chips, each chip linked to the 18 of its rack;
    # trunks carry as much: 18 pairs of switches x 36 links x 50 = 32,400
    "gb200-nvl36x2": (72, 36, 18, 900, 32_400, 72, 3600),
    # NICs of 800 Gb/s = 100
    "gb300-nvl72": (72, 18, 18, 900, 32_400, 72, 7200),
    # nine switch trays of four chips, one link to each; 36 x 50 = 1800; 36 x 1800 = 64,800;
    # 1600 Gb/s = 200 per chip
    "vr200-nvl72": (72, 36, 36, 1800, 64_800, 72, 14_400),
}
ALL = (*SWITCHED, "v100-dgx")
HGX = ("a100-40-hgx", "a100-80-hgx", "h100-hgx", "h20-hgx", "h200-hgx", "h800-hgx", "b200-hgx",
       "b300-hgx")  # fmt: skip


@pytest.mark.parametrize("name", SWITCHED)
def test_scale_up_domain(name):
    chips, switches, links, gb_per_s, bisection, _, _ = SWITCHED[name]
    domain = load_machine(name).scale_up
    assert isinstance(domain, SwitchDomain)
    (level,) = domain.levels
    assert (domain.chips, level.span) == (chips, chips)
    assert domain.parts * len(level.links_per_switch) == switches
    assert domain.links_per_chip == links
    assert domain.bytes_per_s == pytest.approx(gb_per_s * 1e9)
    assert chips // 2 * domain.bytes_per_s == pytest.approx(bisection * 1e9)


@pytest.mark.parametrize("name", SWITCHED)
def test_every_switch_has_the_ports(name):
    # ports of one NVSwitch: 36 of the A100's, 64 of Hopper's, 72 of Blackwell's and Rubin's
    ports = {"a100": 36, "h": 64}
    has = next((count for key, count in ports.items() if name.startswith(key)), 72)
    domain = load_machine(name).scale_up
    for links in domain.levels[0].links_per_switch:
        assert domain.chips // domain.parts * links + domain.trunk_links <= has


def test_trunks_of_the_nvl36x2_do_not_block():
    domain = load_machine("gb200-nvl36x2").scale_up
    # 36 chips x 900 GB/s leave a rack, 18 switches x 36 trunks x 50 GB/s carry it
    assert (domain.parts, domain.trunk_links) == (2, 36)
    trunks = 18 * domain.trunk_links * domain.levels[0].link_bytes_per_s
    assert trunks == pytest.approx(36 * domain.bytes_per_s) == pytest.approx(32.4e12)


@pytest.mark.parametrize("name", SWITCHED)
def test_units_and_trays(name):
    domain = load_machine(name).scale_up
    rack = "nvl" in name  # 18 trays of four chips; of the 36x2, nine in each rack
    assert (domain.unit, domain.chips_per_tray) == (("rack", 4) if rack else ("node", None))


@pytest.mark.parametrize("name", SWITCHED)
def test_egress_of_a_domain(name):
    chips, _, _, _, _, nics, egress = SWITCHED[name]
    fabric = load_machine(name).scale_out
    assert chips // fabric.chips_per_nic == nics
    assert nics * fabric.nic_bytes_per_s == pytest.approx(egress * 1e9)
    assert chips * fabric.chip_bytes_per_s == pytest.approx(egress * 1e9)


# --- DGX-1V: no switch ----------------------------------------------------------------


def crossing(domain, half):
    return sum(links for a, b, links in domain.pairs if (a in half) != (b in half))


def test_cube_mesh_of_the_v100():
    # nvidia-smi topo -m, row by row, NVn of GPU 0 to 7:
    matrix = [
        [0, 1, 1, 2, 2, 0, 0, 0],
        [1, 0, 2, 1, 0, 2, 0, 0],
        [1, 2, 0, 2, 0, 0, 1, 0],
        [2, 1, 2, 0, 0, 0, 0, 1],
        [2, 0, 0, 0, 0, 1, 1, 2],
        [0, 2, 0, 0, 1, 0, 2, 1],
        [0, 0, 1, 0, 1, 2, 0, 2],
        [0, 0, 0, 1, 2, 1, 2, 0],
    ]
    domain = load_machine("v100-dgx").scale_up
    assert isinstance(domain, MeshDomain)
    assert (domain.unit, domain.chips, domain.is_full) == ("node", 8, False)
    links = {(a, b): count for a, b, count in domain.pairs}
    assert links == {
        (a, b): matrix[a][b] for a, b in itertools.combinations(range(8), 2) if matrix[a][b]
    }
    # six links per chip, 6 x 25 = 150 GB/s; 8 x 6 / 2 = 24 cables
    assert [domain.links_of(chip) for chip in range(8)] == [6] * 8
    assert domain.bytes_per_s == pytest.approx(150e9)
    assert sum(links.values()) == 24


def test_bisection_of_the_cube_mesh():
    domain = load_machine("v100-dgx").scale_up
    # Between the quads: 0-4 and 1-5 two links each, 2-6 and 3-7 one: 6 x 25 = 150 GB/s.
    assert crossing(domain, {0, 1, 2, 3}) == 6
    # No other halving cuts fewer of them.
    halves = itertools.combinations(range(8), 4)
    assert min(crossing(domain, set(half)) for half in halves) == 6
    assert 6 * domain.link_bytes_per_s == pytest.approx(150e9)
    # Four chips of a quad have 1 + 1 + 2 + 2 + 1 + 2 = 9 links among them.
    assert sum(links for _, b, links in domain.pairs if b < 4) == 9


def test_egress_of_the_v100():
    fabric = load_machine("v100-dgx").scale_out
    # four EDR NICs of 100 Gb/s = 12.5 GB/s for eight chips: 50 GB/s, 6.25 per chip
    assert (fabric.chips_per_nic, fabric.nic_bytes_per_s) == (2, 12.5e9)
    assert 8 * fabric.chip_bytes_per_s == pytest.approx(50e9)


# --- fabric ---------------------------------------------------------------------------

# name: domains of a unit, leaves of a unit, downlinks of a leaf, ports of a switch
UNITS = {
    "v100-dgx": (18, 4, 18, 36),  # 18 x 4 NICs / 4
    "a100-40-hgx": (20, 8, 20, 40),  # 20 x 8 / 8
    "a100-80-hgx": (20, 8, 20, 40),
    "h100-hgx": (32, 8, 32, 64),  # 32 x 8 / 8
    "h20-hgx": (32, 8, 32, 64),
    "h200-hgx": (32, 8, 32, 64),
    "h800-hgx": (32, 8, 32, 64),
    "b200-hgx": (32, 8, 32, 64),
    "b300-hgx": (64, 16, 32, 64),  # 64 x 8 / 16
    "gb200-nvl72": (8, 18, 32, 64),  # 8 x 72 / 18
    "gb200-nvl36x2": (8, 18, 32, 64),
    "gb300-nvl72": (8, 8, 72, 144),  # 8 x 72 / 8
    "vr200-nvl72": (8, 16, 36, 72),  # 8 x 72 / 16
}


@pytest.mark.parametrize("name", ALL)
def test_scalable_unit(name):
    domains, leaves, down, ports = UNITS[name]
    spec = load_machine(name)
    fabric = spec.scale_out
    found = (fabric.domains_per_unit, fabric.leaves_per_unit, fabric.leaf_ports)
    assert found == (domains, leaves, ports)
    nics = domains * spec.scale_up.chips // fabric.chips_per_nic
    assert nics == leaves * down
    # a full fat tree: as many uplinks as downlinks, and no port left over
    assert fabric.oversubscription == 1
    assert 2 * down == ports


@pytest.mark.parametrize("name", ALL)
def test_largest_machine(name):
    spec = load_machine(name)
    fabric = spec.scale_out
    assert spec.num_domains == 1
    assert fabric.max_domains >= (4096 if name in HGX else 128)
    if name.startswith("a100"):
        return  # 4,096 nodes need larger core switches than 40 ports, as the file says
    # three tiers of p ports reach p^3 / 4 NICs
    nics = fabric.max_domains * spec.scale_up.chips // fabric.chips_per_nic
    assert nics <= fabric.leaf_ports**3 / 4


# --- chips ----------------------------------------------------------------------------

# dense TFLOP/s: bf16, fp8, fp4, int8 (None where the chip has no such rate)
PEAKS = {
    "v100-dgx": (125, None, None, 62.8),  # fp16 tensor cores, DP4A
    "a100-40-hgx": (312, None, None, 624),
    "a100-80-hgx": (312, None, None, 624),
    "h100-hgx": (989.4, 1978.9, None, 1978.9),
    "h800-hgx": (989.4, 1978.9, None, 1978.9),
    "h200-hgx": (989.4, 1978.9, None, 1978.9),
    "h20-hgx": (148, 296, None, 296),
    "b200-hgx": (2250, 4500, 9000, 4500),
    "b300-hgx": (2250, 4500, 13_500, 150),  # int8 cut to a thirtieth
    "gb200-nvl72": (2500, 5000, 10_000, 5000),
    "gb200-nvl36x2": (2500, 5000, 10_000, 5000),
    "gb300-nvl72": (2500, 5000, 15_000, 165),
    "vr200-nvl72": (4000, 17_500, 35_000, 2500),
}
# nameplate GB/s of HBM, MiB of HBM that nvidia-smi shows (None: not published)
HBM = {
    "v100-dgx": (900, 32_510),
    "a100-40-hgx": (1555, 40_960),
    "a100-80-hgx": (2039, 81_920),
    "h100-hgx": (3350, 81_559),
    "h800-hgx": (3350, 81_559),
    "h200-hgx": (4800, 143_771),
    "h20-hgx": (4000, 97_871),
    "b200-hgx": (8000, 183_359),
    "b300-hgx": (8000, 275_040),
    "gb200-nvl72": (8000, 189_471),
    "gb200-nvl36x2": (8000, 189_471),
    "gb300-nvl72": (8000, 284_208),
    "vr200-nvl72": (22_000, None),
}


@pytest.mark.parametrize("name", ALL)
def test_dense_peaks(name):
    peaks = dict(load_machine(name).chip.peak_flop_per_s)
    for key, tera in zip(("bf16", "fp8", "fp4", "int8"), PEAKS[name], strict=True):
        assert peaks.get(key) == (None if tera is None else pytest.approx(tera * 1e12))


@pytest.mark.parametrize("name", ALL)
def test_memory(name):
    chip = load_machine(name).chip
    gb_per_s, visible_mib = HBM[name]
    assert chip.hbm_bytes_per_s == pytest.approx(gb_per_s * 1e9)
    if visible_mib is not None:
        # what is visible, less at most 1 % for the driver
        assert 0.985 <= chip.hbm_usable_bytes / (visible_mib * 2**20) <= 1.0005


@pytest.mark.parametrize("name", ALL)
def test_a_label_below_what_is_usable_is_explained(name):
    spec = load_machine(name)
    sources = {source.field: source.text for source in spec.sources}
    if spec.chip.hbm_usable_bytes > spec.chip.hbm_bytes:
        assert "counts GiB" in sources["chip.hbm_usable_GiB"]


def test_gb200_label_counts_gib():
    for name in ("gb200-nvl72", "gb200-nvl36x2"):
        chip = load_machine(name).chip
        # 186 GiB = 199.7e9 bytes, of which 185.0 GiB are visible
        assert chip.hbm_bytes == pytest.approx(186 * 2**30, rel=1e-4)
        assert chip.hbm_usable_bytes < chip.hbm_bytes


# --- curves ---------------------------------------------------------------------------

SHARP = tuple(name for name in ALL if not name.startswith(("v100", "a100")))


@pytest.mark.parametrize("name", ALL)
def test_kernels(name):
    curves = load_machine(name).scale_up.curves
    # NVSwitches add up since Hopper; one-kernel sums need every chip to reach every other
    assert (curves.kernel(IN_NETWORK_ALL_REDUCE) is not None) == (name in SHARP)
    assert (curves.kernel(FUSED_ALL_REDUCE) is not None) == (name != "v100-dgx")


@pytest.mark.parametrize("name", ALL)
def test_the_network_is_slower_to_start_than_the_links_inside(name):
    spec = load_machine(name)
    inside, across = spec.scale_up.curves, spec.scale_out.curves
    for op in (Op.ALL_TO_ALL, Op.DISPATCH, Op.COMBINE):
        assert across.of(op).base_s > inside.of(op).base_s
    assert across.of(Op.ALL_REDUCE).step_s > inside.of(Op.ALL_GATHER).step_s


@pytest.mark.parametrize(
    "family",
    [("h100-hgx", "h200-hgx", "h20-hgx"), ("b200-hgx", "b300-hgx"), ("gb200-nvl72", "gb300-nvl72",
     "gb200-nvl36x2", "vr200-nvl72"), ("a100-40-hgx", "a100-80-hgx")],
)  # fmt: skip
def test_a_generation_shares_its_curves(family):
    first, *others = (load_machine(name).scale_up.curves for name in family)
    assert all(curves == first for curves in others)


# --- sources --------------------------------------------------------------------------


def numeric_fields(table, prefix=""):
    """Dotted names of the entries of a parsed file that hold numbers."""
    for key, value in table.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and key != "source" and name != "size":
            yield from numeric_fields(value, f"{name}.")
        elif isinstance(value, int | float | list):
            yield name


@pytest.mark.parametrize("name", ALL)
def test_every_number_has_a_source_and_a_month(name):
    spec = load_machine(name)
    data = tomllib.loads((TOPOLOGIES / f"{name}.toml").read_text(encoding="utf-8"))
    assert {source.field for source in spec.sources} == set(numeric_fields(data))
    assert all(len(source.text) > 6 for source in spec.sources)
    assert {source.as_of for source in spec.sources} == {"2026-11"}
    assert spec.name == name
    assert spec.summary
