"""Machine files built from matrices, topology files and graphs, and files that cannot be."""

import json
import os
import random
import re
import tomllib
from collections import Counter
from pathlib import Path

import networkx
import pytest

from planner.catalog.imports import import_machine
from planner.catalog.machine_size import resize
from planner.catalog.machines import load_machine
from planner.domain.hardware import ideal
from planner.errors import CatalogError, PlannerError, SpecError
from planner.topology.build import build_topology
from planner.topology.serialise import graphml, node_link

DATA = Path(__file__).resolve().parents[2] / "data" / "imports"
H100 = "h100-hgx"
GB200 = "gb200-nvl72"


def sample(name):
    return (DATA / name).read_bytes().decode()


def write(folder, text, name="topo.txt"):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def loaded(folder, imported, name="mynode.toml"):
    path = folder / name
    path.write_text(imported.text, encoding="utf-8")
    return load_machine(str(path))


def imported_file(folder, file, chip, **options):
    """A sample, imported, written and read back."""
    imported = import_machine(str(DATA / file), chip, **options)
    return imported, loaded(folder, imported)


def edited(folder, name, old, new, count=1):
    """A copy of a sample with one change; the change must be possible."""
    text = sample(name)
    assert text.count(old) == count, f"{old!r} occurs {text.count(old)} times"
    return write(folder, text.replace(old, new), name)


def refusal(path, chip=H100, **options):
    with pytest.raises((CatalogError, SpecError)) as caught:
        import_machine(path, chip, **options)
    return str(caught.value)


def kinds(machine):
    return Counter(node.kind for node in machine.scale_up.nodes)


def rates(machine, tier):
    """How many links of a tier have which GB/s."""
    return Counter(link.bytes_per_s / 1e9 for link in machine.scale_up.links if link.tier == tier)


def ends(machine, tier):
    return {(link.a, link.b) for link in machine.scale_up.links if link.tier == tier}


def noted(imported, text):
    return any(text in note for note in imported.notes)


@pytest.fixture
def v100(tmp_path):
    """A chip with six NVLinks of 25 GB/s and a 12.5 GB/s NIC."""
    text = 'extends = "h100-hgx"\n[chip]\nname = "V100-SXM2"\n[scale_up]\nlinks_per_switch = [6]\n'
    return write(tmp_path, text + "[scale_out]\nnic_GB_per_s = 12.5\n", "v100.toml")


@pytest.fixture
def bridged(tmp_path):
    """A chip with twelve NVLinks, as the NVLink bridges of an A100 PCIe have."""
    text = 'extends = "h100-hgx"\n[scale_up]\nlinks_per_switch = [12]\n'
    return write(tmp_path, text, "a100.toml")


# --- nvidia-smi topo -m --------------------------------------------------------------


def test_dgx_h100_matrix(tmp_path):
    imported, machine = imported_file(tmp_path, "dgx-h100-topo.txt", H100)
    assert (imported.num_chips, imported.format) == (8, "topo")
    # 8 GPUs at one switch node; 8 of the 10 NICs share a bridge with a GPU, two do not.
    assert kinds(machine) == {"chip": 8, "switch": 1, "nic": 8, "leaf": 1}
    # 18 links x 25 GB/s = 450 GB/s each; a NIC to its GPU and to the fabric, 400 Gb/s.
    assert rates(machine, "nvlink") == {450.0: 8}
    assert rates(machine, "nic") == {50.0: 16}
    assert {link.links for link in machine.scale_up.links if link.tier == "nvlink"} == {18}
    assert noted(imported, "left out mlx5_4, mlx5_9")
    assert noted(imported, "left out CPU Affinity")
    # NIC5 is the PXB of GPU4: the storage NIC stands between them in the header.
    assert ("gpu4", "mlx5_5") in ends(machine, "nic")
    assert ("gpu4", "mlx5_4") not in ends(machine, "nic")


def test_chip_curves_and_sources_are_those_of_the_named_machine(tmp_path):
    _, machine = imported_file(tmp_path, "dgx-h100-topo.txt", H100)
    reference = load_machine(H100)
    assert machine.chip == reference.chip
    assert machine.scale_up.curves == reference.scale_up.curves
    assert machine.scale_up.fabric_curves == reference.scale_out.curves
    assert machine.scale_out is None
    text = {source.field: source.text for source in machine.sources}
    expected = {source.field: source.text for source in reference.sources}
    assert text["chip.hbm_GB"] == expected["chip.hbm_GB"]
    key = "achieved.default.derate"
    assert text[f"scale_up.{key}"] == expected[f"scale_up.{key}"]
    assert text[f"scale_up.fabric_{key}"] == expected[f"scale_out.{key}"]
    assert text["scale_up.links"] == (
        "nvidia-smi topo -m of dgx-h100-topo.txt; rate per NVLink, rate per NIC from h100-hgx"
    )
    assert {source.as_of for source in machine.sources} == {"2026-11"}


def test_name_is_that_of_the_written_file_unless_given(tmp_path):
    assert imported_file(tmp_path, "dgx-h100-topo.txt", H100)[1].name == "mynode"
    assert imported_file(tmp_path, "dgx-h100-topo.txt", H100, name='a "b"')[1].name == 'a "b"'
    assert "unusable name" in refusal(str(DATA / "dgx-h100-topo.txt"), name="a\nb")


