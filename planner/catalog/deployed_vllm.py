"""Reading vLLM deployments (flags of 0.33.0, ``engine/arg_utils.py``; defaults of its configs)."""

from __future__ import annotations

from collections.abc import Sequence

from planner.catalog.deployed import (
    Deployed,
    Launch,
    by_role,
    check_agreement,
    kv_format,
    launches_of,
    variable,
)
from planner.catalog.flags import Flags, FlagTable
from planner.catalog.launch_text import ShellCommand
from planner.domain.deployment import Engine, PoolRole, ServingDeployment

PARTITION = "VLLM_PP_LAYER_PARTITION"
TABLE = FlagTable(
    valued={
        "--tensor-parallel-size": "--tensor-parallel-size",
        "-tp": "--tensor-parallel-size",
        "--pipeline-parallel-size": "--pipeline-parallel-size",
        "-pp": "--pipeline-parallel-size",
        "--data-parallel-size": "--data-parallel-size",
        "-dp": "--data-parallel-size",
        "--data-parallel-size-local": "--data-parallel-size-local",
        "-dpl": "--data-parallel-size-local",
        "--data-parallel-start-rank": "--data-parallel-start-rank",
        "-dpr": "--data-parallel-start-rank",
        "--data-parallel-rank": "--data-parallel-rank",
        "-dpn": "--data-parallel-rank",
        "--data-parallel-address": "--data-parallel-address",
        "-dpa": "--data-parallel-address",
        "--data-parallel-rpc-port": "--data-parallel-rpc-port",
        "-dpp": "--data-parallel-rpc-port",
        "--prefill-context-parallel-size": "--prefill-context-parallel-size",
        "-pcp": "--prefill-context-parallel-size",
        "--decode-context-parallel-size": "--decode-context-parallel-size",
        "-dcp": "--decode-context-parallel-size",
        "--all2all-backend": "--all2all-backend",
        "--eplb-config": "--eplb-config",
        "--expert-placement-strategy": "--expert-placement-strategy",
        "--max-num-seqs": "--max-num-seqs",
        "--max-num-batched-tokens": "--max-num-batched-tokens",
        "--max-model-len": "--max-model-len",
        "--kv-cache-dtype": "--kv-cache-dtype",
        "--speculative-config": "--speculative-config",
        "-sc": "--speculative-config",
        "--kv-transfer-config": "--kv-transfer-config",
        "--nnodes": "--nnodes",
        "-n": "--nnodes",
        "--node-rank": "--node-rank",
        "-r": "--node-rank",
        "--master-addr": "--master-addr",
        "--master-port": "--master-port",
        "--model": "--model",
        "--config": "--config",
        "--port": "--port",
        "--host": "--host",
    },
    switches={
        "--enable-expert-parallel": "--enable-expert-parallel",
        "-ep": "--enable-expert-parallel",
        "--enable-eplb": "--enable-eplb",
        "--enable-dbo": "--enable-dbo",
        "--headless": "--headless",
    },
    ignored=frozenset(
        {
            *("--data-parallel-backend", "-dpb", "--trust-remote-code", "--api-server-count"),
            *("--data-parallel-hybrid-lb", "-dph", "--data-parallel-external-lb", "-dpe"),
            *("--served-model-name", "--gpu-memory-utilization", "--max-cudagraph-capture-size"),
        }
    ),
    others=frozenset({"--disable-expert-parallel"}),
)
# What says where a process is, rather than what the deployment does.
_PLACE = frozenset(
    {
        *("--data-parallel-size-local", "--data-parallel-start-rank", "--data-parallel-rank"),
        *("--data-parallel-address", "--data-parallel-rpc-port", "--headless", "--nnodes"),
        *("--node-rank", "--master-addr", "--master-port", "--port", "--host"),
    }
)


def _is_vllm(command: ShellCommand) -> int | None:
    texts = [word.text for word in command.words]
    if command.has("vllm") and "serve" in texts:
        return texts.index("serve") + 1
    entry = "vllm.entrypoints.openai.api_server"
    return texts.index(entry) + 1 if entry in texts else None


def _is_head(launch: Launch) -> bool:
    flags = launch.flags
    ranks = ("--node-rank", "--data-parallel-start-rank", "--data-parallel-rank")
    first = all(flags.text(name) in (None, "0") for name in ranks)
    return first and not flags.switch("--headless")


