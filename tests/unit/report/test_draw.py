"""Drawings of machines: complete, legible, escaped, bounded."""

import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections import Counter
from dataclasses import replace

import pytest

from planner.catalog.machine_size import resize
from planner.catalog.machines import load_machine, machine_names
from planner.domain.hardware import Wounds
from planner.domain.scale_up import GraphDomain, GraphLink, GraphNode
from planner.report.draw import draw_topology
from planner.report.draw.canvas import Sheet, fit, wrap
from planner.report.draw.switch_rows import spread
from planner.topology.build import build_topology
from planner.topology.builders import build_network
from planner.topology.network import KINDS

SVG = "{http://www.w3.org/2000/svg}"
EVIL = '<x a="1">&\'\x07'


def machine(name, without=(), degrade=(), usable=(), **size):
    spec = resize(load_machine(name) if isinstance(name, str) else name, **size)
    wounds = Wounds(without=tuple(without), degrade=tuple(degrade), usable=tuple(usable))
    return build_topology(replace(spec, wounds=wounds))


def as_graph(spec, rename=lambda name: name):
    """The same machine as an explicit list of nodes and links."""
    network = build_network(spec)
    names = [rename(name) for name in network.names]
    nodes = [
        GraphNode(name=n, kind=KINDS[k]) for n, k in zip(names, network.kinds.tolist(), strict=True)
    ]
    links = [
        GraphLink(
            a=names[a],
            b=names[b],
            bytes_per_s=float(network.bytes_per_s[link]),
            tier=rename(network.tier_names[int(network.tiers[link])]),
            scale_up=bool(network.scale_up[link]),
            links=int(network.cables[link]),
        )
        for link, (a, b) in enumerate(network.ends.tolist())
    ]
    graph = GraphDomain(
        unit="node",
        nodes=tuple(nodes),
        links=tuple(links),
        curves=spec.scale_up.curves,
        fabric_curves=spec.scale_up.curves,
    )
    return replace(spec, scale_up=graph, scale_out=None, num_domains=1, shape=())


def drawn(topology):
    return ET.fromstring(draw_topology(topology))


def titles(root, look):
    """First line of the tooltips of all shapes of one class."""
    shapes = [e for e in root.iter() if look in e.get("class", "").split()]
    return [e.find(f"{SVG}title").text.split("\n")[0] for e in shapes if len(e)]


def text_boxes(root):
    """Each text with its box: 0.6 em a character, 0.8 em above and 0.2 em below the line."""
    boxes = []
    for text in root.iter(f"{SVG}text"):
        size = float(text.get("font-size"))
        width = 0.6 * size * len(text.text)
        shift = {"start": 0.0, "middle": 0.5, "end": 1.0}[text.get("text-anchor", "start")]
        x, y = float(text.get("x")) - shift * width, float(text.get("y"))
        boxes.append((x, y - 0.8 * size, x + width, y + 0.2 * size, text.text))
    return boxes


def overlaps(boxes, slack=0.15):
    """Pairs of texts that touch; coordinates in the file are rounded to 0.1."""
    found = []
    active = []
    for box in sorted(boxes):
        active = [other for other in active if other[2] > box[0] + slack]
        for other in active:
            if other[1] < box[3] - slack and box[1] < other[3] - slack:
                found.append((other[4], box[4]))
        active.append(box)
    return found


def outside(root):
    """Texts and rectangles that leave the page."""
    left, top, width, height = map(float, root.get("viewBox").split())
    boxes = text_boxes(root)
    for rect in root.iter(f"{SVG}rect"):
        x, y = float(rect.get("x")), float(rect.get("y"))
        right, bottom = x + float(rect.get("width")), y + float(rect.get("height"))
        boxes.append((x, y, right, bottom, rect.get("class")))
    return [
        box
        for box in boxes
        if box[0] < left - 0.1
        or box[1] < top - 0.1
        or box[2] > left + width + 0.1
        or box[3] > top + height + 0.1
    ]


def check(topology, kilobytes=1000):
    svg = draw_topology(topology)
    assert len(svg) < 1000 * kilobytes
    root = ET.fromstring(svg)
    assert overlaps(text_boxes(root)) == []
    assert outside(root) == []
    one_by_one = titles(root, "chip")
    assert len(set(one_by_one)) == len(one_by_one)
    assert set(one_by_one) <= set(topology.chip_names)
    counted = sum(int(e.get("data-chips", 0)) for e in root.iter())
    assert len(one_by_one) + counted == topology.num_chips
    assert not set(titles(root, "lost")) & set(topology.chip_names)
    return root