def test_output_is_deterministic_and_survives_a_round_of_ideal(tmp_path):
    first, machine = imported_file(tmp_path, "hgx-h100-nccl.xml", H100)
    assert import_machine(str(DATA / "hgx-h100-nccl.xml"), H100) == first
    assert ideal(machine).scale_up.links == machine.scale_up.links


def test_tray_of_a_rack_with_dos_line_ends(tmp_path):
    imported, machine = imported_file(tmp_path, "gb200-tray-topo.txt", GB200)
    # Three peers with 18 links each are 54 of 18: a switch. 18 x 50 GB/s = 900 GB/s.
    assert kinds(machine) == {"chip": 4, "switch": 1, "nic": 4, "leaf": 1}
    assert rates(machine, "nvlink") == {900.0: 4}
    # No NIC shares a bridge with a GPU: all four are equally far from each of four.
    assert rates(machine, "nic") == {50.0: 16 + 4}
    assert noted(imported, "the nearest NICs are SYS")
    assert noted(imported, "a scale-up domain of gb200-nvl72 has 72 chips")
    assert machine.scale_up.unit == "node"


def test_cube_mesh_has_direct_links(tmp_path, v100):
    imported, machine = imported_file(tmp_path, "v100-cube-topo.txt", v100)
    # Each GPU has 6 links to 4 neighbours (1, 1, 2, 2): 8 x 4 / 2 = 16 pairs, of which
    # half are double. Two GPUs share each of four NICs: 8 + 4 links.
    assert kinds(machine) == {"chip": 8, "nic": 4, "leaf": 1}
    assert rates(machine, "nvlink") == {25.0: 8, 50.0: 8}
    assert rates(machine, "nic") == {12.5: 12}
    assert noted(imported, "scale-up domains by number of chips: 1 of 8")
    # No switch adds up in the network.
    assert load_machine(H100).scale_up.curves.kernel("in_network_all_reduce") is not None
    assert machine.scale_up.curves.kernel("in_network_all_reduce") is None
    assert noted(imported, "left out in_network_all_reduce")
    per_chip = Counter()
    for link in machine.scale_up.links:
        if link.tier == "nvlink":
            per_chip.update({link.a: link.links, link.b: link.links})
    assert set(per_chip.values()) == {6}


def test_a_missing_link_behind_switches_is_kept_and_noted(tmp_path):
    # GPU3 lost a link: every pair with it shows NV17, in its row and in its column.
    lines = sample("gb200-tray-topo.txt").split("\r\n")
    lines[1:4] = [
        "\t".join([*line.split("\t")[:4], "NV17", *line.split("\t")[5:]]) for line in lines[1:4]
    ]
    lines[4] = lines[4].replace("NV18", "NV17")
    imported = import_machine(write(tmp_path, "\r\n".join(lines)), GB200)
    # 18 x 50 = 900, 17 x 50 = 850
    assert rates(loaded(tmp_path, imported), "nvlink") == {900.0: 3, 850.0: 1}
    assert noted(imported, "17 of 18 NVLinks: gpu3")


def test_one_gpu_and_gpus_alone(tmp_path):
    one = write(tmp_path, "\tGPU0\tCPU Affinity\tNUMA Affinity\nGPU0\t X \t0-7\tN/A\n")
    assert kinds(loaded(tmp_path, import_machine(one, H100))) == {"chip": 1}
    two = write(tmp_path, "\tGPU0\tGPU1\nGPU0\tX\tNV18\nGPU1\tNV18\tX\n")
    imported = import_machine(two, H100)
    assert kinds(loaded(tmp_path, imported)) == {"chip": 2, "switch": 1}
    assert noted(imported, "no NIC is listed")


def test_gpu_that_lost_its_links_is_named(tmp_path):
    text = "\tGPU0\tGPU1\tGPU2\nGPU0\tX\tNV18\tNODE\nGPU1\tNV18\tX\tNODE\nGPU2\tNODE\tNODE\tX\n"
    imported = import_machine(write(tmp_path, text), H100)
    assert noted(imported, "no link connects these parts: gpu0, gpu1, nvswitch0; gpu2")
    assert noted(imported, "1 of 1, 1 of 2")
    assert noted(imported, "0 of 18 NVLinks: gpu2")


def test_rows_of_nics_may_be_missing(tmp_path):
    text = re.sub(r"^NIC\d+\t.*\n", "", sample("dgx-h100-topo.txt"), flags=re.MULTILINE)
    imported = import_machine(write(tmp_path, text), H100)
    assert kinds(loaded(tmp_path, imported))["nic"] == 8
    assert noted(imported, "no rows for NIC0")


def test_nics_without_a_legend_keep_their_column_names(tmp_path):
    text = sample("dgx-h100-topo.txt").partition("NIC Legend")[0]
    machine = loaded(tmp_path, import_machine(write(tmp_path, text), H100))
    assert ("gpu0", "nic0") in ends(machine, "nic")


def test_utf16_as_a_windows_shell_writes_it(tmp_path):
    text = sample("dgx-h100-topo.txt").encode("utf-16")
    assert import_machine(write(tmp_path, text), H100).num_chips == 8


