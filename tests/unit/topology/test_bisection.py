"""Least cuts of domains and fabrics against brute force and by hand."""

import itertools
import random
from dataclasses import replace

import networkx
import numpy as np
import pytest

from planner.catalog.machine_size import sized
from planner.catalog.machines import load_machine
from planner.domain.hardware import Sizing, Wounds
from planner.domain.scale_up import (
    GraphDomain,
    GraphLink,
    GraphNode,
    MeshDomain,
    SwitchDomain,
    SwitchLevel,
    Torus,
)
from planner.topology import splits
from planner.topology.bisection import (
    domain_egress,
    scale_out_bisection,
    scale_up_bisections,
)
from planner.topology.build import build_topology
from planner.topology.splits import domain_parts, least_cut

H100 = load_machine("h100-hgx")


def built(scale_up, **changes):
    size = {"num_domains": 1, "scale_out": None, **changes}
    return build_topology(replace(H100, scale_up=scale_up, **size))


def graph_machine(names, links, **changes):
    """``names`` starting with c are chips; links are (a, b, GB/s[, scale_up])."""
    kinds = {"c": "chip", "s": "switch", "n": "nic", "l": "leaf"}
    domain = GraphDomain(
        unit="node",
        nodes=tuple(GraphNode(name=name, kind=kinds[name[0]]) for name in names),
        links=tuple(
            GraphLink(a=a, b=b, bytes_per_s=rate * 1e9, tier="link", scale_up=(*up, True)[0])
            for a, b, rate, *up in links
        ),
        curves=H100.scale_up.curves,
        fabric_curves=H100.scale_out.curves,
    )
    return built(domain, **changes)


