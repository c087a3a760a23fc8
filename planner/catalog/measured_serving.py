"""Measured serving under load, in the columns of the public collection they come from.

SemiAnalysis InferenceX runs as collected in aiconfigurator-core (Apache-2.0), one row per
configuration and concurrency.
"""

from __future__ import annotations

import re

from planner.catalog.measured_rows import (
    MachineUse,
    NumberFormats,
    Origin,
    Pool,
    ServingLoad,
    ServingMode,
    ServingRow,
)
from planner.catalog.measured_table import Cells, read_rows, shorten
from planner.domain.dtypes import DType
from planner.units import MS

SERVING_MARK = "silicon_ttft_ms"
SOURCE_GROUP = "inferencex"

_POOL = ("batch_size", "num_workers", "tp_size", "pp_size")
_POOL_END = ("attention_dp_size", "moe_tp_size", "moe_ep_size")
_SHARED = tuple(name for name in (*_POOL, *_POOL_END) if name != "num_workers")
COLUMNS = (
    *("id", "silicon_data_source", "backend", "backend_version", "model_path", "system"),
    *("precision", "mode", "isl", "osl", "gemm_quant_mode", "moe_quant_mode"),
    *_SHARED,
    *(f"prefill_{name}" for name in (*_POOL, *_POOL_END)),
    *(f"decode_{name}" for name in (*_POOL, *_POOL_END)),
    *(SERVING_MARK, "silicon_tpot_ms"),
)
NEEDED = ("id", "model_path", "system", "mode", "isl", "osl", SERVING_MARK, "silicon_tpot_ms")
_EXAMPLE = f"the columns are {', '.join(COLUMNS)}; needed: {', '.join(NEEDED)}"

_MACHINES = {
    "h100_sxm": "h100-hgx",
    "h200_sxm": "h200-hgx",
    "b200_sxm": "b200-hgx",
    "b300_sxm": "b300-hgx",
    "gb200": "gb200-nvl72",
    "gb300": "gb300-nvl72",
}
# Checkpoints that share the text architecture of a model of the catalogue.
_SAME_MODEL = {"kimi-k2.5": "kimi-k2", "deepseek-v3.1": "deepseek-v3"}
_SUFFIX = re.compile(r"-(instruct|fp8|nvfp4)$")
_FORMATS = {
    "": NumberFormats(),
    "bf16": NumberFormats(weights=DType.BF16, activations=DType.BF16),
    "fp8": NumberFormats(weights=DType.FP8, activations=DType.FP8),
    "fp8_block": NumberFormats(weights=DType.FP8, activations=DType.FP8),
    "nvfp4": NumberFormats(weights=DType.NVFP4, activations=DType.NVFP4),
    "int4_wo": NumberFormats(weights=DType.INT4, activations=DType.BF16),
}
_CONCURRENCY = re.compile(r"silicon_concurrency=(\d{1,9})\b")


def read_serving(path: str) -> tuple[ServingRow, ...]:
    """Read rows of serving under load, in the order of the file.

    Raises
    ------
    CatalogError
        As :func:`planner.catalog.measured.read_measured`.
    """
    return tuple(_row(cells) for cells in read_rows(path, NEEDED, COLUMNS, _EXAMPLE))


def catalogue_model(model_path: str) -> str:
    """Name in the catalogue of a checkpoint: ``Qwen/Qwen3-235B-A22B-FP8`` is qwen3-235b-a22b."""
    name = _SUFFIX.sub("", model_path.rsplit("/", 1)[-1].lower())
    return _SAME_MODEL.get(name, name)


def _row(cells: Cells) -> ServingRow:
    load = _load(cells)
    ttft, tpot = cells.positive(SERVING_MARK), cells.positive("silicon_tpot_ms")
    if ttft is None and tpot is None:
        cells.fail(SERVING_MARK, "is empty, and so is silicon_tpot_ms", "leave the row out")
    system = cells.required("system")
    chips = load.prefill.num_chips
    if load.mode is ServingMode.DISAGGREGATED:
        chips += load.decode.num_chips
    return ServingRow(
        origin=Origin(
            id=cells.required("id"),
            file=cells.file,
            line=cells.line,
            source_group=SOURCE_GROUP,
            source=cells.text("silicon_data_source"),
            software=f"{cells.text('backend')} {cells.text('backend_version')}".strip(),
        ),
        machine=MachineUse(topology=_MACHINES.get(system, system), num_chips=chips),
        model=catalogue_model(cells.required("model_path")),
        formats=_formats(cells),
        load=load,
        ttft_s=None if ttft is None else ttft * MS,
        tpot_s=None if tpot is None else tpot * MS,
    )


def _formats(cells: Cells) -> NumberFormats:
    name = cells.text("gemm_quant_mode")
    if name not in _FORMATS:
        known = ", ".join(key for key in _FORMATS if key)
        cells.fail("gemm_quant_mode", f"is {shorten(name)}", f"one of {known}")
    return _FORMATS[name]


def _load(cells: Cells) -> ServingLoad:
    mode = cells.choice("mode", ServingMode)
    source = cells.text("silicon_data_source")
    total = _CONCURRENCY.search(source)
    shared = mode is ServingMode.AGGREGATED
    prefill = _pool(cells, "" if shared else "prefill_")
    stated = all(cells.text(f"{pool}_num_workers") for pool in ("prefill", "decode"))
    return ServingLoad(
        mode=mode,
        input_len=cells.whole("isl", minimum=1),
        output_len=cells.whole("osl", minimum=1),
        concurrency=None if total is None else int(total.group(1)),
        prefill=prefill,
        decode=prefill if shared else _pool(cells, "decode_"),
        workers_stated=shared or stated,
        mtp="mtp" in f"{cells.text('id')} {source}".lower(),
    )


def _pool(cells: Cells, prefix: str) -> Pool:
    """One worker where the number of workers is not given."""
    if cells.whole(f"{prefix}pp_size", 1) > 1:
        cells.fail(f"{prefix}pp_size", "is not 1; pipelines are not read", "leave the row out")
    return Pool(
        # A shared pool is one worker and has no such column.
        num_workers=cells.whole(f"{prefix}num_workers", 1, minimum=1),
        attn_tp=cells.whole(f"{prefix}tp_size", minimum=1),
        attn_dp=cells.whole(f"{prefix}attention_dp_size", 1, minimum=1),
        # The collection writes 0 where a dense model has no experts.
        expert_tp=max(1, cells.whole(f"{prefix}moe_tp_size", 1)),
        ep=max(1, cells.whole(f"{prefix}moe_ep_size", 1)),
        batch=cells.optional_whole(f"{prefix}batch_size"),
    )
