"""Parts of a machine that can train: as many chips of every node, rack or slice, all sound.

A run is priced on a healthy machine of equal domains. Two choices are worth a look: whole
domains; and where switches or a full mesh join the chips, the largest power of two in each, so
that groups which do not divide a domain lie inside it (64 of the 72 chips of a rack), and a
domain with a dead chip serves with the rest.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from planner.domain.hardware import NO_WOUNDS, MachineSpec
from planner.domain.scale_up import GraphDomain, MeshDomain, ScaleUp, SwitchDomain
from planner.errors import SpecError
from planner.topology.build import build_topology
from planner.topology.graph import Topology
from planner.topology.soundness import is_sound, soundness


@dataclass(frozen=True, kw_only=True, eq=False)
class MachinePart:
    """A part of a machine that trains.

    Parameters
    ----------
    topology : Topology
        What the run is priced on: ``domain_chips`` chips in every domain.
    chips : tuple of int
        Chip of the whole machine for each of its chips.
    domain_chips : int
        Chips in use of each node, rack or slice.
    rented_chips : int
        Chips that are paid for with each of them.
    """

    topology: Topology
    chips: tuple[int, ...]
    domain_chips: int
    rented_chips: int


def machine_parts(whole: Topology, out: frozenset[int], reserve: int) -> tuple[MachinePart, ...]:
    """Parts without excluded chips and with a reserve left idle, the largest first.

    Raises
    ------
    SpecError
        No chip is left.
    """
    good = _sound_domains(whole, out)
    found: dict[int, int] = {}
    for size in _sizes(whole, [len(domain) for domain in good]):
        own = [domain for domain in good if len(domain) >= size]
        keep = min(len(own), (sum(map(len, own)) - reserve) // size)
        better = any(
            other % size == 0 and count * other >= keep * size for other, count in found.items()
        )
        if keep >= 1 and not better:
            found[size] = keep
    if not found:
        raise SpecError(
            f"training runs on sound {whole.spec.scale_up.unit}s, and none is left of "
            f"{len(whole.domains)}",
            "exclude or reserve less, or size the machine up",
        )
    return tuple(_part(whole, good, size, keep) for size, keep in found.items())


def _sound_domains(whole: Topology, out: frozenset[int]) -> list[tuple[int, ...]]:
    """Chips of each domain that is connected as built, but for those that are excluded."""
    state, full = soundness(whole), whole.spec.domain_chips
    listed = isinstance(whole.spec.scale_up, GraphDomain)
    found = []
    for index, domain in enumerate(whole.domains):
        good = listed or whole.wounded is None or is_sound(whole, domain)
        # Links between chips that no closed form knows are priced on the graph.
        good = good or (not has_closed_forms(whole.spec) and len(domain) == full)
        if good and (listed or len(whole.domains) == 1 or state.nics[index]):
            found.append(tuple(chip for chip in domain if chip not in out))
    return [domain for domain in found if domain]


def has_closed_forms(spec: MachineSpec) -> bool:
    """Whether chips of a domain are interchangeable or form a torus."""
    scale_up = spec.scale_up
    if isinstance(scale_up, MeshDomain):
        return scale_up.is_full
    return not isinstance(scale_up, GraphDomain)


def _smaller(spec: MachineSpec, size: int) -> ScaleUp | None:
    """A domain of the same kind with ``size`` chips; None where part of one is no such thing."""
    scale_up, fabric = spec.scale_up, spec.scale_out
    if fabric is not None and fabric.chips_per_nic > 1:
        return None
    if isinstance(scale_up, MeshDomain) and scale_up.is_full:
        pairs = tuple(pair for pair in scale_up.pairs if pair[1] < size)
        return replace(scale_up, chips=size, pairs=pairs, chips_per_tray=None)
    if isinstance(scale_up, SwitchDomain) and len(scale_up.levels) == scale_up.parts == 1:
        level = replace(scale_up.levels[0], span=size)
        return replace(scale_up, chips=size, levels=(level,), chips_per_tray=None)
    return None


def _sizes(whole: Topology, present: list[int]) -> list[int]:
    """Chips of a domain that parts may use, most first."""
    spec = whole.spec
    full = spec.domain_chips
    if isinstance(spec.scale_up, GraphDomain):
        full = max(present, default=0)
    found = {full} & set(present)
    powers = {1 << (size.bit_length() - 1) for size in present}
    found |= {size for size in powers if _smaller(spec, size) is not None}
    return sorted(found, reverse=True)


def _part(whole: Topology, good: list[tuple[int, ...]], size: int, keep: int) -> MachinePart:
    spec = whole.spec
    chosen = [domain for domain in good if len(domain) >= size][:keep]
    chips = tuple(sorted(chip for domain in chosen for chip in domain[:size]))
    rented = max(size, spec.domain_chips) if has_closed_forms(spec) else size
    topology = whole if len(chips) == whole.num_chips else _healthy(whole, chosen, size)
    if topology is None:
        gone = [whole.places[chip] for chip in set(range(whole.num_chips)) - set(chips)]
        full = spec.domain_chips
        topology = build_topology(spec, [domain * full + place for domain, place in gone])
    return MachinePart(topology=topology, chips=chips, domain_chips=size, rented_chips=rented)


def _healthy(whole: Topology, chosen: list[tuple[int, ...]], size: int) -> Topology | None:
    """A machine of ``size`` chips in each domain; None where what is left is not as built."""
    spec = whole.spec
    sound = soundness(whole)
    if not has_closed_forms(spec) or not (sound.fabric or len(chosen) == 1):
        return None
    kinds = dict(spec.mix)
    places = [whole.places[domain[0]][0] for domain in chosen]
    scale_up = spec.scale_up if size == spec.domain_chips else _smaller(spec, size)
    assert scale_up is not None
    return build_topology(
        replace(
            spec,
            scale_up=scale_up,
            num_domains=len(chosen),
            wounds=NO_WOUNDS,
            mix=tuple((new, kinds[old]) for new, old in enumerate(places) if old in kinds),
        )
    )
