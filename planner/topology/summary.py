"""A machine in numbers: counts, bandwidths, totals, before and after its wounds."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from planner.domain.hardware import Chip, MachineSpec
from planner.domain.scale_up import GraphDomain
from planner.topology.bisection import (
    Bisection,
    domain_egress,
    scale_out_bisection,
    scale_up_bisections,
)
from planner.topology.builders import domain_prefix
from planner.topology.graph import Topology
from planner.topology.network import KINDS, LEAF_SPINE, SPINE_CORE, Floats, Network


@dataclass(frozen=True, kw_only=True, slots=True)
class KindCount:
    """How many nodes of one kind there are: ``chip``, ``switch``, ``nic``, ``leaf``, ..."""

    kind: str
    count: int


@dataclass(frozen=True, kw_only=True, slots=True)
class TierTotal:
    """Links of one tier.

    Parameters
    ----------
    links : int
        Pairs of nodes that are joined.
    cables : int, optional
        Parallel cables counted singly; None above the leaves of a built fabric, where only
        the bandwidth of all cables between two switches is known.
    least_bytes_per_s, most_bytes_per_s : float
        Of one link, all its cables together, one direction.
    """

    tier: str
    scale_up: bool
    links: int
    cables: int | None
    least_bytes_per_s: float
    most_bytes_per_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class PeakRate:
    """Dense FLOP/s at one rate key; ``achieved`` is the fraction a large matmul reaches."""

    rate: str
    flop_per_s: float
    achieved: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ChipTotal:
    """One kind of chips; every figure is that of one chip.

    Parameters
    ----------
    hbm_drain_s, hbm_usable_drain_s : float
        Time to read a whole HBM once, its nameplate capacity and its usable bytes: the
        lecture's train interval.
    """

    name: str
    chips: int
    peaks: tuple[PeakRate, ...]
    hbm_bytes: float
    hbm_usable_bytes: float
    hbm_bytes_per_s: float
    hbm_achieved: float
    hbm_drain_s: float
    hbm_usable_drain_s: float
    price_usd_per_hour: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class DomainFigure:
    """A figure of one scale-up domain, the least of the machine."""

    domain: str
    bytes_per_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class TopologySummary:
    """Totals of a machine; bandwidths are nameplate, one direction.

    Parameters
    ----------
    domain_chips : tuple of int
        Chips of each scale-up domain.
    nodes : tuple of KindCount
        Chips, switches, NICs, in the order of ``planner.topology.network.KINDS``.
    scale_up_links : int
        Cables inside scale-up domains.
    scale_up_bytes_per_s, scale_up_least_bytes_per_s : float
        Of the best and of the worst connected chip.
    scale_up_domain_bytes_per_s : float
        What the chips of the best domain send together.
    scale_up_bisection : Bisection
        Of the worst domain, which is ``scale_up_bisection_domain``.
    scale_out_bytes_per_s : float
        Of a chip's share of its NIC, in the best domain; 0 without a fabric.
    scale_out_domain_bytes_per_s : float
        What the NICs of the best domain send together (egress).
    scale_out_worst_domain : DomainFigure
        Least egress.
    scale_ratio : float, optional
        Scale-up over scale-out bandwidth, all chips of the machine together.
    peak_flop_per_s : tuple of PeakRate
        Of the whole machine, for the rates that all its chips have.
    hbm_drain_s, hbm_usable_drain_s : float
        Of the kind of chips that takes longest.
    """

    name: str
    size: str
    num_chips: int
    domain_chips: tuple[int, ...]
    nodes: tuple[KindCount, ...]
    tiers: tuple[TierTotal, ...]
    scale_up_links: int
    scale_up_bytes_per_s: float
    scale_up_least_bytes_per_s: float
    scale_up_domain_bytes_per_s: float
    scale_up_bisection: Bisection
    scale_up_bisection_domain: str
    scale_out_bytes_per_s: float
    scale_out_domain_bytes_per_s: float
    scale_out_worst_domain: DomainFigure
    scale_out_bisection: Bisection | None
    scale_ratio: float | None
    chips: tuple[ChipTotal, ...]
    peak_flop_per_s: tuple[PeakRate, ...]
    hbm_bytes: float
    hbm_usable_bytes: float
    hbm_bytes_per_s: float
    hbm_drain_s: float
    hbm_usable_drain_s: float
    price_usd_per_hour: float | None

    def count(self, kind: str) -> int:
        """Nodes of one kind."""
        return sum(item.count for item in self.nodes if item.kind == kind)


@dataclass(frozen=True, kw_only=True, slots=True)
class CurveRow:
    """Achieved curve of one operation: see :class:`planner.domain.curves.Curve`."""

    tier: str
    op: str
    derate: float
    base_s: float
    step_s: float
    fill_s: float


def domain_names(topology: Topology) -> tuple[str, ...]:
    """Name of each scale-up domain: ``r0``, ``n3``; of a piece of one also its first chip."""
    prefix = domain_prefix(topology.spec)
    if isinstance(topology.spec.scale_up, GraphDomain):
        return tuple(f"{prefix}{index}" for index in range(len(topology.domains)))
    halls = [topology.places[domain[0]][0] for domain in topology.domains]
    pieces = Counter(halls)
    return tuple(
        f"{prefix}{hall}"
        if pieces[hall] == 1
        else f"{prefix}{hall} from {topology.chip_names[min(domain)]}"
        for hall, domain in zip(halls, topology.domains, strict=True)
    )


def _nodes(network: Network) -> tuple[KindCount, ...]:
    counts = np.bincount(network.kinds, minlength=len(KINDS)).tolist()
    return tuple(
        KindCount(kind=kind, count=count)
        for kind, count in zip(KINDS, counts, strict=True)
        if count
    )


def _tiers(network: Network, listed: bool) -> tuple[TierTotal, ...]:
    found = []
    for tier, name in enumerate(network.tier_names):
        own = network.tiers == tier
        rates = network.bytes_per_s[own]
        if not len(rates):
            continue
        drawn = name in (LEAF_SPINE, SPINE_CORE) and not listed
        found.append(
            TierTotal(
                tier=name,
                scale_up=bool(network.scale_up[own].all()),
                links=len(rates),
                cables=None if drawn else int(network.cables[own].sum()),
                least_bytes_per_s=float(rates.min()),
                most_bytes_per_s=float(rates.max()),
            )
        )
    return tuple(found)


def _chip_rates(network: Network) -> Floats:
    """Scale-up bandwidth of each chip, shape ``[chips]``."""
    ends = network.ends[network.scale_up]
    rates = network.bytes_per_s[network.scale_up]
    both: Floats = np.zeros(network.num_nodes)
    np.add.at(both, ends[:, 0], rates)
    np.add.at(both, ends[:, 1], rates)
    return both[: network.num_chips]


def _chip_total(chip: Chip, count: int) -> ChipTotal:
    achieved = dict(chip.efficiency.matmul)
    return ChipTotal(
        name=chip.name,
        chips=count,
        peaks=tuple(
            PeakRate(rate=rate, flop_per_s=peak, achieved=achieved[rate])
            for rate, peak in chip.peak_flop_per_s
        ),
        hbm_bytes=chip.hbm_bytes,
        hbm_usable_bytes=chip.hbm_usable_bytes,
        hbm_bytes_per_s=chip.hbm_bytes_per_s,
        hbm_achieved=chip.efficiency.hbm,
        hbm_drain_s=chip.hbm_bytes / chip.hbm_bytes_per_s,
        hbm_usable_drain_s=chip.hbm_usable_bytes / chip.hbm_bytes_per_s,
        price_usd_per_hour=chip.price_usd_per_hour,
    )


def _chips(topology: Topology) -> tuple[ChipTotal, ...]:
    halls = Counter(hall for hall, _ in topology.places)
    mixed = dict(topology.spec.mix)
    counts: Counter[Chip] = Counter()
    for hall, count in sorted(halls.items()):
        counts[mixed.get(hall, topology.spec.chip)] += count
    return tuple(_chip_total(chip, count) for chip, count in counts.items())


def _peaks(chips: tuple[ChipTotal, ...]) -> tuple[PeakRate, ...]:
    """Peaks of all chips together; ``achieved`` is weighted by them."""
    shared = [
        peak.rate
        for peak in chips[0].peaks
        if all(any(peak.rate == other.rate for other in kind.peaks) for kind in chips)
    ]
    found = []
    for rate in shared:
        own = [
            (kind.chips * peak.flop_per_s, peak.achieved)
            for kind in chips
            for peak in kind.peaks
            if peak.rate == rate
        ]
        total = sum(peak for peak, _ in own)
        achieved = sum(peak * share for peak, share in own) / total
        found.append(PeakRate(rate=rate, flop_per_s=total, achieved=achieved))
    return tuple(found)


def summarise(topology: Topology) -> TopologySummary:
    """Count and add up a machine."""
    network = topology.network
    names = domain_names(topology)
    sizes = tuple(len(domain) for domain in topology.domains)
    rates = _chip_rates(network)
    owners = network.domains[: network.num_chips]
    up = np.bincount(owners, weights=rates, minlength=len(sizes))
    egress = domain_egress(topology)
    cuts = scale_up_bisections(topology)
    worst = min(range(len(cuts)), key=lambda domain: cuts[domain].bytes_per_s)
    weakest = int(egress.argmin())
    out = float(egress.sum())
    chips = _chips(topology)
    prices = [kind.price_usd_per_hour for kind in chips]

    def total(values: list[float]) -> float:
        return sum(kind.chips * value for kind, value in zip(chips, values, strict=True))

    return TopologySummary(
        name=topology.spec.name,
        size=topology.spec.size_text,
        num_chips=topology.num_chips,
        domain_chips=sizes,
        nodes=_nodes(network),
        tiers=_tiers(network, isinstance(topology.spec.scale_up, GraphDomain)),
        scale_up_links=int(network.cables[network.scale_up].sum()),
        scale_up_bytes_per_s=float(rates.max()),
        scale_up_least_bytes_per_s=float(rates.min()),
        scale_up_domain_bytes_per_s=float(up.max()),
        scale_up_bisection=cuts[worst],
        scale_up_bisection_domain=names[worst],
        scale_out_bytes_per_s=float((egress / np.array(sizes)).max()),
        scale_out_domain_bytes_per_s=float(egress.max()),
        scale_out_worst_domain=DomainFigure(
            domain=names[weakest], bytes_per_s=float(egress[weakest])
        ),
        scale_out_bisection=scale_out_bisection(topology),
        scale_ratio=float(rates.sum()) / out if out and rates.any() else None,
        chips=chips,
        peak_flop_per_s=_peaks(chips),
        hbm_bytes=total([kind.hbm_bytes for kind in chips]),
        hbm_usable_bytes=total([kind.hbm_usable_bytes for kind in chips]),
        hbm_bytes_per_s=total([kind.hbm_bytes_per_s for kind in chips]),
        hbm_drain_s=max(kind.hbm_drain_s for kind in chips),
        hbm_usable_drain_s=max(kind.hbm_usable_drain_s for kind in chips),
        price_usd_per_hour=None
        if None in prices
        else total([price for price in prices if price is not None]),
    )


def curve_rows(spec: MachineSpec) -> tuple[CurveRow, ...]:
    """Achieved curves of both tiers, ``default`` first."""
    tiers = [("scale_up", spec.scale_up.curves)]
    if spec.scale_out is not None:
        tiers.append(("scale_out", spec.scale_out.curves))
    elif isinstance(spec.scale_up, GraphDomain):
        tiers.append(("scale_out", spec.scale_up.fabric_curves))
    return tuple(
        CurveRow(
            tier=tier,
            op=op,
            derate=curve.derate,
            base_s=curve.base_s,
            step_s=curve.step_s,
            fill_s=curve.fill_s,
        )
        for tier, curves in tiers
        for op, curve in (("default", curves.default), *curves.listed)
    )
