"""Library functions about models alone: what ``planner models`` calls."""

from __future__ import annotations

from planner.catalog.model_config import load_model, model_names
from planner.cost.weights import active_params, total_params


def model_rows() -> list[tuple[str, int, int, int, str]]:
    """``(name, total, active, layers, architecture)`` of every model of the catalogue."""
    rows = []
    for name in model_names():
        model = load_model(name)
        active = active_params(model).with_tables
        rows.append((name, total_params(model), active, len(model.layers), model.architecture))
    return rows
