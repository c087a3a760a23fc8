"""Machines of several kinds of chips: what all of them reach."""

from __future__ import annotations

from planner.domain.hardware import Chip, Efficiency, MachineSpec


def least_chip(chips: list[Chip]) -> Chip:
    """A chip that has the least of every figure: what mixed kinds all reach.

    Rates that not every kind has are left out. Prices are not a capability: the composite
    costs what the dearest kind costs.
    """
    peaks = [dict(chip.peak_flop_per_s) for chip in chips]
    achieved = [
        {key: peak * dict(chip.efficiency.matmul)[key] for key, peak in chip.peak_flop_per_s}
        for chip in chips
    ]
    keys = [key for key in peaks[0] if all(key in peak for peak in peaks)]
    floor = {key: min(peak[key] for peak in peaks) for key in keys}

    def core(name: str) -> float:
        return min(
            dict(chip.peak_flop_per_s)["bf16"] * float(getattr(chip.efficiency, name))
            for chip in chips
        )

    hbm_rate = min(chip.hbm_bytes_per_s for chip in chips)
    hbm_achieved = min(chip.hbm_bytes_per_s * chip.efficiency.hbm for chip in chips)
    prices = [chip.price_usd_per_hour for chip in chips]
    known = [price for price in prices if price is not None]
    return Chip(
        name=" + ".join(chip.name for chip in chips),
        peak_flop_per_s=tuple((key, floor[key]) for key in keys),
        hbm_bytes=min(chip.hbm_bytes for chip in chips),
        hbm_usable_bytes=min(chip.hbm_usable_bytes for chip in chips),
        hbm_bytes_per_s=hbm_rate,
        efficiency=Efficiency(
            matmul=tuple((key, min(rate[key] for rate in achieved) / floor[key]) for key in keys),
            hbm=hbm_achieved / hbm_rate,
            attention=core("attention") / floor["bf16"],
            attention_forward=core("attention_forward") / floor["bf16"],
            attention_backward=core("attention_backward") / floor["bf16"],
            sustained=min(chip.efficiency.sustained for chip in chips),
            elementwise=min(chip.efficiency.elementwise for chip in chips),
            expert_layer_s=max(chip.efficiency.expert_layer_s for chip in chips),
            kernel_s=max(chip.efficiency.kernel_s for chip in chips),
        ),
        price_usd_per_hour=max(known) if len(known) == len(prices) else None,
    )


def domain_chip(spec: MachineSpec, domain: int) -> Chip:
    """Kind of the chips of one domain of the whole machine."""
    return dict(spec.mix).get(domain, spec.chip)


def common_chip(spec: MachineSpec) -> Chip:
    """The kind of chip that a plan may count on everywhere on the machine."""
    kinds = {domain_chip(spec, domain): None for domain in range(spec.num_domains)}
    return spec.chip if not spec.mix else least_chip(list(kinds))
