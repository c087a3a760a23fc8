"""The machine that a measurement ran on, sized to its chips."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from planner.catalog.machine_size import resize
from planner.catalog.machines import load_machine
from planner.catalog.measured_network import load_variant
from planner.catalog.measured_rows import MachineUse
from planner.domain.hardware import MachineSpec
from planner.domain.scale_up import GraphDomain, MeshDomain, SwitchDomain, Torus
from planner.errors import SpecError
from planner.topology.build import build_topology
from planner.topology.graph import Topology

SLICE = "slice"
_EFA = Path(__file__).parent / "efa.toml"


def _products(count: int, limits: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Every way to write ``count`` as a product of one factor per limit, none above it."""
    if not limits:
        if count == 1:
            yield ()
        return
    for length in range(1, min(count, limits[0]) + 1):
        if count % length == 0:
            for rest in _products(count // length, limits[1:]):
                yield (length, *rest)


@functools.cache
def slice_shape(torus: Torus, chips: int) -> tuple[int, ...] | None:
    """Shape of a slice of ``chips`` chips, or None where there is none.

    Where optical switches join cubes (``wrap_multiple`` a side), a slice is made of whole
    cubes, or lies inside one. Of the shapes that remain the most compact one is taken, the
    least sum of its axes, longest axis last: 1024 chips are 8 x 8 x 16, 256 of a plane
    16 x 16.
    """
    if chips > torus.max_chips:
        return None
    side = torus.wrap_multiple
    shapes = list(_products(chips, torus.full_shape))
    if side:
        shapes = [
            shape
            for shape in shapes
            if not any(length % side for length in shape) or max(shape) <= side
        ]
    return min(shapes, key=lambda shape: (sum(shape), shape), default=None)


def _sized_slices(spec: MachineSpec, torus: Torus, use: MachineUse) -> MachineSpec:
    """Equal slices: as many as the source says, else the fewest that hold the chips."""
    most = spec.scale_out.max_domains if spec.scale_out is not None else 1
    counts = range(1, most + 1) if use.slices is None else (use.slices,)
    for count in counts:
        shape = slice_shape(torus, use.num_chips // count) if use.num_chips % count == 0 else None
        if shape is not None:
            return resize(spec, shape=shape, slices=count)
    parts = "" if use.slices is None else f" in {use.slices} slices"
    raise SpecError(f"{spec.name} has no slice shape for {use.num_chips} chips{parts}")


def sized_machine(use: MachineUse) -> MachineSpec:
    """The machine of a measurement.

    Parameters
    ----------
    use : MachineUse
        Nodes and racks are counted up: a job smaller than one uses part of it. TPU slices
        have a shape for exactly the chips of the job (:func:`slice_shape`), several equal
        ones where the note says so or one cannot be large enough.

    Raises
    ------
    SpecError
        Unknown machine, or it has no such size.
    CatalogError
        The machine's file is malformed.
    """
    spec = load_machine(use.topology)
    scale_up = spec.scale_up
    if isinstance(scale_up, Torus) and scale_up.unit == SLICE:
        spec = _sized_slices(spec, scale_up, use)
    elif isinstance(scale_up, GraphDomain):
        if use.num_chips > spec.num_chips:
            raise SpecError(f"{spec.name} has {spec.num_chips} chips, not {use.num_chips}")
    else:
        count = math.ceil(use.num_chips / spec.domain_chips)
        if use.efa and count > 1 and isinstance(scale_up, SwitchDomain | MeshDomain):
            spec = load_variant(use.topology, _EFA)
        racks = scale_up.unit == "rack"
        spec = resize(spec, nodes=None if racks else count, racks=count if racks else None)
    if use.hbm_bytes_per_s is not None:
        spec = replace(spec, chip=replace(spec.chip, hbm_bytes_per_s=use.hbm_bytes_per_s))
    return spec


def machine_topology(use: MachineUse) -> Topology:
    """Build the machine of a measurement; raises as :func:`sized_machine`."""
    return build_topology(sized_machine(use))
