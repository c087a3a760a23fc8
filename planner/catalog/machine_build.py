"""From a validated machine file to a :class:`MachineSpec` in SI units."""

from __future__ import annotations

import itertools
import math
from collections import Counter

from planner.catalog.machine_file import FieldProblem
from planner.catalog.machine_tables import (
    AchievedTable,
    ChipTable,
    CurveTable,
    FabricTable,
    GraphTable,
    LinkTable,
    MachineTable,
    MeshTable,
    MixTable,
    SwitchTable,
    TorusTable,
    WoundsTable,
)
from planner.domain.curves import Curve, Curves
from planner.domain.hardware import Chip, Efficiency, Fabric, MachineSpec, Source, Wounds
from planner.domain.scale_up import (
    GraphDomain,
    GraphLink,
    GraphNode,
    MeshDomain,
    ScaleUp,
    SwitchDomain,
    SwitchLevel,
    Torus,
)
from planner.units import GB, GIB, MILLION, US

TERA = MILLION * MILLION
# Capacity labels count in GB what memory vendors build in GiB: usable bytes may exceed the
# label by that much (1.074) and no more.
MAX_USABLE_RATIO = 1.08
NODE_KINDS = ("chip", "switch", "nic", "leaf", "spine", "host")
FABRIC_TIERS = ("nic", "leaf-spine", "spine-core")
UNITS = ("node", "rack", "slice")


def _curve(table: CurveTable) -> Curve:
    return Curve(
        base_s=table.base_us * US,
        step_s=table.step_us * US,
        fill_s=table.fill_us * US,
        derate=table.derate,
    )


def _curves(table: AchievedTable) -> Curves:
    listed = ((name, getattr(table, name)) for name in table.__struct_fields__ if name != "default")
    return Curves(
        default=_curve(table.default),
        listed=tuple((name, _curve(curve)) for name, curve in listed if curve is not None),
    )


def _chip(table: ChipTable, field: str = "chip") -> Chip:
    peaks = table.peak_TFLOP_per_s.items()
    matmul = table.derate.matmul.items()
    if [key for key, _ in peaks] != [key for key, _ in matmul]:
        rates = ", ".join(key for key, _ in peaks)
        raise FieldProblem(
            f"{field}.derate.matmul",
            "must have the rates of chip.peak_TFLOP_per_s",
            f"give {rates}",
        )
    usable = table.hbm_usable_GiB * GIB
    if usable > MAX_USABLE_RATIO * table.hbm_GB * GB:
        raise FieldProblem(
            f"{field}.hbm_usable_GiB", "exceeds hbm_GB", "GiB = 2**30, GB = 1e9 bytes"
        )
    return Chip(
        name=table.name,
        peak_flop_per_s=tuple((key, value * TERA) for key, value in peaks),
        hbm_bytes=table.hbm_GB * GB,
        hbm_usable_bytes=usable,
        hbm_bytes_per_s=table.hbm_GB_per_s * GB,
        efficiency=Efficiency(
            matmul=matmul,
            hbm=table.derate.hbm,
            attention=table.derate.attention,
            kernel_s=table.derate.kernel_us * US,
            attention_forward=table.derate.attention_forward or table.derate.attention,
            attention_backward=table.derate.attention_backward or table.derate.attention,
            sustained=table.derate.sustained or 1.0,
            elementwise=table.derate.elementwise or 1.0,
            expert_layer_s=(table.derate.expert_layer_us or 0.0) * US,
        ),
        price_usd_per_hour=table.price_usd_per_hour,
    )


def _check_unit(unit: str) -> None:
    if unit not in UNITS:
        raise FieldProblem("scale_up.unit", f"'{unit}' is not known", f"write {' or '.join(UNITS)}")


def _check_tray(chips: int, tray: int | None) -> None:
    if tray is not None and chips % tray:
        raise FieldProblem("scale_up.chips_per_tray", f"does not divide {chips} chips")


