"""A layout of separate prefill and decode pools as the launch configuration of an engine.

How workers find each other:

- SGLang: ``--disaggregation-mode`` of each worker, and a router that knows all of them
  (``docs/advanced_features/pd_disaggregation``);
- TensorRT-LLM: ``cache_transceiver_config`` of each worker, and ``trtllm-serve disaggregated``
  with the addresses of all (``docs/source/features/disagg-serving``);
- vLLM: ``--kv-transfer-config`` with the NIXL connector (``config/kv_transfer.py``); routers are
  other projects.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from planner.api import case_of_layout
from planner.deployment.pools import describe_pools, joined, pool_layout
from planner.deployment.rules import NAMES
from planner.domain.deployment import CHECKED_VERSIONS, Engine, PoolRole
from planner.domain.serve_layout import ServeLayout
from planner.export.artifact import Artifact
from planner.export.engines.launch import Command, launch_text, shell
from planner.export.engines.request import ExportOptions, version_of
from planner.export.engines.sglang import BOOTSTRAP_PORT, SGLANG_PORT
from planner.export.engines.trtllm import TRTLLM_PORT
from planner.export.kubernetes import yaml_text
from planner.export.serve_file import serve_layout_json
from planner.export.serving_part import ServingPart, serving_part
from planner.serve_api import evaluate_pools
from planner.units import format_percent, format_seconds

ROUTER_PORT = 9000
ROUTER_FILE = "disagg.yaml"
VLLM_ROUTER = (
    "a router sends each request to a prefill and then to a decode worker; vLLM has none of its "
    "own: llm-d and Dynamo have"
)
_SAME_PRICE = 1e-9


def _heads(part: ServingPart) -> Iterator[tuple[int, str]]:
    """Number and first host of every worker."""
    for number, own in enumerate(part.instances, start=part.first):
        yield number, own.nodes[0].host


def _router(engine: Engine, parts: Sequence[ServingPart]) -> Command | None:
    """The line that puts both pools behind one address."""
    if engine is Engine.TRTLLM:
        return Command(program=("trtllm-serve", "disaggregated"), flags=(("-c", ROUTER_FILE),))
    if engine is Engine.VLLM:
        return None
    flags: list[tuple[str, ...]] = [("--pd-disaggregation",)]
    for number, host in _heads(parts[0]):
        address = f"http://{host}:{SGLANG_PORT + number}"
        flags.append(("--prefill", address, str(BOOTSTRAP_PORT + number)))
    for number, host in _heads(parts[1]):
        flags.append(("--decode", f"http://{host}:{SGLANG_PORT + number}"))
    flags.append(("--port", str(ROUTER_PORT)))
    program = ("python3", "-m", "sglang_router.launch_router")
    return Command(program=program, flags=tuple(flags))


def _router_file(parts: Sequence[ServingPart]) -> bytes:
    def servers(part: ServingPart) -> dict[str, object]:
        urls = [f"{host}:{TRTLLM_PORT + number}" for number, host in _heads(part)]
        return {"num_instances": len(urls), "urls": urls}

    return yaml_text(
        {
            "hostname": "0.0.0.0",
            "port": ROUTER_PORT,
            "context_servers": servers(parts[0]),
            "generation_servers": servers(parts[1]),
        }
    )


def _differences(planned: ServeLayout, best: ServeLayout) -> Iterator[str]:
    old, new = planned.prediction, best.prediction
    change = new.requests_per_s / old.requests_per_s - 1.0
    if abs(change) <= _SAME_PRICE and abs(new.tpot_s / old.tpot_s - 1.0) <= _SAME_PRICE:
        yield "both pools as exported serve the same, at the same price"
        return
    word = "more" if change > 0 else "fewer"
    yield (
        f"both pools as exported: {describe_pools(best)}: requests/s {old.requests_per_s:.3g} -> "
        f"{new.requests_per_s:.3g}, {format_percent(abs(change))} {word}; first token "
        f"{format_seconds(old.ttft_s)} -> {format_seconds(new.ttft_s)}, token "
        f"{format_seconds(old.tpot_s)} -> {format_seconds(new.tpot_s)}"
    )


def export_pools(layout: ServeLayout, engine: Engine, options: ExportOptions) -> Artifact:
    """Write the configuration of both pools.

    Raises
    ------
    SpecError
        The engine cannot express anything near a pool, or an option cannot be used.
    ModelBugError
        The files ask for another number of chips than the layout has.
    """
    numbers, version, unchecked = version_of(engine.value, options.version)
    layout = evaluate_pools(layout)
    parts: list[ServingPart] = []
    for role in (PoolRole.PREFILL, PoolRole.DECODE):
        first = sum(len(part.instances) for part in parts)
        own = pool_layout(layout, role)
        parts.append(serving_part(own, engine, numbers, options, (role, first)))
    case = case_of_layout(parts[0].expressed.layout)
    as_planned = all(part.expressed.as_planned for part in parts)
    best = layout
    notes = [f"{part.told.role}: {note}" for part in parts for note in part.notes]
    if not as_planned:
        pools = [part.expressed.layout for part in parts]
        best = joined(layout, pools[0], pools[1], case.topology.chip_names)
        notes += _differences(layout, best)
    if engine is Engine.VLLM:
        notes.append(VLLM_ROUTER)
    notes += [unchecked] if unchecked else []
    return Artifact(
        target=engine.value,
        version=version,
        checked=CHECKED_VERSIONS[engine],
        files=tuple(_files(engine, version, parts, (best, [*options.hosts_line, *notes]))),
        notes=tuple(notes),
        chips=sum(part.told.chips for part in parts),
        as_planned=as_planned,
    )


def _files(
    engine: Engine,
    version: str,
    parts: Sequence[ServingPart],
    said: tuple[ServeLayout, Sequence[str]],
) -> Iterator[tuple[str, bytes]]:
    layout, notes = said
    pools = ", ".join(
        f"{len(part.instances)} {part.told.role} workers of {part.instances[0].chips}"
        for part in parts
    )
    inputs = layout.inputs
    title = (
        f"{inputs.model.name} on {inputs.machine.name} with {NAMES[engine]} {version}",
        f"{sum(part.told.chips for part in parts)} chips: {pools}",
        *notes,
    )
    instances = [own for part in parts for own in part.instances]
    commands = [one for part in parts for one in part.commands]
    text = launch_text(title, commands, instances)
    router = _router(engine, parts)
    if router is not None:
        text += f"\n# router\n{shell(router)}\n".encode()
    yield "launch.sh", text
    for part in parts:
        yield from part.files
    if engine is Engine.TRTLLM:
        yield ROUTER_FILE, _router_file(parts)
    manifests = [part.manifest for part in parts if part.manifest is not None]
    if len(manifests) == len(parts):
        yield "lws.yaml", b"---\n".join(manifests)
    yield "layout.json", serve_layout_json(layout)
