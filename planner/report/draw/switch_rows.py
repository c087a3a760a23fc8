"""A row of leaf, spine or core switches: each of them, or the first few and a count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from planner.report.draw.canvas import Box, Sheet, centred, text_width
from planner.report.draw.marks import draw_node
from planner.report.draw.parts import Parts
from planner.report.draw.style import SMALL, TINY

BOX_HEIGHT = 20.0
MAX_BOXES, FEW_BOXES, FEW_DEAD = 18, 8, 3
PITCH = 66.0
ROW_GAP = 24.0


@dataclass(slots=True)
class Row:
    """Part of a row: where each switch stands, and how many are only counted."""

    nodes: tuple[int, ...]
    others: tuple[int, ...]
    pitch: float = PITCH
    words: str = ""
    top: float = 0.0
    left: float = 0.0
    places: dict[int, float] = field(default_factory=dict)

    @property
    def _count_width(self) -> float:
        return max(60.0, text_width(self.words, SMALL) + 14) if self.others else 0.0

    @property
    def width(self) -> float:
        """Width on the sheet."""
        gap = 8.0 if self.others and self.nodes else 0.0
        return len(self.nodes) * self.pitch + gap + self._count_width

    @property
    def right(self) -> float:
        """Right edge."""
        return self.left + self.width

    @property
    def middle(self) -> float:
        """Centre from left to right."""
        return self.left + self.width / 2

    def draw(self, sheet: Sheet, parts: Parts, middle: float, top: float) -> None:
        """Draw the switches around ``middle``."""
        self.top, self.left = top, middle - self.width / 2
        for index, node in enumerate(self.nodes):
            x = self.left + (index + 0.5) * self.pitch
            self.places[node] = x
            name = parts.names[node].rpartition("/")[2]
            width = min(self.pitch - 6, max(36.0, text_width(name, TINY) + 8))
            draw_node(sheet, parts, node, centred(x, top + BOX_HEIGHT / 2, width, BOX_HEIGHT), name)
        if self.others:
            box = Box(self.right - self._count_width, top, self._count_width, BOX_HEIGHT)
            sheet.box(box, "hid", f"{self.words} switches that are not drawn")
            sheet.note(box, self.words, SMALL)


def plan_row(parts: Parts, nodes: Sequence[int], most: int, alone: bool) -> Row:
    """Choose the switches that are drawn: up to ``most``, else a few, some dead ones with them.

    ``alone`` says that there is no other row beside this one.
    """
    shown: tuple[int, ...] = tuple(nodes) if most else ()
    if len(shown) > most:
        dead = [node for node in nodes if parts.dead[node]][:FEW_DEAD]
        alive = [node for node in nodes if node not in dead][: FEW_BOXES - len(dead)]
        shown = tuple(sorted((*dead, *alive)))
    kept = set(shown)
    others = tuple(node for node in nodes if node not in kept)
    left = sum(not parts.dead[node] for node in others)
    words = f"… {left:,} more" if shown else f"{left:,}" if alone else f"{left:,} more"
    return Row(nodes=shown, others=others, words=words if others else "")


def spread(wanted: Sequence[float], widths: Sequence[float], gap: float = ROW_GAP) -> list[float]:
    """Centres as near to ``wanted`` as possible, in their order and without overlap.

    Least squares under a least distance from each centre to the next one: the pool adjacent
    violators algorithm on what remains when the distances are taken off.
    """
    offsets = [0.0]
    for first, second in pairwise(widths):
        offsets.append(offsets[-1] + (first + second) / 2 + gap)
    pools: list[tuple[float, int]] = []
    for centre, offset in zip(wanted, offsets, strict=False):
        total, count = centre - offset, 1
        while pools and pools[-1][0] * count >= total * pools[-1][1]:
            before, members = pools.pop()
            total, count = total + before, count + members
        pools.append((total, count))
    rests = [total / count for total, count in pools for _ in range(count)]
    return [rest + offset for rest, offset in zip(rests, offsets, strict=False)]
