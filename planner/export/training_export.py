"""A training layout as the launch configuration of a training engine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from planner.deployment.ranks import Instance
from planner.deployment.train_express import TrainExpressed, express_training, told_training
from planner.domain.deployment import CHECKED_VERSIONS, Engine, TrainingDeployment
from planner.domain.model import ModelSpec
from planner.domain.train_layout import TrainLayout
from planner.errors import ModelBugError, SpecError
from planner.export.artifact import Artifact
from planner.export.engines.launch import (
    Command,
    NodeCommand,
    device_env,
    hardware_of,
    launch_text,
    with_env,
)
from planner.export.engines.maxtext import maxtext_command
from planner.export.engines.megatron import megatron_command
from planner.export.engines.request import ExportOptions, version_of
from planner.export.engines.torchtitan import (
    PYTHON_FILE,
    TOML_FILE,
    precision_note,
    torchtitan_command,
    torchtitan_python,
    torchtitan_toml,
)
from planner.export.hosts_files import host_names, host_sizes, hostfile, rankfile, renamed
from planner.export.kubernetes import LEADER, any_worker, leader_worker_set
from planner.export.train_file import train_layout_json
from planner.topology.graph import Topology
from planner.train_api import training_case

FIRST_PYTHON = (2026,)  # torchtitan whose configurations are Python


def _slices(layout: TrainLayout, topology: Topology) -> int:
    """Nodes, racks or slices that the run uses."""
    place = {name: chip for chip, name in enumerate(topology.chip_names)}
    return len({topology.domain_of(place[name]) for name in layout.chips})


def _command(
    told: TrainingDeployment, model: ModelSpec, own: tuple[Instance, int], index: int, *, old: bool
) -> Command:
    instance, slices = own
    match told.engine:
        case Engine.MEGATRON:
            return megatron_command(told, model, instance, index)
        case Engine.TORCHTITAN:
            return torchtitan_command(instance, index, old=old)
        case _:
            return maxtext_command(told, len(model.layers), slices)


def _commands(
    told: TrainingDeployment,
    model: ModelSpec,
    own: tuple[Instance, int],
    topology: Topology,
    sizes: dict[str, int],
    *,
    old: bool,
) -> Iterator[NodeCommand]:
    hardware = hardware_of(topology.chip.name)
    instance = own[0]
    for index, node in enumerate(instance.nodes):
        command = _command(told, model, own, index, old=old)
        env = device_env(node, sizes[node.host], hardware)
        yield NodeCommand(instance=0, index=index, node=node, command=with_env(command, env))


def _manifest(
    told: TrainingDeployment,
    model: ModelSpec,
    own: tuple[Instance, int],
    topology: Topology,
    options: ExportOptions,
    *,
    old: bool,
) -> bytes:
    """A LeaderWorkerSet of one group, whose pods find the leader by name."""
    instance = own[0]
    named = Instance(nodes=tuple(replace(node, host=LEADER) for node in instance.nodes))
    leader = _command(told, model, (named, own[1]), 0, old=old)
    worker = leader
    if len(named.nodes) > 1:
        worker = any_worker(_command(told, model, (named, own[1]), 1, old=old))
    per_domain = max(len(domain) for domain in topology.domains)
    return leader_worker_set(
        f"planner-{told.engine.value}",
        (instance,),
        (leader, worker),
        image=options.image,
        hardware=hardware_of(topology.chip.name),
        one_domain=instance.node_chips < instance.chips <= per_domain,
    )


def _notes(
    expressed: TrainExpressed, told: TrainingDeployment, options: ExportOptions
) -> list[str]:
    notes = list(expressed.notes)
    if told.engine is Engine.MEGATRON:
        notes.append("MODEL_ARGS of the launch lines are the model's sizes, tokenizer and data")
    if told.engine is Engine.TORCHTITAN:
        found = precision_note(told.activations)
        notes += [found] if found else []
    if told.engine is Engine.MAXTEXT:
        notes.append("every host runs the line; MODEL is MaxText's name of the model")
    return notes


def export_training(layout: TrainLayout, engine: Engine, options: ExportOptions) -> Artifact:
    """Write the configuration of a training engine.

    Raises
    ------
    SpecError
        The engine cannot express anything near the layout, or an option cannot be used.
    ModelBugError
        The files ask for another number of chips than the layout has.
    """
    for value, name in (
        (options.max_context, "--max-context"),
        (options.draft_model, "--draft-model"),
    ):
        if value is not None:
            raise SpecError(f"{name} does not apply to training", "leave it out")
    numbers, version, unchecked = version_of(engine.value, options.version)
    old = engine is Engine.TORCHTITAN and numbers < FIRST_PYTHON
    expressed = express_training(layout, engine, old=old)
    case, _ = training_case(expressed.layout)
    told = told_training(expressed, case.model)
    names = host_names(case.whole.chip_names, options.hosts)
    instance = renamed(expressed.instance, names)
    if not told.chips == instance.chips == len(expressed.layout.chips):
        raise ModelBugError(
            f"flags ask for {told.chips} chips, nodes for {instance.chips}, the layout has "
            f"{len(expressed.layout.chips)}"
        )
    own = (instance, _slices(expressed.layout, case.whole))
    sizes = host_sizes(case.whole.chip_names, names)
    commands = list(_commands(told, case.model, own, case.whole, sizes, old=old))
    if engine is Engine.MAXTEXT:
        commands = commands[:1]
    notes = _notes(expressed, told, options) + ([unchecked] if unchecked else [])
    title = (
        f"{layout.inputs.model.name} on {layout.inputs.machine.name} with {engine.value} {version}",
        f"{told.chips} chips",
        *options.hosts_line,
        *notes,
    )
    files = [("launch.sh", launch_text(title, commands, (instance,)))]
    if engine is Engine.TORCHTITAN:
        own_file = (
            (TOML_FILE, torchtitan_toml(told)) if old else (PYTHON_FILE, torchtitan_python(told))
        )
        files.insert(0, own_file)
    if case.whole.spec.scale_up.unit != "slice":
        files += [("hostfile.0", hostfile(instance)), ("rankfile.0", rankfile(instance))]
    if engine is not Engine.MAXTEXT:
        files.append(("lws.yaml", _manifest(told, case.model, own, case.whole, options, old=old)))
    files.append(("layout.json", train_layout_json(expressed.layout)))
    return Artifact(
        target=engine.value,
        version=version,
        checked=CHECKED_VERSIONS[engine],
        files=tuple(files),
        notes=tuple(notes),
        chips=told.chips,
        as_planned=expressed.as_planned,
    )