def _switch(table: SwitchTable) -> SwitchDomain:
    if table.levels and (table.links_per_switch or table.link_GB_per_s is not None):
        raise FieldProblem("scale_up.levels", "stands instead of links_per_switch, not beside it")
    if not table.levels and (not table.links_per_switch or table.link_GB_per_s is None):
        raise FieldProblem(
            "scale_up.links_per_switch", "has no switch", "give links_per_switch, link_GB_per_s"
        )
    levels = tuple(
        SwitchLevel(
            span=level.span,
            links_per_switch=level.links_per_switch,
            link_bytes_per_s=level.link_GB_per_s * GB,
        )
        for level in table.levels
    ) or (
        SwitchLevel(
            span=table.chips,
            links_per_switch=table.links_per_switch,
            link_bytes_per_s=(table.link_GB_per_s or 0.0) * GB,
        ),
    )
    spans = [level.span for level in levels]
    nested = all(outer % inner == 0 for inner, outer in itertools.pairwise(spans))
    if not nested or spans != sorted(set(spans)) or spans[-1] != table.chips:
        raise FieldProblem(
            "scale_up.levels",
            f"spans {spans} must each divide the next and end with {table.chips} chips",
        )
    if table.parts > 1 and (table.chips % table.parts or not table.trunk_links):
        raise FieldProblem(
            "scale_up.parts", f"{table.parts} parts must divide the chips and have trunk_links"
        )
    if table.parts > 1 and len(levels) > 1:
        raise FieldProblem("scale_up.parts", "cannot be combined with several levels")
    _check_tray(table.chips, table.chips_per_tray)
    return SwitchDomain(
        unit=table.unit,
        chips=table.chips,
        levels=levels,
        curves=_curves(table.achieved),
        chips_per_tray=table.chips_per_tray,
        parts=table.parts,
        trunk_links=table.trunk_links,
        tier=table.tier,
    )


def _mesh(table: MeshTable) -> MeshDomain:
    if (table.links_per_pair is None) == (not table.pairs):
        raise FieldProblem("scale_up.links_per_pair", "give either links_per_pair or pairs")
    pairs = table.pairs or tuple(
        (a, b, table.links_per_pair or 0)
        for a in range(table.chips)
        for b in range(a + 1, table.chips)
    )
    for a, b, links in pairs:
        if not 0 <= a < b < table.chips or links < 1:
            raise FieldProblem(
                "scale_up.pairs",
                f"[{a}, {b}, {links}] is not a < b < {table.chips} with a number of links",
            )
    if len({(a, b) for a, b, _ in pairs}) != len(pairs):
        raise FieldProblem("scale_up.pairs", "names a pair twice", "add its links up")
    _check_tray(table.chips, table.chips_per_tray)
    return MeshDomain(
        unit=table.unit,
        chips=table.chips,
        pairs=pairs,
        link_bytes_per_s=table.link_GB_per_s * GB,
        curves=_curves(table.achieved),
        chips_per_tray=table.chips_per_tray,
        tier=table.tier,
    )


def _torus(table: TorusTable) -> Torus:
    axes = len(table.full_shape)
    if not 1 <= axes <= 3:
        raise FieldProblem("scale_up.full_shape", "must have one to three axes")
    rates = table.link_GB_per_s
    by_axis = rates if isinstance(rates, tuple) else (rates,) * axes
    if len(by_axis) != axes:
        raise FieldProblem("scale_up.link_GB_per_s", f"must have one number, or {axes}")
    size = 1
    for length in table.full_shape:
        size *= length
    return Torus(
        unit=table.unit,
        full_shape=table.full_shape,
        link_bytes_per_s=tuple(rate * GB for rate in by_axis),
        curves=_curves(table.achieved),
        wrap_multiple=table.wrap_multiple,
        max_chips=table.max_chips or size,
        tier=table.tier,
    )


def _link(table: LinkTable) -> GraphLink:
    scale_up = table.tier not in FABRIC_TIERS if table.scale_up is None else table.scale_up
    return GraphLink(
        a=table.ends[0],
        b=table.ends[1],
        bytes_per_s=table.GB_per_s * GB,
        tier=table.tier,
        scale_up=scale_up,
        links=table.links,
    )


