"""Nodes and links in every state: whole, slow, cut, lost."""

from __future__ import annotations

import math
from collections.abc import Sequence

from planner.report.draw.canvas import Box, Point, Sheet, bend, text_width
from planner.report.draw.parts import CUT, GONE, OK, SLOW, Parts, percent
from planner.report.draw.style import TINY

NIC_SIZE = 5.0
NIC_PITCH = 6.0
TINY_BOX = 8.0
MAX_NIC_ROWS, BAR_HEIGHT = 4, 16.0
PLACES_ALONG = (0.5, 0.42, 0.58, 0.34, 0.66, 0.26, 0.74)
PLACES_ASIDE = (10.0, -10.0, 16.0, -16.0, 22.0, -22.0)


def draw_node(sheet: Sheet, parts: Parts, node: int, box: Box, label: str = "") -> None:
    """A chip, switch or NIC: filled, or hollow and crossed where it is lost."""
    if parts.dead[node]:
        sheet.box(box, "lost", parts.tip(node))
        sheet.cross(box)
        return
    look = parts.look(node)
    if parts.slow[node] < 1:
        look += " slow" if box.width > TINY_BOX else " slow tiny"
        longer = f"{label} {percent(float(parts.slow[node]))}"
        label = longer if label and text_width(longer, TINY) < box.width - 2 else label
    sheet.box(box, look, parts.tip(node))
    if label:
        sheet.note(box, label)


def draw_link(
    sheet: Sheet,
    parts: Parts,
    link: int,
    points: Sequence[Point],
    width: float = 1.0,
) -> None:
    """A straight link; three points make a curve pulled towards the second one."""
    state = int(parts.states[link])
    if state == GONE:
        return
    look = {OK: parts.link_look(link), SLOW: "dash", CUT: "cut"}[state]
    tip = parts.link_tip(link)
    start, end = points[0], points[-1]
    if len(points) == 3:
        half = (
            (start[0] + 2 * points[1][0] + end[0]) / 4,
            (start[1] + 2 * points[1][1] + end[1]) / 4,
        )
        sheet.path(bend(*points), (start, half, end), look, tip, width)
        places = [half]
    else:
        sheet.line(points, look, tip, width if state == OK else max(width, 1.6))
        places = along(start, end)
    if state == SLOW:
        sheet.remark(places, percent(float(parts.left[link])), "warn")
    elif state == CUT:
        sheet.remark(places, "cut", "alarm")


def along(start: Point, end: Point) -> list[Point]:
    """Places for a label on a line, or beside its middle."""
    way = (end[0] - start[0], end[1] - start[1])
    length = math.hypot(*way) or 1.0
    places = [(start[0] + part * way[0], start[1] + part * way[1]) for part in PLACES_ALONG]
    middle = places[0]
    for aside in PLACES_ASIDE:
        shift = aside / length
        places.append((middle[0] - way[1] * shift, middle[1] + way[0] * shift))
    return places


def mesh_width(cables: int) -> float:
    """Width of a direct link: double links are twice as thick."""
    return 0.3 + 1.0 * min(cables, 4)


def nic_rows(count: int, width: float) -> tuple[int, int]:
    """Columns and rows of a strip of NICs no wider than ``width``, its rows about equal."""
    rows = -(-count // max(1, int((width + NIC_PITCH - NIC_SIZE) // NIC_PITCH)))
    return -(-count // rows), rows


def strip_height(count: int, width: float) -> float:
    """Height of a strip of NICs."""
    if not count:
        return 0.0
    rows = nic_rows(count, width)[1]
    return BAR_HEIGHT if rows > MAX_NIC_ROWS else rows * NIC_PITCH


def draw_strip(sheet: Sheet, parts: Parts, nics: Sequence[int], box: Box) -> None:
    """The NICs of a domain as small squares, or as one bar where there are too many."""
    if not nics:
        return
    if nic_rows(len(nics), box.width)[1] > MAX_NIC_ROWS:
        alive = sum(not parts.dead[nic] for nic in nics)
        words = f"{alive:,} NICs" if alive == len(nics) else f"{alive:,} of {len(nics):,} NICs"
        sheet.box(box, "nic", words)
        sheet.note(box, words)
        return
    columns, _ = nic_rows(len(nics), box.width)
    left = box.x + (box.width - columns * NIC_PITCH + NIC_PITCH - NIC_SIZE) / 2
    for index, nic in enumerate(nics):
        row, column = divmod(index, columns)
        at = Box(left + column * NIC_PITCH, box.y + row * NIC_PITCH, NIC_SIZE, NIC_SIZE)
        draw_node(sheet, parts, nic, at)
