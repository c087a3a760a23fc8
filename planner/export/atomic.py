"""Writing a file so that it is either the old one or the complete new one."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from planner.errors import CatalogError

_ANY_WRITE = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH
_PREFIX = ".planner-"


def _refusal(path: str, message: str, remedy: str) -> CatalogError:
    return CatalogError(f"cannot be written: {message}", file=path, remedy=remedy)


def _target(path: str) -> Path:
    """The file itself: a symbolic link stays, the file behind it is replaced."""
    return Path(os.path.realpath(path))


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def check_writable(path: str) -> None:
    """Refuse a path that :func:`write_text_atomic` could not write, before the work starts.

    Raises
    ------
    CatalogError
        The folder is missing or refuses new files, or the path is a folder, a device or
        a read-only file.
    """
    elsewhere = "name another file"
    if not path or path == "-":
        raise _refusal(path or "''", "it does not name a file", "--json prints to the terminal")
    target = _target(path)
    folder = target.parent
    try:
        mode = target.stat().st_mode if target.exists() else None
    except OSError as error:
        raise _refusal(path, _reason(error), elsewhere) from None
    if not folder.is_dir():
        raise _refusal(path, f"there is no folder '{Path(path).parent}'", "create it first")
    if path.endswith(("/", os.sep)) or (mode is not None and stat.S_ISDIR(mode)):
        raise _refusal(path, "it is a folder", f"write for example {Path(path) / 'layout.json'}")
    if mode is not None and not stat.S_ISREG(mode):
        raise _refusal(path, "it is not a regular file", elsewhere)
    if mode is not None and not (mode & _ANY_WRITE and os.access(target, os.W_OK)):
        raise _refusal(path, "the file is read-only", f"chmod u+w it, or {elsewhere}")
    try:
        # Only creating a file tells the truth about quotas, mounts and permissions.
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise _refusal(
            path, f"its folder refuses new files ({_reason(error)})", elsewhere
        ) from None


def _mode_for(target: Path) -> int:
    """Mode of the file to replace, or what ``open`` would give a new one."""
    if target.exists():
        return stat.S_IMODE(target.stat().st_mode)
    umask = os.umask(0)
    os.umask(umask)
    return 0o666 & ~umask


def write_text_atomic(path: str, content: bytes) -> None:
    """Write ``content`` in one step: a reader never sees half of it.

    The temporary file lives in the same folder, since a rename is atomic only within one
    file system, and is removed whatever interrupts the writing.

    Raises
    ------
    CatalogError
        If the file cannot be written; an older file is then as it was.
    """
    target = _target(path)
    temporary: str | None = None
    try:
        handle, temporary = tempfile.mkstemp(prefix=_PREFIX, suffix=".tmp", dir=target.parent)
        with open(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, _mode_for(target))
        os.replace(temporary, target)
        temporary = None
    except OSError as error:
        raise _refusal(path, _reason(error), "free some space, or name another file") from None
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
