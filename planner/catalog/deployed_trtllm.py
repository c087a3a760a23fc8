"""Reading TensorRT-LLM deployments (``llmapi/llm_args.py`` of the 1.3 line)."""

from __future__ import annotations

from typing import Any

from planner.catalog.deployed import KV_FORMATS, Deployed, beside, commands_of, is_yaml
from planner.catalog.flags import FlagTable, parse_flags
from planner.catalog.yaml_text import YamlFile, read_yaml
from planner.domain.deployment import Engine, ServingDeployment
from planner.domain.dtypes import DType
from planner.errors import CatalogError

TABLE = FlagTable(
    valued={
        "--config": "--config",
        "--extra-llm-api-options": "--config",
        "--tp-size": "tensor_parallel_size",
        "--pp-size": "pipeline_parallel_size",
        "--cp-size": "context_parallel_size",
        "--ep-size": "moe_expert_parallel_size",
        "--gpus-per-node": "gpus_per_node",
        "--max-batch-size": "max_batch_size",
        "--max-num-tokens": "max_num_tokens",
        "--max-seq-len": "max_seq_len",
        "--kv-cache-free-gpu-memory-fraction": "kv_cache_free_gpu_memory_fraction",
        "--port": "--port",
        "--host": "--host",
    },
    switches={},
)
_READ = frozenset(
    {
        *("tensor_parallel_size", "pipeline_parallel_size", "context_parallel_size"),
        *("cp_config", "moe_expert_parallel_size", "moe_tensor_parallel_size"),
        *("gpus_per_node", "enable_attention_dp", "pp_partition", "max_batch_size"),
        *("max_num_tokens", "max_seq_len", "kv_cache_config", "moe_config"),
        *("speculative_config", "cuda_graph_config"),
    }
)


class _Config:
    """The YAML, with values of the command line below it."""

    def __init__(self, found: YamlFile, line_values: dict[str, int]) -> None:
        self.found = found
        self.given = line_values
        root = found.root
        if root is None:
            root = {}
        if not isinstance(root, dict):
            raise CatalogError("is no mapping", file=found.file, line=1)
        self.root: dict[Any, Any] = root

    def whole(self, name: str, default: int | None, *path: str) -> int | None:
        """A whole number above zero."""
        own: Any = self.root
        for step in path:
            own = own.get(step) if isinstance(own, dict) else None
        value = own.get(name) if isinstance(own, dict) else None
        if value is None:
            return self.given.get(name, default) if not path else default
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 10**9:
            raise self.found.fail(
                (*path, name), f"is {str(value)[:40]!r}; a whole number of 1 or more is expected"
            )
        return value

    def member(self, name: str) -> dict[str, Any]:
        """A mapping; empty where it is absent."""
        own = self.root.get(name)
        if own is None:
            return {}
        if not isinstance(own, dict):
            raise self.found.fail((name,), "is no mapping")
        return own


def _start(path: str, text: str | None) -> tuple[_Config, str | None, int, list[str]]:
    """Config, model, instances, and unread flags."""
    if text is None and is_yaml(path):
        return _Config(read_yaml(path), {}), None, 1, []
    launches = []
    for command in commands_of(path, text):
        texts = [word.text for word in command.words]
        places = [at for at, text in enumerate(texts) if text.endswith("trtllm-serve")]
        if not places and text is not None and texts[0].startswith("-"):
            places = [-1]
        if places:
            launches.append(parse_flags(command.words[places[0] + 1 :], TABLE, path))
    if not launches:
        raise CatalogError(
            "starts no trtllm-serve", file=path, remedy="name its launch lines, or its YAML"
        )
    flags, rest = launches[0]
    for other, _ in launches[1:]:
        for name in sorted(set(flags.values) | set(other.values)):
            if name not in ("--port", "--host") and flags.text(name) != other.text(name):
                other.fail(name, "differs between launch lines", "name one deployment")
    numbers = {
        name: flags.whole(name, 1)
        for name in flags.values
        if not name.startswith("--") and name != "kv_cache_free_gpu_memory_fraction"
    }
    named = flags.text("--config")
    found = YamlFile(file=path, root={}, lines={})
    if named is not None:
        found = read_yaml(beside(path, named))
    model = next((word.text for word in rest if word.text != "serve"), None)
    return _Config(found, numbers), model, len(launches), flags.unread


