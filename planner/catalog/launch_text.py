"""Reading launch lines: the words of shell commands, each with the line it stands on."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from planner.catalog.toml_text import read_text
from planner.errors import CatalogError

_ASSIGNMENT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.DOTALL)
_ENDS = frozenset({";", "&&", "||", "|", "&"})
_KEYWORDS = frozenset({"exec", "nohup", "env", "export"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Word:
    """A word and its line, counted from 1."""

    text: str
    line: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ShellCommand:
    """One command: what it sets in its environment, and its words."""

    file: str
    env: dict[str, Word]
    words: tuple[Word, ...]

    @property
    def line(self) -> int:
        """Where it starts."""
        return self.words[0].line if self.words else 1

    def has(self, *names: str) -> bool:
        """Whether a word is one of these, or a path that ends in it."""
        return any(
            word.text == name or word.text.endswith("/" + name)
            for word in self.words
            for name in names
        )


def _logical_lines(text: str) -> Iterator[tuple[int, list[str]]]:
    """Lines that belong together, as their parts and the number of the first."""
    parts: list[str] = []
    start = 1
    for number, line in enumerate(text.splitlines(), start=1):
        if not parts:
            start = number
        if line.endswith("\\"):
            parts.append(line[:-1])
            continue
        yield start, [*parts, line]
        parts = []
    if parts:
        yield start, parts


def _words(file: str, start: int, parts: list[str]) -> list[Word]:
    """Words of one logical line; quotes may span its parts."""
    lexer = shlex.shlex("\n".join(parts), posix=True, punctuation_chars=";&|")
    lexer.whitespace_split = True
    lexer.commenters = "#"
    found: list[Word] = []
    try:
        while True:
            # The lexer has read past a line break when it returns the word before it.
            before = lexer.lineno
            token = lexer.get_token()
            if token is None:
                return found
            found.append(Word(text=token, line=start + before - 1))
    except ValueError as error:
        raise CatalogError(
            f"is not a shell line: {str(error).lower()}",
            file=file,
            line=start,
            remedy="close the quotation",
        ) from None


def split_commands(text: str, file: str) -> tuple[ShellCommand, ...]:
    """Every command of a script.

    Raises
    ------
    CatalogError
        A quotation is not closed; names the line.
    """
    found: list[ShellCommand] = []
    exported: dict[str, Word] = {}
    for start, parts in _logical_lines(text):
        own: list[Word] = []
        for word in [*_words(file, start, parts), Word(text=";", line=start)]:
            if word.text not in _ENDS:
                own.append(word)
                continue
            command = _command(file, own, exported)
            own = []
            if command is not None:
                found.append(command)
    return tuple(found)


def _command(file: str, words: list[Word], exported: dict[str, Word]) -> ShellCommand | None:
    """A command with its environment; assignments alone set that of all that follow."""
    env: dict[str, Word] = {}
    rest = list(words)
    while rest:
        match = _ASSIGNMENT.fullmatch(rest[0].text)
        if match is not None:
            env[match.group(1)] = Word(text=match.group(2), line=rest[0].line)
        elif rest[0].text not in _KEYWORDS:
            break
        del rest[0]
    if not rest:
        exported.update(env)
        return None
    return ShellCommand(file=file, env={**exported, **env}, words=tuple(rest))


def read_commands(path: str) -> tuple[ShellCommand, ...]:
    """Every command of a file.

    Raises
    ------
    CatalogError
        The file is missing, too large, not text, or has a quotation that is not closed.
    """
    text = read_text(Path(path), path, "name a file with launch lines")
    if "\0" in text:
        raise CatalogError("is a binary file", file=path, remedy="name a file with launch lines")
    return split_commands(text, path)
