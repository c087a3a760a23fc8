"""A machine in numbers: counts, bandwidths, totals."""

from __future__ import annotations

from dataclasses import dataclass

from planner.domain.hardware import SwitchDomain, Torus
from planner.topology.graph import Topology
from planner.topology.network import fabric_size


@dataclass(frozen=True, kw_only=True, slots=True)
class TopologySummary:
    """Totals of a machine; bandwidths are nameplate, one direction.

    Parameters
    ----------
    domain_chips : tuple of int
        Chips of each scale-up domain.
    scale_up_switches, scale_up_links : int
        Of the whole machine; a link is one cable, both directions.
    scale_up_domain_bytes_per_s : float
        What the chips of the largest domain send together.
    scale_up_bisection_bytes_per_s : float
        From one half of the largest domain to the other.
    scale_out_domain_bytes_per_s : float
        What the NICs of the largest domain send together (egress); 0 without a fabric.
    scale_ratio : float, optional
        Scale-up over scale-out bandwidth of a chip.
    peak_flop_per_s : tuple
        Dense peak of the whole machine by rate key.
    hbm_drain_s, hbm_usable_drain_s : float
        Time to read a whole HBM once, its nameplate capacity and its usable bytes: the
        lecture's train interval.
    """

    name: str
    size: str
    num_chips: int
    domain_chips: tuple[int, ...]
    scale_up_switches: int
    scale_up_links: int
    leaf_switches: int
    spine_switches: int
    scale_up_bytes_per_s: float
    scale_up_domain_bytes_per_s: float
    scale_up_bisection_bytes_per_s: float
    scale_out_bytes_per_s: float
    scale_out_domain_bytes_per_s: float
    scale_ratio: float | None
    peak_flop_per_s: tuple[tuple[str, float], ...]
    hbm_bytes: float
    hbm_usable_bytes: float
    hbm_bytes_per_s: float
    hbm_drain_s: float
    hbm_usable_drain_s: float
    price_usd_per_hour: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class _ScaleUp:
    switches: int
    links: int
    chip_bytes_per_s: float
    bisection_bytes_per_s: float


def _torus(topology: Topology, torus: Torus) -> _ScaleUp:
    num_chips = topology.num_chips
    axes = list(zip(topology.spec.shape, topology.wraps, strict=True))
    links = sum(num_chips // length * (length if ring else length - 1) for length, ring in axes)
    cuts = [num_chips // length * (2 if ring else 1) for length, ring in axes if length > 1]
    ports = sum(min(2, length - 1) for length, _ in axes)
    return _ScaleUp(
        switches=0,
        links=links,
        chip_bytes_per_s=ports * torus.link_bytes_per_s,
        bisection_bytes_per_s=min(cuts, default=0) * torus.link_bytes_per_s,
    )


def _switched(topology: Topology, domain: SwitchDomain) -> _ScaleUp:
    largest = max(len(chips) for chips in topology.domains)
    return _ScaleUp(
        switches=len(topology.domains) * len(domain.links_per_switch),
        links=topology.num_chips * domain.links_per_chip,
        chip_bytes_per_s=domain.bytes_per_s,
        bisection_bytes_per_s=(largest // 2) * domain.bytes_per_s,
    )


def summarise(topology: Topology) -> TopologySummary:
    """Count and add up a machine."""
    spec, chip = topology.spec, topology.chip
    sizes = tuple(len(domain) for domain in topology.domains)
    leaves = spines = 0
    nic = 0.0
    if isinstance(spec.scale_up, Torus):
        up = _torus(topology, spec.scale_up)
    else:
        up = _switched(topology, spec.scale_up)
        if spec.scale_out is not None:
            units = len({topology.unit_of(domain[0]) for domain in topology.domains})
            fabric = fabric_size(spec.scale_out, spec.scale_up.chips, units)
            leaves, spines = fabric.leaves, fabric.spines
            nic = spec.scale_out.nic_bytes_per_s
    count = topology.num_chips
    price = chip.price_usd_per_hour
    return TopologySummary(
        name=spec.name,
        size=spec.size_text,
        num_chips=count,
        domain_chips=sizes,
        scale_up_switches=up.switches,
        scale_up_links=up.links,
        leaf_switches=leaves,
        spine_switches=spines,
        scale_up_bytes_per_s=up.chip_bytes_per_s,
        scale_up_domain_bytes_per_s=max(sizes) * up.chip_bytes_per_s,
        scale_up_bisection_bytes_per_s=up.bisection_bytes_per_s,
        scale_out_bytes_per_s=nic,
        scale_out_domain_bytes_per_s=max(sizes) * nic,
        scale_ratio=up.chip_bytes_per_s / nic if nic else None,
        peak_flop_per_s=tuple((key, count * peak) for key, peak in chip.peak_flop_per_s),
        hbm_bytes=count * chip.hbm_bytes,
        hbm_usable_bytes=count * chip.hbm_usable_bytes,
        hbm_bytes_per_s=count * chip.hbm_bytes_per_s,
        hbm_drain_s=chip.hbm_bytes / chip.hbm_bytes_per_s,
        hbm_usable_drain_s=chip.hbm_usable_bytes / chip.hbm_bytes_per_s,
        price_usd_per_hour=None if price is None else count * price,
    )
