"""Reading deployments: what an engine was started with, as records that all engines share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from planner.catalog.flags import Flags, FlagTable, flags_of_yaml, parse_flags
from planner.catalog.launch_text import ShellCommand, Word, read_commands, split_commands
from planner.catalog.yaml_text import YamlFile, read_documents, read_yaml
from planner.domain.deployment import PoolRole, ServingDeployment, TrainingDeployment
from planner.domain.dtypes import DType
from planner.errors import CatalogError


@dataclass(frozen=True, kw_only=True, slots=True)
class Deployed:
    """A deployment as found.

    Parameters
    ----------
    model : str, optional
        What the engine loads.
    told : ServingDeployment
        The workers; those that decode, where others prefill.
    prefill : ServingDeployment, optional
        Workers that only prefill.
    unread : tuple of str
        Flags that were not understood; nothing is said about their effect.
    """

    file: str
    told: ServingDeployment
    prefill: ServingDeployment | None = None
    model: str | None = None
    unread: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class DeployedTraining:
    """A training run as found; ``unread`` are flags that were not understood."""

    file: str
    told: TrainingDeployment
    unread: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Launch:
    """Flags of one process: what it shares with the others, and its own place.

    ``groups`` is how often a manifest starts it.
    """

    command: ShellCommand
    flags: Flags
    rest: tuple[Word, ...]
    groups: int = 1


# Formats of the cache by the names that engines give them.
KV_FORMATS = {
    "bfloat16": DType.BF16,
    "bf16": DType.BF16,
    "float16": DType.FP16,
    "half": DType.FP16,
    "fp8": DType.FP8,
    "fp8_e4m3": DType.FP8,
    "fp8_e5m2": DType.FP8,
    "fp8_inc": DType.FP8,
    "fp8_ds_mla": DType.FP8,
    "mxfp8": DType.MXFP8,
    "nvfp4": DType.NVFP4,
    "nvfp4_ds_mla": DType.NVFP4,
    "int8_per_token_head": DType.INT8,
}


def kv_format(flags: Flags, name: str) -> DType | None:
    """Format of the cache; None where it is that of the model."""
    text = flags.text(name)
    if text is None or text == "auto":
        return None
    if text not in KV_FORMATS:
        flags.fail(name, f"is {text[:40]!r}, a format that is not known", "auto, bfloat16 or fp8")
    return KV_FORMATS[text]


def is_yaml(path: str) -> bool:
    """Whether a file is YAML by its name."""
    return Path(path).suffix.lower() in (".yaml", ".yml")


def beside(path: str, named: str) -> str:
    """A file that another one names, relative to its folder."""
    place = Path(named)
    return str(place if place.is_absolute() else Path(path).parent / place)


def manifest_commands(found: YamlFile) -> tuple[tuple[ShellCommand, ...], int] | None:
    """Commands of a LeaderWorkerSet, and how many groups there are; None for another YAML.

    Raises
    ------
    CatalogError
        It has no containers.
    """
    root = found.root
    if not isinstance(root, dict) or root.get("kind") != "LeaderWorkerSet":
        return None
    spec = _inside(found, (), "spec")
    template = _inside(found, ("spec",), "leaderWorkerTemplate")
    name = "leaderTemplate" if "leaderTemplate" in template else "workerTemplate"
    path: tuple[str | int, ...] = ("spec", "leaderWorkerTemplate")
    _inside(found, path, name)
    _inside(found, (*path, name), "spec")
    containers = _at(found, (*path, name, "spec")).get("containers")
    path = (*path, name, "spec", "containers")
    if not isinstance(containers, list) or not containers:
        raise found.fail(path, "has no containers")
    groups = spec.get("replicas", 1)
    if not isinstance(groups, int) or groups < 1:
        raise found.fail(("spec", "replicas"), "is no number of groups")
    commands = []
    for index, container in enumerate(containers):
        if isinstance(container, dict):
            commands.append(_container(found, (*path, index), container))
    return tuple(commands), groups


def _container(
    found: YamlFile, path: tuple[str | int, ...], container: dict[str, object]
) -> ShellCommand:
    words: list[Word] = []
    for key in ("command", "args"):
        own = container.get(key) or []
        if not isinstance(own, list):
            raise found.fail((*path, key), "is no list of words")
        words += [
            Word(text=str(text), line=found.line(*path, key, at)) for at, text in enumerate(own)
        ]
    env = {}
    listed = container.get("env") or []
    for at, one in enumerate(listed if isinstance(listed, list) else []):
        if isinstance(one, dict) and "name" in one and "value" in one:
            env[str(one["name"])] = Word(text=str(one["value"]), line=found.line(*path, "env", at))
    if len(words) == 3 and words[1].text in ("-c", "-lc"):
        inner = split_commands(words[2].text, found.file)
        words = [Word(text=w.text, line=words[2].line) for one in inner for w in one.words]
    return ShellCommand(file=found.file, env=env, words=tuple(words))


def _at(found: YamlFile, path: tuple[str | int, ...]) -> dict[str, object]:
    own = found.root
    for step in path:
        own = own[step]
    return own if isinstance(own, dict) else {}


def _inside(found: YamlFile, path: tuple[str | int, ...], key: str) -> dict[str, object]:
    own = _at(found, path).get(key)
    if not isinstance(own, dict):
        raise found.fail((*path, key), "is missing, or no mapping")
    return own


def commands_of(path: str, text: str | None) -> tuple[ShellCommand, ...]:
    """Commands of a file, or of a text that stands for one."""
    return read_commands(path) if text is None else split_commands(text, path)


def launches_of(
    path: str,
    text: str | None,
    is_engine: Callable[[ShellCommand], int | None],
    table: FlagTable,
) -> list[Launch]:
    """Processes of an engine that a file starts.

    Parameters
    ----------
    text : str, optional
        What to read in place of the file: launch lines, or flags alone.
    is_engine : callable
        Position of the first word behind the engine's own, or None for another command.

    Raises
    ------
    CatalogError
        The file cannot be read, or starts no such engine.
    """
    if text is None and is_yaml(path):
        documents = read_documents(path)
        manifests = [manifest_commands(one) for one in documents]
        if manifests[0] is None:
            if len(documents) > 1:
                raise documents[1].fail((), "is a second document", "name one of them")
            flags = flags_of_yaml(documents[0], table)
            command = ShellCommand(file=path, env={}, words=())
            return [Launch(command=command, flags=flags, rest=())]
        commands = [(command, found[1]) for found in manifests if found for command in found[0]]
    else:
        commands = [(command, 1) for command in commands_of(path, text)]
    launches = []
    for command, groups in commands:
        start = is_engine(command)
        if start is None and text is not None and command.words[0].text.startswith("-"):
            start = 0
        if start is not None:
            flags, rest = parse_flags(command.words[start:], table, path)
            launches.append(Launch(command=command, flags=flags, rest=rest, groups=groups))
    if not launches:
        raise CatalogError(
            "starts no such engine", file=path, remedy="name a file with its launch lines or YAML"
        )
    return [_with_config(one, table) for one in launches]


def _with_config(launch: Launch, table: FlagTable) -> Launch:
    """Flags of a ``--config`` file below those of the line, which win."""
    named = launch.flags.text("--config")
    if named is None:
        return launch
    own = flags_of_yaml(read_yaml(beside(launch.command.file, named)), table)
    merged = replace(
        launch.flags,
        values={**own.values, **launch.flags.values},
        unread=[*launch.flags.unread, *own.unread],
    )
    return replace(launch, flags=merged)


def by_role(
    launches: Sequence[Launch], role_of: Callable[[Launch], PoolRole | None], path: str
) -> tuple[list[Launch], list[Launch]]:
    """Processes that decode, or do both, and those that only prefill.

    Raises
    ------
    CatalogError
        Workers of one role lack those of the other, or some have no role.
    """
    roles = [role_of(one) for one in launches]
    if set(roles) == {None}:
        return list(launches), []
    if set(roles) != {PoolRole.PREFILL, PoolRole.DECODE}:
        raise CatalogError(
            "starts workers of one pool only",
            file=path,
            line=launches[0].command.line,
            remedy="name a file that starts both pools",
        )
    pairs = list(zip(launches, roles, strict=True))
    return (
        [one for one, role in pairs if role is PoolRole.DECODE],
        [one for one, role in pairs if role is PoolRole.PREFILL],
    )


def check_agreement(launches: Sequence[Launch], own: frozenset[str]) -> None:
    """All processes must be told the same, but for their places.

    Raises
    ------
    CatalogError
        They differ; names the line.
    """
    first = launches[0].flags
    for other in launches[1:]:
        for name in sorted((set(first.values) | set(other.flags.values)) - own):
            if first.text(name) != other.flags.text(name):
                raise CatalogError(
                    f"differs between launch lines: {first.text(name)!r} and "
                    f"{other.flags.text(name)!r}",
                    file=first.file,
                    line=other.flags.line(name) or other.command.line,
                    field=name,
                    remedy="name a file that starts one deployment",
                )


def variable(launch: Launch, name: str) -> Flags:
    """An environment variable as if it was a flag."""
    word = launch.command.env.get(name)
    return Flags(file=launch.command.file, values={} if word is None else {name: word})
