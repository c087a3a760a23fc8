"""Machine files: the catalogue of machines and the user's own files.

A file is TOML; ``extends = "h100-hgx"`` starts from another machine and overrides some of
its numbers, each with its own source. See ``topologies/`` for the format by example.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec

from planner.catalog.machine_build import to_spec
from planner.catalog.machine_file import FieldProblem, check_ranges, split_sources
from planner.catalog.machine_size import check_default_size
from planner.catalog.machine_tables import MachineTable
from planner.catalog.toml_text import parse_toml, read_text
from planner.domain.hardware import MachineSpec, Source
from planner.errors import CatalogError, SpecError

_PACKAGE = Path(__file__).resolve().parent.parent
_AS_OF = re.compile(r"20\d\d-(0[1-9]|1[0-2])")
_AT = re.compile(r"(?P<what>.*?)(?: - at `\$\.?(?P<field>.*)`)?", re.DOTALL)
_QUOTED = re.compile(r"`([^`]+)`")
_HEADER = re.compile(r"\s*\[\s*([^\[\]]+?)\s*\]\s*(#.*)?")
_MAX_EXTENDS = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class _File:
    """One parsed file of a chain of ``extends``, most specific first."""

    label: str
    text: str
    plain: dict[str, Any]
    sources: tuple[Source, ...]


def _catalogue() -> Path:
    # An editable install has no copy inside the package: the repository's folder is it.
    inside = _PACKAGE / "topologies"
    return inside if inside.is_dir() else _PACKAGE.parent / "topologies"


def machine_names() -> tuple[str, ...]:
    """Names of the machines of the catalogue, in alphabetical order."""
    return _names_in(_catalogue())


@lru_cache(maxsize=2)
def _names_in(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(path.stem for path in folder.glob("*.toml")))


def _locate(name_or_path: str, relative_to: Path | None) -> tuple[Path, str]:
    """The file that a name or path means, and how to call it in messages."""
    if name_or_path in machine_names():
        return _catalogue() / f"{name_or_path}.toml", f"topologies/{name_or_path}.toml"
    path = Path(name_or_path)
    if relative_to is not None and not path.is_absolute():
        path = relative_to / path
    looks_like_path = name_or_path.endswith(".toml") or any(c in name_or_path for c in "/\\")
    if looks_like_path or path.exists():
        return path, str(path) if relative_to is not None else name_or_path
    names = machine_names()
    near = difflib.get_close_matches(name_or_path.lower(), names, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise SpecError(
        f"unknown machine '{name_or_path}'",
        f"{hint}known machines: {', '.join(names)}; or the path of a .toml file",
    )


def _find_line(text: str, field: str) -> int | None:
    """Line of a dotted field, or of the innermost table around it."""
    table = ""
    best: tuple[int, int] | None = None
    for number, line in enumerate(text.splitlines(), start=1):
        header = _HEADER.fullmatch(line)
        if header is not None:
            table = header.group(1)
            here = table
        else:
            key = line.partition("=")[0].strip() if "=" in line else ""
            if not key or key.startswith("#"):
                continue
            here = f"{table}.{key}" if table else key
        if field == here or (field.startswith(f"{here}.") and header is not None):
            depth = here.count(".") + 1
            if best is None or depth > best[0]:
                best = (depth, number)
    return None if best is None else best[1]


def _complain(problem: FieldProblem, chain: Sequence[_File]) -> CatalogError:
    """Name the file and line that are to blame: the most specific file that has the field."""
    lines = [(file, _find_line(file.text, problem.field)) for file in chain]
    file, line = next((pair for pair in lines if pair[1] is not None), (chain[0], None))
    return CatalogError(
        problem.message, file=file.label, field=problem.field, line=line, remedy=problem.remedy
    )


def _with_mixed_chips(plain: dict[str, Any], path: Path) -> dict[str, Any]:
    """Replace the name of a machine in ``mix`` by the chip of that machine.

    Its own mix does not matter and is not followed.
    """
    mix = plain.get("mix")
    if not isinstance(mix, list):
        return plain
    resolved = []
    for item in mix:
        name = item.get("chip") if isinstance(item, dict) else None
        if isinstance(name, str):
            try:
                _, merged, _ = _resolve_from(*_locate(name, path.parent), follow_mix=False)
            except SpecError as error:
                raise FieldProblem("mix.chip", error.message, error.remedy) from None
            resolved.append({**item, "chip": merged.get("chip")})
        else:
            resolved.append(item)
    return {**plain, "mix": resolved}


def _read_file(path: Path, label: str, follow_mix: bool) -> tuple[_File, str | None]:
    text = read_text(path, label, f"known machines: {', '.join(machine_names())}")
    data = parse_toml(text, label)
    blank = _File(label=label, text=text, plain={}, sources=())
    try:
        extends = data.pop("extends", None)
        if extends is not None and not isinstance(extends, str):
            raise FieldProblem("extends", "must be the name or the path of a machine")
        as_of = data.pop("as_of", "" if extends else None)
        if as_of != "" and (not isinstance(as_of, str) or not _AS_OF.fullmatch(as_of)):
            raise FieldProblem(
                "as_of", "must be the month the sources were read", 'write as_of = "2026-11"'
            )
        # What a user changes in a shipped machine is its own source.
        own = f"given in {label}" if extends else ""
        plain, sources = split_sources(data, as_of, inherited=own)
        if follow_mix:
            plain = _with_mixed_chips(plain, path)
        else:
            plain.pop("mix", None)
    except FieldProblem as problem:
        raise _complain(problem, [blank]) from None
    return replace(blank, plain=plain, sources=tuple(sources)), extends


def _read_chain(path: Path, label: str, follow_mix: bool) -> list[_File]:
    chain: list[_File] = []
    seen: set[Path] = set()
    while True:
        if path.absolute() in seen:
            raise CatalogError("extends itself", file=label, field="extends")
        if len(chain) > _MAX_EXTENDS:
            raise CatalogError(
                f"is the end of more than {_MAX_EXTENDS} files that extend each other", file=label
            )
        seen.add(path.absolute())
        file, extends = _read_file(path, label, follow_mix)
        file.plain.setdefault("name", path.stem)
        chain.append(file)
        if extends is None:
            return chain
        try:
            path, label = _locate(extends, path.parent)
        except SpecError as error:
            line = _find_line(file.text, "extends")
            raise CatalogError(
                error.message, file=file.label, field="extends", line=line, remedy=error.remedy
            ) from None


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        if isinstance(below, dict) and isinstance(value, dict):
            merged[key] = _merge(below, value)
        else:
            merged[key] = value
    return merged


def _schema_problem(error: msgspec.ValidationError) -> FieldProblem:
    """Put the validator's message into the form of every other complaint."""
    match = _AT.fullmatch(str(error))
    what, field = (match.group("what"), match.group("field") or "") if match else (str(error), "")
    named = _QUOTED.search(what)
    if named is not None and "unknown field" in what:
        return FieldProblem(
            f"{field}.{named.group(1)}".lstrip("."), "is not a known field", "check its spelling"
        )
    if named is not None and "missing required field" in what:
        return FieldProblem(f"{field}.{named.group(1)}".lstrip("."), "is missing")
    # Positions in an array are not fields: point at the array.
    return FieldProblem(field.partition("[")[0], what[:1].lower() + what[1:])


