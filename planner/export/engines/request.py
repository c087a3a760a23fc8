"""What an exporter is asked for, beside the layout."""

from __future__ import annotations

import re
from dataclasses import dataclass

from planner.deployment.express import Expressed
from planner.domain.deployment import CHECKED_VERSIONS, Engine, ServingDeployment
from planner.domain.dtypes import DType
from planner.errors import SpecError

_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportOptions:
    """Choices that no layout makes.

    Parameters
    ----------
    version : str, optional
        Of the engine; the newest that was checked when absent.
    model_path : str, optional
        What the engine loads; the model's public name when absent.
    max_context : int, optional
        Tokens of the longest sequence.
    draft_model : str, optional
        What drafts, where the model does not.
    hosts : tuple of str
        Names of the hosts in the machine's order; those of the machine file when empty.
    image : str
        Container of a Kubernetes manifest.
    """

    version: str | None = None
    model_path: str | None = None
    max_context: int | None = None
    draft_model: str | None = None
    hosts: tuple[str, ...] = ()
    image: str = "IMAGE"

    @property
    def hosts_line(self) -> tuple[str, ...]:
        """What the launch lines say of names that are not the user's."""
        if self.hosts:
            return ()
        return ("hosts are named as the machine's file names them; --hosts gives yours",)


@dataclass(frozen=True, kw_only=True, slots=True)
class ServingExport:
    """Everything that the writer of a serving engine needs."""

    engine: Engine
    version: tuple[int, ...]
    model_path: str
    told: ServingDeployment
    expressed: Expressed
    all_to_all: bool
    nvidia: bool

    def file(self, name: str) -> str:
        """A file of this pool: ``experts.json`` is ``experts-prefill.json`` of prefill."""
        if self.told.role is None:
            return name
        stem, dot, end = name.partition(".")
        return f"{stem}-{self.told.role.value}{dot}{end}"


def version_of(target: str, text: str | None) -> tuple[tuple[int, ...], str, str]:
    """Numbers of a version, its text, and a note where it was not checked.

    Raises
    ------
    SpecError
        It has no number.
    """
    checked = CHECKED_VERSIONS[target]
    if text is None:
        text = checked[-1]
    numbers = tuple(int(part) for part in _NUMBER.findall(text)[:4])
    if not numbers or len(text) > 40:
        raise SpecError(
            f"--engine-version: cannot read '{text[:40]}'", f"checked: {', '.join(checked)}"
        )
    note = ""
    if text not in checked:
        note = f"version {text} was not checked; flags are those of {', '.join(checked)}"
    return numbers, text, note


# Formats of the cache by the names of each engine.
KV_NAMES: dict[Engine, dict[DType, str]] = {
    Engine.VLLM: {
        DType.BF16: "bfloat16",
        DType.FP16: "float16",
        DType.FP8: "fp8",
        DType.INT8: "int8_per_token_head",
        DType.NVFP4: "nvfp4",
    },
    Engine.SGLANG: {
        DType.BF16: "bfloat16",
        DType.FP8: "fp8_e4m3",
        DType.MXFP8: "mxfp8",
        DType.NVFP4: "nvfp4",
    },
    Engine.TRTLLM: {DType.BF16: "auto", DType.FP8: "fp8", DType.NVFP4: "nvfp4"},
}
