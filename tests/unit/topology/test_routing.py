"""Link loads against a routing of single pairs, hand-made cases and what must be conserved."""

import itertools
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from network_factory import (
    CUBE_MESH,
    ICI,
    LEAF,
    LEAF_SPINE,
    NIC,
    NIC_NODE,
    NVLINK,
    SPINE_CORE,
    SWITCH,
    Wiring,
    full_mesh,
    leaf_spine,
    mesh,
    nvl72,
    pods,
    random_groups,
    random_network,
    relabelled,
    switch_domains,
    torus,
    with_rates,
    without_chip,
    without_links,
)
from route_oracle import message_arcs

from planner.errors import SpecError
from planner.topology.quotient import find_symmetry
from planner.topology.routing import busiest_link, ecmp_loads
from planner.topology.scopes import exchange_scopes
from planner.topology.torus_routing import torus_loads
from planner.topology.traffic import Exchange, Matrix

EXACT = {"rtol": 1e-9, "atol": 1e-9}


def by_hand(network, source, target):
    """Share of each arc of one byte from one chip to another, shape ``[links, 2]``."""
    start, arcs = message_arcs(network, source, target)
    places = {start, *(there for _, there, _, _ in arcs)}
    distance = {place: 0 if place[0] == target else np.inf for place in places}
    for _ in places:
        for here, there, link, _ in arcs:
            distance[here] = min(distance[here], distance[there] + network.hops[link])
    shares = np.zeros((network.num_links, 2))
    flow = defaultdict(float, {start: 1.0})
    for place in sorted(places, key=lambda place: -distance[place]):
        if flow[place] == 0 or place[0] == target:
            continue
        nexts = [
            (there, link, direction)
            for here, there, link, direction in arcs
            if here == place and distance[there] + network.hops[link] == distance[place]
        ]
        total = sum(network.bytes_per_s[link] for _, link, _ in nexts)
        for there, link, direction in nexts:
            share = flow[place] * network.bytes_per_s[link] / total
            flow[there] += share
            shares[link, direction] += share
    return shares


def loads_by_hand(network, groups, num_bytes=1.0):
    return num_bytes * sum(
        by_hand(network, source, target)
        for group in groups
        for source, target in itertools.permutations(group.tolist(), 2)
    )


def loads_of(network, traffic, engine="auto"):
    loads = ecmp_loads(network, traffic, engine=engine)
    return np.stack((loads.forward, loads.backward), axis=1)


def everyone(network):
    return (np.arange(network.num_chips),)


def split(network, *sizes):
    return tuple(np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1]))


def wounded_spine():
    """Two domains of three chips under two leaves and spines, one uplink at half speed."""
    network = leaf_spine(2, 3, 2)
    return with_rates(network, {network.num_links - 1: 0.5})


def mixed_domain():
    """A ring of four chips that are also joined by one switch of links twice as fast."""
    wiring = Wiring()
    chips = wiring.chips(4, 0)
    switch = wiring.node(SWITCH, 0)
    for a, b in zip(chips, [*chips[1:], chips[0]], strict=True):
        wiring.link(a, b, 1.0, ICI)
    for chip in chips:
        wiring.link(chip, switch, 2.0, NVLINK)
    return wiring.network()


def pods_with_local_and_far_groups():
    """Groups of two domains: one within a pod, two across pods; the same sizes throughout."""
    network = pods(4, 2, 2)
    domains = np.arange(16).reshape(8, 2)
    groups = [(0, 1), (2, 4), (3, 5), (6, 7)]
    return network, tuple(domains[list(pair)].reshape(-1) for pair in groups)


