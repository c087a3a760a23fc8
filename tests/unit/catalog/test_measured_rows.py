"""Tables of measurements: typed records, and messages for everything that is no table."""

import csv
import io
from pathlib import Path

import pytest

from planner.catalog.measured import COLUMNS, read_measured
from planner.catalog.measured_ids import read_ids
from planner.catalog.measured_rows import (
    CollectiveRow,
    MachineUse,
    NumberFormats,
    Origin,
    Pool,
    RunRow,
    ServingLoad,
    ServingRow,
)
from planner.catalog.measured_serving import COLUMNS as SERVING_COLUMNS
from planner.catalog.measured_serving import catalogue_model
from planner.domain.curves import Op
from planner.domain.dtypes import DType
from planner.domain.run import Mesh, Overlap, Recompute, Run, RunKind, ScheduleKind
from planner.domain.serving import ServingMode
from planner.errors import CatalogError

MEASURED = Path(__file__).resolve().parents[2] / "reference" / "measured"
TRAIN = {
    "id": "t1",
    "kind": "train",
    "model": "mixtral-8x7b",
    "topology": "h100-hgx",
    "hbm_bytes_per_s_override": "2.4e12",
    "num_chips": "64",
    "weight_dtype": "bf16",
    "compute_dtype": "fp4",
    "attn_tp": "2",
    "attn_dp": "4",
    "cp": "2",
    "pp": "4",
    "virtual_stages": "3",
    "ep": "8",
    "expert_tp": "2",
    "zero_stage": "1",
    "schedule": "interleaved",
    "microbatch": "2",
    "global_batch": "128",
    "seq_len": "4096",
    "recompute": "selective",
    "sequence_parallel": "1",
    "overlap": "tp+dp",
    "time_s": "3.5",
    "software": "Megatron",
    "published": "3.5 s",
    "source_group": "study",
    "source": "paper",
    "note": "as printed, twice",
    "quality": "B",
}
DECODE = {
    "id": "d1",
    "kind": "decode",
    "model": "llama-3.1-8b",
    "topology": "h100-hgx",
    "num_chips": "1",
    "global_batch": "4",
    "context_len": "70.5",
    "time_s": "0.01",
}
REQUEST = {
    "id": "r1",
    "kind": "request",
    "model": "llama-3.1-8b",
    "topology": "h100-hgx",
    "num_chips": "1",
    "global_batch": "4",
    "input_len": "128",
    "output_len": "8",
    "time_s": "0.2",
}
DISPATCH = {
    "id": "c1",
    "kind": "collective",
    "topology": "h100-hgx",
    "num_chips": "16",
    "time_s": "1e-4",
    "op": "dispatch",
    "bytes": "7340032",
    "tokens_per_chip": "128",
    "hidden_size": "7168",
    "top_k": "8",
    "num_experts": "256",
    "note": "2 nodes; AWS EFA",
}
SERVING = {
    "id": "s1",
    "silicon_data_source": "config_id=7; silicon_concurrency=128; measured=2026-04-17",
    "backend": "vllm",
    "backend_version": "0.19.0",
    "model_path": "moonshotai/Kimi-K2.5",
    "system": "gb200",
    "precision": "fp4",
    "mode": "disagg",
    "isl": "1024",
    "osl": "512",
    "gemm_quant_mode": "nvfp4",
    "moe_quant_mode": "nvfp4",
    "prefill_batch_size": "1",
    "prefill_num_workers": "2",
    "prefill_tp_size": "1",
    "prefill_pp_size": "1",
    "prefill_attention_dp_size": "4",
    "prefill_moe_tp_size": "1",
    "prefill_moe_ep_size": "4",
    "decode_tp_size": "8",
    "decode_pp_size": "1",
    "decode_attention_dp_size": "1",
    "decode_moe_tp_size": "8",
    "decode_moe_ep_size": "1",
    "silicon_ttft_ms": "195.5",
    "silicon_tpot_ms": "5.25",
}


def table(*rows, columns=COLUMNS, newline="\n"):
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, restval="", lineterminator=newline)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


@pytest.fixture
def read(tmp_path):
    """Read rows given as dictionaries, text or bytes; the file is called rows.csv."""

    def reader(*rows, **how):
        path = tmp_path / "rows.csv"
        content = rows[0] if isinstance(rows[0], str | bytes) else table(*rows, **how)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        try:
            return read_measured(str(path))
        except CatalogError as error:
            assert error.file == str(path)
            raise

    return reader


