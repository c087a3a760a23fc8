"""Times link loads and bounds of big networks: ``python tests/benchmarks/bench_collectives.py``.

Columns: CPU seconds of the routing and, after it, of the bound (which shares the folded
scope), seconds of the busiest link and of the bound, and how the bound was found.
"""

from __future__ import annotations

import resource
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from network_factory import torus, without_chip

from planner.topology.flow_bound import flow_bound
from planner.topology.gather_bound import gather_seconds_per_byte
from planner.topology.network import (
    CHIP,
    CORE,
    FABRIC,
    LEAF,
    NIC_NODE,
    NO_AXIS,
    SPINE,
    SWITCH,
    Network,
)
from planner.topology.refine import adjacency, hash_columns, refine
from planner.topology.routing import busiest_link, ecmp_loads
from planner.topology.torus_routing import torus_loads
from planner.topology.traffic import Exchange

TIERS = ("nvlink", "nic", "leaf-spine", "spine-core")


def machine(num_domains, chips, switches, per_unit, fabric, *, nic=50e9):
    """Domains of switched chips; units of ``per_unit`` domains and one leaf per position.

    ``fabric`` is ``(spines per unit group, units per group, cores per spine)``; with one
    group there are no cores.
    """
    spines, units, cores = fabric
    num_chips = num_domains * chips
    num_units = num_domains // per_unit
    groups = num_units // units
    counts = {
        CHIP: num_chips,
        SWITCH: num_domains * switches,
        NIC_NODE: num_chips,
        LEAF: num_units * chips,
        SPINE: groups * spines,
        CORE: spines * cores if groups > 1 else 0,
    }
    first = dict(zip(counts, np.cumsum([0, *counts.values()]), strict=False))
    kinds = np.repeat(list(counts), list(counts.values()))
    domains = np.full(len(kinds), FABRIC)
    domain_of = np.repeat(np.arange(num_domains), chips)
    domains[:num_chips] = domain_of
    domains[first[SWITCH] : first[NIC_NODE]] = np.repeat(np.arange(num_domains), switches)
    chip = np.arange(num_chips)
    leaf = first[LEAF] + (domain_of // per_unit) * chips + chip % chips
    parts = [
        (
            np.repeat(chip, switches),
            first[SWITCH]
            + np.repeat(domain_of * switches, switches)
            + np.tile(np.arange(switches), num_chips),
            50e9 if switches > 4 else 112.5e9,
            0,
        ),
        (chip, first[NIC_NODE] + chip, nic, 1),
        (first[NIC_NODE] + chip, leaf, nic, 1),
    ]
    leaves = np.arange(counts[LEAF])
    group_of = leaves // (units * chips)
    parts.append(
        (
            first[LEAF] + np.repeat(leaves, spines),
            first[SPINE]
            + np.repeat(group_of * spines, spines)
            + np.tile(np.arange(spines), len(leaves)),
            nic * per_unit / spines,
            2,
        )
    )
    if groups > 1:
        spine = np.arange(groups * spines)
        parts.append(
            (
                first[SPINE] + np.repeat(spine, cores),
                first[CORE]
                + np.repeat((spine % spines) * cores, cores)
                + np.tile(np.arange(cores), len(spine)),
                nic * per_unit * units * chips / spines / cores,
                3,
            )
        )
    ends = np.concatenate([np.stack((a, b), axis=1) for a, b, _, _ in parts])
    sizes = [len(a) for a, _, _, _ in parts]
    tiers = np.repeat([tier for *_, tier in parts], sizes)
    return Network(
        num_chips=num_chips,
        kinds=kinds,
        domains=domains,
        ends=ends,
        bytes_per_s=np.repeat([float(rate) for _, _, rate, _ in parts], sizes),
        cables=np.ones(len(ends), dtype=np.int64),
        tiers=tiers,
        scale_up=tiers == 0,
        axes=np.full(len(ends), NO_AXIS),
        hops=np.ones(len(ends), dtype=np.int64),
        tier_names=TIERS,
        name_nodes=lambda: tuple(map(str, range(len(kinds)))),
    )


CASES = (
    ("1 x 72 x 18", (1, 72, 18, 1, (1, 1, 1))),
    ("8 x 72 x 18", (8, 72, 18, 8, (18, 1, 1))),
    ("144 x 72 x 18", (144, 72, 18, 16, (18, 9, 1))),
    ("4096 x 8 x 4", (4096, 8, 4, 32, (32, 8, 4))),
)


def timed(function, *arguments):
    start = time.process_time()
    out = function(*arguments)
    return out, time.process_time() - start


def report(name, network, groups):
    exchange = Exchange(groups=groups)
    loads, routing_s = timed(ecmp_loads, network, exchange)
    busiest = busiest_link(network, loads)
    bound, bound_s = timed(flow_bound, network, exchange)
    print(
        f"{name:28}{network.num_chips:7}{network.num_links:8}{routing_s:8.3f}{bound_s:8.3f}"
        f"{busiest.seconds:12.4g}{bound.seconds:12.4g} {busiest.tier:11}{bound.method}",
        flush=True,
    )


def wounded(network):
    """One link of a chip and one of the topmost links at half speed."""
    rates = network.bytes_per_s.copy()
    rates[[100, -1]] /= 2
    return replace(network, bytes_per_s=rates)


def report_torus(shape):
    network, coords = torus(shape)
    chips = np.arange(network.num_chips)
    exchange = Exchange(groups=(chips,))
    _, seconds = timed(torus_loads, network, shape, (True,) * 3, exchange, coords)
    name = "x".join(map(str, shape))
    print(f"{name + ', axis by axis':28}{network.num_chips:7}{network.num_links:8}{seconds:8.3f}")
    report(f"{name}, ECMP", network, (chips,))
    dead = without_chip(network, 37)
    alive = np.delete(chips, 37)
    report(f"{name}, dead chip", dead, (alive,))
    _, seconds = timed(gather_seconds_per_byte, dead, alive)
    name += ", dead chip, all-gather"
    print(f"{name:28}{network.num_chips:7}{network.num_links:8}{seconds:8.3f}")


def report_refinement():
    """Refinement of what is outside of the domains, from no knowledge and from one chip."""
    network = machine(4096, 8, 4, 32, (32, 8, 4))
    outside = ~network.scale_up
    graph, index_s = timed(adjacency, network.num_nodes, network.ends[outside])
    labels = hash_columns(network.tiers[outside], network.bytes_per_s[outside])
    _, plain_s = timed(refine, graph, labels, network.kinds)
    colours = network.kinds.copy()
    colours[5] = -1
    _, single_s = timed(refine, graph, labels, colours)
    print(
        f"refinement of {network.num_nodes} nodes, {2 * outside.sum()} arcs: index {index_s:.3f} s,"
        f" {plain_s:.3f} s, from one chip {single_s:.3f} s"
    )


def main():
    print(
        f"{'network':28}{'chips':>7}{'links':>8}{'ecmp s':>8}{'bound s':>8}"
        f"{'ecmp':>12}{'bound':>12}"
    )
    report("warm-up", machine(2, 8, 4, 2, (2, 1, 1)), (np.arange(16),))
    for name, shape in CASES:
        network = machine(*shape)
        chips = np.arange(network.num_chips)
        report(name, network, (chips,))
        if shape[0] > 1:
            groups = chips[: len(chips) // 64 * 64].reshape(-1, 64)
            report(f"{name}, groups of 64", network, tuple(groups))
            report(f"{name}, wounded", wounded(network), (chips[3:],))
    for shape in ((8, 8, 16), (16, 16, 24)):
        report_torus(shape)
    report_refinement()
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")


if __name__ == "__main__":
    main()
