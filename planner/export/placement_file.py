"""The file of ``planner experts -o placement.json``.

Keys are the field names of these records. The file says nothing of clocks or machines: equal
questions give equal bytes.
"""

from __future__ import annotations

import msgspec

from planner.expert_api import ExpertAnswer, PlacedLayer, Split
from planner.export.layout_file import record_json
from planner.search.expert_prices import PriceCertificate
from planner.version import VERSION

FORMAT = "planner-expert-placement"


class PriceRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Price of a piece: 1 from ``threshold * limit`` on, more the more such it crowds out."""

    slots: int
    threshold: float
    weight: float


class CertificateRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Prices under which no placement keeps every chip at ``limit``."""

    limit: float
    prices: list[PriceRecord]


class GreedyRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What the greedy rule reaches; copies that share a chip with another one."""

    balance: float
    repeats: int


class TogetherRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Share of co-activated pairs in one domain; nothing is proven about it."""

    before: float
    after: float


class LayerRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One layer: loads are shares of its routed tokens, balances are mean over hottest."""

    layer: int
    balance: float
    best_balance: float
    gap: float
    max_load: float
    bound: float
    certificate: CertificateRecord | None
    greedy: GreedyRecord
    together: TogetherRecord | None
    copies: list[int]
    chips: list[list[int]]
    weights: list[list[float]] | None


class LoadsRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Where the loads came from."""

    file: str
    source: str


class PlacementRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A whole placement."""

    format: str
    planner: str
    loads: LoadsRecord
    num_experts: int
    num_chips: int
    num_slots: int
    domains: list[int] | None
    num_groups: int | None
    split: Split
    gap: float
    mean_balance: float
    mean_greedy_balance: float
    largest_gap: float
    num_open: int
    layers: list[LayerRecord]


def placement_record(answer: ExpertAnswer) -> PlacementRecord:
    """Everything that the file holds."""
    question = answer.question
    return PlacementRecord(
        format=FORMAT,
        planner=VERSION,
        loads=LoadsRecord(file=question.loads, source=answer.source),
        num_experts=answer.num_experts,
        num_chips=question.num_chips,
        num_slots=question.num_slots,
        domains=None if question.domains is None else list(question.domains),
        num_groups=question.num_groups,
        split=question.split,
        gap=question.gap,
        mean_balance=answer.mean_balance,
        mean_greedy_balance=answer.mean_greedy_balance,
        largest_gap=answer.largest_gap,
        num_open=answer.num_open,
        layers=[_layer(one) for one in answer.layers],
    )


def _layer(one: PlacedLayer) -> LayerRecord:
    together = None
    if one.together is not None:
        together = TogetherRecord(before=one.together[0], after=one.together[1])
    return LayerRecord(
        layer=one.layer,
        balance=one.balance,
        best_balance=one.best_balance,
        gap=one.gap,
        max_load=one.max_load,
        bound=one.bound,
        certificate=None if one.certificate is None else _certificate(one.certificate),
        greedy=GreedyRecord(balance=one.greedy_balance, repeats=one.greedy_repeats),
        together=together,
        copies=list(one.copies),
        chips=[list(held) for held in one.chips],
        weights=None if one.weights is None else [list(own) for own in one.weights],
    )


def _certificate(found: PriceCertificate) -> CertificateRecord:
    return CertificateRecord(
        limit=found.limit,
        prices=[
            PriceRecord(slots=slots, threshold=threshold, weight=weight)
            for slots, threshold, weight in zip(
                found.sizes.tolist(), found.thresholds.tolist(), found.weights.tolist(), strict=True
            )
        ],
    )


def placement_json(answer: ExpertAnswer) -> bytes:
    """The content of ``placement.json``."""
    return record_json(placement_record(answer))