def read_trtllm(path: str, text: str | None = None) -> Deployed:
    """Read launch lines with their YAML, or the YAML alone.

    Parameters
    ----------
    text : str, optional
        Launch lines, or flags alone, in place of the file.

    Raises
    ------
    CatalogError
        A file cannot be read, starts no TensorRT-LLM, or has a value that is wrong; names the
        line.
    """
    config, model, instances, unread = _start(path, text)
    size = config.whole("tensor_parallel_size", 1) or 1
    cp = config.whole("context_parallel_size", 1) or 1
    adp = config.root.get("enable_attention_dp", False)
    if not isinstance(adp, bool):
        raise config.found.fail(("enable_attention_dp",), "is neither true nor false")
    if cp > 1 and str(config.member("cp_config").get("cp_type", "")).upper() != "HELIX":
        raise config.found.fail(
            ("context_parallel_size",), "shares prompts, which a decode layout does not know"
        )
    stage = size * cp
    moe_tp = config.whole("moe_tensor_parallel_size", None)
    ep = config.whole("moe_expert_parallel_size", None)
    if ep is None:
        ep = 1 if moe_tp is None else stage // moe_tp
    if stage % ep or (moe_tp is not None and moe_tp * ep != stage):
        raise config.found.fail(
            ("moe_expert_parallel_size",),
            f"EP {ep} x MoE TP {moe_tp or '?'} is not the {stage} ranks of a stage",
        )
    slots, placement, rebalances = _placement(config)
    told = ServingDeployment(
        engine=Engine.TRTLLM,
        tp=1 if adp else size,
        dp=size if adp else 1,
        cp=cp,
        pp=config.whole("pipeline_parallel_size", 1) or 1,
        ep=ep,
        instances=instances,
        stage_layers=_partition(config),
        max_sequences=config.whole("max_batch_size", None),
        token_budget=config.whole("max_num_tokens", None),
        max_context=config.whole("max_seq_len", None),
        kv=_kv(config),
        draft=_drafts(config),
        total_slots=slots,
        placement=placement,
        rebalances=rebalances,
    )
    unread += [str(key) for key in config.root if key not in _READ]
    return Deployed(file=path, told=told, model=model, unread=tuple(dict.fromkeys(unread)))


def _partition(config: _Config) -> tuple[int, ...] | None:
    own = config.root.get("pp_partition")
    if own is None:
        return None
    if not isinstance(own, list) or not all(isinstance(n, int) and n > 0 for n in own):
        raise config.found.fail(("pp_partition",), "is no list of layers per stage")
    return tuple(own)


def _kv(config: _Config) -> DType | None:
    text = config.member("kv_cache_config").get("dtype", "auto")
    if text == "auto":
        return None
    if text not in KV_FORMATS:
        raise config.found.fail(
            ("kv_cache_config", "dtype"), f"is {str(text)[:40]!r}, a format that is not known"
        )
    return KV_FORMATS[text]


def _drafts(config: _Config) -> int:
    own = config.member("speculative_config")
    if not own:
        return 0
    for name in ("max_draft_len", "num_nextn_predict_layers"):
        found = config.whole(name, None, "speculative_config")
        if found is not None:
            return found
    raise config.found.fail(("speculative_config",), "has no max_draft_len")


def _placement(
    config: _Config,
) -> tuple[int | None, tuple[tuple[int, tuple[int, ...]], ...] | None, bool]:
    """Slots of a layer, fixed placement, and whether it changes while it runs."""
    named = config.member("moe_config").get("load_balancer")
    if named is None:
        return None, None, False
    if isinstance(named, str):
        found = read_yaml(beside(config.found.file, named))
        prefix: tuple[str, ...] = ()
        root = found.root
    else:
        found, prefix, root = config.found, ("moe_config", "load_balancer"), named
    if not isinstance(root, dict):
        raise found.fail(prefix, "is no mapping")
    slots = root.get("num_slots")
    if slots is not None and (not isinstance(slots, int) or slots < 1):
        raise found.fail((*prefix, "num_slots"), "is no number of slots")
    updates = root.get("layer_updates_per_iter", 0)
    rows = root.get("initial_global_assignments")
    if rows is None:
        return slots, None, bool(updates)
    if not isinstance(rows, dict):
        raise found.fail((*prefix, "initial_global_assignments"), "is no mapping of layers")
    placement = []
    for layer, row in rows.items():
        path = (*prefix, "initial_global_assignments", layer)
        if not isinstance(layer, int) or layer < 0:
            raise found.fail(path, "is no model layer")
        if not isinstance(row, list) or not all(isinstance(e, int) for e in row):
            raise found.fail(path, "is no list of experts")
        if slots is not None and len(row) != slots:
            raise found.fail(path, f"has {len(row)} slots, num_slots says {slots}")
        placement.append((layer, tuple(row)))
    return slots, tuple(placement), bool(updates)