HEALTHY = [
    *((name, {}) for name in machine_names()),
    ("gb200-nvl72", {"racks": 2}),
    ("gb200-nvl72", {"racks": 8}),
    ("gb200-nvl72", {"racks": 32}),
    ("gb200-nvl72", {"racks": 128}),
    ("h100-hgx", {"nodes": 4}),
    ("h100-hgx", {"nodes": 5}),
    ("h100-hgx", {"nodes": 32}),
    ("h100-hgx", {"nodes": 33}),
    ("h100-hgx", {"nodes": 512}),
    ("tpu-v5e", {"shape": (1, 1)}),
    ("tpu-v5e", {"shape": (4, 8)}),
]
LATER = [
    ("gb200-nvl36x2", {"racks": 3}),
    ("gb200-nvl36x2", {"racks": 8}),
    ("vr200-nvl72", {"racks": 7}),
    ("trn3", {"racks": 2}),
    ("trn3", {"racks": 9}),
    ("v100-dgx", {"nodes": 4}),
    ("v100-dgx", {"nodes": 20}),
    ("mi300x-hgx", {"nodes": 3}),
    ("gaudi3", {"nodes": 40}),
    ("b300-hgx", {"nodes": 4}),
    ("tpu-v5p", {"shape": (8, 8, 16)}),
    ("tpu-v5p", {"shape": (16, 16, 24)}),
    ("tpu-v5p", {"shape": (1, 1, 16)}),
    ("tpu-v5p", {"shape": (2, 2, 1)}),
    ("tpu-v5p", {"shape": (8, 4, 8)}),
    ("tpu-v5p", {"slices": 8}),
    ("tpu-v5p", {"slices": 200}),
    ("tpu-v5e", {"slices": 4}),
    ("trn2", {"shape": (4, 4, 4)}),
    ("trn1", {"nodes": 40}),
]
HEALTHY += [case for case in LATER if case[0] in machine_names()]


@pytest.mark.parametrize(("name", "size"), HEALTHY, ids=str)
def test_every_machine_of_the_catalogue(name, size):
    check(machine(name, **size))


WOUNDED = [
    (
        "gb200-nvl72",
        {},
        ["chip:r0/t3/c2", "tray:r0/t7", "switch:r0/sw5", "link:r0/t1/c0--r0/sw3", "leaf:su0/leaf3"],
        [("link:r0/t5/c1--r0/sw7", 0.5), ("switch:r0/sw10", 0.5), ("nic:r0/t13/c1", 0.25)],
    ),
    ("gb200-nvl72", {"racks": 2}, ["link:r0/*--r0/sw3", "rack:r1"], [("tray:r0/t2", 0.9)]),
    ("gb200-nvl72", {"racks": 64}, ["chip:r*/t3/c2", "rack:r40", "spine:spine30"], []),
    (
        "h100-hgx",
        {"nodes": 4},
        ["chip:n0/c3", "switch:n1/sw2", "link:n2/c0--n2/sw1", "leaf:su0/leaf5", "nic:n3/c6"],
        [("link:n2/*--n2/sw3", 0.5), ("link:n0/c6/nic--su0/leaf6", 0.5), ("spine:spine1", 0.5)],
    ),
    ("h100-hgx", {"nodes": 32}, ["node:n9", "link:n2/c0--n2/sw1"], [("link:n2/c5--n2/sw3", 0.5)]),
    (
        "h100-hgx",
        {"nodes": 512},
        ["node:n40", "chip:n41/*", "leaf:su9/leaf1"],
        [("chip:n1/c1", 0.5)],
    ),
    (
        "tpu-v5e",
        {},
        ["chip:x3y5", "link:x10y3--x11y3", "link:x0y9--x15y9", "chip:x7y*"],
        [("link:x12y12--x13y12", 0.5), ("link:x12y12--x12y13", 0.5), ("chip:x9y11", 0.5)],
    ),
    ("tpu-v5e", {"shape": (4, 4)}, [], [("link:*--*", 0.333)]),
]


