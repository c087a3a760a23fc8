"""A slice of a torus by coordinates, and how much of it is drawn.

Beyond ``MAX_CHIPS`` chips whole planes, rows or columns are counted instead of drawn; planes
in which something is wrong come first.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from planner.domain.scale_up import Torus
from planner.report.draw.parts import GONE, OK, Parts

MAX_CHIPS = 2048
MAX_COLUMNS = 128

Place = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """Columns, rows and planes that are drawn."""

    columns: int
    rows: int
    planes: tuple[int, ...]

    @property
    def count(self) -> int:
        """Chips that are drawn, dead ones included."""
        return self.columns * self.rows * len(self.planes)

    def holds(self, place: Place) -> bool:
        """Whether a chip is drawn."""
        return place[0] < self.columns and place[1] < self.rows and place[2] in self.planes


@dataclass(frozen=True, kw_only=True, eq=False)
class SliceMap:
    """One slice: coordinates of its chips, its links by axis."""

    parts: Parts
    domain: int
    torus: Torus

    @cached_property
    def chips(self) -> range:
        """Chips of the slice, dead ones included."""
        return self.parts.chips(self.domain)

    @property
    def axes(self) -> int:
        """Axes that the machine has, of length 1 or more."""
        return len(self.parts.spec.shape)

    @cached_property
    def shape(self) -> Place:
        """Axis lengths, missing axes as 1."""
        lengths = (*self.parts.spec.shape, 1, 1)
        return lengths[0], lengths[1], lengths[2]

    @cached_property
    def wraps(self) -> tuple[bool, bool, bool]:
        """Which axes close into a ring."""
        rings = (*self.parts.topology.wraps, False, False)
        return rings[0], rings[1], rings[2]

    def place(self, chip: int) -> Place:
        """Coordinates of a chip of this slice; the first axis runs fastest."""
        index = chip - self.chips.start
        x, y, _ = self.shape
        return index % x, index // x % y, index // (x * y)

    def chip(self, place: Place) -> int:
        """The chip at some coordinates."""
        x, y, _ = self.shape
        return self.chips.start + place[0] + x * (place[1] + y * place[2])

    @cached_property
    def links(self) -> tuple[list[tuple[int, Place, Place]], ...]:
        """Links of each axis: the link and the coordinates of both ends."""
        network, chips = self.parts.network, self.chips
        a, b = network.ends[:, 0], network.ends[:, 1]
        inside = (a >= chips.start) & (a < chips.stop) & (b < chips.stop) & (network.axes >= 0)
        by_axis: tuple[list[tuple[int, Place, Place]], ...] = ([], [], [])
        for link in inside.nonzero()[0].tolist():
            start, end = network.ends[link].tolist()
            by_axis[int(network.axes[link])].append((link, self.place(start), self.place(end)))
        return by_axis

    @cached_property
    def window(self) -> Window:
        """What is drawn of a large slice."""
        x, y, z = self.shape
        columns = min(x, MAX_COLUMNS)
        rows = min(y, max(1, MAX_CHIPS // columns))
        most = max(1, MAX_CHIPS // (columns * rows))
        hurt = self._wounded_planes if z > most else []
        chosen = [*hurt[: max(1, most // 2)], *(plane for plane in range(z) if plane not in hurt)]
        return Window(columns=columns, rows=rows, planes=tuple(sorted(chosen[:most])))

    @cached_property
    def _wounded_planes(self) -> list[int]:
        planes = {self.place(chip)[2] for chip in self.chips if self.parts.dead[chip]}
        for links in self.links:
            for link, start, end in links:
                if self.parts.states[link] not in (OK, GONE):
                    planes |= {start[2], end[2]}
        return sorted(planes)

    @cached_property
    def alive_hidden(self) -> int:
        """Chips that are alive and not drawn."""
        if self.window.count == len(self.chips):
            return 0
        shown = sum(
            self.window.holds(self.place(chip)) for chip in self.chips if not self.parts.dead[chip]
        )
        return self.parts.alive(range(self.domain, self.domain + 1)) - shown

    @cached_property
    def hidden(self) -> str:
        """What is not drawn, in one line; empty where everything is."""
        rest = len(self.chips) - self.window.count
        if not rest:
            return ""
        x, y, z = self.shape
        window = self.window
        kinds = (
            (z - len(window.planes), "plane"),
            (y - window.rows, "row"),
            (x - window.columns, "column"),
        )
        what = ", ".join(f"{n:,} more {name}{'s' if n > 1 else ''}" for n, name in kinds if n)
        lost = rest - self.alive_hidden
        return f"… {what}: {self.alive_hidden:,} chips" + (f" ({lost:,} lost)" if lost else "")
