"""Reading launch lines: the words of shell commands, each with the line it stands on."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from planner.catalog.toml_text import read_text
from planner.errors import CatalogError

_ASSIGNMENT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.DOTALL)
_REDIRECTION = re.compile(r"\d*[<>]{1,2}(.*)", re.DOTALL)
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


class _Scanner:
    """Reads shell text character by character: quotes, escapes, comments, ends of commands."""

    def __init__(self, text: str, file: str) -> None:
        self.text = text
        self.file = file
        self.at = 0
        self.line = 1
        self.word: list[str] | None = None
        self.word_line = 1
        self.words: list[Word] = []

    def commands(self) -> Iterator[list[Word]]:
        """Words of one command after another."""
        while self.at < len(self.text):
            if self.step():
                yield self.words
                self.words = []
        self.end_word()
        yield self.words

    def step(self) -> bool:
        """Read one character, or a quotation; whether a command ends there."""
        char = self.text[self.at]
        self.at += 1
        if char == "\\" and self.at < len(self.text):
            self.escape()
        elif char in "'\"":
            self.quotation(char)
        elif char == "#" and self.word is None:
            end = self.text.find("\n", self.at)
            self.at = len(self.text) if end < 0 else end
        elif char == "&" and self.word and self.word[-1] == ">":
            self.add(char)
        elif char in "\n;&|":
            self.end_word()
            self.line += char == "\n"
            return True
        elif char.isspace():
            self.end_word()
        else:
            self.add(char)
        return False

    def add(self, char: str) -> None:
        if self.word is None:
            self.word, self.word_line = [], self.line
        self.word.append(char)

    def escape(self) -> None:
        char = self.text[self.at]
        self.at += 1
        if char == "\n":
            self.line += 1
        else:
            self.add(char)

    def quotation(self, mark: str) -> None:
        start = self.line
        self.add("")
        while self.at < len(self.text):
            char = self.text[self.at]
            self.at += 1
            if char == mark:
                return
            if mark == '"' and char == "\\" and self.text[self.at : self.at + 1] in '"\\$`\n':
                self.escape()
                continue
            self.line += char == "\n"
            self.add(char)
        raise CatalogError(
            "is not a shell line: a quotation is not closed",
            file=self.file,
            line=start,
            remedy=f"close it with {mark}",
        )

    def end_word(self) -> None:
        if self.word is not None:
            self.words.append(Word(text="".join(self.word), line=self.word_line))
        self.word = None


def split_commands(text: str, file: str) -> tuple[ShellCommand, ...]:
    """Every command of a script.

    Raises
    ------
    CatalogError
        A quotation is not closed; names the line.
    """
    exported: dict[str, Word] = {}
    found = (_command(file, words, exported) for words in _Scanner(text, file).commands())
    return tuple(one for one in found if one is not None)


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
    rest = _without_redirections(rest)
    if not rest:
        exported.update(env)
        return None
    return ShellCommand(file=file, env={**exported, **env}, words=tuple(rest))


def _without_redirections(words: list[Word]) -> list[Word]:
    kept: list[Word] = []
    skip = False
    for word in words:
        match = _REDIRECTION.fullmatch(word.text)
        if skip or match is not None:
            skip = match is not None and not match.group(1)
        else:
            kept.append(word)
    return kept


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
