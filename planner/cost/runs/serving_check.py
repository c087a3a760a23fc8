"""What a serving run must satisfy before it can be priced."""

from __future__ import annotations

import math

from planner.cost.attention import decode_core
from planner.domain.model import ModelSpec, MoeFfn
from planner.domain.serving import ServingPool, ServingRun
from planner.errors import SpecError
from planner.topology.graph import Topology


def check_run(run: ServingRun, topology: Topology) -> None:
    """Check the numbers of a run and the size of its machine.

    Raises
    ------
    SpecError
        Names the number that is out of range, and what it may be.
    """
    if (run.concurrency is None) == (run.arrival_per_s is None):
        raise SpecError(
            "a serving run has either a concurrency or an arrival rate",
            "give one of the two",
        )
    _check_load(run)
    pools = [run.decode] if run.prefill is None else [run.prefill, run.decode]
    for pool in pools:
        counts = (pool.num_workers, pool.attn_tp, pool.attn_dp, pool.expert_tp, pool.ep)
        if min(counts) < 1:
            raise SpecError("workers and degrees are whole numbers of 1 or more")
    needed = sum(pool.num_chips for pool in pools)
    if needed > topology.num_chips:
        raise SpecError(
            f"the run uses {needed} chips, {topology.spec.name} has {topology.num_chips}",
            "take a larger machine",
        )


def _check_load(run: ServingRun) -> None:
    load = run.concurrency if run.arrival_per_s is None else run.arrival_per_s
    assert load is not None
    if not (load > 0 and math.isfinite(load)):
        raise SpecError(f"a load of {load} requests", "more than 0 are needed")
    if run.input_len < 1 or run.output_len < 1:
        raise SpecError("prompts and answers have one token or more")
    if run.chunk_tokens is not None and run.chunk_tokens < 1:
        raise SpecError(f"chunks of {run.chunk_tokens} tokens", "give 1 or more")
    if not 0.0 <= run.prefix_hit < 1.0:
        raise SpecError(f"prefix hit rate {run.prefix_hit}", "give a number in [0, 1)")
    if not 0.0 < run.length_spread <= 1.0:
        raise SpecError(f"length spread {run.length_spread}", "give a number in (0, 1]")
    if not run.requests_per_slot >= 1.0:
        raise SpecError(f"{run.requests_per_slot} requests per slot", "give 1 or more")


def check_worker(model: ModelSpec, pool: ServingPool) -> None:
    """Check that a model can be split as a pool says.

    Raises
    ------
    SpecError
        Attention heads do not divide by ``attn_tp``, or the expert groups are not made of
        the worker's chips.
    """
    for layer in model.layers:
        heads = decode_core(layer.attention, 1.0).num_heads
        if heads % pool.attn_tp:
            raise SpecError(
                f"{heads} attention heads of {model.name} do not divide by tensor "
                f"parallelism {pool.attn_tp}",
                "engines refuse that; a count of all chips is not a degree",
            )
        ffn = layer.ffn
        if not isinstance(ffn, MoeFfn):
            continue
        if pool.expert_tp * pool.ep != pool.worker_chips:
            raise SpecError(
                f"experts over {pool.expert_tp} x {pool.ep} chips, "
                f"attention over {pool.attn_tp} x {pool.attn_dp}",
                "both products are the chips of a worker",
            )
        if pool.ep > ffn.num_experts or ffn.expert_width % pool.expert_tp:
            raise SpecError(
                f"{ffn.num_experts} experts of width {ffn.expert_width} do not divide by "
                f"expert parallelism {pool.ep} and expert tensor parallelism {pool.expert_tp}"
            )
