"""The lecture's two lines beside a decode layout: compute against memory, nothing else.

Of one replica with ``S`` chips per stage, ``P`` stages and ``m`` microbatches of ``b`` sequences in
flight (chapters 1 and 4; ``e = max(m, P)`` turns of the pipeline make one step):

    compute   e 2 b (N_act / P) / (S C)
    weights   e (N_tot beta / P) / (S W)
    cache     e b (L kv / P) / (S W)
    step      max(compute, weights + cache)

Assumptions
-----------
- Nameplate rates, perfect sharding, no attention FLOP, no network, no latency.
"""

from __future__ import annotations

from dataclasses import dataclass

from planner.cost.block import matmul_rate
from planner.cost.roofline import (
    balanced_context,
    critical_batch,
    drain_s,
    overlap_step_s,
    ridge,
)
from planner.cost.routing import moe_shape
from planner.domain.degrees import Degrees
from planner.domain.hardware import Chip
from planner.domain.model import ModelSpec
from planner.economics.napkin import ModelBytes, model_bytes
from planner.units import MILLION, usd_per_second


@dataclass(frozen=True, kw_only=True, slots=True)
class Ideal:
    """Ideal seconds of one step, and what follows from them.

    Parameters
    ----------
    usd_per_million_tokens : float, optional
        Of the chips in use; None without a price.
    mfu : float
        Compute time over the step.
    floor_s : float
        Weights read once: no batch steps faster.
    floor_usd : float, optional
        Dollars per million tokens that no batch goes below: the larger of compute and cache.
    """

    compute_s: float
    weights_s: float
    cache_s: float
    step_s: float
    usd_per_million_tokens: float | None
    mfu: float
    floor_s: float
    floor_usd: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Napkin:
    """A model on a chip, as the lecture sees them, at one context."""

    size: ModelBytes
    flop_per_s: float
    hbm_bytes: float
    hbm_bytes_per_s: float

    @property
    def critical_batch(self) -> float:
        """B* of one replica: tokens of a step where weight reads and matmuls balance."""
        bracket = ridge(self.flop_per_s, self.hbm_bytes_per_s, 1.0)
        return critical_batch(bracket, self.size.weights_bytes, self.size.active_params)

    @property
    def balanced_context(self) -> float:
        """Context whose cache reads take as long as the matmuls of its token."""
        bracket = ridge(self.flop_per_s, self.hbm_bytes_per_s, 1.0)
        kv = self.size.kv_read_bytes_per_token
        return balanced_context(self.size.active_params, bracket, kv)

    @property
    def drain_s(self) -> float:
        """Seconds to read the whole HBM: the train interval of the lecture."""
        return drain_s(self.hbm_bytes, self.hbm_bytes_per_s)


def peak_flop_per_s(model: ModelSpec, chip: Chip) -> float:
    """Dense peak of the matmuls that most weights are in."""
    precision = model.precision
    weights = precision.dense_ffn if moe_shape(model) is None else precision.routed_expert
    return dict(chip.peak_flop_per_s)[matmul_rate(chip, weights, precision.activations)]


def napkin(model: ModelSpec, chip: Chip, context: float) -> Napkin:
    """The figures of a model on a chip."""
    return Napkin(
        size=model_bytes(model, max(context, 1.0)),
        flop_per_s=peak_flop_per_s(model, chip),
        hbm_bytes=chip.hbm_bytes,
        hbm_bytes_per_s=chip.hbm_bytes_per_s,
    )


def ideal(found: Napkin, degrees: Degrees, batch: float, price: float | None) -> Ideal:
    """The lines of a layout at a batch of the whole machine; ``price`` is per chip-hour."""
    size, stages = found.size, degrees.pp
    turns = max(degrees.microbatches, stages) / stages
    each = batch / degrees.replicas / degrees.microbatches
    bandwidth = degrees.stage_chips * found.hbm_bytes_per_s
    flop_per_s = degrees.stage_chips * found.flop_per_s
    compute = turns * 2.0 * each * size.active_params / flop_per_s
    weights = turns * size.weights_bytes / bandwidth
    cache = turns * each * size.context * size.kv_read_bytes_per_token / bandwidth
    step = overlap_step_s(compute, weights, cache)
    usd = floor = None
    if price is not None:
        per_second = usd_per_second(price) * degrees.chips_used / batch * MILLION
        usd, floor = per_second * step, per_second * max(compute, cache)
    return Ideal(
        compute_s=compute,
        weights_s=weights,
        cache_s=cache,
        step_s=step,
        usd_per_million_tokens=usd,
        mfu=compute / step,
        floor_s=weights,
        floor_usd=floor,
    )