def _graph(table: GraphTable) -> GraphDomain:
    names = Counter(node.name for node in table.nodes)
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        raise FieldProblem("scale_up.nodes", f"'{twice[0]}' appears twice")
    for node in table.nodes:
        if node.kind not in NODE_KINDS:
            raise FieldProblem(
                "scale_up.nodes",
                f"'{node.name}' is of unknown kind '{node.kind}'",
                f"write one of {', '.join(NODE_KINDS)}",
            )
    if not any(node.kind == "chip" for node in table.nodes):
        raise FieldProblem("scale_up.nodes", "has no chip", 'give nodes of kind "chip"')
    for link in table.links:
        unknown = [end for end in link.ends if end not in names]
        if unknown:
            raise FieldProblem("scale_up.links", f"names '{unknown[0]}', which is not a node")
        if link.ends[0] == link.ends[1]:
            raise FieldProblem("scale_up.links", f"joins '{link.ends[0]}' to itself")
    joined = Counter(tuple(sorted(link.ends)) for link in table.links)
    double = [ends for ends, count in joined.items() if count > 1]
    if double:
        raise FieldProblem(
            "scale_up.links", f"joins {double[0][0]} and {double[0][1]} twice", "add them up"
        )
    curves = _curves(table.achieved)
    fabric = table.fabric_achieved
    return GraphDomain(
        unit=table.unit,
        nodes=tuple(GraphNode(name=node.name, kind=node.kind) for node in table.nodes),
        links=tuple(_link(link) for link in table.links),
        curves=curves,
        fabric_curves=curves if fabric is None else _curves(fabric),
    )


def _scale_up(table: SwitchTable | MeshTable | TorusTable | GraphTable) -> ScaleUp:
    _check_unit(table.unit)
    if isinstance(table, TorusTable):
        return _torus(table)
    if isinstance(table, GraphTable):
        return _graph(table)
    return _mesh(table) if isinstance(table, MeshTable) else _switch(table)


def _fabric(table: FabricTable, domain_chips: int) -> Fabric:
    if domain_chips % table.chips_per_nic:
        raise FieldProblem("scale_out.chips_per_nic", f"does not divide {domain_chips} chips")
    if table.rails and domain_chips // table.chips_per_nic % table.rails:
        raise FieldProblem("scale_out.rails", f"do not divide the NICs of {domain_chips} chips")
    return Fabric(
        nic_bytes_per_s=table.nic_GB_per_s * GB,
        domains_per_unit=table.domains_per_unit,
        leaves_per_unit=table.leaves_per_unit,
        leaf_ports=table.leaf_ports,
        oversubscription=table.oversubscription,
        max_domains=table.max_domains,
        curves=_curves(table.achieved),
        chips_per_nic=table.chips_per_nic,
        rails=table.rails,
    )


def _mix(tables: tuple[MixTable, ...]) -> tuple[tuple[int, Chip], ...]:
    mixed: dict[int, Chip] = {}
    for table in tables:
        chip = _chip(table.chip, "mix.chip")
        for domain in table.domains:
            if domain in mixed:
                raise FieldProblem("mix.domains", f"{domain} is named twice")
            mixed[domain] = chip
    return tuple(sorted(mixed.items()))


def wounds_record(table: WoundsTable) -> Wounds:
    """The same as a record of the domain.

    Raises
    ------
    FieldProblem
        A fraction that is not in (0, 1].
    """
    for name, left in table.degrade.items():
        if not 1e-6 <= left <= 1:
            raise FieldProblem(
                "wounds.degrade",
                f"{name} = {left} is outside [1e-06, 1]",
                "use without for dead ones",
            )
    return Wounds(
        without=tuple(dict.fromkeys(table.without)),
        degrade=tuple(sorted(table.degrade.items())),
        usable=tuple(sorted(table.usable.items())),
    )


def _domain_chips(table: MachineTable) -> int:
    if isinstance(table.scale_up, TorusTable):
        return math.prod(table.size.shape)
    return table.scale_up.chips if not isinstance(table.scale_up, GraphTable) else 1


def to_spec(table: MachineTable, sources: tuple[Source, ...]) -> MachineSpec:
    """Translate a validated file into SI units.

    Raises
    ------
    FieldProblem
        Fields that contradict each other.
    """
    fabric = table.scale_out
    if isinstance(table.scale_up, GraphTable) and fabric is not None:
        raise FieldProblem("scale_out", "belongs into the links of a graph")
    if fabric is None and table.size.domains > 1:
        raise FieldProblem("size.domains", "needs a [scale_out] table beyond one domain")
    scale_up = _scale_up(table.scale_up)
    return MachineSpec(
        name=table.name,
        summary=table.summary,
        chip=_chip(table.chip),
        scale_up=scale_up,
        scale_out=None if fabric is None else _fabric(fabric, _domain_chips(table)),
        num_domains=table.size.domains,
        shape=table.size.shape,
        mix=_mix(table.mix),
        wounds=wounds_record(table.wounds),
        sources=sources,
    )