def test_pcie_speed_is_taken_from_an_explicit_machine_or_asked_for(tmp_path):
    path = str(DATA / "pcie-topo.txt")
    message = refusal(path)
    assert "no NVLink" in message
    assert "NCCL_TOPO_DUMP_FILE" in message
    lender = import_machine(str(DATA / "pcie-nccl.xml"), H100)
    loaded(tmp_path, lender, "box.toml")
    imported = import_machine(path, str(tmp_path / "box.toml"))
    machine = loaded(tmp_path, imported)
    assert kinds(machine) == {"chip": 4, "nic": 2, "host": 1, "leaf": 1}
    # 16 lanes at 16 GT/s: 16 x 120 / 80 = 24 GB/s; the lender's NICs have 100 Gb/s.
    assert rates(machine, "pcie") == {24.0: 4}
    assert rates(machine, "nic") == {12.5: 4 + 2}
    assert noted(imported, "not of PCIe")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("GPU1\tNV18\t X \tNV18", "GPU1\tNV17\t X \tNV18",
         "GPU0 to GPU1 is NV18, GPU1 to GPU0 is NV17"),
        ("GPU1\tNV18\t X \tNV18", "GPU1\tNV18\t X \tQPI", "GPU1 towards GPU2 is 'QPI'"),
        ("GPU1\tNV18\t X \tNV18", "GPU1\tNV18\tNV18\tNV18", "GPU1 towards GPU1 is NV18"),
        ("GPU1\tNV18\t X \tNV18", "GPU1\tX\t X \tNV18", "GPU1 towards GPU0 is X"),
        ("GPU2\tNV18", "GPU9\tNV18", "a row GPU9, but no such column"),
        ("GPU7\tNIC0", "GPU6\tNIC0", "lists GPU6 twice in its header"),
        ("GPU7\tNIC0", "MIG 0\tNIC0", "a slice of a chip"),
        ("NIC9\tSYS", "NIC8\tSYS", "two rows NIC8"),
        ("  NIC1: mlx5_1", "  NIC1: mlx5_0", "'mlx5_0' appears twice"),
    ],
)  # fmt: skip
def test_malformed_tables(tmp_path, old, new, message):
    assert message in refusal(edited(tmp_path, "dgx-h100-topo.txt", old, new))


def test_cut_tables_name_the_place(tmp_path):
    lines = sample("dgx-h100-topo.txt").splitlines()
    assert "has no row GPU5: the table is cut" in refusal(write(tmp_path, "\n".join(lines[:6])))
    half = "\n".join([*lines[:5], lines[5][:30]])
    assert "topo.txt:6: row GPU4 has" in refusal(write(tmp_path, half))
    twice = "\n".join([*lines[:19], *lines[:19]])
    assert "topo.txt:20: holds a second table" in refusal(write(tmp_path, twice))
    # With the legend between them: the first host would hide the second.
    hosts = write(tmp_path, sample("dgx-h100-topo.txt") * 2)
    assert f"topo.txt:{len(lines) + 1}: holds a second table" in refusal(hosts)


def test_two_rows_of_a_gpu(tmp_path):
    text = "\tGPU0\tGPU1\nGPU0\tX\tNV18\nGPU0\tX\tNV18\nGPU1\tNV18\tX\n"
    assert "topo.txt:3: has two rows GPU0" in refusal(write(tmp_path, text))


def test_counts_that_no_wiring_explains(tmp_path, v100):
    dgx = str(DATA / "dgx-h100-topo.txt")
    assert "GPU0 shows NV18, a chip of v100.toml has 6 NVLinks" in refusal(dgx, v100)
    # GPU1 would have 8 of 6 links if they were direct; switches would join GPU0 and GPU2.
    rows = ("\tGPU0\tGPU1\tGPU2", "GPU0\tX\tNV4\tSYS", "GPU1\tNV4\tX\tNV4", "GPU2\tSYS\tNV4\tX")
    message = refusal(write(tmp_path, "\n".join(rows)), v100)
    assert "GPU0 to GPU2 is SYS, which fits neither direct links" in message
    # Without NVLinks of its own a machine has no rate to lend.
    assert "tpu-v5e has no NVLinks of one rate" in refusal(dgx, "tpu-v5e")


def test_direct_links_fewer_than_the_chip_has_are_noted():
    imported = import_machine(str(DATA / "v100-cube-topo.txt"), H100)
    assert noted(imported, "6 of 18 NVLinks: gpu0, gpu1, gpu2")


def test_nics_without_a_rate_are_asked_for(tmp_path):
    alone = "\tGPU0\tGPU1\nGPU0\tX\tNV18\nGPU1\tNV18\tX\n"
    loaded(tmp_path, import_machine(write(tmp_path, alone), H100), "nonic.toml")
    message = refusal(str(DATA / "dgx-h100-topo.txt"), str(tmp_path / "nonic.toml"))
    assert "lists NICs, and nonic.toml has no rate for them" in message


def test_matrix_of_fewer_links_than_the_chip_has(tmp_path):
    text = re.sub("NV18", "NV12", sample("dgx-h100-topo.txt"))
    message = refusal(write(tmp_path, text))
    assert "no pair shows more than NV12, a chip of h100-hgx has 18 NVLinks" in message
    assert "links_per_switch = [12]" in message


# --- NCCL topology XML ---------------------------------------------------------------


