"""Launch configurations of training engines against what their own sources accept."""

import ast
import tomllib

import pytest
import yaml
from engine_grammar import LWS
from jsonschema import Draft202012Validator
from train_factory import question, train_degrees, train_layout_for

from planner.catalog.deployed_megatron import read_megatron
from planner.catalog.megatron_layout import layers_of_layout
from planner.deployment.train_express import even_counts, express_training
from planner.domain.deployment import Engine
from planner.domain.dtypes import DType
from planner.domain.run import Recompute, ScheduleKind
from planner.errors import SpecError
from planner.export.engines.maxtext import split_axes
from planner.export.engines.megatron import layout_string
from planner.export.engines.request import ExportOptions
from planner.export.training_export import export_training

# Fields of the sections that are written: config/job_config.py of v0.2.2, config/configs.py of
# @b5bcd76.
OLD = {
    "parallelism": {
        *("data_parallel_replicate_degree", "data_parallel_shard_degree"),
        *("fsdp_reshard_after_forward", "tensor_parallel_degree", "context_parallel_degree"),
        *("pipeline_parallel_degree", "expert_parallel_degree", "pipeline_parallel_schedule"),
        *("expert_tensor_parallel_degree", "module_fqns_per_model_part"),
        *("pipeline_parallel_microbatch_size", "enable_async_tensor_parallel"),
    },
    "training": {"local_batch_size", "global_batch_size", "seq_len"},
    "compile": {"enable"},
    "activation_checkpoint": {"mode"},
}
NEW = {
    "parallelism": {
        *("data_parallel_replicate_degree", "data_parallel_shard_degree"),
        *("fsdp_reshard_after_forward", "tensor_parallel_degree", "context_parallel_degree"),
        *("pipeline_parallel_degree", "expert_parallel_degree", "pipeline_parallel_schedule"),
        *("module_fqns_per_model_part", "enable_sequence_parallel", "num_pp_microbatches"),
    },
    "training": {
        *("num_tokens_per_microbatch_per_dp_rank", "num_tokens_per_train_step"),
        "max_context_length",
    },
    "compile": {"enable", "enable_async_tensor_parallel"},
}


def files(degrees, engine, asked=None, version=None):
    layout = train_layout_for(degrees, asked)
    artifact = export_training(layout, engine, ExportOptions(version=version))
    return artifact, {name: content.decode() for name, content in artifact.files}


def staged(**given):
    own = {"tp": 2, "dp": 2, "pp": 4, "sequence_parallel": True, "zero_stage": 2, **given}
    return train_degrees(**own)


# The engine's own examples (executed there): layers of each stage.
@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("Et*10|t*12|t*12|t*11L", (10, 12, 12, 11)),
        ("Et*3|(tt|)*14mL", (3, *(2,) * 14, 0)),
        ("Ettt|(tt|)*29m|L", (3, *(2,) * 29, 0, 0)),
        ("E,t | tL", (1, 1)),
    ],
)
def test_layout_strings_of_megatron(text, counts):
    assert layers_of_layout(text) == counts


@pytest.mark.parametrize(
    ("text", "message"),
    [
        # The text of the engine's own --help fails its own check.
        ("E|(t|)*3,m|m||L", "two stages"),
        ("t|tL", "embedding"),
        ("Et|t", "loss"),
        ("Emt|tL", "before the last"),
        ("Ex|tL", "letter"),
        ("E((t|)*2)*2L", "letter"),
        ("Et*9999(t*9999|)*9999L", "too long"),
    ],
)
def test_layout_strings_that_megatron_refuses(text, message):
    with pytest.raises(ValueError, match=message):
        layers_of_layout(text)


def test_layout_strings_are_written_as_they_are_read():
    for counts in ((10, 12, 12, 11), (0, 1, 2, 3), (5,)):
        assert layers_of_layout(layout_string(counts, 1)) == counts
    assert layout_string((3, 0, 2), 1) == "Et*3||ttmL"


def test_even_counts_spare_the_chunks_with_tables():
    # 61 over 4: 15 each, the one that is left over to the second.
    assert even_counts(61, 4) == (15, 16, 15, 15)
    assert even_counts(63, 4) == (16, 16, 16, 15)
    assert even_counts(5, 2) == (3, 2)


def test_megatron_says_degrees_layout_and_policies():
    degrees = staged(recompute=Recompute.SELECTIVE, zero_stage=1, overlap=("dp", "tp"))
    artifact, found = files(degrees, Engine.MEGATRON, question(gradients=DType.BF16))
    text = found["launch.sh"].replace(" \\\n  ", " ")
    assert artifact.as_planned and artifact.chips == 16
    for words in (
        "--nnodes 2 --nproc-per-node 8 --node-rank 1 --master-addr n0",
        "--tensor-model-parallel-size 2 --pipeline-model-parallel-size 4",
        "--pipeline-model-parallel-layout 'Et*8|t*8|t*8|t*8L'",
        "--micro-batch-size 1 --global-batch-size 48",
        "--use-distributed-optimizer --overlap-grad-reduce --overlap-param-gather",
        "--tp-comm-overlap",
        "--recompute-granularity selective --recompute-modules core_attn",
        "--grad-reduce-in-bf16 --bf16 $MODEL_ARGS",
    ):
        assert words in text, words
    assert found["hostfile.0"].split() == ["n0"] * 8 + ["n1"] * 8


def test_megatron_fsdp_has_its_own_checkpoints():
    _, found = files(staged(zero_stage=3), Engine.MEGATRON)
    text = found["launch.sh"].replace(" \\\n  ", " ")
    assert "--use-megatron-fsdp --data-parallel-sharding-strategy optim_grads_params" in text
    # FSDP refuses the variable that tensor parallelism asks for elsewhere.
    assert "--ckpt-format fsdp_dtensor" in text and "CUDA_DEVICE_MAX_CONNECTIONS" not in text


