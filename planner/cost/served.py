"""What two pools do together: requests per second, time to the first token, dollars.

Assumptions
-----------
- Both pools are kept busy: a request waits for a pass that has room, not in a queue.
- A decode worker's sequences are spread over their answers: their mean context counts, in time
  and in memory.
- Prompts go to the prefill worker, and sequences to the decode worker, that has room; the rates
  of workers add up.
- Traffic of one pool does not slow the other's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from planner.cost.evaluate import evaluate
from planner.cost.routing import FloatArray
from planner.cost.step import Setting
from planner.cost.transfer import cache_transfer
from planner.domain.assignment import Assignment
from planner.domain.cost import Prediction
from planner.domain.serve import Demand
from planner.domain.serve_layout import ServePrediction
from planner.topology.graph import Topology
from planner.units import MILLION, usd_per_second


@dataclass(frozen=True, kw_only=True, slots=True)
class Served:
    """Two pools and their prices."""

    prefill: Assignment
    decode: Assignment
    prefill_pass: Prediction
    decode_step: Prediction
    together: ServePrediction


@dataclass(frozen=True, kw_only=True, slots=True)
class ServeCase:
    """What the price of two pools depends on beside their layouts.

    Parameters
    ----------
    prefill, decode : Setting
        Of a pass of each pool.
    loads : array, shape ``[num MoE layers, num_experts]``
    """

    prefill: Setting
    decode: Setting
    topology: Topology
    loads: FloatArray
    demand: Demand
    price_usd_per_hour: float | None


def price_pools(case: ServeCase, prefill: Assignment, decode: Assignment) -> Served:
    """Price two pools whose workers are the replicas of two assignments.

    Raises
    ------
    DisconnectedError
        Chips that must talk to each other cannot.
    """
    topology, demand, price = case.topology, case.demand, case.price_usd_per_hour
    first = evaluate(case.prefill, topology, prefill, case.loads, price)
    step = evaluate(case.decode, topology, decode, case.loads, price)
    moved = cache_transfer(topology, case.decode, (prefill, decode), float(demand.input_len))
    rates = {
        "prefill": first.tokens_per_s / demand.new_tokens,
        "decode": step.tokens_per_s / demand.decoded_tokens,
        "links": moved.requests_per_s,
    }
    limited_by = min(rates, key=lambda name: rates[name])
    requests_per_s = rates[limited_by]
    chips = [chip for pool in (prefill, decode) for w in pool.cells for cell in w for chip in cell]
    rented = sum(topology.rental_units(chips))
    tokens_per_s = requests_per_s * demand.output_len
    cost = None
    if price is not None:
        cost = usd_per_second(price) * rented / tokens_per_s * MILLION
    together = ServePrediction(
        requests_per_s=requests_per_s,
        limited_by=limited_by,
        prefill_requests_per_s=rates["prefill"],
        decode_requests_per_s=rates["decode"],
        link_requests_per_s=None if math.isinf(rates["links"]) else rates["links"],
        ttft_s=first.step_s + moved.seconds,
        prefill_s=first.step_s,
        transfer_s=moved.seconds,
        tpot_s=step.step_s,
        kv_bytes=moved.num_bytes,
        kv_bytes_per_chip=moved.chip_bytes,
        tokens_per_s=tokens_per_s,
        tokens_per_s_per_chip=tokens_per_s / topology.num_chips,
        chips_used=len(chips),
        chips_rented=rented,
        usd_per_million_tokens=cost,
    )
    return Served(
        prefill=prefill, decode=decode, prefill_pass=first, decode_step=step, together=together
    )
