"""Figures of a model and a workload that can be turned by whole numbers.

Each dial reads a figure and sets it; what follows from it (bytes, FLOP, messages) follows. The
decisions of the layout stay.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from msgspec import structs

from planner.domain.changed import UNCHANGED, Changed
from planner.domain.layout import BatchSplit, Layout
from planner.domain.model import (
    DenseFfn,
    GroupedQueryAttention,
    LatentAttention,
    Layer,
    ModelSpec,
    MoeFfn,
)
from planner.domain.train_layout import TrainLayout

AnyLayout = Layout | TrainLayout
Turned = tuple[AnyLayout, Changed]


@dataclass(frozen=True, kw_only=True, slots=True)
class Dial:
    """One figure.

    Parameters
    ----------
    value : int
        As it is.
    step : int
        Values differ from it by multiples of this.
    turn : callable
        Layout and change at another value.
    """

    name: str
    label: str
    unit: str
    value: int
    step: int
    turn: Callable[[int], Turned]


def _layers(model: ModelSpec, change: Callable[[Layer], Layer]) -> ModelSpec:
    return replace(model, layers=tuple(change(layer) for layer in model.layers))


def _expert_width(layer: Layer, value: int) -> Layer:
    if not isinstance(layer.ffn, MoeFfn):
        return layer
    return replace(layer, ffn=replace(layer.ffn, expert_width=value))


def _top_k(layer: Layer, value: int) -> Layer:
    if not isinstance(layer.ffn, MoeFfn):
        return layer
    return replace(layer, ffn=replace(layer.ffn, top_k=value))


def _dense_width(layer: Layer, value: int) -> Layer:
    if not isinstance(layer.ffn, DenseFfn):
        return layer
    return replace(layer, ffn=replace(layer.ffn, width=value))


def _heads(layer: Layer, value: int) -> Layer:
    attention = layer.attention
    if isinstance(attention, GroupedQueryAttention | LatentAttention):
        return replace(layer, attention=replace(attention, num_heads=value))
    return layer


def _kv_heads(layer: Layer, value: int) -> Layer:
    if not isinstance(layer.attention, GroupedQueryAttention):
        return layer
    return replace(layer, attention=replace(layer.attention, num_kv_heads=value))


def _kv_rank(layer: Layer, value: int) -> Layer:
    if not isinstance(layer.attention, LatentAttention):
        return layer
    return replace(layer, attention=replace(layer.attention, kv_lora_rank=value))


def _found(model: ModelSpec, read: Callable[[Layer], int | None]) -> int | None:
    """The figure where all layers that have it agree; None otherwise."""
    values = {value for value in map(read, model.layers) if value is not None}
    return values.pop() if len(values) == 1 else None


_READ: tuple[tuple[str, str, Callable[[Layer], int | None], Callable[[Layer, int], Layer]], ...] = (
    (
        "expert_width",
        "columns of an expert",
        lambda layer: layer.ffn.expert_width if isinstance(layer.ffn, MoeFfn) else None,
        _expert_width,
    ),
    (
        "top_k",
        "experts of a token",
        lambda layer: layer.ffn.top_k if isinstance(layer.ffn, MoeFfn) else None,
        _top_k,
    ),
    (
        "dense_width",
        "columns of a dense FFN",
        lambda layer: layer.ffn.width if isinstance(layer.ffn, DenseFfn) else None,
        _dense_width,
    ),
    (
        "heads",
        "attention heads",
        lambda layer: getattr(layer.attention, "num_heads", None),
        _heads,
    ),
    (
        "kv_heads",
        "key/value heads",
        lambda layer: getattr(layer.attention, "num_kv_heads", None),
        _kv_heads,
    ),
    (
        "kv_rank",
        "width of the latent cache",
        lambda layer: getattr(layer.attention, "kv_lora_rank", None),
        _kv_rank,
    ),
)
# Figures that are turned by one; the others by about a percent.
_BY_ONE = ("top_k", "kv_heads")
_PARTS = 64


def _step(name: str, value: int) -> int:
    return 1 if name in _BY_ONE else max(1, value // _PARTS)


def model_dials(model: ModelSpec, layout: AnyLayout) -> list[Dial]:
    """Shapes of the model, its vocabulary, and one layer more or less."""
    found = [
        _model_dial(layout, "hidden_size", "hidden size", model.hidden_size),
        _model_dial(layout, "vocab_size", "vocabulary", model.vocab_size),
    ]
    for name, label, read, change in _READ:
        value = _found(model, read)
        if value is not None:
            found.append(_layer_dial(layout, (name, label), value, change))
    return [*found, _count_dial(layout, len(model.layers))]


def _model_dial(layout: AnyLayout, name: str, label: str, value: int) -> Dial:
    def turn(new: int) -> Turned:
        def changed(model: ModelSpec) -> ModelSpec:
            if name == "hidden_size":
                return replace(model, hidden_size=new)
            return replace(model, vocab_size=new)

        return layout, Changed(model=changed)

    return Dial(name=name, label=label, unit="", value=value, step=_step(name, value), turn=turn)


def _layer_dial(
    layout: AnyLayout, names: tuple[str, str], value: int, change: Callable[[Layer, int], Layer]
) -> Dial:
    def turn(new: int) -> Turned:
        return layout, Changed(model=lambda model: _layers(model, lambda layer: change(layer, new)))

    name, label = names
    return Dial(name=name, label=label, unit="", value=value, step=_step(name, value), turn=turn)


def _count_dial(layout: AnyLayout, count: int) -> Dial:
    """Layers like the last one, more or fewer of them, on the last stage."""

    def turn(new: int) -> Turned:
        extra = new - count

        def changed(model: ModelSpec) -> ModelSpec:
            kept = model.layers[:new]
            return replace(model, layers=kept + (model.layers[-1],) * max(0, extra))

        return _with_layers(layout, new), Changed(model=changed)

    return Dial(name="layers", label="layers", unit="", value=count, step=1, turn=turn)


def _with_layers(layout: AnyLayout, count: int) -> AnyLayout:
    """The same layout with another number of layers on its last stage or chunk."""
    if isinstance(layout, TrainLayout):
        last = structs.replace(layout.chunks[-1], end_layer=count)
        return structs.replace(layout, chunks=(*layout.chunks[:-1], last))
    stage = structs.replace(layout.stages[-1], end_layer=count)
    before = layout.stages[-1].end_layer
    maps = []
    for own in layout.experts:
        layers = tuple(layer for layer in own.layers if layer < count)
        if before - 1 in own.layers:
            layers += tuple(range(before, count))
        if layers:
            maps.append(structs.replace(own, layers=layers))
    return structs.replace(layout, stages=(*layout.stages[:-1], stage), experts=tuple(maps))


def workload_dials(layout: AnyLayout) -> list[Dial]:
    """Lengths and batch of what the layout works on."""
    if isinstance(layout, TrainLayout):
        return [*_train_dials(layout)]
    found = []
    for name, label in (("context_tokens", "context"), ("seq_len", "new tokens of a sequence")):
        value = getattr(layout.inputs, name)
        if value:
            found.append(_length_dial(layout, name, label, value))
    counts = [n for split in layout.batches for row in split.sequences for n in row]
    found.append(_batch_dial(layout, sum(counts), len(counts)))
    return found


def _length_dial(layout: Layout, name: str, label: str, value: int) -> Dial:
    def turn(new: int) -> Turned:
        inputs = structs.replace(layout.inputs, **{name: new})
        return structs.replace(layout, inputs=inputs), UNCHANGED

    step = max(1, value // _PARTS)
    return Dial(name=name, label=label, unit="tokens", value=value, step=step, turn=turn)


def _batch_dial(layout: Layout, batch: int, groups: int) -> Dial:
    """The same number of sequences more, or fewer, in every group and microbatch."""
    each = max(1, batch // groups // _PARTS)

    def turn(new: int) -> Turned:
        more = (new - batch) // groups
        splits = tuple(
            BatchSplit(
                replica=split.replica,
                sequences=tuple(
                    tuple(max(0, count + more) for count in row) for row in split.sequences
                ),
            )
            for split in layout.batches
        )
        return structs.replace(layout, batches=splits), UNCHANGED

    return Dial(
        name="batch",
        label="batch of the machine",
        unit="sequences",
        value=batch,
        step=each * groups,
        turn=turn,
    )


def _train_dials(layout: TrainLayout) -> list[Dial]:
    inputs, degrees = layout.inputs, layout.degrees

    def longer(new: int) -> Turned:
        return structs.replace(layout, inputs=structs.replace(inputs, seq_len=new)), UNCHANGED

    unit = degrees.dp * degrees.microbatch

    def more(new: int) -> Turned:
        return (
            structs.replace(
                layout,
                inputs=structs.replace(inputs, global_batch=new),
                degrees=structs.replace(degrees, microbatches=new // unit),
            ),
            UNCHANGED,
        )

    # Sequences stay divisible by what splits them, microbatches by the stages that take turns.
    split = degrees.tp * degrees.cp * 2
    piece = max(split, inputs.seq_len // _PARTS // split * split)
    return [
        Dial(
            name="seq_len",
            label="tokens of a sequence",
            unit="tokens",
            value=inputs.seq_len,
            step=piece,
            turn=longer,
        ),
        Dial(
            name="global_batch",
            label="global batch",
            unit="sequences",
            value=inputs.global_batch,
            step=unit * degrees.pp * 2,
            turn=more,
        ),
    ]