@pytest.mark.parametrize("case", WOUNDED, ids=lambda case: f"{case[0]} {case[1]}")
def test_wounded_machines(case):
    name, size, without, degrade = case
    topology = machine(name, without=without, degrade=degrade, **size)
    root = check(topology)
    words = " ".join(text for *_, text in text_boxes(root))
    lost = topology.spec.num_chips - topology.num_chips
    if lost:
        assert f"lost: {lost:,} of {topology.spec.num_chips:,} chips" in words


def levels(*spans, switches=1):
    (level,) = load_machine("h100-hgx").scale_up.levels
    return tuple(replace(level, span=n, links_per_switch=(1,) * switches) for n in spans)


UNUSUAL = {
    "narrow cabinets": {"chips": 4, "levels": levels(4), "parts": 2, "trunk_links": 1}
    | {"chips_per_tray": 2, "unit": "rack"},
    "three cabinets": {"chips": 54, "levels": levels(54, switches=18), "parts": 3}
    | {"chips_per_tray": 2, "trunk_links": 36, "unit": "rack"},
    "one chip": {"chips": 1, "levels": levels(1)},
    "many chips": {"chips": 300, "levels": levels(300, switches=20)},
    "far too many chips": {"chips": 5000, "levels": levels(5000, switches=2)},
    "three levels": {"chips": 96, "levels": levels(4, 24, 96, switches=5), "chips_per_tray": 4},
    "many switches": {"chips": 72, "levels": levels(72, switches=72), "chips_per_tray": 8},
}


@pytest.mark.parametrize("name", UNUSUAL)
@pytest.mark.parametrize("count", [1, 3, 40])
def test_unusual_machines(name, count):
    spec = load_machine("h100-hgx")
    scale_up = replace(spec.scale_up, **UNUSUAL[name])
    spec = replace(spec, scale_up=scale_up, num_domains=count)
    without = ["chip:*0/*c0"] if count > 1 else []
    check(machine(spec, without=without, degrade=[("leaf:su0/leaf1", 0.5)]))


def test_lost_parts_stay_in_their_place_as_crossed_boxes():
    without = ["chip:n0/c3", "switch:n1/sw2", "leaf:su0/leaf5", "nic:n0/c6"]
    root = drawn(machine("h100-hgx", without=without, nodes=2))
    # NIC 3 of the first node goes with its only chip.
    lost = {"n0/c3", "n0/c3/nic", "n1/sw2", "su0/leaf5", "n0/c6/nic"}
    assert set(titles(root, "lost")) == lost
    healthy = drawn(machine("h100-hgx", nodes=2))

    def place(root, name):
        (found,) = (
            e
            for e in root.iter(f"{SVG}rect")
            if len(e) and e.find(f"{SVG}title").text.startswith(f"{name}\n")
        )
        return found.get("x"), found.get("y")

    assert all(place(root, name) == place(healthy, name) for name in lost)
    crosses = [e for e in root.iter() if e.get("class") == "x"]
    # One on each lost part and one in each of the four lines of the legend (chips,
    # switches, NICs, leaves).
    assert len(crosses) == len(lost) + 4


def test_links_that_are_slow_or_cut_are_drawn_and_labelled():
    root = drawn(
        machine(
            "h100-hgx",
            without=["link:n0/c0--n0/sw1"],
            degrade=[("link:n0/c5--n0/sw3", 0.25)],
        )
    )
    assert titles(root, "cut") == ["n0/c0--n0/sw1"]
    assert titles(root, "dash") == ["n0/c5--n0/sw3"]
    words = Counter(text for *_, text in text_boxes(root))
    assert words["25 %"] == 1
    assert words["cut"] == 1
    # 8 chips x 4 switches less the two.
    assert len(titles(root, "up")) == 30


def test_a_slow_switch_is_marked_itself_not_by_its_links():
    root = drawn(machine("h100-hgx", degrade=[("switch:n0/sw1", 0.5)]))
    assert titles(root, "slow") == ["n0/sw1"]
    assert titles(root, "dash") == []


def test_every_link_of_a_cube_mesh_is_drawn_double_ones_twice_as_wide():
    root = drawn(machine("v100-dgx"))
    lines = [e for e in root.iter(f"{SVG}path") if "up" in e.get("class", "").split() and len(e)]
    widths = Counter(float(line.get("stroke-width")) for line in lines)
    # DGX-1V: 16 pairs, 8 of them joined by two links: 24 links, 6 at each of 8 chips, halved.
    assert sorted(widths.values()) == [8, 8]


