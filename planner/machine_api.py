"""Library functions about machines alone: what the ``topology`` commands call."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from planner.catalog.loads import load_matrix
from planner.catalog.machine_size import sized
from planner.catalog.machines import load_machine, machine_facts, machine_names
from planner.domain.curves import Op
from planner.domain.hardware import DEFAULT_SIZE, MachineSpec, Sizing
from planner.errors import CatalogError, SpecError
from planner.topology.build import build_topology
from planner.topology.checks import listed, warnings
from planner.topology.collectives import CollectiveCost, collective_cost
from planner.topology.graph import Topology
from planner.topology.losses import Losses, losses, whole
from planner.topology.matrix_price import matrix_cost
from planner.topology.optimum import with_optimum
from planner.topology.selection import chips_by_name, chips_by_number, groups_alike
from planner.topology.summary import TopologySummary, summarise
from planner.units import GIB, MIB, format_integer

OWN = "given in "  # what the catalogue writes as the source of a user's own numbers
NODE_NAMES = {
    "nic": "NIC",
    "leaf": "leaf switch",
    "spine": "spine switch",
    "core": "core switch",
}
# 8 KiB to 1 GiB, four times as much each, and the end.
SIZES = (*(MIB / 128 * 4.0**step for step in range(9)), GIB)


@dataclass(frozen=True, kw_only=True, slots=True)
class SourcedNumber:
    """One number of a machine file, in the file's own unit, and where it comes from.

    ``field`` is the dotted name, which ends in the unit; ``as_of`` the month in which the
    source was read, empty where a user's file does not say.
    """

    field: str
    value: str
    source: str
    as_of: str


@dataclass(frozen=True, kw_only=True, slots=True)
class MachineState:
    """A machine as it is and, where it is wounded, as it was."""

    topology: Topology
    now: TopologySummary
    before: TopologySummary | None
    lost: Losses | None


@dataclass(frozen=True, kw_only=True, slots=True)
class FileVerdict:
    """What a readable machine file describes, and what looks wrong with it."""

    facts: tuple[str, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Collective:
    """What to price: an operation on a group of chips.

    Parameters
    ----------
    num_bytes : float, optional
        In the convention of ``op``; every size of ``SIZES`` where it is absent.
    chips, group : str, optional
        Chips by number or by name; all of the machine where both are absent.
    concurrent : bool
        Whether the rest of the machine does the same in groups that look alike.
    matrix : str, optional
        File of the bytes from chip to chip, instead of ``num_bytes``.
    """

    op: Op
    num_bytes: float | None = None
    chips: str | None = None
    group: str | None = None
    concurrent: bool = False
    algorithm: str = "auto"
    matrix: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class CollectivePrices:
    """Prices of one collective by size; ``others`` groups run the same at the same time."""

    machine: str
    size: str
    chips: tuple[str, ...]
    others: int
    costs: tuple[CollectiveCost, ...]


def load_topology(machine: str, sizing: Sizing = DEFAULT_SIZE) -> Topology:
    """Read a machine by name or path, size it, wound it and build it.

    Raises
    ------
    SpecError, CatalogError
        Unknown name, malformed file, a size that the machine does not have, or a wound
        that names nothing on it.
    """
    return build_topology(sized(load_machine(machine), sizing))


def machine_rows() -> list[tuple[str, str, str, int]]:
    """``(name, summary, default size, chips)`` of every machine of the catalogue."""
    specs = [load_machine(name) for name in machine_names()]
    return [(spec.name, spec.summary, spec.size_text, spec.num_chips) for spec in specs]


def machine_state(machine: str, sizing: Sizing = DEFAULT_SIZE) -> MachineState:
    """Count and measure a machine, wounded and whole.

    Raises
    ------
    SpecError, CatalogError
        As :func:`load_topology`.
    """
    topology = load_topology(machine, sizing)
    now = summarise(topology)
    if not topology.spec.wounds:
        return MachineState(topology=topology, now=now, before=None, lost=None)
    healthy = whole(topology)
    return MachineState(
        topology=topology,
        now=now,
        before=summarise(healthy),
        lost=losses(healthy.network, topology.network),
    )


def _text(value: object) -> str:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return f"{len(value)} entries"
    if isinstance(value, list):
        return "[" + ", ".join(_text(item) for item in value) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def machine_sources(machine: str) -> tuple[SourcedNumber, ...]:
    """Every number of a machine file with its source, in the order of the file's tables.

    Raises
    ------
    SpecError, CatalogError
        The file cannot be read.
    """
    facts = machine_facts(machine)
    listed_sources = {item.field: item for item in load_machine(machine).sources}
    found = []

    def visit(table: dict[str, object], prefix: str) -> None:
        for key, value in table.items():
            field = f"{prefix}{key}"
            if field in listed_sources:
                item = listed_sources[field]
                found.append(
                    SourcedNumber(
                        field=field, value=_text(value), source=item.text, as_of=item.as_of
                    )
                )
            elif isinstance(value, dict) and field != "sources":
                visit(value, f"{field}.")

    visit(facts, "")
    return tuple(found)


def check_machine(path: str) -> FileVerdict:
    """Read a machine file, build the machine, and look for what is suspicious.

    Raises
    ------
    SpecError, CatalogError
        The file cannot be read, or its wounds name something that it does not have.
    """
    spec = load_machine(path)
    try:
        topology = build_topology(spec)
    except SpecError as error:
        raise CatalogError(error.message, file=path, field="wounds", remedy=error.remedy) from None
    summary = summarise(topology)
    return FileVerdict(
        facts=(_size_line(summary), _source_line(spec)),
        warnings=(*warnings(topology, summary), *_unsourced(spec)),
    )


def _counted(count: int, name: str) -> str:
    ending = "" if count == 1 else "es" if name.endswith("ch") else "s"
    return f"{format_integer(count)} {name}{ending}"


def _size_line(summary: TopologySummary) -> str:
    counts = [_counted(kind.chips, f"{kind.name} chip") for kind in summary.chips]
    counts += [
        _counted(node.count, NODE_NAMES.get(node.kind, node.kind))
        for node in summary.nodes
        if node.kind != "chip"
    ]
    counts.append(_counted(sum(tier.links for tier in summary.tiers), "link"))
    return f"valid: {summary.name}, {summary.size}: {', '.join(counts)}"


def _source_line(spec: MachineSpec) -> str:
    months = sorted({item.as_of for item in spec.sources if item.as_of})
    span = f", read {months[0]}" if months else ""
    if len(months) > 1:
        span += f" to {months[-1]}"
    return f"{len(spec.sources)} numbers with a source{span}"


def _unsourced(spec: MachineSpec) -> tuple[str, ...]:
    """Numbers of a user's file that could not ship."""
    own = [item.field for item in spec.sources if not item.as_of or item.text.startswith(OWN)]
    if not own:
        return ()
    some = "number has" if len(own) == 1 else "numbers have"
    return (
        f"{len(own)} {some} no source or date, as a machine that ships must give: {listed(own)}",
    )


