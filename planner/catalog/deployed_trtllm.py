"""Reading TensorRT-LLM deployments (``llmapi/llm_args.py`` of the 1.3 line)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from planner.catalog.deployed import KV_FORMATS, Deployed, beside, commands_of, is_yaml
from planner.catalog.flags import Flags, FlagTable, parse_flags
from planner.catalog.launch_text import Word
from planner.catalog.yaml_text import YamlFile, read_yaml
from planner.domain.deployment import Engine, PoolRole, ServingDeployment
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
        *("speculative_config", "cuda_graph_config", "cache_transceiver_config"),
        "disable_overlap_scheduler",
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


@dataclass(frozen=True, kw_only=True, slots=True)
class _Workers:
    """Equal workers: what they are told, and how many there are."""

    config: _Config
    count: int


def _start(path: str, text: str | None) -> tuple[list[_Workers], str | None, list[str]]:
    """Workers by what they are told, model, and unread flags."""
    if text is None and is_yaml(path):
        return [_Workers(config=_Config(read_yaml(path), {}), count=1)], None, []
    launches: list[tuple[Flags, tuple[Word, ...]]] = []
    for command in commands_of(path, text):
        texts = [word.text for word in command.words]
        places = [at for at, text in enumerate(texts) if text.endswith("trtllm-serve")]
        if not places and text is not None and texts[0].startswith("-"):
            places = [-1]
        # "disaggregated" is the router in front of the workers.
        if places and "disaggregated" not in texts:
            launches.append(parse_flags(command.words[places[0] + 1 :], TABLE, path))
    if not launches:
        raise CatalogError(
            "starts no trtllm-serve", file=path, remedy="name its launch lines, or its YAML"
        )
    told: dict[str | None, list[Flags]] = {}
    for flags, _ in launches:
        told.setdefault(flags.text("--config"), []).append(flags)
    model = next((word.text for word in launches[0][1] if word.text != "serve"), None)
    unread = [name for flags, _ in launches for name in flags.unread]
    return [_workers(path, named, own) for named, own in told.items()], model, unread


def _workers(path: str, named: str | None, launches: list[Flags]) -> _Workers:
    first = launches[0]
    for other in launches[1:]:
        for name in sorted(set(first.values) | set(other.values)):
            if name not in ("--port", "--host") and first.text(name) != other.text(name):
                other.fail(name, "differs between launch lines", "name one deployment")
    numbers = {
        name: first.whole(name, 1)
        for name in first.values
        if not name.startswith("--") and name != "kv_cache_free_gpu_memory_fraction"
    }
    found = YamlFile(file=path, root={}, lines={})
    if named is not None:
        found = read_yaml(beside(path, named))
    return _Workers(config=_Config(found, numbers), count=len(launches))


def _role(config: _Config) -> PoolRole | None:
    """Context servers have no step to overlap; both kinds send or fetch caches."""
    if "cache_transceiver_config" not in config.root:
        return None
    prefills = config.root.get("disable_overlap_scheduler") is True
    return PoolRole.PREFILL if prefills else PoolRole.DECODE


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
    workers, model, unread = _start(path, text)
    roles = [_role(own.config) for own in workers]
    pools = dict(zip(roles, workers, strict=True))
    if len(pools) < len(workers) or (len(workers) > 1 and None in pools):
        raise CatalogError(
            "starts workers that are told different things",
            file=path,
            remedy="name one deployment, or both pools of one",
        )
    if len(workers) == 1:
        pools = {PoolRole.DECODE: workers[0]}
    prefill = pools.get(PoolRole.PREFILL)
    unread += [key for own in workers for key in map(str, own.config.root) if key not in _READ]
    return Deployed(
        file=path,
        told=_told(pools[PoolRole.DECODE]),
        prefill=None if prefill is None else _told(prefill),
        model=model,
        unread=tuple(dict.fromkeys(unread)),
    )


def _told(workers: _Workers) -> ServingDeployment:
    config = workers.config
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
    return ServingDeployment(
        engine=Engine.TRTLLM,
        tp=1 if adp else size,
        dp=size if adp else 1,
        cp=cp,
        pp=config.whole("pipeline_parallel_size", 1) or 1,
        ep=ep,
        instances=workers.count,
        stage_layers=_partition(config),
        max_sequences=config.whole("max_batch_size", None),
        token_budget=config.whole("max_num_tokens", None),
        max_context=config.whole("max_seq_len", None),
        kv=_kv(config),
        draft=_drafts(config),
        total_slots=slots,
        placement=placement,
        rebalances=rebalances,
        role=_role(config),
    )


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
