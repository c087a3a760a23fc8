"""Errors that cross a module boundary.

Infeasibility is not an error: a search that proves that nothing fits returns
:class:`planner.domain.outcome.Infeasible`.
"""

from __future__ import annotations


class PlannerError(Exception):
    """Base of every error that this package raises on purpose."""


class SpecError(PlannerError):
    """The user's request cannot be understood (an option, a value, a name).

    Parameters
    ----------
    message : str
        What is wrong, naming the option or value.
    remedy : str, optional
        What to type instead.
    """

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}\n  {self.remedy}" if self.remedy else self.message


class DisconnectedError(SpecError):
    """Wounds have cut apart chips that must talk to each other."""


class CatalogError(PlannerError):
    """A file (model, machine, layout, loads) is missing, malformed or not understood.

    Parameters
    ----------
    message : str
        What is wrong.
    file : str
        The file, as the user named it.
    field : str, optional
        Dotted path of the field inside the file.
    line : int, optional
        Line number, counted from 1.
    remedy : str, optional
        What to change.
    """

    def __init__(
        self,
        message: str,
        *,
        file: str,
        field: str = "",
        line: int | None = None,
        remedy: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.file = file
        self.field = field
        self.line = line
        self.remedy = remedy

    def __str__(self) -> str:
        where = self.file if self.line is None else f"{self.file}:{self.line}"
        field = f" field '{self.field}':" if self.field else ""
        remedy = f"\n  {self.remedy}" if self.remedy else ""
        return f"{where}:{field} {self.message}{remedy}"


class ModelBugError(PlannerError):
    """Two independent computations of the package disagree: our bug, please report it."""
