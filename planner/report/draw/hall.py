"""Domains side by side with their fabric above: who is drawn, who is counted, and where.

Decisions
---------
* All domains in full where they fit beside each other; racks beyond that are counted, nodes
  and slices are drawn small first. What is wounded is drawn before what is not.
* A hidden run never crosses the border of a pod, so that every run has one place above it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby

from planner.domain.scale_up import MeshDomain, SwitchDomain, Torus
from planner.report.draw.blocks import Block, Compact, Hidden
from planner.report.draw.mesh import Mesh, fits_mesh
from planner.report.draw.nested import Nested
from planner.report.draw.nodes import Node, fits_node
from planner.report.draw.parts import Parts
from planner.report.draw.racks import Rack, has_cabinet
from planner.report.draw.torus import Slice
from planner.report.draw.torus_map import MAX_CHIPS
from planner.topology.fabric_size import fabric_size

FULL_WIDTH = 1750.0
COMPACT_WIDTH = 2000.0
MAX_COMPACT = 32
MAX_COMPACT_CHIPS = 256
GAP, COMPACT_GAP, UNIT_GAP = 14.0, 8.0, 46.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Group:
    """Blocks under the same leaf switches, or a run of whole units that are counted.

    ``unit`` is None for such a run; ``pods`` are those whose spines are above it.
    """

    blocks: tuple[Block, ...]
    domains: range
    unit: int | None
    pods: range

    @property
    def gap(self) -> float:
        """Between two blocks."""
        compact = any(isinstance(block, Compact) for block in self.blocks)
        return COMPACT_GAP if compact else GAP

    @property
    def width(self) -> float:
        """Width on the sheet."""
        return sum(block.width for block in self.blocks) + self.gap * (len(self.blocks) - 1)


def _full(parts: Parts, domain: int) -> Block:
    """The most detailed drawing of a domain."""
    scale_up = parts.spec.scale_up
    if isinstance(scale_up, Torus):
        return Slice(parts=parts, domain=domain, torus=scale_up)
    if isinstance(scale_up, SwitchDomain):
        if has_cabinet(parts):
            return Rack(parts=parts, domain=domain, scale_up=scale_up)
        if fits_node(parts):
            return Node(parts=parts, domain=domain, scale_up=scale_up)
        return Nested(parts=parts, domain=domain, scale_up=scale_up)
    if isinstance(scale_up, MeshDomain) and fits_mesh(parts):
        return Mesh(parts=parts, domain=domain, scale_up=scale_up)
    return Compact(parts=parts, domain=domain)


def _draughtsman(parts: Parts) -> tuple[Callable[[Parts, int], Block], int]:
    """How domains are drawn, and how many of them at most."""
    count = parts.spec.num_domains
    size = parts.spec.domain_chips
    is_torus = isinstance(parts.spec.scale_up, Torus)
    if size > MAX_CHIPS and not is_torus:
        return _full, 0
    full = _full(parts, 0).width + GAP
    most = max(1, int((FULL_WIDTH + GAP) // full))
    most = max(1, min(most, MAX_CHIPS // size))
    if count <= most or (has_cabinet(parts) and most >= 4) or size > MAX_COMPACT_CHIPS:
        return _full, most
    small = Compact(parts=parts, domain=0).width + COMPACT_GAP
    fitting = int((COMPACT_WIDTH + COMPACT_GAP) // small)
    return _compact, max(1, min(MAX_COMPACT, fitting, MAX_CHIPS // size))


def _compact(parts: Parts, domain: int) -> Block:
    return Compact(parts=parts, domain=domain)


def _shown(parts: Parts, most: int) -> set[int]:
    """Domains that are drawn: the first ones, and some wounded ones from further on."""
    count = parts.spec.num_domains
    far = [domain for domain in parts.wounded_domains if domain >= most]
    guests = far[: max(1, most // 8)] if most else []
    shown = {*range(min(most, count)), *guests}
    # A box that counts a single domain is no smaller than the domain.
    alone = {d for d in range(count) if {max(0, d - 1), min(count - 1, d + 1)} - {d} <= shown}
    return shown | alone if most else shown


def _units(parts: Parts) -> tuple[int, int]:
    """Domains of a unit, units of a pod."""
    fabric, spec = parts.spec.scale_out, parts.spec
    if fabric is None or not parts.has_fabric:
        return spec.num_domains, 1
    units = -(-spec.num_domains // fabric.domains_per_unit)
    return fabric.domains_per_unit, fabric_size(fabric, spec.domain_chips, units).units_per_pod


def arrange(parts: Parts) -> list[Group]:
    """Choose what is drawn and what is counted, from left to right."""
    make, most = _draughtsman(parts)
    shown = _shown(parts, most)
    per_unit, per_pod = _units(parts)
    count = parts.spec.num_domains
    drawn = {domain // per_unit for domain in shown}
    drawn_pods = {unit // per_pod for unit in drawn}

    def kind_of(unit: int) -> tuple[int, int]:
        """Units of one kind that follow each other make a group."""
        if unit in drawn:
            return 0, unit
        pod = unit // per_pod
        return (1, pod) if pod in drawn_pods else (2, 0)

    groups = []
    for (kind, _), run in groupby(range(-(-count // per_unit)), key=kind_of):
        units = list(run)
        domains = range(units[0] * per_unit, min(count, (units[-1] + 1) * per_unit))
        hidden: Block = Hidden(parts=parts, domains=domains, units=len(units))
        groups.append(
            Group(
                blocks=_blocks(parts, domains, shown, make) if kind == 0 else (hidden,),
                domains=domains,
                unit=units[0] if kind == 0 else None,
                pods=range(units[0] // per_pod, units[-1] // per_pod + 1),
            )
        )
    return groups


def _blocks(
    parts: Parts, domains: range, shown: set[int], make: Callable[[Parts, int], Block]
) -> tuple[Block, ...]:
    blocks: list[Block] = []
    start = domains.start
    for domain in (*domains, domains.stop):
        if domain in shown or domain == domains.stop:
            if start < domain:
                blocks.append(Hidden(parts=parts, domains=range(start, domain), units=1))
            if domain < domains.stop:
                blocks.append(make(parts, domain))
            start = domain + 1
    return tuple(blocks)
