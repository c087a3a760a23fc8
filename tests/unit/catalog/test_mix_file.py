"""Files of request mixes: both forms, and what is said about wrong ones."""

import pytest

from planner.catalog.mix_file import read_mix
from planner.domain.serving import RequestKind
from planner.errors import CatalogError


def written(tmp_path, text):
    path = tmp_path / "mix.csv"
    path.write_text(text)
    return str(path)


def test_kinds_with_weights(tmp_path):
    path = written(tmp_path, "input,output,weight\n1024,512,3\n8192,256,0.5\n")
    assert read_mix(path) == (
        RequestKind(input_len=1024, output_len=512, weight=3.0),
        RequestKind(input_len=8192, output_len=256, weight=0.5),
    )


def test_one_request_per_line(tmp_path):
    path = written(tmp_path, "output,input\n5,100\n\n6,200\n")
    assert read_mix(path) == (
        RequestKind(input_len=100, output_len=5),
        RequestKind(input_len=200, output_len=6),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("input,output\n", "no rows"),
        ("100,5\n200,6\n", "has numbers, not names"),
        ("input\n100\n", "'output'"),
        ("input,output,share\n1,2,3\n", "unknown column"),
        ("input,output\n100\n", "has 1 cells"),
        ("input,output\n0,5\n", "whole number of 1 or more"),
        ("input,output\n1.5,5\n", "whole number of 1 or more"),
        ("input,output\n-3,5\n", "zero or more"),
        ("input,output\nlong,5\n", "not a number"),
        ("input,output,weight\n1,5,0\n", "above zero"),
        ("input,output,weight\n1,5,nan\n", "finite"),
    ],
)
def test_wrong_files_are_refused(tmp_path, text, message):
    with pytest.raises(CatalogError, match=message):
        read_mix(written(tmp_path, text))


def test_missing_files_are_named(tmp_path):
    with pytest.raises(CatalogError, match="no such file"):
        read_mix(str(tmp_path / "none.csv"))
