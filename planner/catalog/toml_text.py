"""Reading TOML files with messages that name the file."""

from __future__ import annotations

import re
import tomllib
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any

from planner.errors import CatalogError

# The parser takes about half a second per MiB.
MAX_FILE_BYTES = 4 * 2**20


def read_text(path: Path, label: str, remedy: str, max_bytes: int = MAX_FILE_BYTES) -> str:
    """The text of a file.

    Parameters
    ----------
    label : str
        What to call the file in messages.
    remedy : str
        What to do when it does not exist.
    max_bytes : int
        Size from which on it is refused unread.

    Raises
    ------
    CatalogError
        It is missing, not a regular file, too large or not UTF-8.
    """
    try:
        if path.is_dir():
            raise CatalogError("is a folder", file=label, remedy="name a file in it")
        if path.exists() and not path.is_file():
            raise CatalogError("is not a regular file", file=label)
        if path.is_file() and path.stat().st_size > max_bytes:
            raise CatalogError(f"is larger than {max_bytes >> 20} MiB", file=label)
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise CatalogError("no such file", file=label, remedy=remedy) from None
    except UnicodeDecodeError as error:
        raise CatalogError(
            f"is not UTF-8 text (byte {error.start})", file=label, remedy="save it as UTF-8"
        ) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise CatalogError(f"cannot be read: {reason}", file=label) from None


_parsed = lru_cache(maxsize=32)(tomllib.loads)


def parse_toml(text: str, label: str) -> dict[str, Any]:
    """Parse TOML.

    Raises
    ------
    CatalogError
        It is malformed; names the line.
    """
    try:
        # A study reads the same machine hundreds of times; the caller may change what it gets.
        return deepcopy(_parsed(text))
    except tomllib.TOMLDecodeError as error:
        found = re.search(r"\(at line (\d+), column \d+\)", str(error))
        line = int(found.group(1)) if found else text.count("\n") + 1
        message = re.sub(r"\s*\(at .*\)$", "", str(error))
        raise CatalogError(
            f"is not valid TOML: {message}", file=label, line=line, remedy="see toml.io/en/v1.0.0"
        ) from None
    except RecursionError:
        raise CatalogError("is nested too deeply", file=label) from None
