"""A domain with several levels of switches, or with many chips: boxes within boxes.

Every box is a run of chips with the switches that join it in the bar at its top; a chip has
links to the switches of every box around it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from planner.domain.scale_up import SwitchDomain
from planner.report.draw.blocks import Anchor, domain_name, has_rails, losses, rail_anchors
from planner.report.draw.canvas import Box, Sheet, text_width
from planner.report.draw.marks import NIC_PITCH, draw_node, draw_strip, strip_height
from planner.report.draw.parts import Parts, rate
from planner.report.draw.style import HEADING, SMALL, TINY

CHIP_WIDTH, CHIP_HEIGHT, CHIP_GAP = 26.0, 18.0, 3.0
PAD, GAP = 6.0, 7.0
SWITCH_WIDTH, SWITCH_HEIGHT, SWITCH_PITCH = 24.0, 11.0, 27.0
ROW = 14.0
NICE_ASPECT = 1.7
LINE = 14.0


@dataclass(frozen=True, kw_only=True, slots=True)
class _Grid:
    """How the boxes of one level fill the box around them."""

    count: int
    columns: int
    width: float
    height: float
    bar_rows: int
    per_row: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Nested:
    """One domain as boxes within boxes, innermost level first."""

    parts: Parts
    domain: int
    scale_up: SwitchDomain

    @cached_property
    def _grids(self) -> list[_Grid]:
        """One grid per level: its boxes are those of the level before, at first chips."""
        grids: list[_Grid] = []
        width, height, gap, span = CHIP_WIDTH, CHIP_HEIGHT, CHIP_GAP, 1
        for level in self.scale_up.levels:
            count = level.span // span
            columns = _columns(count, width + gap, height + gap)
            inner = columns * (width + gap) - gap
            rows = -(-count // columns)
            switches = len(level.links_per_switch)
            per_row = max(1, int((inner + 3) // SWITCH_PITCH))
            bar_rows = -(-switches // per_row)
            grids.append(
                _Grid(
                    count=count,
                    columns=columns,
                    width=width,
                    height=height,
                    bar_rows=bar_rows,
                    per_row=per_row,
                )
            )
            width = inner + 2 * PAD
            height = rows * (height + gap) - gap + bar_rows * ROW + 2 * PAD
            gap, span = GAP, level.span
        grids.append(_Grid(count=1, columns=1, width=width, height=height, bar_rows=0, per_row=1))
        return grids

    @cached_property
    def _lines(self) -> list[str]:
        lines = []
        for level in self.scale_up.levels:
            switches = len(level.links_per_switch)
            plural = "" if switches == 1 else "es"
            lines.append(
                f"every {level.span} chips: {switches} switch{plural}, "
                f"{sum(level.links_per_switch)} × {rate(level.link_bytes_per_s)} per chip"
            )
        if self.domain in self.parts.wounded_domains:
            lines.append(", ".join(losses(self.parts, self.domain)))
        return lines

    @cached_property
    def _nics(self) -> list[int]:
        found: list[int] = self.parts.nics[self.domain].tolist()
        return found

    @cached_property
    def width(self) -> float:
        """Width on the sheet."""
        return max(self._grids[-1].width, *(text_width(line, SMALL) for line in self._lines)) + 16

    @cached_property
    def anchors(self) -> tuple[Anchor, ...]:
        """Where the NICs leave at the upper edge."""
        count = len(self._nics)
        pitch = NIC_PITCH if has_rails(self.parts) else 0.0
        first = (self.width - (count - 1) * pitch) / 2
        return rail_anchors(
            self.parts, self.domain, [first + index * pitch for index in range(count)]
        )

    def draw(self, sheet: Sheet, x: float, y: float) -> None:
        """Draw it with its upper left corner at ``(x, y)``."""
        strip = strip_height(len(self._nics), self._grids[-1].width)
        top = y + 8 + strip + (6 if strip else 0)
        bottom = top + self._grids[-1].height + 12 + LINE * (len(self._lines) + 1)
        sheet.box(Box(x, y, self.width, bottom - y + 4), "frame", layer=0)
        left = x + (self.width - self._grids[-1].width) / 2
        draw_strip(sheet, self.parts, self._nics, Box(left, y + 8, self._grids[-1].width, strip))
        self._draw_run(sheet, len(self.scale_up.levels) - 1, 0, (left, top))
        base = top + self._grids[-1].height + 20
        sheet.text((x + 8, base), domain_name(self.parts, self.domain), HEADING, "bold")
        wounded = self.domain in self.parts.wounded_domains
        for row, line in enumerate(self._lines):
            alarm = wounded and row == len(self._lines) - 1
            at = (x + 8, base + LINE * (row + 1))
            sheet.text(at, line, SMALL, "alarm" if alarm else "muted")

    def _draw_run(self, sheet: Sheet, rank: int, run: int, corner: tuple[float, float]) -> None:
        """Draw run ``run`` of level ``rank`` and everything inside."""
        grid, outer = self._grids[rank], self._grids[rank + 1]
        x, y = corner
        sheet.box(Box(x, y, outer.width, outer.height), "tray", layer=0)
        switches = self.parts.switches[rank][:, self.domain, run].tolist()
        for index, switch in enumerate(switches):
            row, column = divmod(index, grid.per_row)
            at = Box(
                x + PAD + column * SWITCH_PITCH,
                y + PAD + row * ROW - 1,
                min(SWITCH_WIDTH, outer.width - 2 * PAD),
                SWITCH_HEIGHT,
            )
            draw_node(sheet, self.parts, switch, at, f"sw{index}")
        self._name_tray(sheet, rank, run, Box(x, y, outer.width, outer.height))
        top = y + PAD + grid.bar_rows * ROW
        gap = GAP if rank else CHIP_GAP
        first = self.parts.chips(self.domain).start
        for index in range(grid.count):
            row, column = divmod(index, grid.columns)
            at_x = x + PAD + column * (grid.width + gap)
            at_y = top + row * (grid.height + gap)
            inner = run * grid.count + index
            if rank:
                self._draw_run(sheet, rank - 1, inner, (at_x, at_y))
                continue
            chip = first + inner
            label = self.parts.names[chip].rpartition("/")[2]
            draw_node(sheet, self.parts, chip, Box(at_x, at_y, CHIP_WIDTH, CHIP_HEIGHT), label)

    def _name_tray(self, sheet: Sheet, rank: int, run: int, box: Box) -> None:
        level, tray = self.scale_up.levels[rank], self.scale_up.chips_per_tray
        used = len(level.links_per_switch) * SWITCH_PITCH
        name = f"t{run}"
        if level.span == tray and used + text_width(name, TINY) < box.width - 2 * PAD:
            sheet.text((box.right - PAD, box.y + PAD + 7), name, TINY, "muted", "end")


def _columns(count: int, width: float, height: float) -> int:
    """Columns that make a grid of boxes a little wider than high."""

    def ugliness(columns: int) -> tuple[float, int]:
        rows = -(-count // columns)
        aspect = columns * width / (rows * height)
        return abs(math.log(aspect / NICE_ASPECT)) + 0.3 * (rows * columns - count) / count, columns

    return min(range(1, min(count, 64) + 1), key=ugliness)
