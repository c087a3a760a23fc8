"""The optimum of all-gather: closed forms, and every cut of small networks."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from network_factory import (
    CUBE_MESH,
    full_mesh,
    leaf_spine,
    mesh,
    nvl72,
    random_network,
    relabelled,
    torus,
    with_rates,
    without_chip,
)

from planner.errors import SpecError
from planner.topology.gather_bound import gather_seconds_per_byte


def rate_into_each(network, chips, **options):
    """Bandwidth at which a chip receives the other shares."""
    n = len(chips)
    found = gather_seconds_per_byte(network, np.array(chips), **options)
    assert found.optimal
    return (n - 1) / n / found.seconds_per_byte


def narrowest_cut(network, chips, only_group=True):
    """Largest bound of any cut, by enumeration; infinite where chips are not connected."""
    chips = list(chips)
    n = network.num_chips
    one_domain = len({int(network.domains[chip]) for chip in chips}) == 1
    links = [
        (a, b, rate)
        for (a, b), rate, inside in zip(
            network.ends.tolist(), network.bytes_per_s, network.scale_up, strict=True
        )
        if (not one_domain or (inside and network.domains[a] == network.domains[chips[0]]))
        and (not only_group or all(node >= n or node in chips for node in (a, b)))
    ]
    others = sorted({node for a, b, _ in links for node in (a, b)} - set(chips))
    worst = 0.0
    for size in range(1, len(chips)):
        for held in itertools.combinations(chips, size):
            for extra in range(len(others) + 1):
                for some in itertools.combinations(others, extra):
                    side = {*held, *some}
                    out = sum(rate for a, b, rate in links if (a in side) != (b in side))
                    worst = max(worst, size / len(chips) / out if out else np.inf)
    return worst


def test_a_cube_mesh_of_eight_chips():
    network = mesh(8, CUBE_MESH, rate=25.0)
    # Six links of 25 into every chip, and no narrower cut.
    assert rate_into_each(network, range(8)) == pytest.approx(150, rel=1e-9)
    # Chips 0 and 1 have four links within their quad: 3/4 of the bytes over 100.
    assert rate_into_each(network, range(4)) == pytest.approx(100, rel=1e-9)
    # With the other quad forwarding, all six links of a chip are usable.
    assert rate_into_each(network, range(4), only_group=False) == pytest.approx(150, rel=1e-9)
    # A pair with two cables, and one with a single one.
    assert rate_into_each(network, [0, 3]) == pytest.approx(50, rel=1e-9)
    assert rate_into_each(network, [0, 1]) == pytest.approx(25, rel=1e-9)


def test_closed_forms():
    # 18 links of 50; seven direct links; both directions of every axis of a torus.
    assert rate_into_each(nvl72(), range(72)) == pytest.approx(900, rel=1e-9)
    assert rate_into_each(full_mesh(8), range(8)) == pytest.approx(7, rel=1e-9)
    assert rate_into_each(torus((4, 4, 4))[0], range(64)) == pytest.approx(6, rel=1e-9)
    # A line of five: the end chip receives all over one link.
    line = torus((5,), wraps=(False,))[0]
    assert rate_into_each(line, range(5)) == pytest.approx(1, rel=1e-9)


def test_a_dead_chip_costs_its_neighbours_one_link():
    network = without_chip(torus((4, 4, 4))[0], 21)
    chips = np.delete(np.arange(64), 21)
    found = gather_seconds_per_byte(network, chips)
    assert found.seconds_per_byte == pytest.approx(62 / 63 / 5, rel=1e-9)
    assert len(found.links) == 5


def test_the_waist_of_two_quads_limits_them():
    # Two full meshes of four (rate 10 a link) joined by one link of 1: half of the bytes
    # cross it, while a chip alone could receive 3/4... over 30.
    pairs = [
        (a + 4 * side, b + 4 * side, 10)
        for side in (0, 1)
        for a, b in itertools.combinations(range(4), 2)
    ]
    network = mesh(8, [*pairs, (0, 4, 1)])
    found = gather_seconds_per_byte(network, np.arange(8))
    assert found.seconds_per_byte == pytest.approx(0.5, rel=1e-9)
    assert found.links == (12,)
    assert found.tiers == ("ici",)


def test_two_domains_are_limited_by_their_nics():
    # Half of the bytes enter a domain of two chips over two NICs of 5; inside there are 50.
    network = leaf_spine(2, 2, 1, nic=5.0, up=50.0)
    found = gather_seconds_per_byte(network, np.arange(4))
    assert found.seconds_per_byte == pytest.approx(0.5 / 10, rel=1e-9)
    assert found.tiers == ("nic",)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.booleans())
def test_no_cut_is_narrower(seed, only_group):
    network = random_network(seed % 5000)
    rng = np.random.default_rng(seed)
    if network.num_chips < 2 or network.num_nodes > 16:
        return
    size = int(rng.integers(2, network.num_chips + 1))
    chips = np.sort(rng.permutation(network.num_chips)[:size])
    expected = narrowest_cut(network, chips.tolist(), only_group)
    if np.isinf(expected):
        with pytest.raises(SpecError, match="not connected"):
            gather_seconds_per_byte(network, chips, only_group=only_group)
        return
    found = gather_seconds_per_byte(network, chips, only_group=only_group)
    assert found.seconds_per_byte == pytest.approx(expected, rel=1e-8)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_bandwidth_helps_and_numbering_does_not_matter(seed, link):
    network = random_network(seed)
    if network.num_chips < 2:
        return
    chips = np.arange(network.num_chips)
    before = gather_seconds_per_byte(network, chips).seconds_per_byte
    faster = with_rates(network, {link % network.num_links: 3.0})
    assert gather_seconds_per_byte(faster, chips).seconds_per_byte <= before * (1 + 1e-9)
    other, number = relabelled(network, seed)
    after = gather_seconds_per_byte(other, number[chips]).seconds_per_byte
    assert after == pytest.approx(before, rel=1e-8)


def test_chips_without_a_path_are_named():
    network = mesh(3, [(0, 1, 1)])
    with pytest.raises(SpecError, match="chips n0 and n2 are not connected"):
        gather_seconds_per_byte(network, np.arange(3))
