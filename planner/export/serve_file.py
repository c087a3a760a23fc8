"""Files of layouts with separate pools: written and read like those of decode layouts."""

from __future__ import annotations

import msgspec

from planner.domain.serve_layout import SERVE_SCHEMA_VERSION, ServeLayout
from planner.export.layout_file import SCHEMA_DIALECT, phase_of_file, read_record, record_json


def is_serve_layout(path: str) -> bool:
    """Whether a file says that it is a layout of two pools; false for what cannot be read."""
    return phase_of_file(path) == "serve"


def read_serve_layout(path: str) -> ServeLayout:
    """Read a file of a layout with separate pools, edited ones too.

    Raises
    ------
    CatalogError
        As :func:`planner.export.layout_file.read_layout`.
    """
    return read_record(path, ServeLayout, SERVE_SCHEMA_VERSION)


def serve_layout_json(layout: ServeLayout) -> bytes:
    """Write a layout with separate pools, byte for byte the same every time.

    Raises
    ------
    ModelBugError
        If a number of the layout is not finite.
    """
    return record_json(layout)


def serve_schema_json() -> bytes:
    """JSON Schema (draft 2020-12) of the file of a layout with separate pools."""
    schema = msgspec.json.schema(ServeLayout)
    schema["$defs"]["ServeLayout"]["properties"]["schema_version"] = {"const": SERVE_SCHEMA_VERSION}
    title = f"planner serving layout, schema version {SERVE_SCHEMA_VERSION}"
    return record_json({"$schema": SCHEMA_DIALECT, "title": title, **schema})