def collective_prices(machine: str, sizing: Sizing, question: Collective) -> CollectivePrices:
    """Price a collective.

    Raises
    ------
    SpecError, CatalogError
        As :func:`load_topology`; the group names no chips, or the machine has no such
        algorithm.
    """
    topology = load_topology(machine, sizing)
    if question.chips is not None:
        chips = chips_by_number(topology, question.chips)
    elif question.group is not None:
        chips = chips_by_name(topology, question.group)
    else:
        chips = tuple(range(topology.num_chips))
    if question.op is Op.SEND_RECV and len(chips) != 2:
        raise SpecError(
            f"send_recv takes two chips, the sender and the receiver, not {len(chips)}",
            "write for example --chips 0,8",
        )
    others = groups_alike(topology.num_chips, chips) if question.concurrent else ()
    if question.matrix is not None:
        table = np.array(load_matrix(question.matrix), dtype=float)
        costs = [matrix_cost(topology, chips, table, question.op)]
    else:
        sizes = SIZES if question.num_bytes is None else (question.num_bytes,)
        algorithm = question.algorithm
        costs = [
            with_optimum(
                topology,
                collective_cost(topology, question.op, chips, size, algorithm, others),
                chips,
                others,
            )
            for size in sizes
        ]
    return CollectivePrices(
        machine=topology.spec.name,
        size=topology.spec.size_text,
        chips=tuple(topology.chip_names[chip] for chip in chips),
        others=len(others),
        costs=tuple(costs),
    )
