"""The library behind every command: read, search, check, compose.

Each function answers one question and prints nothing. Paths and names in a
:class:`planner.domain.question.Question` are read here and nowhere deeper.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from planner.catalog.loads import load_routing
from planner.catalog.machines import load_machine, machine_facts, machine_from_facts, resize
from planner.catalog.model_config import load_model, model_facts, model_from_facts, override_precision
from planner.compose import (
    assignment_of,
    batch_records,
    degrees_record,
    expert_records,
    idle_chips,
    rank_records,
    stage_records,
)
from planner.cost.evaluate import evaluate as price_assignment
from planner.cost.memory import RESERVE_FRACTION
from planner.cost.routing import FloatArray, moe_layer_indices, moe_shape, uniform_loads
from planner.cost.step import Setting
from planner.domain.assignment import Assignment
from planner.domain.cost import Prediction
from planner.domain.dtypes import DType
from planner.domain.hardware import MachineSpec, ideal
from planner.domain.layout import (
    SCHEMA_VERSION,
    Inputs,
    Layout,
    MachineInput,
    ModelInput,
    RunnerUp,
)
from planner.domain.model import ModelSpec
from planner.domain.outcome import Infeasible
from planner.domain.question import Question
from planner.domain.workload import Objective, Phase, TimeModel
from planner.errors import ModelBugError, SpecError
from planner.search.request import PlanRequest
from planner.search.validate import Limits, limit_violations, structure_violations
from planner.topology.build import build_topology
from planner.version import VERSION

if TYPE_CHECKING:
    from planner.search.plan import SearchResult
    from planner.topology.graph import Topology
