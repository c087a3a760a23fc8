"""The layout file: bytes, round trip, schema, and every way in which a file can be wrong."""

import json

import jsonschema
import msgspec
import pytest
from layout_factory import certificate, prediction, small_layout
from msgspec import structs

from planner.domain.outcome import Infeasible
from planner.errors import CatalogError, ModelBugError
from planner.export.layout_file import (
    infeasible_json,
    layout_json,
    layout_schema,
    read_layout,
    record_json,
)


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "layout.json"
    path.write_bytes(layout_json(small_layout()))
    return path


def test_reading_gives_back_what_was_written(written):
    assert read_layout(str(written)) == small_layout()
    assert layout_json(read_layout(str(written))) == written.read_bytes()


def test_file_is_indented_json_with_declared_order_and_a_last_line_break():
    content = layout_json(small_layout())
    text = content.decode()
    assert text.endswith("}\n") and not text.endswith("\n\n")
    assert text.startswith('{\n  "schema_version": 2,\n  "planner_version": "0.0.0",\n')
    assert list(json.loads(content))[:4] == [
        "schema_version",
        "planner_version",
        "inputs",
        "degrees",
    ]
    # Rows of numbers stay on one line; strings that look like arrays keep every character.
    assert '"sequences": [\n        [6, 5],\n        [6, 5]\n      ]' in text
    assert '"layers": [1, 2, 3, 4]' in text
    assert json.loads(content)["inputs"]["model"]["config"]["name"] == "[toy] [1,\n 2]"


def test_dictionaries_do_not_depend_on_the_order_of_insertion():
    one = structs.replace(certificate(), space={"tp": "1", "ep": "2"})
    two = structs.replace(certificate(), space={"ep": "2", "tp": "1"})
    assert layout_json(small_layout(certificate=one)) == layout_json(small_layout(certificate=two))


@pytest.mark.parametrize("number", [0.1, 1 / 3, 1e-7, 5e300, 2.5, -0.0, 123456789012345.6])
def test_floats_survive_to_the_last_bit(number, tmp_path):
    path = tmp_path / "layout.json"
    layout = small_layout(prediction=structs.replace(prediction(), bubble=number))
    path.write_bytes(layout_json(layout))
    assert read_layout(str(path)).prediction.bubble.hex() == number.hex()


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_json_lacks_are_not_written(number):
    layout = small_layout(prediction=structs.replace(prediction(), bubble=number))
    with pytest.raises(ModelBugError, match=r"prediction\.bubble"):
        layout_json(layout)


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ([], b"[]\n"),
        ([1], b"[1]\n"),
        ([1, -2.5, 3e30], b"[1, -2.5, 3e30]\n"),
        ([[1, 2], [3]], b"[\n  [1, 2],\n  [3]\n]\n"),
        (["1", 2], b'[\n  "1",\n  2\n]\n'),
        ([1, "2"], b'[\n  1,\n  "2"\n]\n'),
        ([1, {}], b"[\n  1,\n  {}\n]\n"),
    ],
)
def test_only_arrays_of_plain_numbers_share_a_line(numbers, text):
    assert record_json(numbers) == text


def test_schema_accepts_the_file_and_refuses_edits():
    schema = layout_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    good = json.loads(layout_json(small_layout()))
    jsonschema.validate(good, schema)
    for change in (
        {"schema_version": 3},
        {"degrees": {}},
        {"ranks": "none"},
        {"extra": 1},
    ):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**good, **change}, schema)


def test_schema_says_what_it_is():
    schema = layout_schema()
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert "planner layout" in schema["title"]


def test_infeasible_is_json_too():
    outcome = Infeasible(
        resource="memory", needed="90 GB", available="77 GB", message="HBM", remedies=("--nodes 2",)
    )
    assert json.loads(infeasible_json(outcome)) == {
        "resource": "memory",
        "needed": "90 GB",
        "available": "77 GB",
        "message": "HBM",
        "remedies": ["--nodes 2"],
    }


