"""Colour refinement: known partitions, and the definition checked on random graphs."""

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from network_factory import relabelled, torus

from planner.topology.refine import adjacency, components, hash_columns, refine


def partition(num_nodes, ends, *, labels=None, colours=None, hubs=()):
    ends = np.array(ends, dtype=np.int64).reshape(-1, 2)
    labels = np.zeros(len(ends), dtype=np.int64) if labels is None else np.array(labels)
    colours = np.zeros(num_nodes, dtype=np.int64) if colours is None else np.array(colours)
    classes, count = refine(adjacency(num_nodes, ends), hash_columns(labels), colours, hubs)
    assert sorted(set(classes.tolist())) == list(range(count))
    return classes


def cells(classes):
    """The partition as a set of sets."""
    members = defaultdict(set)
    for node, kind in enumerate(np.asarray(classes).tolist()):
        members[kind].add(node)
    return {frozenset(cell) for cell in members.values()}


def ring(num_nodes):
    return [(node, (node + 1) % num_nodes) for node in range(num_nodes)]


def naive(num_nodes, ends, labels, colours):
    """Refinement by its definition, with tuples instead of hashes."""
    around = defaultdict(list)
    for (a, b), label in zip(ends, labels, strict=True):
        around[a].append((label, b))
        around[b].append((label, a))
    classes = list(colours)
    while True:
        seen = [
            (classes[v], tuple(sorted((label, classes[w]) for label, w in around[v])))
            for v in range(num_nodes)
        ]
        numbers = {view: number for number, view in enumerate(sorted(set(seen)))}
        finer = [numbers[view] for view in seen]
        if len(numbers) == len(set(classes)):
            return classes
        classes = finer


def test_a_path_is_folded_in_the_middle():
    # 0-1-2-3-4: ends, their neighbours, the middle.
    classes = partition(5, [(0, 1), (1, 2), (2, 3), (3, 4)])
    assert cells(classes) == {frozenset({0, 4}), frozenset({1, 3}), frozenset({2})}


def test_a_ring_is_one_class_until_a_link_differs():
    assert cells(partition(6, ring(6))) == {frozenset(range(6))}
    # With the link 5-0 labelled, nodes pair up by their distance to it: 0 and 5, 1 and 4, 2 and 3.
    labelled = partition(6, ring(6), labels=[0, 0, 0, 0, 0, 1])
    assert cells(labelled) == {frozenset({0, 5}), frozenset({1, 4}), frozenset({2, 3})}


def test_nodes_without_links_keep_their_colours():
    assert cells(partition(3, [], colours=[7, 7, 9])) == {frozenset({0, 1}), frozenset({2})}


def test_axis_labels_tell_directions_of_a_torus_apart():
    # Not 4 x 4, which is a hypercube: (2, 0) and (1, 1) look alike there.
    network, coords = torus((5, 5))
    seen_from_0 = (np.arange(25) == 0).astype(int)
    distance = np.minimum(coords, 5 - coords)
    # Without labels the axes can be swapped: unordered pairs of 0, 1, 2 hops, 6 of them.
    plain = partition(25, network.ends, colours=seen_from_0)
    assert cells(plain) == cells(np.sort(distance, axis=1) @ [3, 1])
    # With labels: ordered pairs, 9 of them.
    labelled = partition(25, network.ends, labels=network.axes, colours=seen_from_0)
    assert cells(labelled) == cells(distance @ [3, 1])


def test_it_takes_two_triangles_for_a_hexagon():
    # Every node has two neighbours: the known limit of comparing neighbourhoods.
    triangles = [(6, 7), (7, 8), (8, 6), (9, 10), (10, 11), (11, 9)]
    assert cells(partition(12, ring(6) + triangles)) == {frozenset(range(12))}


def test_hubs_tell_their_members_apart():
    # The ring of six nodes in hubs of 4 and 2: positions relative to the border of the hubs.
    hub = np.array([0, 0, 0, 0, 1, 1])
    classes = partition(6, ring(6), hubs=(hub,))
    assert cells(classes) == {frozenset({4, 5}), frozenset({0, 3}), frozenset({1, 2})}
    # Nodes in no hub differ from those in one.
    some = partition(4, ring(4), hubs=(np.array([-1, 5, -1, 5]),))
    assert cells(some) == {frozenset({0, 2}), frozenset({1, 3})}


def test_equal_hubs_are_alike_and_several_families_combine():
    hub = np.array([3, 3, 8, 8])
    assert cells(partition(4, [], hubs=(hub,))) == {frozenset(range(4))}
    # A family of pairs in which one member is coloured spreads through a second family.
    pairs = np.array([0, 0, 1, 1, 2, 2])
    chain = np.array([-1, 0, 0, 1, 1, -1])
    classes = partition(6, [], hubs=(pairs, chain), colours=[1, 0, 0, 0, 0, 0])
    assert len(cells(classes)) == 6


@st.composite
def graphs(draw):
    num_nodes = draw(st.integers(1, 9))
    pairs = [(a, b) for a in range(num_nodes) for b in range(a)]
    ends = draw(st.lists(st.sampled_from(pairs), unique=True)) if pairs else []
    labels = draw(st.lists(st.integers(0, 1), min_size=len(ends), max_size=len(ends)))
    colours = draw(st.lists(st.integers(0, 1), min_size=num_nodes, max_size=num_nodes))
    return num_nodes, ends, labels, colours


@given(graphs())
def test_hashes_find_the_partition_of_the_definition(graph):
    num_nodes, ends, labels, colours = graph
    found = partition(num_nodes, ends, labels=labels, colours=colours)
    assert cells(found) == cells(naive(num_nodes, ends, labels, colours))


@given(graphs())
def test_the_partition_is_equitable(graph):
    num_nodes, ends, labels, colours = graph
    classes = partition(num_nodes, ends, labels=labels, colours=colours)
    seen = defaultdict(lambda: defaultdict(int))
    for (a, b), label in zip(ends, labels, strict=True):
        seen[a][label, classes[b]] += 1
        seen[b][label, classes[a]] += 1
    for cell in cells(classes):
        assert len({tuple(sorted(seen[node].items())) for node in cell}) == 1
        assert len({colours[node] for node in cell}) == 1


@settings(max_examples=20)
@given(st.integers(0, 1000))
def test_numbering_does_not_matter(seed):
    network, _ = torus((4, 3), wraps=(True, False))
    other, number = relabelled(network, seed)
    before = partition(12, network.ends, labels=network.axes)
    after = partition(12, other.ends, labels=other.axes)
    assert cells(before) == cells(after[number])


@pytest.mark.parametrize("num_nodes", [1, 2, 17])
def test_components_of_rings_and_single_nodes(num_nodes):
    # Two rings side by side and one node alone; a component is named after its smallest node.
    first = [(a, b) for a, b in ring(num_nodes) if a != b]
    second = [(a + num_nodes, b + num_nodes) for a, b in first]
    ends = np.array(first + second, dtype=np.int64).reshape(-1, 2)
    expected = [0] * num_nodes + [num_nodes] * num_nodes + [2 * num_nodes]
    assert components(2 * num_nodes + 1, ends).tolist() == expected
    rng = np.random.default_rng(num_nodes)
    number = rng.permutation(2 * num_nodes + 1)
    shuffled = components(2 * num_nodes + 1, rng.permutation(number[ends]))
    assert cells(shuffled[number]) == cells(expected)
