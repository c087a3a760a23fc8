"""A placement or a layout as the one map of experts that all exporters start from."""

from __future__ import annotations

from planner.cost.routing import moe_layer_indices, moe_shape
from planner.deployment.maps import rows_of
from planner.domain.assignment import SlotMap
from planner.domain.layout import Layout
from planner.domain.model import ModelSpec
from planner.errors import CatalogError, SpecError
from planner.export.expert_maps import CanonicalMap
from planner.export.layout_file import read_plain_record
from planner.export.placement_file import FORMAT, PlacementRecord


def map_of_layout(layout: Layout, model: ModelSpec) -> CanonicalMap:
    """The placement of a layout.

    Raises
    ------
    SpecError
        The model has no experts.
    """
    shape = moe_shape(model)
    if shape is None:
        raise SpecError(f"{model.name} has no experts to place", "export to an engine instead")
    maps = [SlotMap(layers=m.layers, slots=m.slots) for m in layout.experts]
    return CanonicalMap(rows=rows_of(maps), num_experts=shape[0], num_layers=len(model.layers))


def map_of_placement(path: str, model: ModelSpec | None) -> CanonicalMap:
    """The placement that ``planner experts -o`` wrote.

    Parameters
    ----------
    model : ModelSpec, optional
        Whose layers these are. Loads that were given without layer numbers are taken for its
        MoE layers in order.

    Raises
    ------
    CatalogError
        The file cannot be read, or is another one.
    SpecError
        The layers are not those of the model.
    """
    found = read_plain_record(path, PlacementRecord)
    if found.format != FORMAT:
        raise CatalogError(f"is {found.format!r}, not {FORMAT!r}", file=path, field="format")
    if not found.layers:
        raise CatalogError("places no layer", file=path, field="layers")
    layers = [one.layer for one in found.layers]
    num_layers = None
    if model is not None:
        layers = _layers_of(model, layers, found.num_experts)
        num_layers = len(model.layers)
    rows = {
        layer: tuple(tuple(held) for held in one.chips)
        for layer, one in zip(layers, found.layers, strict=True)
    }
    return CanonicalMap(rows=rows, num_experts=found.num_experts, num_layers=num_layers)


def _layers_of(model: ModelSpec, layers: list[int], num_experts: int) -> list[int]:
    shape, own = moe_shape(model), list(moe_layer_indices(model))
    if shape is None or shape[0] != num_experts:
        has = "no experts" if shape is None else f"{shape[0]} experts"
        raise SpecError(f"--model: {model.name} has {has}, the placement {num_experts}")
    if layers == own:
        return layers
    if layers == list(range(len(own))):
        return own
    raise SpecError(
        f"--model: {model.name} has {len(own)} MoE layers from {own[0]} on, the placement "
        f"{len(layers)} from {layers[0]} on",
        "place experts with loads of every MoE layer",
    )


def is_placement(path: str) -> bool:
    """Whether a file says that it is a placement; false for what cannot be read."""
    try:
        with open(path, "rb") as file:
            return b'"planner-expert-placement"' in file.read(4096)
    except OSError:
        return False