def refusal(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(CatalogError) as caught:
        read_layout(str(path))
    assert caught.value.file == str(path)
    return caught.value


def changed(written, old, new):
    text = written.read_text()
    assert old in text
    return text.replace(old, new, 1)


def line_with(text, part):
    return next(n for n, line in enumerate(text.split("\n"), start=1) if part in line)


@pytest.mark.parametrize(
    ("old", "new", "field", "message", "line_of"),
    [
        ('"pp": 2', '"pp": "2"', "degrees.pp", "expected `int`, got `str`", '"pp": "2"'),
        ('"pp": 2', '"pp": 2.5', "degrees.pp", "expected `int`", '"pp": 2.5'),
        ('"pp": 2', '"pp": null', "degrees.pp", "expected `int`, got `null`", '"pp": null'),
        ('    "pp": 2,\n', "", "degrees.pp", "is missing", '"degrees": {'),
        ('"pp": 2', '"pq": 2', "degrees.pq", "is not a known field", '"pq": 2'),
        (
            '"chip": "node0/chip2"',
            '"chip": 2',
            "ranks[2].chip",
            "expected `str`, got `int`",
            '"chip": 2',
        ),
        ('"slots": [', '"slots": [7, ', "experts[0].slots[0]", "expected `array`", '"slots": [7'),
        (
            '"bound": "memory"',
            '"bound": "x"',
            "prediction.terms[1].bound",
            "invalid enum value 'x'",
            '"bound": "x"',
        ),
        ('"tp": "1"', '"tp": 1', "certificate.space", "expected `str`, got `int`", '"space": {'),
    ],
)
def test_wrong_field_is_named_with_its_line(written, old, new, field, message, line_of):
    text = changed(written, old, new)
    error = refusal(written, text)
    assert error.field == field
    assert message in error.message
    assert error.line == line_with(text, line_of)


def test_malformed_json_names_the_line(written):
    text = changed(written, '"pp": 2,', '"pp": 2 2,')
    error = refusal(written, text)
    assert "not valid JSON" in error.message
    assert error.line == line_with(text, '"pp": 2 2,')


def test_cut_file_points_at_its_end(written):
    text = written.read_text()[:400].rstrip()
    error = refusal(written, text)
    assert "not valid JSON" in error.message
    assert error.line == text.count("\n") + 1


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_are_none_are_refused(written, number):
    text = changed(written, '"bubble": 0.1', f'"bubble": {number}')
    assert refusal(written, text).line == line_with(text, '"bubble"')


@pytest.mark.parametrize("version", ["1", "3", "0", '"1"', "1.0", "true", "null"])
def test_other_schema_versions_are_refused_before_the_rest_is_read(written, version):
    text = changed(written, '"schema_version": 2', f'"schema_version": {version}')
    # A later version may have other fields: they are not what to complain about.
    error = refusal(written, changed_text(text, '"degrees"', '"degrees_of_a_later_version"'))
    assert error.field == "schema_version"
    assert error.remedy


def changed_text(text, old, new):
    assert old in text
    return text.replace(old, new, 1)


def test_file_without_a_version_is_not_a_layout(written):
    error = refusal(written, "{}")
    assert (error.field, error.message) == ("schema_version", "is missing")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not valid JSON"),
        (b"[]", "expected `object`, got `array`"),
        (b"null", "expected `object`, got `null`"),
        (b"\xff\xfe{}", "not UTF-8"),
        (b'{"schema_version": 2, "x": ' + b"[" * 100_000, ""),
    ],
)
def test_files_of_another_kind_are_refused(tmp_path, content, message):
    assert message in refusal(tmp_path / "other.json", content).message


def test_byte_order_mark_is_no_mistake(written):
    written.write_bytes(b"\xef\xbb\xbf" + written.read_bytes())
    assert read_layout(str(written)) == small_layout()


def test_missing_file_and_folder_are_named(tmp_path):
    for path, message in ((tmp_path / "none.json", "no such file"), (tmp_path, "folder")):
        with pytest.raises(CatalogError, match=message):
            read_layout(str(path))


def test_the_factory_is_a_layout_in_every_field():
    layout = small_layout()
    assert msgspec.convert(msgspec.to_builtins(layout), type(layout)) == layout