def test_bandwidths_stand_in_the_legend():
    words = [text for *_, text in text_boxes(drawn(machine("h100-hgx", nodes=2)))]
    # 2 nodes x 8 chips x 2 switches of either kind; chips and leaves are the ends of 16 NICs.
    assert "nvlink: 5 × 25 GB/s = 125 GB/s, 32 links" in words
    assert "nvlink: 4 × 25 GB/s = 100 GB/s, 32 links" in words
    assert "nic: 50 GB/s, 32 links" in words


def test_racks_beyond_eight_are_counted():
    root = drawn(machine("gb200-nvl72", racks=32))
    boxes = {e.get("data-chips") for e in root.iter() if e.get("data-chips")}
    assert boxes == {"1728"}
    words = [text for *_, text in text_boxes(root)]
    assert "… 24 more racks" in words
    assert "1,728 chips" in words


def test_wounded_domains_far_away_are_drawn_nevertheless():
    root = drawn(machine("gb200-nvl72", racks=32, without=["chip:r20/t3/c2"]))
    assert "r20/t3/c2" in titles(root, "lost")
    assert "r20/t3/c1" in titles(root, "chip")


def test_32768_chips_are_small_and_quick():
    topology = machine("h100-hgx", nodes=4096)
    start = time.perf_counter()
    check(topology)
    assert time.perf_counter() - start < 10


def test_a_torus_too_large_is_counted_by_rows_and_planes():
    spec = load_machine("tpu-v5e")
    wide = replace(spec.scale_up, full_shape=(64, 64), max_chips=4096)
    spec = replace(spec, scale_up=wide, shape=(64, 64), scale_out=None)
    root = check(machine(spec, without=["chip:x3y60"]))
    words = [text for *_, text in text_boxes(root)]
    # 2048 chips are 32 of 64 rows; the dead chip is among the others.
    assert "… 32 more rows: 2,047 chips (1 lost)" in words


@pytest.mark.parametrize(
    ("name", "size", "without"),
    [
        ("h100-hgx", {"nodes": 2}, ["chip:n0/c1", "switch:n1/sw3", "link:n1/c0--n1/sw0"]),
        ("h100-hgx", {"nodes": 12}, ["chip:n11/c1", "chip:n11/c5"]),
        ("tpu-v5e", {"shape": (3, 4)}, ["link:x0y0--x1y0"]),
    ],
)
def test_explicit_graphs(name, size, without):
    spec = as_graph(resize(load_machine(name), **size))
    root = check(machine(spec, without=without))
    lost = {text.partition(":")[2] for text in without if text.startswith("chip")}
    assert lost <= set(titles(root, "lost"))


def test_a_graph_of_nothing_but_chips_is_a_circle():
    spec = load_machine("tpu-v5e")
    ring = replace(spec.scale_up, full_shape=(6,), link_bytes_per_s=(5e10,), max_chips=6)
    root = check(machine(as_graph(replace(spec, scale_up=ring, shape=(6,), scale_out=None))))
    chips = [e for e in root.iter(f"{SVG}rect") if "chip" in e.get("class").split() and len(e)]
    # Opposite chips of a circle have the same middle.
    middles = {
        (
            round(float(a.get("x")) + float(b.get("x")), 1),
            round(float(a.get("y")) + float(b.get("y")), 1),
        )
        for a, b in zip(chips[:3], chips[3:], strict=True)
    }
    assert max(x for x, _ in middles) - min(x for x, _ in middles) < 0.3
    assert max(y for _, y in middles) - min(y for _, y in middles) < 0.3


def test_words_of_the_user_are_escaped():
    spec = resize(load_machine("h100-hgx"), nodes=2)
    spec = replace(spec, chip=replace(spec.chip, name=EVIL), name=EVIL, summary=EVIL)
    graph = as_graph(spec, rename=lambda name: EVIL + name)
    for topology in (machine(spec), machine(graph, without=[f"chip:{EVIL}n0/c1"])):
        root = check(topology) if topology.spec.scale_out else drawn(topology)
        shown = EVIL.replace("\x07", "�")
        assert not [e for e in root.iter() if e.tag.endswith("}x")]
        assert root.find(f"{SVG}title").text.startswith(shown)
        words = " ".join(text for *_, text in text_boxes(root))
        assert shown in words


