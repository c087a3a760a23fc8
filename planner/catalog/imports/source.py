"""Reading a file that may be anything: limits first, then text, then its format."""

from __future__ import annotations

import codecs
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from planner.errors import CatalogError
from planner.units import MILLION

MAX_BYTES = 64 * int(MILLION)
# Parsed items take some hundred bytes each: a file within the limit above could still fill
# the memory.
MAX_ITEMS = int(MILLION)
_KNOWN = (
    "give the output of nvidia-smi topo -m, an NCCL topology XML (NCCL_TOPO_DUMP_FILE), "
    "GraphML or node-link JSON"
)
_ANSI = re.compile(r"\x1b?\[[0-9;]*m|\x1b\[[0-9;?]*[A-Za-z]")
_GPU_LINE = re.compile(r"^[ \t]*GPU\d+[ \t]", re.MULTILINE)
_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    # What a Windows shell writes when output is redirected.
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceFile:
    """A text file: ``label`` as the user named it, ``name`` without folders."""

    label: str
    name: str
    text: str

    def error(self, message: str, line: int | None = None, remedy: str = "") -> CatalogError:
        """A complaint about this file."""
        return CatalogError(message, file=self.label, line=line, remedy=remedy)


def printable(text: str) -> str:
    """The text with everything replaced that could break a line or a terminal."""
    return "".join(char if char.isprintable() else "?" for char in text)


def plain_text(text: str) -> str:
    """The text without the control sequences of a terminal, lines ended by newlines."""
    return _ANSI.sub("", text).replace("\r\n", "\n").replace("\r", "\n")


def _read_bytes(path: str) -> bytes:
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise CatalogError("is a folder", file=path, remedy=_KNOWN)
        if not stat.S_ISREG(status.st_mode):
            raise CatalogError(
                "is a pipe or a device", file=path, remedy="write it into a file first"
            )
        if status.st_size > MAX_BYTES:
            size = f"{status.st_size / MILLION:,.0f} MB"
            limit = f"{MAX_BYTES / MILLION:,.0f} MB"
            raise CatalogError(
                f"has {size}, more than {limit}", file=path, remedy="is it the right file?"
            )
        with open(path, "rb") as file:
            # Files of the kernel have size 0 until they are read.
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise CatalogError("no such file", file=path, remedy=_KNOWN) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise CatalogError(f"cannot be read: {reason}", file=printable(path)) from None
    if len(data) > MAX_BYTES:
        raise CatalogError("is too large", file=path, remedy="is it the right file?")
    return data


def read_source(path: str) -> SourceFile:
    """Read a text file within the limit of size.

    Raises
    ------
    CatalogError
        Missing, a folder, a pipe, too large, empty, or not text.
    """
    data = _read_bytes(path)
    encoding = next((name for bom, name in _BOMS if data.startswith(bom)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise CatalogError(
            f"is not UTF-8 text (byte {error.start})", file=path, remedy=_KNOWN
        ) from None
    if "\0" in text:
        raise CatalogError("is not a text file", file=path, remedy=_KNOWN)
    if not text.strip():
        raise CatalogError("is empty", file=path, remedy=_KNOWN)
    return SourceFile(label=printable(path), name=printable(Path(path).name), text=text)


def detect(source: SourceFile) -> str:
    """``xml``, ``json`` or ``topo``, from the content alone.

    Raises
    ------
    CatalogError
        None of these.
    """
    head = source.text.lstrip()[:1]
    if head == "<":
        return "xml"
    if head in "{[" and not _ANSI.match(source.text.lstrip()):
        return "json"
    if _GPU_LINE.search(plain_text(source.text)):
        return "topo"
    raise source.error("is in none of the formats that can be imported", remedy=_KNOWN)
