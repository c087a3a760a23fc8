"""A node without switches: its chips on a circle, every link drawn.

Decisions
---------
* A circle, because no straight link between two of its chips runs behind a third one. Full
  meshes start at the top; others have one half of their chips on either side, which makes
  the links between the halves of a cube mesh run straight across.
* NICs stand above and name their chips: lines to them would run through the mesh.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from planner.domain.scale_up import MeshDomain
from planner.report.draw.blocks import Anchor, rail_anchors
from planner.report.draw.canvas import Box, Point, Sheet, centred, text_width
from planner.report.draw.marks import draw_link, draw_node, mesh_width
from planner.report.draw.nodes import draw_footer, nic_label
from planner.report.draw.parts import Parts, rate
from planner.report.draw.style import SMALL, TINY
from planner.topology.network import CHIP

CHIP_WIDTH, CHIP_HEIGHT, PAD = 40.0, 26.0, 16.0
NIC_HEIGHT, NIC_Y, NIC_ROOM = 14.0, 8.0, 46.0
CIRCLE_Y = 48.0
MAX_CHIPS = 32
MIN_RADIUS = 118.0


def fits_mesh(parts: Parts) -> bool:
    """Whether a domain is a mesh that is small enough for every link to be drawn."""
    scale_up = parts.spec.scale_up
    return isinstance(scale_up, MeshDomain) and scale_up.chips <= MAX_CHIPS


def on_circle(count: int, radius: float, halves: bool) -> list[Point]:
    """Places on a circle around the origin, clockwise from the top or half by half."""
    if not halves or count % 2:
        turn = [2 * math.pi * (index + 0.5) / count for index in range(count)]
        return [(radius * math.sin(angle), -radius * math.cos(angle)) for angle in turn]
    half = count // 2
    places = []
    for side in (-1, 1):
        for index in range(half):
            angle = math.pi * (index + 0.5) / half
            places.append((side * radius * math.sin(angle), -radius * math.cos(angle)))
    return places


@dataclass(frozen=True, kw_only=True, eq=False)
class Mesh:
    """One node with every link of it."""

    parts: Parts
    domain: int
    scale_up: MeshDomain

    @cached_property
    def _radius(self) -> float:
        return max(MIN_RADIUS, self.scale_up.chips * (CHIP_WIDTH + 10) / (2 * math.pi))

    @cached_property
    def _facts(self) -> list[str]:
        """Classes of links, thinnest first."""
        each = rate(self.scale_up.link_bytes_per_s)
        counts = sorted({links for _, _, links in self.scale_up.pairs})
        alive = self.parts.alive(range(self.domain, self.domain + 1))
        classes = " or ".join(f"{count} × {each}" for count in counts)
        return [f"{alive} chips", f"{classes} per link"]

    @cached_property
    def width(self) -> float:
        """Width on the sheet."""
        facts = text_width(", ".join(self._facts), SMALL) + 40
        nics = len(self.parts.nics[self.domain]) * NIC_ROOM
        return max(2 * self._radius + CHIP_WIDTH, facts, nics) + 2 * PAD

    @cached_property
    def _nic_x(self) -> list[float]:
        count = len(self.parts.nics[self.domain])
        pitch = (self.width - 2 * PAD) / max(1, count)
        return [PAD + (index + 0.5) * pitch for index in range(count)]

    @cached_property
    def anchors(self) -> tuple[Anchor, ...]:
        """Where the NICs leave at the upper edge."""
        return rail_anchors(self.parts, self.domain, self._nic_x)

    def draw(self, sheet: Sheet, x: float, y: float) -> None:
        """Draw it with its upper left corner at ``(x, y)``."""
        parts = self.parts
        wounded = self.domain in parts.wounded_domains
        middle = (x + self.width / 2, y + CIRCLE_Y + self._radius + CHIP_HEIGHT / 2)
        bottom = middle[1] + self._radius + CHIP_HEIGHT / 2 + 42
        height = bottom - y + (14 if wounded else 0)
        sheet.box(Box(x, y, self.width, height), "frame", layer=0)
        chips = list(parts.chips(self.domain))
        circle = on_circle(len(chips), self._radius, halves=not self.scale_up.is_full)
        places = {
            chip: (middle[0] + dx, middle[1] + dy)
            for chip, (dx, dy) in zip(chips, circle, strict=True)
        }
        for chip, place in places.items():
            box = centred(*place, CHIP_WIDTH, CHIP_HEIGHT)
            draw_node(sheet, parts, chip, box, parts.names[chip].rpartition("/")[2])
            for link, other in parts.links_to(chip, CHIP):
                if chip < other:
                    cables = int(parts.network.cables[link])
                    ends = [place, places[other]]
                    draw_link(sheet, parts, link, ends, mesh_width(cables))
        nics = parts.nics[self.domain].tolist()
        for nic, place_x in zip(nics, self._nic_x, strict=True):
            label = nic_label(parts, nic)
            width = min(text_width(label, TINY) + 10, (self.width - 2 * PAD) / len(nics) - 4)
            box = centred(x + place_x, y + NIC_Y + NIC_HEIGHT / 2, width, NIC_HEIGHT)
            draw_node(sheet, parts, nic, box, label)
        at = Box(x + PAD, bottom - 10, 0, 0)
        draw_footer(sheet, parts, self.domain, at, ", ".join(self._facts))
