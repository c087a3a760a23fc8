"""Whether the numbers of a certificate agree with each other."""

from __future__ import annotations

from planner.domain.layout import Certificate
from planner.search.validate import RELATIVE_TOLERANCE


def gap_violations(certificate: Certificate | None) -> list[str]:
    """``bound <= objective`` and ``gap = (objective - bound) / objective``."""
    if certificate is None:
        return []
    objective, bound = certificate.objective, certificate.bound
    gap = (objective - bound) / objective if objective > 0 else float("nan")
    if not 0 <= bound <= objective or abs(gap - certificate.gap) > RELATIVE_TOLERANCE:
        return [
            f"certificate: gap {certificate.gap!r} does not follow from objective {objective!r} "
            f"and bound {bound!r}"
        ]
    return []


def count_violations(certificate: Certificate) -> list[str]:
    """Every strategy is infeasible, pruned or solved; a solved one may have no placement."""
    reasons = (
        certificate.infeasible_memory,
        certificate.infeasible_tpot,
        certificate.pruned,
        certificate.solved,
    )
    found = []
    if min(reasons) < 0 or sum(reasons) != certificate.enumerated:
        found.append(
            f"certificate: {certificate.enumerated} strategies counted, the reasons add up to "
            f"{sum(reasons)}"
        )
    if not 0 <= certificate.infeasible_placement <= certificate.solved:
        found.append(
            f"certificate: {certificate.infeasible_placement} strategies without a placement of "
            f"{certificate.solved} solved"
        )
    return found
