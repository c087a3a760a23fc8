"""Tables of published measurements.

Two schemas, told apart by their header: one measured time per row (runs and collectives,
``time_s`` empty where a layout ran out of memory), and serving under load
(:mod:`planner.catalog.measured_serving`). Columns that a file does not need may be absent.
"""

from __future__ import annotations

import re
from enum import StrEnum

from planner.catalog.measured_engines import engine_generation, training_generation
from planner.catalog.measured_rows import (
    CollectiveRow,
    MachineUse,
    MeasuredRow,
    NumberFormats,
    Origin,
    RunRow,
)
from planner.catalog.measured_serving import SERVING_MARK, read_serving
from planner.catalog.measured_table import Cells, read_columns, read_rows, shorten
from planner.domain.curves import Op
from planner.domain.dtypes import DType
from planner.domain.run import Mesh, Overlap, Recompute, Run, RunKind, ScheduleKind
from planner.errors import CatalogError

NEEDED = ("id", "kind", "topology", "num_chips", "time_s")
COLUMNS = (
    *("id", "kind", "model", "topology", "hbm_bytes_per_s_override", "num_chips"),
    *("weight_dtype", "compute_dtype", "kv_dtype", "attn_tp", "attn_dp", "cp", "pp"),
    *("virtual_stages", "ep", "expert_tp", "zero_stage", "schedule", "microbatch"),
    *("global_batch", "seq_len", "context_len", "input_len", "output_len", "recompute"),
    *("sequence_parallel", "overlap", "time_s", "op", "bytes", "tokens_per_chip"),
    *("hidden_size", "top_k", "num_experts", "software", "published", "source_group"),
    *("source", "note", "quality"),
)
_EXAMPLE = f"the columns are {', '.join(COLUMNS)}; needed: {', '.join(NEEDED)}"
_QUALITIES = ("", "A", "B", "C")
_FP4 = "fp4"  # the table's name of NVFP4
_SLICES = re.compile(r"\b(\d{1,4}) (?:slices|pods)\b")


class MeasuredKind(StrEnum):
    """What a row of the first schema times."""

    TRAIN = "train"
    PREFILL = "prefill"
    DECODE = "decode"
    REQUEST = "request"
    COLLECTIVE = "collective"


def read_measured(path: str) -> tuple[MeasuredRow, ...]:
    """Read measured rows of either schema.

    Returns
    -------
    tuple of MeasuredRow
        In the order of the file. Names of models and machines are not looked up.

    Raises
    ------
    CatalogError
        The file is missing, binary, empty or too large, has unknown or missing columns,
        a cell that cannot be read, or an id twice. Names the line and the column.
    """
    if SERVING_MARK in read_columns(path):
        rows: tuple[MeasuredRow, ...] = read_serving(path)
    else:
        rows = tuple(_row(cells) for cells in read_rows(path, NEEDED, COLUMNS, _EXAMPLE))
    first: dict[str, int] = {}
    for row in rows:
        seen = first.setdefault(row.origin.id, row.origin.line)
        if seen != row.origin.line:
            raise CatalogError(
                f"{shorten(row.origin.id)} is already the id of line {seen}",
                file=path,
                line=row.origin.line,
                field="id",
                remedy="give every measurement its own",
            )
    return rows


def _row(cells: Cells) -> MeasuredRow:
    kind = cells.choice("kind", MeasuredKind)
    machine = _machine(cells)
    if kind is MeasuredKind.COLLECTIVE:
        return _collective(cells, machine)
    return RunRow(
        origin=_origin(cells),
        machine=machine,
        model=cells.required("model"),
        formats=NumberFormats(
            weights=_dtype(cells, "weight_dtype"),
            activations=_dtype(cells, "compute_dtype"),
            kv=_dtype(cells, "kv_dtype"),
        ),
        run=_run(cells, RunKind(kind.value)),
        time_s=cells.positive("time_s"),
    )


