"""Training runs read from launch lines and configurations, and what is wrong with some."""

import pytest

from planner.catalog.deployed_maxtext import read_maxtext
from planner.catalog.deployed_megatron import read_megatron
from planner.catalog.deployed_torchtitan import read_torchtitan
from planner.domain.dtypes import DType
from planner.domain.run import Recompute, ScheduleKind
from planner.errors import CatalogError

MEGATRON = (
    "--world-size 64 --tensor-model-parallel-size 4 --pipeline-model-parallel-size 4 "
    "--micro-batch-size 2 --global-batch-size 64 --seq-length 4096 --num-layers 32 "
)


def megatron(more=""):
    return read_megatron("--flags", MEGATRON + more).told


def test_megatron_works_out_data_parallelism_and_microbatches():
    # 64 chips / (4 x 4) = DP 4; 64 sequences / (2 x 4) = 8 microbatches.
    d = megatron().degrees
    assert (d.dp, d.microbatches, d.schedule) == (4, 8, ScheduleKind.ONE_F_ONE_B)
    assert (d.zero_stage, d.recompute, d.sequence_parallel) == (0, Recompute.NONE, False)


@pytest.mark.parametrize(
    ("more", "virtual", "counts"),
    [
        ("--num-layers-per-virtual-pipeline-stage 2", 4, None),
        ("--num-virtual-stages-per-pipeline-rank 2", 2, None),
        ("--decoder-first-pipeline-num-layers 6 --decoder-last-pipeline-num-layers 6", 1,
         (6, 10, 10, 6)),
        ("--decoder-first-pipeline-num-layers 5", 1, (5, 9, 9, 9)),
        ("--pipeline-model-parallel-layout 'Et*7|t*9|t*9|t*7L'", 1, (7, 9, 9, 7)),
        ("--pipeline-model-parallel-layout 'E(t*4|)*7t*4L'", 2, (4,) * 8),
    ],
)  # fmt: skip
def test_megatron_splits(more, virtual, counts):
    told = megatron(more)
    assert (told.degrees.virtual_stages, told.chunk_layers) == (virtual, counts)


def test_megatron_accounts_for_tables():
    # (30 + 2) / 4 = 8 each, less one for the embedding and one for the loss.
    more = "--account-for-embedding-in-pipeline-split --account-for-loss-in-pipeline-split"
    told = read_megatron("--flags", MEGATRON.replace("layers 32", "layers 30") + more).told
    assert told.chunk_layers == (7, 8, 8, 7)


def test_megatron_policies():
    told = megatron(
        "--use-megatron-fsdp --sequence-parallel --overlap-grad-reduce --tp-comm-overlap "
        "--recompute-granularity full --num-experts 8 --expert-model-parallel-size 8 "
        "--fp8-format hybrid --fp8-recipe mxfp8 --exp-avg-dtype bf16 --grad-reduce-in-bf16"
    )
    d = told.degrees
    assert (d.zero_stage, d.recompute, d.overlap) == (3, Recompute.FULL, ("dp", "tp"))
    # The split inside an expert is that of attention unless it is said.
    assert (d.ep, d.expert_tp) == (8, 4)
    assert (told.activations, told.optimizer_state, told.gradients) == (
        DType.MXFP8, "bf16", "bf16",
    )  # fmt: skip


def test_torchtitan_toml_defaults():
    text = (
        "[parallelism]\ndata_parallel_shard_degree = 8\npipeline_parallel_degree = 2\n"
        "pipeline_parallel_schedule = 'Interleaved1F1B'\n[training]\nlocal_batch_size = 4\n"
    )
    d = read_torchtitan("--flags", text).told.degrees
    # Two chunks per rank, gathered weights kept in a pipeline, selective recomputation.
    assert (d.virtual_stages, d.zero_stage, d.recompute) == (2, 2, Recompute.SELECTIVE)
    assert (d.dp, d.microbatch, d.microbatches) == (8, 1, 4)


def test_maxtext_line():
    text = (
        "python3 -m MaxText.train base.yml ici_fsdp_parallelism=16 ici_tensor_parallelism=4 "
        "dcn_data_parallelism=1 per_device_batch_size=0.5 gradient_accumulation_steps=2 steps=3"
    )
    found = read_maxtext("--flags", text)
    d = found.told.degrees
    assert (d.dp, d.tp, d.zero_stage, d.recompute) == (16, 4, 3, Recompute.FULL)
    # Half a sequence on each of 64 devices, twice: 64 sequences, 2 on each of 16 ranks per step.
    assert (found.told.global_batch, d.microbatch, d.microbatches) == (64, 2, 2)
    assert found.unread == ("steps",)


BAD = [
    (read_megatron, "--micro-batch-size 1\n", "--nproc-per-node"),
    (read_megatron, MEGATRON + "--context-parallel-size 5", "does not divide 64 chips"),
    (read_megatron, MEGATRON.replace("size 64 --seq", "size 63 --seq"), "does not divide"),
    (read_megatron, MEGATRON + "--pipeline-model-parallel-layout Et", "loss"),
    (read_megatron, MEGATRON + "--pipeline-model-parallel-layout 'Et|tL'", "PP 4 does not divide"),
    (read_megatron, MEGATRON + "--recompute-granularity half", "full or selective"),
    (read_megatron, MEGATRON + "--optimizer sgd", "not priced"),
    (read_megatron, MEGATRON + "--tensor-model-paralel-size 2", "did you mean"),
    (read_megatron, MEGATRON + "--num-layers-per-virtual-pipeline-stage 3", "divide"),
    (read_megatron, MEGATRON + "--decoder-first-pipeline-num-layers 40", "leaves"),
    (read_torchtitan, "[parallelism]\n", "no parallelism"),
    (read_torchtitan, "[parallelism]\ntensor_parallel_degree = 'x'\n", ":2: field 'parallelism."),
    (read_torchtitan, "[parallelism]\ntensor_parallel_degree = 2\n", "what is left"),
    (read_torchtitan, "[parallelism\n", ":1: is not valid TOML"),
    (read_torchtitan, "[activation_checkpoint]\nmode = 'some'\n", "not priced"),
    (read_maxtext, "python3 train.py steps=3", "starts no MaxText"),
    (read_maxtext, "x ici_fsdp_parallelism=-1", "what is left"),
    (read_maxtext, "x ici_sequence_parallelism=2", "not priced"),
    (read_maxtext, "x ici_fsdp_parallelism=2 \\\n remat_policy=custom", ":2: field 'remat_policy'"),
    (read_maxtext, "x ici_fsdp_parallelism=2 per_device_batch_size=0.3", "no number of sequences"),
]


@pytest.mark.parametrize(("reader", "text", "message"), BAD)
def test_malformed_runs_say_what_is_wrong(reader, text, message):
    with pytest.raises(CatalogError) as caught:
        reader("--flags", text)
    assert message in str(caught.value)


def test_python_is_parsed_and_never_run(tmp_path):
    path = tmp_path / "c.py"
    path.write_text(
        "import os\nos.abort()\ndef planned(config):\n"
        "    config.parallelism.data_parallel_shard_degree = 4\n"
        "    config.training.local_batch_size = 2\n"
    )
    assert read_torchtitan(str(path)).told.degrees.dp == 4
    path.write_text("config.parallelism.tensor_parallel_degree = open('x')\n")
    with pytest.raises(CatalogError, match="no plain value") as caught:
        read_torchtitan(str(path))
    assert caught.value.line == 1
    path.write_text("def (\n")
    with pytest.raises(CatalogError, match="no Python"):
        read_torchtitan(str(path))
