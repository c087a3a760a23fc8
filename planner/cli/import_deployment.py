"""``planner import``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from planner.cli.import_options import dtype, model_of, ranks_of
from planner.cli.options import size_options, to_sizing
from planner.domain.deployment import SERVING_ENGINES, Engine
from planner.domain.dtypes import DType
from planner.domain.question import Question
from planner.domain.workload import Objective
from planner.errors import SpecError
from planner.units import parse_seconds, parse_tokens, parse_usd

if TYPE_CHECKING:
    from planner.catalog.deployed import Deployed

_DTYPES = click.Choice([dtype.value for dtype in DType])


@click.command("import")
@click.argument("file", required=False)
@click.option(
    "--from",
    "engine",
    type=click.Choice([engine.value for engine in Engine]),
    required=True,
    help="Whose flags or YAML it is.",
)
@click.option("--flags", metavar="TEXT", help="The flags themselves, in place of a file.")
@click.option("--model", metavar="MODEL", help="Catalogue name or config.json; that of the flags.")
@click.option("--on", "machine", metavar="MACHINE", required=True, help="Where it runs.")
@click.option("--context", metavar="TOKENS", help="Cached tokens per sequence, e.g. 8k.")
@click.option("--input", metavar="TOKENS", help="Separate pools: tokens of a prompt, e.g. 4k.")
@click.option("--output", metavar="TOKENS", help="Separate pools: tokens of an answer.")
@click.option("--prefix-hit", type=float, help="Separate pools: cached share of prompts.")
@click.option("--ttft", metavar="TIME", help="Separate pools: limit of the best ones.")
@click.option(
    "--hosts",
    multiple=True,
    metavar="FILE",
    help="Host or rank file of an instance; hosts in the machine's order if absent; repeatable.",
)
@click.option("--tpot", metavar="TIME", help="Limit of the best layout; what is reached if absent.")
@click.option("--weights", type=_DTYPES, help="Format of the matmul weights.")
@click.option("--activations", type=_DTYPES, help="Format of matmul inputs.")
@click.option("--kv", type=_DTYPES, help="Format of the KV cache; that of the flags if absent.")
@click.option(
    "--loads",
    metavar="FILE",
    help="Tokens of each expert [layers, experts]: JSON, CSV, .npy, .npz, or recorded.",
)
@click.option("--acceptance", type=float, help="Probability that a drafted token is accepted.")
@click.option("--price", metavar="USD", help="Dollars per chip-hour.")
@click.option(
    "--objective",
    type=click.Choice([o.value for o in Objective]),
    default="throughput",
    show_default=True,
    help="What is better.",
)
@click.option("--gap", type=float, default=0.005, show_default=True, help="Gap to prove.")
@click.option("--time-limit", metavar="TIME", help="Stop the search for the best layout early.")
@click.option("--no-compare", is_flag=True, help="Price the deployment; search nothing.")
@size_options
@click.option("-o", "--out", metavar="FILE", help="Write the deployment as a layout to FILE.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(file: str | None, out: str | None, as_json: bool, **values: Any) -> int:
    """Read a deployment, price it, compare it with the best layout and explain the difference.

    FILE holds launch lines, a YAML of flags, a Kubernetes LeaderWorkerSet, or a configuration of
    torchtitan. Where a server runs more sequences than memory holds, as many as fit are priced.

    Example: planner import serve.sh --from vllm --on h800-hgx --nodes 4 --context 8k

    Separate prefill and decode pools are priced together, with --input and --output.

    Example: planner import train.sh --from megatron --model llama-3.1-70b --on h100-hgx --nodes 8

    Example: planner import --from sglang --flags "--tp-size 16 --ep-size 16" --model deepseek-v3
    --on h800-hgx --nodes 2 --context 4k --no-compare -o layout.json
    """
    from planner.export.layout_file import check_writable

    if out is not None:
        check_writable(out)
    if (file is None) == (values["flags"] is None):
        raise SpecError("name a FILE, or write --flags, not both", "for example serve.sh")
    engine = Engine(values["engine"])
    if engine in SERVING_ENGINES:
        content = _serving(file, engine, as_json, values)
    else:
        from planner.cli.import_training import import_training

        content = import_training(file, engine, as_json, values)
    if out is not None:
        from planner.export.layout_file import write_text_atomic

        write_text_atomic(out, content)
        click.echo(f"wrote {out}", err=True)
    return 0


def _serving(file: str | None, engine: Engine, as_json: bool, values: dict[str, Any]) -> bytes:
    """Print what is found; returns the layout's file."""
    from planner.deployment.compare import compare, read_deployment
    from planner.export.layout_file import layout_json

    found = _read(file, engine, values["flags"])
    if found.prefill is not None:
        from planner.cli.import_pools import import_pools

        return import_pools(found, as_json, values)
    for name in ("input", "output", "prefix_hit", "ttft"):
        if values[name] is not None:
            option = "--" + name.replace("_", "-")
            raise SpecError(f"{option} belongs to separate pools", "write --context instead")
    question = _question(found, values)
    current, _, case = read_deployment(found.told, question, ranks_of(values["hosts"]))
    compared = None
    if not values["no_compare"]:
        from planner.report.progress import search_line
        from planner.search.objective import UNITS

        with search_line(sys.stderr, UNITS[question.objective]) as progress:
            compared = compare(current, question, case, progress)
    if as_json:
        from planner.cli.show import print_bytes
        from planner.export.deployment_record import deployment_record
        from planner.export.layout_file import record_json

        record = deployment_record(found.file, current, found.unread, compared)
        print_bytes(record_json(record))
        return layout_json(current.layout)
    from planner.report.deployment_text import show_comparison, show_deployment

    show_deployment(found.file, current, found.unread, sys.stdout)
    if compared is None:
        from planner.report.plan_text import show_layout

        show_layout(current.layout, sys.stdout)
    else:
        show_comparison(compared, sys.stdout)
    return layout_json(current.layout)


def _read(file: str | None, engine: Engine, flags: str | None) -> Deployed:
    from planner.catalog.deployed_sglang import read_sglang
    from planner.catalog.deployed_trtllm import read_trtllm
    from planner.catalog.deployed_vllm import read_vllm

    readers = {Engine.VLLM: read_vllm, Engine.SGLANG: read_sglang, Engine.TRTLLM: read_trtllm}
    return readers[engine](file or "--flags", flags)


def _question(found: Deployed, values: dict[str, Any]) -> Question:
    if values["context"] is None:
        raise SpecError(
            "--context is missing: flags do not say how long sequences are",
            "write for example --context 8k",
        )
    price, limit, tpot = values["price"], values["time_limit"], values["tpot"]
    sizing = to_sizing(values)
    if not 0 <= values["gap"] < 1:
        raise SpecError(f"--gap: {values['gap']} is not in [0, 1)", "write for example 0.005")
    return Question(
        model=model_of(found, values["model"]),
        machine=values["machine"],
        context_tokens=parse_tokens(values["context"], "--context"),
        nodes=sizing.nodes,
        racks=sizing.racks,
        slices=sizing.slices,
        shape=sizing.shape,
        wounds=sizing.wounds,
        tpot_s=None if tpot is None else parse_seconds(tpot, "--tpot"),
        price_usd_per_hour=None if price is None else parse_usd(price, "--price"),
        objective=Objective(values["objective"]),
        loads=values["loads"],
        acceptance=values["acceptance"],
        gap=values["gap"],
        time_limit_s=None if limit is None else parse_seconds(limit, "--time-limit"),
        weights=dtype(values["weights"]),
        activations=dtype(values["activations"]),
        kv=dtype(values["kv"]),
    )