def test_hgx_h100_topology(tmp_path):
    imported, machine = imported_file(tmp_path, "hgx-h100-nccl.xml", H100)
    assert (imported.num_chips, imported.format) == (8, "nccl-xml")
    # Four distinct targets are four switches. 5, 4, 4, 5 links of 25 GB/s: two of 125 and
    # two of 100 GB/s for each of eight chips; NCCL's own 20.6 GB/s is not used.
    assert kinds(machine) == {"chip": 8, "switch": 4, "nic": 8, "leaf": 1}
    assert rates(machine, "nvlink") == {125.0: 16, 100.0: 16}
    # 400000 Mbit/s = 50 GB/s. PCIe carries 48 by NCCL's rule, but 64 raw: no limit.
    assert rates(machine, "nic") == {50.0: 16}
    assert ends(machine, "pcie") == set()
    switches = {link.b: 0 for link in machine.scale_up.links if link.tier == "nvlink"}
    for link in machine.scale_up.links:
        if link.tier == "nvlink":
            switches[link.b] += link.links
    # The catalogue's node has the same links per switch: 8 x 5, 4, 4, 5.
    assert [switches[f"nvswitch{i}"] for i in range(4)] == [40, 32, 32, 40]


def test_two_hosts_share_hidden_switches(tmp_path):
    imported, machine = imported_file(tmp_path, "two-trays-nccl.xml", GB200)
    assert kinds(machine) == {"chip": 8, "switch": 1, "nic": 8, "leaf": 1}
    # 18 links x 50 GB/s; each NIC under the bridge of its GPU.
    assert rates(machine, "nvlink") == {900.0: 8}
    assert rates(machine, "nic") == {50.0: 16}
    assert ("h1/gpu3", "h1/mlx5_3") in ends(machine, "nic")
    names = [node.name for node in machine.scale_up.nodes if node.kind == "chip"]
    assert names == [f"h{host}/gpu{i}" for host in range(2) for i in range(4)]
    assert noted(imported, "hidden: one node nvswitch0 stands for all, shared by all hosts")
    assert noted(imported, "left out elements: c2c (8)")
    assert machine.scale_up.unit == "rack"


def test_switches_with_bus_ids_belong_to_their_host(tmp_path):
    # Two hosts that both see a switch at the same bus id: these are two switches.
    text = sample("two-trays-nccl.xml").replace("fffffff:ffff:ff", "0000:05:00.0")
    imported = import_machine(write(tmp_path, text), GB200)
    machine = loaded(tmp_path, imported)
    assert ("h1/gpu0", "h1/nvswitch0") in ends(machine, "nvlink")
    assert kinds(machine)["switch"] == 2
    assert noted(imported, "2 of 4")
    assert not noted(imported, "no link connects")  # the fabric does


def test_file_of_a_cloud_says_what_is_missing():
    message = refusal(str(DATA / "cloud-nccl.xml"))
    assert "lists 8 GPUs and 8 NICs as PCI devices, but no <gpu>, <nvlink> or <net>" in message
    assert "NCCL_TOPO_DUMP_FILE" in message


def test_pcie_tree_shares_uplinks(tmp_path):
    imported, machine = imported_file(tmp_path, "pcie-nccl.xml", H100)
    # Two bridges with two GPUs each: 4 links down, 2 up, all 16 lanes at 16 GT/s,
    # 16 x 120 / 80 = 24 GB/s. A 100 Gb/s NIC at each bridge belongs to both of its GPUs.
    assert kinds(machine) == {"chip": 4, "switch": 2, "host": 1, "nic": 2, "leaf": 1}
    assert rates(machine, "pcie") == {24.0: 6}
    assert rates(machine, "nic") == {12.5: 4 + 2}
    assert ends(machine, "pcie") >= {("gpu3", "pcie1"), ("pcie1", "host")}
    assert noted(imported, "1 of 4")


@pytest.mark.parametrize(
    ("speed", "width", "rate"),
    # width x 7.5 x GT/s / 80
    [("8.0 GT/s PCIe", 16, 12.0), ("32 GT/s", 8, 24.0), ("64.0 GT/s PCIe", 16, 96.0)],
)
def test_pcie_rates(tmp_path, speed, width, rate):
    text = sample("pcie-nccl.xml").replace("16.0 GT/s PCIe", speed)
    text = text.replace('link_width="16"', f'link_width="{width}"')
    machine = loaded(tmp_path, import_machine(write(tmp_path, text), H100))
    assert rates(machine, "pcie") == {rate: 6}


def test_slow_bridge_limits_its_cables(tmp_path):
    # Only the bridge of the second CPU runs at 8 GT/s: 16 x 60 / 80 = 12 GB/s up.
    path = edited(
        tmp_path,
        "pcie-nccl.xml",
        '<pci busid="0000:40:00.0" class="0x060400" link_speed="16.0 GT/s PCIe"',
        '<pci busid="0000:40:00.0" class="0x060400" link_speed="8.0 GT/s PCIe"',
    )
    machine = loaded(tmp_path, import_machine(path, H100))
    assert rates(machine, "pcie") == {24.0: 5, 12.0: 1}


def test_nic_behind_a_narrow_pcie_link(tmp_path):
    # x4 at 16 GT/s is 8 GB/s raw, less than 12.5: NCCL's 4 x 120 / 80 = 6 GB/s holds.
    old = 'class="0x020000" link_speed="16.0 GT/s PCIe" link_width="16"'
    path = edited(tmp_path, "pcie-nccl.xml", old, old.replace('"16"', '"4"'), count=2)
    imported = import_machine(path, H100)
    assert rates(loaded(tmp_path, imported), "nic") == {6.0: 6}
    assert noted(imported, "eth0: 12.5 GB/s, but its PCIe link carries 6")


