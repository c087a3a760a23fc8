"""Rows for calibration follow from their ids alone, and the shipped list is the rule's."""

import csv
import hashlib
from pathlib import Path

from planner.catalog.measured_ids import read_ids
from planner.validation.calibration import is_calibration_id

FOLDER = Path(__file__).resolve().parents[2] / "reference" / "measured"
FILES = ("visible.csv", "oom_visible.csv", "serving_visible.csv")


def rows():
    for name in FILES:
        with (FOLDER / name).open(encoding="utf-8", newline="") as file:
            yield from csv.DictReader(file)


def test_the_list_is_what_the_rule_says():
    by_rule = {
        row["id"]
        for row in rows()
        if int(hashlib.sha1(row["id"].encode()).hexdigest(), 16) % 4 == 0
    }
    assert read_ids(str(FOLDER / "calibration_ids.txt")) == by_rule
    assert {row["id"] for row in rows() if is_calibration_id(row["id"])} == by_rule


def test_about_a_quarter_of_every_large_source():
    groups = {}
    for row in rows():
        group = row.get("source_group", "serving")
        groups.setdefault(group, []).append(is_calibration_id(row["id"]))
    large = {name: members for name, members in groups.items() if len(members) >= 100}
    assert len(large) >= 4
    for name, members in large.items():
        # Four standard deviations of a fair draw of a quarter.
        slack = 4 * (0.25 * 0.75 / len(members)) ** 0.5
        assert abs(sum(members) / len(members) - 0.25) < slack, name
