"""From a machine's facts to its topology."""

from __future__ import annotations

import itertools
from collections.abc import Collection

from planner.domain.hardware import MachineSpec, Torus
from planner.errors import SpecError
from planner.topology.graph import Topology


def _torus_places(shape: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """Coordinates of every chip; the first axis runs fastest."""
    reversed_axes = itertools.product(*(range(length) for length in reversed(shape)))
    return tuple(place[::-1] for place in reversed_axes)


def build_topology(spec: MachineSpec, without: Collection[int] = ()) -> Topology:
    """Build the topology of a machine.

    Parameters
    ----------
    spec : MachineSpec
        The machine in its final size.
    without : collection of int
        Chips to leave out (broken, or somebody else's), as indices into the whole
        machine. The remaining chips are renumbered in order; a domain that loses all its
        chips disappears.

    Raises
    ------
    SpecError
        ``without`` names a chip that does not exist, leaves none, or the machine is a
        torus, whose rings cannot lose a chip.
    """
    missing = frozenset(without)
    if missing and not missing <= set(range(spec.num_chips)):
        raise SpecError(
            f"{spec.name} has chips 0 to {spec.num_chips - 1}, not all of {sorted(missing)}"
        )
    if isinstance(spec.scale_up, Torus):
        if missing:
            raise SpecError(
                f"{spec.name} is a torus: a chip cannot be left out",
                "plan for a smaller slice with --shape",
            )
        places = _torus_places(spec.shape)
        return Topology(spec=spec, places=places, domains=(tuple(range(len(places))),))
    size = spec.scale_up.chips
    kept = [chip for chip in range(spec.num_chips) if chip not in missing]
    if not kept:
        raise SpecError(f"{spec.name}: every chip is left out")
    domains: dict[int, list[int]] = {}
    for index, chip in enumerate(kept):
        domains.setdefault(chip // size, []).append(index)
    return Topology(
        spec=spec,
        places=tuple(divmod(chip, size) for chip in kept),
        domains=tuple(tuple(chips) for chips in domains.values()),
    )