def _origin(cells: Cells) -> Origin:
    quality = cells.text("quality")
    if quality not in _QUALITIES:
        cells.fail("quality", f"is {shorten(quality)}", "write A, B or C")
    return Origin(
        id=cells.required("id"),
        file=cells.file,
        line=cells.line,
        source_group=cells.text("source_group"),
        source=cells.text("source"),
        software=cells.text("software"),
        published=cells.text("published"),
        note=cells.text("note"),
        quality=quality,
    )


def _machine(cells: Cells) -> MachineUse:
    note = cells.text("note")
    slices = _SLICES.search(note)
    return MachineUse(
        topology=cells.required("topology"),
        num_chips=cells.whole("num_chips", minimum=1),
        slices=None if slices is None else max(1, int(slices.group(1))),
        hbm_bytes_per_s=cells.positive("hbm_bytes_per_s_override"),
        efa="EFA" in note,
    )


def _dtype(cells: Cells, column: str) -> DType | None:
    text = cells.text(column)
    if text in ("", _FP4):
        return DType.NVFP4 if text else None
    return cells.choice(column, DType)


def _overlap(cells: Cells) -> frozenset[Overlap] | None:
    """None where the source does not say."""
    text = cells.text("overlap")
    if text in ("", "unknown"):
        return None
    parts = [] if text == "none" else text.split("+")
    known = {item.value: item for item in Overlap}
    for part in parts:
        if part not in known:
            cells.fail(
                "overlap",
                f"is {shorten(text)}",
                f"none, unknown, or {', '.join(known)} joined by +",
            )
    return frozenset(known[part] for part in parts)


def _run(cells: Cells, kind: RunKind) -> Run:
    training = kind is RunKind.TRAIN
    request = kind is RunKind.REQUEST
    if kind is RunKind.DECODE:
        cells.required("context_len", ": a decode step needs its cached tokens")
    return Run(
        kind=kind,
        mesh=Mesh(
            attn_tp=cells.whole("attn_tp", 1, minimum=1),
            cp=cells.whole("cp", 1, minimum=1),
            attn_dp=cells.whole("attn_dp", 1, minimum=1),
            pp=cells.whole("pp", 1, minimum=1),
            virtual_stages=cells.whole("virtual_stages", 1, minimum=1),
            ep=cells.whole("ep", 1, minimum=1),
            expert_tp=cells.whole("expert_tp", 1, minimum=1),
        ),
        global_batch=cells.whole("global_batch", minimum=1),
        seq_len=cells.whole("seq_len", minimum=1) if training or kind is RunKind.PREFILL else 0,
        context_len=cells.number("context_len") or 0.0,
        input_len=cells.whole("input_len", minimum=1) if request else 0,
        output_len=cells.whole("output_len", minimum=1) if request else 0,
        microbatch=cells.whole("microbatch", 0),
        schedule=cells.choice("schedule", ScheduleKind, ScheduleKind.NONE),
        recompute=cells.choice("recompute", Recompute, Recompute.NONE),
        zero_stage=cells.whole("zero_stage", 0),
        sequence_parallel=cells.flag("sequence_parallel"),
        overlap=_overlap(cells),
        engine=(training_generation if training else engine_generation)(cells.text("software")),
    )


def _collective(cells: Cells, machine: MachineUse) -> CollectiveRow:
    op = cells.choice("op", Op)
    tokens = op in (Op.DISPATCH, Op.COMBINE)
    num_bytes, time_s = cells.positive("bytes"), cells.positive("time_s")
    if num_bytes is None or time_s is None:
        empty = "bytes" if num_bytes is None else "time_s"
        cells.fail(empty, "is empty: a collective has a size and a time", "leave the row out")
    return CollectiveRow(
        origin=_origin(cells),
        machine=machine,
        op=op,
        num_bytes=num_bytes,
        tokens_per_chip=cells.whole("tokens_per_chip", minimum=1) if tokens else 0,
        top_k=cells.whole("top_k", minimum=1) if tokens else 0,
        time_s=time_s,
    )
