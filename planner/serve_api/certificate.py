"""Re-derives the bound of two pools with code that shares nothing with the search.

Chips are taken as divisible: with ``b`` chip-seconds per token that no worker of a phase beats,

    chips per request and second >= b_p new tokens + b_d decoded tokens

whatever the numbers of workers are. The phases' ``b`` are those of the re-check of single
layouts (:mod:`planner.search.recheck_decode`), of one worker on the same block.

What this proves
----------------
- A bound that is weaker than the one that is stated by what whole workers on whole domains leave
  over, which the result shows next to it.
- Nothing about those remainders: a bound that is stated above the re-derived one is only known
  to be below the objective.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from planner.compose import degrees_of
from planner.domain.layout import Certificate
from planner.domain.ranges import read_ranges
from planner.domain.serve_layout import PoolLayout, ServeLayout
from planner.domain.workload import Objective, Phase
from planner.errors import SpecError
from planner.search.recheck import recheck
from planner.search.recheck_case import Recheck, RecheckCase
from planner.search.recheck_numbers import count_violations
from planner.serve_api.case import PoolCase, case_of_layout, worker_block
from planner.serve_api.plan import evaluate_pools, verify_pools

_ROUNDING = 1e-9
ONE = frozenset({1})


def verify_pools_certificate(layout: ServeLayout) -> Recheck:
    """Re-derive the certificate of a layout.

    Returns
    -------
    Recheck
        ``violations`` also names everything that :func:`planner.serve_api.verify_pools` finds.

    Raises
    ------
    SpecError
        If the layout has no certificate, or its decisions cannot be priced.
    """
    proof = layout.certificate
    if proof is None:
        raise SpecError(
            "the layout has no certificate", "planner plan ... -o layout.json writes one"
        )
    broken = list(verify_pools(layout))
    fresh = evaluate_pools(layout)
    case = case_of_layout(layout)
    demand, topology = case.serve.demand, case.serve.topology
    parts = {
        "prefill": recheck(Phase.PREFILL, _pool_case("prefill", fresh, proof, case)),
        "decode": recheck(Phase.DECODE, _pool_case("decode", fresh, proof, case)),
    }
    per_request = (
        parts["prefill"].rederived_bound * demand.new_tokens
        + parts["decode"].rederived_bound * demand.decoded_tokens
    )
    if demand.rate_per_s is None:
        objective = topology.num_chips / fresh.prediction.requests_per_s
        bound = topology.num_chips / topology.max_used * per_request
    else:
        objective = float(fresh.prediction.chips_used)
        bound = demand.rate_per_s * per_request
    if abs(proof.objective - objective) > _ROUNDING * objective:
        broken.append(
            f"certificate: objective {proof.objective!r} does not follow from the decisions, which "
            f"give {objective!r}"
        )
    if proof.bound > objective * (1 + _ROUNDING):
        broken.append(f"certificate: bound {proof.bound!r} is above the objective {objective!r}")
    strategies = sum(part.strategies for part in parts.values())
    if proof.enumerated > strategies:
        broken.append(
            f"certificate: {proof.enumerated} strategies counted, the space has {strategies}"
        )
    return Recheck(
        objective=objective,
        stated_bound=proof.bound,
        rederived_bound=min(bound, objective),
        strategies=strategies,
        checked=sum(part.checked for part in parts.values()),
        compared=sum(part.compared for part in parts.values()),
        built=sum(part.built for part in parts.values()),
        best_built=None,
        violations=(*broken, *count_violations(proof)),
    )


def _limits(name: str, texts: Mapping[str, str]) -> dict[str, frozenset[int]]:
    try:
        return {axis: read_ranges(text) for axis, text in texts.items()} | {"replicas": ONE}
    except ValueError as error:
        raise SpecError(f"inputs: limits of {name}: {error}", "write for example 1..4,8") from None


def _pool_case(name: str, layout: ServeLayout, proof: Certificate, case: PoolCase) -> RecheckCase:
    """One worker of a pool on a block of sound domains."""
    inputs, serve = layout.inputs, case.serve
    own: PoolLayout = layout.prefill if name == "prefill" else layout.decode
    texts = inputs.prefill_limits if name == "prefill" else inputs.limits
    contexts = _limits(name, {"cp": proof.space.get(f"{name} cp", "1")})["cp"] or ONE
    sharing = _limits(name, {"tp": proof.space.get(f"{name} attn_tp with cp", "")})["tp"]
    workers = own.degrees.replicas
    used = len(own.ranks) / workers
    worker = degrees_of(own.degrees)
    return RecheckCase(
        setting=serve.prefill if name == "prefill" else serve.decode,
        topology=worker_block(serve.topology),
        loads=serve.loads,
        objective=Objective.THROUGHPUT,
        limits=_limits(name, texts),
        step_limit_s=inputs.ttft_s if name == "prefill" else inputs.tpot_s,
        batch=None,
        price_usd_per_hour=None,
        objective_value=used * workers / own.prediction.tokens_per_s,
        stated_bound=0.0,
        stated_count=proof.enumerated,
        contexts=contexts,
        sharing=sharing,
        named=(replace(worker, replicas=1),),
        counts_used=True,
    )
