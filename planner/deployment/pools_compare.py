"""How far a deployment of two pools is from the best one, and which flags of each pool differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from planner.deployment.compare import filled
from planner.deployment.express import express
from planner.deployment.flag_view import changed_flags
from planner.deployment.pools import deploy_pools, joined, layout_of_pools, pool_layout
from planner.deployment.serving import Deployment, told_to
from planner.domain.deployment import PoolRole, ServingDeployment
from planner.domain.outcome import Infeasible
from planner.domain.serve import Demand, ServeQuestion
from planner.domain.serve_layout import ServeLayout
from planner.errors import SpecError
from planner.search.control import Progress
from planner.serve_api import plan_pools
from planner.serve_api.case import read_question
from planner.topology.graph import Topology

ALIKE = 1e-9


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolsDeployed:
    """Both pools, priced; prefill first."""

    pools: tuple[Deployment, Deployment]
    layout: ServeLayout
    topology: Topology


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolsComparison:
    """A deployment beside the best layout of two pools.

    Parameters
    ----------
    told : ServeLayout
        The nearest to the best that the engine can express.
    ratio, told_ratio : float
        How many times more tokens per second and chip they yield.
    changes : tuple of (str, str, str, str)
        Pool, flag, value now, value of ``told``.
    """

    current: ServeLayout
    best: ServeLayout
    told: ServeLayout
    ratio: float
    told_ratio: float
    changes: tuple[tuple[str, str, str, str], ...]


def read_deployed_pools(
    pools: tuple[ServingDeployment, ServingDeployment],
    question: ServeQuestion,
    ranks: Sequence[tuple[str, int]] | None = None,
) -> PoolsDeployed:
    """Price both pools of a deployment.

    Parameters
    ----------
    pools : (ServingDeployment, ServingDeployment)
        Workers that prefill, and workers that decode.
    ranks : sequence of (str, int), optional
        Host and device of every rank, prefill workers first.

    Raises
    ------
    SpecError, CatalogError
        The deployment fits neither model nor machine, or a file cannot be read.
    """
    if pools[1].draft and question.acceptance is None:
        raise SpecError(
            f"the deployment drafts {pools[1].draft} tokens: their acceptance is not known",
            "write for example --acceptance 0.8",
        )
    inputs, _ = read_question(replace(question, kv=question.kv or pools[1].kv))
    found, case = deploy_pools(pools, inputs, ranks)
    layout = layout_of_pools(inputs, (found[0].layout, found[1].layout), case)
    return PoolsDeployed(pools=found, layout=layout, topology=case.topology)


def compare_pools(
    current: PoolsDeployed, question: ServeQuestion, progress: Progress | None = None
) -> PoolsComparison:
    """Find the best pools under the same limits: the question's, or what is reached.

    Raises
    ------
    SpecError
        Nothing meets the limits.
    """
    reached = current.layout.prediction
    demand: Demand = replace(
        question.demand,
        ttft_s=question.demand.ttft_s or reached.ttft_s * (1 + ALIKE),
        tpot_s=question.demand.tpot_s or reached.tpot_s * (1 + ALIKE),
    )
    told = current.pools[1].told
    best = plan_pools(replace(question, demand=demand, kv=question.kv or told.kv), progress)
    if isinstance(best, Infeasible):
        raise SpecError(f"no pools meet the limits: {best.message}", "relax --ttft or --tpot")
    expressed = []
    changes: list[tuple[str, str, str, str]] = []
    for role, own in zip((PoolRole.PREFILL, PoolRole.DECODE), current.pools, strict=True):
        found = express(pool_layout(best, role), told.engine, has_draft_model=True)
        expressed.append(found.layout)
        now, then = filled(own, role=role), told_to(found, role=role)
        changes += [(role.value, *one) for one in changed_flags(now, then)]
    goal = joined(best, expressed[0], expressed[1], current.topology.chip_names)
    value = reached.tokens_per_s_per_chip
    return PoolsComparison(
        current=current.layout,
        best=best,
        told=goal,
        ratio=best.prediction.tokens_per_s_per_chip / value,
        told_ratio=goal.prediction.tokens_per_s_per_chip / value,
        changes=tuple(changes),
    )