def test_pairs_in_a_virtual_machine(tmp_path, bridged):
    imported, machine = imported_file(tmp_path, "nvlink-pairs-nccl.xml", bridged)
    # 12 x 25 GB/s within each pair; one 100 Gb/s NIC, far from all but used by all.
    assert rates(machine, "nvlink") == {300.0: 2}
    assert kinds(machine) == {"chip": 4, "nic": 1, "leaf": 1}
    assert rates(machine, "nic") == {12.5: 4 + 1}
    assert noted(imported, "left out PCIe")
    assert noted(imported, "shared by chips of several scale-up domains: eth0")
    assert noted(imported, "2 of 2")


def test_speed_of_a_nic_may_be_missing(tmp_path):
    text = sample("hgx-h100-nccl.xml").replace('speed="400000" ', "", 1)
    text = text.replace('speed="400000"', 'speed="-1"', 1)
    imported = import_machine(write(tmp_path, text), H100)
    assert rates(loaded(tmp_path, imported), "nic") == {50.0: 16}
    assert noted(imported, "mlx5_0 has no speed: 50 GB/s as in h100-hgx")
    assert noted(imported, "mlx5_1 has no speed")
    assert "rate of NICs without speed from h100-hgx" in imported.text


def test_attributes_are_optional_and_strangers_are_noted(tmp_path):
    text = sample("hgx-h100-nccl.xml")
    for name in ("dev", "sm", "rank", "gdr", "numaid", "affinity", "arch", "vendor", "latency",
                 "device", "familyid", "modelid", "guid", "port", "tclass", "class"):  # fmt: skip
        text = re.sub(rf' {name}="[^"]*"', "", text)
    text = text.replace("</cpu>", "<fpga/><!-- later --></cpu>")
    imported = import_machine(write(tmp_path, text), H100)
    assert rates(loaded(tmp_path, imported), "nvlink") == {125.0: 16, 100.0: 16}
    assert noted(imported, "left out elements: fpga (2)")
    assert noted(imported, "taken as NVSwitches, having no tclass")


def test_ports_of_one_nic(tmp_path):
    net = '<net name="mlx5_0" dev="0" latency="0.0" speed="400000" port="1"'
    path = edited(
        tmp_path, "hgx-h100-nccl.xml", net, f'<net name="mlx5_0" port="2" speed="200000"/>{net}'
    )
    machine = loaded(tmp_path, import_machine(path, H100))
    # Port 2 of 200 Gb/s: one more NIC, joined to gpu0 and the fabric.
    assert rates(machine, "nic") == {50.0: 16, 25.0: 2}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('target="0002:00:00.0" count="12"', 'target="0002:00:00.0" count="11"',
         "gpu0 has 11 NVLinks to gpu1, gpu1 has 12 to gpu0"),
        ('target="0002:00:00.0" count="12"', 'target="0002:00:00.0" count="13"',
         ".xml:4: gpu0 has 13 NVLinks, a chip of a100.toml has 12"),
        ('target="0002:00:00.0" count="12"', 'target="0002:00:00.0" count="x"',
         ".xml:5: <nvlink> has count='x', not a whole number"),
        ('target="0002:00:00.0" count="12"', 'target="0002:00:00.0"',
         ".xml:5: has an <nvlink> without target or without a positive count"),
        ('target="0002:00:00.0"', 'target="0001:00:00.0"', "NVLinks to gpu0"),
        ('<pci busid="0002:00:00.0"', '<pci busid="0001:00:00.0"',
         ".xml:13: lists PCI device 0001:00:00.0 twice"),
        ('<pci busid="0002:00:00.0"', "<pci", ".xml:13: has a <pci> without busid"),
        ('<gpu dev="1"', '<gpu dev="0"', ".xml:14: 'gpu0' appears twice"),
        ("<system version", "<graphs version", "is not valid XML: mismatched tag"),
        ('<cpu numaid="1"', '<cpu host_hash="0x1" numaid="1"',
         ".xml:2: has <cpu> elements with and without host_hash"),
        ('<gpu dev="1" sm="80" rank="1" gdr="1">', '<gpu dev="7"/><gpu dev="1">',
         "2 gpu elements in PCI device 0002:00:00.0: slices of a chip"),
        ("<nic>", "<gpu/><nic>", ".xml:8: has a <gpu> where it cannot be"),
        ("<system version", "<!DOCTYPE s [<!ENTITY a 'b'>]><system version",
         ".xml:1: has a document type, which is refused"),
    ],
)  # fmt: skip
def test_malformed_topologies(tmp_path, bridged, old, new, message):
    path = edited(tmp_path, "nvlink-pairs-nccl.xml", old, new)
    assert message in refusal(path, bridged)


def test_names_of_gpus_and_devices_are_unique(tmp_path):
    path = edited(tmp_path, "pcie-nccl.xml", '<gpu dev="1"', '<gpu dev="0"')
    assert "'gpu0' appears twice" in refusal(path)
    path = edited(tmp_path, "pcie-nccl.xml", 'busid="0000:23:00.0"', 'busid="0000:22:00.0"')
    assert "lists PCI device 0000:22:00.0 twice" in refusal(path)
    path = edited(tmp_path, "pcie-nccl.xml", 'name="eth1"', 'name="fabric"')
    assert "'fabric' appears twice" in refusal(path)


