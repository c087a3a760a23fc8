"""Library of plans with separate prefill and decode pools: search, check, price anew."""

from __future__ import annotations

from planner.domain.serve import Demand, ServeQuestion
from planner.serve_api.plan import evaluate_pools, plan_pools, verify_pools

__all__ = ["Demand", "ServeQuestion", "evaluate_pools", "plan_pools", "verify_pools"]
