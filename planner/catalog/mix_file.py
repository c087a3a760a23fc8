"""A mix of requests as a file: how long prompts and answers are, and how frequent."""

from __future__ import annotations

from planner.catalog.measured_table import read_columns, read_rows
from planner.domain.serving import RequestKind
from planner.errors import CatalogError

_COLUMNS = ("input", "output", "weight")
_EXAMPLE = "the first line is input,output or input,output,weight; the second for example 8192,1024"


def read_mix(path: str) -> tuple[RequestKind, ...]:
    """Read a mix.

    One line per request or per kind of requests; the first line names the columns ``input``
    and ``output`` (tokens) and perhaps ``weight`` (how frequent, 1 where it is absent).

    Returns
    -------
    tuple of RequestKind
        In the order of the file.

    Raises
    ------
    CatalogError
        The file cannot be read, or a cell is no length or no weight; names the line.
    """
    header = read_columns(path)
    if header and all(cell.replace(".", "", 1).isdigit() for cell in header):
        raise CatalogError(
            "its first line has numbers, not names", file=path, line=1, remedy=_EXAMPLE
        )
    found = []
    for row in read_rows(path, ("input", "output"), _COLUMNS, _EXAMPLE):
        weight = row.positive("weight")
        found.append(
            RequestKind(
                input_len=row.whole("input", minimum=1),
                output_len=row.whole("output", minimum=1),
                weight=1.0 if weight is None else weight,
            )
        )
    return tuple(found)
