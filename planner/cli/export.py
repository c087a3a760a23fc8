"""``planner export``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from planner.domain.deployment import CHECKED_VERSIONS, SERVING_ENGINES, Engine, ExpertFormat
from planner.errors import SpecError

if TYPE_CHECKING:
    from planner.domain.layout import Layout
    from planner.export.artifact import Artifact
    from planner.export.engines.request import ExportOptions

TARGETS = (*(engine.value for engine in Engine), *(form.value for form in ExpertFormat))
_VERSIONS = "; ".join(f"{name} {', '.join(CHECKED_VERSIONS[name])}" for name in TARGETS)
_ONLY_ENGINES = ("max_context", "draft_model", "hosts")


@click.command("export")
@click.argument("layout")
@click.option("--to", "target", type=click.Choice(TARGETS), required=True, help="What to write.")
@click.option(
    "--engine-version",
    "version",
    metavar="VERSION",
    help=f"Whose flags to write; the newest if absent. Checked: {_VERSIONS}.",
)
@click.option(
    "--write",
    "folder",
    metavar="DIR",
    help="Write all files: launch lines, host and rank files, Kubernetes manifest, expert map, "
    "layout as exported.",
)
@click.option("--model-path", metavar="PATH", help="What the engine loads.")
@click.option("--max-context", metavar="TOKENS", help="Longest sequence, e.g. 32k.")
@click.option("--draft-model", metavar="PATH", help="What drafts, where the model does not.")
@click.option(
    "--hosts", metavar="FILE", help="Names of the hosts, one per line, in the machine's order."
)
@click.option("--image", default="IMAGE", metavar="NAME", help="Container of the manifest.")
@click.option(
    "--model", metavar="MODEL", help="experts-*: the model of a placement, which numbers layers."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON: notes, chips and all files.")
def command(layout: str, target: str, folder: str | None, as_json: bool, **values: Any) -> int:
    """Write a layout as the launch configuration of an engine.

    LAYOUT is a file of 'planner plan -o'; for experts-* also one of 'planner experts -o'. What an
    engine cannot express is said on stderr and in the file, with the nearest layout that it can
    and what that costs.

    Example: planner export layout.json --to sglang --write run

    Example: planner export placement.json --to experts-trtllm --model deepseek-v3
    """
    from planner.export.artifact import check_folder

    if folder is not None:
        check_folder(folder)
    if target in (form.value for form in ExpertFormat):
        found = _experts(layout, ExpertFormat(target), values)
    else:
        if values["model"] is not None:
            raise SpecError("--model belongs to experts-*", "a layout names its own model")
        engine, options = Engine(target), _options(values)
        export = _serving if engine in SERVING_ENGINES else _training
        found = export(layout, engine, options)
    return _show(found, folder, as_json)


def _options(values: dict[str, Any]) -> ExportOptions:
    from planner.catalog.hosts import read_hosts
    from planner.export.engines.request import ExportOptions
    from planner.units import parse_tokens

    longest, hosts = values["max_context"], values["hosts"]
    return ExportOptions(
        version=values["version"],
        model_path=values["model_path"],
        max_context=None if longest is None else parse_tokens(longest, "--max-context"),
        draft_model=values["draft_model"],
        hosts=() if hosts is None else read_hosts(hosts),
        image=values["image"],
    )


def _serving(layout: str, engine: Engine, options: ExportOptions) -> Artifact:
    from planner.export.layout_file import read_layout
    from planner.export.serve_file import is_serve_layout, read_serve_layout
    from planner.export.serving_export import export_serving
    from planner.export.train_file import is_train_layout

    if is_serve_layout(layout):
        from planner.export.pools_export import export_pools

        return export_pools(read_serve_layout(layout), engine, options)
    if is_train_layout(layout):
        raise SpecError(
            f"--to {engine.value} serves, the layout trains", "--to megatron, torchtitan or maxtext"
        )
    return export_serving(read_layout(layout), engine, options)


def _training(layout: str, engine: Engine, options: ExportOptions) -> Artifact:
    from planner.export.layout_file import read_layout
    from planner.export.train_file import is_train_layout, read_train_layout
    from planner.export.training_export import export_training

    if not is_train_layout(layout):
        read_layout(layout)
        raise SpecError(
            f"--to {engine.value} trains, the layout serves", "--to vllm, sglang or trtllm"
        )
    return export_training(read_train_layout(layout), engine, options)


def _experts(layout: str, target: ExpertFormat, values: dict[str, Any]) -> Artifact:
    from planner.api import case_of_layout, load_model
    from planner.export.experts_export import export_experts
    from planner.export.placement_read import is_placement, map_of_layout, map_of_placement

    for name in _ONLY_ENGINES:
        if values[name] is not None:
            option = "--" + name.replace("_", "-")
            raise SpecError(f"{option} does not apply to {target.value}", "leave it out")
    model = values["model"]
    if is_placement(layout):
        found = map_of_placement(layout, None if model is None else load_model(model))
    elif model is not None:
        raise SpecError("--model belongs to placements", "a layout names its own model")
    else:
        read = _decoding(layout)
        found = map_of_layout(read, case_of_layout(read).setting.model)
    return export_experts(found, target, values["version"])


def _decoding(path: str) -> Layout:
    """A decode layout, or the decode pool of two."""
    from planner.export.layout_file import read_layout
    from planner.export.serve_file import is_serve_layout, read_serve_layout

    if not is_serve_layout(path):
        return read_layout(path)
    from planner.deployment.pools import pool_layout
    from planner.domain.deployment import PoolRole

    return pool_layout(read_serve_layout(path), PoolRole.DECODE)


def _show(found: Artifact, folder: str | None, as_json: bool) -> int:
    from planner.cli.show import print_bytes
    from planner.export.artifact import artifact_record, write_folder
    from planner.export.layout_file import record_json

    if folder is not None:
        write_folder(folder, found)
    if as_json:
        print_bytes(record_json(artifact_record(found)))
    elif folder is None:
        print_bytes(found.files[0][1])
    for note in found.notes:
        click.echo(f"note: {note}", err=True)
    if folder is not None:
        names = ", ".join(name for name, _ in found.files)
        click.echo(f"wrote {folder}: {names}", err=True)
    return 0
