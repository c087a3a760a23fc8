"""Chips and links of a slice, once it is known where each chip stands.

A link that wraps around is a stub with a dot at both ends of its row. Healthy links of a row
are one shape; every link that is slow or cut has its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from planner.report.draw.canvas import Point, Sheet, centred, polyline
from planner.report.draw.marks import draw_link, draw_node
from planner.report.draw.parts import GONE, OK, SLOW, rate
from planner.report.draw.torus_map import Place, SliceMap
from planner.topology.network import AXES

STUB, DOT = 9.0, 1.8
LABEL_SIZE = 24.0

Where = Callable[[Place], Point]


@dataclass(frozen=True, kw_only=True, eq=False)
class View:
    """A slice, the place of each chip on the sheet, and the size of a chip."""

    slice: SliceMap
    where: Where
    chip_size: float

    def draw_chips(self, sheet: Sheet) -> None:
        """Draw every chip of the window."""
        slice_, window = self.slice, self.slice.window
        axes = [axis for axis in range(slice_.axes) if slice_.shape[axis] > 1] or [0]
        for z in window.planes:
            for y in range(window.rows):
                for x in range(window.columns):
                    place = (x, y, z)
                    words = ",".join(str(place[axis]) for axis in axes)
                    box = centred(*self.where(place), self.chip_size, self.chip_size)
                    label = words if self.chip_size > LABEL_SIZE else ""
                    draw_node(sheet, slice_.parts, slice_.chip(place), box, label)

    def draw_axis(self, sheet: Sheet, axis: int, step: Point) -> None:
        """Draw the links along one axis; ``step`` is the way from a chip to the next one."""
        rows: dict[Place, list[tuple[int, Place, Place]]] = {}
        for link in self.slice.links[axis]:
            x, y, z = link[1]
            row = (0 if axis == 0 else x, 0 if axis == 1 else y, 0 if axis == 2 else z)
            rows.setdefault(row, []).append(link)
        for row, links in rows.items():
            self._draw_row(sheet, (axis, step), row, links)

    def _draw_row(
        self,
        sheet: Sheet,
        along: tuple[int, Point],
        row: Place,
        links: list[tuple[int, Place, Place]],
    ) -> None:
        axis, _ = along
        holds, states = self.slice.window.holds, self.slice.parts.states
        pieces: list[list[Point]] = []
        for link, a, b in links:
            if states[link] == GONE:
                continue
            if abs(a[axis] - b[axis]) == 1 and holds(a) and holds(b):
                ends = [self.where(a), self.where(b)]
                if states[link] == OK:
                    pieces.append(ends)
                else:
                    draw_link(sheet, self.slice.parts, link, ends, 1.4)
                continue
            for place, other in ((a, b), (b, a)):
                if holds(place):
                    pieces += self._stub(sheet, link, (place, other), along)
        if pieces:
            tip = self._row_tip(axis, row, len(links))
            hull = [point for piece in pieces for point in piece]
            sheet.path("".join(map(polyline, pieces)), hull, f"a{axis}", tip, 1.3)

    def _stub(
        self, sheet: Sheet, link: int, ends: tuple[Place, Place], along: tuple[int, Point]
    ) -> list[list[Point]]:
        """One end of a link whose other end is far away, or not drawn."""
        axis, step = along
        place, other = ends
        wraps = abs(place[axis] - other[axis]) > 1
        sign = 1 if (place[axis] > other[axis]) == wraps else -1
        reach = sign * (self.chip_size / 2 + STUB - 1) / math.hypot(*step)
        at = self.where(place)
        tip = (at[0] + reach * step[0], at[1] + reach * step[1])
        if wraps:
            sheet.dot(tip, DOT, f"d{axis}")
        if self.slice.parts.states[link] == OK:
            return [[at, tip]]
        look = "dash" if self.slice.parts.states[link] == SLOW else "cut"
        sheet.line([at, tip], look, self.slice.parts.link_tip(link), 1.6)
        return []

    def _row_tip(self, axis: int, row: Place, count: int) -> str:
        others = [
            f"{AXES[other]} = {row[other]}" for other in range(self.slice.axes) if other != axis
        ]
        at = f" at {', '.join(others)}" if others else ""
        each = rate(self.slice.torus.link_bytes_per_s[axis])
        return f"{AXES[axis]} axis{at}\n{count} links of {each} per direction"