def test_a_training_row_whole(read):
    (row,) = read(TRAIN)
    assert row == RunRow(
        origin=Origin(
            id="t1",
            file=row.origin.file,
            line=2,
            source_group="study",
            source="paper",
            software="Megatron",
            published="3.5 s",
            note="as printed, twice",
            quality="B",
        ),
        machine=MachineUse(topology="h100-hgx", num_chips=64, hbm_bytes_per_s=2.4e12),
        model="mixtral-8x7b",
        formats=NumberFormats(weights=DType.BF16, activations=DType.NVFP4),
        run=Run(
            kind=RunKind.TRAIN,
            mesh=Mesh(attn_tp=2, attn_dp=4, cp=2, pp=4, virtual_stages=3, ep=8, expert_tp=2),
            global_batch=128,
            seq_len=4096,
            microbatch=2,
            schedule=ScheduleKind.INTERLEAVED,
            recompute=Recompute.SELECTIVE,
            zero_stage=1,
            sequence_parallel=True,
            overlap=frozenset({Overlap.TP, Overlap.DP}),
        ),
        time_s=3.5,
    )


def test_empty_cells_of_a_decode_row_are_defaults(read):
    (row,) = read(DECODE)
    assert row.run == Run(
        kind=RunKind.DECODE, mesh=Mesh(), global_batch=4, context_len=70.5, overlap=None
    )
    assert row.formats == NumberFormats()


def test_a_request_row(read):
    (row,) = read(REQUEST)
    assert row.run == Run(
        kind=RunKind.REQUEST, mesh=Mesh(), global_batch=4, input_len=128, output_len=8
    )


def test_a_collective_row(read):
    (row,) = read(DISPATCH)
    assert isinstance(row, CollectiveRow)
    assert row.machine == MachineUse(topology="h100-hgx", num_chips=16, efa=True)
    assert (row.op, row.num_bytes, row.tokens_per_chip, row.top_k, row.time_s) == (
        Op.DISPATCH,
        7340032,
        128,
        8,
        1e-4,
    )


def test_a_disaggregated_serving_row(read):
    (row,) = read(SERVING, columns=SERVING_COLUMNS)
    assert row == ServingRow(
        origin=row.origin,
        # 2 workers of 1 x 4 chips, and one of 8.
        machine=MachineUse(topology="gb200-nvl72", num_chips=16),
        model="kimi-k2",
        formats=NumberFormats(weights=DType.NVFP4, activations=DType.NVFP4),
        load=ServingLoad(
            mode=ServingMode.DISAGGREGATED,
            input_len=1024,
            output_len=512,
            concurrency=128,
            prefill=Pool(num_workers=2, attn_tp=1, attn_dp=4, expert_tp=1, ep=4, batch=1),
            decode=Pool(num_workers=1, attn_tp=8, attn_dp=1, expert_tp=8, ep=1),
            workers_stated=False,  # of the decode pool
        ),
        ttft_s=pytest.approx(0.1955),
        tpot_s=pytest.approx(0.00525),
    )
    assert row.origin.software == "vllm 0.19.0"


def test_an_aggregated_serving_row_has_one_pool(read):
    shared = {
        **{name: cell for name, cell in SERVING.items() if "fill_" not in name},
        "mode": "agg",
        "silicon_data_source": "image with mtp",
        "batch_size": "16",
        "tp_size": "4",
        "moe_tp_size": "4",
        "moe_ep_size": "1",
    }
    (row,) = read(shared, columns=SERVING_COLUMNS)
    assert row.load.prefill is row.load.decode
    assert row.load.decode == Pool(num_workers=1, attn_tp=4, attn_dp=1, expert_tp=4, ep=1, batch=16)
    assert (row.load.concurrency, row.load.mtp, row.machine.num_chips) == (None, True, 4)
    assert row.load.workers_stated


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("Qwen/Qwen3-235B-A22B-FP8", "qwen3-235b-a22b"),
        ("nvidia/DeepSeek-V3.1-NVFP4", "deepseek-v3"),
        ("meta-llama/Llama-3.1-8B-Instruct", "llama-3.1-8b"),
        ("openai/gpt-oss-120b", "gpt-oss-120b"),
    ],
)
def test_checkpoints_of_the_catalogue(path, name):
    assert catalogue_model(path) == name


