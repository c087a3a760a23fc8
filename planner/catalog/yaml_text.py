"""Reading YAML with the line of every value, without anything that could run or explode."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from yaml.constructor import SafeConstructor

from planner.catalog.toml_text import read_text
from planner.errors import CatalogError

MAX_BYTES = 16 * 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class YamlFile:
    """A document.

    Parameters
    ----------
    root : Any
        Mappings, lists and scalars.
    lines : dict
        Line of every value by its path of keys and indices.
    """

    file: str
    root: Any
    lines: dict[tuple[str | int, ...], int]

    def line(self, *path: str | int) -> int:
        """Line of a value, or of the nearest one around it."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)

    def fail(self, path: tuple[str | int, ...], message: str, remedy: str = "") -> CatalogError:
        """An error about one value."""
        field = ".".join(str(part) for part in path)
        return CatalogError(
            message, file=self.file, line=self.line(*path), field=field, remedy=remedy
        )


def parse_yaml(text: str, file: str) -> YamlFile:
    """Read a YAML text of one document.

    Raises
    ------
    CatalogError
        It is malformed, has a key twice, an alias, or is nested too deeply; names the line.
    """
    found = parse_documents(text, file)
    if len(found) > 1:
        raise CatalogError(
            "has several documents", file=file, line=found[1].line(), remedy="name one of them"
        )
    return found[0]


def parse_documents(text: str, file: str) -> list[YamlFile]:
    """Read every document of a YAML text; one empty document where there is none.

    Raises
    ------
    CatalogError
        As :func:`parse_yaml`.
    """
    found = []
    try:
        for node in yaml.compose_all(text, Loader=yaml.SafeLoader):
            reading = _Reading(file=file)
            root = None if node is None else reading.value(node, (), node)
            found.append(YamlFile(file=file, root=root, lines=reading.lines))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise CatalogError(
            f"is not valid YAML: {error.problem or error.context}",
            file=file,
            line=None if mark is None else mark.line + 1,
            remedy="correct that line",
        ) from None
    except yaml.YAMLError as error:
        raise CatalogError(f"is not valid YAML: {error}", file=file) from None
    except RecursionError:
        raise CatalogError("is nested too deeply", file=file) from None
    return found or [YamlFile(file=file, root=None, lines={})]


def read_documents(path: str) -> list[YamlFile]:
    """Read every document of a YAML file.

    Raises
    ------
    CatalogError
        As :func:`parse_yaml`, or the file cannot be read.
    """
    return parse_documents(read_text(Path(path), path, "name a YAML file", MAX_BYTES), path)


def read_yaml(path: str) -> YamlFile:
    """Read a YAML file.

    Raises
    ------
    CatalogError
        As :func:`parse_yaml`, or the file cannot be read.
    """
    return parse_yaml(read_text(Path(path), path, "name a YAML file", MAX_BYTES), path)


class _Reading:
    """Turns nodes into plain values, and notes their lines."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.lines: dict[tuple[str | int, ...], int] = {}
        self.seen: set[int] = set()
        self.constructor = SafeConstructor()

    def fail(self, node: yaml.Node, message: str, field: str = "") -> CatalogError:
        line = node.start_mark.line + 1
        return CatalogError(message, file=self.file, line=line, field=field)

    def value(self, node: yaml.Node, path: tuple[str | int, ...], near: yaml.Node) -> Any:
        if path in self.lines:
            raise self.fail(near, "is there twice", str(path[-1]))
        if id(node) in self.seen:
            # A few aliases of aliases would fill any memory.
            raise self.fail(near, "is an alias (*name), which is not read", str(path[-1]))
        self.seen.add(id(node))
        self.lines[path] = node.start_mark.line + 1
        if isinstance(node, yaml.MappingNode):
            found: dict[Any, Any] = {}
            for key_node, own in node.value:
                if not isinstance(key_node, yaml.ScalarNode):
                    raise self.fail(key_node, "is a key that is no word")
                key = self.scalar(key_node)
                step = key if isinstance(key, int | str) else str(key)
                found[key] = self.value(own, (*path, step), key_node)
            return found
        if isinstance(node, yaml.SequenceNode):
            return [self.value(own, (*path, at), node) for at, own in enumerate(node.value)]
        assert isinstance(node, yaml.ScalarNode)
        return self.scalar(node)

    def scalar(self, node: yaml.ScalarNode) -> Any:
        try:
            return self.constructor.construct_object(node)
        except (yaml.YAMLError, ValueError, OverflowError) as error:
            reason = str(error).splitlines()[0]
            raise self.fail(node, f"has a value that cannot be read: {reason}") from None
