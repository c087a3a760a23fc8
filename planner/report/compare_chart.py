"""The chart of a comparison: the objective of each candidate, stacked by term."""

from __future__ import annotations

from planner.report.plot.chart import Chart, Series
from planner.studies.record import Comparison

MOST_TERMS = 9


def comparison_chart(found: Comparison) -> Chart:
    """Stacked bars, best first; small terms together as ``rest``."""
    ranked = [one for one in found.ranked if one.figures is not None]
    shares = [
        {term.name: term.value for term in one.figures.terms}
        for one in ranked
        if one.figures is not None
    ]
    names = list(dict.fromkeys(name for own in shares for name in own))
    names.sort(key=lambda name: -max(own.get(name, 0.0) for own in shares))
    kept, rest = names[:MOST_TERMS], names[MOST_TERMS:]
    x = tuple(float(place) for place in range(len(ranked)))
    stack = [
        Series(name=name.replace("_", " "), x=x, y=tuple(own.get(name, 0.0) for own in shares))
        for name in kept
    ]
    if rest:
        small = tuple(sum(own.get(name, 0.0) for name in rest) for own in shares)
        stack.append(Series(name="rest", x=x, y=small))
    return Chart(
        title=f"{found.model} on {found.machine}, {found.phase}",
        x_label="strategy",
        y_label=found.unit,
        stack=tuple(stack),
        bars=tuple(one.name for one in ranked),
    )
