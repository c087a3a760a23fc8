"""A node in full: NICs above, chips in a row, the switches that join them below."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from planner.domain.scale_up import SwitchDomain
from planner.report.draw.blocks import Anchor, domain_name, losses, rail_anchors
from planner.report.draw.canvas import Box, Sheet, centred, text_width
from planner.report.draw.marks import draw_link, draw_node
from planner.report.draw.parts import Parts, rate
from planner.report.draw.style import HEADING, SMALL, TINY
from planner.topology.network import CHIP

PITCH, PAD = 46.0, 14.0
CHIP_WIDTH, CHIP_HEIGHT = 38.0, 28.0
NIC_WIDTH, NIC_HEIGHT = 26.0, 14.0
SWITCH_HEIGHT = 24.0
NIC_Y, CHIP_Y, SWITCH_Y, BOTTOM = 8.0, 44.0, 166.0, 240.0
MAX_CHIPS = 16
MAX_LINES = 320


def fits_node(parts: Parts) -> bool:
    """Whether a domain is small enough for every link to be drawn."""
    scale_up = parts.spec.scale_up
    if not isinstance(scale_up, SwitchDomain) or len(scale_up.levels) > 1 or scale_up.parts > 1:
        return False
    switches = len(scale_up.levels[0].links_per_switch)
    return scale_up.chips <= MAX_CHIPS and scale_up.chips * switches <= MAX_LINES


def nic_label(parts: Parts, nic: int) -> str:
    """Which chips a NIC serves: ``c3``, ``c0 c1`` or ``c0-c7``."""
    short = [parts.names[chip].rpartition("/")[2] for chip in parts.chips_at(nic)]
    return " ".join(short) if len(short) < 3 else f"{short[0]}-{short[-1]}"


def draw_footer(sheet: Sheet, parts: Parts, domain: int, at: Box, facts: str) -> None:
    """Name of a domain, what it is in one line, and what is wrong with it."""
    name = domain_name(parts, domain)
    sheet.text((at.x, at.y), name, HEADING, "bold")
    start = at.x + text_width(name, HEADING) + 8
    sheet.text((start, at.y), facts, SMALL, "muted")
    if domain in parts.wounded_domains:
        words = ", ".join(losses(parts, domain))
        sheet.text((at.x, at.y + 14), words, SMALL, "alarm")


@dataclass(frozen=True, kw_only=True, eq=False)
class Node:
    """One node with every link of it."""

    parts: Parts
    domain: int
    scale_up: SwitchDomain

    @cached_property
    def width(self) -> float:
        """Width on the sheet."""
        return max(self.scale_up.chips * PITCH, text_width(self._facts, SMALL) + 40) + 2 * PAD

    @cached_property
    def _facts(self) -> str:
        alive = self.parts.alive(range(self.domain, self.domain + 1))
        return f"{alive} chips, {rate(self.scale_up.bytes_per_s)} each into the switches"

    @cached_property
    def _chip_x(self) -> list[float]:
        count = self.scale_up.chips
        first = (self.width - (count - 1) * PITCH) / 2
        return [first + index * PITCH for index in range(count)]

    @cached_property
    def _nic_x(self) -> list[float]:
        """Offsets of the NICs: above the chips that they serve."""
        first = self.parts.chips(self.domain).start
        places = []
        for nic in self.parts.nics[self.domain].tolist():
            served = [self._chip_x[chip - first] for _, chip in self.parts.links_to(nic, CHIP)]
            places.append(sum(served) / len(served))
        return places

    @cached_property
    def anchors(self) -> tuple[Anchor, ...]:
        """Where the NICs leave at the upper edge."""
        return rail_anchors(self.parts, self.domain, self._nic_x)

    def draw(self, sheet: Sheet, x: float, y: float) -> None:
        """Draw it with its upper left corner at ``(x, y)``."""
        parts = self.parts
        wounded = self.domain in parts.wounded_domains
        sheet.box(Box(x, y, self.width, BOTTOM + (14 if wounded else 0)), "frame", layer=0)
        chips = list(parts.chips(self.domain))
        at_chip = {chip: x + place for chip, place in zip(chips, self._chip_x, strict=True)}
        for chip, middle in at_chip.items():
            box = centred(middle, y + CHIP_Y + CHIP_HEIGHT / 2, CHIP_WIDTH, CHIP_HEIGHT)
            draw_node(sheet, parts, chip, box, parts.names[chip].rpartition("/")[2])
        self._draw_nics(sheet, x, y, at_chip)
        self._draw_switches(sheet, x, y, at_chip)
        draw_footer(sheet, parts, self.domain, Box(x + PAD, y + BOTTOM - 10, 0, 0), self._facts)

    def _draw_nics(self, sheet: Sheet, x: float, y: float, at_chip: dict[int, float]) -> None:
        parts = self.parts
        nics = parts.nics[self.domain].tolist()
        for nic, place in zip(nics, self._nic_x, strict=True):
            middle = x + place
            box = centred(middle, y + NIC_Y + NIC_HEIGHT / 2, NIC_WIDTH, NIC_HEIGHT)
            draw_node(sheet, parts, nic, box, "NIC")
            for link, chip in parts.links_to(nic, CHIP):
                ends = [(middle, y + NIC_Y + NIC_HEIGHT), (at_chip[chip], y + CHIP_Y)]
                draw_link(sheet, parts, link, ends, 1.2)

    def _draw_switches(self, sheet: Sheet, x: float, y: float, at_chip: dict[int, float]) -> None:
        parts, level = self.parts, self.scale_up.levels[0]
        switches = parts.switches[0][:, self.domain, 0].tolist()
        pitch = (self.width - 2 * PAD) / len(switches)
        width = min(76.0, pitch - 6)
        for index, switch in enumerate(switches):
            middle = x + PAD + (index + 0.5) * pitch
            box = centred(middle, y + SWITCH_Y + SWITCH_HEIGHT / 2, width, SWITCH_HEIGHT)
            draw_node(sheet, parts, switch, box, f"sw{index}")
            count = level.links_per_switch[index]
            for link, chip in parts.links_to(switch, CHIP):
                ends = [(at_chip[chip], y + CHIP_Y + CHIP_HEIGHT), (middle, y + SWITCH_Y)]
                draw_link(sheet, parts, link, ends, 0.5 + 0.2 * min(count, 9))
            words = f"{count} × {rate(level.link_bytes_per_s)}"
            if text_width(words, TINY) < pitch:
                at = (middle, y + SWITCH_Y + SWITCH_HEIGHT + 12)
                sheet.text(at, words, TINY, "muted", "middle")
                sheet.text((middle, at[1] + 10), "per chip", TINY, "muted", "middle")
