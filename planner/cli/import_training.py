"""``planner import`` of training runs."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from planner.cli.options import to_sizing
from planner.domain.deployment import Engine
from planner.domain.dtypes import DType
from planner.domain.training import TrainQuestion
from planner.errors import SpecError
from planner.units import parse_seconds, parse_usd

if TYPE_CHECKING:
    from planner.catalog.deployed import DeployedTraining

# Options of serving; they would change nothing here.
_FOREIGN = (
    *("context", "hosts", "tpot", "kv", "loads", "acceptance", "input", "output", "ttft"),
    "prefix_hit",
)


def import_training(
    file: str | None, engine: Engine, as_json: bool, values: dict[str, Any]
) -> bytes:
    """Print what is found; returns the layout's file.

    Raises
    ------
    SpecError, CatalogError
        An option does not apply, or the run cannot be read or priced.
    """
    from planner.deployment.train_compare import compare_training, deploy_training
    from planner.export.train_file import train_layout_json

    for name in _FOREIGN:
        if values[name]:
            option = "--" + name.replace("_", "-")
            raise SpecError(f"{option} does not apply to training", "leave it out")
    if values["objective"] != "throughput":
        raise SpecError("--objective does not apply to training", "leave it out")
    found = _read(file, engine, values["flags"])
    question = _question(found, values)
    current = deploy_training(found.told, question)
    compared = None
    if not values["no_compare"]:
        from planner.domain.workload import Objective
        from planner.report.progress import search_line
        from planner.search.objective import UNITS

        with search_line(sys.stderr, UNITS[Objective.LATENCY]) as progress:
            compared = compare_training(current, found.told, question, progress)
    if as_json:
        from planner.cli.show import print_bytes
        from planner.export.deployment_record import training_run_record
        from planner.export.layout_file import record_json

        record = training_run_record(
            found.file, engine.value, current.layout, found.unread, compared
        )
        print_bytes(record_json(record))
        return train_layout_json(current.layout)
    from planner.report.train_deployment_text import (
        show_training_comparison,
        show_training_run,
    )

    show_training_run(found.file, engine.value, current.layout, found.unread, sys.stdout)
    if compared is None:
        from planner.report.train_text import show_train_layout

        show_train_layout(current.layout, sys.stdout)
    else:
        show_training_comparison(compared, engine.value, sys.stdout)
    return train_layout_json(current.layout)


def _read(file: str | None, engine: Engine, flags: str | None) -> DeployedTraining:
    from planner.catalog.deployed_maxtext import read_maxtext
    from planner.catalog.deployed_megatron import read_megatron
    from planner.catalog.deployed_torchtitan import read_torchtitan

    readers = {
        Engine.MEGATRON: read_megatron,
        Engine.TORCHTITAN: read_torchtitan,
        Engine.MAXTEXT: read_maxtext,
    }
    return readers[engine](file or "--flags", flags)


def _question(found: DeployedTraining, values: dict[str, Any]) -> TrainQuestion:
    if values["model"] is None:
        raise SpecError(
            "--model is missing: the flags name no model of the catalogue",
            "write for example --model llama-3.1-70b",
        )
    gap, price, limit = values["gap"], values["price"], values["time_limit"]
    if not 0 <= gap < 1:
        raise SpecError(f"--gap: {gap} is not in [0, 1)", "write for example 0.005")
    weights, activations = values["weights"], values["activations"]
    return TrainQuestion(
        model=values["model"],
        machine=values["machine"],
        global_batch=found.told.global_batch,
        seq_len=found.told.seq_len,
        sizing=to_sizing(values),
        weights=None if weights is None else DType(weights),
        activations=None if activations is None else DType(activations),
        price_usd_per_hour=None if price is None else parse_usd(price, "--price"),
        gap=gap,
        time_limit_s=None if limit is None else parse_seconds(limit, "--time-limit"),
    )
