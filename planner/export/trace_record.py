"""What ``planner workload --json`` prints, and the mix that ``-o`` writes."""

from __future__ import annotations

import msgspec

from planner.domain.trace import Lengths, Trace


class WorkloadRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A request trace in numbers; None where the file has no times, or no blocks."""

    file: str
    form: str
    requests: int
    failed: int
    input_tokens: Lengths
    output_tokens: Lengths
    decode_context_tokens: float
    decode_context_spread: float
    rate_per_s: float | None
    span_s: float | None
    burstiness: float | None
    prefix_hit: float | None


def workload_record(file: str, trace: Trace) -> WorkloadRecord:
    """Everything that is printed."""
    mean, spread = trace.decode_context
    return WorkloadRecord(
        file=file,
        form=trace.form,
        requests=len(trace.requests),
        failed=trace.failed,
        input_tokens=trace.inputs,
        output_tokens=trace.outputs,
        decode_context_tokens=mean,
        decode_context_spread=spread,
        rate_per_s=trace.rate_per_s,
        span_s=trace.span_s,
        burstiness=trace.burstiness,
        prefix_hit=trace.prefix_hit if trace.has_blocks else None,
    )


def mix_csv(trace: Trace) -> bytes:
    """Lengths and how often they occur, as ``--mix`` reads them."""
    lines = ["input,output,weight"]
    lines += [f"{kind.input_len:g},{kind.output_len:g},{kind.weight:g}" for kind in trace.mix]
    return ("\n".join(lines) + "\n").encode()