CASES = {
    "switch domain": lambda: (switch_domains(1, 5, 3)[0].network(),),
    "degraded link": lambda: (with_rates(switch_domains(1, 4, 2)[0].network(), {0: 0.5}),),
    "two domains": lambda: (leaf_spine(2, 3, 2),),
    "half-speed uplink": lambda: (wounded_spine(),),
    "dead nvlink": lambda: (without_links(leaf_spine(2, 3, 2), [1]),),
    "groups across domains": lambda: (leaf_spine(3, 4, 2), split(None, 6, 3, 3)),
    "part of a domain": lambda: (leaf_spine(2, 4, 2), (np.array([0, 2, 5]),)),
    # Pieces of 4 and 3, 3 and 4, 1 and 1 chips on the two leaves: marginal counts are equal.
    "pieces across leaves": lambda: (
        leaf_spine(3, 8, 1),
        (np.array([0, 1, 2, 3, 4, 5, 6, 8, 9, 11, 12, 13, 14, 15, 16, 17]),),
    ),
    "pods": lambda: (pods(2, 2, 2),),
    "local and far groups": pods_with_local_and_far_groups,
    "torus": lambda: (torus((4, 3))[0],),
    "torus, dead chip": lambda: (
        without_chip(torus((4, 4))[0], 5),
        (np.delete(np.arange(16), 5),),
    ),
    "cube mesh": lambda: (mesh(8, CUBE_MESH),),
    "full mesh": lambda: (full_mesh(5),),
    "mixed domain": lambda: (mixed_domain(),),
}


@pytest.mark.parametrize("engine", ["auto", "dense", "folded"])
@pytest.mark.parametrize("name", CASES)
def test_loads_are_those_of_single_pairs(name, engine):
    network, *groups = CASES[name]()
    groups = groups[0] if groups else everyone(network)
    found = loads_of(network, Exchange(groups=groups, bytes_per_pair=3.0), engine)
    np.testing.assert_allclose(found, loads_by_hand(network, groups, 3.0), **EXACT)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.sampled_from(["dense", "folded"]))
def test_loads_of_random_networks_are_those_of_single_pairs(seed, engine):
    network = random_network(seed)
    groups = random_groups(network, seed)
    found = loads_of(network, Exchange(groups=groups), engine)
    np.testing.assert_allclose(found, loads_by_hand(network, groups) if groups else 0.0, **EXACT)


def random_pods(seed):
    """Regular pods of which some chips are missing and some links slow; random groups."""
    rng = np.random.default_rng(seed)
    shape = rng.integers(1, 4), rng.integers(1, 5), rng.choice([2, 3, 4])
    network = pods(
        *map(int, shape), leaves=int(rng.choice([1, 2, 4])), spines=int(rng.choice([1, 2]))
    )
    chips = np.arange(network.num_chips)
    if rng.random() < 0.5:
        chips = np.delete(chips, rng.permutation(chips)[: len(chips) // 4])
    if rng.random() < 0.3:
        chips = rng.permutation(chips)
    for _ in range(rng.integers(0, 3)):
        network = with_rates(network, {int(rng.integers(network.num_links)): 0.5})
    size = min(int(rng.choice([2, 3, 4, 8, 16, 64])), len(chips))
    return network, tuple(chips[: len(chips) // size * size].reshape(-1, size))


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6))
def test_folding_symmetric_networks_is_exact(seed):
    network, groups = random_pods(seed)
    exchange = Exchange(groups=groups)
    np.testing.assert_allclose(
        loads_of(network, exchange, "folded"), loads_of(network, exchange, "dense"), **EXACT
    )


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6))
def test_a_matrix_adds_up_its_pairs(seed):
    network = random_network(seed)
    rng = np.random.default_rng(seed)
    chips = rng.permutation(network.num_chips)[: rng.integers(1, network.num_chips + 1)]
    num_bytes = rng.integers(0, 3, (len(chips), len(chips))).astype(float)
    np.fill_diagonal(num_bytes, 0.0)
    expected = sum(
        (
            num_bytes[i, j] * by_hand(network, chips[i], chips[j])
            for i, j in itertools.permutations(range(len(chips)), 2)
        ),
        start=np.zeros((network.num_links, 2)),
    )
    found = loads_of(network, Matrix(chips=chips, num_bytes=num_bytes))
    np.testing.assert_allclose(found, expected, **EXACT)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.sampled_from(["dense", "folded"]))