@pytest.mark.parametrize("kind", [ScheduleKind.DUALPIPE, ScheduleKind.ZB_H1, ScheduleKind.ZB_V])
def test_schedules_that_megatron_lacks_are_priced(kind):
    degrees = staged(schedule=kind, zero_stage=1, microbatches=24)
    layout = train_layout_for(degrees)
    found = express_training(layout, Engine.MEGATRON)
    assert f"schedule {kind.value}" in found.notes[0]
    assert found.layout.degrees.schedule in (ScheduleKind.ONE_F_ONE_B, ScheduleKind.INTERLEAVED)
    change = found.layout.prediction.step_s / layout.prediction.step_s - 1
    assert found.notes[-1].split(", ")[1].endswith("worse" if change > 0 else "better")


def test_torchtitan_toml_has_known_fields():
    _, found = files(staged(), Engine.TORCHTITAN, version="0.2.2")
    values = tomllib.loads(found["torchtitan.toml"])
    for section, own in values.items():
        assert set(own) <= OLD[section]
    own = values["parallelism"]
    degrees = ("data_parallel_replicate_degree", "data_parallel_shard_degree")
    product = own[degrees[0]] * own[degrees[1]] * own["tensor_parallel_degree"]
    assert product * own["pipeline_parallel_degree"] * own["context_parallel_degree"] == 16
    parts = own["module_fqns_per_model_part"]
    assert parts[0][0] == "tok_embeddings" and parts[-1][-2:] == ["norm", "output"]
    assert sum(name.startswith("layers.") for part in parts for name in part) == 32
    # 24 microbatches of one sequence on each of two ranks.
    assert values["training"] == {
        "local_batch_size": 24,
        "global_batch_size": 48,
        "seq_len": 4096,
    }


def test_torchtitan_python_sets_known_fields():
    degrees = staged(recompute=Recompute.FULL)
    _, found = files(degrees, Engine.TORCHTITAN)
    tree = ast.parse(found["planner_config.py"])
    seen = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0].value, ast.Attribute):
            section, name = node.targets[0].value.attr, node.targets[0].attr
            assert name in NEW[section]
            seen.add(name)
    assert "num_pp_microbatches" in seen
    assert "FullAC.Config()" in found["planner_config.py"]
    assert "--module $MODULE --config $CONFIG" in found["launch.sh"].replace(" \\\n  ", " ")


def test_torchtitan_has_no_first_stage_of_zero():
    found = express_training(train_layout_for(staged(zero_stage=1)), Engine.TORCHTITAN)
    assert any("ZeRO stage 1" in note for note in found.notes)
    assert found.layout.degrees.zero_stage in (0, 2)


def test_maxtext_axes_multiply_to_the_chips():
    degrees = train_degrees(tp=2, dp=16, zero_stage=3, overlap=("dp", "ep", "tp"), microbatch=3)
    artifact, found = files(degrees, Engine.MAXTEXT)
    words = found["launch.sh"].replace(" \\\n  ", " ").splitlines()[-1].split()
    values = dict(word.split("=") for word in words if "=" in word)
    product = 1
    for key, value in values.items():
        if key.endswith("_parallelism"):
            product *= int(value)
    assert artifact.as_planned and product == artifact.chips == 32
    # Four nodes of eight: TP 2 and a quarter of FSDP 16 inside.
    assert (values["ici_fsdp_parallelism"], values["dcn_fsdp_parallelism"]) == ("4", "4")
    # One step of 48 sequences on 32 devices.
    assert float(values["per_device_batch_size"]) == 1.5
    assert values["remat_policy"] == "full" and values["model_name"] == "$MODEL"


def test_maxtext_divides_the_outermost_axes_between_slices():
    layout = train_layout_for(train_degrees(tp=2, dp=4, pp=4, zero_stage=0))
    told = express_training(layout, Engine.MEGATRON)
    from planner.deployment.train_express import told_training, training_case

    case, _ = training_case(layout)
    own = told_training(told, case.model)
    axes = split_axes(own, 8)
    assert axes["pipeline"] == (1, 4) and axes["data"] == (2, 2)
    with pytest.raises(SpecError, match="3 slices"):
        split_axes(own, 3)


def test_options_of_serving_are_refused():
    layout = train_layout_for(staged())
    with pytest.raises(SpecError, match="--max-context"):
        export_training(layout, Engine.MEGATRON, ExportOptions(max_context=4096))


@pytest.mark.parametrize("engine", [Engine.MEGATRON, Engine.TORCHTITAN])
def test_manifests_start_all_chips(engine, tmp_path):
    artifact, found = files(staged(zero_stage=2), engine)
    manifest = yaml.safe_load(found["lws.yaml"])
    Draft202012Validator(LWS).validate(manifest)
    template = manifest["spec"]["leaderWorkerTemplate"]
    container = template["workerTemplate"]["spec"]["containers"][0]
    assert template["size"] * int(container["resources"]["limits"]["nvidia.com/gpu"]) == 16
    assert artifact.chips == 16
    line = container["command"][2]
    assert "--node-rank $(LWS_WORKER_INDEX) --master-addr $(LWS_LEADER_ADDRESS)" in line
    assert line.endswith("$MODEL_ARGS") or "--module $MODULE --config $CONFIG" in line
    if engine is Engine.MEGATRON:
        path = tmp_path / "lws.yaml"
        path.write_text(found["lws.yaml"])
        assert read_megatron(str(path)).told.degrees == staged(zero_stage=2)