def brute_force(topology):
    """Least maximum flow over all splits of the only domain, by another solver."""
    graph = networkx.Graph()
    for a, b, link in topology.graph.edges(data=True):
        if link["scale_up"]:
            graph.add_edge(a, b, capacity=link["bytes_per_s"])
    names = topology.chip_names
    least = float("inf")
    for half in itertools.combinations(names, len(names) // 2):
        joined = graph.copy()
        for name in names:
            joined.add_edge("half" if name in half else "rest", name)  # no capacity: unbounded
        least = min(least, networkx.maximum_flow_value(joined, "half", "rest"))
    return least


def cut(topology):
    (found,) = scale_up_bisections(topology)
    return found


@pytest.mark.parametrize("seed", range(12))
def test_wounded_switch_domains_match_brute_force(seed):
    rng = random.Random(seed)
    chips, switches = rng.choice([(5, 2), (6, 3), (7, 2)])
    level = SwitchLevel(
        span=chips,
        links_per_switch=tuple(rng.randint(1, 3) for _ in range(switches)),
        link_bytes_per_s=10e9,
    )
    domain = SwitchDomain(unit="node", chips=chips, levels=(level,), curves=H100.scale_up.curves)
    links = [f"link:n0/c{a}--n0/sw{b}" for a in range(chips) for b in range(switches)]
    dead, slow = rng.sample(links, 1), rng.sample(links, 2)
    wounds = Wounds(
        without=tuple(dead), degrade=tuple((name, rng.choice([0.25, 0.5])) for name in slow)
    )
    topology = built(domain, wounds=wounds)
    assert len(topology.domains) == 1
    found = cut(topology)
    assert found.bytes_per_s == pytest.approx(brute_force(topology), rel=1e-9)
    assert not found.is_bound


@pytest.mark.parametrize("seed", range(8))
def test_explicit_graphs_with_joined_switches_match_brute_force(seed):
    rng = random.Random(seed)
    chips = [f"c{index}" for index in range(6)]
    switches = [f"s{index}" for index in range(4)]
    links = [(chip, rng.choice(switches), rng.randint(1, 9)) for chip in chips]
    links += [
        (chip, f"s{index}", 5)
        for index, chip in enumerate(chips[:4])
        if (chip, f"s{index}") not in {(a, b) for a, b, _ in links}
    ]
    links += [(a, b, rng.randint(1, 9)) for a, b in itertools.combinations(switches, 2)]
    links += [("c0", "c1", 2), ("c4", "c5", 3)]
    topology = graph_machine(chips + switches, links)
    found = cut(topology)
    assert found.bytes_per_s == pytest.approx(brute_force(topology), rel=1e-9)
    assert found.method == "least of all halves"


def test_many_joined_switches_take_a_flow(monkeypatch):
    links = [("c0", "s0", 3), ("c1", "s0", 3), ("c2", "s2", 3), ("c3", "s2", 3)]
    links += [("s0", "s1", 2), ("s1", "s2", 4)]
    topology = graph_machine(["c0", "c1", "c2", "c3", "s0", "s1", "s2"], links)
    # Between the pairs lies the thin trunk of 2; within a pair there are 3.
    assert cut(topology).bytes_per_s == 2e9
    monkeypatch.setattr(splits, "MAX_TRIED_SWITCHES", 2)
    (part,) = domain_parts(topology.network, range(1))
    assert least_cut(part).bytes_per_s == 2e9


def test_a_mesh_of_two_cliques():
    # Cliques of 4 with links of 10, joined by one link of 10: the cut is that link.
    pairs = [
        (a, b, 1) for base in (0, 4) for a, b in itertools.combinations(range(base, base + 4), 2)
    ]
    mesh = MeshDomain(
        unit="node",
        chips=8,
        pairs=(*pairs, (3, 4, 1)),
        link_bytes_per_s=10e9,
        curves=H100.scale_up.curves,
    )
    assert cut(built(mesh)).bytes_per_s == 10e9


def test_an_odd_full_mesh():
    pairs = tuple((a, b, 2) for a, b in itertools.combinations(range(5), 2))
    mesh = MeshDomain(
        unit="node", chips=5, pairs=pairs, link_bytes_per_s=10e9, curves=H100.scale_up.curves
    )
    assert cut(built(mesh)).bytes_per_s == 2 * 3 * 20e9  # 2 chips against 3


def test_large_meshes_get_an_upper_bound_that_finds_clusters():
    # Two cliques of 12 interleaved in the list, joined by three links.
    evens, odds = range(0, 24, 2), range(1, 24, 2)
    pairs = [pair for group in (evens, odds) for pair in itertools.combinations(group, 2)]
    pairs += [(0, 1), (2, 3), (4, 5)]
    mesh = MeshDomain(
        unit="node",
        chips=24,
        pairs=tuple((*pair, 1) for pair in pairs),
        link_bytes_per_s=1e9,
        curves=H100.scale_up.curves,
    )
    found = cut(built(mesh))
    assert found.bytes_per_s == 3e9
    assert found.is_bound and found.method.endswith("halves tried")


def two_parts(trunk_links):
    level = SwitchLevel(span=8, links_per_switch=(1, 1), link_bytes_per_s=10e9)
    return SwitchDomain(
        unit="rack",
        chips=8,
        levels=(level,),
        curves=H100.scale_up.curves,
        parts=2,
        trunk_links=trunk_links,
    )


@pytest.mark.parametrize(
    ("trunk_links", "gb_per_s"),
    # Between the cabinets: 2 switches x trunk links x 10. Across both: 2 + 2 chips x 20.
    [(1, 20), (3, 60), (4, 80), (9, 80)],
)
def test_two_cabinets_are_cut_at_their_trunks_if_these_are_thin(trunk_links, gb_per_s):
    assert cut(built(two_parts(trunk_links))).bytes_per_s == gb_per_s * 1e9


def test_levels_of_switches():
    # 12 chips in runs of 4 with 30 inside and 10 across: half of them is one run and two
    # chips of the next: 6 x 10 across and 2 x 30 inside.
    levels = (
        SwitchLevel(span=4, links_per_switch=(3,), link_bytes_per_s=10e9),
        SwitchLevel(span=12, links_per_switch=(1,), link_bytes_per_s=10e9),
    )
    domain = SwitchDomain(unit="rack", chips=12, levels=levels, curves=H100.scale_up.curves)
    healthy = built(domain)
    assert cut(healthy).bytes_per_s == 120e9
    (part,) = domain_parts(healthy.network, range(1))
    assert least_cut(part).bytes_per_s == 120e9
    # Without one chip: 5 of 11, a whole run of 4 and one chip of another run.
    wounded = built(domain, wounds=Wounds(without=("chip:r0/c0",)))
    assert cut(wounded).bytes_per_s == 5 * 10e9 + 30e9


@pytest.mark.parametrize("name", ["h100-hgx", "gb200-nvl72", "h800-hgx"])
def test_the_formula_of_a_healthy_domain_is_the_least_cut(name):
    topology = build_topology(load_machine(name))
    (part,) = domain_parts(topology.network, range(1))
    found = least_cut(part)
    assert found.complete
    assert found.bytes_per_s == pytest.approx(cut(topology).bytes_per_s, rel=1e-12)


def torus(shape, full, rates):
    domain = Torus(
        unit="slice",
        full_shape=full,
        link_bytes_per_s=rates,
        curves=H100.scale_up.curves,
        max_chips=10**6,
    )
    return lambda **changes: built(domain, shape=shape, **changes)


def test_the_slow_axis_of_a_torus_may_be_the_cheaper_cut():
    # Across x: 4 lines of 10. Across y: 4 lines of 1.
    found = cut(torus((4, 4), (8, 8), (10e9, 1e9))())
    assert (found.bytes_per_s, found.method) == (4e9, "plane across axis y")


def test_a_small_torus_matches_brute_force():
    for shape, full in (((4, 2), (8, 8)), ((4, 2), (4, 8)), ((3, 2), (3, 2))):
        topology = torus(shape, full, (10e9, 10e9))()
        assert cut(topology).bytes_per_s == pytest.approx(brute_force(topology), rel=1e-9)


def test_a_ring_without_a_chip_is_a_line():
    # 8 chips in a ring; without one the other 7 form a line that one cut divides.
    ring = torus((8,), (8,), (10e9,))
    assert cut(ring()).bytes_per_s == 20e9
    assert cut(ring(wounds=Wounds(without=("chip:x3",)))).bytes_per_s == 10e9


def test_dead_links_of_a_torus():
    # 4 x 4 lines: the middle plane across x has 4 links; three of them dead leave one.
    make = torus((4, 4), (8, 8), (10e9, 10e9))
    dead = tuple(f"link:x1y{y}--x2y{y}" for y in range(3))
    found = cut(make(wounds=Wounds(without=dead)))
    assert (found.bytes_per_s, found.method) == (10e9, "plane across axis x")


def test_a_sliver_is_no_half():
    # 8 x 2 without most of the second row: x0y1 hangs on by one link, which halves nothing.
    make = torus((8, 2), (16, 16), (10e9, 1e9))
    dead = tuple(f"chip:x{x}y1" for x in range(1, 8))
    found = cut(make(wounds=Wounds(without=dead)))
    assert (found.bytes_per_s, found.method) == (10e9, "plane across axis x")


# --- between domains -------------------------------------------------------------------


def nodes(count, **fabric):
    return replace(H100, num_domains=count, scale_out=replace(H100.scale_out, **fabric))


def test_oversubscribed_leaves_bind_between_units_only():
    # 4 nodes in units of 2, leaves of 2 downlinks and 1 uplink: 8 leaves x 50 GB/s per unit.
    spec = nodes(4, domains_per_unit=2, oversubscription=2.0)
    assert scale_out_bisection(build_topology(spec)).bytes_per_s == 8 * 50e9
    # In one unit the halves meet at the leaves: two nodes x 400 GB/s.
    one = nodes(4, domains_per_unit=4, oversubscription=2.0)
    assert scale_out_bisection(build_topology(one)).bytes_per_s == 800e9


def test_an_odd_number_of_domains():
    assert scale_out_bisection(build_topology(nodes(5))).bytes_per_s == 2 * 400e9


def test_the_weakest_half_is_found_among_many():
    # 10 nodes; NICs 0 to 3 of the last five are dead: 5 x 4 x 50 GB/s.
    dead = tuple(f"nic:n{node}/c{nic}" for node in range(5, 10) for nic in range(4))
    spec = replace(nodes(10), wounds=Wounds(without=dead))
    found = scale_out_bisection(build_topology(spec))
    assert found.bytes_per_s == 5 * 4 * 50e9
    assert found.is_bound and found.method == "least of 2 halves tried of the nodes"


def test_three_tiers_carry_half_of_a_full_fat_tree():
    topology = build_topology(nodes(1024))
    assert scale_out_bisection(topology).bytes_per_s == pytest.approx(512 * 400e9, rel=1e-9)


def test_shared_nics_send_once():
    spec = nodes(2, chips_per_nic=2)
    topology = build_topology(spec)
    assert domain_egress(topology).tolist() == [200e9, 200e9]  # 4 NICs
    assert scale_out_bisection(topology).bytes_per_s == 200e9


def test_egress_of_a_graph_is_a_flow():
    # Two chips behind one NIC of 50, and a direct link of 5 from c1 to c2 of the other domain.
    links = [
        ("c0", "c1", 100),
        ("c2", "c3", 100),
        ("c0", "n0", 40, False),
        ("c1", "n0", 40, False),
        ("n0", "l0", 50, False),
        ("c2", "n1", 30, False),
        ("n1", "l0", 50, False),
        ("c1", "c2", 5, False),
    ]
    topology = graph_machine(["c0", "c1", "c2", "c3", "n0", "n1", "l0"], links)
    assert [set(domain) for domain in topology.domains] == [{0, 1}, {2, 3}]
    assert domain_egress(topology).tolist() == [55e9, 35e9]
    assert scale_out_bisection(topology).bytes_per_s == 35e9


def test_alike_domains_are_cut_once(monkeypatch):
    calls = []
    monkeypatch.setattr(
        "planner.topology.bisection.least_cut",
        lambda part: calls.append(part) or least_cut(part),
    )
    spec = replace(nodes(6), wounds=Wounds(without=("chip:n2/c1",)))
    found = [item.bytes_per_s for item in scale_up_bisections(build_topology(spec))]
    assert len(calls) == 2
    assert np.allclose(found, [1.8e12, 1.8e12, 1.35e12, 1.8e12, 1.8e12, 1.8e12])


def test_size_options_reach_the_bisection():
    topology = build_topology(sized(load_machine("tpu-v5e"), Sizing(shape=(8, 4))))
    assert cut(topology).bytes_per_s == 4 * 50e9
