"""What is said around the picture: the machine in a few lines, the legend, the losses."""

from __future__ import annotations

import math

import numpy as np

from planner.domain.scale_up import MeshDomain
from planner.report.draw.blocks import has_rails
from planner.report.draw.canvas import Box, Sheet, clean, fit, text_width, wrap
from planner.report.draw.marks import mesh_width
from planner.report.draw.parts import CUT, SLOW, Parts, percent, rate, short
from planner.report.draw.style import (
    BODY,
    CHIP_COLOURS,
    HEADING,
    SMALL,
    TITLE,
    link_look,
    rail_class,
)
from planner.topology.bisection import scale_up_bisections
from planner.topology.network import AXES, CHIP, CORE, HOST, KINDS, LEAF, NIC_NODE, SPINE, SWITCH
from planner.units import format_bytes, format_integer

MIN_WIDTH = 680.0
LINE = 17.0
COLUMN_GAP = 40.0
MAX_CLASSES = 10
MAX_WOUNDS = 10
WOUND_WIDTH = 380.0
NO_BREAK = "\u00a0"


def _chip_rate(parts: Parts) -> float:
    """Bandwidth of the best connected chip inside its domain."""
    network = parts.network
    inside = network.scale_up
    rates = np.zeros(network.num_nodes)
    for column in (0, 1):
        np.add.at(rates, network.ends[inside, column], network.bytes_per_s[inside])
    return float(rates[: network.num_chips].max())


def facts(parts: Parts) -> list[str]:
    """The machine in a few statements."""
    spec, topology = parts.spec, parts.topology
    alive, total = topology.num_chips, spec.num_chips
    names = " + ".join(clean(chip.name) for chip in parts.chip_kinds)
    count = format_integer(alive)
    count += f" of {format_integer(total)}" if alive != total else ""
    found = [f"{count} chips ({names})"]
    unit = f"a {spec.scale_up.unit}" if len(topology.domains) > 1 else f"the {spec.scale_up.unit}"
    each = _chip_rate(parts)
    if each:
        found.append(f"{rate(each)} per chip inside {unit}")
    cut = min(scale_up_bisections(topology), key=lambda cut: cut.bytes_per_s)
    if cut.bytes_per_s:
        bound = "at most " if cut.is_bound else ""
        found.append(f"bisection of {unit} {bound}{rate(cut.bytes_per_s)}")
    fabric = spec.scale_out
    if fabric is not None and parts.has_fabric:
        shared = "" if fabric.chips_per_nic == 1 else f", {fabric.chips_per_nic} chips per NIC"
        found.append(f"NIC {rate(fabric.nic_bytes_per_s)}{shared}")
        if fabric.oversubscription > 1:
            found.append(f"leaf switches {fabric.oversubscription:g}:1 oversubscribed")
    return found


def draw_header(sheet: Sheet, parts: Parts) -> None:
    """Title, summary and facts above everything that is drawn so far."""
    spec = parts.spec
    width = max(MIN_WIDTH, sheet.right - sheet.left)
    said = [*facts(parts), "all bandwidths per direction"]
    # A statement is not broken in two: the spaces inside it do not count for wrapping.
    lines = wrap(" ·  ".join(fact.replace(" ", NO_BREAK) for fact in said), width, BODY)
    summary = wrap(spec.summary, width, HEADING)
    height = 34 + LINE * (len(lines) + len(summary)) + 12
    left, top = sheet.left, sheet.top - height
    sheet.text((left, top + 18), fit(_title(parts), width, TITLE), TITLE, "bold")
    y = top + 26
    for line in summary:
        y += LINE
        sheet.text((left, y), line, HEADING)
    for line in lines:
        y += LINE
        sheet.text((left, y), line, BODY, "muted")


def _title(parts: Parts) -> str:
    return f"{clean(parts.spec.name)}, {parts.spec.size_text}"


def describe(parts: Parts) -> tuple[str, str]:
    """Title and description for readers who do not see the picture."""
    words = [clean(parts.spec.summary), *facts(parts), *losses(parts)]
    return _title(parts), ". ".join(word for word in words if word)


def losses(parts: Parts) -> list[str]:
    """What is lost, cut or slow, in numbers."""
    network = parts.network
    found = []
    for kind, word in (
        (CHIP, "chip"),
        (SWITCH, "switch"),
        (NIC_NODE, "NIC"),
        (LEAF, "leaf"),
        (SPINE, "spine"),
        (CORE, "core"),
        (HOST, "host"),
    ):
        of_kind = network.kinds == kind
        lost = int((of_kind & parts.dead).sum())
        slow = int((of_kind & (parts.slow < 1)).sum())
        if lost:
            found.append(f"lost: {lost:,} of {int(of_kind.sum()):,} {_plural(word)}")
        if slow:
            found.append(f"slow: {slow:,} of {int(of_kind.sum()):,} {_plural(word)}")
    for state, word in ((CUT, "cut"), (SLOW, "slow")):
        count = int((parts.states == state).sum())
        if count:
            found.append(f"{word}: {count:,} of {network.num_links:,} links")
    return found


def _plural(word: str) -> str:
    if word == "leaf":
        return "leaves"
    return f"{word}es" if word == "switch" else f"{word}s"


