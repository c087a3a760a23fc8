"""``planner import`` of separate prefill and decode pools."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from planner.cli.import_options import dtype, model_of, ranks_of
from planner.cli.options import to_sizing
from planner.domain.serve import Demand, ServeQuestion
from planner.errors import SpecError
from planner.units import parse_seconds, parse_tokens, parse_usd

if TYPE_CHECKING:
    from planner.catalog.deployed import Deployed


def import_pools(found: Deployed, as_json: bool, values: dict[str, Any]) -> bytes:
    """Print what is found; returns the layout's file.

    Raises
    ------
    SpecError, CatalogError
        An option is missing or does not apply, or the deployment cannot be priced.
    """
    from planner.deployment.pools_compare import compare_pools, read_deployed_pools
    from planner.export.serve_file import serve_layout_json

    assert found.prefill is not None
    question = _question(found, values)
    current = read_deployed_pools((found.prefill, found.told), question, ranks_of(values["hosts"]))
    compared = None
    if not values["no_compare"]:
        from planner.domain.workload import Objective
        from planner.report.progress import search_line
        from planner.search.objective import UNITS

        with search_line(sys.stderr, UNITS[Objective.THROUGHPUT]) as progress:
            compared = compare_pools(current, question, progress)
    if as_json:
        from planner.cli.show import print_bytes
        from planner.export.deployment_record import pools_record
        from planner.export.layout_file import record_json

        print_bytes(record_json(pools_record(found.file, current, found.unread, compared)))
        return serve_layout_json(current.layout)
    from planner.report.pools_deployment_text import (
        show_pools,
        show_pools_comparison,
        show_pools_price,
    )

    show_pools(found.file, current, found.unread, sys.stdout)
    if compared is None:
        show_pools_price(current.layout, sys.stdout)
    else:
        show_pools_comparison(compared, found.told.engine.value, sys.stdout)
    return serve_layout_json(current.layout)


def _question(found: Deployed, values: dict[str, Any]) -> ServeQuestion:
    if values["context"] is not None:
        raise SpecError(
            "--context does not apply to separate pools", "write --input and --output instead"
        )
    if values["objective"] != "throughput":
        raise SpecError("--objective does not apply to separate pools", "leave it out")
    for name, example in (("input", "4k"), ("output", "1k")):
        if values[name] is None:
            raise SpecError(
                f"--{name} is missing: flags do not say how long requests are",
                f"write for example --{name} {example}",
            )
    price, limit, hit = values["price"], values["time_limit"], values["prefix_hit"]
    seconds = {
        name: None if values[name] is None else parse_seconds(values[name], f"--{name}")
        for name in ("ttft", "tpot")
    }
    return ServeQuestion(
        model=model_of(found, values["model"]),
        machine=values["machine"],
        demand=Demand(
            input_len=parse_tokens(values["input"], "--input"),
            output_len=parse_tokens(values["output"], "--output"),
            prefix_hit=hit or 0.0,
            ttft_s=seconds["ttft"],
            tpot_s=seconds["tpot"],
        ),
        sizing=to_sizing(values),
        weights=dtype(values["weights"]),
        activations=dtype(values["activations"]),
        kv=dtype(values["kv"]),
        loads=values["loads"],
        acceptance=values["acceptance"],
        price_usd_per_hour=None if price is None else parse_usd(price, "--price"),
        gap=values["gap"],
        time_limit_s=None if limit is None else parse_seconds(limit, "--time-limit"),
    )
