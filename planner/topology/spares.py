"""Chips that a layout leaves idle: those that the user excludes, and spares."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from planner.errors import SpecError
from planner.topology.graph import Spared, Topology

GROUP_KINDS = ("tray", "node", "rack", "slice")


def excluded_chips(topology: Topology, texts: Sequence[str]) -> frozenset[int]:
    """Chips that names mean: ``r0/t3/c2``, ``chip:r0/t3/c2``, ``tray:r0/t3``, ``rack:r1``.

    ``*`` stands for any run of characters.

    Raises
    ------
    SpecError
        A name means no chip of the machine.
    """
    found: set[int] = set()
    for text in texts:
        kind, colon, name = text.rpartition(":")
        kind = kind if colon else "chip"
        if not name or kind not in ("chip", *GROUP_KINDS):
            raise SpecError(
                f"--exclude: cannot read '{text}'",
                "write a chip such as r0/t3/c2, or tray:, node:, rack: or slice: and its name",
            )
        hits = _matching(topology, kind, name)
        if not hits:
            raise _unknown(topology, kind, text, name)
        found.update(hits)
    return frozenset(found)


def _matching(topology: Topology, kind: str, name: str) -> list[int]:
    if kind != "chip" and ("/" in name) != (kind == "tray"):
        return []
    parts = ".*".join(re.escape(part) for part in name.split("*"))
    pattern = re.compile(parts if kind == "chip" else f"{parts}/.+")
    return [chip for chip, own in enumerate(topology.chip_names) if pattern.fullmatch(own)]


def _unknown(topology: Topology, kind: str, text: str, name: str) -> SpecError:
    depth = {"chip": 9, "tray": 2}.get(kind, 1)
    parts = (own.split("/") for own in topology.chip_names)
    known = dict.fromkeys(
        "/".join(own[:depth]) for own in parts if kind == "chip" or len(own) > depth
    )
    prefix = f"{kind}:" if text != name else ""
    near = difflib.get_close_matches(name, list(known)[:20_000], n=3, cutoff=0.5)
    if near:
        hint = f"did you mean {' or '.join(f'{prefix}{own}' for own in near)}?"
    elif known:
        first, last = next(iter(known)), next(reversed(known))
        hint = f"the machine has {prefix}{first} to {prefix}{last}"
    else:
        hint = f"chips are named {topology.chip_names[0]} to {topology.chip_names[-1]}"
    return SpecError(f"--exclude: there is no '{text}' on this machine", hint)


def sparing(topology: Topology, spared: Spared) -> Topology:
    """The same machine with chips that a layout leaves idle.

    Raises
    ------
    SpecError
        No chip is left.
    """
    if not spared:
        return topology
    # What is remembered of the machine may depend on which chips may be used.
    result = replace(topology, spared=spared, memo={})
    if result.max_used > 0:
        return result
    healthy = topology.num_chips - len(spared.excluded)
    if not healthy:
        raise SpecError("--exclude leaves no chip of the machine", "exclude less")
    text = f"{spared.reserve_per_domain}/domain" if spared.reserve_per_domain else spared.reserve
    raise SpecError(
        f"--reserve {text}: no chip is left to use",
        f"the machine has {healthy} chips that are not excluded, "
        f"{max(len(domain) for domain in topology.domains)} in its largest domain",
    )


def _idle_last_first(topology: Topology, used: frozenset[int]) -> Iterator[list[int]]:
    """Idle chips of every domain, the last chips first."""
    for domain in topology.domains:
        yield [
            chip
            for chip in reversed(domain)
            if chip not in used and chip not in topology.spared.excluded
        ]


def spare_chips(topology: Topology, used: frozenset[int]) -> tuple[int, ...]:
    """Spares among the idle chips, ascending.

    In every domain its last idle chips; of a reserve of the whole machine, domains that are
    idle as a whole first, the last ones first.
    """
    spared = topology.spared
    idle = list(_idle_last_first(topology, used))
    chosen = [chip for chips in idle for chip in chips[: spared.reserve_per_domain]]
    if spared.reserve > len(chosen):
        whole = [
            len(chips) == len(domain) for chips, domain in zip(idle, topology.domains, strict=True)
        ]
        order = sorted(range(len(idle)), key=lambda domain: (not whole[domain], -domain))
        taken = set(chosen)
        left = [chip for domain in order for chip in idle[domain] if chip not in taken]
        chosen += left[: spared.reserve - len(chosen)]
    return tuple(sorted(chosen))
