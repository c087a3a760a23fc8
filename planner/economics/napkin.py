"""The lecture's price of a token: two resources, perfect sharding.

    input    2 N_act / C
    output   max( 2 N_act / C,  N_tot beta / (B W) + kv L / W )

in chip-seconds, times the price of a chip-second.

Assumptions
-----------
- FLOP/s and HBM bytes/s are nameplate; matmuls hide behind memory, or memory behind them.
- Prompts are compute-bound: many tokens share one read of the weights.
- A decode step multiplies no padding, sends nothing and waits for nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from planner.cost.attention import kv_bytes_per_sequence, kv_bytes_read
from planner.cost.roofline import overlap_step_s, ridge
from planner.cost.runs.inference_contexts import Contexts
from planner.cost.runs.model_flop import decode_flop
from planner.cost.weights import layer_weights, table_weights, weight_bytes
from planner.domain.model import ModelSpec, MoeFfn, WeightRole
from planner.units import usd_per_second


@dataclass(frozen=True, kw_only=True, slots=True)
class Chips:
    """Chips as the napkin sees them.

    Parameters
    ----------
    count : int
        That hold one copy of the model together.
    flop_per_s, hbm_bytes_per_s : float
        Of one chip, nameplate.
    usd_per_hour : float
        Of one chip.
    """

    count: int
    flop_per_s: float
    hbm_bytes_per_s: float
    usd_per_hour: float

    @property
    def usd_per_s(self) -> float:
        """Of one chip."""
        return usd_per_second(self.usd_per_hour)

    @property
    def flop_per_two_bytes(self) -> float:
        """``C / (2 W)``: tokens per byte of weights where matmuls take as long as the read."""
        return ridge(self.flop_per_s, self.hbm_bytes_per_s, 1.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelBytes:
    """A model as the napkin sees it.

    Parameters
    ----------
    active_params : float
        Weights that multiply one token, output head included.
    weights_bytes : float
        Of all experts, layers and tables.
    kv_read_bytes_per_token, kv_bytes_per_token : float
        Of a context of ``context`` tokens, by its length: what a decode step reads, what is
        kept. They differ for sparse attention, and depend on the context where a window or a
        constant state does not grow with it.
    """

    active_params: float
    weights_bytes: float
    kv_read_bytes_per_token: float
    kv_bytes_per_token: float
    context: float


def resident_bytes(model: ModelSpec) -> float:
    """Bytes of all weights of a model, each once, in their formats."""
    total = 0.0
    for layer in model.layers:
        experts = layer.ffn.num_experts if isinstance(layer.ffn, MoeFfn) else 0
        for weight in layer_weights(model, layer):
            copies = experts if weight.role is WeightRole.ROUTED_EXPERT else 1
            total += copies * weight_bytes(weight, model.precision)
    tables = (weight for weight in table_weights(model) if not weight.tied)
    return total + sum(weight_bytes(weight, model.precision) for weight in tables)


def kept_kv_bytes(model: ModelSpec, context: float) -> float:
    """Cached bytes of one sequence of ``context`` tokens, all layers."""
    kv = model.precision.kv
    return sum(kv_bytes_per_sequence(layer.attention, context, kv) for layer in model.layers)


def read_kv_bytes(model: ModelSpec, context: float) -> float:
    """Bytes of the cache that one decode step of one sequence reads, all layers."""
    kv = model.precision.kv
    return sum(kv_bytes_read(layer.attention, context, kv) for layer in model.layers)


def model_bytes(model: ModelSpec, context: float) -> ModelBytes:
    """The figures of a model at a context."""
    return ModelBytes(
        active_params=decode_flop(model, 1.0, Contexts(mean=0.0)).multiplying_params,
        weights_bytes=resident_bytes(model),
        kv_read_bytes_per_token=read_kv_bytes(model, context) / context,
        kv_bytes_per_token=kept_kv_bytes(model, context) / context,
        context=context,
    )


def compute_s(model: ModelBytes, chips: Chips, tokens: float) -> float:
    """Seconds of the matmuls of ``tokens`` tokens on all chips: ``2 N_act tokens / C``."""
    return 2.0 * model.active_params * tokens / (chips.count * chips.flop_per_s)


def decode_step_s(model: ModelBytes, chips: Chips, batch: float) -> float:
    """Seconds of a decode step of ``batch`` sequences at the model's context."""
    bandwidth = chips.count * chips.hbm_bytes_per_s
    kv = batch * model.context * model.kv_read_bytes_per_token
    return overlap_step_s(
        compute_s(model, chips, batch), model.weights_bytes / bandwidth, kv / bandwidth
    )


def input_usd(model: ModelBytes, chips: Chips) -> float:
    """Dollars of one prompt token."""
    return chips.count * chips.usd_per_s * compute_s(model, chips, 1.0)


def output_usd(model: ModelBytes, chips: Chips, batch: float) -> float:
    """Dollars of one generated token in a batch of ``batch``."""
    return chips.count * chips.usd_per_s * decode_step_s(model, chips, batch) / batch


def floor_usd(model: ModelBytes, chips: Chips) -> float:
    """Dollars of a generated token that no batch goes below: ``max(compute, KV)``."""
    kv = model.context * model.kv_read_bytes_per_token / (chips.count * chips.hbm_bytes_per_s)
    return chips.count * chips.usd_per_s * max(compute_s(model, chips, 1.0), kv)
