"""The price of a run as people read it: figures, terms, memory, and whether it fits."""

from __future__ import annotations

from typing import TextIO

from planner.cost.runs.record import RunMemory
from planner.domain.run import Mesh, Optimizer, Recompute
from planner.domain.run_question import EstimateKind
from planner.report.served_text import show_served
from planner.report.tables import print_table, print_text
from planner.run_api import RunEstimate
from planner.units import (
    format_bytes,
    format_count,
    format_flop_per_s,
    format_integer,
    format_params,
    format_percent,
    format_seconds,
    format_usd,
)

_SECONDS = {
    EstimateKind.TRAIN: "step",
    EstimateKind.PREFILL: "pass (TTFT)",
    EstimateKind.DECODE: "step (TPOT)",
    EstimateKind.REQUEST: "request",
    EstimateKind.SERVE: "per output token (TPOT)",
}
_TOKENS = {
    EstimateKind.TRAIN: "tokens",
    EstimateKind.PREFILL: "new tokens",
    EstimateKind.REQUEST: "output tokens",
    EstimateKind.SERVE: "output tokens",
}


def workload_line(estimate: RunEstimate) -> str:
    """What is done, in one line."""
    q = estimate.question
    batch = f"{q.batch or 0:,} sequences"
    match q.kind:
        case EstimateKind.TRAIN:
            return f"training step of {batch} of {q.seq or 0:,} tokens"
        case EstimateKind.PREFILL:
            after = f" after {_context(estimate)}" if q.context else ""
            return f"prefill of {batch} of {q.seq or 0:,} new tokens{after}"
        case EstimateKind.DECODE:
            return f"decode step of {batch} with {_context(estimate)}"
        case EstimateKind.REQUEST:
            return f"{batch}, {q.input or 0:,} tokens in and {q.output or 0:,} out, as one batch"
        case EstimateKind.SERVE:
            load = f"{q.concurrency or 0:,} in flight" if q.rate is None else f"{q.rate:g} per s"
            return f"requests of {_lengths(estimate)}, {load}"


def _lengths(estimate: RunEstimate) -> str:
    q = estimate.question
    if not q.mix:
        return f"{q.input or 0:,} tokens in and {q.output or 0:,} out"
    weight = sum(kind.weight for kind in q.mix)
    tokens_in = sum(kind.weight * kind.input_len for kind in q.mix) / weight
    tokens_out = sum(kind.weight * kind.output_len for kind in q.mix) / weight
    return f"{tokens_in:,.0f} tokens in and {tokens_out:,.0f} out in the mean of a mix"


def _context(estimate: RunEstimate) -> str:
    q = estimate.question
    spread = f" +- {q.context_spread:,}" if q.context_spread else ""
    return f"{q.context or 0:,}{spread} cached tokens"


def _degrees(mesh: Mesh) -> str:
    parts = [f"TP{mesh.attn_tp}"]
    parts += [f"CP{mesh.cp}"] if mesh.cp > 1 else []
    parts += [f"DP{mesh.attn_dp}", f"PP{mesh.pp}"]
    text = " x ".join(parts)
    return text + (f", experts EP{mesh.ep} x TP{mesh.expert_tp}" if _experts(mesh) else "")


def _experts(mesh: Mesh) -> bool:
    return mesh.ep * mesh.expert_tp > 1


def layout_line(estimate: RunEstimate) -> str:
    """Degrees and what else was chosen, in one line."""
    mesh, run, served = estimate.mesh, estimate.run, estimate.served
    text = _degrees(mesh)
    if served is not None and served.prefill_mesh is not None:
        pools = (
            ("prefill", served.prefill_workers, served.prefill_mesh, served.prefill_chips),
            ("decode", estimate.question.workers, mesh, served.decode_chips),
        )
        return "; ".join(
            f"{name} {count} x ({_degrees(layout)}) = {chips:,} chips"
            for name, count, layout, chips in pools
        )
    if estimate.question.workers > 1:
        text += f", {estimate.question.workers} workers"
    if run is not None and estimate.question.kind is EstimateKind.TRAIN:
        if mesh.pp > 1:
            chunks = f" x {mesh.virtual_stages}" if mesh.virtual_stages > 1 else ""
            text += f", {run.schedule.value}{chunks}"
        text += f", microbatch {run.microbatch} ({run.num_microbatches} per step)"
        text += f", ZeRO-{run.zero_stage}" if run.zero_stage else ""
        if run.recompute is not Recompute.NONE:
            text += f", {run.recompute.value} recompute"
        if run.optimizer is not Optimizer.ADAM:
            text += f", {run.optimizer.value}"
        text += ", sequence parallel" if run.sequence_parallel else ""
    if run is not None and run.overlap:
        text += f", {'+'.join(sorted(run.overlap))} overlapped"
    return text


def formats_line(estimate: RunEstimate) -> str:
    """Number formats in one line."""
    precision = estimate.precision
    weights = dict.fromkeys(
        dtype.value for dtype in (precision.attention, precision.dense_ffn, precision.routed_expert)
    )
    parts = f"weights {'/'.join(weights)}, matmul inputs {precision.activations.value}"
    if estimate.question.kind is not EstimateKind.TRAIN:
        parts += f", KV cache {precision.kv.value}"
    return parts


