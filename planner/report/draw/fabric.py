"""NICs to leaf switches, leaves to spines, spines to cores, above the domains.

Decisions
---------
* Where every NIC of a node has a leaf of its own (rails), each rail is one coloured line
  that all nodes tap, as on an underground map. Elsewhere the NICs of a domain leave as one
  bundle with its bandwidth.
* A few dozen links between two tiers are lines; more are one ribbon, and only those that are
  slow or cut are drawn by themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from planner.report.draw.blocks import Anchor, has_rails
from planner.report.draw.canvas import Point, Sheet
from planner.report.draw.hall import UNIT_GAP, Group
from planner.report.draw.marks import draw_link
from planner.report.draw.parts import CUT, GONE, OK, SLOW, Parts, percent, rate
from planner.report.draw.style import BODY, SMALL, rail_class
from planner.report.draw.switch_rows import (
    BOX_HEIGHT,
    FEW_BOXES,
    MAX_BOXES,
    Row,
    plan_row,
    spread,
)
from planner.topology.network import CORE, KINDS, LEAF, SPINE

RAIL_PITCH = 8.0
BUNDLE_HEIGHT = 62.0
TIER_GAP = 84.0
MAX_LINES = 72
MIN_LEAF_PITCH, MAX_LEAF_PITCH = 44.0, 90.0
LEAF_BOX, LABEL_ROOM = 50.0, 24.0
CAPTION_GAP, UNIT_NAME_WIDTH = 14.0, 40.0


def draw_hall(sheet: Sheet, parts: Parts, groups: list[Group]) -> None:
    """Draw all domains at height 0 and below, and the fabric above them."""
    hall = _Hall(sheet=sheet, parts=parts, groups=groups)
    for group, left in zip(groups, hall.lefts, strict=True):
        x = left
        for block in group.blocks:
            block.draw(sheet, x, 0.0)
            x += block.width + group.gap
    if parts.has_fabric:
        hall.draw_fabric()


@dataclass(frozen=True, kw_only=True, eq=False)
class _Hall:
    """The groups of a hall and the fabric above them on its way to the sheet."""

    sheet: Sheet
    parts: Parts
    groups: list[Group]

    @property
    def _is_divided(self) -> bool:
        return len(self.groups) > 1

    @cached_property
    def _per_unit(self) -> tuple[int, int]:
        """Domains and leaf switches of a scalable unit."""
        fabric = self.parts.spec.scale_out
        return (fabric.domains_per_unit, fabric.leaves_per_unit) if fabric is not None else (1, 1)

    @cached_property
    def _leaf_rows(self) -> list[Row]:
        """Leaves of each group."""
        if not self.parts.has_fabric:
            return []
        domains, leaves = self._per_unit
        rows = []
        for group in self.groups:
            first = group.domains.start // domains * leaves
            last = -(-group.domains.stop // domains) * leaves
            nodes = self.parts.fabric[LEAF][first:last]
            most = MAX_BOXES if group.unit is not None else 0
            row = plan_row(self.parts, nodes, most, alone=not self._is_divided)
            room = group.width / max(1, min(leaves, MAX_BOXES))
            row.pitch = min(MAX_LEAF_PITCH, max(LEAF_BOX, room))
            rows.append(row)
        return rows

    @cached_property
    def lefts(self) -> list[float]:
        """Left edge of each group; its leaves may be wider than what is below them."""
        lefts, x = [], 0.0
        gap = UNIT_GAP
        for index, group in enumerate(self.groups):
            width = group.width
            if self._leaf_rows:
                width = max(width, self._leaf_rows[index].width)
            lefts.append(x + (width - group.width) / 2)
            x += width + gap
        return lefts

    def draw_fabric(self) -> None:
        """Draw everything from the NICs up."""
        leaves = self._draw_leaves()
        spines = self._draw_spines(leaves)
        self._join(leaves, [spines[group.pods] for group in self.groups])
        if self.parts.fabric[CORE]:
            below = list(spines.values())
            row = plan_row(self.parts, self.parts.fabric[CORE], MAX_BOXES, alone=True)
            top = below[0].top - TIER_GAP - BOX_HEIGHT
            row.draw(self.sheet, self.parts, _centre(below), top)
            self._caption("core switches", [row])
            self._join(below, [row] * len(below))

    def _caption(self, words: str, rows: list[Row]) -> None:
        edges = [row.left for row in (*rows, *self._leaf_rows)]
        left = min([*edges, *self.lefts]) - CAPTION_GAP
        left -= UNIT_NAME_WIDTH if self._is_divided else 0.0
        self.sheet.text((left, rows[0].top + 14), words, BODY, "muted", "end")

    # -- NICs to leaves

    def _anchors(self, index: int) -> list[tuple[float, Anchor]]:
        """Anchors of a group with their place on the sheet."""
        x = self.lefts[index]
        found = []
        for block in self.groups[index].blocks:
            found += [(x + anchor.x, anchor) for anchor in block.anchors]
            x += block.width + self.groups[index].gap
        return found

    def _draw_leaves(self) -> list[Row]:
        rails = has_rails(self.parts)
        used = min(self._per_unit[1], self.parts.nics.shape[1]) if rails else 0
        low = -(used * RAIL_PITCH + 30) if rails else -BUNDLE_HEIGHT
        for index, (group, row) in enumerate(zip(self.groups, self._leaf_rows, strict=True)):
            middle = self.lefts[index] + group.width / 2
            anchors = self._anchors(index)
            if group.unit is None:
                row.draw(self.sheet, self.parts, middle, low - BOX_HEIGHT)
                self.sheet.line([(middle, 0), (middle, low)], "nl", width=2)
                continue
            if rails and self._is_aligned(index):
                row.pitch = anchors[1][0] - anchors[0][0]
                middle = (anchors[0][0] + anchors[-1][0]) / 2
            row.draw(self.sheet, self.parts, middle, low - BOX_HEIGHT)
            if self._is_divided:
                at = (row.left - 8, row.top + 14)
                self.sheet.text(at, f"su{group.unit}", SMALL, "bold", "end")
            draw = self._draw_rails if rails else self._draw_bundles
            draw(anchors, row)
        self._caption("leaf switches", self._leaf_rows)
        return self._leaf_rows

    def _is_aligned(self, index: int) -> bool:
        """Whether each leaf can stand straight above the only NIC that leads to it."""
        xs = [x for x, _ in self._anchors(index)]
        row = self._leaf_rows[index]
        fits = len(self.groups[index].blocks) == 1 and len(xs) == len(row.nodes)
        return fits and xs[1] - xs[0] >= MIN_LEAF_PITCH

    def _state(self, nics: tuple[int, ...], leaf: int) -> tuple[int, str]:
        """State and tooltip of the link from the first NIC that is left to its leaf."""
        for nic in nics:
            for link, other in self.parts.links_to(nic, LEAF):
                if other == leaf and self.parts.states[link] != GONE:
                    return int(self.parts.states[link]), self.parts.link_tip(link)
        return GONE, ""

    def _left(self, nics: tuple[int, ...], leaf: int) -> float:
        """Bandwidth that is left between some NICs and a leaf, as a fraction."""
        pairs = [pair for nic in nics for pair in self.parts.links_to(nic, LEAF)]
        left, built = self.parts.rate_left([link for link, other in pairs if other == leaf])
        return left / built

    def _draw_rails(self, anchors: list[tuple[float, Anchor]], row: Row) -> None:
        taken = sorted(x for x, _ in anchors)
        roomy = min((b - a for a, b in pairwise(taken)), default=LABEL_ROOM) >= LABEL_ROOM
        bottom = row.top + BOX_HEIGHT
        for rail, leaf in enumerate(row.nodes):
            taps = [(x, anchor) for x, anchor in anchors if anchor.rail == rail]
            if not taps or self.parts.dead[leaf]:
                continue
            y = bottom + 18 + rail * RAIL_PITCH
            leaf_x = row.places[leaf]
            if min(abs(leaf_x - x) for x, _ in taps) > 1:
                leaf_x = _free(leaf_x, taken)
            look = rail_class(rail)
            reached = [leaf_x]
            for x, anchor in taps:
                state, tip = self._state(anchor.nics, leaf)
                if state == GONE:
                    continue
                reached.append(x)
                style = {OK: look, SLOW: "dash", CUT: "cut"}[state]
                self.sheet.line([(x, 0), (x, y)], style, tip, 1.2 if state == OK else 1.8)
                self.sheet.dot((x, y), 1.8, rail_class(rail, "p"))
                if state == SLOW and roomy:
                    words = percent(self._left(anchor.nics, leaf))
                    self.sheet.remark([(x, y * part) for part in (0.15, 0.3, 0.5)], words, "warn")
            tip = f"rail {rail}\nNIC {rail} of every domain to {self.parts.names[leaf]}"
            self.sheet.line([(min(reached), y), (max(reached), y)], look, tip, 1.4)
            self.sheet.line([(leaf_x, y), (leaf_x, bottom)], look, width=2)
            self.sheet.dot((leaf_x, y), 1.8, rail_class(rail, "p"))

    def _draw_bundles(self, anchors: list[tuple[float, Anchor]], row: Row) -> None:
        parts = self.parts
        bus = row.top + BOX_HEIGHT + 14
        xs = [*row.places.values(), *(x for x, _ in anchors)]
        self.sheet.line([(min(xs), bus), (max(xs), bus)], "nl", width=3)
        for leaf, x in row.places.items():
            if not parts.dead[leaf]:
                self.sheet.line([(x, bus), (x, row.top + BOX_HEIGHT)], "nl", width=1.5)
        for x, anchor in anchors:
            links = [link for nic in anchor.nics for link, _ in parts.links_to(nic, LEAF)]
            whole = sum(int(parts.states[link]) == OK for link in links)
            each = rate(float(parts.network.bytes_per_s[links[0]])) if links else ""
            hurt = whole < len(links)
            words = f"{whole:,} of {len(links):,}" if hurt else f"{whole:,}"
            left, _ = parts.rate_left(links)
            tip = f"{words} NICs to the leaf switches\n{rate(left)} per direction"
            self.sheet.line([(x, 0), (x, bus)], "dash" if hurt else "nl", tip, 3)
            places = [(x, bus * part) for part in (0.5, 0.75, 0.25)]
            self.sheet.remark(places, f"{words} × {each}", "warn" if hurt else "")

    # -- leaves to spines to cores

    def _draw_spines(self, leaves: list[Row]) -> dict[range, Row]:
        """The spines of each pod, or run of pods, above the leaves that they join."""
        below: dict[range, list[Row]] = {}
        drawn: dict[range, bool] = {}
        for row, group in zip(leaves, self.groups, strict=True):
            below.setdefault(group.pods, []).append(row)
            drawn[group.pods] = drawn.get(group.pods, False) or group.unit is not None
        spines = self.parts.fabric[SPINE]
        per_pod = -(-len(spines) // (max(pods.stop for pods in below)))
        most = FEW_BOXES if sum(drawn.values()) > 1 else MAX_BOXES
        rows = {
            pods: plan_row(
                self.parts,
                spines[pods.start * per_pod : pods.stop * per_pod],
                most=most if drawn[pods] else 0,
                alone=len(drawn) == 1,
            )
            for pods in below
        }
        middles = spread(
            [_centre(rows_below) for rows_below in below.values()],
            [row.width for row in rows.values()],
        )
        for row, middle in zip(rows.values(), middles, strict=True):
            row.draw(self.sheet, self.parts, middle, leaves[0].top - TIER_GAP)
        self._caption("spine switches", list(rows.values()))
        return rows

    def _join(self, lows: list[Row], highs: list[Row]) -> None:
        """Links between two tiers: lines where they are few, else ribbons."""
        parts = self.parts
        found = [
            [
                (link, node, other)
                for node in low.places
                for link, other in self._up(node)
                if other in high.places
            ]
            for low, high in zip(lows, highs, strict=True)
        ]
        counted = any(row.others for row in (*lows, *highs))
        few = not counted and sum(map(len, found)) <= MAX_LINES
        for low, high, links in zip(lows, highs, found, strict=True):
            start, end = low.top, high.top + BOX_HEIGHT
            if not few:
                corners: list[Point] = [(low.left + 4, start), (low.right - 4, start)]
                corners += [(high.right - 4, end), (high.left + 4, end)]
                self.sheet.polygon(corners, "ribbon")
            for link, node, other in links:
                if few or parts.states[link] in (SLOW, CUT):
                    draw_link(
                        self.sheet,
                        parts,
                        link,
                        [(low.places[node], start), (high.places[other], end)],
                    )
        self._name_uplinks(lows[0], highs[0], few and len(lows) == 1)

    def _name_uplinks(self, low: Row, high: Row, beside: bool) -> None:
        """Say what each switch of a row sends up: beside the lines, or within the ribbon."""
        if not low.nodes:
            return
        links = [link for link, _ in self._up(low.nodes[0])]
        if not links:
            return
        each = rate(float(self.parts.network.bytes_per_s[links[0]]))
        kind = KINDS[int(self.parts.network.kinds[low.nodes[0]])]
        words = f"{len(links)} × {each} up from each {kind}"
        y = (low.top + high.top + BOX_HEIGHT) / 2
        if beside:
            edge = max((low.right + high.right) / 2, high.middle)
            self.sheet.text((edge + 16, y + 3), words, SMALL, "muted")
        else:
            self.sheet.label(((low.middle + high.middle) / 2, y), words, SMALL)

    def _up(self, node: int) -> list[tuple[int, int]]:
        """Links of a switch to the tier above."""
        return self.parts.links_to(node, int(self.parts.network.kinds[node]) + 1)


def _centre(rows: list[Row]) -> float:
    return (min(row.left for row in rows) + max(row.right for row in rows)) / 2


def _free(x: float, taken: list[float]) -> float:
    """A place near ``x`` that is not hidden behind one of the lines at ``taken``."""
    offsets = (0.0, 3.0, -3.0, 6.0, -6.0, 9.0, -9.0, 12.0, -12.0)

    def room(offset: float) -> float:
        return min((abs(x + offset - other) for other in taken), default=99.0)

    return x + next((o for o in offsets if room(o) >= 2.5), max(offsets, key=room))
