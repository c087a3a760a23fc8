"""Lines of fields: counted by hand in a text whose strings try to mislead."""

import pytest

from planner.export.json_position import line_of

TEXT = """
{
  "a": {"b": [10, 20,
              30], "}": "{[\\"",
        "c": "x"},
  "list": [
    {"k": [1]},

    {"k": {"deep": null}}
  ],
  "empty": {}, "none": []
}
"""


@pytest.mark.parametrize(
    ("field", "line"),
    [
        ("", 2),
        ("a", 3),
        ("a.b", 3),
        ("a.b[1]", 3),
        ("a.b[2]", 4),
        ("a.}", 4),
        ("a.c", 5),
        ("list", 6),
        ("list[0].k", 7),
        ("list[1]", 9),
        ("list[1].k.deep", 9),
        ("empty", 11),
        ("none", 11),
        # Absent members: the record that should have them.
        ("a.missing", 3),
        ("a.b[3]", 3),
        ("empty.x", 11),
        ("none[0]", 11),
        ("missing", 2),
        ("a.c.below_a_string", 5),
        ("list.not_an_object", 6),
    ],
)
def test_line_of_a_field(field, line):
    assert line_of(TEXT, field) == line