@pytest.mark.parametrize(
    ("text", "overlap"),
    [("", None), ("unknown", None), ("none", frozenset()), ("ep", frozenset({Overlap.EP}))],
)
def test_overlap_that_is_unknown_is_not_none(read, text, overlap):
    assert read({**TRAIN, "overlap": text})[0].run.overlap == overlap


@pytest.mark.parametrize(
    ("note", "slices"),
    [
        ("batch x chips; 4 slices, data parallel", 4),
        ("2 pods of 3072 chips", 2),
        ("fully sharded over the slice", None),
    ],
)
def test_slices_are_read_from_the_note(read, note, slices):
    assert read({**TRAIN, "note": note})[0].machine.slices == slices


def test_a_layout_without_a_time_ran_out_of_memory(read):
    assert read({**TRAIN, "time_s": ""})[0].time_s is None


def test_spreadsheet_habits_do_not_matter(read):
    plain = read(TRAIN, DECODE)
    written = table(TRAIN, DECODE, newline="\r\n").replace(",64,", ",64.0,", 1)
    assert read(b"\xef\xbb\xbf" + written.encode()) == plain
    blank = "," * (len(COLUMNS) - 1)
    assert read(f"{table(TRAIN)}{blank}\n\n") == plain[:1]


def test_columns_that_a_file_does_not_need_may_be_absent(read):
    narrow = ("id", "kind", "topology", "num_chips", "time_s", "op", "bytes")
    row = {**DISPATCH, "op": "all_reduce"}
    (found,) = read({name: row[name] for name in narrow}, columns=narrow)
    assert (found.op, found.origin.source_group) == (Op.ALL_REDUCE, "")


def test_lines_are_counted_as_an_editor_does(read):
    broken = {**DECODE, "time_s": "fast"}
    with pytest.raises(CatalogError) as caught:
        read({**TRAIN, "note": "first\nsecond"}, broken)
    # Header 1, training 2 and 3.
    assert (caught.value.line, caught.value.field) == (4, "time_s")


@pytest.mark.parametrize(
    ("change", "field", "message"),
    [
        ({"kind": "training"}, "kind", "is 'training'"),
        ({"kind": ""}, "kind", "is empty"),
        ({"time_s": "3,5 s"}, "time_s", "not a number"),
        ({"time_s": "nan"}, "time_s", "finite"),
        ({"time_s": "inf"}, "time_s", "finite"),
        ({"time_s": "-1"}, "time_s", "zero or more"),
        ({"time_s": "0"}, "time_s", "above zero"),
        ({"num_chips": "8.5"}, "num_chips", "whole number of 1 or more"),
        ({"num_chips": "0"}, "num_chips", "whole number of 1 or more"),
        ({"num_chips": ""}, "num_chips", "is empty"),
        ({"num_chips": "1e30"}, "num_chips", "whole number"),
        ({"attn_tp": "0"}, "attn_tp", "whole number of 1 or more"),
        ({"topology": " "}, "topology", "is empty"),
        ({"model": ""}, "model", "is empty"),
        ({"id": ""}, "id", "is empty"),
        ({"global_batch": ""}, "global_batch", "is empty"),
        ({"seq_len": ""}, "seq_len", "is empty"),
        ({"weight_dtype": "fp7"}, "weight_dtype", "is 'fp7'"),
        ({"schedule": "2f2b"}, "schedule", "is '2f2b'"),
        ({"recompute": "some"}, "recompute", "is 'some'"),
        ({"sequence_parallel": "yes"}, "sequence_parallel", "is 'yes'"),
        ({"overlap": "tp+pp"}, "overlap", "is 'tp+pp'"),
        ({"quality": "D"}, "quality", "is 'D'"),
    ],
)
def test_a_wrong_cell_is_named(read, change, field, message):
    with pytest.raises(CatalogError) as caught:
        read(DECODE, {**TRAIN, **change})
    assert (caught.value.line, caught.value.field) == (3, field)
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ({**DECODE, "context_len": ""}, "context_len"),
        ({**REQUEST, "input_len": ""}, "input_len"),
        ({**REQUEST, "output_len": "0"}, "output_len"),
        ({**DISPATCH, "op": "gossip"}, "op"),
        ({**DISPATCH, "op": ""}, "op"),
        ({**DISPATCH, "bytes": ""}, "bytes"),
        ({**DISPATCH, "time_s": ""}, "time_s"),
        ({**DISPATCH, "top_k": ""}, "top_k"),
    ],
)
def test_each_kind_has_columns_of_its_own(read, row, field):
    with pytest.raises(CatalogError) as caught:
        read(row)
    assert (caught.value.line, caught.value.field) == (2, field)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"mode": "both"}, "mode"),
        ({"gemm_quant_mode": "fp3"}, "gemm_quant_mode"),
        ({"silicon_ttft_ms": "", "silicon_tpot_ms": ""}, "silicon_ttft_ms"),
        ({"silicon_tpot_ms": "soon"}, "silicon_tpot_ms"),
        ({"decode_pp_size": "2"}, "decode_pp_size"),
        ({"decode_tp_size": ""}, "decode_tp_size"),
        ({"isl": ""}, "isl"),
    ],
)
def test_a_wrong_cell_of_a_serving_row_is_named(read, change, field):
    with pytest.raises(CatalogError) as caught:
        read({**SERVING, **change}, columns=SERVING_COLUMNS)
    assert (caught.value.line, caught.value.field) == (2, field)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\xef\xbb\xbf\r\n\r\n", "is empty"),
        (b"\x89PNG\r\n\x1a\n\xff", "is not UTF-8 text"),
        (b"id,kind\0,topology\n", "is a binary file"),
        (table().encode(), "has a header but no rows"),
        (table(TRAIN).replace("attn_tp", "atn_tp").encode(), "unknown column 'atn_tp'"),
        (table(TRAIN).replace(",", ";").encode(), "unknown column"),
        (table(TRAIN).replace("time_s", "seq_len").encode(), "column is there twice"),
        (b"id,kind\nx,train\n", "column is missing"),
        (table(TRAIN).replace(",B\n", "\n").encode(), f"the header {len(COLUMNS)}"),
        (table(TRAIN).replace(",B\n", ",B,more\n").encode(), f"has {len(COLUMNS) + 1} cells"),
        (table(TRAIN).encode() + b'"open', "is not a CSV table"),
        (b"id" * 200_000 + b",kind\nx,y\n", "is not a CSV table"),
    ],
)
def test_what_is_no_table_is_refused(read, content, message):
    with pytest.raises(CatalogError) as caught:
        read(content)
    assert message in caught.value.message
    assert len(str(caught.value)) < 2000


