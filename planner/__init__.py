"""Certified layouts of large language models on real machines.

The facade is lazy: ``import planner`` reads nothing heavy until a name is used.

>>> from planner import Question, plan
>>> layout = plan(Question(model="deepseek-v3", machine="gb200-nvl72", context_tokens=8192))
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from planner.version import VERSION as __version__

if TYPE_CHECKING:
    from planner.api import (
        evaluate,
        evaluate_layout,
        load_model,
        plan,
        verify,
    )
    from planner.diff_api import diff
    from planner.domain.hardware import Sizing, Wounds
    from planner.domain.layout import Layout
    from planner.domain.outcome import Infeasible
    from planner.domain.question import DegreeLimits, Question
    from planner.domain.serve import Demand, ServeQuestion
    from planner.errors import CatalogError, ModelBugError, PlannerError, SpecError
    from planner.machine_api import load_topology
    from planner.replan_api import Changes, ReplanQuestion, replan
    from planner.run_api import EstimateKind, RunEstimate, RunQuestion, estimate
    from planner.serve_api import plan_pools, verify_pools
    from planner.studies.compare import compare
    from planner.studies.compare_train import compare_training
    from planner.studies.curve import curve
    from planner.studies.frontier import frontier
    from planner.studies.sensitivity import sensitivity
    from planner.verify_api import verify_certificate

_HOMES = {
    "compare": "planner.studies.compare",
    "compare_training": "planner.studies.compare_train",
    "curve": "planner.studies.curve",
    "frontier": "planner.studies.frontier",
    "sensitivity": "planner.studies.sensitivity",
    "estimate": "planner.run_api",
    "diff": "planner.diff_api",
    "evaluate": "planner.api",
    "evaluate_layout": "planner.api",
    "load_model": "planner.api",
    "load_topology": "planner.machine_api",
    "plan": "planner.api",
    "replan": "planner.replan_api",
    "plan_pools": "planner.serve_api",
    "verify_pools": "planner.serve_api",
    "Demand": "planner.domain.serve",
    "ServeQuestion": "planner.domain.serve",
    "Changes": "planner.replan_api",
    "ReplanQuestion": "planner.replan_api",
    "verify": "planner.api",
    "verify_certificate": "planner.verify_api",
    "Layout": "planner.domain.layout",
    "Infeasible": "planner.domain.outcome",
    "DegreeLimits": "planner.domain.question",
    "Question": "planner.domain.question",
    "Sizing": "planner.domain.hardware",
    "Wounds": "planner.domain.hardware",
    "EstimateKind": "planner.run_api",
    "RunEstimate": "planner.run_api",
    "RunQuestion": "planner.run_api",
    "CatalogError": "planner.errors",
    "ModelBugError": "planner.errors",
    "PlannerError": "planner.errors",
    "SpecError": "planner.errors",
}

__all__ = [
    "CatalogError",
    "Changes",
    "DegreeLimits",
    "Demand",
    "EstimateKind",
    "Infeasible",
    "Layout",
    "ModelBugError",
    "PlannerError",
    "Question",
    "ReplanQuestion",
    "RunEstimate",
    "RunQuestion",
    "ServeQuestion",
    "Sizing",
    "SpecError",
    "Wounds",
    "__version__",
    "compare",
    "compare_training",
    "curve",
    "diff",
    "estimate",
    "evaluate",
    "evaluate_layout",
    "frontier",
    "load_model",
    "load_topology",
    "plan",
    "plan_pools",
    "replan",
    "sensitivity",
    "verify",
    "verify_certificate",
    "verify_pools",
]


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'planner' has no attribute '{name}'")
