"""A decode layout as the launch configuration of a serving engine."""

from __future__ import annotations

from planner.domain.deployment import CHECKED_VERSIONS, Engine
from planner.domain.layout import Layout
from planner.domain.workload import Phase
from planner.errors import SpecError
from planner.export.artifact import Artifact
from planner.export.engines.launch import launch_text
from planner.export.engines.request import ExportOptions, version_of
from planner.export.layout_file import layout_json
from planner.export.serving_part import serving_part


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
    if layout.inputs.phase != Phase.DECODE.value:
        raise SpecError(
            f"the layout is one of {layout.inputs.phase}, and an engine decodes, too",
            "plan with --phase decode, or --phase serve for pools of both",
        )
    part = serving_part(layout, engine, numbers, options)
    notes = [*part.notes, *([unchecked] if unchecked else [])]
    chips = part.told.chips
    title = (
        f"{layout.inputs.model.name} on {layout.inputs.machine.name} with {engine.value} {version}",
        f"{chips} chips, {len(part.instances)} x {part.instances[0].chips}",
        *options.hosts_line,
        *notes,
    )
    files = [("launch.sh", launch_text(title, part.commands, part.instances)), *part.files]
    if part.manifest is not None:
        files.append(("lws.yaml", part.manifest))
    files.append(("layout.json", layout_json(part.expressed.layout)))
    return Artifact(
        target=engine.value,
        version=version,
        checked=CHECKED_VERSIONS[engine],
        files=tuple(files),
        notes=tuple(notes),
        chips=chips,
        as_planned=part.expressed.as_planned,
    )
