"""A decode layout as the launch configuration of a serving engine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from planner.api import case_of_layout
from planner.deployment.express import Expressed, express
from planner.deployment.maps import rows_of
from planner.deployment.ranks import Instance
from planner.deployment.rules import NAMES
from planner.deployment.serving import told_to
from planner.domain.assignment import SlotMap
from planner.domain.deployment import CHECKED_VERSIONS, Engine, ServingDeployment
from planner.domain.dtypes import DType
from planner.domain.layout import Layout
from planner.domain.workload import Phase
from planner.errors import ModelBugError, SpecError
from planner.export.artifact import Artifact
from planner.export.engines.launch import (
    Command,
    Hardware,
    NodeCommand,
    device_env,
    hardware_of,
    launch_text,
    with_env,
)
from planner.export.engines.request import (
    KV_NAMES,
    ExportOptions,
    ServingExport,
    version_of,
)
from planner.export.engines.sglang import MAP_FILE, sglang_command
from planner.export.engines.trtllm import (
    BALANCER_FILE,
    CONFIG_FILE,
    trtllm_command,
    trtllm_config,
)
from planner.export.engines.vllm import vllm_command
from planner.export.expert_maps import CanonicalMap, check_map, sglang_map, trtllm_map
from planner.export.hosts_files import host_names, host_sizes, hostfile, rankfile, renamed
from planner.export.kubernetes import INDEX, LEADER, leader_worker_set, yaml_text
from planner.export.layout_file import layout_json
from planner.topology.graph import Topology


def _kv_of(layout: Layout, engine: Engine) -> DType:
    """Format of the cache as planned."""
    return case_of_layout(layout).setting.model.precision.kv


def _is_decode(layout: Layout) -> None:
    if layout.inputs.phase != Phase.DECODE.value:
        raise SpecError(
            f"the layout is one of {layout.inputs.phase}, and an engine decodes",
            "plan with --phase decode",
        )


def _model_path(layout: Layout, options: ExportOptions) -> str:
    meta = layout.inputs.model.config.get("_meta")
    public = meta.get("hf_id") if isinstance(meta, dict) else None
    name = public if isinstance(public, str) else layout.inputs.model.name
    path = name if options.model_path is None else options.model_path
    # Kubernetes would fill in $(...), and a line break would end a line of the script.
    if not path or not path.isprintable() or "$(" in path:
        raise SpecError(f"--model-path: {path[:40]!r} is no path", "write a path or a public name")
    return path


def _cache_is_known(layout: Layout, engine: Engine) -> None:
    """Refuse a format of the cache that the engine has no name for.

    Raises
    ------
    SpecError
        With the formats it has.
    """
    kv = _kv_of(layout, engine)
    known = KV_NAMES[engine]
    if kv not in known:
        raise SpecError(
            f"{NAMES[engine]} has no KV cache in {kv.value}",
            f"plan with --kv {' or '.join(name.value for name in known)}",
        )


def _command(
    export: ServingExport, number: int, own: Instance, index: int, address: str
) -> Command:
    match export.engine:
        case Engine.VLLM:
            return vllm_command(export, own, index, address, number)
        case Engine.SGLANG:
            return sglang_command(export, own, index, address, number)
        case _:
            return trtllm_command(export, own, number)


def _commands(
    export: ServingExport, instances: Sequence[Instance], topology: Topology, hosts: dict[str, int]
) -> Iterator[NodeCommand]:
    hardware = hardware_of(topology.chip.name)
    for number, own in enumerate(instances):
        for index, node in enumerate(own.nodes):
            command = _command(export, number, own, index, own.nodes[0].host)
            env = device_env(node, hosts[node.host], hardware)
            own_command = with_env(command, env)
            yield NodeCommand(instance=number, index=index, node=node, command=own_command)
            if export.engine is Engine.TRTLLM:
                break


def _manifest(
    export: ServingExport,
    instances: Sequence[Instance],
    topology: Topology,
    hardware: Hardware,
    image: str,
) -> tuple[bytes | None, str]:
    """The LeaderWorkerSet, or why there is none."""
    first = instances[0]
    shapes = {(len(own.nodes), own.node_chips) for own in instances}
    if len(shapes) > 1:
        return None, "no LeaderWorkerSet: instances differ in their nodes"
    nodes = len(first.nodes)
    if nodes > 1 and export.engine is Engine.TRTLLM:
        return None, ("no LeaderWorkerSet: several nodes of TensorRT-LLM start by MPI or Slurm")
    leader = _command(export, 0, first, 0, LEADER)
    worker = leader
    if nodes > 1:
        worker = _worker(_command(export, 0, first, 1, LEADER))
    per_domain = max(len(domain) for domain in topology.domains)
    return leader_worker_set(
        f"planner-{export.engine.value}",
        instances,
        (leader, worker),
        image=image,
        hardware=hardware,
        one_domain=first.chips <= per_domain and per_domain > first.node_chips,
    ), ""


def _worker(command: Command) -> Command:
    """The line of node 1 as that of any node but the leader's."""
    flags: list[tuple[str, ...]] = []
    for flag in command.flags:
        if flag[0] == "--node-rank":
            flags.append((flag[0], INDEX))
        elif flag[0] == "--data-parallel-start-rank":
            flags.append((flag[0], f"$((LWS_WORKER_INDEX * {flag[1]}))"))
        else:
            flags.append(flag)
    return replace(command, flags=tuple(flags))


