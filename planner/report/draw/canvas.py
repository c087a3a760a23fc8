"""A sheet to draw on: shapes by layer, text that knows its size, the SVG at the end.

Decisions
---------
* The only module that knows ``drawsvg``, and it imports it when the SVG is written.
* ``drawsvg`` escapes the content of elements but not attributes: names that come from a
  user's file are texts and tooltips, never attributes.
* The sheet grows with what is drawn on it; nobody computes the size of the page beforehand.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from planner.report.draw.style import STYLE_SHEET, TINY

Point = tuple[float, float]

BACK, LINKS, NODES, MARKS, WORDS = range(5)

CHARACTER_EM = 0.6
WIDE_CHARACTER_EM = 1.1
ASCENT_EM, DESCENT_EM = 0.8, 0.22
MARGIN = 24.0
CELL = 64.0
# Characters that XML 1.0 cannot carry, not even escaped.
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class Box(NamedTuple):
    """A rectangle, its corner at the top left."""

    x: float
    y: float
    width: float
    height: float

    @property
    def right(self) -> float:
        """Right edge."""
        return self.x + self.width

    @property
    def bottom(self) -> float:
        """Bottom edge."""
        return self.y + self.height

    @property
    def middle(self) -> Point:
        """Centre."""
        return self.x + self.width / 2, self.y + self.height / 2


def centred(x: float, y: float, width: float, height: float) -> Box:
    """The rectangle around a centre."""
    return Box(x - width / 2, y - height / 2, width, height)


def clean(words: str) -> str:
    """Text that XML can carry."""
    return _NOT_XML.sub("\ufffd", words)


def text_width(words: str, size: float) -> float:
    """Width of a line of text, estimated on the wide side."""
    wide = sum(unicodedata.east_asian_width(letter) in "WF" for letter in words)
    return (CHARACTER_EM * (len(words) - wide) + WIDE_CHARACTER_EM * wide) * size


def fit(words: str, width: float, size: float) -> str:
    """Shorten a line of text to a width; what is cut off shows as an ellipsis."""
    if text_width(words, size) <= width:
        return words
    while words and text_width(words + "…", size) > width:
        words = words[:-1]
    return words.rstrip() + "…" if words else ""


def wrap(words: str, width: float, size: float) -> list[str]:
    """Break a text into lines no wider than ``width``."""
    lines: list[str] = []
    line = ""
    for word in re.split("[ \t\n\r]+", clean(words).strip()):
        longer = f"{line} {word}".strip()
        if line and text_width(longer, size) > width:
            lines.append(line)
            longer = word
        line = fit(longer, width, size)
    return [*lines, line] if line else lines


@dataclass(slots=True)
class _Taken:
    """Rectangles by the cells of a coarse grid that they touch."""

    cells: dict[tuple[int, int], list[Box]] = field(default_factory=dict)

    def _touched(self, box: Box) -> list[tuple[int, int]]:
        columns = range(int(box.x // CELL), int(box.right // CELL) + 1)
        rows = range(int(box.y // CELL), int(box.bottom // CELL) + 1)
        return [(column, row) for column in columns for row in rows]

    def add(self, box: Box) -> None:
        """Take a rectangle."""
        for cell in self._touched(box):
            self.cells.setdefault(cell, []).append(box)

    def is_free(self, box: Box) -> bool:
        """Whether nothing that is taken overlaps a rectangle."""
        near = (other for cell in self._touched(box) for other in self.cells.get(cell, ()))
        return not any(
            box.x < other.right
            and other.x < box.right
            and box.y < other.bottom
            and other.y < box.bottom
            for other in near
        )


@dataclass(frozen=True, slots=True)
class _Remark:
    """A small label that waits for a free place."""

    places: tuple[Point, ...]
    words: str
    look: str


@dataclass(frozen=True, slots=True)
class _Shape:
    tag: str
    attributes: dict[str, object]
    words: str = ""


@dataclass(slots=True)
class Sheet:
    """Shapes in five layers (background, links, nodes, marks, words).

    Parameters
    ----------
    left, top, right, bottom : float
        What is covered so far.
    dots : set of str
        Classes of the dots so far, for the legend.
    """

    left: float = 0.0
    top: float = 0.0
    right: float = 0.0
    bottom: float = 0.0
    _layers: tuple[list[_Shape], ...] = field(default_factory=lambda: tuple([] for _ in range(5)))
    dots: set[str] = field(default_factory=set)
    _taken: _Taken = field(default_factory=_Taken)
    _remarks: list[_Remark] = field(default_factory=list)

    def _cover(self, *points: Point) -> None:
        for x, y in points:
            self.left = min(self.left, x)
            self.right = max(self.right, x)
            self.top = min(self.top, y)
            self.bottom = max(self.bottom, y)

    def _add(self, layer: int, tag: str, words: str, **attributes: object) -> None:
        self._layers[layer].append(_Shape(tag, attributes, clean(words)))

    def box(self, at: Box, look: str, tip: str = "", layer: int = NODES, chips: int = 0) -> None:
        """A rectangle; ``chips`` is the number of chips that it stands for, if not one."""
        self._cover((at.x, at.y), (at.right, at.bottom))
        if layer == NODES:
            self._taken.add(at)
        extra = {"data_chips": chips} if chips else {}
        self._add(
            layer,
            "rect",
            tip,
            x=_number(at.x),
            y=_number(at.y),
            width=_number(at.width),
            height=_number(at.height),
            rx=2 if min(at.width, at.height) > 8 else 1,
            class_=look,
            **extra,
        )

    def line(self, points: Sequence[Point], look: str, tip: str = "", width: float = 1.0) -> None:
        """A line through ``points``."""
        self.path(("M" + "L".join(_pair(point) for point in points)), points, look, tip, width)

    def path(
        self, path: str, points: Sequence[Point], look: str, tip: str = "", width: float = 1.0
    ) -> None:
        """A path in SVG's own notation that stays within the hull of ``points``."""
        self._cover(*points)
        self._add(LINKS, "path", tip, d=path, class_=f"l {look}", stroke_width=_number(width))

    def polygon(self, points: Sequence[Point], look: str, tip: str = "") -> None:
        """A filled shape behind everything else."""
        self._cover(*points)
        path = "M" + "L".join(_pair(point) for point in points) + "Z"
        self._add(BACK, "path", tip, d=path, class_=look)

    def dot(self, at: Point, radius: float, look: str) -> None:
        """A small disc on a line."""
        self.dots.add(look)
        self._cover((at[0] - radius, at[1] - radius), (at[0] + radius, at[1] + radius))
        self._add(MARKS, "circle", "", cx=_number(at[0]), cy=_number(at[1]), r=radius, class_=look)

    def cross(self, at: Box) -> None:
        """Both diagonals of a rectangle: something is missing here."""
        corners = ((at.x, at.y), (at.right, at.bottom)), ((at.x, at.bottom), (at.right, at.y))
        path = "".join(f"M{_pair(a)}L{_pair(b)}" for a, b in corners)
        self._add(MARKS, "path", "", d=path, class_="x")

    def text(
        self, at: Point, words: str, size: float, look: str = "", anchor: str = "start"
    ) -> None:
        """A line of text on the baseline ``at``; ``anchor`` is start, middle or end."""
        words = " ".join(clean(words).split())
        if not words:
            return
        width = text_width(words, size)
        x = at[0] - {"start": 0.0, "middle": width / 2, "end": width}[anchor]
        line = Box(x, at[1] - ASCENT_EM * size, width, (ASCENT_EM + DESCENT_EM) * size)
        self._cover((line.x, line.y), (line.right, line.bottom))
        self._taken.add(line)
        style: dict[str, object] = {} if anchor == "start" else {"text_anchor": anchor}
        if look:
            style["class_"] = look
        self._add(WORDS, "text", words, x=_number(at[0]), y=_number(at[1]), font_size=size, **style)

    def label(self, at: Point, words: str, size: float = TINY, look: str = "") -> None:
        """A line of text centred on ``at``, on a white plate that hides the lines below."""
        plate = centred(*at, text_width(words, size) + 4, 1.3 * size)
        self.box(plate, "plate", layer=MARKS)
        self.text((at[0], at[1] + 0.34 * size), words, size, look, "middle")

    def remark(self, places: Sequence[Point], words: str, look: str = "") -> None:
        """A label at the first of ``places`` that is free in the end, or nowhere.

        What it says must be said elsewhere too: in a tooltip, or in the legend.
        """
        self._remarks.append(_Remark(tuple(places), clean(words), look))

    def _settle(self) -> None:
        """Place the remarks; every other text is in its place by now."""
        for remark in self._remarks:
            width = text_width(remark.words, TINY) + 4
            for place in remark.places:
                if self._taken.is_free(centred(*place, width, 1.3 * TINY)):
                    self.label(place, remark.words, TINY, remark.look)
                    break
        self._remarks.clear()

    def note(self, box: Box, words: str, size: float = TINY, look: str = "") -> None:
        """A line of text in the middle of a box, shortened to it."""
        x, y = box.middle
        self.text((x, y + 0.34 * size), fit(words, box.width - 2, size), size, look, "middle")

    def to_svg(self, title: str, description: str) -> str:
        """Write everything down; the same drawing gives the same text."""
        self._settle()
        import drawsvg  # type: ignore[import-untyped, unused-ignore]

        class Description(drawsvg.Title):  # type: ignore[misc, unused-ignore]
            TAG_NAME = "desc"

        x, y = _number(self.left - MARGIN), _number(self.top - MARGIN)
        width = _number(self.right - self.left + 2 * MARGIN)
        height = _number(self.bottom - self.top + 2 * MARGIN)
        drawing = drawsvg.Drawing(
            width,
            height,
            origin=(x, y),
            id_prefix="topo",
            class_="topo",
            role="img",
            aria_labelledby="topo-title topo-desc",
        )
        drawing.append(drawsvg.Title(clean(title), id="topo-title"))
        drawing.append(Description(clean(description), id="topo-desc"))
        drawing.append_css(STYLE_SHEET)
        drawing.append(drawsvg.Rectangle(x, y, width, height, class_="paper"))
        makers = {
            "rect": drawsvg.Rectangle,
            "path": drawsvg.Path,
            "circle": drawsvg.Circle,
            "text": drawsvg.Text,
        }
        for layer in self._layers:
            for shape in layer:
                if shape.tag == "text":
                    drawing.append(drawsvg.Text(shape.words, **shape.attributes))
                    continue
                element = makers[shape.tag](**shape.attributes)
                if shape.words:
                    element.append_title(shape.words)
                drawing.append(element)
        return f"{drawing.as_svg()}\n"


def _number(value: float) -> float:
    """A coordinate with one decimal at most, for short files."""
    rounded = round(value, 1)
    return int(rounded) if rounded == int(rounded) else rounded


def _pair(point: Point) -> str:
    return f"{_number(point[0])} {_number(point[1])}"


def polyline(points: Sequence[Point]) -> str:
    """Path notation of a line through ``points``, to be joined with others."""
    return "M" + "L".join(_pair(point) for point in points)


def bend(start: Point, control: Point, end: Point) -> str:
    """Path notation of a curve from ``start`` to ``end`` that is pulled towards ``control``."""
    return f"M{_pair(start)}Q{_pair(control)} {_pair(end)}"
