"""Writing: the old file or the complete new one, and no other file beside it."""

import os
import stat

import pytest

from planner.errors import CatalogError
from planner.export.atomic import check_writable, write_text_atomic

NOT_ROOT = not hasattr(os, "geteuid") or os.geteuid() != 0


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_new_file_gets_the_mode_of_any_new_file(tmp_path):
    target, plain = tmp_path / "layout.json", tmp_path / "plain"
    plain.write_text("")
    write_text_atomic(str(target), b"new\n")
    assert target.read_bytes() == b"new\n"
    assert stat.S_IMODE(target.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)
    assert names(tmp_path) == ["layout.json", "plain"]


def test_old_file_is_replaced_and_keeps_its_mode(tmp_path):
    target = tmp_path / "layout.json"
    target.write_text("old, and longer than the new one")
    target.chmod(0o640)
    write_text_atomic(str(target), b"new")
    assert target.read_bytes() == b"new"
    assert stat.S_IMODE(target.stat().st_mode) == 0o640


def test_symbolic_link_stays_a_link(tmp_path):
    (tmp_path / "folder").mkdir()
    target, link = tmp_path / "folder" / "real.json", tmp_path / "link.json"
    target.write_text("old")
    link.symlink_to(target)
    check_writable(str(link))
    write_text_atomic(str(link), b"new")
    assert link.is_symlink() and target.read_bytes() == b"new"
    assert names(tmp_path / "folder") == ["real.json"]


@pytest.mark.parametrize("step", ["fsync", "chmod", "replace"])
@pytest.mark.parametrize(
    ("interruption", "seen"),
    [(KeyboardInterrupt(), KeyboardInterrupt), (OSError(28, "No space left"), CatalogError)],
)
def test_interrupted_writing_leaves_the_old_file_alone(
    tmp_path, monkeypatch, step, interruption, seen
):
    target = tmp_path / "layout.json"
    target.write_text("old")

    def interrupt(*_):
        raise interruption

    monkeypatch.setattr(os, step, interrupt)
    with pytest.raises(seen):
        write_text_atomic(str(target), b"new")
    assert target.read_text() == "old"
    assert names(tmp_path) == ["layout.json"]


def test_full_disk_is_named(tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CatalogError, match="no space left on device") as caught:
        write_text_atomic(str(tmp_path / "layout.json"), b"new")
    assert caught.value.file == str(tmp_path / "layout.json")


@pytest.mark.parametrize("name", ["layout.json", "new name.json"])
def test_check_leaves_nothing_behind_and_changes_nothing(tmp_path, name):
    (tmp_path / "layout.json").write_text("old")
    check_writable(str(tmp_path / name))
    assert names(tmp_path) == ["layout.json"]
    assert (tmp_path / "layout.json").read_text() == "old"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("missing/layout.json", "there is no folder 'missing'"),
        ("file/layout.json", "folder"),
        ("folder", "it is a folder"),
        ("folder/", "it is a folder"),
        ("new/", "folder"),
        ("", "does not name a file"),
        ("-", "does not name a file"),
        ("pipe", "not a regular file"),
        ("frozen.json", "read-only"),
        ("x" * 300, "name too long"),
    ],
)
def test_hopeless_paths_are_refused(tmp_path, monkeypatch, path, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "frozen.json").write_text("old")
    (tmp_path / "frozen.json").chmod(0o444)
    before = names(tmp_path)
    with pytest.raises(CatalogError, match=message) as caught:
        check_writable(path)
    assert "cannot be written" in str(caught.value)
    assert caught.value.remedy
    assert names(tmp_path) == before


def test_folder_that_refuses_files_is_found_by_trying(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with pytest.raises(CatalogError, match="read-only file system"):
        check_writable(str(tmp_path / "layout.json"))


@pytest.mark.skipif(not NOT_ROOT, reason="permissions do not bind the superuser")
def test_folder_without_write_permission_is_refused(tmp_path):
    folder = tmp_path / "locked"
    folder.mkdir()
    folder.chmod(0o555)
    with pytest.raises(CatalogError, match="refuses new files"):
        check_writable(str(folder / "layout.json"))
