"""Expert copies as the file of one engine."""

from __future__ import annotations

from planner.domain.deployment import CHECKED_VERSIONS, ExpertFormat
from planner.export.artifact import Artifact
from planner.export.engines.request import version_of
from planner.export.expert_maps import (
    FILE_NAMES,
    VLLM_NOTE,
    WRITERS,
    CanonicalMap,
    check_map,
)


def export_experts(
    found: CanonicalMap, target: ExpertFormat, version: str | None = None
) -> Artifact:
    """Write the placement of experts in an engine's own form.

    Raises
    ------
    SpecError
        The map is none that the engine takes, or the version cannot be read.
    """
    check_map(found, target.value)
    _, text, unchecked = version_of(target.value, version)
    notes = [unchecked] if unchecked else []
    if target is ExpertFormat.VLLM:
        notes.append(VLLM_NOTE)
    if target is ExpertFormat.TRTLLM and found.num_layers is None:
        notes.append("layers are numbered as the loads were; --model numbers them as the model")
    return Artifact(
        target=target.value,
        version=text,
        checked=CHECKED_VERSIONS[target],
        files=((FILE_NAMES[target], WRITERS[target](found)),),
        notes=tuple(notes),
        chips=found.ep,
        as_planned=target is not ExpertFormat.VLLM,
    )
