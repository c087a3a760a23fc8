"""Measured serving rows as serving runs: what the collection's columns mean.

The public collection derives some of its columns and leaves others empty. A row is read so:

- ``moe_tp`` and ``moe_ep`` that repeat one degree (``n`` and ``n``, or 1 and ``n^2``) with
  ``tp * attention_dp = n^2`` describe one worker of ``n`` chips: the engine was started with
  tensor parallelism ``n`` and expert parallelism over the same chips. With
  ``attention_dp > 1`` its attention is data-parallel.
- An empty ``attention_dp_size`` is ``moe_tp * moe_ep / tp`` where that is more than one.
- Aggregated, ``concurrency / batch`` counts the attention ranks of all workers: where it
  exceeds ``attention_dp``, it is the data parallelism of a worker whose experts are spread
  over as many chips, else the number of workers.
- The benchmark draws lengths uniformly between 0.8 and 1.0 of the nominal ones
  (``random_range_ratio`` of its recipes), 0.9 on average. Rows of another campaign, whose
  source is a local path, have equal lengths.
- 8-bit and 4-bit checkpoints are served with an FP8 cache. Checkpoints published in a 4-bit
  format keep their own formats; weight-only INT4 of a mixture of experts quantises the
  routed experts.

Disaggregated rows without a number of workers cannot be represented: it decides how many
sequences a worker decodes. Nor can runs with multi-token prediction, whose draft length and
acceptance the collection does not keep.
"""

from __future__ import annotations

import math
from dataclasses import replace

from planner.catalog.measured_rows import (
    NumberFormats,
    Pool,
    ServingLoad,
    ServingMode,
    ServingRow,
)
from planner.catalog.model_config import override_precision
from planner.domain.dtypes import DType
from planner.domain.model import ModelSpec, MoeFfn
from planner.domain.serving import EngineFamily, ServingPool, ServingRun
from planner.errors import SpecError

DRAWN_MEAN = 0.9
_LOCAL_SOURCE = "source_file=/"
_FOUR_BIT = (DType.MXFP4, DType.INT4, DType.NVFP4)


def engine_family(software: str) -> EngineFamily:
    """Family of an engine by the first word of its name and version.

    Raises
    ------
    SpecError
        No family has that name.
    """
    name = software.partition(" ")[0].lower()
    known = {family.value: family for family in EngineFamily}
    if name not in known:
        raise SpecError(f"unknown engine '{name}'", f"known: {', '.join(known)}")
    return known[name]


def serving_pool(pool: Pool) -> ServingPool:
    """Layout of a pool of a measured row; see the module."""
    tp, dp, expert_tp, ep = pool.attn_tp, pool.attn_dp, pool.expert_tp, pool.ep
    stated, experts = tp * dp, expert_tp * ep
    root = math.isqrt(stated)
    square = root > 1 and root * root == stated == experts
    if square and (expert_tp == ep or (expert_tp == 1 and tp == dp)):
        tp, dp = (root, 1) if dp == 1 else (1, root)
        expert_tp, ep = 1, root
    elif experts > stated and experts % tp == 0:
        dp = experts // tp
    elif experts == 1:
        expert_tp = stated
    return ServingPool(
        num_workers=pool.num_workers, attn_tp=tp, attn_dp=dp, expert_tp=expert_tp, ep=ep
    )


def _shared_pool(load: ServingLoad) -> ServingPool:
    """The pool of an aggregated row, with the workers that its concurrency implies."""
    found = serving_pool(load.decode)
    batch, total = load.decode.batch, load.concurrency
    if not batch or not total or total % batch:
        return found
    ranks = total // batch
    if ranks <= load.decode.attn_dp or found.attn_dp > 1:
        return found
    if ranks == found.ep == found.attn_tp:
        return replace(found, attn_tp=1, attn_dp=ranks)
    return replace(found, num_workers=ranks)


def serving_load_run(load: ServingLoad, engine: EngineFamily = EngineFamily.VLLM) -> ServingRun:
    """The run of a measured load.

    Raises
    ------
    SpecError
        What the row leaves out decides the result: see the module.
    """
    if load.mtp:
        raise SpecError("multi-token prediction of unknown draft length and acceptance")
    if load.concurrency is None and load.decode.batch is None:
        raise SpecError("neither concurrency nor batch is given")
    shared = load.mode is ServingMode.AGGREGATED
    if not shared and load.decode.batch is None:
        raise SpecError("the number of prefill and decode workers is not given")
    decode = _shared_pool(load) if shared else serving_pool(load.decode)
    concurrency = load.concurrency
    if concurrency is None:
        assert load.decode.batch is not None
        concurrency = load.decode.batch * decode.attn_dp * decode.num_workers
    return ServingRun(
        input_len=max(1, round(load.input_len * DRAWN_MEAN)),
        output_len=max(1, round(load.output_len * DRAWN_MEAN)),
        decode=decode,
        prefill=None if shared else serving_pool(load.prefill),
        concurrency=concurrency,
        engine=engine,
    )


def serving_run(row: ServingRow) -> ServingRun:
    """The run of a measured row; raises as :func:`serving_load_run` and :func:`engine_family`."""
    run = serving_load_run(row.load, engine_family(row.origin.software))
    if not row.origin.source.startswith(_LOCAL_SOURCE):
        return run
    return replace(
        run,
        input_len=row.load.input_len,
        output_len=row.load.output_len,
        length_spread=1.0,
    )


def serving_model(model: ModelSpec, formats: NumberFormats) -> ModelSpec:
    """The model in the number formats of the checkpoint that was served; see the module."""
    weights, kv = formats.weights, formats.kv
    is_moe = any(isinstance(layer.ffn, MoeFfn) for layer in model.layers)
    if weights in _FOUR_BIT and model.precision.routed_expert in _FOUR_BIT and is_moe:
        return override_precision(model, kv=kv)
    if weights is DType.INT4 and is_moe:
        plain = override_precision(model, DType.BF16, DType.BF16, kv)
        return replace(plain, precision=replace(plain.precision, routed_expert=DType.INT4))
    if weights not in (None, DType.BF16, DType.FP16) and kv is None:
        kv = DType.FP8
    return override_precision(model, weights, formats.activations, kv)
