"""Readers of deployments meet anything with a message that names the file, never a traceback."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.catalog.deployed_sglang import TABLE as SGLANG
from planner.catalog.deployed_sglang import read_sglang
from planner.catalog.deployed_trtllm import TABLE as TRTLLM
from planner.catalog.deployed_trtllm import read_trtllm
from planner.catalog.deployed_vllm import TABLE as VLLM
from planner.catalog.deployed_vllm import read_vllm
from planner.errors import CatalogError

READERS = [(read_vllm, VLLM), (read_sglang, SGLANG), (read_trtllm, TRTLLM)]
values = st.one_of(
    st.integers(-5, 2000).map(str),
    st.sampled_from(["", "x", "1,2", "{}", "[1]", '{"a": 1}', "8k", "none", "-", "--", "'", '"']),
    st.text(max_size=8),
)
PIECES = ("tensor_parallel_size", "moe_config", "load_balancer", "num_slots", "pp_partition")


@pytest.mark.parametrize(("reader", "table"), READERS)
@settings(max_examples=150, deadline=None, derandomize=True)
@given(data=st.data())
def test_flags_of_any_kind(reader, table, data):
    names = st.sampled_from(sorted(table.names))
    pairs = data.draw(st.lists(st.tuples(names, values), max_size=6))
    text = "".join(f"{name} {value}\n".replace("\n", " \\\n") for name, value in pairs)
    try:
        found = reader("--flags", text)
    except CatalogError as error:
        assert error.file
    else:
        assert found.told.chips >= 1


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    text=st.one_of(
        st.text(max_size=60),
        st.lists(
            st.tuples(st.sampled_from(PIECES), values, st.sampled_from([": ", ":\n  ", ": - "])),
            max_size=5,
        ).map(lambda rows: "\n".join(f"{name}{mark}{value}" for name, value, mark in rows)),
    )
)
def test_yaml_of_any_kind(text, tmp_path_factory):
    path = tmp_path_factory.mktemp("yaml") / "t.yaml"
    path.write_text(text, encoding="utf-8", errors="ignore")
    try:
        found = read_trtllm(str(path))
    except CatalogError as error:
        assert error.file
    else:
        assert found.told.chips >= 1