def test_every_node_passes_on_what_it_does_not_keep(seed, engine):
    network = random_network(seed)
    groups = random_groups(network, seed)
    loads = loads_of(network, Exchange(groups=groups), engine)
    out = np.zeros(network.num_nodes)
    into = np.zeros(network.num_nodes)
    for column, (tail, head) in enumerate(((0, 1), (1, 0))):
        np.add.at(out, network.ends[:, tail], loads[:, column])
        np.add.at(into, network.ends[:, head], loads[:, column])
    # A chip sends to and receives from the same partners; what it forwards it also received.
    np.testing.assert_allclose(out, into, **EXACT)
    forwards = (network.ends < network.num_chips).all(axis=1) & network.scale_up
    if not forwards.any():
        for group in groups:
            np.testing.assert_allclose(out[group], len(group) - 1, **EXACT)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.sampled_from(["dense", "folded"]))
def test_numbering_does_not_matter(seed, engine):
    network = random_network(seed)
    groups = random_groups(network, seed)
    other, number = relabelled(network, seed)
    before = loads_of(network, Exchange(groups=groups), engine)
    after = loads_of(other, Exchange(groups=tuple(number[group] for group in groups)), engine)
    ends = {tuple(ends): row for ends, row in zip(other.ends.tolist(), after, strict=True)}
    for (a, b), row in zip(number[network.ends].tolist(), before, strict=True):
        twin = ends[a, b] if (a, b) in ends else ends[b, a][::-1]
        np.testing.assert_allclose(twin, row, **EXACT)


def test_one_rack_of_72_chips():
    # Every chip sends 71 bytes over 18 equal links of 50: 71 / 900 = 0.07889 s.
    network = nvl72()
    busiest = busiest_link(network, ecmp_loads(network, Exchange(groups=everyone(network))))
    assert busiest.seconds == pytest.approx(71 / 900, rel=1e-12)
    assert (busiest.link, busiest.tier) == (0, "nvlink")


@pytest.mark.parametrize(
    ("shape", "seconds"),
    # Across the middle of the longest axis, (N/2)**2 bytes each way over two faces of links of
    # 50: 512**2 / 128 / 50 and 3072**2 / 512 / 50.
    [((8, 8, 16), 40.96), ((16, 16, 24), 368.64)],
)
def test_a_healthy_torus_is_limited_by_its_bisection(shape, seconds):
    network, coords = torus(shape, rates=(50.0, 50.0, 50.0))
    traffic = Exchange(groups=everyone(network))
    loads = torus_loads(network, shape, (True,) * 3, traffic, coords)
    busiest = busiest_link(network, loads)
    assert busiest.seconds == pytest.approx(seconds, rel=1e-12)
    assert network.axes[busiest.link] == 2
    folded = ecmp_loads(network, traffic, engine="folded")
    np.testing.assert_allclose(folded.forward, loads.forward, rtol=1e-9)


def test_traffic_splits_in_proportion_to_bandwidth():
    # One byte from chip 0 over two switches of 1 and 3; each keeps its part to the end.
    network = with_rates(switch_domains(1, 2, 2, rate=1.0)[0].network(), {2: 3.0})
    traffic = Matrix(chips=np.array([0, 1]), num_bytes=np.array([[0.0, 1.0], [0.0, 0.0]]))
    loads = ecmp_loads(network, traffic)
    np.testing.assert_allclose(loads.forward, [0.25, 0, 0.75, 0])
    np.testing.assert_allclose(loads.backward, [0, 0.25, 0, 0.75])


def test_chips_forward_between_direct_links_only():
    # From chip 0 to chip 2: over chip 1, over chip 3 (rate 1 each), over the switch (rate 2).
    network = mixed_domain()
    traffic = Matrix(chips=np.array([0, 2]), num_bytes=np.array([[0.0, 1.0], [0.0, 0.0]]))
    over = loads_of(network, traffic).sum(axis=1)
    np.testing.assert_allclose(over, [0.25, 0.25, 0.25, 0.25, 0.5, 0, 0.5, 0])


def test_a_chip_does_not_join_a_direct_link_to_a_switch():
    wiring = Wiring()
    chips = wiring.chips(3, 0)
    switch = wiring.node(SWITCH, 0)
    wiring.link(chips[0], chips[1], 1.0, ICI)
    wiring.link(chips[1], switch, 1.0, NVLINK)
    wiring.link(chips[2], switch, 1.0, NVLINK)
    network = wiring.network()
    with pytest.raises(SpecError, match=r"chips n\d and n\d are not connected") as error:
        ecmp_loads(network, Exchange(groups=(np.array([0, 2]),)))
    assert error.value.remedy
    # Its own messages may use either.
    loads = loads_of(network, Exchange(groups=(np.array([0, 1]),)))
    np.testing.assert_allclose(loads, [[1, 1], [0, 0], [0, 0]])