def flop_text(estimate: RunEstimate) -> str:
    """The FLOP count that utilisation uses."""
    flop = estimate.flop
    per_token = flop.total / flop.tokens
    params = format_params(flop.multiplying_params)
    core = f"{flop.attention_flop / flop.total:.1%} of it attention, counted causally"
    return (
        f"Model FLOP: {flop.passes} x {params} weights that multiply a token, and attention: "
        f"{per_token:.4g} per token ({core}). MFU is of the {estimate.rate} peak, "
        f"{format_flop_per_s(estimate.peak_flop_per_s)} dense."
    )


def _figures(estimate: RunEstimate, stream: TextIO) -> None:
    kind = estimate.question.kind
    tokens = _TOKENS.get(kind, "tokens")
    rows = [(_SECONDS[kind], format_seconds(estimate.seconds))]
    if estimate.ttft_s is not None and kind is not EstimateKind.PREFILL:
        rows.append(("first token (TTFT)", format_seconds(estimate.ttft_s)))
    if estimate.tpot_s is not None and kind is EstimateKind.REQUEST:
        rows.append(("per output token (TPOT)", format_seconds(estimate.tpot_s)))
    if estimate.tokens_per_s_per_user is not None:
        rows.append(("tokens/s/user", format_count(estimate.tokens_per_s_per_user)))
    rows += [
        (f"{tokens}/s/chip", format_count(estimate.tokens_per_s_per_chip)),
        (f"{tokens}/s", format_count(estimate.tokens_per_s)),
        ("model FLOP/s/chip", format_flop_per_s(estimate.model_flop_per_s_per_chip)),
        ("MFU", format_percent(estimate.mfu)),
    ]
    if estimate.running is not None:
        rows.append(("decoding together, per worker", format_count(estimate.running)))
    if estimate.bubble is not None:
        rows.append(("pipeline bubble, of the time", format_percent(estimate.bubble)))
    cost = estimate.usd_per_million_tokens
    known = "no price known, see --price" if cost is None else format_usd(cost)
    rows.append((f"$/M {tokens}", known))
    print_table("Figures", ("", ""), rows, stream)


def _terms(estimate: RunEstimate, stream: TextIO) -> None:
    rows = [
        (
            ("> " if index == 0 else "  ") + term.name.replace("_", " "),
            format_seconds(term.seconds),
            f"{term.seconds / estimate.seconds:.1%}",
            term.bound.value,
        )
        for index, term in enumerate(estimate.terms)
        if term.seconds > 0
    ]
    header = ("term", "time", "share", "waits for")
    print_table("Terms (> largest)", header, rows, stream, words=(0, 3))


def _memory(estimate: RunEstimate, stream: TextIO) -> None:
    served = estimate.served
    prefill = None if served is None else served.prefill_memory
    if prefill is None:
        _memory_table(estimate.memory, "the fullest chip", stream)
        return
    _memory_table(prefill, "the fullest chip that prefills", stream)
    _memory_table(estimate.memory, "the fullest chip that decodes", stream)


def _memory_table(memory: RunMemory, whose: str, stream: TextIO) -> None:
    free = memory.capacity_bytes - memory.needed_bytes
    parts = (
        ("weights", memory.weights_bytes),
        ("gradients", memory.gradients_bytes),
        ("optimizer states", memory.optimizer_bytes),
        ("activations", memory.activations_bytes),
        ("KV cache", memory.kv_bytes),
        ("reserve", memory.reserve_bytes),
        ("free", free) if free >= 0 else ("missing", -free),
    )
    rows = [
        (name, format_bytes(size), f"{size / memory.capacity_bytes:.1%}")
        for name, size in parts
        if size > 0
    ]
    title = f"Memory of {whose}, {format_bytes(memory.capacity_bytes)} usable"
    print_table(title, ("", "bytes", "share"), rows, stream)


def verdict(estimate: RunEstimate) -> str:
    """Whether it fits, with both numbers."""
    memory = estimate.memory
    if memory.fits:
        return f"fits: {format_bytes(memory.needed_bytes)} of {format_bytes(memory.capacity_bytes)}"
    return (
        f"does not fit: needs {format_bytes(memory.needed_bytes)} of "
        f"{format_bytes(memory.capacity_bytes)}"
    )


def show_run(estimate: RunEstimate, stream: TextIO) -> None:
    """Print the price of a run."""
    idle = estimate.machine_chips - estimate.chips
    chips = f"{format_integer(estimate.chips)} chips" + (f", {idle:,} idle" if idle else "")
    print_text(
        f"{estimate.model} on {estimate.machine} ({estimate.size}): {workload_line(estimate)}; "
        f"{chips}",
        stream,
    )
    print_text(f"{layout_line(estimate)}; {formats_line(estimate)}", stream)
    _figures(estimate, stream)
    if estimate.served is not None:
        show_served(estimate.served, estimate.question, stream)
    _terms(estimate, stream)
    _memory(estimate, stream)
    stream.write("\n")
    print_text(verdict(estimate), stream)
    for change in estimate.changes:
        print_text(f"  would help: {change}", stream)
    print_text(flop_text(estimate), stream)
