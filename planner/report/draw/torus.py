"""A slice of a torus as a block of the hall.

Decisions
---------
* Two axes are a grid. Three axes are a lattice in oblique projection while it is small enough
  for every chip and link to be seen, else one grid per plane.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from planner.domain.scale_up import Torus
from planner.report.draw.blocks import Anchor, domain_name, has_rails, losses, rail_anchors
from planner.report.draw.canvas import Box, Sheet, text_width
from planner.report.draw.marks import NIC_PITCH, draw_strip, strip_height
from planner.report.draw.parts import Parts
from planner.report.draw.style import BODY, HEADING, SMALL
from planner.report.draw.torus_lattice import draw_lattice, is_lattice, lattice_size
from planner.report.draw.torus_map import SliceMap
from planner.report.draw.torus_planes import draw_planes, planes_size
from planner.topology.network import AXES

PAD = 8.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Slice:
    """One slice of a torus."""

    parts: Parts
    domain: int
    torus: Torus

    @cached_property
    def _map(self) -> SliceMap:
        return SliceMap(parts=self.parts, domain=self.domain, torus=self.torus)

    @cached_property
    def _body(self) -> tuple[float, float]:
        """Width and height of the chips with their labels."""
        return lattice_size(self._map) if is_lattice(self._map) else planes_size(self._map)

    @cached_property
    def _nics(self) -> list[int]:
        found: list[int] = self.parts.nics[self.domain].tolist()
        return found

    @cached_property
    def _name(self) -> str:
        spec = self.parts.spec
        return domain_name(self.parts, self.domain) if spec.num_domains > 1 else self.torus.unit

    @cached_property
    def _facts(self) -> str:
        shape = "x".join(map(str, self.parts.spec.shape))
        rings = [AXES[axis] for axis, ring in enumerate(self._map.wraps) if ring]
        if not rings:
            return f"{shape}, no ring: a mesh"
        return f"{shape}, ring{'s' if len(rings) > 1 else ''} along {', '.join(rings)}"

    @cached_property
    def width(self) -> float:
        """Width on the sheet."""
        name = text_width(self._name, HEADING) + PAD
        facts = name + text_width(self._facts, SMALL)
        hidden = text_width(self._map.hidden, BODY) + 20
        return max(self._body[0], facts, hidden) + 2 * PAD

    @cached_property
    def anchors(self) -> tuple[Anchor, ...]:
        """Where the NICs leave at the upper edge."""
        count = len(self._nics)
        pitch = NIC_PITCH if has_rails(self.parts) else 0.0
        first = (self.width - (count - 1) * pitch) / 2
        places = [first + index * pitch for index in range(count)]
        return rail_anchors(self.parts, self.domain, places)

    def draw(self, sheet: Sheet, x: float, y: float) -> None:
        """Draw it with its upper left corner at ``(x, y)``."""
        inner = self.width - 2 * PAD
        strip = strip_height(len(self._nics), inner)
        top = y + PAD + strip + (6 if strip else 0)
        base = top + self._body[1] + 16
        wounded = self.domain in self.parts.wounded_domains
        frame = Box(x, y, self.width, base - y + (22 if wounded else 8))
        sheet.box(frame, "frame", layer=0)
        draw_strip(sheet, self.parts, self._nics, Box(x + PAD, y + PAD, inner, strip))
        draw = draw_lattice if is_lattice(self._map) else draw_planes
        draw(sheet, self._map, x + (self.width - self._body[0]) / 2, top)
        sheet.text((x + PAD, base), self._name, HEADING, "bold")
        start = x + 2 * PAD + text_width(self._name, HEADING)
        sheet.text((start, base), self._facts, SMALL, "muted")
        if wounded:
            words = ", ".join(losses(self.parts, self.domain))
            sheet.text((x + PAD, base + 14), words, SMALL, "alarm")
