"""The matrix of ``nvidia-smi topo -m``: one host, which devices are how far apart.

Cells are one word each, so that tables whose tabs became blanks on the way are read too.
Classes, near to far: ``NV#`` (number of bonded NVLinks), ``PIX`` one PCIe bridge, ``PXB``
several, ``PHB`` through the host bridge, ``NODE`` between host bridges of one NUMA node,
``SYS`` across sockets (``SOC`` in old drivers).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from planner.catalog.imports.source import SourceFile, plain_text
from planner.catalog.imports.wiring import DISTANCES

_AFFINITY = re.compile(r"\b(?:CPU|NUMA|Memory)\s+Affinity\b|\bGPU\s+NUMA\s+ID\b")
_GPU = re.compile(r"GPU\d+")
_NVLINKS = re.compile(r"NV(\d{1,4})")
_LEGEND_NIC = re.compile(r"\s*([^\s:]+):\s+(\S+)\s*")
_SELF = "X"
_FAR = {**{name: index for index, name in enumerate(DISTANCES)}, "SOC": DISTANCES.index("SYS")}
_MAX_DEVICES = 1024
_MAX_LINE = 65536
_WHOLE = "copy the whole table that nvidia-smi topo -m prints"


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """How two devices are joined: ``nvlinks`` bonded links, or a place in ``DISTANCES``."""

    text: str
    nvlinks: int
    distance: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Matrix:
    """A checked table.

    Parameters
    ----------
    gpus, nics : tuple of str
        Names in the header, in its order.
    nic_names : tuple of str
        Device names of the NICs by the second legend, else their names in the header.
    dropped : tuple of str
        Columns that say nothing about links.
    """

    gpus: tuple[str, ...]
    nics: tuple[str, ...]
    nic_names: tuple[str, ...]
    cells: dict[tuple[str, str], Cell]
    dropped: tuple[str, ...]
    notes: tuple[str, ...]

    def nvlinks(self, a: str, b: str) -> int:
        """NVLinks between two GPUs; 0 without."""
        return self.cells[a, b].nvlinks


@dataclass(frozen=True, kw_only=True, slots=True)
class _Row:
    name: str
    words: tuple[str, ...]
    line: int


def _is_class(word: str) -> bool:
    return word == _SELF or word in _FAR or _NVLINKS.fullmatch(word) is not None


def _lines(source: SourceFile) -> list[str]:
    lines = plain_text(source.text).split("\n")
    for number, line in enumerate(lines, start=1):
        if len(line) > _MAX_LINE:
            raise source.error("is no table: the line is too long", number, _WHOLE)
    return lines


def _header(source: SourceFile, lines: list[str]) -> tuple[int, tuple[str, ...], tuple[str, ...]]:
    """Line number of the header, its devices, and the columns that are no devices."""
    for number, line in enumerate(lines, start=1):
        words = _AFFINITY.sub(" ", line).split()
        if not words or _GPU.fullmatch(words[0]) is None or any(map(_is_class, words)):
            continue
        sliced = [word for word in words if word.startswith("MIG")]
        if sliced:
            raise source.error(
                f"lists '{sliced[0]}', a slice of a chip", number, "list the node with MIG off"
            )
        twice = [word for word, count in Counter(words).items() if count > 1]
        if twice:
            raise source.error(f"lists {twice[0]} twice in its header", number, _WHOLE)
        if len(words) > _MAX_DEVICES:
            raise source.error(f"lists {len(words)} devices", number, "is it one host?")
        dropped = tuple(" ".join(text.split()) for text in _AFFINITY.findall(line))
        return number, tuple(words), dropped
    raise source.error("has no header line that names GPU0, GPU1, ...", remedy=_WHOLE)


def _rows(
    source: SourceFile, lines: list[str], start: int, devices: tuple[str, ...]
) -> Iterator[_Row]:
    """Lines of the table below its header, up to the legend."""
    in_legend = False
    for number, line in enumerate(lines[start:], start=start + 1):
        words = line.split()
        if not words:
            continue
        in_legend = in_legend or words[0].startswith("Legend")
        if in_legend:
            if _GPU.fullmatch(words[0]) is not None:
                raise source.error("holds a second table", number, "import one host at a time")
            continue
        if words[0].startswith("MIG"):
            raise source.error("lists slices of chips", number, "list the node with MIG off")
        if words[0] in devices:
            if len(words) > 1 and words[1] in devices:
                raise source.error("holds a second table", number, "import one host at a time")
            yield _Row(name=words[0], words=tuple(words[1:]), line=number)
        elif any(map(_is_class, words[1:4])):
            raise source.error(f"has a row {words[0]}, but no such column", number, _WHOLE)


def _cell(source: SourceFile, row: _Row, column: str, word: str) -> Cell:
    where = f"{row.name} towards {column}"
    if (word == _SELF) != (row.name == column):
        raise source.error(f"{where} is {word}: X stands on the diagonal alone", row.line, _WHOLE)
    bonded = _NVLINKS.fullmatch(word)
    if bonded is not None:
        if int(bonded.group(1)) == 0 or _GPU.fullmatch(column) is None:
            raise source.error(f"{where} is {word}, which cannot be", row.line, _WHOLE)
        return Cell(text=word, nvlinks=int(bonded.group(1)), distance=0)
    if word != _SELF and word not in _FAR:
        known = ", ".join(("NV#", *DISTANCES))
        raise source.error(
            f"{where} is '{word[:20]}', not a known class", row.line, f"{known} are; {_WHOLE}"
        )
    return Cell(text=word, nvlinks=0, distance=_FAR.get(word, 0))


def _check_symmetry(source: SourceFile, cells: dict[tuple[str, str], Cell]) -> None:
    for (a, b), cell in cells.items():
        mirror = cells.get((b, a), cell)
        if (cell.nvlinks, cell.distance) != (mirror.nvlinks, mirror.distance):
            raise source.error(
                f"contradicts itself: {a} to {b} is {cell.text}, {b} to {a} is {mirror.text}",
                remedy="copy the table again; if it stays, a link is down on one side",
            )


def _legend(lines: list[str], start: int, nics: tuple[str, ...]) -> dict[str, str]:
    found = (_LEGEND_NIC.fullmatch(line) for line in lines[start:])
    return {m.group(1): m.group(2) for m in found if m is not None and m.group(1) in nics}


def parse_matrix(source: SourceFile) -> Matrix:
    """Read and check a table.

    Raises
    ------
    CatalogError
        No table, a cut or doubled one, a row twice, an unknown class, two cells that
        contradict each other, slices of chips. Names the line, or both cells.
    """
    lines = _lines(source)
    start, devices, dropped = _header(source, lines)
    cells: dict[tuple[str, str], Cell] = {}
    seen: set[str] = set()
    for row in _rows(source, lines, start, devices):
        if row.name in seen:
            raise source.error(f"has two rows {row.name}", row.line, _WHOLE)
        seen.add(row.name)
        if len(row.words) < len(devices):
            raise source.error(
                f"row {row.name} has {len(row.words)} of {len(devices)} cells", row.line, _WHOLE
            )
        for column, word in zip(devices, row.words, strict=False):
            cells[row.name, column] = _cell(source, row, column, word)
    gpus = tuple(name for name in devices if _GPU.fullmatch(name))
    nics = tuple(name for name in devices if name not in gpus)
    missing = [name for name in gpus if name not in seen]
    if missing:
        raise source.error(f"has no row {missing[0]}: the table is cut", remedy=_WHOLE)
    _check_symmetry(source, cells)
    legend = _legend(lines, start, nics)
    absent = [name for name in nics if name not in seen]
    notes = [f"no rows for {', '.join(absent)}: read from the rows of the GPUs"] if absent else []
    return Matrix(
        gpus=gpus,
        nics=nics,
        nic_names=tuple(legend.get(name, name.lower()) for name in nics),
        cells=cells,
        dropped=dropped,
        notes=tuple(notes),
    )
