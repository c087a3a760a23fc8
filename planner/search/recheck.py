"""Re-checks certificates with code that shares nothing with the search.

One module per phase enumerates the space again, finds what nothing in it can beat, and tries
to beat the bound that is stated; this one knows which phase has one.
"""

from __future__ import annotations

from collections.abc import Callable

from planner.domain.workload import Phase
from planner.errors import SpecError
from planner.search.recheck_case import Recheck, RecheckCase
from planner.search.recheck_decode import recheck_passes

_PHASES: dict[Phase, Callable[[RecheckCase], Recheck]] = {
    Phase.DECODE: recheck_passes,
    Phase.PREFILL: recheck_passes,
}


def recheck(phase: Phase, case: RecheckCase) -> Recheck:
    """Re-derive the bound of a certificate.

    Raises
    ------
    SpecError
        If layouts of this phase cannot be re-checked.
    """
    if phase not in _PHASES:
        known = ", ".join(p.value for p in _PHASES)
        raise SpecError(
            f"certificates of phase {phase.value} cannot be re-checked", f"supported: {known}"
        )
    return _PHASES[phase](case)
