"""``planner workload``."""

from __future__ import annotations

import sys

import click


@click.command("workload")
@click.argument("trace")
@click.option("-o", "--out", metavar="FILE", help="Write the mix of lengths, for --mix, to FILE.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(trace: str, out: str | None, as_json: bool) -> int:
    """Read a request trace: lengths, contexts, arrivals, reuse of prefixes.

    TRACE is a Mooncake JSONL, an Azure LLM CSV, a BurstGPT or Vidur CSV, or lengths of prompt and
    answer, one request per line. 'plan' and 'estimate' take the same files with --trace.

    Example: planner workload conversation_trace.jsonl -o mix.csv
    """
    from planner.catalog.traces import read_trace
    from planner.export.atomic import check_writable, write_text_atomic

    if out is not None:
        check_writable(out)
    found = read_trace(trace)
    if as_json:
        from planner.cli.show import print_bytes
        from planner.export.layout_file import record_json
        from planner.export.trace_record import workload_record

        print_bytes(record_json(workload_record(trace, found)))
    else:
        from planner.report.trace_text import show_trace

        show_trace(trace, found, sys.stdout)
    if out is not None:
        from planner.export.trace_record import mix_csv

        write_text_atomic(out, mix_csv(found))
        click.echo(f"wrote {out}", err=True)
    return 0
