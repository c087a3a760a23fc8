"""Typed access to one JSON object of a configuration; remembers which keys were read."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NoReturn

from planner.catalog.hf.document import Document, describe, dotted
from planner.catalog.hf.names import DEFAULT_INERT, EFFECT, INERT, INERT_VALUES

# No width, count or rank of a language model comes near; a larger one is a typing error
# and would turn every count into nonsense.
MAX_COUNT = 10**8
MAX_LAYERS = 10_000


class Fields:
    """One JSON object, addressed by key, with errors that name file, line and field.

    A key whose value is null counts as absent. Where several names are given, the first
    that is present wins, and all of them count as read.
    """

    def __init__(
        self, document: Document, values: dict[str, object], path: tuple[str, ...]
    ) -> None:
        """Wrap ``values``, found at ``path`` of ``document``."""
        self.document = document
        self.path = path
        self._values = values
        self._read: set[str] = set()

    def fail(self, name: str, message: str, remedy: str = "") -> NoReturn:
        """Raise a ``CatalogError`` about the field ``name``."""
        self.document.fail((*self.path, name), message, remedy)

    def fail_at(self, name: str, index: int, message: str, remedy: str = "") -> NoReturn:
        """Raise a ``CatalogError`` about one element of the list ``name``."""
        self.document.fail((*self.path, name, index), message, remedy)

    def dotted(self, name: str) -> str:
        """Path of ``name`` inside the file."""
        return dotted((*self.path, name))

    def has(self, *names: str) -> bool:
        """Whether one of ``names`` is present and not null."""
        self._read.update(names)
        return any(self._values.get(name) is not None for name in names)

    def skip(self, *names: str) -> None:
        """Mark ``names`` as known to have no effect in this family."""
        self._read.update(names)

    def optional_count(self, *names: str, minimum: int = 1, maximum: int = MAX_COUNT) -> int | None:
        """Whole number in ``[minimum, maximum]``, or ``None`` if absent."""
        self._read.update(names)
        for name in names:
            value = self._values.get(name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int):
                self.fail(
                    name, f"is {describe(value)}; a whole number is expected", "write digits only"
                )
            if not minimum <= value <= maximum:
                self.fail(
                    name,
                    f"is {describe(value)}; a number from {minimum:,} to {maximum:,} is expected",
                    "check the value against the published config.json",
                )
            return value
        return None

    def count(
        self, *names: str, default: int | None = None, minimum: int = 1, maximum: int = MAX_COUNT
    ) -> int:
        """Whole number in ``[minimum, maximum]``; absent, ``default`` or an error."""
        value = self.optional_count(*names, minimum=minimum, maximum=maximum)
        if value is None:
            value = default
        if value is None:
            self._missing(names)
        return value

    def flag(self, name: str, default: bool) -> bool:
        """``true`` or ``false``."""
        self._read.add(name)
        value = self._values.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            self.fail(name, f"is {describe(value)}; true or false is expected")
        return value

    def text(self, *names: str) -> str | None:
        """A string, or ``None`` if absent."""
        self._read.update(names)
        for name in names:
            value = self._values.get(name)
            if value is None:
                continue
            if not isinstance(value, str):
                self.fail(name, f"is {describe(value)}; a string is expected")
            return value
        return None

    def is_list(self, name: str) -> bool:
        """Whether ``name`` holds a list."""
        return isinstance(self._values.get(name), list)

    def texts(self, name: str, length: int | None = None) -> tuple[str, ...] | None:
        """A list of strings, of ``length`` if given, or ``None`` if absent."""
        items = self._items(name, length)
        if items is None:
            return None
        found = []
        for index, item in enumerate(items):
            if not isinstance(item, str):
                self.fail_at(name, index, f"is {describe(item)}; a string is expected")
            found.append(item)
        return tuple(found)

    def counts(self, name: str, length: int | None = None) -> tuple[int, ...] | None:
        """A list of whole numbers from 0 on, of ``length`` if given, or ``None`` if absent."""
        items = self._items(name, length)
        if items is None:
            return None
        found = []
        for index, item in enumerate(items):
            if isinstance(item, bool) or not isinstance(item, int):
                self.fail_at(name, index, f"is {describe(item)}; a whole number is expected")
            if not 0 <= item <= MAX_COUNT:
                self.fail_at(name, index, f"is {describe(item)}; expected 0 to {MAX_COUNT:,}")
            found.append(item)
        return tuple(found)

    def _items(self, name: str, length: int | None) -> list[object] | None:
        self._read.add(name)
        value = self._values.get(name)
        if value is None:
            return None
        if not isinstance(value, list):
            self.fail(name, f"is {describe(value)}; a list is expected")
        if length is not None and len(value) != length:
            self.fail(
                name,
                f"has {len(value)} entries; {length} are expected, one per layer",
                "check it against the number of layers",
            )
        return value

    def child(self, name: str) -> Fields | None:
        """The object under ``name``, or ``None`` if absent."""
        self._read.add(name)
        value = self._values.get(name)
        if value is None:
            return None
        if not isinstance(value, dict):
            self.fail(name, f"is {describe(value)}; an object is expected")
        return Fields(self.document, value, (*self.path, name))

    def children(self) -> Iterable[tuple[str, Fields]]:
        """All objects directly under this one."""
        for name in self._values:
            child = self.child(name)
            if child is not None:
                yield name, child

    def _missing(self, names: tuple[str, ...]) -> NoReturn:
        others = f" (or {', '.join(names[1:])})" if len(names) > 1 else ""
        self.fail(names[0], f"is missing{others}", "add it, or give a complete config.json")

    def refuse_unread(self, family: str) -> None:
        """Refuse a key that is known to change the count but was not read.

        Raises
        ------
        CatalogError
            Naming the first such key whose value is not one that means "absent".
        """
        for name in self._values:
            if name not in EFFECT or name in self._read:
                continue
            inert = INERT_VALUES.get(name, DEFAULT_INERT)
            value = self._values[name]
            if not any(type(value) is type(none) and value == none for none in inert):
                self.fail(
                    name,
                    f"is {describe(value)}; it changes the count, and the reader of "
                    f"'{family}' does not know how",
                    "remove it if the model does not use it",
                )

    def unknown(self) -> tuple[str, ...]:
        """Dotted keys that were not read and that no list knows, sorted."""
        names = (n for n in self._values if n not in self._read | EFFECT | INERT)
        return tuple(sorted(self.dotted(name) for name in names))
