"""Loads of experts from every form that is read, and files that must be refused."""

import json
import pickle
import sys
import types
import zipfile

import numpy as np
import pytest

from planner.catalog.recorders import read_loads, read_pairs
from planner.errors import CatalogError

TABLE = [[3.0, 1.0, 0.0], [1.0, 1.0, 2.0]]


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def safetensors(tensors):
    """A file of the safetensors format: header length, header, numbers."""
    header, data = {"__metadata__": {"by": "test"}}, b""
    for name, array in tensors.items():
        raw = array.tobytes()
        kind = {"int64": "I64", "int32": "I32", "float32": "F32"}[str(array.dtype)]
        header[name] = {
            "dtype": kind,
            "shape": list(array.shape),
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


@pytest.fixture
def torch_names(monkeypatch):
    """Modules by whose names torch pickles its tensors."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")

    class LongStorage:
        pass

    def _rebuild_tensor_v2(*_):
        raise AssertionError("called while reading")

    LongStorage.__module__, _rebuild_tensor_v2.__module__ = "torch", "torch._utils"
    LongStorage.__qualname__, _rebuild_tensor_v2.__qualname__ = "LongStorage", "_rebuild_tensor_v2"
    torch.LongStorage, utils._rebuild_tensor_v2 = LongStorage, _rebuild_tensor_v2
    torch._utils = utils
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)
    return torch


def torch_file(path, torch, record, arrays):
    """What ``torch.save`` writes: a pickle and one file of numbers per storage."""

    class Tensor:
        def __init__(self, array):
            self.array = array

        def __reduce__(self):
            strides = tuple(step // 8 for step in self.array.strides)
            arguments = (self, 0, self.array.shape, strides, False, None)
            return torch._utils._rebuild_tensor_v2, (Storage(self.array), *arguments[1:])

    class Storage:
        def __init__(self, array):
            self.array = array

    keys = []

    class Writer(pickle.Pickler):
        def persistent_id(self, obj):
            if isinstance(obj, Storage):
                keys.append(obj.array)
                return "storage", torch.LongStorage, str(len(keys) - 1), "cpu", obj.array.size
            return None

    with zipfile.ZipFile(path, "w") as archive, archive.open("r/data.pkl", "w") as file:
        Writer(file, protocol=2).dump({**record, **{k: Tensor(a) for k, a in arrays.items()}})
    with zipfile.ZipFile(path, "a") as archive:
        for index, array in enumerate(keys):
            archive.writestr(f"r/data/{index}", array.tobytes())
    return str(path)


# --- forms -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", json.dumps(TABLE)),
        ("a.csv", "3,1,0\n1,1,2\n"),
        ("a.json", json.dumps({"loads": TABLE})),
    ],
)
def test_plain_tables(tmp_path, name, content):
    found = read_loads(write(tmp_path / name, content))
    assert found.rows.tolist() == TABLE
    assert found.layers == (0, 1)
    assert not found.rows.flags.writeable


def test_named_layers(tmp_path):
    path = write(tmp_path / "a.json", json.dumps({"loads": TABLE, "layers": [3, 5]}))
    assert read_loads(path).layers == (3, 5)
    np.savez(tmp_path / "a.npz", loads=np.array(TABLE), layers=np.array([3, 5]))
    found = read_loads(str(tmp_path / "a.npz"))
    assert found.rows.tolist() == TABLE and found.layers == (3, 5)


def test_numpy_table(tmp_path):
    np.save(tmp_path / "a.npy", np.array(TABLE, dtype=np.int32))
    assert read_loads(str(tmp_path / "a.npy")).rows.tolist() == TABLE


def test_steps_are_summed_and_dense_layers_dropped(tmp_path):
    # Layers 0 and 2 of four count nothing; the others sum to the table.
    counts = np.zeros((2, 4, 3))
    counts[0, 1], counts[1, 1] = [1, 1, 0], [2, 0, 0]
    counts[1, 3] = [1, 1, 2]
    np.save(tmp_path / "a.npy", counts)
    files = [str(tmp_path / "a.npy")]
    files.append(write(tmp_path / "a.json", json.dumps({"logical_count": counts.tolist()})))
    for file in files:
        found = read_loads(file)
        assert found.rows.tolist() == TABLE
        assert found.layers == (1, 3)


def test_sglang_recorder(tmp_path, torch_names):
    counts = np.zeros((2, 3, 3), dtype=np.int64)
    counts[0, 1], counts[1, 1], counts[1, 2] = [1, 1, 0], [2, 0, 0], [1, 1, 2]
    path = torch_file(tmp_path / "a.pt", torch_names, {"rank": 0}, {"logical_count": counts})
    found = read_loads(path)
    assert found.rows.tolist() == TABLE
    assert found.layers == (1, 2)
    assert "SGLang" in found.source


def test_tensorrt_statistics(tmp_path):
    rank0 = {"100_1": np.array([1, 1, 0]), "100_2": np.array([1, 0, 2])}
    rank1 = {"101_1": np.array([2, 0, 0]), "101_2": np.array([0, 1, 0])}
    (tmp_path / "rank0.safetensors").write_bytes(safetensors(rank0))
    (tmp_path / "rank1.safetensors").write_bytes(safetensors(rank1))
    (tmp_path / "rank0_raw.safetensors").write_bytes(b"not read")
    found = read_loads(str(tmp_path))
    assert found.rows.tolist() == TABLE
    assert found.layers == (1, 2)


def test_vllm_routed_experts_are_counted(tmp_path):
    # Three tokens, three layers, top 2; layer 0 is dense (the same id everywhere).
    ids = np.zeros((3, 3, 2), dtype=np.uint8)
    ids[:, 1] = [[0, 1], [0, 2], [0, 3]]
    ids[:, 2] = [[3, 1], [3, 2], [1, 2]]
    np.save(tmp_path / "a.npy", ids)
    found = read_loads(str(tmp_path / "a.npy"), num_experts=4)
    assert found.rows.tolist() == [[3, 1, 1, 1], [0, 2, 2, 2]]
    assert found.layers == (1, 2)
    with pytest.raises(CatalogError, match="--experts"):
        read_loads(str(tmp_path / "a.npy"))
    with pytest.raises(CatalogError, match="names expert 3 of 3"):
        read_loads(str(tmp_path / "a.npy"), num_experts=3)


def test_pairs(tmp_path):
    table = np.arange(9.0).reshape(3, 3)
    np.savez(tmp_path / "a.npz", pairs=table)
    np.savez(tmp_path / "b.npz", pairs=np.stack([table, table]))
    path = write(tmp_path / "a.csv", "0,1,2\n3,4,5\n6,7,8\n")
    assert read_pairs(str(tmp_path / "a.npz"), 3).tolist() == [table.tolist()]
    assert read_pairs(str(tmp_path / "b.npz"), 3).shape == (2, 3, 3)
    assert read_pairs(path, 3).tolist() == [table.tolist()]
    with pytest.raises(CatalogError, match=r"expected \[4, 4\]"):
        read_pairs(path, 4)
    with pytest.raises(CatalogError, match="none negative"):
        read_pairs(write(tmp_path / "b.csv", "0,-1\n0,0\n"), 2)


# --- refusals ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "[[1, 2], [3]]", "equally many"),
        ("a.json", "[]", "equally many"),
        ("a.json", "[[]]", "equally many"),
        ("a.json", "[[1, -2]]", "none negative"),
        ("a.json", "[[0, 0]]", "not all zero"),
        ("a.json", "[[1, null]]", "not a table"),
        ("a.json", '{"loads": [[1, 2]], "layers": [1, 2]}', "names 2 layers for 1 rows"),
        ("a.json", '{"loads": [[1, 2], [1, 2]], "layers": [1, 1]}', "names 2 layers"),
        ("a.json", '{"counts": [[1, 2]]}', "not a table of loads"),
        ("a.json", '{"logical_count": "many"}', "not a table of loads"),
        ("a.json", '{"logical_count": [[0, 0]]}', "counts no token"),
        ("a.csv", "1,nan\n", "finite"),
        ("a.csv", "1,inf\n", "finite"),
        ("a.csv", "1e308,1e308\n", "finite"),
        ("a.csv", "one,two\n", "not a table"),
        ("a.npy", b"no array", "cannot be read"),
        ("a.npz", b"no archive", "cannot be read"),
        ("a.pt", b"no archive", "cannot be read"),
        ("missing.json", None, "cannot be read"),
        ("missing.npy", None, "cannot be read"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path, name, content, message):
    path = str(tmp_path / name)
    if content is not None:
        write(tmp_path / name, content)
    with pytest.raises(CatalogError, match=message):
        read_loads(path)


def test_an_array_of_objects_is_never_unpickled(tmp_path):
    class Trap:
        def __reduce__(self):
            return print, ("unpickled",)

    np.save(tmp_path / "a.npy", np.array([Trap()], dtype=object), allow_pickle=True)
    with pytest.raises(CatalogError, match="could run code"):
        read_loads(str(tmp_path / "a.npy"))


def test_a_torch_file_may_name_nothing_but_tensors(tmp_path, capsys):
    class Trap:
        def __reduce__(self):
            return print, ("unpickled",)

    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        archive.writestr("r/data.pkl", pickle.dumps({"logical_count": Trap()}))
    with pytest.raises(CatalogError, match=r"names builtins\.print"):
        read_loads(str(tmp_path / "a.pt"))
    assert capsys.readouterr().out == ""


def test_a_tensor_beyond_its_data_is_refused(tmp_path, torch_names):
    counts = np.ones((2, 2), dtype=np.int64)
    path = torch_file(tmp_path / "a.pt", torch_names, {}, {"logical_count": counts})
    with zipfile.ZipFile(path) as archive:
        pickled = archive.read("r/data.pkl")
    with zipfile.ZipFile(path, "w") as archive:
        # Shape (2, 2) becomes (2, 200).
        archive.writestr("r/data.pkl", pickled.replace(b"K\x02K\x02", b"K\x02K\xc8"))
        archive.writestr("r/data/0", counts.tobytes())
    with pytest.raises(CatalogError, match="beyond its data"):
        read_loads(path)


def test_a_recording_of_another_mode_says_which_one_to_use(tmp_path, torch_names):
    path = torch_file(tmp_path / "a.pt", torch_names, {"records": []}, {})
    with pytest.raises(CatalogError, match="mode stat"):
        read_loads(path)


def test_folders_and_tensors_of_another_kind(tmp_path):
    with pytest.raises(CatalogError, match=r"no rank\*"):
        read_loads(str(tmp_path))
    file = tmp_path / "rank0.safetensors"
    for content, message in (
        (safetensors({"loads": np.array([1, 2])}), "is no tensor of tokens"),
        (safetensors({"0_1": np.array([1, 2]), "1_1": np.array([1])}), "another number"),
        (safetensors({"0_1": np.array([1, 2]), "0_2": np.array([1])}), "different numbers"),
        (b"\xff" * 8, "not a safetensors file"),
        (b"\x02\0\0\0\0\0\0\0{}", "holds no tensor"),
    ):
        file.write_bytes(content)
        with pytest.raises(CatalogError, match=message):
            read_loads(str(tmp_path))


def test_huge_files_are_refused_unread(tmp_path, monkeypatch):
    with open(tmp_path / "a.json", "wb") as file:
        file.truncate(65 * 2**20)
    with pytest.raises(CatalogError, match="larger than 64 MiB"):
        read_loads(str(tmp_path / "a.json"))
    # An archive of zeros: small on disk, large when read.
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("loads.npy", bytes(2**21))
    monkeypatch.setattr("planner.catalog.recorders.MAX_RECORD_BYTES", 2**20)
    with pytest.raises(CatalogError, match="holds more than"):
        read_loads(str(tmp_path / "a.npz"))


def test_number_of_experts_is_checked(tmp_path):
    path = write(tmp_path / "a.json", json.dumps(TABLE))
    with pytest.raises(CatalogError, match="has 3 experts per layer, --experts says 4"):
        read_loads(path, num_experts=4)
