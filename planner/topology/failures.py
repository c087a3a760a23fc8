"""What may die at once: a chip, a tray of a rack, a node."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from planner.errors import SpecError
from planner.topology.graph import Topology

KINDS = ("chip", "tray", "node")
Units = tuple[frozenset[int], ...]


def failure_units(topology: Topology, survive: str | None) -> Units:
    """Sets of chips that die together, none within another; empty for None.

    Parameters
    ----------
    survive : str, optional
        ``chip``, ``tray``, ``node``, or ``any`` for each of them that the machine has. The nodes
        of a rack are its trays. A machine of one node cannot lose it and is not asked to.

    Raises
    ------
    SpecError
        The machine has no such parts, or only one.
    """
    if survive is None:
        return ()
    chips: Units = tuple(frozenset({chip}) for chip in range(topology.num_chips))
    trays, nodes = _trays(topology), _nodes(topology)
    larger = {"chip": chips, "tray": trays, "node": trays or nodes}
    if survive == "any":
        return larger["node"] or chips
    if survive not in larger:
        raise SpecError(f"--survive: unknown part '{survive}'", f"known: {', '.join(KINDS)}, any")
    if len(larger[survive]) < 2:
        raise SpecError(
            f"--survive: {topology.spec.name} has not several {survive}s",
            "write --survive 1/chip, give the machine more, or drop it: replan --survive none",
        )
    return larger[survive]


def _grouped(topology: Topology, names: Iterable[str]) -> Units:
    found: dict[str, set[int]] = defaultdict(set)
    for chip, name in enumerate(names):
        found[name].add(chip)
    return tuple(frozenset(own) for own in found.values())


def _trays(topology: Topology) -> Units:
    """Trays of racks: chips are named rack, tray, chip."""
    names = topology.chip_names
    if any(name.count("/") < 2 for name in names):
        return ()
    return _grouped(topology, (name.rpartition("/")[0] for name in names))


def _nodes(topology: Topology) -> Units:
    """Nodes, where there are several."""
    if topology.spec.scale_up.unit != "node" or topology.spec.num_domains < 2:
        return ()
    found = _grouped(topology, (name.partition("/")[0] for name in topology.chip_names))
    return found if len(found) > 1 else ()
