"""Loads of experts from files: plain tables and what serving engines record.

===========================  ============================================================
JSON, CSV                    ``[layers, experts]``, or an object with ``loads`` and
                             ``layers`` (model layer of each row) or with ``logical_count``
``.npy``, ``.npz``           ``[layers, experts]``; ``[steps, layers, experts]`` is summed;
                             ids ``[tokens, layers, top_k]`` (vLLM's ``routed_experts``, 8 or
                             16 bits) are counted; npz: ``loads`` and ``layers``
``.pt``                      SGLang's recorder in mode ``stat``: ``logical_count``
folder                       TensorRT-LLM's ``EXPERT_STATISTIC_PATH``: ``rank*.safetensors``
                             with tensors ``{iteration}_{layer}``, summed
===========================  ============================================================

Recorders count every layer of the model: rows of zeros are dense layers and are dropped, the
others keep their numbers. No file can run code: ``.npy`` is read without pickles, and the
pickle inside a ``.pt`` may name nothing but tensors of numbers.
"""

from __future__ import annotations

import io
import json
import pickle
import re
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from planner.catalog.loads import MAX_FILE_BYTES, read_bytes, read_table
from planner.errors import CatalogError

FloatArray = NDArray[np.float64]

MAX_RECORD_BYTES = 2 * 2**30
MAX_COUNT = 1e18
_MAX_TOP_K = 64
_LOADS = "write [[count of expert 0, expert 1, ...], one row per MoE layer]"
_PAIRS = "write [[tokens of experts 0 and 0, 0 and 1, ...], one row per expert]"
_STAT = "record with --expert-distribution-recorder-mode stat, or write a JSON table"
_TENSOR = re.compile(r"(\d+)_(\d+)")
# Names of the safetensors format and of torch storages.
_SAFE = {"I64": "<i8", "I32": "<i4", "I16": "<i2", "U8": "u1", "F64": "<f8", "F32": "<f4"}
_STORAGE = {
    "LongStorage": "<i8", "IntStorage": "<i4", "ShortStorage": "<i2", "ByteStorage": "u1",
    "DoubleStorage": "<f8", "FloatStorage": "<f4",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LoadTable:
    """Loads of the experts of MoE layers.

    Attributes
    ----------
    rows : array, shape ``[num_layers, num_experts]``
        Tokens, or numbers in proportion; read-only.
    layers : tuple of int
        Model layer of each row where the file says it, otherwise 0, 1, 2, ...
    source : str
        What the file was taken for.
    """

    rows: FloatArray
    layers: tuple[int, ...]
    source: str


def read_loads(path: str, num_experts: int | None = None) -> LoadTable:
    """Read the loads of the experts of every MoE layer.

    Parameters
    ----------
    path : str
        A file, or a folder of TensorRT-LLM.
    num_experts : int or None
        Experts of a layer; needed where ids are counted, checked elsewhere.

    Raises
    ------
    CatalogError
        The file is missing, too large, of no known form, or has numbers that are no loads.
    """
    place = Path(path)
    if place.is_dir():
        found = _tensorrt(place)
    elif place.suffix in (".npy", ".npz"):
        found = _numpy(path, num_experts)
    elif place.suffix in (".pt", ".pth"):
        found = _sglang(path)
    elif place.suffix == ".csv":
        found = _plain(read_table(path, _LOADS), None, path, "CSV table")
    else:
        found = _json(path)
    _check(found, path, num_experts)
    found.rows.setflags(write=False)
    return found


def read_pairs(path: str, num_experts: int) -> FloatArray:
    """Read how often pairs of experts are chosen together.

    Returns
    -------
    array, shape ``[1 or num_layers, num_experts, num_experts]``

    Raises
    ------
    CatalogError
        The file is missing, too large, of another shape, or has numbers that are no counts.
    """
    if Path(path).suffix in (".npz", ".npy"):
        arrays = _arrays(path)
        found = arrays["pairs"] if "pairs" in arrays else next(iter(arrays.values()))
    else:
        found = _as_array(read_table(path, _PAIRS), path, _PAIRS)
    pairs = found.astype(np.float64) if found.dtype.kind in "iuf" else found
    if pairs.ndim == 2:
        pairs = pairs[None]
    if pairs.ndim != 3 or pairs.shape[1:] != (num_experts, num_experts):
        raise CatalogError(
            f"has shape {list(found.shape)}, expected [{num_experts}, {num_experts}], or one such "
            "table per layer",
            file=path,
            remedy=_PAIRS,
        )
    if pairs.dtype != np.float64 or not np.isfinite(pairs).all() or (pairs < 0).any():
        raise CatalogError("needs finite counts, none negative", file=path, remedy=_PAIRS)
    return pairs


def _check(found: LoadTable, path: str, num_experts: int | None) -> None:
    rows = found.rows
    if num_experts is not None and rows.shape[1] != num_experts:
        raise CatalogError(
            f"has {rows.shape[1]} experts per layer, --experts says {num_experts}", file=path
        )
    for index, row in enumerate(rows):
        if not (row <= MAX_COUNT).all() or row.min() < 0 or row.max() <= 0:
            raise CatalogError(
                f"needs finite counts up to {MAX_COUNT:g}, none negative, not all zero",
                file=path,
                field=f"[{index}]",
                remedy="leave layers without tokens out",
            )


def _as_array(table: list[list[float]], path: str, remedy: str) -> FloatArray:
    widths = sorted({len(row) for row in table})
    if len(widths) != 1 or widths == [0]:
        raise CatalogError(
            f"has rows of {widths} numbers, expected equally many in each",
            file=path,
            remedy=remedy,
        )
    return np.array(table, dtype=np.float64)


def _plain(table: list[list[float]], layers: list[int] | None, path: str, source: str) -> LoadTable:
    rows = _as_array(table, path, _LOADS)
    if layers is not None and (len(layers) != len(rows) or len(set(layers)) != len(rows)):
        raise CatalogError(
            f"names {len(layers)} layers for {len(rows)} rows", file=path, field="layers"
        )
    return LoadTable(rows=rows, layers=tuple(layers or range(len(rows))), source=source)


def _recorded(rows: FloatArray, path: str, source: str) -> LoadTable:
    """Sum steps, and drop the layers that counted nothing."""
    if rows.ndim == 3:
        rows = rows.sum(axis=0)
    if rows.ndim != 2 or not rows.size:
        raise CatalogError(
            f"has counts of shape {list(rows.shape)}, expected [layers, experts] or "
            "[steps, layers, experts]",
            file=path,
        )
    kept = np.flatnonzero((rows != 0).any(axis=1))
    if not len(kept):
        raise CatalogError("counts no token in any layer", file=path)
    return LoadTable(rows=rows[kept], layers=tuple(kept.tolist()), source=source)


class _Loads(msgspec.Struct, frozen=True):
    loads: list[list[float]]
    layers: list[int] | None = None


def _json(path: str) -> LoadTable:
    data = read_bytes(path, MAX_FILE_BYTES, _LOADS)
    if not data.lstrip().startswith(b"{"):
        return _plain(read_table(path, _LOADS), None, path, "JSON table")
    try:
        if b'"logical_count"' in data:
            raw = msgspec.json.decode(data, type=dict[str, Any])["logical_count"]
            rows = np.array(raw, dtype=np.float64)
            return _recorded(rows, path, "SGLang logical_count (JSON)")
        found = msgspec.json.decode(data, type=_Loads)
    except (msgspec.DecodeError, ValueError, TypeError, KeyError) as error:
        raise CatalogError(f"is not a table of loads: {error}", file=path, remedy=_LOADS) from None
    return _plain(found.loads, found.layers, path, "JSON table")


def _arrays(path: str) -> dict[str, NDArray[Any]]:
    """Arrays of a ``.npy`` or ``.npz``; sizes are looked at before anything is read."""
    try:
        place = Path(path)
        if place.suffix == ".npz":
            with zipfile.ZipFile(place) as archive:
                size = sum(info.file_size for info in archive.infolist())
        else:
            size = place.stat().st_size
        if size > MAX_RECORD_BYTES:
            raise CatalogError(f"holds more than {MAX_RECORD_BYTES >> 30} GiB", file=path)
        loaded = np.load(place, allow_pickle=False)
        arrays = dict(loaded) if isinstance(loaded, np.lib.npyio.NpzFile) else {"": loaded}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, MemoryError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        if "pickle" in reason.lower():
            reason = "it holds Python objects, which could run code when read"
        raise CatalogError(
            f"cannot be read: {reason}",
            file=path,
            remedy="save an array of numbers with numpy.save",
        ) from None
    if not arrays or any(array.dtype.kind not in "iuf" for array in arrays.values()):
        raise CatalogError("needs arrays of numbers", file=path, remedy=_LOADS)
    return arrays


def _numpy(path: str, num_experts: int | None) -> LoadTable:
    arrays = _arrays(path)
    layers = arrays.pop("layers", None)
    for name in ("loads", "logical_count", "routed_experts", *arrays):
        if name in arrays:
            break
    table = arrays[name]
    is_ids = table.ndim == 3 and table.dtype in (np.uint8, np.uint16)
    if (is_ids and table.shape[2] <= _MAX_TOP_K) or name == "routed_experts":
        return _counted(table, path, num_experts)
    if table.ndim == 3 or name == "logical_count":
        return _recorded(table.astype(np.float64), path, "counts [steps, layers, experts]")
    if table.ndim != 2 or not table.size:
        raise CatalogError(
            f"has shape {list(table.shape)}, expected [layers, experts]", file=path, remedy=_LOADS
        )
    rows: list[list[float]] = table.astype(np.float64).tolist()
    given = None if layers is None else [int(layer) for layer in layers.ravel()]
    return _plain(rows, given, path, "NumPy table")


def _counted(ids: NDArray[Any], path: str, num_experts: int | None) -> LoadTable:
    """Count expert ids ``[tokens, layers, top_k]``."""
    if ids.ndim != 3 or not ids.size:
        raise CatalogError(
            f"has ids of shape {list(ids.shape)}, expected [tokens, layers, top_k]", file=path
        )
    if num_experts is None:
        raise CatalogError(
            "holds ids of experts, which do not tell how many there are",
            file=path,
            remedy="write for example --experts 256",
        )
    if int(ids.max()) >= num_experts:
        raise CatalogError(f"names expert {int(ids.max())} of {num_experts}", file=path)
    rows = np.stack(
        [np.bincount(ids[:, layer].ravel(), minlength=num_experts) for layer in range(ids.shape[1])]
    ).astype(np.float64)
    # A dense layer routes nothing: its ids are all the same.
    dense = (ids == ids[:1, :, :1]).all(axis=(0, 2))
    rows[dense & (ids.shape[2] > 1)] = 0.0
    return _recorded(rows, path, "vLLM routed_experts")


class _Numbers(pickle.Unpickler):
    """Reads the pickle of a ``.pt`` file; every name that is not a tensor's is refused."""

    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(io.BytesIO(archive.read(f"{root}/data.pkl")))
        self.archive = archive
        self.root = root

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _STORAGE:
            return _STORAGE[name]
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        raise pickle.UnpicklingError(f"it names {module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        kind, storage, key, _, count = pid
        if kind != "storage" or storage not in _STORAGE.values():
            raise pickle.UnpicklingError("it has a storage of an unknown kind")
        data = self.archive.read(f"{self.root}/data/{key}")
        return np.frombuffer(data, dtype=storage, count=count)


def _tensor(
    storage: NDArray[Any], offset: int, shape: tuple[int, ...], stride: tuple[int, ...], *_: Any
) -> NDArray[Any]:
    """The array behind a tensor; a view outside its storage is refused."""
    total = 1
    for size in shape:
        total *= size
    last = offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    if min((offset, *shape, *stride), default=0) < 0 or (total and last >= len(storage)):
        raise pickle.UnpicklingError("a tensor reaches beyond its data")
    steps = tuple(step * storage.itemsize for step in stride)
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, steps).copy()


def _sglang(path: str) -> LoadTable:
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(info.file_size for info in archive.infolist()) > MAX_RECORD_BYTES:
                raise CatalogError(f"holds more than {MAX_RECORD_BYTES >> 30} GiB", file=path)
            names = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            if len(names) != 1:
                raise CatalogError("is not a file of torch.save", file=path, remedy=_STAT)
            record = _Numbers(archive, names[0].removesuffix("/data.pkl")).load()
    except CatalogError:
        raise
    except Exception as error:
        # The pickle machine raises whatever a malformed stream makes it stumble on.
        raise CatalogError(f"cannot be read: {error}", file=path, remedy=_STAT) from None
    if not isinstance(record, dict) or not isinstance(record.get("logical_count"), np.ndarray):
        raise CatalogError("has no 'logical_count'", file=path, remedy=_STAT)
    return _recorded(record["logical_count"].astype(np.float64), path, "SGLang recorder, mode stat")


def _tensorrt(folder: Path) -> LoadTable:
    """Sum the tensors ``{iteration}_{layer}`` of all ranks."""
    files = [file for file in sorted(folder.glob("rank*.safetensors")) if "raw" not in file.stem]
    if not files:
        raise CatalogError(
            "has no rank*.safetensors",
            file=str(folder),
            remedy="name the folder of EXPERT_STATISTIC_PATH, or a file",
        )
    sums: dict[int, FloatArray] = {}
    for file in files:
        for name, counts in _safetensors(file).items():
            match = _TENSOR.fullmatch(name)
            if match is None or counts.ndim != 1:
                raise CatalogError(
                    "is no tensor of tokens per expert named '{iteration}_{layer}'",
                    file=str(file),
                    field=name,
                )
            layer = int(match.group(2))
            if layer in sums and sums[layer].shape != counts.shape:
                raise CatalogError("has another number of experts", file=str(file), field=name)
            sums[layer] = sums.get(layer, 0.0) + counts.astype(np.float64)
    layers = sorted(sums)
    if len({len(counts) for counts in sums.values()}) != 1:
        raise CatalogError("has layers of different numbers of experts", file=str(folder))
    table = _recorded(
        np.stack([sums[layer] for layer in layers]), str(folder), "TensorRT-LLM statistics"
    )
    return LoadTable(
        rows=table.rows, layers=tuple(layers[row] for row in table.layers), source=table.source
    )


def _safetensors(file: Path) -> dict[str, NDArray[Any]]:
    """Tensors of a safetensors file: a header of JSON, then the numbers."""
    data = read_bytes(str(file), MAX_RECORD_BYTES, "")
    try:
        start = 8 + int.from_bytes(data[:8], "little")
        header = json.loads(data[8:start])
        found = {}
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            first, last = entry["data_offsets"]
            part = np.frombuffer(data[start + first : start + last], dtype=_SAFE[entry["dtype"]])
            found[name] = part.reshape(entry["shape"])
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise CatalogError(f"is not a safetensors file: {error}", file=str(file)) from None
    if not found:
        raise CatalogError("holds no tensor", file=str(file))
    return found
