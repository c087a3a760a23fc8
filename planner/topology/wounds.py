"""Dead and slow parts: from names to the network that is left.

A name is ``kind:name``; ``*`` stands for any run of characters. ``chip``, ``tray``, ``node``,
``rack``, ``slice`` take chips away (with the NICs that serve nobody else), ``node``, ``rack``
and ``slice`` their switches too; ``switch``, ``leaf``, ``spine``, ``core``, ``nic``, ``host``
take away one node and its links; ``link:A--B`` takes away one link.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from planner.domain.hardware import Wounds
from planner.errors import SpecError
from planner.topology.network import (
    CHIP,
    CORE,
    FABRIC,
    HOST,
    LEAF,
    NIC_NODE,
    SPINE,
    SWITCH,
    Bools,
    Ints,
    Network,
)

CHIP_KINDS = ("chip", "tray", "node", "rack", "slice")
NODE_KINDS = {
    "switch": SWITCH,
    "leaf": LEAF,
    "spine": SPINE,
    "core": CORE,
    "nic": NIC_NODE,
    "host": HOST,
}
KNOWN = (*CHIP_KINDS, *NODE_KINDS, "link")


@dataclass(frozen=True, kw_only=True, slots=True)
class Wounded:
    """What is left of a network; ``chips`` are the indices its chips had before."""

    network: Network
    chips: Ints


def _pattern(name: str) -> re.Pattern[str]:
    return re.compile(".*".join(re.escape(part) for part in name.split("*")))


def _split(text: str) -> tuple[str, str]:
    kind, colon, name = text.partition(":")
    if not colon or not name or kind not in KNOWN:
        raise SpecError(
            f"cannot read '{text}' as a dead or slow part",
            f"write kind:name, for example chip:r0/t3/c2; kinds: {', '.join(KNOWN)}",
        )
    return kind, name


def _unknown(text: str, names: Iterable[str], kind: str) -> SpecError:
    wanted = text.partition(":")[2]
    near = difflib.get_close_matches(wanted, list(names)[:20_000], n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(f'{kind}:{name}' for name in near)}? " if near else ""
    return SpecError(
        f"there is no '{text}' on this machine",
        f"{hint}planner topology export lists every name".strip(),
    )


def _matching(network: Network, text: str, kind: str, name: str) -> Ints:
    """Nodes that ``kind:name`` means."""
    if kind in NODE_KINDS:
        wanted = [name, f"{name}/nic"] if kind == "nic" else [name]
        within: tuple[int, ...] = (NODE_KINDS[kind],)
    else:
        wanted = [name] if kind == "chip" else [f"{name}/*"]
        within = (CHIP,) if kind in ("chip", "tray") else (CHIP, SWITCH, NIC_NODE)
    names = network.names
    if "*" not in "".join(wanted):
        # Looked up by name: thousands of single chips may be dead.
        found = sorted({network.index[w] for w in wanted if w in network.index})
        hits = np.array([n for n in found if network.kinds[n] in within], dtype=np.int64)
    else:
        of_kind = np.flatnonzero(np.isin(network.kinds, within))
        patterns = [_pattern(w) for w in wanted]
        hits = np.array(
            [n for n in of_kind.tolist() if any(p.fullmatch(names[n]) for p in patterns)],
            dtype=np.int64,
        )
    if not len(hits) or (kind in CHIP_KINDS[1:] and ("/" in name) != (kind == "tray")):
        of_kind = np.flatnonzero(np.isin(network.kinds, within))
        raise _unknown(text, _named(kind, (names[n] for n in of_kind.tolist())), kind)
    return hits


def _named(kind: str, members: Iterable[str]) -> Iterable[str]:
    """What a kind could be called: a tray or domain as its chips are, without their last part."""
    if kind not in CHIP_KINDS[1:]:
        return members
    parts = 2 if kind == "tray" else 1
    trays = (name.split("/") for name in members)
    return dict.fromkeys("/".join(name[:parts]) for name in trays if len(name) > parts)


def _links(network: Network, text: str, name: str) -> Bools:
    """Links that ``link:A--B`` means, whichever end comes first."""
    left, dashes, right = name.partition("--")
    if not dashes:
        raise SpecError(
            f"cannot read '{text}'", "write link:A--B, for example link:r0/t3/c2--r0/sw5"
        )
    names = network.names
    ends = []
    for part in (left, right):
        if "*" in part:
            pattern = _pattern(part)
            ends.append(np.array([bool(pattern.fullmatch(n)) for n in names], dtype=np.bool_))
        else:
            ends.append(np.arange(len(names)) == network.index.get(part, -1))
    a, b = network.ends[:, 0], network.ends[:, 1]
    hit: Bools = (ends[0][a] & ends[1][b]) | (ends[0][b] & ends[1][a])
    if not hit.any():
        for part, end in zip((left, right), ends, strict=True):
            if not end.any():
                near = difflib.get_close_matches(part, list(names)[:20_000], n=3, cutoff=0.5)
                hint = f"did you mean {' or '.join(near)}? " if near else ""
                raise SpecError(
                    f"{text}: there is no '{part}' on this machine",
                    f"{hint}planner topology export lists every name",
                )
        raise SpecError(f"no link joins {left} and {right}", "planner topology export lists links")
    return hit


def _touched(network: Network, nodes: Ints) -> Bools:
    """Links of any of ``nodes``."""
    dead = np.zeros(network.num_nodes, dtype=np.bool_)
    dead[nodes] = True
    return np.asarray(dead[network.ends].any(axis=1))


def _spared(
    network: Network, usable: tuple[tuple[str, int], ...], prefix: str, dead: Bools
) -> Ints:
    """Chips beyond the first ``n`` live ones of the domains that ``usable`` names."""
    owners = network.domains[: network.num_chips]
    num_domains = int(owners.max()) + 1
    limits: dict[int, int] = {}
    for name, count in sorted(usable, key=lambda item: item[0] != "*"):
        if name == "*":
            limits = dict.fromkeys(range(num_domains), count)
            continue
        number = name.removeprefix(prefix)
        if not number.isdigit() or int(number) >= num_domains:
            raise SpecError(
                f"there is no domain '{name}' on this machine",
                f"domains are {prefix}0 to {prefix}{num_domains - 1}, * means each",
            )
        limits[int(number)] = count
    spared = []
    for domain, count in limits.items():
        members = np.flatnonzero(owners == domain)
        if not 0 <= count <= len(members):
            raise SpecError(
                f"usable: {prefix}{domain} has {len(members)} chips, not {count}",
                f"write a number from 0 to {len(members)}",
            )
        spared.append(members[~dead[members]][count:])
    return np.concatenate(spared) if spared else np.zeros(0, dtype=np.int64)


def wound(network: Network, wounds: Wounds, prefix: str) -> Wounded:
    """Take away what is dead and slow down what is degraded.

    Parameters
    ----------
    prefix : str
        Letter of a domain in names, for ``usable``.

    Raises
    ------
    SpecError
        A name that the machine does not have, or no chip is left.
    """
    dead = np.zeros(network.num_nodes, dtype=np.bool_)
    cut = np.zeros(network.num_links, dtype=np.bool_)
    rates = network.bytes_per_s.copy()
    for text in wounds.without:
        kind, name = _split(text)
        if kind == "link":
            cut |= _links(network, text, name)
        else:
            dead[_matching(network, text, kind, name)] = True
    for text, left in wounds.degrade:
        kind, name = _split(text)
        slow = (
            _links(network, text, name)
            if kind == "link"
            else _touched(network, _matching(network, text, kind, name))
        )
        # Two names for one link do not slow it twice.
        rates[slow] = np.minimum(rates[slow], left * network.bytes_per_s[slow])
    dead[_spared(network, wounds.usable, prefix, dead)] = True
    dead |= _orphans(network, dead)
    if dead[: network.num_chips].all():
        raise SpecError("no chip of the machine is left", "leave some chips out of the wounds")
    kept = np.flatnonzero(~dead)
    renumbered = np.full(network.num_nodes, -1, dtype=np.int64)
    renumbered[kept] = np.arange(len(kept))
    stays = ~cut & ~dead[network.ends].any(axis=1)
    names = network.names
    left_over = replace(
        network,
        num_chips=int((~dead[: network.num_chips]).sum()),
        kinds=network.kinds[kept],
        domains=network.domains[kept],
        ends=renumbered[network.ends[stays]],
        bytes_per_s=rates[stays],
        cables=network.cables[stays],
        tiers=network.tiers[stays],
        scale_up=network.scale_up[stays],
        axes=network.axes[stays],
        hops=network.hops[stays],
        name_nodes=lambda: tuple(names[node] for node in kept.tolist()),
    )
    return Wounded(network=left_over, chips=kept[kept < network.num_chips])


def _orphans(network: Network, dead: Bools) -> Bools:
    """NICs all of whose chips, and switches all of whose neighbours, are dead.

    They carry nothing any more, so they go with them.
    """
    served = np.zeros(network.num_nodes, dtype=np.int64)
    alive = np.zeros(network.num_nodes, dtype=np.int64)
    for near, far in ((0, 1), (1, 0)):
        one, other = network.ends[:, near], network.ends[:, far]
        pairs = (network.kinds[one] == CHIP) & (network.kinds[other] == NIC_NODE)
        pairs |= network.kinds[other] == SWITCH
        np.add.at(served, other[pairs], 1)
        np.add.at(alive, other[pairs & ~dead[one]], 1)
    return np.asarray((served > 0) & (alive == 0))


def components(num_nodes: int, ends: Ints) -> Ints:
    """Lowest node that each node is connected with, shape ``[num_nodes]``."""
    lowest = np.arange(num_nodes)
    while True:
        before = lowest.copy()
        least = np.minimum(lowest[ends[:, 0]], lowest[ends[:, 1]])
        np.minimum.at(lowest, ends[:, 0], least)
        np.minimum.at(lowest, ends[:, 1], least)
        lowest = lowest[lowest]
        if np.array_equal(before, lowest):
            return lowest


def scale_up_components(network: Network) -> Ints:
    """Domain of every node: what scale-up links connect, in the order of their chips.

    Returns
    -------
    array of int
        Shape ``[nodes]``; a chip without scale-up links is a domain of its own, other
        nodes without any belong to the fabric.
    """
    lowest = components(network.num_nodes, network.ends[network.scale_up])
    # Chips come first among the nodes, so the lowest node of a component is a chip.
    roots = np.unique(lowest[: network.num_chips])
    domains = np.full(network.num_nodes, FABRIC, dtype=np.int64)
    at = np.searchsorted(roots, lowest)
    inside = roots[np.minimum(at, len(roots) - 1)] == lowest
    domains[inside] = at[inside]
    return domains
