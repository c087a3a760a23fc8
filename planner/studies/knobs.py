"""Figures of a machine that can be turned: what they are, and the machine with them scaled.

A knob multiplies one kind of figure by a factor and leaves everything else alone. Latencies of a
tier are turned together: those of every operation that runs over it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from planner.domain.curves import Curve, Curves, Op
from planner.domain.hardware import Chip, MachineSpec
from planner.domain.scale_up import GraphDomain, MeshDomain, SwitchDomain, Torus

Scaled = Callable[[MachineSpec, float], MachineSpec]
Read = Callable[[MachineSpec], float | None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Knob:
    """One figure of a machine.

    Parameters
    ----------
    unit : str
        ``B/s``, ``FLOP/s``, ``B`` or ``s``.
    read : callable
        The figure of a machine; None where it has none.
    scale : callable
        The machine with the figure multiplied by a factor.
    more_is_better : bool
        False for latencies.
    """

    name: str
    label: str
    unit: str
    read: Read
    scale: Scaled
    more_is_better: bool = True


def _with_chips(spec: MachineSpec, change: Callable[[Chip], Chip]) -> MachineSpec:
    mix = tuple((domain, change(chip)) for domain, chip in spec.mix)
    return replace(spec, chip=change(spec.chip), mix=mix)


def _curves(curves: Curves, change: Callable[[Curve], Curve]) -> Curves:
    listed = tuple((name, change(curve)) for name, curve in curves.listed)
    return Curves(default=change(curves.default), listed=listed)


def _slower_to_start(factor: float) -> Callable[[Curve], Curve]:
    def change(curve: Curve) -> Curve:
        return replace(
            curve,
            base_s=curve.base_s * factor,
            step_s=curve.step_s * factor,
            fill_s=curve.fill_s * factor,
        )

    return change


def _message_s(curves: Curves) -> float:
    """Of an empty message from one chip to another."""
    own = curves.of(Op.SEND_RECV)
    return own.base_s + own.step_s


def scale_up_bytes_per_s(spec: MachineSpec) -> float:
    """Nameplate bandwidth of one chip into its domain, one direction."""
    match spec.scale_up:
        case SwitchDomain() | MeshDomain():
            return spec.scale_up.bytes_per_s
        case Torus():
            return 2.0 * sum(spec.scale_up.link_bytes_per_s)
    return _graph_bytes_per_s(spec.scale_up, scale_up=True)


def _graph_bytes_per_s(graph: GraphDomain, scale_up: bool) -> float:
    """Largest sum of the links of one chip, on one side; links beyond a NIC count as its own."""
    chips = {node.name for node in graph.nodes if node.kind == "chip"}
    sums = dict.fromkeys(chips, 0.0)
    for link in graph.links:
        if link.scale_up == scale_up:
            for end in {link.a, link.b} & chips:
                sums[end] += link.bytes_per_s
    return max(sums.values(), default=0.0)


def scale_out_bytes_per_s(spec: MachineSpec) -> float | None:
    """Nameplate bandwidth of one chip out of its domain, one direction; None where there is none.

    A chip's share of its NIC.
    """
    if isinstance(spec.scale_up, GraphDomain):
        return _graph_bytes_per_s(spec.scale_up, scale_up=False) or None
    if spec.scale_out is None or spec.num_domains == 1:
        return None
    return spec.scale_out.chip_bytes_per_s


def link_ratio(spec: MachineSpec) -> float | None:
    """Scale-out over scale-up bandwidth of a chip: the lecture's 1/8."""
    out = scale_out_bytes_per_s(spec)
    return None if out is None else out / scale_up_bytes_per_s(spec)


def _scale_flop(spec: MachineSpec, factor: float) -> MachineSpec:
    return _with_chips(
        spec,
        lambda chip: replace(
            chip, peak_flop_per_s=tuple((key, rate * factor) for key, rate in chip.peak_flop_per_s)
        ),
    )


def _scale_hbm_rate(spec: MachineSpec, factor: float) -> MachineSpec:
    return _with_chips(spec, lambda c: replace(c, hbm_bytes_per_s=c.hbm_bytes_per_s * factor))


def _scale_hbm(spec: MachineSpec, factor: float) -> MachineSpec:
    return _with_chips(
        spec,
        lambda chip: replace(
            chip,
            hbm_bytes=chip.hbm_bytes * factor,
            hbm_usable_bytes=chip.hbm_usable_bytes * factor,
        ),
    )


def _scale_kernels(spec: MachineSpec, factor: float) -> MachineSpec:
    def change(chip: Chip) -> Chip:
        own = replace(chip.efficiency, kernel_s=chip.efficiency.kernel_s * factor)
        return replace(chip, efficiency=own)

    return _with_chips(spec, change)


def _scale_graph(graph: GraphDomain, scale_up: bool, factor: float) -> GraphDomain:
    links = tuple(
        replace(link, bytes_per_s=link.bytes_per_s * factor) if link.scale_up == scale_up else link
        for link in graph.links
    )
    return replace(graph, links=links)


