"""Files of training layouts: written and read like those of decode layouts."""

from __future__ import annotations

import msgspec

from planner.domain.train_layout import TRAIN_SCHEMA_VERSION, TrainLayout
from planner.export.layout_file import SCHEMA_DIALECT, phase_of_file, read_record, record_json


def is_train_layout(path: str) -> bool:
    """Whether a file says that it is a training layout; false for what cannot be read."""
    return phase_of_file(path) == "train"


def read_train_layout(path: str) -> TrainLayout:
    """Read a file of a training layout, edited ones too.

    Raises
    ------
    CatalogError
        As :func:`planner.export.layout_file.read_layout`.
    """
    return read_record(path, TrainLayout, TRAIN_SCHEMA_VERSION)


def train_layout_json(layout: TrainLayout) -> bytes:
    """Write a training layout, byte for byte the same every time.

    Raises
    ------
    ModelBugError
        If a number of the layout is not finite.
    """
    return record_json(layout)


def train_schema_json() -> bytes:
    """JSON Schema (draft 2020-12) of the file of a training layout."""
    schema = msgspec.json.schema(TrainLayout)
    schema["$defs"]["TrainLayout"]["properties"]["schema_version"] = {"const": TRAIN_SCHEMA_VERSION}
    title = f"planner training layout, schema version {TRAIN_SCHEMA_VERSION}"
    return record_json({"$schema": SCHEMA_DIALECT, "title": title, **schema})
