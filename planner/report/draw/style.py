"""Colours and sizes of the drawings: print-friendly, on their own white paper.

Decisions
---------
* An explicit white sheet instead of two colour schemes: the same picture in a dark viewer, on
  paper and in a slide.
* Colour never speaks alone: kinds differ by shape and label, lost parts are crossed out, slow
  links are dashed and carry a number.
* One style sheet with short class names: a drawing of a thousand chips stays small.
"""

from __future__ import annotations

from planner.topology.network import (
    CHIP,
    CORE,
    HOST,
    LEAF,
    LEAF_SPINE,
    NIC,
    NIC_NODE,
    SPINE,
    SPINE_CORE,
    SWITCH,
    TRUNK,
)

TITLE = 20.0
HEADING = 12.0
BODY = 11.0
SMALL = 9.0
TINY = 7.5

FONTS = '"Helvetica Neue",Helvetica,Arial,"DejaVu Sans",sans-serif'

# Kinds of chips and rails beyond these reuse the colours from the start.
CHIP_COLOURS = (
    ("#d6e6f5", "#3f75ad"),
    ("#fbe0c8", "#b5651d"),
    ("#e3efd6", "#5f8a34"),
    ("#f0dcee", "#8d4f87"),
)
RAIL_COLOURS = (
    "#3f75ad",
    "#c9742a",
    "#4c8c47",
    "#b24a4a",
    "#7d62ab",
    "#7c5a44",
    "#c0679f",
    "#6f7680",
)
AXIS_COLOURS = ("#3f75ad", "#b5651d", "#5f8a34")

NODE_LOOKS = {
    CHIP: "chip",
    SWITCH: "sw",
    NIC_NODE: "nic",
    LEAF: "fab",
    SPINE: "fab",
    CORE: "fab",
    HOST: "host",
}
LINK_LOOKS = {
    TRUNK: "trunk",
    NIC: "nl",
    LEAF_SPINE: "ls",
    SPINE_CORE: "sc",
}
# Links inside a domain, by whatever name the machine file calls them.
OTHER_LINKS = ("up", "g0", "g1", "g3")

_RULES = (
    f".topo text{{font-family:{FONTS};fill:#1f2733}}",
    ".topo .muted{fill:#5b6675}",
    ".topo .bold{font-weight:600}",
    ".topo .alarm{fill:#b3261e}",
    ".topo .warn{fill:#a65f00}",
    ".topo .paper,.topo .plate{fill:#fff}",
    ".topo .frame{fill:#fafbfc;stroke:#c4ccd6}",
    ".topo .tray{fill:#eef1f5;stroke:#d3dae2;stroke-width:.7}",
    ".topo .sheet{fill:#f3f6f9;stroke:#d3dae2;stroke-width:.7}",
    ".topo .hid{fill:#fff;stroke:#8f9aa7;stroke-dasharray:4 3}",
    ".topo .chip{stroke-width:.9}",
    *(f".topo .k{n}{{fill:{fill};stroke:{line}}}" for n, (fill, line) in enumerate(CHIP_COLOURS)),
    ".topo .sw{fill:#dff0dc;stroke:#4c8c47;stroke-width:.9}",
    ".topo .nic{fill:#fff0cc;stroke:#b3861a;stroke-width:.8}",
    ".topo .fab{fill:#e9e5f5;stroke:#6d5fa8;stroke-width:.9}",
    ".topo .host{fill:#eceff1;stroke:#78848f;stroke-width:.9}",
    ".topo .cable{fill:#cfe6cb;stroke:#4c8c47;stroke-width:.7}",
    ".topo .lost{fill:#fff;stroke:#b3261e;stroke-width:.9;stroke-dasharray:2 1.5}",
    ".topo .x{fill:none;stroke:#b3261e;stroke-width:1}",
    ".topo .slow{stroke:#d17a00;stroke-dasharray:3 2;stroke-width:1.8}",
    ".topo .tiny{stroke-dasharray:none;stroke-width:1.5}",
    ".topo .l{fill:none;stroke-linecap:round}",
    ".topo .up{stroke:#5d9e57}",
    ".topo .trunk{stroke:#2b7f77}",
    ".topo .nl{stroke:#b3861a}",
    ".topo .ls{stroke:#8b7fc2}",
    ".topo .sc{stroke:#5a4b97}",
    *(f".topo .a{n}{{stroke:{colour}}}" for n, colour in enumerate(AXIS_COLOURS)),
    *(f".topo .d{n}{{fill:{colour}}}" for n, colour in enumerate(AXIS_COLOURS)),
    *(f".topo .g{n}{{stroke:{colour}}}" for n, colour in enumerate(RAIL_COLOURS[:4])),
    *(f".topo .r{n}{{stroke:{colour}}}" for n, colour in enumerate(RAIL_COLOURS)),
    *(f".topo .p{n}{{fill:{colour}}}" for n, colour in enumerate(RAIL_COLOURS)),
    ".topo .ribbon{fill:#8b7fc2;fill-opacity:.22;stroke:none}",
    ".topo .band{fill:#2b7f77;fill-opacity:.25;stroke:none}",
    ".topo .dash{fill:none;stroke:#d17a00;stroke-dasharray:4 3}",
    ".topo .cut{fill:none;stroke:#b3261e;stroke-dasharray:1.5 3}",
    ".topo .rule{stroke:#c4ccd6;fill:none;stroke-width:.8}",
)
STYLE_SHEET = "\n".join(_RULES)


def rail_class(rail: int, letter: str = "r") -> str:
    """Class of the lines (``r``) or dots (``p``) of one rail."""
    return f"{letter}{rail % len(RAIL_COLOURS)}"


def link_look(tier: str, axis: int, tiers: tuple[str, ...]) -> str:
    """Class of a link, by axis on a torus, else by tier; unknown tiers take turns."""
    if axis >= 0:
        return f"a{axis % len(AXIS_COLOURS)}"
    known = LINK_LOOKS.get(tier)
    if known is not None:
        return known
    others = [name for name in tiers if name not in LINK_LOOKS]
    return OTHER_LINKS[others.index(tier) % len(OTHER_LINKS)]