def test_no_nvlink_and_no_pcie_speed(tmp_path):
    text = sample("pcie-nccl.xml").replace("16.0 GT/s PCIe", "").replace('"16"', '"0"')
    message = refusal(write(tmp_path, text))
    assert "topo.txt:5: gpu0 has neither NVLink nor a PCIe speed" in message


def test_switch_links_fewer_than_the_chip_has(tmp_path):
    text = sample("two-trays-nccl.xml").replace('count="18"', 'count="12"')
    message = refusal(write(tmp_path, text), GB200)
    assert "no GPU has more than 12 NVLinks to switches, a chip of gb200-nvl72 has 18" in message
    # One GPU with missing links is a fault of this node, and is kept.
    text = sample("two-trays-nccl.xml").replace('count="18"', 'count="16"', 1)
    imported = import_machine(write(tmp_path, text), GB200)
    assert noted(imported, "16 of 18 NVLinks: h0/gpu0")
    assert rates(loaded(tmp_path, imported), "nvlink") == {900.0: 7, 800.0: 1}


def test_links_to_gpus_outside_the_file(tmp_path, bridged):
    # A container that sees three of four GPUs.
    text = re.sub(
        r"  <cpu numaid=.3.*?</cpu>\n", "", sample("nvlink-pairs-nccl.xml"), flags=re.DOTALL
    )
    imported = import_machine(write(tmp_path, text), bridged)
    assert imported.num_chips == 3
    assert noted(imported, "left out NVLinks to GPUs that the file does not list: 0004:00:00.0")


# --- GraphML and node-link JSON ------------------------------------------------------


@pytest.mark.parametrize("name", ["two-nodes.graphml", "two-nodes.json"])
def test_graph_of_two_nodes(tmp_path, name):
    imported, machine = imported_file(tmp_path, name, H100)
    # nvswitch is a switch, core a spine.
    assert kinds(machine) == {"chip": 4, "switch": 2, "nic": 4, "leaf": 2, "spine": 1}
    assert rates(machine, "nvlink") == {450.0: 4}
    assert rates(machine, "nic") == {50.0: 8}
    assert rates(machine, "leaf-spine") == {100.0: 2}
    chips = [node.name for node in machine.scale_up.nodes if node.kind == "chip"]
    assert chips == ["n0/c0", "n0/c1", "n1/c0", "n1/c1"]
    by_tier = {link.tier: (link.scale_up, link.links) for link in machine.scale_up.links}
    assert by_tier == {"nvlink": (True, 18), "nic": (False, 1), "leaf-spine": (False, 2)}
    assert noted(imported, "left out attributes axis, latency_s")
    assert noted(imported, "2 of 2")


def test_formats_and_orders_of_one_graph_agree(tmp_path):
    first = import_machine(str(DATA / "two-nodes.json"), H100).text
    graph = networkx.read_graphml(DATA / "two-nodes.graphml")
    turned = networkx.Graph()
    turned.add_nodes_from(reversed(list(graph.nodes(data=True))))
    turned.add_edges_from((b, a, data) for a, b, data in reversed(list(graph.edges(data=True))))
    networkx.write_graphml(turned, tmp_path / "a.graphml")
    data = networkx.node_link_data(turned, edges="edges")
    texts = [
        import_machine(str(tmp_path / "a.graphml"), H100).text,
        import_machine(write(tmp_path, json.dumps(data), "b.json"), H100).text,
    ]
    for text in texts:
        ours, theirs = tomllib.loads(first), tomllib.loads(text)
        assert ours["scale_up"]["nodes"] == theirs["scale_up"]["nodes"]
        assert ours["scale_up"]["links"] == theirs["scale_up"]["links"]


def test_exported_machine_comes_back(tmp_path):
    topology = build_topology(resize(load_machine(H100), nodes=2))
    (tmp_path / "a.graphml").write_bytes(graphml(topology))
    write(tmp_path, json.dumps(node_link(topology)), "a.json")
    for name in ("a.graphml", "a.json"):
        machine = loaded(tmp_path, import_machine(str(tmp_path / name), H100))
        # 16 chips with 4 switches a node, a NIC each, 8 leaves; each leaf has 2 NICs below
        # and as much bandwidth above, to spines of 64 ports: 8 x 32 / 64 = 4.
        assert kinds(machine) == {"chip": 16, "switch": 8, "nic": 16, "leaf": 8, "spine": 4}
        assert rates(machine, "nvlink") == {125.0: 32, 100.0: 32}
        assert rates(machine, "nic") == {50.0: 32}
        back = build_topology(machine)
        assert back.chip_names == topology.chip_names
        assert [len(domain) for domain in back.domains] == [8, 8]


def two_chips(folder, *edges, nodes=(), **options):
    graph = {
        "nodes": [{"id": "a", "kind": "chip"}, {"id": "b", "type": "gpu"}, *nodes],
        "links": [{"source": "a", "target": "b", **edge} for edge in edges],
        **options,
    }
    return write(folder, json.dumps(graph), "graph.json")


