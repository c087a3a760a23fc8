"""The map of the house, checked: imports point down, libraries stay in their rooms."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "planner"

# Lower rooms may not know higher ones.
LAYERS = (
    ("errors", "version"),
    ("units",),
    ("domain",),
    ("topology", "catalog"),
    ("cost",),
    ("search", "economics"),
    ("compose", "moves", "pricing", "training"),
    ("api", "expert_api", "machine_api", "model_api", "run_api", "validation"),
    ("serve_api", "train_api", "verify_api", "what_if"),
    ("replan_api", "survive_api", "diff_api"),
    ("train_verify", "deployment"),
    ("economics_api",),
    ("studies",),
    ("export", "report"),
    ("cli",),
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
# Rooms of one level that must not know each other.
ONLY_IN = {
    "networkx": {"topology"},
    # The search solves with it; the topology bounds collectives by flows.
    "ortools": {"search", "topology"},
    "click": {"cli"},
    "rich": {"report"},
    "matplotlib": {"report"},
    "plotext": {"report"},
    "tomllib": {"catalog"},
    "yaml": {"catalog", "export"},
}
MAX_LINES = 450


def modules():
    return sorted(PACKAGE.rglob("*.py"))


def room(path):
    relative = path.relative_to(PACKAGE)
    return relative.parts[0].removesuffix(".py")


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def test_every_module_has_a_level():
    rooms = {room(path) for path in modules()} - {"__init__"}
    assert rooms <= set(LEVEL), rooms - set(LEVEL)


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path):
    here = room(path)
    if here == "__init__":
        return
    for name in imported(path):
        parts = name.split(".")
        if parts[0] == "planner" and len(parts) > 1:
            there = parts[1]
            assert there == here or LEVEL[there] < LEVEL[here], f"{here} imports {name}"
        rooms = ONLY_IN.get(parts[0])
        assert rooms is None or here in rooms, f"{here} imports {name}"


def test_modules_do_not_import_each_other_in_a_circle():
    graph = {}
    for path in modules():
        name = ".".join(("planner", *path.relative_to(PACKAGE).with_suffix("").parts))
        name = name.removesuffix(".__init__")
        graph[name] = set()
        tree = ast.parse(path.read_text())
        for node in tree.body:
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("planner"):
                graph[name].add(node.module)
    done, active = set(), []

    def visit(name):
        if name in done:
            return
        assert name not in active, f"import cycle: {[*active, name]}"
        active.append(name)
        for following in sorted(graph.get(name, ())):
            visit(following)
        active.pop()
        done.add(name)

    for name in sorted(graph):
        visit(name)


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_stay_readable(path):
    assert len(path.read_text().splitlines()) <= MAX_LINES


def test_no_network_library_is_imported():
    for path in modules():
        for name in imported(path):
            assert name.split(".")[0] not in {"requests", "urllib", "httpx", "socket", "aiohttp"}