@pytest.mark.parametrize("engine", ["dense", "folded"])
def test_chips_without_a_path_are_named(engine):
    network = leaf_spine(2, 2, 1)
    cut = without_chip(network, 3)  # no link of chip 3 is left
    with pytest.raises(SpecError, match="n3"):
        ecmp_loads(cut, Exchange(groups=(np.array([0, 3]),)), engine=engine)
    with pytest.raises(SpecError, match="n3"):
        ecmp_loads(cut, Exchange(groups=(np.array([2, 3]),)), engine=engine)
    # Whoever does not talk to it does not mind.
    ecmp_loads(cut, Exchange(groups=(np.array([0, 1, 2]),)), engine=engine)


def test_longer_links_are_avoided():
    # Two switches; the first is two hops further away, so all goes over the second.
    wiring = Wiring()
    chips = wiring.chips(2, 0)
    for hops in (2, 1):
        switch = wiring.node(SWITCH, 0)
        for chip in chips:
            wiring.link(chip, switch, 1.0, NVLINK, hops=hops)
    loads = loads_of(wiring.network(), Exchange(groups=(np.array([0, 1]),)))
    np.testing.assert_allclose(loads, [[0, 0], [0, 0], [1, 1], [1, 1]])


def test_chips_of_no_domain_talk_over_the_fabric():
    # Four chips on one leaf, in no domain: three bytes out and in over every link.
    wiring = Wiring()
    chips = wiring.chips(4, -1)
    leaf = wiring.node(LEAF)
    for chip in chips:
        wiring.link(chip, leaf, 1.0, NIC)
    for engine in ("dense", "folded"):
        loads = loads_of(wiring.network(), Exchange(groups=(np.arange(4),)), engine)
        np.testing.assert_allclose(loads, 3.0)


def ring_and_triangles():
    """Leaves in a hexagon and in two triangles, all on one slow core, one chip each.

    Every leaf has two neighbours and the core, so that refinement sees one class; but chips
    of the hexagon have fewer near neighbours than those of the triangles.
    """
    wiring = Wiring()
    for domain in range(12):
        wiring.chips(1, domain)
    leaves = [wiring.node(LEAF) for _ in range(12)]
    core = wiring.node(LEAF)  # of the same kind, so that no level is said to be below it
    for chip, leaf in enumerate(leaves):
        wiring.link(chip, leaf, 10.0, NIC)
        wiring.link(leaf, core, 1.0, SPINE_CORE)
    cycles = ([0, 1, 2, 3, 4, 5], [6, 7, 8], [9, 10, 11])
    for cycle in cycles:
        for a, b in zip(cycle, [*cycle[1:], cycle[0]], strict=True):
            wiring.link(leaves[a], leaves[b], 5.0, LEAF_SPINE)
    return wiring.network()


def test_what_is_not_symmetric_is_not_folded():
    network = ring_and_triangles()
    exchange = Exchange(groups=everyone(network))
    symmetry = find_symmetry(exchange_scopes(network, exchange).outside)
    assert len(symmetry.chips) == 1  # so that folding alone would be wrong here
    found = loads_of(network, exchange, "folded")
    np.testing.assert_allclose(found, loads_by_hand(network, exchange.groups), **EXACT)


def test_local_and_far_groups_are_told_apart():
    network, groups = pods_with_local_and_far_groups()
    scope = exchange_scopes(network, Exchange(groups=groups)).outside
    # Chips sit on leaf 0 or leaf 1 of a group that stays in its pod or does not: at most four
    # classes, and never one that mixes near with far groups.
    symmetry = find_symmetry(scope)
    far = np.isin(scope.nodes[scope.talkers], np.concatenate(groups[1:3]))
    kinds = symmetry.node_class[scope.talkers]
    assert not set(kinds[far]) & set(kinds[~far])
    assert len(symmetry.chips) <= 4


