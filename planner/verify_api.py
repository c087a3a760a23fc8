"""Library of ``verify --certificate``: what was proved, proved again by other means."""

from __future__ import annotations

from dataclasses import replace

from planner.api import case_of_layout, step_limit_s, verify
from planner.compose import assignment_of, degrees_of
from planner.cost.evaluate import evaluate
from planner.domain.layout import Certificate, Layout
from planner.domain.ranges import read_ranges
from planner.domain.workload import Objective, Phase
from planner.errors import SpecError
from planner.search.recheck import recheck
from planner.search.recheck_case import Recheck, RecheckCase
from planner.search.recheck_numbers import count_violations

__all__ = ["verify_certificate"]

# An objective is a sum of a few hundred terms, written with all its digits.
_ROUNDING = 1e-9


def verify_certificate(layout: Layout) -> Recheck:
    """Re-derive the certificate of a layout with code that shares nothing with the search.

    Returns
    -------
    Recheck
        ``violations`` also names everything that :func:`planner.verify` finds.

    Raises
    ------
    SpecError
        If the layout has no certificate, or its decisions cannot be priced, or its phase has
        no re-check.
    """
    certificate = layout.certificate
    if certificate is None:
        raise SpecError(
            "the layout has no certificate", "planner plan ... -o layout.json writes one"
        )
    if layout.inputs.survive is not None:
        raise SpecError(
            "certificates of layouts that survive failures cannot be re-checked",
            "planner verify checks the layout, its failures too",
        )
    broken = verify(layout)
    case = _recheck_case(layout, certificate)
    found = recheck(Phase(layout.inputs.phase), case)
    stated = certificate.objective
    if abs(stated - case.objective_value) > _ROUNDING * case.objective_value:
        broken += (
            f"certificate: objective {stated!r} does not follow from the decisions, which give "
            f"{case.objective_value!r}",
        )
    broken += tuple(count_violations(certificate))
    return Recheck(
        **{name: getattr(found, name) for name in found.__struct_fields__ if name != "violations"},
        violations=broken + found.violations,
    )


def _recheck_case(layout: Layout, certificate: Certificate) -> RecheckCase:
    inputs = layout.inputs
    case = case_of_layout(layout)
    try:
        limits = {name: read_ranges(text) for name, text in inputs.limits.items()}
        contexts = read_ranges(certificate.space.get("cp", "1")) or frozenset({1})
        sharing = read_ranges(certificate.space.get("attn_tp with cp", ""))
    except ValueError as error:
        raise SpecError(f"inputs.limits: {error}", "write for example 1..4,8") from None
    assignment = assignment_of(layout, case.topology)
    priced = evaluate(
        case.setting, case.topology, assignment, case.loads, inputs.price_usd_per_hour
    )
    found = RecheckCase(
        setting=case.setting,
        topology=case.topology,
        loads=case.loads,
        objective=Objective(inputs.objective),
        limits=limits,
        step_limit_s=step_limit_s(inputs),
        batch=inputs.batch,
        price_usd_per_hour=inputs.price_usd_per_hour,
        objective_value=0.0,
        stated_bound=certificate.bound,
        stated_count=certificate.enumerated,
        contexts=contexts,
        sharing=sharing,
        named=tuple(
            dict.fromkeys(
                degrees_of(record)
                for record in (layout.degrees, *(other.degrees for other in layout.runners_up))
            )
        ),
    )
    value = found.value(priced.step_s, priced.tokens_per_s, float(priced.chips_rented))
    return replace(found, objective_value=value)