def test_a_misspelt_column_gets_a_suggestion(read):
    with pytest.raises(CatalogError) as caught:
        read(table(TRAIN).replace("attn_tp", "atn_tp"))
    assert caught.value.remedy.startswith("did you mean attn_tp?")
    assert (caught.value.line, caught.value.field) == (1, "atn_tp")


def test_an_id_is_used_once(read):
    with pytest.raises(CatalogError) as caught:
        read(TRAIN, DECODE, {**DECODE, "id": "t1"})
    assert (caught.value.line, caught.value.field) == (4, "id")
    assert "line 2" in caught.value.message


def test_missing_huge_and_wrong_files(tmp_path):
    huge = tmp_path / "huge.csv"
    with huge.open("wb") as file:
        file.truncate(2**27)  # sparse
    for path, message in (
        (tmp_path / "none.csv", "no such file"),
        (tmp_path, "is a folder"),
        (huge, "is larger than 64 MiB"),
    ):
        with pytest.raises(CatalogError, match=message):
            read_measured(str(path))


def test_ids_with_comments_and_blank_lines(tmp_path):
    path = tmp_path / "ids.txt"
    path.write_bytes(b"# scored elsewhere\r\na-1\r\n\r\n  b-2  # why\r\na-1\r\n")
    assert read_ids(str(path)) == {"a-1", "b-2"}
    path.write_text("a-1, b-2\n")
    with pytest.raises(CatalogError, match="more than one id") as caught:
        read_ids(str(path))
    assert caught.value.line == 1


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        (
            "visible.csv",
            {"train": 504, "prefill": 81, "decode": 78, "request": 139, "collective": 488},
        ),
        ("oom_visible.csv", {"train": 170}),
        ("serving_visible.csv", {"serving": 2692}),
    ],
)
def test_the_published_rows_are_read_completely(name, counts):
    found = {}
    for row in read_measured(str(MEASURED / name)):
        kind = "collective" if isinstance(row, CollectiveRow) else "serving"
        if isinstance(row, RunRow):
            kind = row.run.kind.value
            # The tables promise it for every row.
            assert row.run.mesh.num_chips == row.machine.num_chips
        found[kind] = found.get(kind, 0) + 1
    assert found == counts
