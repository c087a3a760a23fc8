"""Scale-up domains as building blocks of a hall, and the simplest two of them.

A block knows its size before it is drawn and where its NICs leave at its upper edge.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np

from planner.domain.scale_up import MeshDomain, SwitchDomain, Torus
from planner.report.draw.canvas import Box, Sheet, text_width
from planner.report.draw.marks import NIC_PITCH, draw_node, draw_strip, strip_height
from planner.report.draw.parts import CUT, SLOW, Parts
from planner.report.draw.style import BODY, SMALL, TINY
from planner.topology.builders import domain_prefix
from planner.topology.network import CHIP, NIC_NODE, SWITCH

SMALL_DOMAIN = 16
LARGE_CELL, ROOMY = 15.0, 1500.0
MAX_RAIL_NICS = 16
MAX_RAIL_LEAVES = 16


class Anchor(NamedTuple):
    """Where NICs leave a block: offset from its left edge, the NICs, and their rail.

    ``rail`` is -1 where all NICs leave as one bundle.
    """

    x: float
    nics: tuple[int, ...]
    rail: int = -1


class Block(Protocol):
    """One scale-up domain, or a run of them, on its way to the sheet."""

    @property
    def width(self) -> float:
        """Width on the sheet."""

    @property
    def anchors(self) -> tuple[Anchor, ...]:
        """Where the NICs leave at the upper edge."""

    def draw(self, sheet: Sheet, x: float, y: float) -> None:
        """Draw it with its upper left corner at ``(x, y)``."""


def domain_name(parts: Parts, domain: int) -> str:
    """``r0``, ``n4``, ``s2``: the name that chips of the domain begin with."""
    return f"{domain_prefix(parts.spec)}{domain}"


def has_rails(parts: Parts) -> bool:
    """Whether each NIC of a domain is drawn on its way to its own leaf switch."""
    fabric = parts.spec.scale_out
    if fabric is None or not parts.has_fabric:
        return False
    return parts.nics.shape[1] <= MAX_RAIL_NICS and 1 < fabric.leaves_per_unit <= MAX_RAIL_LEAVES


def rail_of(parts: Parts, nic: int) -> int:
    """Leaf switch of a NIC of a domain, counted within its scalable unit."""
    fabric = parts.spec.scale_out
    return nic % fabric.leaves_per_unit if fabric is not None else 0


def rail_anchors(parts: Parts, domain: int, places: list[float]) -> tuple[Anchor, ...]:
    """One anchor per NIC at the given offsets, or one bundle in their middle."""
    nics = parts.nics[domain].tolist()
    if not nics:
        return ()
    if has_rails(parts):
        return tuple(
            Anchor(x=x, nics=(nic,), rail=rail_of(parts, index))
            for index, (x, nic) in enumerate(zip(places, nics, strict=True))
        )
    middle = (places[0] + places[-1]) / 2
    return (Anchor(x=middle, nics=tuple(nics)),)


def losses(parts: Parts, domain: int) -> list[str]:
    """What is wrong inside a domain, one short line each."""
    network = parts.network
    members = np.flatnonzero(parts.owners == domain)
    if parts.dead[members].all():
        return ["lost"]
    inside = (parts.owners[network.ends] == domain).any(axis=1)
    states = Counter(parts.states[inside].tolist())
    found = []
    for kind, word in ((CHIP, "chip"), (SWITCH, "sw"), (NIC_NODE, "NIC")):
        lost = [node for node in members[network.kinds[members] == kind] if parts.dead[node]]
        if kind == NIC_NODE:
            # A NIC goes with the last of its chips: no news.
            lost = [nic for nic in lost if any(not parts.dead[c] for c in parts.chips_at(nic))]
        if lost:
            plural = "s" if len(lost) > 1 and kind != SWITCH else ""
            found.append(f"{len(lost)} {word}{plural} lost")
    slow = int((parts.slow[members] < 1).sum()) + states[SLOW]
    pairs = ((slow, "slow"), (states[CUT], "cut"))
    return found + [f"{count} {word}" for count, word in pairs if count]


def _columns(parts: Parts) -> int:
    """Chips side by side in a compact block: a tray, a row of a torus, or a neat few."""
    scale_up = parts.spec.scale_up
    size = parts.spec.domain_chips
    if isinstance(scale_up, Torus):
        columns = parts.spec.shape[0]
    elif isinstance(scale_up, (SwitchDomain, MeshDomain)) and scale_up.chips_per_tray:
        columns = scale_up.chips_per_tray
    else:
        columns = 2
    while size > SMALL_DOMAIN and -(-size // columns) > 1.5 * columns:
        columns *= 2
    return columns


@dataclass(frozen=True, kw_only=True, eq=False)
class Compact:
    """A domain as a small box: every chip a square, switches below, its name underneath."""

    parts: Parts
    domain: int

    @cached_property
    def _cell(self) -> float:
        if self.parts.spec.domain_chips <= SMALL_DOMAIN:
            return 19.0
        wide = self.parts.spec.num_domains * (_columns(self.parts) * LARGE_CELL + 14)
        return LARGE_CELL if wide < ROOMY else 10.0

    @cached_property
    def _switches(self) -> list[int]:
        return [
            int(switch) for level in self.parts.switches for switch in level[:, self.domain].ravel()
        ]

    @cached_property
    def _nics(self) -> list[int]:
        found: list[int] = self.parts.nics[self.domain].tolist()
        return found

    @cached_property
    def width(self) -> float:
        """Width on the sheet."""
        nics = len(self._nics) * NIC_PITCH if has_rails(self.parts) else 0.0
        name = text_width(domain_name(self.parts, self.domain), BODY)
        return max(_columns(self.parts) * self._cell, nics, name, 40.0) + 6

    @cached_property
    def anchors(self) -> tuple[Anchor, ...]:
        """Where the NICs leave at the upper edge."""
        count = len(self._nics)
        first = (self.width - (count - 1) * NIC_PITCH) / 2
        if not has_rails(self.parts):
            return rail_anchors(self.parts, self.domain, [self.width / 2] * count)
        return rail_anchors(
            self.parts, self.domain, [first + index * NIC_PITCH for index in range(count)]
        )

    def draw(self, sheet: Sheet, x: float, y: float) -> None:
        """Draw it with its upper left corner at ``(x, y)``."""
        parts, inner = self.parts, self.width - 6
        columns, cell = _columns(parts), self._cell
        chips = parts.chips(self.domain)
        nic_height = strip_height(len(self._nics), inner)
        rows = -(-len(chips) // columns)
        per_row = max(1, int(inner // 7))
        switch_rows = -(-len(self._switches) // per_row)
        top = y + 4 + nic_height + (4 if nic_height else 0)
        height = top - y + rows * cell + (switch_rows * 7 + 4 if switch_rows else 0) + 3
        sheet.box(Box(x, y, self.width, height), "frame", layer=0)
        draw_strip(sheet, parts, self._nics, Box(x + 3, y + 4, inner, nic_height))
        left = x + (self.width - columns * cell) / 2
        for index, chip in enumerate(chips):
            row, column = divmod(index, columns)
            at = Box(left + column * cell + 1, top + row * cell + 1, cell - 2, cell - 2)
            draw_node(sheet, parts, chip, at, str(index) if cell > LARGE_CELL else "")
        base = top + rows * cell + 4
        used = min(per_row, len(self._switches))
        start = x + (self.width - used * 7) / 2
        for index, switch in enumerate(self._switches):
            row, column = divmod(index, per_row)
            draw_node(sheet, parts, switch, Box(start + column * 7 + 1, base + row * 7, 5, 5))
        self._name(sheet, x + self.width / 2, y + height)

    def _name(self, sheet: Sheet, middle: float, bottom: float) -> None:
        name = domain_name(self.parts, self.domain)
        sheet.text((middle, bottom + 13), name, SMALL, "bold", "middle")
        if self.domain not in self.parts.wounded_domains:
            return
        for row, words in enumerate(losses(self.parts, self.domain)):
            sheet.text((middle, bottom + 24 + 10 * row), words, TINY, "alarm", "middle")


@dataclass(frozen=True, kw_only=True, eq=False)
class Hidden:
    """Domains that are counted instead of drawn."""

    parts: Parts
    domains: range
    units: int

    @cached_property
    def _lines(self) -> list[str]:
        count, unit = len(self.domains), self.parts.spec.scale_up.unit
        alive = self.parts.alive(self.domains)
        unit += "s" if count > 1 else ""
        more = count < self.parts.spec.num_domains
        lines = [f"… {count:,} more {unit}" if more else f"{count:,} {unit}", f"{alive:,} chips"]
        lost = count * self.parts.spec.domain_chips - alive
        if lost:
            lines.append(f"{lost:,} chips lost")
        if self.units > 1:
            lines.append(f"{self.units:,} scalable units")
        return lines

    @cached_property
    def width(self) -> float:
        """Width on the sheet."""
        return max(96.0, max(text_width(line, BODY) for line in self._lines) + 20)

    @cached_property
    def anchors(self) -> tuple[Anchor, ...]:
        """Where the NICs leave at the upper edge."""
        nics = self.parts.nics[self.domains.start : self.domains.stop]
        if not nics.size:
            return ()
        middle = self.width / 2
        if not has_rails(self.parts):
            return (Anchor(x=middle, nics=tuple(nics.ravel().tolist())),)
        count = nics.shape[1]
        return tuple(
            Anchor(
                x=middle + (index - (count - 1) / 2) * NIC_PITCH,
                nics=tuple(nics[:, index].tolist()),
                rail=rail_of(self.parts, index),
            )
            for index in range(count)
        )

    def draw(self, sheet: Sheet, x: float, y: float) -> None:
        """Draw it with its upper left corner at ``(x, y)``."""
        box = Box(x, y, self.width, 22 + 17 * len(self._lines))
        sheet.box(box, "hid", ", ".join(self._lines), chips=self.parts.alive(self.domains))
        for row, line in enumerate(self._lines):
            at = (x + self.width / 2, y + 26 + 17 * row)
            sheet.text(at, line, BODY, "bold" if row == 0 else "muted", "middle")
