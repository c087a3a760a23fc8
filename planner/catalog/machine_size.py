"""The size of a machine: how many nodes, racks or slices, and the shape of a slice."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from planner.catalog.machine_file import FieldProblem
from planner.domain.hardware import MachineSpec, Sizing
from planner.domain.scale_up import GraphDomain, Torus
from planner.errors import SpecError


def check_default_size(spec: MachineSpec) -> MachineSpec:
    """Check the size that the file gives.

    Raises
    ------
    FieldProblem
        The machine cannot have it.
    """
    field = "size.shape"
    try:
        if isinstance(spec.scale_up, Torus):
            spec = _with_shape(spec, spec.scale_up, spec.shape)
        field = "size.domains"
        spec = _with_domains(spec, spec.num_domains)
    except SpecError as error:
        raise FieldProblem(field, error.message, error.remedy) from None
    most = spec.scale_out.max_domains if spec.scale_out is not None else 1
    beyond = [domain for domain, _ in spec.mix if domain >= most]
    if beyond:
        raise FieldProblem("mix.domains", f"there is no domain {beyond[0]}", f"0 to {most - 1}")
    return spec


def _with_domains(spec: MachineSpec, count: int) -> MachineSpec:
    most = spec.scale_out.max_domains if spec.scale_out is not None else 1
    unit = spec.scale_up.unit
    if not 1 <= count <= most:
        raise SpecError(
            f"{spec.name} has 1 to {most} {unit}s, not {count}", f"write for example --{unit}s 1"
        )
    return replace(spec, num_domains=count)


def _with_shape(spec: MachineSpec, torus: Torus, shape: Sequence[int]) -> MachineSpec:
    full = torus.full_shape
    text = "x".join(map(str, shape))
    example = f"write for example --shape {'x'.join(str(min(4, most)) for most in full)}"
    if len(shape) != len(full) or any(
        not 1 <= length <= most for length, most in zip(shape, full, strict=False)
    ):
        limit = "x".join(map(str, full))
        raise SpecError(f"{spec.name} has slices of up to {limit} chips, not '{text}'", example)
    if math.prod(shape) > torus.max_chips:
        raise SpecError(
            f"{spec.name} has slices of up to {torus.max_chips} chips, "
            f"not {math.prod(shape)} ({text})",
            example,
        )
    shared = 1 if spec.scale_out is None else spec.scale_out.chips_per_nic
    if math.prod(shape) % shared:
        raise SpecError(f"{spec.name}: {shared} chips share a NIC, {text} leaves one over", example)
    return replace(spec, shape=tuple(shape))


def resize(
    spec: MachineSpec,
    nodes: int | None = None,
    racks: int | None = None,
    shape: Sequence[int] | None = None,
    slices: int | None = None,
) -> MachineSpec:
    """The same machine in another size: :func:`sized` without wounds."""
    lengths = None if shape is None else tuple(shape)
    return sized(spec, Sizing(nodes=nodes, racks=racks, slices=slices, shape=lengths))


def sized(spec: MachineSpec, sizing: Sizing) -> MachineSpec:
    """The same machine in another size and state.

    Returns
    -------
    MachineSpec
        ``spec`` itself when nothing is chosen.

    Raises
    ------
    SpecError
        An option that does not apply to this machine, or a size that it cannot have.
    """
    counts = {"nodes": sizing.nodes, "racks": sizing.racks, "slices": sizing.slices}
    given = [name for name, value in counts.items() if value is not None]
    given += [] if sizing.shape is None else ["shape"]
    scale_up = spec.scale_up
    own = [] if isinstance(scale_up, GraphDomain) else [f"{scale_up.unit}s"]
    own += ["shape"] if isinstance(scale_up, Torus) else []
    for name in given:
        if name not in own:
            remedy = (
                f"its size is given by {' and '.join(f'--{name}' for name in own)}"
                if own
                else "its file lists every chip"
            )
            raise SpecError(f"--{name} does not apply to {spec.name}", remedy)
    if isinstance(scale_up, Torus) and sizing.shape is not None:
        spec = _with_shape(spec, scale_up, sizing.shape)
    count = next((value for value in counts.values() if value is not None), None)
    if count is not None:
        spec = _with_domains(spec, count)
    return replace(spec, wounds=spec.wounds.joined(sizing.wounds)) if sizing.wounds else spec


def parse_shape(text: str) -> tuple[int, ...]:
    """Read the shape of a torus slice such as ``4x8``.

    Raises
    ------
    SpecError
        The text is not positive whole numbers joined by ``x``.
    """
    parts = text.lower().split("x")
    if not all(part.isascii() and part.isdigit() and 0 < int(part) < 10**6 for part in parts):
        raise SpecError(f"--shape: cannot read '{text}'", "write for example --shape 4x8")
    return tuple(int(part) for part in parts)
