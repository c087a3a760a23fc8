"""What an export yields: files, notes, and the chips they ask for."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import msgspec

from planner.errors import CatalogError
from planner.export.atomic import write_text_atomic


@dataclass(frozen=True, kw_only=True, slots=True)
class Artifact:
    """A launch configuration.

    Parameters
    ----------
    files : tuple of (str, bytes)
        Name and content; the first is the one to print.
    notes : tuple of str
        What the engine cannot express, and what was left to it.
    chips : int
        Chips that the files ask for; the plan's, or fewer where a note says so.
    """

    target: str
    version: str
    checked: tuple[str, ...]
    files: tuple[tuple[str, bytes], ...]
    notes: tuple[str, ...]
    chips: int
    as_planned: bool


class ArtifactRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What ``planner export --json`` prints."""

    target: str
    version: str
    checked_versions: tuple[str, ...]
    as_planned: bool
    chips: int
    notes: tuple[str, ...]
    files: dict[str, str]


def artifact_record(found: Artifact) -> ArtifactRecord:
    """The artifact as plain data."""
    return ArtifactRecord(
        target=found.target,
        version=found.version,
        checked_versions=found.checked,
        as_planned=found.as_planned,
        chips=found.chips,
        notes=found.notes,
        files={name: content.decode() for name, content in found.files},
    )


def check_folder(folder: str) -> None:
    """Refuse a folder that :func:`write_folder` could not write, before the work starts.

    Raises
    ------
    CatalogError
        It is a file, or its parent is missing or refuses new files.
    """
    place = Path(folder)
    remedy = "name a folder, new or old"
    if not folder:
        raise CatalogError("does not name a folder", file="''", remedy=remedy)
    if place.exists() and not place.is_dir():
        raise CatalogError("is not a folder", file=folder, remedy=remedy)
    parent = place if place.is_dir() else place.absolute().parent
    if not parent.is_dir():
        raise CatalogError(f"there is no folder '{parent}'", file=folder, remedy="create it first")
    try:
        with tempfile.TemporaryFile(dir=parent):
            pass
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise CatalogError(f"cannot be written: {reason}", file=folder, remedy=remedy) from None


def write_folder(folder: str, found: Artifact) -> None:
    """Write all files: a new folder appears complete or not at all, old files are replaced.

    Raises
    ------
    CatalogError
        A file cannot be written.
    """
    place = Path(folder)
    if place.is_dir():
        for name, content in found.files:
            write_text_atomic(str(place / name), content)
        return
    parent = place.absolute().parent
    temporary = tempfile.mkdtemp(prefix=".planner-", dir=parent)
    try:
        for name, content in found.files:
            write_text_atomic(str(Path(temporary) / name), content)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o777 & ~umask)
        os.rename(temporary, place)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise CatalogError(f"cannot be written: {reason}", file=folder) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
