"""Flags of an engine by name: their values with the lines they stand on.

A table says which flags are understood, under which spellings, and whether they take a value.
What it does not know is kept apart: it is told to the user, and a near miss is an error.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from planner.catalog.launch_text import Word
from planner.catalog.yaml_text import YamlFile
from planner.errors import CatalogError

NEAR = 0.88
MAX_NUMBER = 10**9


@dataclass(frozen=True, kw_only=True, slots=True)
class FlagTable:
    """Flags that are understood.

    Parameters
    ----------
    valued, switches : mapping
        Spelling to canonical name, both with leading dashes; of flags with and without value.
    ignored : frozenset of str
        Flags that are known and change nothing that is priced.
    others : frozenset of str
        Flags of the engine that are not understood, but look like some that are.
    """

    valued: Mapping[str, str]
    switches: Mapping[str, str]
    ignored: frozenset[str] = frozenset()
    others: frozenset[str] = frozenset()

    @property
    def names(self) -> frozenset[str]:
        """All spellings."""
        return frozenset(self.valued) | frozenset(self.switches)


@dataclass(frozen=True, kw_only=True, slots=True)
class Flags:
    """What was given.

    Parameters
    ----------
    values : dict
        Canonical name to value and line; switches have the value ``true``.
    unread : list of str
        Flags that the table does not know.
    """

    file: str
    values: dict[str, Word]
    unread: list[str] = field(default_factory=list)

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def line(self, name: str) -> int | None:
        """Line of a flag."""
        return self.values[name].line if name in self.values else None

    def fail(self, name: str, message: str, remedy: str = "") -> NoReturn:
        """Raise an error about one flag."""
        raise CatalogError(message, file=self.file, line=self.line(name), field=name, remedy=remedy)

    def text(self, name: str) -> str | None:
        """A value as it stands."""
        return self.values[name].text if name in self.values else None

    def switch(self, name: str) -> bool:
        """Whether a switch is on."""
        text = self.text(name)
        return text is not None and text.lower() not in ("false", "0", "off", "no")

    def whole(self, name: str, default: int, minimum: int = 1) -> int:
        """A whole number, or the default where the flag is absent."""
        found = self.optional_whole(name, minimum)
        return default if found is None else found

    def optional_whole(self, name: str, minimum: int = 1) -> int | None:
        """A whole number, or None where the flag is absent."""
        text = self.text(name)
        if text is None:
            return None
        clean = text.strip()
        digits = clean.removeprefix("-")
        if not (digits.isascii() and digits.isdigit()) or len(digits) > 12:
            self.fail(name, f"is {clean[:40]!r}; a whole number is expected")
        if not minimum <= int(clean) <= MAX_NUMBER:
            self.fail(name, f"is {clean}; a whole number of {minimum} or more is expected")
        return int(clean)

    def wholes(self, name: str) -> tuple[int, ...] | None:
        """Numbers that are separated by commas."""
        text = self.text(name)
        if text is None:
            return None
        parts = [part.strip() for part in text.strip("[]").split(",")]
        if not all(part.isascii() and part.isdigit() and len(part) < 10 for part in parts):
            self.fail(name, f"is {text[:40]!r}; numbers with commas between are expected")
        return tuple(int(part) for part in parts)

    def json_object(self, name: str) -> dict[str, Any]:
        """An object in JSON; empty where the flag is absent."""
        text = self.text(name)
        if text is None:
            return {}
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            self.fail(name, f"is {text[:40]!r}; a JSON object is expected")
        return found


def parse_flags(
    words: Sequence[Word], table: FlagTable, file: str
) -> tuple[Flags, tuple[Word, ...]]:
    """Sort words into flags and the rest; ``--max_num_seqs`` is ``--max-num-seqs``.

    Returns
    -------
    (Flags, tuple of Word)
        The flags, and words that belong to none.

    Raises
    ------
    CatalogError
        A flag lacks its value, or is almost one that is understood; names the line.
    """
    found = Flags(file=file, values={})
    rest: list[Word] = []
    at = 0
    while at < len(words):
        word = words[at]
        at += 1
        if not word.text.startswith("-") or word.text.lstrip("-")[:1].isdigit():
            rest.append(word)
            continue
        name, equals, value = word.text.partition("=")
        dotted, dot, member = name.partition(".")
        dotted = dotted.replace("_", "-") if dotted.startswith("--") else dotted
        name = f"{dotted}{dot}{member}"
        positive = name.replace("--no-", "--", 1)
        if name != positive and positive in table.switches:
            found.values[table.switches[positive]] = Word(text="false", line=word.line)
        elif name in table.switches:
            found.values[table.switches[name]] = Word(text=value or "true", line=word.line)
        elif name in table.valued or (member and dotted in table.valued):
            if not equals:
                if at >= len(words):
                    raise CatalogError("has no value", file=file, line=word.line, field=name)
                value = words[at].text
                at += 1
            canonical = table.valued[name if name in table.valued else dotted]
            text = _merged(found.text(canonical), member, value) if member else value
            found.values[canonical] = Word(text=text, line=word.line)
        else:
            if name not in table.ignored:
                _refuse_near(name, table, file, word.line)
                found.unread.append(name)
            while not equals and at < len(words) and not words[at].text.startswith("-"):
                at += 1
    return found, tuple(rest)


def _merged(before: str | None, member: str, value: str) -> str:
    """``--eplb-config.step_interval 100`` as a member of the JSON object."""
    own = {} if before is None else json.loads(before)
    try:
        own[member] = json.loads(value)
    except ValueError:
        own[member] = value
    return json.dumps(own)


def _refuse_near(name: str, table: FlagTable, file: str, line: int) -> None:
    near = difflib.get_close_matches(name, sorted(table.names), n=1, cutoff=NEAR)
    if near and name not in table.others:
        raise CatalogError(
            "is not a known flag",
            file=file,
            line=line,
            field=name,
            remedy=f"did you mean {near[0]}?",
        )


def flags_of_yaml(found: YamlFile, table: FlagTable) -> Flags:
    """A YAML of long flag names, as ``--config`` of an engine takes it.

    Raises
    ------
    CatalogError
        It is no mapping, or a key is almost one that is understood.
    """
    if not isinstance(found.root, dict):
        raise CatalogError(
            "is no mapping of flags", file=found.file, line=1, remedy="write key: value"
        )
    flags = Flags(file=found.file, values={})
    for key, value in found.root.items():
        name = "--" + str(key).replace("_", "-")
        line = found.line(key)
        canonical = table.valued.get(name) or table.switches.get(name)
        if canonical is None and name in table.ignored:
            continue
        if canonical is None:
            _refuse_near(name, table, found.file, line)
            flags.unread.append(name)
            continue
        if isinstance(value, bool):
            text = "true" if value else "false"
        else:
            text = value if isinstance(value, str) else json.dumps(value)
        flags.values[canonical] = Word(text=text, line=line)
    return flags
