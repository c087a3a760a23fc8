"""``--trace FILE``: a request trace in place of the options that say how long requests are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from planner.errors import SpecError

if TYPE_CHECKING:
    from planner.domain.serving import RequestKind
    from planner.domain.trace import Trace

TRACE_OPTION = click.option(
    "--trace",
    metavar="FILE",
    help="Request trace in place of lengths: Mooncake JSONL, Azure LLM CSV, lengths; see "
    "'planner workload'.",
)
# What a trace gives to each kind of question.
_GIVES = {
    "decode": ("context", "context_spread"),
    "prefill": ("seq",),
    "request": ("input", "output"),
    "serve": ("input", "output", "mix"),
}


def _refuse_twice(kind: str, values: dict[str, Any]) -> None:
    for name in _GIVES[kind]:
        if values.get(name) is not None:
            option = "--" + name.replace("_", "-")
            raise SpecError(f"--trace gives {option}", "leave one of them out")


def apply_trace(kind: str, values: dict[str, Any]) -> tuple[dict[str, Any], Trace | None]:
    """Options with what a trace gives written in.

    Parameters
    ----------
    kind : str
        Phase of a plan, or kind of an estimate.

    Returns
    -------
    (dict, Trace or None)
        The options without ``trace``; the trace where there is one.

    Raises
    ------
    SpecError, CatalogError
        The trace does not apply, gives what an option gives too, or cannot be read.
    """
    values = dict(values)
    path = values.pop("trace", None)
    if path is None:
        return values, None
    if kind not in _GIVES:
        raise SpecError(f"--trace does not apply to {kind}", "leave it out")
    _refuse_twice(kind, values)
    from planner.catalog.traces import read_trace

    trace = read_trace(path)
    mean, spread = trace.decode_context
    figures = {
        "context": mean,
        "context_spread": spread,
        "seq": trace.inputs.mean,
        "input": trace.inputs.mean,
        "output": trace.outputs.mean,
    }
    for name in _GIVES[kind]:
        # A plan of decode knows a mean context alone, one of pools mean lengths; an estimate of
        # a served engine takes the mix.
        if name in values and name in figures and not (kind == "serve" and "mix" in values):
            values[name] = str(max(1, round(figures[name])))
    return values, trace


def serving_of(
    trace: Trace | None, values: dict[str, Any]
) -> tuple[tuple[RequestKind, ...], float | None]:
    """Mix and rate that a trace gives to a served engine; the rate where no option says it."""
    if trace is None:
        return (), None
    given = values["rate"] is not None or values["concurrency"] is not None
    return trace.mix, None if given else trace.rate_per_s