def _tokens(flags: Flags, name: str) -> int | None:
    """``8192``, ``32k`` = 32,000 or ``32K`` = 32,768."""
    text = flags.text(name)
    if text in (None, "auto", "-1"):
        return None
    scale = {"k": 1000, "K": 1024, "m": 10**6, "M": 2**20}.get(text[-1:], 0)
    digits = text[:-1] if scale else text
    if not digits.replace(".", "", 1).isdigit() or len(digits) > 12:
        flags.fail(name, f"is {text[:40]!r}; tokens are expected, for example 32768")
    found = round(float(digits) * (scale or 1))
    if found < 1:
        flags.fail(name, "is less than one token")
    return found


def read_vllm(path: str, text: str | None = None) -> Deployed:
    """Read launch lines, a ``--config`` YAML or a LeaderWorkerSet.

    Parameters
    ----------
    text : str, optional
        Launch lines, or flags alone, in place of the file.

    Raises
    ------
    CatalogError
        The file cannot be read, starts no vLLM, or has a flag that is wrong; names the line.
    """
    launches = launches_of(path, text, _is_vllm, TABLE)
    workers, others = by_role(launches, _role, path)
    flags = launches[0].flags
    model = flags.text("--model")
    if model is None and launches[0].rest:
        model = launches[0].rest[0].text
    return Deployed(
        file=path,
        told=_told(workers),
        prefill=_told(others) if others else None,
        model=model,
        unread=tuple(dict.fromkeys(name for one in launches for name in one.flags.unread)),
    )


def _role(launch: Launch) -> PoolRole | None:
    found = launch.flags.json_object("--kv-transfer-config").get("kv_role")
    return {"kv_producer": PoolRole.PREFILL, "kv_consumer": PoolRole.DECODE}.get(str(found))


def _told(launches: Sequence[Launch]) -> ServingDeployment:
    check_agreement(launches, _PLACE)
    heads = [one for one in launches if _is_head(one)] or launches[:1]
    head = heads[0]
    flags = head.flags
    if flags.whole("--prefill-context-parallel-size", 1) > 1:
        flags.fail(
            "--prefill-context-parallel-size",
            "shares prompts, which a decode layout does not know",
            "leave it out of the file, or price prefill with 'planner estimate'",
        )
    size = flags.whole("--tensor-parallel-size", 1)
    dcp = flags.whole("--decode-context-parallel-size", 1)
    if size % dcp:
        flags.fail("--decode-context-parallel-size", f"is {dcp}, which does not divide TP {size}")
    dp = flags.whole("--data-parallel-size", 1)
    spread = flags.switch("--enable-expert-parallel")
    eplb = flags.switch("--enable-eplb")
    return ServingDeployment(
        engine=Engine.VLLM,
        tp=size // dcp,
        dp=dp,
        cp=dcp,
        pp=flags.whole("--pipeline-parallel-size", 1),
        ep=size * dp if spread else 1,
        instances=sum(one.groups for one in heads),
        stage_layers=variable(head, PARTITION).wholes(PARTITION),
        max_sequences=flags.optional_whole("--max-num-seqs"),
        token_budget=_tokens(flags, "--max-num-batched-tokens"),
        max_context=_tokens(flags, "--max-model-len"),
        kv=kv_format(flags, "--kv-cache-dtype"),
        draft=_drafts(flags),
        overlap_ep=flags.switch("--enable-dbo"),
        extra_slots=_redundant(flags, eplb=eplb),
        rebalances=eplb,
        role=_role(head),
    )


def _drafts(flags: Flags) -> int:
    found = flags.json_object("--speculative-config")
    if not found:
        return 0
    count = found.get("num_speculative_tokens")
    if not isinstance(count, int) or not 1 <= count <= 1000:
        flags.fail("--speculative-config", "has no num_speculative_tokens above 0")
    return count


def _redundant(flags: Flags, *, eplb: bool) -> int:
    count = flags.json_object("--eplb-config").get("num_redundant_experts", 0)
    if not isinstance(count, int) or not 0 <= count <= 10**6:
        flags.fail("--eplb-config", "has a num_redundant_experts that is no number of copies")
    if count and not eplb:
        flags.fail("--eplb-config", "needs --enable-eplb", "add it, or leave the copies out")
    return count