def _scale_links(spec: MachineSpec, factor: float) -> MachineSpec:
    match spec.scale_up:
        case SwitchDomain():
            levels = tuple(
                replace(level, link_bytes_per_s=level.link_bytes_per_s * factor)
                for level in spec.scale_up.levels
            )
            return replace(spec, scale_up=replace(spec.scale_up, levels=levels))
        case MeshDomain():
            rate = spec.scale_up.link_bytes_per_s * factor
            return replace(spec, scale_up=replace(spec.scale_up, link_bytes_per_s=rate))
        case Torus():
            rates = tuple(rate * factor for rate in spec.scale_up.link_bytes_per_s)
            return replace(spec, scale_up=replace(spec.scale_up, link_bytes_per_s=rates))
    return replace(spec, scale_up=_scale_graph(spec.scale_up, True, factor))


def _scale_fabric(spec: MachineSpec, factor: float) -> MachineSpec:
    if isinstance(spec.scale_up, GraphDomain):
        return replace(spec, scale_up=_scale_graph(spec.scale_up, False, factor))
    if spec.scale_out is None:
        return spec
    rate = spec.scale_out.nic_bytes_per_s * factor
    return replace(spec, scale_out=replace(spec.scale_out, nic_bytes_per_s=rate))


def _scale_up_latency(spec: MachineSpec, factor: float) -> MachineSpec:
    curves = _curves(spec.scale_up.curves, _slower_to_start(factor))
    return replace(spec, scale_up=replace(spec.scale_up, curves=curves))


def _fabric_curves(spec: MachineSpec) -> Curves | None:
    if isinstance(spec.scale_up, GraphDomain):
        return spec.scale_up.fabric_curves if scale_out_bytes_per_s(spec) else None
    return None if spec.scale_out is None or spec.num_domains == 1 else spec.scale_out.curves


def with_fabric_curves(spec: MachineSpec, curves: Curves) -> MachineSpec:
    """The machine with other curves between its domains."""
    if isinstance(spec.scale_up, GraphDomain):
        return replace(spec, scale_up=replace(spec.scale_up, fabric_curves=curves))
    if spec.scale_out is None:
        return spec
    return replace(spec, scale_out=replace(spec.scale_out, curves=curves))


def _scale_out_latency(spec: MachineSpec, factor: float) -> MachineSpec:
    curves = _fabric_curves(spec)
    if curves is None:
        return spec
    return with_fabric_curves(spec, _curves(curves, _slower_to_start(factor)))


def hop_s(spec: MachineSpec) -> float | None:
    """Latency of a message between domains; None where there is one domain."""
    curves = _fabric_curves(spec)
    return None if curves is None else _message_s(curves)


def _main_peak(spec: MachineSpec) -> float:
    return max(rate for _, rate in spec.chip.peak_flop_per_s)


COMPUTE = Knob(
    name="flop_per_s",
    label="matmul FLOP/s",
    unit="FLOP/s",
    read=_main_peak,
    scale=_scale_flop,
)
HBM_RATE = Knob(
    name="hbm_bytes_per_s",
    label="HBM bandwidth",
    unit="B/s",
    read=lambda spec: spec.chip.hbm_bytes_per_s,
    scale=_scale_hbm_rate,
)
HBM_SIZE = Knob(
    name="hbm_bytes",
    label="HBM size",
    unit="B",
    read=lambda spec: spec.chip.hbm_bytes,
    scale=_scale_hbm,
)
SCALE_UP = Knob(
    name="scale_up_bytes_per_s",
    label="scale-up bandwidth",
    unit="B/s",
    read=scale_up_bytes_per_s,
    scale=_scale_links,
)
SCALE_OUT = Knob(
    name="scale_out_bytes_per_s",
    label="scale-out bandwidth",
    unit="B/s",
    read=scale_out_bytes_per_s,
    scale=_scale_fabric,
)
RATIO = Knob(
    name="link_ratio",
    label="scale-out / scale-up bandwidth",
    unit="",
    read=link_ratio,
    scale=_scale_fabric,
)
SCALE_UP_LATENCY = Knob(
    name="scale_up_latency_s",
    label="scale-up latency",
    unit="s",
    read=lambda spec: _message_s(spec.scale_up.curves),
    scale=_scale_up_latency,
    more_is_better=False,
)
HOP = Knob(
    name="hop_s",
    label="hop latency between domains",
    unit="s",
    read=hop_s,
    scale=_scale_out_latency,
    more_is_better=False,
)
KERNEL = Knob(
    name="kernel_s",
    label="fixed cost of a kernel",
    unit="s",
    read=lambda spec: spec.chip.efficiency.kernel_s,
    scale=_scale_kernels,
    more_is_better=False,
)
HARDWARE = (COMPUTE, HBM_RATE, HBM_SIZE, SCALE_UP, SCALE_OUT, SCALE_UP_LATENCY, HOP, KERNEL)
