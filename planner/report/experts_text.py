"""Prints an expert placement: a table of layers beside the greedy rule, and a summary."""

from __future__ import annotations

from typing import TextIO

from planner.expert_api import ExpertAnswer, PlacedLayer
from planner.report.tables import Row, print_table, print_text
from planner.units import format_integer, format_percent, format_seconds

_HEADER = ("layer", "balance", "bound", "gap", "greedy", "repeats", "hottest expert", "copies")
_TOGETHER = ("pairs in one domain", "after")


def show_experts(answer: ExpertAnswer, stream: TextIO) -> None:
    """Print a table with one row per layer, and what they add up to."""
    header: Row = _HEADER
    with_pairs = answer.layers[0].together is not None
    if with_pairs:
        header = (*header, *_TOGETHER)
    question = answer.question
    stream.write(
        f"{len(answer.layers)} layers of {answer.num_experts} experts, "
        f"{format_integer(question.num_slots)} slots on {format_integer(question.num_chips)} chips"
        f"{_constraint(answer)}; loads: {question.loads} ({answer.source})\n"
    )
    print_table(
        "Balance: mean over hottest chip",
        header,
        [_row(one) for one in answer.layers],
        stream,
        words=(),
    )
    print_table("Summary", ("", "", ""), _summary(answer), stream)
    print_text("\n" + _claim(answer), stream)


def _constraint(answer: ExpertAnswer) -> str:
    domains, groups = answer.question.domains, answer.question.num_groups
    if domains is None:
        return ""
    text = f", {domains[0]} domains of {domains[1]}"
    return f"{text}, {groups} groups whole" if groups is not None else f"{text}, copies spread"


def _row(one: PlacedLayer) -> Row:
    cells = (
        str(one.layer),
        f"{one.balance:.4f}",
        f"{one.best_balance:.4f}",
        format_percent(one.gap),
        f"{one.greedy_balance:.4f}",
        str(one.greedy_repeats),
        str(one.hottest_expert),
        str(one.copies[one.hottest_expert]),
    )
    if one.together is None:
        return cells
    return (*cells, *(format_percent(share) for share in one.together))


def _summary(answer: ExpertAnswer) -> list[Row]:
    worst = answer.worst
    worst_greedy = min(one.greedy_balance for one in answer.layers)
    repeats = sum(one.greedy_repeats for one in answer.layers)
    return [
        ("", "planner", "greedy"),
        ("mean balance", f"{answer.mean_balance:.4f}", f"{answer.mean_greedy_balance:.4f}"),
        (f"worst balance (layer {worst.layer})", f"{worst.balance:.4f}", f"{worst_greedy:.4f}"),
        ("largest gap", format_percent(answer.largest_gap), "-"),
        ("copies beside another on a chip", "0", format_integer(repeats)),
        ("time", format_seconds(answer.seconds), format_seconds(answer.greedy_seconds)),
    ]


def _claim(answer: ExpertAnswer) -> str:
    """What is proven and what is not."""
    question, total = answer.question, len(answer.layers)
    closed = total - answer.num_open
    asked = format_percent(question.gap)
    text = f"Certificate: in {closed} of {total} layers no placement is more than {asked} better"
    if answer.num_open:
        text += f"; in the others none is more than {format_percent(answer.largest_gap)} better"
    text += f" ({question.split} split)."
    if answer.layers[0].together is not None:
        text += (
            " Pairs of experts were brought together by exchanges that keep the balance within "
            "the gap; nothing is proven about how many could be."
        )
    if question.domains is not None and question.num_groups is None:
        text += " The bound is that without domains."
    return text