def test_pieces_below_one_leaf_are_told_apart():
    network, groups = CASES["pieces across leaves"]()
    scope = exchange_scopes(network, Exchange(groups=groups)).outside
    kinds = find_symmetry(scope).node_class[scope.talkers]
    # Chips 0, 2, 4, 6 share a leaf and a domain, so do 1, 3, 5: seven per domain either way.
    assert len(set(kinds[[0, 2, 4, 6]])) == len(set(kinds[[1, 3, 5]])) == 1
    assert kinds[0] != kinds[1]


def test_partners_of_unlike_chips_are_told_apart():
    # Pairs (0, 2) and (1, 3) across two domains; only the NIC of chip 0 is slow. Chip 2 talks
    # to a chip that differs from the partner of chip 3.
    network = with_rates(leaf_spine(2, 2, 1, leaves=1), {4: 0.5})
    groups = (np.array([0, 2]), np.array([1, 3]))
    scope = exchange_scopes(network, Exchange(groups=groups)).outside
    assert network.ends[4].tolist()[0] == 0
    assert len(set(find_symmetry(scope).node_class[scope.talkers].tolist())) == 4


def test_equal_domains_are_computed_once():
    network = leaf_spine(4, 3, 2)
    scopes = exchange_scopes(network, Exchange(groups=everyone(network)))
    assert [part.links.shape for part in scopes.inside] == [(4, 6)]
    # A slow link makes one of them different; so does a group that ends inside of one.
    slow = with_rates(network, {7: 0.5})
    parts = exchange_scopes(slow, Exchange(groups=everyone(slow))).inside
    assert sorted(len(part.links) for part in parts) == [1, 3]
    parts = exchange_scopes(network, Exchange(groups=(np.arange(11),))).inside
    assert sorted(len(part.links) for part in parts) == [1, 3]


def test_many_groups_with_little_in_common_are_folded_one_by_one():
    # 14 domains of 3 chips, every third chip missing somewhere else, in groups of 5: folding
    # all groups at once finds many classes; both ways must agree with following every chip.
    network = leaf_spine(14, 3, 1, leaves=3, spines=2)
    rng = np.random.default_rng(3)
    chips = np.delete(np.arange(42), rng.permutation(42)[:7])
    exchange = Exchange(groups=tuple(chips.reshape(7, 5)))
    scope = exchange_scopes(network, exchange).outside
    assert len(find_symmetry(scope).chips) > 4 * 5
    np.testing.assert_allclose(
        loads_of(network, exchange, "folded"), loads_of(network, exchange, "dense"), **EXACT
    )


def torus_by_hand(network, shape, wraps, coords, pairs):
    """Follow every message link by link, axis by axis."""
    chip_at = {tuple(place): chip for chip, place in enumerate(coords.tolist())}
    arcs = {}
    for link, (a, b) in enumerate(network.ends.tolist()):
        arcs[a, b], arcs[b, a] = (link, 0), (link, 1)
    loads = np.zeros((network.num_links, 2))
    for source, target, num_bytes in pairs:
        here = coords[source].tolist()
        for axis, length in enumerate(shape):
            there = int(coords[target, axis])
            up, down = (there - here[axis]) % length, (here[axis] - there) % length
            ways = [(1, up, 0.5), (-1, down, 0.5)]
            if not wraps[axis]:
                ways = [(1, up, 1.0)] if there > here[axis] else [(-1, down, 1.0)]
            elif up != down:
                ways = [(1, up, 1.0)] if up < down else [(-1, down, 1.0)]
            for sign, steps, share in ways:
                place = list(here)
                for _ in range(steps if up else 0):
                    following = list(place)
                    following[axis] = (following[axis] + sign) % length
                    loads[arcs[chip_at[tuple(place)], chip_at[tuple(following)]]] += (
                        share * num_bytes
                    )
                    place = following
            here[axis] = there
    return loads