def draw_legend(sheet: Sheet, parts: Parts) -> None:
    """Classes of links, kinds of nodes and what is wrong, below everything drawn so far."""
    left, top = sheet.left, sheet.bottom + 34
    limit = left + max(MIN_WIDTH, sheet.right - sheet.left)
    x, lowest = left, top
    for draw, width in (
        (_draw_links, _links_width(parts)),
        (_draw_kinds, _kinds_width(sheet, parts)),
        (_draw_wounds, _wounds_width(parts)),
    ):
        if not width:
            continue
        if x > left and x + width > limit:
            x, top = left, lowest + 22
        lowest = max(lowest, draw(sheet, parts, x, top))
        x += width + COLUMN_GAP


def _classes(parts: Parts) -> list[tuple[str, str, float]]:
    """Classes of links: style, words and the width of the line."""
    network = parts.network
    if not network.num_links:
        return []
    keys = np.stack(
        (network.tiers, network.axes, network.cables, np.round(network.bytes_per_s)), axis=1
    )
    rows, counts = np.unique(keys, axis=0, return_counts=True)
    direct = isinstance(parts.spec.scale_up, MeshDomain)
    found = []
    for (tier, axis, cables, total), count in zip(rows.tolist(), counts.tolist(), strict=True):
        name = network.tier_names[int(tier)]
        look = link_look(name, int(axis), network.tier_names)
        words = fit(clean(name), 140, SMALL) + (f" {AXES[int(axis)]}" if axis >= 0 else "")
        number = f"{int(cables)} × {rate(total / cables)} = " if cables > 1 else ""
        plural = "" if count == 1 else "s"
        width = mesh_width(int(cables)) if direct and look == "up" else 2.5
        found.append((look, f"{words}: {number}{rate(total)}, {count:,} link{plural}", width))
    if len(found) > MAX_CLASSES:
        rest = len(found) - MAX_CLASSES
        found = [*found[:MAX_CLASSES], ("", f"… {rest:,} more classes of links", 0.0)]
    return found


def _links_width(parts: Parts) -> float:
    longest = max((text_width(words, SMALL) for _, words, _ in _classes(parts)), default=0.0)
    return max(longest + 36, 200.0)


def _draw_links(sheet: Sheet, parts: Parts, x: float, y: float) -> float:
    sheet.text((x, y), "Links, bandwidth per direction", SMALL, "bold")
    for look, words, width in _classes(parts):
        y += LINE
        if look:
            sheet.line([(x, y - 3), (x + 26, y - 3)], look, width=width)
        sheet.text((x + 34, y), words, SMALL)
    return y


def _kinds(sheet: Sheet, parts: Parts) -> list[tuple[str, str]]:
    """Kinds of nodes on the machine: style and words."""
    found = []
    for index, chip in enumerate(parts.chip_kinds):
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
    if sheet.dots & {f"d{axis}" for axis in range(len(AXES))}:
        found.append(("stub", "link that wraps around its row"))
    if has_rails(parts):
        found.append(("rails", f"rails: NIC i of every {parts.spec.scale_up.unit} to leaf i"))
    return found


def _kinds_width(sheet: Sheet, parts: Parts) -> float:
    return max(text_width(words, SMALL) for _, words in _kinds(sheet, parts)) + 30


def _draw_kinds(sheet: Sheet, parts: Parts, x: float, y: float) -> float:
    sheet.text((x, y), "Parts", SMALL, "bold")
    for look, words in _kinds(sheet, parts):
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
        sheet.text((x + 26, y), words, SMALL)
    return y


def _listed(parts: Parts) -> list[str]:
    """Names of what is gone, slow or spared, as the user gave them."""
    wounds = parts.spec.wounds
    listed = [f"without {name}" for name in wounds.without]
    listed += [f"{name} at {percent(left)}" for name, left in wounds.degrade]
    listed += [f"{name}: {count} chips usable" for name, count in wounds.usable]
    if len(listed) > MAX_WOUNDS:
        listed = [*listed[:MAX_WOUNDS], f"… {len(listed) - MAX_WOUNDS:,} more"]
    return [fit(clean(words), WOUND_WIDTH, SMALL) for words in listed]


def _wounds_width(parts: Parts) -> float:
    if not parts.spec.wounds:
        return 0.0
    return max(text_width(words, SMALL) for words in (*losses(parts), *_listed(parts))) + 26


def _draw_wounds(sheet: Sheet, parts: Parts, x: float, y: float) -> float:
    sheet.text((x, y), "Lost and slow", SMALL, "bold")
    for words in losses(parts):
        y += LINE
        alarm = not words.startswith("slow")
        if words.startswith("lost"):
            box = Box(x, y - 9, 18, 12)
            sheet.box(box, "lost")
            sheet.cross(box)
        else:
            look = "dash" if words.startswith("slow") else "cut"
            sheet.line([(x, y - 3), (x + 18, y - 3)], look, width=1.8)
        sheet.text((x + 26, y), words, SMALL, "alarm" if alarm else "warn")
    for words in _listed(parts):
        y += math.ceil(LINE * 0.8)
        sheet.text((x + 26, y), words, SMALL, "muted")
    return y
