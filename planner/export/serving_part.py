"""One pool of workers as launch lines, files and a manifest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from planner.api import case_of_layout
from planner.deployment.express import Expressed, express
from planner.deployment.maps import rows_of
from planner.deployment.ranks import Instance
from planner.deployment.rules import NAMES
from planner.deployment.serving import told_to
from planner.domain.assignment import SlotMap
from planner.domain.deployment import Engine, PoolRole, ServingDeployment
from planner.domain.layout import Layout
from planner.errors import ModelBugError, SpecError
from planner.export.engines.launch import (
    Command,
    Hardware,
    NodeCommand,
    device_env,
    hardware_of,
    with_env,
)
from planner.export.engines.request import KV_NAMES, ExportOptions, ServingExport
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
from planner.export.kubernetes import LEADER, any_worker, leader_worker_set, yaml_text
from planner.topology.graph import Topology


@dataclass(frozen=True, kw_only=True, slots=True)
class ServingPart:
    """Workers that do the same.

    Parameters
    ----------
    first : int
        Number of the first instance: ports and names count on over all pools.
    files : tuple of (str, bytes)
        What the engine and the launcher read beside the launch lines.
    manifest : bytes, optional
        A Kubernetes object, where there can be one.
    """

    expressed: Expressed
    told: ServingDeployment
    instances: tuple[Instance, ...]
    first: int
    commands: tuple[NodeCommand, ...]
    files: tuple[tuple[str, bytes], ...]
    manifest: bytes | None
    notes: tuple[str, ...]


def model_path(layout: Layout, options: ExportOptions) -> str:
    """What the engine loads.

    Raises
    ------
    SpecError
        It could be more than a path in a script or a manifest.
    """
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
    kv = case_of_layout(layout).setting.model.precision.kv
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
    export: ServingExport,
    instances: Sequence[Instance],
    first: int,
    hardware: Hardware,
    hosts: dict[str, int],
) -> Iterator[NodeCommand]:
    for number, own in enumerate(instances, start=first):
        for index, node in enumerate(own.nodes):
            command = _command(export, number, own, index, own.nodes[0].host)
            env = device_env(node, hosts[node.host], hardware)
            yield NodeCommand(
                instance=number, index=index, node=node, command=with_env(command, env)
            )
            if export.engine is Engine.TRTLLM:
                break


def _manifest(
    export: ServingExport, instances: Sequence[Instance], topology: Topology, image: str
) -> tuple[bytes | None, str]:
    """The LeaderWorkerSet, or why there is none."""
    first = instances[0]
    shapes = {(len(own.nodes), own.node_chips) for own in instances}
    if len(shapes) > 1:
        return None, "no LeaderWorkerSet: instances differ in their nodes"
    nodes = len(first.nodes)
    if nodes > 1 and export.engine is Engine.TRTLLM:
        return None, "no LeaderWorkerSet: several nodes of TensorRT-LLM start by MPI or Slurm"
    leader = _command(export, 0, first, 0, LEADER)
    worker = leader
    if nodes > 1:
        worker = any_worker(_command(export, 0, first, 1, LEADER))
    per_domain = max(len(domain) for domain in topology.domains)
    role = "" if export.told.role is None else f"-{export.told.role.value}"
    return leader_worker_set(
        f"planner-{export.engine.value}{role}",
        instances,
        (leader, worker),
        image=image,
        hardware=hardware_of(topology.chip.name),
        one_domain=first.chips <= per_domain and per_domain > first.node_chips,
    ), ""


def _engine_files(
    export: ServingExport, instances: Sequence[Instance]
) -> Iterator[tuple[str, bytes]]:
    if export.engine is Engine.TRTLLM:
        config = trtllm_config(export, instances[0].node_chips)
        yield export.file(CONFIG_FILE), yaml_text(config)
    if export.told.placement is None:
        return
    layout = export.expressed.layout
    case = case_of_layout(layout)
    maps = [SlotMap(layers=m.layers, slots=m.slots) for m in layout.experts]
    found = CanonicalMap(
        rows=rows_of(maps),
        num_experts=case.loads.shape[1],
        num_layers=len(case.setting.model.layers),
    )
    check_map(found, export.engine.value)
    if export.engine is Engine.SGLANG:
        yield export.file(MAP_FILE), sglang_map(found)
    else:
        yield export.file(BALANCER_FILE), trtllm_map(found)


def serving_part(
    layout: Layout,
    engine: Engine,
    version: tuple[int, ...],
    options: ExportOptions,
    pool: tuple[PoolRole | None, int] = (None, 0),
) -> ServingPart:
    """Workers of a layout, as the engine can express them.

    Parameters
    ----------
    pool : (PoolRole or None, int)
        What they do, and the number of the first one.

    Raises
    ------
    SpecError
        The engine cannot express anything near the layout.
    ModelBugError
        The files ask for another number of chips than the layout has.
    """
    role, first = pool
    _cache_is_known(layout, engine)
    drafts = None if role is PoolRole.PREFILL else options.draft_model
    expressed = express(layout, engine, has_draft_model=drafts is not None)
    topology = case_of_layout(expressed.layout).topology
    d = expressed.layout.degrees
    told = told_to(expressed, max_context=options.max_context, draft_model=drafts, role=role)
    hardware = hardware_of(topology.chip.name)
    export = ServingExport(
        engine=engine,
        version=version,
        model_path=model_path(layout, options),
        told=told,
        expressed=expressed,
        # Ranks that share contexts inside TP hold the same tokens: nothing to exchange.
        all_to_all=d.attn_dp > 1,
        nvidia=hardware.domain_label is not None,
    )
    names = host_names(topology.chip_names, options.hosts)
    instances = tuple(renamed(own, names) for own in expressed.instances)
    _count_chips(expressed.layout, told, instances)
    sizes = host_sizes(topology.chip_names, names)
    manifest, refusal = _manifest(export, instances, topology, options.image)
    files = list(_engine_files(export, instances))
    mounted = ", ".join(name for name, _ in files)
    if manifest is not None and mounted:
        refusal = (
            f"containers of the manifest read {mounted} from their working directory: mount it"
        )
    if topology.spec.scale_up.unit != "slice":
        for number, own in enumerate(instances, start=first):
            files.append((export.file(f"hostfile.{number}"), hostfile(own)))
            files.append((export.file(f"rankfile.{number}"), rankfile(own)))
    return ServingPart(
        expressed=expressed,
        told=told,
        instances=instances,
        first=first,
        commands=tuple(_commands(export, instances, first, hardware, sizes)),
        files=tuple(files),
        manifest=manifest,
        notes=(*expressed.notes, *([refusal] if refusal else [])),
    )


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