@pytest.mark.parametrize(
    ("shape", "wraps"),
    [
        ((8,), (False,)),
        ((4, 4), (True, True)),
        ((5, 3), (True, True)),
        ((4, 2), (True, False)),
        ((4, 1), (True, False)),
        ((2, 2, 2), (False, False, False)),
        ((4, 3, 2), (True, False, False)),
        ((3, 4, 4), (True, True, True)),
    ],
)
def test_torus_messages_take_one_axis_after_the_other(shape, wraps):
    network, coords = torus(shape, wraps=wraps)
    n = network.num_chips
    rng = np.random.default_rng(n)
    halves = tuple(rng.permutation(n)[: n // 2 * 2].reshape(2, -1))
    for groups in (everyone(network), halves):
        pairs = [(*pair, 2.0) for group in groups for pair in itertools.permutations(group, 2)]
        traffic = Exchange(groups=groups, bytes_per_pair=2.0)
        loads = torus_loads(network, shape, wraps, traffic, coords)
        expected = torus_by_hand(network, shape, wraps, coords, pairs)
        np.testing.assert_allclose(np.stack((loads.forward, loads.backward), 1), expected)
    num_bytes = rng.random((n, n))
    np.fill_diagonal(num_bytes, 0.0)
    pairs = [(a, b, num_bytes[a, b]) for a, b in itertools.permutations(range(n), 2)]
    traffic = Matrix(chips=np.arange(n), num_bytes=num_bytes)
    loads = torus_loads(network, shape, wraps, traffic, coords)
    expected = torus_by_hand(network, shape, wraps, coords, pairs)
    np.testing.assert_allclose(np.stack((loads.forward, loads.backward), 1), expected)


def two_tori():
    """Two rings of three chips, each chip with a NIC on one leaf."""
    wiring = Wiring()
    rings = [wiring.chips(3, domain) for domain in range(2)]
    for ring in rings:
        for a, b in zip(ring, [*ring[1:], ring[0]], strict=True):
            wiring.link(a, b, 1.0, ICI, axis=0)
    leaf = wiring.node(LEAF)
    for chip in itertools.chain(*rings):
        port = wiring.node(NIC_NODE)
        wiring.link(chip, port, 1.0, NIC)
        wiring.link(port, leaf, 1.0, NIC)
    return wiring.network(), np.array([[0], [1], [2]] * 2)


def test_slices_of_a_torus_talk_over_the_fabric():
    network, coords = two_tori()
    traffic = Exchange(groups=everyone(network))
    loads = torus_loads(network, (3,), (True,), traffic, coords)
    # Neighbours are one step apart: each ring link carries one byte each way. Each chip sends
    # three bytes to the other slice, and receives three.
    np.testing.assert_allclose(loads.forward, [1.0] * 6 + [3.0] * 12)
    np.testing.assert_allclose(loads.backward, loads.forward)
    matrix = Matrix(chips=np.arange(6), num_bytes=1.0 - np.eye(6))
    np.testing.assert_allclose(
        torus_loads(network, (3,), (True,), matrix, coords).forward, loads.forward
    )


def test_the_busiest_link_counts_derates_and_breaks_ties_by_index():
    network = leaf_spine(2, 2, 1, nic=25.0, up=50.0)
    loads = ecmp_loads(network, Exchange(groups=everyone(network)))
    # Each chip sends 1 byte inside over 50 and 2 outside over 25.
    busiest = busiest_link(network, loads)
    assert busiest.seconds == pytest.approx(2 / 25, rel=1e-12)
    assert (busiest.link, busiest.tier) == (4, "nic")
    # At a tenth of nameplate inside, 1 / 5 s.
    slow = busiest_link(network, loads, inside_derate=0.1, outside_derate=0.5)
    assert slow.seconds == pytest.approx(1 / 5, rel=1e-12)
    assert (slow.link, slow.tier) == (0, "nvlink")
    slow = busiest_link(network, loads, inside_derate=0.5, outside_derate=0.1)
    assert slow.seconds == pytest.approx(2 / 2.5, rel=1e-12)


def test_nothing_is_sent():
    network = nvl72()
    for groups in ((), (np.array([3]),)):
        loads = ecmp_loads(network, Exchange(groups=groups))
        assert not loads.forward.any()
        assert busiest_link(network, loads).link == -1


def test_groups_must_not_share_chips():
    with pytest.raises(ValueError, match="share"):
        ecmp_loads(nvl72(), Exchange(groups=(np.arange(3), np.arange(2, 5))))