def test_parallel_and_one_way_edges(tmp_path):
    # Two cables of 25 GB/s are one link of 50.
    path = two_chips(tmp_path, {"GB_per_s": 25}, {"bytes_per_s": 25e9}, multigraph=True)
    imported = import_machine(path, H100)
    (link,) = loaded(tmp_path, imported).scale_up.links
    assert (link.bytes_per_s, link.links, link.tier) == (50e9, 2, "link")
    assert noted(imported, "parallel edges are added up: a -- b")
    one_way = import_machine(two_chips(tmp_path, {"GB_per_s": 25}, directed=True), H100)
    assert noted(one_way, "taken to carry as much the other way: a -> b")
    back = {"GB_per_s": 25, "source": "b", "target": "a"}
    both = import_machine(two_chips(tmp_path, {"GB_per_s": 25}, back, directed=True), H100)
    (link,) = loaded(tmp_path, both).scale_up.links
    assert (link.bytes_per_s, link.links) == (25e9, 1)
    assert not noted(both, "other way")


def test_names_that_differ_in_zeros_alone(tmp_path):
    edges = [
        {"GB_per_s": rate, "source": a, "target": b}
        for rate, (a, b) in enumerate([("a", "c1"), ("a", "c01"), ("c01", "c1")], start=1)
    ]
    path = two_chips(
        tmp_path, *edges, nodes=[{"id": name, "kind": "nic"} for name in ("c1", "c01")]
    )
    links = loaded(tmp_path, import_machine(path, H100)).scale_up.links
    assert {(link.a, link.b): link.bytes_per_s / 1e9 for link in links} == {
        ("a", "c1"): 1.0,
        ("a", "c01"): 2.0,
        ("c01", "c1"): 3.0,
    }


@pytest.mark.parametrize(
    ("edges", "options", "message"),
    [
        ([{}], {}, "edge a -- b has no rate\n  give it bytes_per_s or GB_per_s"),
        ([{"GB_per_s": 0}], {}, "edge a -- b: GB_per_s = 0.0 is not a positive rate"),
        ([{"GB_per_s": -1}], {}, "not a positive rate"),
        ([{"GB_per_s": "fast"}], {}, "field 'GB_per_s': edge a -- b: expected `float"),
        ([{"GB_per_s": True}], {}, "field 'GB_per_s': edge a -- b: expected `float"),
        ([{"GB_per_s": 1e9}], {}, "1000000000 is outside"),
        ([{"GB_per_s": 1, "bytes_per_s": 1}], {}, "bytes_per_s and GB_per_s differ"),
        ([{"GB_per_s": 1, "links": 1.5}], {}, "links = 1.5 is not a positive count"),
        ([{"GB_per_s": 1, "target": "c"}], {}, "edge a -- c: there is no node c"),
        ([{"GB_per_s": 1, "target": "a"}], {}, "joins a node to itself"),
        ([{"GB_per_s": 1, "target": None}], {}, "edge 0: target is 'None', not a name"),
        ([{"GB_per_s": 1, "tier": "x"}, {"GB_per_s": 1, "tier": "y"}], {},
         "edge a -- b is there twice, as x and as y"),
        ([{"GB_per_s": 1}, {"GB_per_s": 2, "source": "b", "target": "a"}], {"directed": True},
         "differs in its two directions"),
        ([], {"nodes": [{"id": "c"}]}, "node c has no kind"),
        ([], {"nodes": [{"id": "c", "kind": "toaster"}]}, "node c is of unknown kind 'toaster'"),
        ([], {"nodes": [{"id": "a", "kind": "nic"}]}, "'a' appears twice"),
        ([], {"nodes": [{"id": "", "kind": "nic"}]}, "unusable name ''"),
        ([], {"nodes": [{"id": "x\ny", "kind": "nic"}]}, "unusable name"),
        ([], {"nodes": [{"kind": "nic"}]}, "nodes[2].id is 'None', not a name"),
        ([], {"edges": []}, "has both 'links' and 'edges'"),
    ],
)  # fmt: skip
def test_malformed_graphs(tmp_path, edges, options, message):
    assert message in refusal(two_chips(tmp_path, *edges, **options))


def test_names_are_escaped(tmp_path):
    nodes = [
        {"id": 'q"\\', "kind": "chip"},
        {"id": [0, 1], "kind": "chip"},
        {"id": "π", "kind": "nic"},
    ]
    path = two_chips(tmp_path, {"GB_per_s": 1, "tier": 'x"y'}, nodes=nodes)
    machine = loaded(tmp_path, import_machine(path, H100))
    assert [node.name for node in machine.scale_up.nodes] == ["0,1", "a", "b", 'q"\\', "π"]
    assert machine.scale_up.links[0].tier == 'x"y'


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('<data key="d0">core</data>', '<data key="d9">core</data>', "data of unknown key 'd9'"),
        ('<data key="d0">core</data>', "", "node spine0 has no kind"),
        ('<graph edgedefault="undirected">', '<graph/><graph edgedefault="undirected">',
         "has 2 graphs"),
        ('<node id="spine0">', '<node id="spine0"><graph/>', "has a graph inside a node"),
        ('<node id="spine0">', "<node>", "has a <node> without id"),
        ("</graph>", "<hyperedge/></graph>", "has a <hyperedge>"),
        ('key id="d2" for="edge" attr.name="bytes_per_s"', 'key id="d2" attr.name="speed"',
         "has no rate"),
        ("</graphml>", "", "the file seems to be cut"),
    ],
)  # fmt: skip
def test_malformed_graphml(tmp_path, old, new, message):
    assert message in refusal(edited(tmp_path, "two-nodes.graphml", old, new))


