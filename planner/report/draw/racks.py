"""A rack as a cabinet: compute trays above and below, switch trays in the middle.

Decisions
---------
* Every chip has a link to every switch: one line per tray into a cable cartridge stands for
  them, as in the real rack, instead of a thousand crossing lines.
* Ten of eighteen trays above the switches and eight below, as NVL72 racks are built; other
  numbers of trays are split in the same proportion.
* Two switches side by side make a switch tray; more where that would be more than nine trays.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

from planner.domain.scale_up import SwitchDomain
from planner.report.draw.blocks import Anchor, domain_name, has_rails, rail_anchors
from planner.report.draw.canvas import Box, Sheet, text_width
from planner.report.draw.marks import NIC_PITCH, NIC_SIZE, draw_node
from planner.report.draw.parts import CUT, OK, SLOW, Parts, percent, rate
from planner.report.draw.style import HEADING, SMALL, TINY
from planner.topology.network import NIC_NODE, SWITCH

TRAY_HEIGHT, TRAY_PITCH = 18.0, 20.0
CHIP_WIDTH, CHIP_PITCH = 25.0, 28.0
SWITCH_HEIGHT, SWITCH_PITCH = 12.0, 14.0
HEADER, FOOTER, PAD = 26.0, 22.0, 9.0
FABRIC_X, NIC_X, LABEL_X, CHIPS_X = 9.0, 15.0, 50.0, 54.0
CABLE_GAP, CABLE_WIDTH = 10.0, 8.0
NAME_X = 17.0
PART_GAP = 104.0
MAX_SWITCH_TRAYS = 9
MAX_EXPLAINED = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class _Tray:
    number: int
    chips: tuple[int, ...]


def has_cabinet(parts: Parts) -> bool:
    """Whether a domain is a rack of trays around one level of switches."""
    scale_up = parts.spec.scale_up
    return (
        isinstance(scale_up, SwitchDomain)
        and len(scale_up.levels) == 1
        and scale_up.chips_per_tray is not None
        and scale_up.chips_per_tray <= 8
        and scale_up.chips > scale_up.chips_per_tray
        and scale_up.chips // scale_up.parts <= 40 * scale_up.chips_per_tray
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Rack:
    """One rack, or one domain in several cabinets side by side."""

    parts: Parts
    domain: int
    scale_up: SwitchDomain

    @cached_property
    def _tray_chips(self) -> int:
        return self.scale_up.chips_per_tray or 1

    @cached_property
    def _cabinets(self) -> list[list[_Tray]]:
        chips = self.parts.chips(self.domain)
        size = len(chips) // self.scale_up.parts
        cabinets = []
        for part in range(self.scale_up.parts):
            run = chips[part * size : (part + 1) * size]
            grouped = groupby(run, key=lambda chip: (chip - chips.start) // self._tray_chips)
            cabinets.append([_Tray(number=n, chips=tuple(group)) for n, group in grouped])
        return cabinets

    @cached_property
    def _chips_right(self) -> float:
        return CHIPS_X + self._tray_chips * CHIP_PITCH - (CHIP_PITCH - CHIP_WIDTH)

    @cached_property
    def _note_width(self) -> float:
        notes = [self._note(tray) for cabinet in self._cabinets for tray in cabinet]
        longest = max((text_width(note, TINY) for note in notes), default=0.0)
        return longest + 6 if longest else 0.0

    @cached_property
    def _cabinet_width(self) -> float:
        inside = self._chips_right + CABLE_GAP + CABLE_WIDTH + self._note_width
        count = text_width(f"{len(self.parts.chips(self.domain))} chips", SMALL)
        header = NAME_X + text_width(self._name(self.scale_up.parts - 1), HEADING) + 8 + count
        return max(inside, header) + PAD

    def _name(self, part: int) -> str:
        """``r0``, or ``r0 part 1`` where a domain has several cabinets."""
        name = domain_name(self.parts, self.domain)
        return f"{name} part {part}" if self.scale_up.parts > 1 else name

    @cached_property
    def width(self) -> float:
        """Width on the sheet."""
        count = self.scale_up.parts
        return count * self._cabinet_width + (count - 1) * PART_GAP

    @cached_property
    def anchors(self) -> tuple[Anchor, ...]:
        """Where the NICs leave at the upper edge."""
        nics = self.parts.nics[self.domain].tolist()
        if has_rails(self.parts) or not nics:
            places = [FABRIC_X + 4 + NIC_PITCH * index for index in range(len(nics))]
            return rail_anchors(self.parts, self.domain, places)
        by_cabinet = []
        step = self._cabinet_width + PART_GAP
        for index, cabinet in enumerate(self._cabinets):
            own = [nic for tray in cabinet for nic in self._nics(tray)]
            by_cabinet.append(Anchor(x=index * step + FABRIC_X, nics=tuple(dict.fromkeys(own))))
        return tuple(by_cabinet)

    def _nics(self, tray: _Tray) -> list[int]:
        found = [nic for chip in tray.chips for _, nic in self.parts.links_to(chip, NIC_NODE)]
        return list(dict.fromkeys(found))

    def _links(self, tray: _Tray) -> list[int]:
        return [link for chip in tray.chips for link, _ in self.parts.links_to(chip, SWITCH)]

    def _note(self, tray: _Tray) -> str:
        """What is wrong with the cables of a tray, apart from its chips and switches."""
        links = self._links(tray)
        states = [int(self.parts.states[link]) for link in links]
        there = [link for link, state in zip(links, states, strict=True) if state in (OK, SLOW)]
        if CUT in states:
            return f"{states.count(CUT)} of {len(links)} cut"
        if SLOW in states:
            left, built = self.parts.rate_left(there)
            return f"{percent(left / built)} left"
        return ""

    @cached_property
    def _switch_grid(self) -> tuple[int, int]:
        """Switches of one tray, and switch trays, in one cabinet."""
        count = len(self.parts.switches[0])
        side = 2
        while -(-count // side) > MAX_SWITCH_TRAYS:
            side *= 2
        side = min(side, count)
        return side, -(-count // side)

    def draw(self, sheet: Sheet, x: float, y: float) -> None:
        """Draw it with its upper left corner at ``(x, y)``."""
        step = self._cabinet_width + PART_GAP
        middles = [
            self._draw_cabinet(sheet, part, x + part * step, y)
            for part in range(self.scale_up.parts)
        ]
        for part in range(self.scale_up.parts - 1):
            self._draw_trunk(sheet, part, x + part * step, middles[part])

    def _draw_cabinet(self, sheet: Sheet, part: int, x: float, y: float) -> float:
        """Draw one cabinet; returns the height at which its switches are."""
        trays = self._cabinets[part]
        above = -(-len(trays) * 10 // 18)
        _, switch_trays = self._switch_grid
        block = switch_trays * SWITCH_PITCH + 8
        first = y + HEADER
        switches_y = first + above * TRAY_PITCH + 3
        height = HEADER + len(trays) * TRAY_PITCH + block + FOOTER
        sheet.box(Box(x, y, self._cabinet_width, height), "frame", layer=0)
        name = self._name(part)
        sheet.text((x + NAME_X, y + 17), name, HEADING, "bold")
        alive = sum(not self.parts.dead[chip] for tray in trays for chip in tray.chips)
        right = x + self._cabinet_width - PAD
        sheet.text((right, y + 17), f"{alive} chips", SMALL, "muted", "end")
        cable = x + self._chips_right + CABLE_GAP
        tray_tops = [
            first + row * TRAY_PITCH + (block if row >= above else 0.0) for row in range(len(trays))
        ]
        for tray, top in zip(trays, tray_tops, strict=True):
            self._draw_tray(sheet, tray, x, top)
        if self.anchors and not has_rails(self.parts):
            lowest = tray_tops[-1] + TRAY_HEIGHT / 2
            sheet.line([(x + FABRIC_X, y), (x + FABRIC_X, lowest)], "nl", width=2)
        bar = Box(cable, first, CABLE_WIDTH, height - HEADER - FOOTER - 2)
        built = " as built" if self.parts.topology.wounded is not None else ""
        links = f"{self.scale_up.links_per_chip} × {rate(self.scale_up.levels[0].link_bytes_per_s)}"
        sheet.box(bar, "cable", f"{name} cable cartridge\n{links} per chip per direction{built}")
        self._draw_switches(sheet, part, x, switches_y)
        last = self.domain == self.parts.spec.num_domains - 1 and part == self.scale_up.parts - 1
        if last and self.parts.spec.num_domains <= MAX_EXPLAINED:
            self._explain(sheet, x + self._cabinet_width, y, above)
        middle = (x + CHIPS_X + cable + CABLE_WIDTH) / 2
        sheet.text((middle, y + height - 8), f"{links} per chip{built}", TINY, "muted", "middle")
        return switches_y + (block - 8) / 2

    def _explain(self, sheet: Sheet, x: float, y: float, above: int) -> None:
        """Say beside the cabinet what it consists of; for pages with room only."""
        trays = self._cabinets[-1]
        side, rows = self._switch_grid
        switches = len(self.parts.switches[0])
        each = rate(self.scale_up.levels[0].link_bytes_per_s)
        below = len(trays) - above
        middle = above * TRAY_PITCH + 3
        ports = sum(len(tray.chips) for tray in trays)
        notes = [
            (0.0, above * TRAY_PITCH - 4, [f"{above} compute trays of {self._tray_chips} chips"]),
            (
                middle,
                rows * SWITCH_PITCH - 2,
                [
                    f"{switches} switches in {rows} rows of {side}",
                    f"{ports} chips at each, {self.scale_up.links_per_chip} × {each} per chip",
                ],
            ),
        ]
        if below:
            start = middle + rows * SWITCH_PITCH + 5
            notes.append((start, below * TRAY_PITCH - 2, [f"{below} compute trays"]))
        for start, height, lines in notes:
            top = y + HEADER + start
            corners = [(x + 8, top), (x + 14, top), (x + 14, top + height), (x + 8, top + height)]
            sheet.line(corners, "rule")
            first = top + height / 2 + 3 - 7 * (len(lines) - 1)
            for row, line in enumerate(lines):
                sheet.text((x + 22, first + 14 * row), line, SMALL, "muted")

    def _draw_tray(self, sheet: Sheet, tray: _Tray, x: float, y: float) -> None:
        middle = y + TRAY_HEIGHT / 2
        right = x + self._chips_right
        sheet.box(Box(x + NIC_X - 2, y, right - x - NIC_X + 5, TRAY_HEIGHT), "tray", layer=0)
        sheet.text((x + LABEL_X, middle + 3), f"t{tray.number}", TINY, "muted", "end")
        for index, chip in enumerate(tray.chips):
            at = Box(x + CHIPS_X + index * CHIP_PITCH, y + 2, CHIP_WIDTH, TRAY_HEIGHT - 4)
            draw_node(sheet, self.parts, chip, at, self.parts.names[chip].rpartition("/")[2])
        for index, nic in enumerate(self._nics(tray)):
            column, row = divmod(index, 2)
            at = Box(x + NIC_X + column * NIC_PITCH, y + 3 + row * NIC_PITCH, NIC_SIZE, NIC_SIZE)
            draw_node(sheet, self.parts, nic, at)
        nics = [nic for nic in self._nics(tray) if not self.parts.dead[nic]]
        if nics and not has_rails(self.parts):
            sheet.line([(x + FABRIC_X, middle), (x + NIC_X - 2, middle)], "nl")
        self._draw_cables(sheet, tray, right + 3, middle)

    def _draw_cables(self, sheet: Sheet, tray: _Tray, x: float, y: float) -> None:
        links = self._links(tray)
        left, built = self.parts.rate_left(links)
        if not left:
            return
        note = self._note(tray)
        each = rate(self.scale_up.levels[0].link_bytes_per_s)
        name = self.parts.names[tray.chips[0]].rpartition("/")[0]
        tip = (
            f"{name} to the switches\n{len(tray.chips)} chips × {self.scale_up.links_per_chip} × "
            f"{each} = {rate(built)} per direction"
        )
        if left < built:
            tip += f", {rate(left)} left"
        end = x + CABLE_GAP - 3
        sheet.line([(x, y), (end, y)], "dash" if note else "up", tip, 3)
        if note:
            sheet.text((end + CABLE_WIDTH + 4, y + 2.5), note, TINY, "warn")

    def _draw_switches(self, sheet: Sheet, part: int, x: float, y: float) -> None:
        side, rows = self._switch_grid
        span = self._chips_right - CHIPS_X
        pitch = (span + 3) / side
        switches = self.parts.switches[0][:, self.domain, part].tolist()
        for index, switch in enumerate(switches):
            row, column = divmod(index, side)
            at = Box(x + CHIPS_X + column * pitch, y + row * SWITCH_PITCH, pitch - 3, SWITCH_HEIGHT)
            draw_node(sheet, self.parts, switch, at, f"sw{index}")
        for row in range(rows):
            middle = y + row * SWITCH_PITCH + SWITCH_HEIGHT / 2
            start = x + self._chips_right
            sheet.line([(start, middle), (start + CABLE_GAP, middle)], "up", width=2)

    def _draw_trunk(self, sheet: Sheet, part: int, x: float, middle: float) -> None:
        """The trunks from one cabinet's switches to their twins in the next cabinet."""
        start = x + self._chips_right + CABLE_GAP + CABLE_WIDTH
        end = x + self._cabinet_width + PART_GAP
        half = self._switch_grid[1] * SWITCH_PITCH / 2
        links = []
        for switch in self.parts.switches[0][:, self.domain, part].tolist():
            twin = self.parts.switches[0][:, self.domain, part + 1].tolist()
            links += [link for link, other in self.parts.links_to(switch, SWITCH) if other in twin]
        left, built = self.parts.rate_left(links)
        count, trunks = len(links), self.scale_up.trunk_links
        tip = f"trunks\n{count} × {trunks} links = {rate(built)} per direction, {rate(left)} left"
        corners = [(start, middle - half), (end + CHIPS_X, middle - half)]
        sheet.polygon(
            [*corners, (end + CHIPS_X, middle + half), (start, middle + half)], "band", tip
        )
        x_label = x + self._cabinet_width + PART_GAP / 2
        sheet.text((x_label, middle - 6), "trunks", SMALL, "bold", "middle")
        sheet.text((x_label, middle + 6), f"{count} × {trunks} links", SMALL, "", "middle")
        words = rate(left) if left == built else f"{rate(left)} of {rate(built)}"
        sheet.text((x_label, middle + 18), words, SMALL, "" if left == built else "warn", "middle")