def test_long_words_do_not_break_the_page():
    spec = load_machine("h100-hgx")
    long = "W" * 400
    spec = replace(spec, name=long, summary=f"{long} {long}", chip=replace(spec.chip, name=long))
    root = check(machine(spec))
    assert float(root.get("viewBox").split()[2]) < 1500


def test_kinds_of_chips_differ():
    spec = resize(load_machine("h100-hgx"), nodes=3)
    other = replace(spec.chip, name="other", hbm_bytes=1e11)
    root = check(machine(replace(spec, mix=((1, other),))))
    assert sorted(titles(root, "k1")) == [f"n1/c{chip}" for chip in range(8)]
    tips = [e.text for e in root.iter(f"{SVG}title")]
    assert "n1/c0\nother, HBM 100 GB" in tips


def test_the_page_says_what_it_is():
    root = drawn(machine("gb200-nvl72", without=["chip:r0/t3/c2"]))
    assert root.get("role") == "img"
    labels = root.get("aria-labelledby").split()
    assert [root.find(f"*[@id='{label}']").tag for label in labels] == [f"{SVG}title", f"{SVG}desc"]
    assert "lost: 1 of 72 chips" in root.find(f"{SVG}desc").text
    paper = next(root.iter(f"{SVG}rect"))
    assert paper.get("class") == "paper"
    assert [paper.get(key) for key in ("x", "y", "width", "height")] == root.get("viewBox").split()


def test_the_same_machine_gives_the_same_drawing():
    code = (
        "from planner.catalog.machines import load_machine\n"
        "from planner.report.draw import draw_topology\n"
        "from planner.topology.build import build_topology\n"
        "print(draw_topology(build_topology(load_machine('gb200-nvl72'))), end='')\n"
    )
    runs = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            check=True,
            text=True,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path), "PYTHONUTF8": "1"},
        ).stdout
        for seed in ("1", "2")
    }
    assert runs == {draw_topology(machine("gb200-nvl72"))}


def test_the_drawing_library_is_loaded_when_something_is_drawn():
    code = "import sys, planner.report.draw; print('drawsvg' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert run.stdout.strip() == "False"


def test_text_is_cut_and_wrapped_to_a_width():
    # 0.6 em of 10 is 6 a letter: 30 hold five, one of them the ellipsis.
    assert fit("abcde", 30, 10) == "abcde"
    assert fit("abcdef", 30, 10) == "abcd…"
    # A wide letter takes 11: two do not fit, one and the ellipsis do.
    assert fit("你好", 21, 10) == "你…"
    assert wrap("aa bb ccc dddddddd", 30, 10) == ["aa bb", "ccc", "dddd…"]


def test_a_row_spreads_as_little_as_it_must():
    # Distances of 10: 0 and 4 move apart by 3 each, 40 stays.
    assert spread([0, 4, 40], [8, 8, 8], gap=2) == pytest.approx([-3, 7, 40])
    # All three want 5: the middle one gets it.
    assert spread([5, 5, 5], [10, 10, 10], gap=0) == pytest.approx([-5, 5, 15])
    # Unequal boxes: centres 1.5 + 1 + 0.5 apart.
    assert spread([0, 0], [3, 1], gap=1) == pytest.approx([-1.5, 1.5])


def test_a_remark_takes_the_first_free_place_or_none():
    sheet = Sheet()
    sheet.text((0, 0), "taken", 10)
    sheet.remark([(5, 0), (100, 50)], "free")
    sheet.remark([(5, 0), (100, 50)], "homeless")
    root = ET.fromstring(sheet.to_svg("", ""))
    assert [text for *_, text in text_boxes(root)] == ["taken", "free"]
    assert overlaps(text_boxes(root)) == []


def test_the_helper_finds_overlaps():
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 100 100">'
        '<text x="10" y="20" font-size="10">abcd</text>'
        '<text x="{x}" y="20" font-size="10">e</text></svg>'
    )
    # Four characters of 6 from 10 on end at 34.
    assert overlaps(text_boxes(ET.fromstring(svg.format(x=33)))) == [("abcd", "e")]
    assert overlaps(text_boxes(ET.fromstring(svg.format(x=35)))) == []
    assert outside(ET.fromstring(svg.format(x=95)))
