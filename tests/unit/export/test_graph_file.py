"""Graph files: what other programs read back, and that they are always the same."""

import io
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import networkx
import pytest

from planner.catalog.machine_size import sized
from planner.catalog.machines import load_machine
from planner.domain.hardware import Sizing, Wounds
from planner.export.graph_file import graph_bytes
from planner.topology.build import build_topology

ROOT = Path(__file__).resolve().parents[3]


def machine(name, **size):
    return build_topology(sized(load_machine(name), Sizing(**size)))


MACHINES = {
    "nodes": machine("h100-hgx", nodes=2),
    "torus": machine("tpu-v5e", shape=(4, 4)),
    "wounded": machine("gb200-nvl72", wounds=Wounds(without=("chip:r0/t3/c2",))),
    "mesh": machine("mi300x-hgx"),
}


def same(graph, read):
    assert list(read.nodes) == list(graph.nodes)
    assert {name: dict(data) for name, data in read.nodes(data=True)} == {
        name: dict(data) for name, data in graph.nodes(data=True)
    }
    assert read.number_of_edges() == graph.number_of_edges()
    for a, b, data in graph.edges(data=True):
        assert read.edges[a, b] == data


@pytest.mark.parametrize("name", MACHINES)
def test_graphml_reads_back(name):
    topology = MACHINES[name]
    same(topology.graph, networkx.read_graphml(io.BytesIO(graph_bytes(topology, "graphml"))))


@pytest.mark.parametrize("name", MACHINES)
def test_node_link_json_reads_back(name):
    topology = MACHINES[name]
    data = json.loads(graph_bytes(topology, "json"))
    same(topology.graph, networkx.node_link_graph(data, edges="links"))
    assert data["graph"] == {
        "name": topology.spec.name,
        "size": topology.spec.size_text,
        "chips": topology.num_chips,
    }


def test_attributes_of_a_file():
    data = json.loads(graph_bytes(MACHINES["nodes"], "json"))
    assert data["nodes"][0] == {"kind": "chip", "domain": 0, "index": 0, "id": "n0/c0"}
    link = next(
        link for link in data["links"] if {link["source"], link["target"]} == {"n1/c2", "n1/sw0"}
    )
    assert {key: link[key] for key in ("bytes_per_s", "links", "tier", "scale_up", "axis")} == {
        "bytes_per_s": 125e9,  # 5 cables of 25 GB/s
        "links": 5,
        "tier": "nvlink",
        "scale_up": True,
        "axis": "",
    }
    assert (data["directed"], data["multigraph"]) == (False, False)


def test_wounds_show_in_the_file():
    data = json.loads(graph_bytes(MACHINES["wounded"], "json"))
    assert len([node for node in data["nodes"] if node["kind"] == "chip"]) == 71
    assert "r0/t3/c2" not in {node["id"] for node in data["nodes"]}


def test_json_is_one_node_or_link_a_line():
    topology = MACHINES["nodes"]
    lines = graph_bytes(topology, "json").decode().splitlines()
    nodes, links = topology.graph.number_of_nodes(), topology.graph.number_of_edges()
    assert len([line for line in lines if line.startswith("    {")]) == nodes + links


def test_a_machine_without_links():
    spec = sized(load_machine("tpu-v5e"), Sizing(shape=(1, 1)))
    lonely = build_topology(replace(spec, scale_out=None))
    data = json.loads(graph_bytes(lonely, "json"))
    assert (len(data["nodes"]), data["links"]) == (1, [])
    read = networkx.read_graphml(io.BytesIO(graph_bytes(lonely, "graphml")))
    assert list(read.nodes) == ["x0y0"]


def test_unknown_format():
    with pytest.raises(ValueError, match="dot"):
        graph_bytes(MACHINES["nodes"], "dot")


@pytest.mark.parametrize("file_format", ["graphml", "json"])
def test_every_process_writes_the_same_bytes(file_format):
    code = (
        "import sys\n"
        "from planner.machine_api import load_topology\n"
        "from planner.export.graph_file import graph_bytes\n"
        f"sys.stdout.buffer.write(graph_bytes(load_topology('h100-hgx'), '{file_format}'))\n"
    )
    expected = graph_bytes(machine("h100-hgx"), file_format)
    for seed in ("0", "1"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            check=True,
            cwd=ROOT,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
        )
        assert done.stdout == expected
