"""Request traces of every form, and what a workload is made of, by hand."""

import math
import os

import pytest

from planner.catalog.mix_file import read_mix
from planner.catalog.traces import read_trace
from planner.domain.trace import Request, Trace
from planner.errors import CatalogError
from planner.export.trace_record import mix_csv

MOONCAKE = """{"timestamp": 27000, "input_length": 1030, "output_length": 52, "hash_ids": [0, 7, 8]}
{"timestamp": 0, "input_length": 600, "output_length": 20, "hash_ids": [0, 9]}

{"timestamp": 30000, "input_length": 1030, "output_length": 0, "hash_ids": [0, 7, 8]}
"""
AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:17:03.9799600,374,44
2023-11-16 18:17:04.4799600,396,109
2024-05-10 00:00:00.009930+00:00,10,1
"""


def write(folder, text, name="trace.csv"):
    path = folder / name
    path.write_text(text)
    return str(path)


def test_mooncake_by_arrival_with_reuse_of_leading_blocks(tmp_path):
    found = read_trace(write(tmp_path, MOONCAKE, "t.jsonl"))
    # Sorted; the second begins with block 0, which the first had: 512 of its 1,030 tokens.
    assert found.requests == (
        Request(arrival_s=0.0, input_len=600, output_len=20, reused=0),
        Request(arrival_s=27.0, input_len=1030, output_len=52, reused=512),
    )
    assert (found.form, found.failed, found.has_blocks) == ("Mooncake trace", 1, True)
    assert found.prefix_hit == 512 / 1630


def test_a_block_behind_a_new_one_is_no_prefix(tmp_path):
    text = (
        '{"input_length": 1024, "output_length": 1, "hash_ids": [1, 2]}\n'
        '{"input_length": 1024, "output_length": 1, "hash_ids": [3, 2]}\n'
        '{"input_length": 700, "output_length": 1, "hash_ids": [1, 2]}\n'
    )
    found = read_trace(write(tmp_path, text, "t.jsonl"))
    # The last repeats both blocks, but is only 700 tokens long.
    assert [one.reused for one in found.requests] == [0, 0, 700]


def test_azure_times_have_seven_digits_or_a_zone(tmp_path):
    found = read_trace(write(tmp_path, AZURE))
    times = [one.arrival_s for one in found.requests]
    assert times[0] == 0.0 and times[1] == pytest.approx(0.5, abs=1e-6)
    # 16 November 18:17:03.97996 to 10 May 00:00:00.00993: 175 days, 5 h 42 min 56.03 s.
    assert times[2] == pytest.approx(175 * 86400 + 5 * 3600 + 42 * 60 + 56.03, abs=1e-3)
    assert (found.form, found.requests[2].input_len) == ("Azure LLM trace", 10)


def test_zones_shift(tmp_path):
    text = (
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2024-05-10 12:00:00Z,1,1\n2024-05-10 15:00:00+02:00,1,1\n"
    )
    found = read_trace(write(tmp_path, text))
    assert [one.arrival_s for one in found.requests] == [0.0, 3600.0]


@pytest.mark.parametrize(
    ("text", "form", "arrival"),
    [
        ("Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
         "5,m,8,3,11,x\n6,m,8,0,8,x\n", "BurstGPT trace", 0.0),
        ("Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,"
         "Log Type\n5,a,1,m,8,3,11,x\n", "BurstGPT trace", 0.0),
        ("arrived_at,num_prefill_tokens,num_decode_tokens\n1.5,8,3\n", "Vidur trace", 0.0),
        ("input,output\n8,3\n", "lengths", None),
        ("8 3\n", "lengths", None),
        ("8,3\n\n", "lengths", None),
        ('{"input_length": 8, "output_length": 3}\n', "Mooncake trace", None),
    ],
)  # fmt: skip
def test_forms_are_told_apart(tmp_path, text, form, arrival):
    found = read_trace(write(tmp_path, text))
    assert found.form == form
    assert found.requests == (Request(arrival_s=arrival, input_len=8, output_len=3),)


def test_weights_are_requests(tmp_path):
    found = read_trace(write(tmp_path, "input,output,weight\n8,3,2\n5,1,\n"))
    assert [one.input_len for one in found.requests] == [8, 8, 5]


def requests(*lengths, times=None):
    times = times or [None] * len(lengths)
    return Trace(
        form="",
        requests=tuple(
            Request(input_len=i, output_len=o, arrival_s=t)
            for (i, o), t in zip(lengths, times, strict=True)
        ),
    )


def test_contexts_count_with_the_length_of_the_answer():
    # A prompt of 100 and 10 tokens: contexts 100 to 110, evenly: 105, spread 10 / sqrt(12).
    mean, spread = requests((100, 10)).decode_context
    assert mean == 105.0 and spread == pytest.approx(10 / math.sqrt(12))
    # Beside it 30 tokens after 300: (10 x 105 + 30 x 315) / 40 = 262.5.
    assert requests((100, 10), (300, 30)).decode_context[0] == 262.5


def test_rate_and_burstiness():
    even = requests(*[(1, 1)] * 5, times=[0.0, 2.0, 4.0, 6.0, 8.0])
    # Four intervals in eight seconds, all alike.
    assert even.rate_per_s == 0.5 and even.burstiness == 0.0
    # Intervals 0 and 4: mean 2, variance 4.
    assert requests(*[(1, 1)] * 3, times=[0.0, 0.0, 4.0]).burstiness == 1.0
    assert requests((1, 1), (1, 1)).rate_per_s is None
    assert requests((1, 1), (1, 1), times=[3.0, 3.0]).rate_per_s is None


def test_quantiles_are_values_that_occur():
    found = requests(*[(n, 1) for n in range(1, 101)]).inputs
    assert (found.mean, found.p50, found.p90, found.p99, found.longest) == (50.5, 50, 90, 99, 100)
    assert requests((7, 2)).inputs.p50 == 7


def test_the_mix_comes_back(tmp_path):
    trace = requests((8, 3), (8, 3), (5, 1))
    path = tmp_path / "mix.csv"
    path.write_bytes(mix_csv(trace))
    assert read_mix(str(path)) == trace.mix
    assert [(kind.input_len, kind.weight) for kind in trace.mix] == [(5, 1.0), (8, 2.0)]


BAD = [
    ("", None, "is empty"),
    ("\n\n", None, "is empty"),
    ("a,b\n1,2\n", 1, "has columns a, b"),
    ("input,output\n", None, "no request"),
    ("input,output\n3,0\n", None, "no request"),
    ("input,output\n3,x\n", 2, "no number of tokens"),
    ("input,output\n3,1.5\n", 2, "no number of tokens"),
    ("input,output\n3,-1\n", 2, "no number of tokens"),
    ("input,output\n3,inf\n", 2, "no number of tokens"),
    ("input,output\n3,4\n5\n", 3, "has 1 cells"),
    ("input,output,weight\n3,4,0\n", 2, "whole number of requests"),
    ("8 3\nx\n", 2, "tokens of prompt and answer"),
    ("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-13-40 00:00:00,1,1\n", 2, "no time"),
    ("TIMESTAMP,ContextTokens,GeneratedTokens\nnow,1,1\n", 2, "no time"),
    ("arrived_at,num_prefill_tokens,num_decode_tokens\nnan,1,1\n", 2, "no time"),
    ('{"input_length": 8}\n', 1, "is no request"),
    ('{"input_length": 8, "output_length": 1}\n{"input_length"\n', 2, "is no request"),
    ('{"input_length": -8, "output_length": 1}\n', 1, "has -8 tokens"),
    ('{"input_length": 8, "output_length": 1, "hash_ids": ["a"]}\n', 1, "is no request"),
    ('input,output\n"3,4\n', 2, "is not a CSV table"),
]


@pytest.mark.parametrize(("text", "line", "message"), BAD)
def test_malformed_traces_name_the_line(tmp_path, text, line, message):
    with pytest.raises(CatalogError) as caught:
        read_trace(write(tmp_path, text))
    assert message in str(caught.value) and caught.value.line == line


def test_binary_and_missing_files(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(b"input,output\n\0\n")
    with pytest.raises(CatalogError, match="binary"):
        read_trace(str(path))
    with pytest.raises(CatalogError, match="no such file"):
        read_trace(str(tmp_path / "none"))
    with pytest.raises(CatalogError, match="folder"):
        read_trace(str(tmp_path))
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(CatalogError, match="regular"):
            read_trace(str(tmp_path / "pipe"))
