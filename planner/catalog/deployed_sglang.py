"""Reading SGLang deployments (``srt/server_args.py`` of 0.5.10 to 0.5.23)."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from planner.catalog.deployed import (
    Deployed,
    Launch,
    beside,
    by_role,
    check_agreement,
    kv_format,
    launches_of,
    variable,
)
from planner.catalog.flags import Flags, FlagTable
from planner.catalog.launch_text import ShellCommand
from planner.catalog.loads import MAX_FILE_BYTES, read_bytes
from planner.domain.deployment import Engine, PoolRole, ServingDeployment
from planner.errors import CatalogError

PARTITION = "SGLANG_PP_LAYER_PARTITION"
TABLE = FlagTable(
    valued={
        "--tp-size": "--tp-size",
        "--tensor-parallel-size": "--tp-size",
        "--tp": "--tp-size",
        "--pp-size": "--pp-size",
        "--pipeline-parallel-size": "--pp-size",
        "--dp-size": "--dp-size",
        "--data-parallel-size": "--dp-size",
        "--dp": "--dp-size",
        "--attn-dp-size": "--attn-dp-size",
        "--ep-size": "--ep-size",
        "--expert-parallel-size": "--ep-size",
        "--ep": "--ep-size",
        "--moe-dp-size": "--moe-dp-size",
        "--attn-cp-size": "--attn-cp-size",
        "--dcp-size": "--dcp-size",
        "--moe-dense-tp-size": "--moe-dense-tp-size",
        "--moe-a2a-backend": "--moe-a2a-backend",
        "--ep-num-redundant-experts": "--ep-num-redundant-experts",
        "--init-expert-location": "--init-expert-location",
        "--max-running-requests": "--max-running-requests",
        "--chunked-prefill-size": "--chunked-prefill-size",
        "--context-length": "--context-length",
        "--kv-cache-dtype": "--kv-cache-dtype",
        "--speculative-algorithm": "--speculative-algorithm",
        "--speculative-num-steps": "--speculative-num-steps",
        "--speculative-num-draft-tokens": "--speculative-num-draft-tokens",
        "--speculative-eagle-topk": "--speculative-eagle-topk",
        "--disaggregation-mode": "--disaggregation-mode",
        "--disaggregation-transfer-backend": "--disaggregation-transfer-backend",
        "--disaggregation-bootstrap-port": "--disaggregation-bootstrap-port",
        "--nnodes": "--nnodes",
        "--node-rank": "--node-rank",
        "--dist-init-addr": "--dist-init-addr",
        "--model-path": "--model-path",
        "--model": "--model-path",
        "--config": "--config",
        "--host": "--host",
        "--port": "--port",
    },
    switches={
        "--enable-dp-attention": "--enable-dp-attention",
        "--enable-two-batch-overlap": "--enable-two-batch-overlap",
        "--enable-eplb": "--enable-eplb",
    },
    ignored=frozenset(
        {
            *("--cuda-graph-max-bs", "--cuda-graph-max-bs-decode", "--cuda-graph-max-bs-prefill"),
            *("--deepep-mode", "--ep-dispatch-algorithm", "--speculative-draft-model-path"),
            *("--enable-single-batch-overlap", "--trust-remote-code", "--mem-fraction-static"),
        }
    ),
    others=frozenset({"--moe-data-parallel-size", "--dwdp-size"}),
)
_PLACE = frozenset(
    {
        *("--nnodes", "--node-rank", "--dist-init-addr", "--host", "--port"),
        "--disaggregation-bootstrap-port",
    }
)
# Backends that do not force the experts over all ranks of a stage.
_FREE_BACKENDS = ("none", "ascend_tp")


class _Map(msgspec.Struct):
    physical_to_logical_map: list[list[int]]


def _is_sglang(command: ShellCommand) -> int | None:
    texts = [word.text for word in command.words]
    if "sglang.launch_server" in texts:
        return texts.index("sglang.launch_server") + 1
    if command.has("sglang") and "serve" in texts:
        return texts.index("serve") + 1
    return None


def _expert_ranks(flags: Flags, size: int) -> int:
    """An all-to-all backend spreads experts over all ranks of a stage."""
    backend = flags.text("--moe-a2a-backend") or "none"
    if backend not in _FREE_BACKENDS:
        return size
    found = flags.whole("--ep-size", 1)
    if size % found:
        flags.fail("--ep-size", f"is {found}, which does not divide TP {size}")
    return found


def _attention(flags: Flags, size: int) -> tuple[int, int, int]:
    """``(attention DP, CP, replicas)``."""
    dp, attn_dp = flags.whole("--dp-size", 1), flags.whole("--attn-dp-size", 1)
    if dp > 1 and attn_dp > 1:
        flags.fail("--attn-dp-size", "excludes --dp-size", "leave one of them out")
    replicas = 1
    if flags.switch("--enable-dp-attention"):
        attn_dp = max(dp, attn_dp)
    else:
        replicas = dp
    cp = flags.whole("--dcp-size", 1)
    if flags.whole("--attn-cp-size", 1) > 1 or flags.whole("--moe-dp-size", 1) > 1:
        name = "--attn-cp-size" if "--attn-cp-size" in flags else "--moe-dp-size"
        flags.fail(name, "has no counterpart in a decode layout", "leave it out of the file")
    if size % (attn_dp * cp):
        flags.fail("--tp-size", f"is {size}, which attention DP {attn_dp} x DCP {cp} do not divide")
    return attn_dp, cp, replicas


def read_sglang(path: str, text: str | None = None) -> Deployed:
    """Read launch lines, a ``--config`` YAML or a LeaderWorkerSet.

    Parameters
    ----------
    text : str, optional
        Launch lines, or flags alone, in place of the file.

    Raises
    ------
    CatalogError
        A file cannot be read, starts no SGLang, or has a flag that is wrong; names the line.
    """
    launches = launches_of(path, text, _is_sglang, TABLE)
    workers, others = by_role(launches, _role, path)
    return Deployed(
        file=path,
        told=_told(workers, path),
        prefill=_told(others, path) if others else None,
        model=launches[0].flags.text("--model-path"),
        unread=tuple(dict.fromkeys(name for one in launches for name in one.flags.unread)),
    )


def _role(launch: Launch) -> PoolRole | None:
    text = launch.flags.text("--disaggregation-mode")
    if text in (None, "null"):
        return None
    if text not in (PoolRole.PREFILL.value, PoolRole.DECODE.value):
        launch.flags.fail("--disaggregation-mode", f"is {text[:40]!r}", "prefill or decode")
    return PoolRole(text)


def _told(launches: Sequence[Launch], path: str) -> ServingDeployment:
    check_agreement(launches, _PLACE)
    heads = [one for one in launches if one.flags.text("--node-rank") in (None, "0")]
    head = (heads or list(launches))[0]
    flags = head.flags
    size = flags.whole("--tp-size", 1)
    dp, cp, replicas = _attention(flags, size)
    running = flags.optional_whole("--max-running-requests")
    chunk = flags.optional_whole("--chunked-prefill-size", -1)
    return ServingDeployment(
        engine=Engine.SGLANG,
        tp=size // (dp * cp),
        dp=dp,
        cp=cp,
        pp=flags.whole("--pp-size", 1),
        ep=_expert_ranks(flags, size),
        instances=max(1, sum(one.groups for one in heads)) * replicas,
        stage_layers=variable(head, PARTITION).wholes(PARTITION),
        max_sequences=None if running is None else max(1, running // (dp * replicas)),
        token_budget=None if chunk is None or chunk < 1 else max(1, chunk // dp),
        max_context=flags.optional_whole("--context-length"),
        kv=kv_format(flags, "--kv-cache-dtype"),
        draft=_drafts(flags),
        overlap_ep=flags.switch("--enable-two-batch-overlap"),
        extra_slots=flags.whole("--ep-num-redundant-experts", 0, minimum=0),
        placement=_placement(flags, path),
        rebalances=flags.switch("--enable-eplb"),
        role=_role(head),
    )


def _drafts(flags: Flags) -> int:
    if flags.text("--speculative-algorithm") is None:
        return 0
    steps = flags.optional_whole("--speculative-num-steps")
    if steps is None:
        flags.fail(
            "--speculative-algorithm",
            "needs --speculative-num-steps",
            "the engine chooses it by model; write what it prints",
        )
    return steps


def _placement(flags: Flags, path: str) -> tuple[tuple[int, tuple[int, ...]], ...] | None:
    """Rows of every hidden layer; those of dense layers are not used."""
    name = "--init-expert-location"
    text = flags.text(name)
    if text is None or text == "trivial":
        return None
    if text.startswith("{"):
        data, file = text.encode(), path
    elif text.endswith(".json"):
        file = beside(path, text)
        data = read_bytes(file, MAX_FILE_BYTES, "name the map beside the launch lines")
    else:
        flags.fail(name, "is no JSON map", "write the map as JSON, or leave the flag out")
    try:
        table = msgspec.json.decode(data, type=_Map).physical_to_logical_map
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        line = flags.line(name) if file == path else None
        raise CatalogError(
            f"is no physical_to_logical_map: {error}", file=file, line=line, field=name
        ) from None
    return tuple((layer, tuple(row)) for layer, row in enumerate(table))