def _resolve(name_or_path: str) -> tuple[list[_File], dict[str, Any], tuple[Source, ...]]:
    """The chain of files, its numbers merged, and the source of each number."""
    return _resolve_from(*_locate(name_or_path, None))


def _resolve_from(
    path: Path, label: str, follow_mix: bool = True
) -> tuple[list[_File], dict[str, Any], tuple[Source, ...]]:
    chain = _read_chain(path, label, follow_mix)
    merged: dict[str, Any] = {}
    sources: dict[str, Source] = {}
    for file in reversed(chain):
        merged = _merge(merged, file.plain)
        sources |= {source.field: source for source in file.sources}
    return chain, merged, tuple(sources[field] for field in sorted(sources))


def _spec(merged: dict[str, Any], sources: tuple[Source, ...]) -> MachineSpec:
    try:
        table = msgspec.convert(merged, MachineTable)
    except msgspec.ValidationError as error:
        raise _schema_problem(error) from None
    check_ranges(merged)
    return check_default_size(to_spec(table, sources))


def load_machine(name_or_path: str) -> MachineSpec:
    """Read a machine of the catalogue, or a file of the user's.

    Parameters
    ----------
    name_or_path : str
        A name of :func:`machine_names`, or the path of a TOML file.

    Returns
    -------
    MachineSpec
        In SI units, at the file's default size.

    Raises
    ------
    SpecError
        The name is not in the catalogue.
    CatalogError
        The file is missing, malformed, has an unknown, missing or impossible field, or a
        number without a source. Names the file, the field and, where known, the line.
    """
    chain, merged, sources = _resolve(str(name_or_path))
    try:
        return _spec(merged, sources)
    except FieldProblem as problem:
        raise _complain(problem, chain) from None


def machine_facts(name_or_path: str) -> dict[str, object]:
    """What the file of a machine says, as plain data that a layout can carry along.

    Returns
    -------
    dict
        The tables of the file with every ``extends`` resolved, in the file's own units,
        and under ``sources`` the source of each number by dotted field.

    Raises
    ------
    SpecError, CatalogError
        As :func:`load_machine`.
    """
    chain, merged, sources = _resolve(str(name_or_path))
    try:
        _spec(merged, sources)
    except FieldProblem as problem:
        raise _complain(problem, chain) from None
    listed = {item.field: {"text": item.text, "as_of": item.as_of} for item in sources}
    return {**merged, "sources": listed}


def machine_from_facts(facts: Mapping[str, object], file: str = "machine facts") -> MachineSpec:
    """The machine that :func:`machine_facts` wrote down.

    Parameters
    ----------
    facts : mapping
        Plain data, for example from a layout file.
    file : str
        What to call it in messages.

    Raises
    ------
    CatalogError
        The facts are not those of a machine.
    """
    merged = {key: value for key, value in facts.items() if key != "sources"}
    try:
        listed = msgspec.convert(facts.get("sources", {}), dict[str, dict[str, str]])
        sources = tuple(
            Source(field=field, text=item.get("text", ""), as_of=item.get("as_of", ""))
            for field, item in sorted(listed.items())
        )
        return _spec(merged, sources)
    except msgspec.ValidationError as error:
        raise CatalogError(str(error), file=file, field="sources") from None
    except FieldProblem as problem:
        raise CatalogError(
            problem.message, file=file, field=problem.field, remedy=problem.remedy
        ) from None
