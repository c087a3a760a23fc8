"""What is written around the picture: the header above, the legend below."""

from __future__ import annotations

from planner.report.draw.blocks import has_rails
from planner.report.draw.canvas import Box, Sheet, clean, fit, text_width, wrap
from planner.report.draw.parts import Parts, short
from planner.report.draw.style import (
    AXIS_COLOURS,
    BODY,
    CHIP_COLOURS,
    HEADING,
    SMALL,
    TITLE,
    rail_class,
)
from planner.report.draw.words import LinkClass, Words
from planner.topology.network import CORE, HOST, KINDS, LEAF, NIC_NODE, SPINE, SWITCH
from planner.units import format_bytes

MIN_WIDTH = 680.0
LINE, SMALL_LINE = 17.0, 14.0
COLUMN_GAP = 40.0
LINE_TEXT_X, BOX_TEXT_X = 34.0, 26.0
MAX_CHIP_KINDS = 8
NO_BREAK = "\u00a0"


def draw_header(sheet: Sheet, words: Words) -> None:
    """Title, summary and facts above everything that is drawn so far."""
    width = max(MIN_WIDTH, sheet.right - sheet.left)
    said = [*words.facts, "all bandwidths per direction"]
    # A statement is not broken in two: the spaces inside it do not count for wrapping.
    lines = wrap(" ·  ".join(fact.replace(" ", NO_BREAK) for fact in said), width, BODY)
    summary = wrap(words.parts.spec.summary, width, HEADING)
    height = 34 + LINE * (len(lines) + len(summary)) + 12
    left, top = sheet.left, sheet.top - height
    sheet.text((left, top + 18), fit(words.title, width, TITLE), TITLE, "bold")
    y = top + 26
    for line in summary:
        y += LINE
        sheet.text((left, y), line, HEADING)
    for line in lines:
        y += LINE
        sheet.text((left, y), line, BODY, "muted")


def draw_legend(sheet: Sheet, words: Words) -> None:
    """Classes of links, kinds of nodes and what is wrong, below everything drawn so far."""
    left, top = sheet.left, sheet.bottom + 34
    limit = left + max(MIN_WIDTH, sheet.right - sheet.left)
    links = [link.words for link in words.link_classes]
    kinds = _kinds(sheet, words.parts)
    wounds = [*words.losses, *words.wounds]
    widths = (
        max(LINE_TEXT_X + _longest(links), 200.0),
        BOX_TEXT_X + _longest([name for _, name in kinds]),
        BOX_TEXT_X + _longest(wounds),
    )
    x, lowest = left, top
    for column, width in enumerate(widths):
        if column == 2 and not wounds:
            break
        if x > left and x + width > limit:
            x, top = left, lowest + 22
        if column == 0:
            bottom = _draw_links(sheet, words.link_classes, x, top)
        elif column == 1:
            bottom = _draw_kinds(sheet, kinds, x, top)
        else:
            bottom = _draw_wounds(sheet, words, x, top)
        lowest = max(lowest, bottom)
        x += width + COLUMN_GAP


def _longest(lines: list[str]) -> float:
    return max((text_width(line, SMALL) for line in lines), default=0.0)


def _draw_links(sheet: Sheet, links: list[LinkClass], x: float, y: float) -> float:
    sheet.text((x, y), "Links, bandwidth per direction", SMALL, "bold")
    for link in links:
        y += LINE
        if link.look:
            sheet.line([(x, y - 3), (x + 26, y - 3)], link.look, width=link.width)
        sheet.text((x + LINE_TEXT_X, y), link.words, SMALL)
    return y


def _kinds(sheet: Sheet, parts: Parts) -> list[tuple[str, str]]:
    """Kinds of nodes on the machine: style and words."""
    found = []
    for index, chip in enumerate(parts.chip_kinds[:MAX_CHIP_KINDS]):
        name = fit(clean(chip.name), 150, SMALL)
        words = f"{name}, HBM {short(format_bytes(chip.hbm_bytes))}"
        found.append((f"chip k{index % len(CHIP_COLOURS)}", words))
    kinds = set(parts.network.kinds.tolist())
    names = {SWITCH: "scale-up switch", NIC_NODE: "NIC", HOST: "host"}
    looks = {SWITCH: "sw", NIC_NODE: "nic", HOST: "host"}
    found += [(looks[kind], names[kind]) for kind in names if kind in kinds]
    fabric = [KINDS[kind] for kind in (LEAF, SPINE, CORE) if kind in kinds]
    if fabric:
        found.append(("fab", f"{', '.join(fabric)} switch"))
    if sheet.dots & {f"d{axis}" for axis in range(len(AXIS_COLOURS))}:
        found.append(("stub", "link that wraps around its row"))
    if has_rails(parts):
        spec = parts.spec
        leaves = spec.scale_out.leaves_per_unit if spec.scale_out is not None else 0
        which = "i" if parts.nics.shape[1] <= leaves else f"i mod {leaves}"
        found.append(("rails", f"rails: NIC i of every {spec.scale_up.unit} to leaf {which}"))
    return found


def _draw_kinds(sheet: Sheet, kinds: list[tuple[str, str]], x: float, y: float) -> float:
    sheet.text((x, y), "Parts", SMALL, "bold")
    for look, words in kinds:
        y += LINE
        if look == "stub":
            sheet.line([(x, y - 3), (x + 13, y - 3)], "a0", width=1.3)
            sheet.dot((x + 14, y - 3), 1.8, "d0")
        elif look == "rails":
            for rail in range(3):
                at = y - 7 + 4 * rail
                sheet.line([(x, at), (x + 18, at)], rail_class(rail), width=1.4)
        else:
            sheet.box(Box(x, y - 9, 18, 12), look)
        sheet.text((x + BOX_TEXT_X, y), words, SMALL)
    return y


def _draw_wounds(sheet: Sheet, words: Words, x: float, y: float) -> float:
    sheet.text((x, y), "Lost and slow", SMALL, "bold")
    for line in words.losses:
        y += LINE
        alarm = not line.startswith("slow")
        if line.startswith("lost"):
            box = Box(x, y - 9, 18, 12)
            sheet.box(box, "lost")
            sheet.cross(box)
        else:
            look = "dash" if line.startswith("slow") else "cut"
            sheet.line([(x, y - 3), (x + 18, y - 3)], look, width=1.8)
        sheet.text((x + BOX_TEXT_X, y), line, SMALL, "alarm" if alarm else "warn")
    for line in words.wounds:
        y += SMALL_LINE
        sheet.text((x + BOX_TEXT_X, y), line, SMALL, "muted")
    return y