def test_defaults_and_types_of_graphml(tmp_path):
    text = """<graphml><key id="k" for="node" attr.name="kind"><default>chip</default></key>
    <key id="r" for="edge" attr.name="GB_per_s"/><key id="l" for="edge" attr.name="links"/>
    <key id="s" for="edge" attr.name="scale_up"/>
    <graph edgedefault="directed"><node id="a"/><node id="b"/>
    <edge source="a" target="b" directed="false"><data key="r">2.5</data><data key="l">2.0</data>
    <data key="s">false</data></edge></graph></graphml>"""
    (link,) = loaded(tmp_path, import_machine(write(tmp_path, text), H100)).scale_up.links
    assert (link.bytes_per_s, link.links, link.scale_up) == (2.5e9, 2, False)


# --- files that are something else ---------------------------------------------------


def test_chip_is_asked_for():
    message = refusal(str(DATA / "hgx-h100-nccl.xml"), None)
    assert "--chip h100-hgx names the machine whose chip and link rates to use" in message
    assert "unknown machine 'h1000'" in refusal(str(DATA / "hgx-h100-nccl.xml"), "h1000")


def test_format_can_be_forced(tmp_path):
    path = str(DATA / "two-nodes.graphml")
    assert import_machine(path, H100, kind="graphml").format == "graphml"
    assert "starts with <graphml>, not with <system>" in refusal(path, kind="nccl-xml")
    assert "has no header line" in refusal(path, kind="topo")
    assert "is not valid JSON" in refusal(path, kind="json")
    assert "not with <graphml>" in refusal(str(DATA / "pcie-nccl.xml"), kind="graphml")
    assert "write topo, nccl-xml, graphml, json" in refusal(path, kind="yaml")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b" \n\t\n", "is empty"),
        (b"\x7fELF\x02\x01\x01\x00\xff", "is not UTF-8 text"),
        (b"PK\x03\x04\x00\x00", "is not a text file"),
        (b'Switch\t65 "S-0002"', "is in none of the formats"),
        (b"<html><body/></html>", "starts with <html>, not with <system>"),
        (b"<system", "the file seems to be cut"),
        (b"<system version='1'></system>", "has no <gpu> element"),
        (b"<a>" * 100, "deeply nested"),
        (
            b"<system><cpu>%s</cpu></system>"
            % b"".join(b'<pci busid="%d"><gpu/></pci>' % i for i in range(1025)),
            "1025 GPUs on one host",
        ),
        (b"{", "topo.txt:1: is not valid JSON"),
        (b'{"nodes": [{},\n {]', "topo.txt:2: is not valid JSON"),
        (b'{"blocks": []}', "is no node-link graph"),
        (b'{"nodes": []}', "has neither 'links' nor 'edges'"),
        (b'{"nodes": [], "links": []}', "has no chip"),
        (b'{"nodes": ' + b"[" * 100000, "is"),
        (b"GPU0 GPU1\n", "has no row GPU0"),
        (b"\tGPU0\tGPU1\nGPU0\tX\t" + b"N" * 70000, "the line is too long"),
    ],
)
def test_files_of_other_kinds(tmp_path, content, message):
    assert message in refusal(write(tmp_path, content))


def test_entity_bombs_are_refused(tmp_path):
    bomb = "".join(f'<!ENTITY a{i} "{f"&a{i - 1};" * 10 if i else "x"}">' for i in range(12))
    for root in ("system", "graphml"):
        text = f'<?xml version="1.0"?>\n<!DOCTYPE {root} [{bomb}]>\n<{root}>&a11;</{root}>'
        assert "topo.txt:2: has a document type" in refusal(write(tmp_path, text))


def test_things_that_are_no_files(tmp_path):
    assert "no such file" in refusal(str(tmp_path / "none.txt"))
    assert "is a folder" in refusal(str(tmp_path))
    assert "cannot be read" in refusal("a\0b")
    os.mkfifo(tmp_path / "pipe")
    assert "is a pipe or a device" in refusal(str(tmp_path / "pipe"))
    assert "is a pipe or a device" in refusal(os.devnull)
    with open(tmp_path / "big.txt", "wb") as file:
        file.truncate(64_000_001)
    assert "has 64 MB, more than 64 MB" in refusal(str(tmp_path / "big.txt"))


@pytest.mark.parametrize("name", sorted(path.name for path in DATA.iterdir()))
def test_damaged_files_never_end_in_a_traceback(tmp_path, name):
    """Cut, doubled, swapped and overwritten pieces of every sample."""
    rng = random.Random(name)
    data = (DATA / name).read_bytes()
    noise = b'0123456789<>"{}[]-,NVXGPU\t\n'
    for _ in range(60):
        a, b = sorted(rng.sample(range(len(data)), 2))
        piece = data[a : min(b, a + 40)]
        damaged = rng.choice(
            [
                data[:a],
                data[:a] + data[b:],
                data[:a] + piece + data[a:],
                data[:b] + piece + data[b + len(piece) :],
                data[:a] + bytes(rng.choices(noise, k=3)) + data[a + 3 :],
            ]
        )
        path = write(tmp_path, damaged, name)
        try:
            imported = import_machine(path, H100)
        except PlannerError:
            continue
        # What is accepted can be read back.
        assert loaded(tmp_path, imported).num_chips == imported.num_chips
