"""Drawings of machines: one SVG that shows every chip, switch, NIC and link, or counts it.

Decisions
---------
* The picture is drawn from the network that planning uses, never from a second opinion of
  what the machine looks like.
* The healthy machine is drawn and what it lost is marked: a missing chip is a crossed box,
  not a gap.
* What is too much to draw is counted: a box says how many chips it stands for, so the chips
  of a drawing always add up.
"""

from __future__ import annotations

from planner.report.draw.page import draw_topology

__all__ = ["draw_topology"]
