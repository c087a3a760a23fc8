"""XML as a plain tree with line numbers; document types and entities are refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from xml.parsers import expat

from planner.catalog.imports.source import MAX_ITEMS, SourceFile
from planner.errors import CatalogError

_MAX_DEPTH = 64
_MAX_TEXT = 65536
_CUT = (expat.errors.XML_ERROR_NO_ELEMENTS, expat.errors.XML_ERROR_UNCLOSED_TOKEN)


@dataclass(kw_only=True, slots=True)
class Element:
    """One element; names are given without their namespace."""

    tag: str
    line: int
    attributes: dict[str, str]
    children: list[Element] = field(default_factory=list)
    text: str = ""

    def get(self, name: str) -> str | None:
        """The attribute without surrounding blanks; None where it is missing or empty."""
        return self.attributes.get(name, "").strip() or None

    def all(self, tag: str) -> Iterator[Element]:
        """Direct children of one tag."""
        return (child for child in self.children if child.tag == tag)


def _local(name: str) -> str:
    return name.rpartition(" ")[2]


class _Builder:
    """Handlers of the parser; keeps the path of open elements."""

    def __init__(self, source: SourceFile, parser: expat.XMLParserType) -> None:
        self._source = source
        self._parser = parser
        self._open: list[Element] = []
        self._count = 0
        self.root: Element | None = None
        parser.buffer_text = True
        parser.StartDoctypeDeclHandler = self._doctype
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._characters

    def _error(self, message: str, remedy: str) -> CatalogError:
        return self._source.error(message, self._parser.CurrentLineNumber, remedy)

    def _doctype(self, *_: object) -> None:
        # Entities are declared there: a kilobyte of them can expand to gigabytes, or
        # name other files.
        raise self._error("has a document type, which is refused", "delete the <!DOCTYPE ...>")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._count += 1
        if self._count > MAX_ITEMS or len(self._open) >= _MAX_DEPTH:
            raise self._error("has too many or too deeply nested elements", "is it the right file?")
        element = Element(
            tag=_local(name),
            line=self._parser.CurrentLineNumber,
            attributes={_local(key): value for key, value in attributes.items()},
        )
        if self._open:
            self._open[-1].children.append(element)
        else:
            self.root = element
        self._open.append(element)

    def _end(self, _: str) -> None:
        self._open.pop()

    def _characters(self, data: str) -> None:
        element = self._open[-1]
        # Line ends between the children of a large element would add up.
        element.text += data if element.text or not data.isspace() else ""
        if len(element.text) > _MAX_TEXT:
            raise self._error(f"<{element.tag}> has an endless text", "is it the right file?")


def parse_xml(source: SourceFile) -> Element:
    """The root element of an XML file.

    Raises
    ------
    CatalogError
        Malformed or cut XML, a document type, or absurdly many or deep elements.
    """
    parser = expat.ParserCreate(namespace_separator=" ")
    builder = _Builder(source, parser)
    try:
        parser.Parse(source.text.strip(), True)
    except expat.ExpatError as error:
        cut = expat.ErrorString(error.code) in _CUT
        raise source.error(
            f"is not valid XML: {expat.ErrorString(error.code)}",
            error.lineno + _blank_lines(source.text),
            "the file seems to be cut: copy it again" if cut else "copy the file again",
        ) from None
    assert builder.root is not None
    return builder.root


def _blank_lines(text: str) -> int:
    return text[: len(text) - len(text.lstrip())].count("\n")
