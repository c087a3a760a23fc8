"""A machine given as a list of nodes and links: rows by kind, or chips on a circle.

Decisions
---------
* From top to bottom: cores, spines, leaves, NICs, hosts, chips, switches. Chips stand between what
  joins them inside a domain and what leads outside.
* Chips stand in the order of the file, every other row in the order of its neighbours nearer
  to the chips: predictable, and it undoes most crossings.
* Direct links within a row are arcs. A machine of nothing but chips is a circle instead.
* A row of more than ``MAX_ROW`` nodes ends in a box that counts the others, with one bundle
  to each node that has links to them.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property

from planner.report.draw.canvas import Box, Point, Sheet, centred, clean, fit, text_width
from planner.report.draw.marks import draw_link, draw_node
from planner.report.draw.mesh import on_circle
from planner.report.draw.parts import GONE, Parts, rate
from planner.report.draw.style import BODY, TINY
from planner.report.draw.switch_rows import spread
from planner.topology.network import CHIP, CORE, HOST, LEAF, NIC_NODE, SPINE, SWITCH

ROWS = (CORE, SPINE, LEAF, NIC_NODE, HOST, CHIP, SWITCH)
MAX_ROW = 36
MAX_CIRCLE = 32
FROM_CHIPS = (CHIP, SWITCH, HOST, NIC_NODE, LEAF, SPINE, CORE)
BOX_HEIGHT, ROW_GAP = 26.0, 96.0
MIN_PITCH, MAX_LABEL = 50.0, 96.0
OTHERS_WIDTH = 104.0
DEEP_ARC, FLAT_ARC = 150.0, 76.0
WORDS = {
    CORE: "core switches",
    SPINE: "spine switches",
    LEAF: "leaf switches",
    NIC_NODE: "NICs",
    HOST: "hosts",
    CHIP: "chips",
    SWITCH: "scale-up switches",
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """Places of the nodes of an explicit machine."""

    parts: Parts

    @cached_property
    def rows(self) -> dict[int, list[int]]:
        """Nodes of each kind that the machine has, in the order in which they stand."""
        kinds = self.parts.network.kinds.tolist()
        rows = {kind: [node for node, its in enumerate(kinds) if its == kind] for kind in ROWS}
        at: dict[int, float] = {}
        for kind in FROM_CHIPS:
            rows[kind] = sorted(rows[kind], key=lambda node: (self._mean(node, at), node))
            for index, node in enumerate(rows[kind]):
                at[node] = (index + 0.5) / len(rows[kind])
        return {kind: nodes for kind, nodes in rows.items() if nodes}

    def _mean(self, node: int, at: dict[int, float]) -> float:
        """Mean place of the neighbours that are placed already; the end if there are none."""
        others = (self.parts.across(link, node) for link in self.parts.links_of(node))
        placed = [at[other] for other in others if other in at]
        return round(sum(placed) / len(placed), 9) if placed else 1.0

    @cached_property
    def shown(self) -> dict[int, list[int]]:
        """Nodes of each row that get a box: some lost ones, then the first ones.

        Where chips are not drawn, neither is what serves only them.
        """
        drawn: set[int] = set()
        for kind in FROM_CHIPS:
            nodes = self.rows.get(kind, [])
            near = [node for node in nodes if kind == CHIP or self._leads_to(node, drawn)]
            if len(near) > MAX_ROW:
                dead = [node for node in near if self.parts.dead[node]][: MAX_ROW // 4]
                alive = [node for node in near if node not in dead][: MAX_ROW - 1 - len(dead)]
                near = [*dead, *alive]
            drawn.update(near)
        rows = ((kind, [node for node in row if node in drawn]) for kind, row in self.rows.items())
        return {kind: row for kind, row in rows if row}

    def _leads_to(self, node: int, drawn: set[int]) -> bool:
        """Whether a node has a neighbour among ``drawn``, or none nearer to the chips."""
        rank = {kind: index for index, kind in enumerate(FROM_CHIPS)}
        kinds = self.parts.network.kinds
        others = [self.parts.across(link, node) for link in self.parts.links_of(node)]
        nearer = [other for other in others if rank[int(kinds[other])] < rank[int(kinds[node])]]
        return not nearer or any(other in drawn for other in nearer)

    @cached_property
    def on_circle(self) -> bool:
        """Whether the machine is nothing but chips and few enough for a circle."""
        return list(self.rows) == [CHIP] and 2 < len(self.rows[CHIP]) <= MAX_CIRCLE

    @cached_property
    def pitch(self) -> float:
        """Distance of the nodes of a row: wide enough for the longest label."""
        nodes = [node for row in self.shown.values() for node in row]
        longest = max(text_width(clean(self.parts.names[node]), TINY) for node in nodes)
        return max(MIN_PITCH, min(MAX_LABEL, longest + 8) + 10)

    @cached_property
    def radius(self) -> float:
        """Of the circle of chips."""
        return max(90.0, len(self.rows[CHIP]) * (self.pitch + 6) / 6.28)

    @cached_property
    def places(self) -> dict[int, Point]:
        """Centre of each node that is drawn."""
        if self.on_circle:
            chips = self.rows[CHIP]
            return dict(zip(chips, on_circle(len(chips), self.radius, halves=False), strict=True))
        heights = {kind: row * ROW_GAP for row, kind in enumerate(self.shown)}
        places: dict[int, Point] = {}
        for kind in FROM_CHIPS:
            nodes = self.shown.get(kind, [])
            wanted = [
                index * self.pitch if kind == CHIP else self._wanted(node, places)
                for index, node in enumerate(nodes)
            ]
            xs = spread(wanted, [self.pitch] * len(nodes), gap=0.0)
            for node, x in zip(nodes, xs, strict=True):
                places[node] = (x, heights[kind])
        return places

    def _wanted(self, node: int, places: dict[int, Point]) -> float:
        """Where a node would stand best: above or below its neighbours nearer to the chips."""
        others = (self.parts.across(link, node) for link in self.parts.links_of(node))
        xs = [places[other][0] for other in others if other in places]
        return sum(xs) / len(xs) if xs else max(x for x, _ in places.values())


def draw_generic(sheet: Sheet, parts: Parts) -> None:
    """Draw an explicit machine."""
    plan = Plan(parts=parts)
    _draw_links(sheet, plan)
    _draw_others(sheet, plan)
    width = plan.pitch - 10
    caption_x = min(x for x, _ in plan.places.values()) - plan.pitch / 2 - 16
    for kind, nodes in plan.shown.items():
        for node in nodes:
            label = fit(clean(parts.names[node]), width - 4, TINY)
            draw_node(sheet, parts, node, centred(*plan.places[node], width, BOX_HEIGHT), label)
        if not plan.on_circle:
            at = (caption_x, plan.places[nodes[0]][1] + 4)
            sheet.text(at, WORDS[kind], BODY, "muted", "end")


def _draw_links(sheet: Sheet, plan: Plan) -> None:
    parts, places = plan.parts, plan.places
    for link, (a, b) in enumerate(parts.network.ends.tolist()):
        if a in places and b in places:
            width = 0.8 + 0.35 * min(int(parts.network.cables[link]), 8)
            draw_link(sheet, parts, link, _way(plan, a, b), width)


def _way(plan: Plan, a: int, b: int) -> list[Point]:
    """A straight line, an arc within a row, or a bow around the rows in between."""
    start, end = sorted((plan.places[a], plan.places[b]), key=lambda place: (place[1], place[0]))
    if plan.on_circle:
        return [start, end]
    middle = (start[0] + end[0]) / 2
    foot = start[1] + BOX_HEIGHT / 2
    if start[1] == end[1]:
        lowest = start[1] == max(y for _, y in plan.places.values())
        drop = min(DEEP_ARC if lowest else FLAT_ARC, 14 + 0.22 * abs(end[0] - start[0]))
        return [(start[0], foot), (middle, foot + 2 * drop), (end[0], foot)]
    head = (end[0], end[1] - BOX_HEIGHT / 2)
    if end[1] - start[1] < 1.5 * ROW_GAP:
        return [(start[0], foot), head]
    side = 0.6 * plan.pitch * (1 if end[0] <= start[0] else -1)
    return [(start[0], foot), (middle + side, (foot + head[1]) / 2), head]


def _draw_others(sheet: Sheet, plan: Plan) -> None:
    """Boxes that count the nodes of long rows, and bundles to them."""
    parts = plan.parts
    boxes: dict[int, Box] = {}
    for kind, nodes in plan.rows.items():
        others = [node for node in nodes if node not in plan.places]
        if not others or kind not in plan.shown:
            continue
        row = [plan.places[node] for node in plan.shown[kind]]
        x = max(x for x, _ in row) + plan.pitch / 2 + 8
        box = Box(x, row[0][1] - BOX_HEIGHT / 2, OTHERS_WIDTH, BOX_HEIGHT)
        alive = sum(not parts.dead[node] for node in others)
        tip = f"{alive:,} {WORDS[kind]} that are not drawn"
        sheet.box(box, "hid", tip, chips=alive if kind == CHIP else 0)
        sheet.note(box, f"… {alive:,} more", BODY)
        boxes |= dict.fromkeys(others, box)
    # A bundle for every two boxes, or a box and a node, that links join.
    bundles: dict[tuple[Box, Box], list[int]] = defaultdict(list)
    for link, ends in enumerate(parts.network.ends.tolist()):
        if parts.states[link] == GONE or not any(end in boxes for end in ends):
            continue
        low, high = sorted(
            (boxes[end] if end in boxes else centred(*plan.places[end], 0.0, BOX_HEIGHT))
            for end in ends
            if end in boxes or end in plan.places
        )
        bundles[low, high].append(link)
    for (a, b), links in bundles.items():
        if a.y == b.y:
            continue
        upper, lower = (a, b) if a.y < b.y else (b, a)
        left, _ = parts.rate_left(links)
        tip = f"{len(links)} links\n{rate(left)} per direction"
        points = [(upper.middle[0], upper.bottom), (lower.middle[0], lower.y)]
        sheet.line(points, parts.link_look(links[0]), tip, 1.4)