def _canonical(expressed: Expressed) -> CanonicalMap:
    case = case_of_layout(expressed.layout)
    maps = [SlotMap(layers=m.layers, slots=m.slots) for m in expressed.layout.experts]
    return CanonicalMap(
        rows=rows_of(maps),
        num_experts=case.loads.shape[1],
        num_layers=len(case.setting.model.layers),
    )


def export_serving(layout: Layout, engine: Engine, options: ExportOptions) -> Artifact:
    """Write the configuration of a serving engine.

    Raises
    ------
    SpecError
        The engine cannot express anything near the layout, or an option cannot be used.
    ModelBugError
        The files ask for another number of chips than the layout has.
    """
    numbers, version, unchecked = version_of(engine.value, options.version)
    _is_decode(layout)
    _cache_is_known(layout, engine)
    expressed = express(layout, engine, has_draft_model=options.draft_model is not None)
    case = case_of_layout(expressed.layout)
    topology = case.topology
    d = expressed.layout.degrees
    told = told_to(expressed, max_context=options.max_context, draft_model=options.draft_model)
    hardware = hardware_of(topology.chip.name)
    export = ServingExport(
        engine=engine,
        version=numbers,
        model_path=_model_path(layout, options),
        told=told,
        expressed=expressed,
        all_to_all=d.attn_dp * d.cp > 1,
        nvidia=hardware.domain_label is not None,
    )
    names = host_names(topology.chip_names, options.hosts)
    instances = tuple(renamed(own, names) for own in expressed.instances)
    sizes = host_sizes(topology.chip_names, names)
    commands = list(_commands(export, instances, topology, sizes))
    _count_chips(expressed.layout, told, instances)
    notes = [*expressed.notes, *([unchecked] if unchecked else [])]
    manifest, refusal = _manifest(export, instances, topology, hardware, options.image)
    notes += [refusal] if refusal else []
    title = (
        f"{layout.inputs.model.name} on {layout.inputs.machine.name} with {engine.value} {version}",
        f"{told.chips} chips, {len(instances)} x {instances[0].chips}",
        *notes,
    )
    files = [("launch.sh", launch_text(title, commands, instances))]
    files += _engine_files(export, instances)
    if topology.spec.scale_up.unit != "slice":
        for number, own in enumerate(instances):
            files += [(f"hostfile.{number}", hostfile(own)), (f"rankfile.{number}", rankfile(own))]
    if manifest is not None:
        files.append(("lws.yaml", manifest))
    files.append(("layout.json", layout_json(expressed.layout)))
    return Artifact(
        target=engine.value,
        version=version,
        checked=CHECKED_VERSIONS[engine],
        files=tuple(files),
        notes=tuple(notes),
        chips=told.chips,
        as_planned=expressed.as_planned,
    )


def _engine_files(export: ServingExport, instances: Sequence[Instance]) -> list[tuple[str, bytes]]:
    files = []
    if export.engine is Engine.TRTLLM:
        config = trtllm_config(export, instances[0].node_chips)
        files.append((CONFIG_FILE, yaml_text(config)))
    if export.told.placement is not None:
        found = _canonical(export.expressed)
        check_map(found, export.engine.value)
        if export.engine is Engine.SGLANG:
            files.append((MAP_FILE, sglang_map(found)))
        else:
            files.append((BALANCER_FILE, trtllm_map(found)))
    return files


def _count_chips(layout: Layout, told: ServingDeployment, instances: Sequence[Instance]) -> None:
    """Chips of the flags = chips of the nodes = ranks of the layout.

    Raises
    ------
    ModelBugError
        They differ.
    """
    counts = (told.chips, sum(own.chips for own in instances), len(layout.ranks))
    if len(set(counts)) > 1:
        raise ModelBugError(
            f"flags ask for {counts[0]} chips, nodes for {counts[1]}, the layout has {counts[2]}"
        )
