"""The re-check of a certificate as people read it."""

from __future__ import annotations

from planner.search.recheck_case import Recheck


def recheck_text(found: Recheck, unit: str) -> str:
    """What was checked, and the bounds side by side; ``unit`` is that of the objective."""
    part = "every one" if found.checked == found.strategies else f"{found.checked:,}"
    lines = [
        f"Strategies {found.strategies:,}, {part} checked; {found.compared:,} of them stay within "
        f"reach of the layout as far as floors tell; {found.built:,} simple layouts priced.",
        f"  objective, from the decisions  {found.objective:.9g} {unit}",
        f"  bound, as stated               {found.stated_bound:.9g}",
        f"  bound, re-derived              {found.rederived_bound:.9g}",
    ]
    if found.best_built is not None:
        lines.append(f"  best simple layout             {found.best_built:.9g}")
    return "\n".join(lines)
