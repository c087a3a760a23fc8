"""Answers and prices where machine or model are otherwise than their files say.

No layout is composed of such an answer, since no file describes such a machine.
"""

from __future__ import annotations

from planner.api import case_of_layout, price_decisions, read_question, request_of
from planner.compose import assignment_of
from planner.domain.changed import UNCHANGED, Change, Changed
from planner.domain.cost import Prediction
from planner.domain.layout import Layout
from planner.domain.question import Question
from planner.search.plan import solve_unproved
from planner.search.solve import Solved


def solve(question: Question, change: Change | None = None) -> tuple[Solved, float] | None:
    """The best assignment for a question and its objective; None where nothing fits.

    The search is that of :func:`planner.api.plan` without its proof: it is asked many times.

    Parameters
    ----------
    change : callable, optional
        Given the machine at its size, returns the one to plan for.

    Raises
    ------
    SpecError, CatalogError
        The question or one of its files cannot be understood.
    """
    inputs, case = read_question(question, change)
    return solve_unproved(request_of(question, inputs, case))


def price_layout(layout: Layout, changed: Changed = UNCHANGED) -> Prediction:
    """Price the decisions of a layout where machine or model are otherwise than it says.

    Whether the decisions still fit is not asked: see ``memory`` of the prediction.
    """
    case = case_of_layout(layout, changed)
    return price_decisions(layout.inputs, case, assignment_of(layout, case.topology))
