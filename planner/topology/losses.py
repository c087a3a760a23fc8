"""What a wounded machine has lost, by name."""

from __future__ import annotations

from dataclasses import dataclass, replace

from planner.domain.hardware import NO_WOUNDS
from planner.topology.build import build_topology
from planner.topology.graph import Topology
from planner.topology.network import KINDS, Network


@dataclass(frozen=True, kw_only=True, slots=True)
class LostKind:
    """Names of the nodes of one kind that are gone."""

    kind: str
    names: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class SlowLink:
    """A link that is slower than it was; ``left`` is the fraction that is left."""

    name: str
    left: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Losses:
    """Difference between a whole machine and what is left of it.

    ``links`` are those between two nodes that both are still there.
    """

    nodes: tuple[LostKind, ...]
    links: tuple[str, ...]
    slowed: tuple[SlowLink, ...]


def whole(topology: Topology) -> Topology:
    """The same machine without its wounds."""
    return build_topology(replace(topology.spec, wounds=NO_WOUNDS))


def losses(before: Network, after: Network) -> Losses:
    """Compare a machine with what its wounds left of it."""
    gone: dict[int, list[str]] = {}
    for name, kind in zip(before.names, before.kinds.tolist(), strict=True):
        if name not in after.index:
            gone.setdefault(kind, []).append(name)
    rates = {
        (after.names[a], after.names[b]): rate
        for (a, b), rate in zip(after.ends.tolist(), after.bytes_per_s.tolist(), strict=True)
    }
    cut, slowed = [], []
    for (a, b), rate in zip(before.ends.tolist(), before.bytes_per_s.tolist(), strict=True):
        ends = before.names[a], before.names[b]
        if ends[0] not in after.index or ends[1] not in after.index:
            continue
        left = rates.get(ends)
        if left is None:
            cut.append("--".join(ends))
        elif left < rate:
            slowed.append(SlowLink(name="--".join(ends), left=left / rate))
    return Losses(
        nodes=tuple(LostKind(kind=KINDS[kind], names=tuple(gone[kind])) for kind in sorted(gone)),
        links=tuple(cut),
        slowed=tuple(slowed),
    )
