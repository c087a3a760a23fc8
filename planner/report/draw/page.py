"""From a machine to a page: picture, header, legend."""

from __future__ import annotations

from planner.domain.scale_up import GraphDomain
from planner.report.draw.canvas import Sheet
from planner.report.draw.fabric import draw_hall
from planner.report.draw.generic import draw_generic
from planner.report.draw.hall import arrange
from planner.report.draw.legend import draw_header, draw_legend
from planner.report.draw.parts import compare
from planner.report.draw.words import Words
from planner.topology.graph import Topology


def draw_topology(topology: Topology) -> str:
    """Draw a machine.

    Parameters
    ----------
    topology : Topology
        The machine in its size and state; what it lost is marked in the drawing.

    Returns
    -------
    str
        An SVG document with its own white background. Elements of class ``chip`` or ``lost``
        carry a tooltip that begins with the chip's name; elements with ``data-chips`` stand
        for that many chips. The same machine gives the same text.
    """
    parts = compare(topology)
    sheet = Sheet()
    if isinstance(topology.spec.scale_up, GraphDomain):
        draw_generic(sheet, parts)
    else:
        draw_hall(sheet, parts, arrange(parts))
    words = Words(parts=parts)
    draw_legend(sheet, words)
    draw_header(sheet, words)
    return sheet.to_svg(words.title, words.description)
