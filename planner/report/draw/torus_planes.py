"""A slice of one or two axes as a grid; of three axes as one grid per plane.

The links between neighbouring planes are one bundle.
"""

from __future__ import annotations

import math
from collections import defaultdict
from itertools import pairwise

from planner.report.draw.canvas import Box, Point, Sheet, text_width
from planner.report.draw.parts import GONE, percent, rate
from planner.report.draw.style import BODY, TINY
from planner.report.draw.torus_map import Place, SliceMap
from planner.report.draw.torus_rows import STUB, View, Where

EDGE, RIGHT = 34.0, 26.0
HEADING, GUTTER = 24.0, 30.0
NICE_ASPECT = 1.5
HIDDEN_HEIGHT = 30.0
# Distance and size of the chips, by how many are drawn at most.
SIZES = ((64, 44.0, 28.0), (256, 32.0, 19.0), (1024, 20.0, 12.0))
SMALLEST = (15.0, 9.0)
WIDEST = 1600.0


def _scale(slice_: SliceMap) -> tuple[float, float]:
    """Distance and size of the chips."""
    window = slice_.window
    for most, pitch, size in SIZES:
        if window.count <= most and window.columns * pitch <= WIDEST:
            return pitch, size
    return SMALLEST


def _plane_size(slice_: SliceMap) -> tuple[float, float]:
    """Width and height of one plane with labels, stubs and what runs beside it."""
    pitch, size = _scale(slice_)
    deep = slice_.shape[2] > 1
    width = EDGE + (slice_.window.columns - 1) * pitch + size + RIGHT
    if deep:
        titles = (_title(slice_, z) for z in slice_.window.planes)
        width = max(width, EDGE + max(text_width(title, BODY) for title in titles) + RIGHT)
    height = EDGE + (slice_.window.rows - 1) * pitch + size + STUB + 4
    return width, height + (HEADING + GUTTER if deep else 0.0)


def _title(slice_: SliceMap, z: int) -> str:
    last = slice_.shape[2] - 1
    return f"z = {z}" + (f", wraps to {last - z}" if slice_.wraps[2] and z in (0, last) else "")


def _columns(slice_: SliceMap) -> int:
    """Planes side by side: a number that divides them, if one is near the best shape."""
    count = len(slice_.window.planes)
    width, height = _plane_size(slice_)
    ideal = max(1.0, math.sqrt(count * NICE_ASPECT * height / width))
    near = [n for n in range(1, count + 1) if count % n == 0 and ideal / 2 <= n <= 2 * ideal]
    return min(near, key=lambda n: abs(n - ideal)) if near else min(count, round(ideal))


def planes_size(slice_: SliceMap) -> tuple[float, float]:
    """Width and height of all planes."""
    columns = _columns(slice_)
    width, height = _plane_size(slice_)
    rows = -(-len(slice_.window.planes) // columns)
    return columns * width, rows * height + (HIDDEN_HEIGHT if slice_.hidden else 0.0)


def draw_planes(sheet: Sheet, slice_: SliceMap, left: float, top: float) -> None:
    """Draw a slice with its upper left corner at ``(left, top)``."""
    pitch, size = _scale(slice_)
    width, height = _plane_size(slice_)
    deep = slice_.shape[2] > 1
    columns = _columns(slice_)
    corners: dict[int, Point] = {}
    for index, z in enumerate(slice_.window.planes):
        row, column = divmod(index, columns)
        x = left + column * width + EDGE + size / 2
        y = top + row * height + EDGE + size / 2 + (HEADING if deep else 0.0)
        corners[z] = (x, y)

    def where(place: Place) -> Point:
        x, y = corners[place[2]]
        return x + place[0] * pitch, y + place[1] * pitch

    view = View(slice=slice_, where=where, chip_size=size)
    view.draw_axis(sheet, 0, (1.0, 0.0))
    view.draw_axis(sheet, 1, (0.0, 1.0))
    view.draw_chips(sheet)
    for z, corner in corners.items():
        _draw_edges(sheet, slice_, where, z)
        if deep:
            at = (corner[0] - size / 2, corner[1] - size / 2 - EDGE + 4)
            sheet.text(at, _title(slice_, z), BODY, "bold")
    if deep:
        _draw_bundles(sheet, slice_, corners)
    if slice_.hidden:
        box = Box(left, top + planes_size(slice_)[1] - 22, text_width(slice_.hidden, BODY) + 16, 20)
        sheet.box(box, "hid", slice_.hidden, chips=slice_.alive_hidden)
        sheet.text((box.x + 8, box.y + 14), slice_.hidden, BODY)


def _draw_edges(sheet: Sheet, slice_: SliceMap, where: Where, z: int) -> None:
    """Coordinates above and to the left of one plane."""
    pitch, size = _scale(slice_)
    away = size / 2 + STUB + 5
    every = 1 if pitch >= 20 else 2
    named = pitch > 30
    for x in range(0, slice_.window.columns, every):
        at = where((x, 0, z))
        words = f"x {x}" if x == 0 and named else str(x)
        sheet.text((at[0], at[1] - away), words, TINY, "muted", "middle")
    if slice_.axes == 1:
        return
    for y in range(0, slice_.window.rows, every):
        at = where((0, y, z))
        words = f"y {y}" if y == 0 and named else str(y)
        sheet.text((at[0] - away, at[1] + 2.5), words, TINY, "muted", "end")


def _draw_bundles(sheet: Sheet, slice_: SliceMap, corners: dict[int, Point]) -> None:
    """Links between planes that are drawn one after the other, from title to title."""
    _, size = _scale(slice_)
    width, height = _plane_size(slice_)
    between: dict[int, list[int]] = defaultdict(list)
    for link, a, b in slice_.links[2]:
        if abs(a[2] - b[2]) == 1:
            between[min(a[2], b[2])].append(link)
    planes = slice_.window.planes
    left = min(x for x, _ in corners.values()) - size / 2 - EDGE
    named = False
    for here, there in pairwise(planes):
        if there != here + 1:
            continue
        x, y = corners[here][0] - size / 2, corners[here][1] - size / 2 - EDGE
        start = (x + text_width(_title(slice_, here), BODY) + 5, y)
        end = (corners[there][0] - size / 2 - 6, corners[there][1] - size / 2 - EDGE)
        points = [start, end]
        if end[1] != start[1]:
            side = x - EDGE + width - 6
            turn = y + height - HEADING - 6
            points = [start, (side, y), (side, turn), (left + 4, turn), (left + 4, end[1]), end]
        named = _draw_bundle(sheet, slice_, points, (here, between[here], not named)) or named


def _draw_bundle(
    sheet: Sheet, slice_: SliceMap, points: list[Point], bundle: tuple[int, list[int], bool]
) -> bool:
    """Draw one bundle; returns whether it says how much it carries."""
    parts = slice_.parts
    z, links, wanted = bundle
    there = [link for link in links if parts.states[link] != GONE]
    left, built = parts.rate_left(there)
    each = rate(slice_.torus.link_bytes_per_s[2])
    words = f"{len(there)} × {each}"
    hurt = left < built * (1 - 1e-9)
    if hurt:
        words = f"{percent(left / built)} of {words}"
    tip = f"z = {z} to z = {z + 1}\n{words} per direction"
    sheet.line(points, "dash" if hurt else "a2", tip, 2.5)
    room = points[1][0] - points[0][0]
    if not (wanted or hurt) or text_width(words, TINY) + 8 > room:
        return False
    at = ((points[0][0] + points[1][0]) / 2, points[0][1])
    sheet.label(at, words, TINY, "warn" if hurt else "")
    return True
