"""Everything that can be wrong with a machine file, and files that extend others."""

import random
from pathlib import Path

import pytest

from planner.catalog.machines import load_machine, machine_facts, machine_from_facts
from planner.errors import CatalogError, SpecError

TOPOLOGIES = Path(__file__).resolve().parents[3] / "topologies"


def write(folder, text, name="mine.toml"):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def edited(folder, old, new, base="h100-hgx"):
    """A copy of a catalogue file with one change; the change must be possible."""
    text = (TOPOLOGIES / f"{base}.toml").read_text(encoding="utf-8")
    assert text.count(old) == 1, f"{old!r} occurs {text.count(old)} times"
    return write(folder, text.replace(old, new))


def line_of(path, text):
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    return next(number for number, line in enumerate(lines, start=1) if line.startswith(text))


# --- names and files -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "hint"), [("h100", "h100-hgx"), ("GB200", "gb200-nvl72"), ("tpuv5e", "tpu-v5e")]
)
def test_unknown_name_gets_near_ones(typed, hint):
    with pytest.raises(SpecError) as caught:
        load_machine(typed)
    assert f"unknown machine '{typed}'" in str(caught.value)
    assert f"did you mean {hint}" in caught.value.remedy


def test_nothing_is_near_nonsense():
    with pytest.raises(SpecError) as caught:
        load_machine("zzzz")
    assert caught.value.remedy.startswith("known machines: a100-40-hgx, a100-80-hgx")


def test_missing_file(tmp_path):
    with pytest.raises(CatalogError, match="no such file"):
        load_machine(str(tmp_path / "none.toml"))


def test_folder(tmp_path):
    with pytest.raises(CatalogError, match="is a folder"):
        load_machine(str(tmp_path))


def test_binary_file(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_bytes(b'name = "\xff\xfe"')
    with pytest.raises(CatalogError, match="not UTF-8"):
        load_machine(str(path))


def test_name_with_a_null_byte():
    with pytest.raises(CatalogError, match="cannot be read"):
        load_machine("a\0b.toml")


def test_malformed_toml_names_the_line(tmp_path):
    path = write(tmp_path, 'as_of = "2026-11"\n\nname = = 3\n')
    with pytest.raises(CatalogError) as caught:
        load_machine(path)
    assert (caught.value.file, caught.value.line) == (path, 3)
    assert str(caught.value).startswith(f"{path}:3: is not valid TOML")


@pytest.mark.parametrize("text", ["", "\n", 'name = "a'])
def test_empty_and_cut_off_files(tmp_path, text):
    with pytest.raises(CatalogError):
        load_machine(write(tmp_path, text))


def test_file_name_stands_in_for_a_name(tmp_path):
    path = edited(tmp_path, 'name = "h100-hgx"\n', "")
    assert load_machine(path).name == "mine"


def test_byte_order_mark_is_harmless(tmp_path):
    text = (TOPOLOGIES / "h100-hgx.toml").read_text(encoding="utf-8")
    path = tmp_path / "mine.toml"
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert load_machine(str(path)) == load_machine("h100-hgx")


# --- fields --------------------------------------------------------------------------

BAD_FIELDS = [
    # old text, new text, field, part of the message
    ("hbm_GB = 80", "hbm_GB = -80", "chip.hbm_GB", "-80 is outside (0"),
    ("hbm_GB = 80", "hbm_GB = 0", "chip.hbm_GB", "0 is outside (0"),
    ("hbm_GB = 80", "hbm_GB = nan", "chip.hbm_GB", "nan is outside"),
    ("hbm_GB = 80", "hbm_GB = inf", "chip.hbm_GB", "inf is outside"),
    ("hbm_GB = 80", "hbm_GB = 80e9", "chip.hbm_GB", "outside (0, 100000]"),
    ("hbm_GB = 80", 'hbm_GB = "80"', "chip.hbm_GB", "expected `float`, got `str`"),
    ("hbm_GB = 80", "hbm_GB = true", "chip.hbm_GB", "expected `float`, got `bool`"),
    ("hbm_usable_GiB = 79.65", "hbm_usable_GiB = 90", "chip.hbm_usable_GiB", "exceeds hbm_GB"),
    ("hbm = 0.85", "hbm = 85", "chip.derate.hbm", "85 is outside (0, 1]"),
    ("hbm = 0.85", "hbm = 0", "chip.derate.hbm", "0 is outside (0, 1]"),
    ("kernel_us = 3", "kernel_us = -1", "chip.derate.kernel_us", "-1 is outside [0"),
    ("links_per_switch = [5, 4, 4, 5]", "links_per_switch = [5, 0]", "scale_up.links_per_switch",
     "0 is outside [1"),
    ("links_per_switch = [5, 4, 4, 5]", "links_per_switch = []", "scale_up.links_per_switch",
     "has no switch"),
    ("links_per_switch = [5, 4, 4, 5]", "links_per_switch = [5.5]", "scale_up.links_per_switch",
     "expected `int`, got `float`"),
    ("chips = 8", "chips = 8.5", "scale_up.chips", "expected `int`, got `float`"),
    ("oversubscription = 1", "oversubscription = 0.5", "scale_out.oversubscription", "0.5 is"),
    ('unit = "node"', 'unit = "pod"', "scale_up.unit", "'pod' is not known"),
    ("domains = 1", "domains = 9999", "size.domains", "has 1 to 8192 nodes"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "field", "message"), BAD_FIELDS)
def test_bad_field(tmp_path, old, new, field, message):
    path = edited(tmp_path, f"\n{old}\n", f"\n{new}\n")
    with pytest.raises(CatalogError) as caught:
        load_machine(path)
    error = caught.value
    assert error.field == field
    assert message in error.message
    assert error.file == path
    assert error.line == line_of(path, new)


def test_unknown_field(tmp_path):
    path = edited(
        tmp_path,
        "hbm_GB = 80\n",
        'hbm_GB = 80\nhbm_TB_per_s = "3.35"\n',
    )
    with pytest.raises(CatalogError) as caught:
        load_machine(path)
    error = caught.value
    assert (error.field, error.message) == ("chip.hbm_TB_per_s", "is not a known field")
    assert error.line == line_of(path, "hbm_TB_per_s")


def test_unknown_rate(tmp_path):
    path = edited(tmp_path, "tf32 = 494.7", "fp64 = 494.7")
    with pytest.raises(CatalogError) as caught:
        load_machine(path)
    assert caught.value.field == "chip.peak_TFLOP_per_s.fp64"


def test_unknown_kind(tmp_path):
    path = edited(tmp_path, 'kind = "switch"', 'kind = "ring"')
    with pytest.raises(CatalogError) as caught:
        load_machine(path)
    assert caught.value.field == "scale_up.kind"


def test_missing_field_points_at_its_table(tmp_path):
    source = 'nic_GB_per_s = "one ConnectX-7, 400 Gb/s per chip (NVIDIA DGX H100)"\n'
    path = edited(tmp_path, source, "")
    text = Path(path).read_text(encoding="utf-8").replace("nic_GB_per_s = 50\n", "")
    path = write(tmp_path, text)
    with pytest.raises(CatalogError) as caught:
        load_machine(path)
    error = caught.value
    assert (error.field, error.message) == ("scale_out.nic_GB_per_s", "is missing")
    assert error.line == line_of(path, "[scale_out]")


def test_a_rate_needs_its_derate(tmp_path):
    path = edited(tmp_path, "fp32 = 0.78\n", "")
    text = Path(path).read_text(encoding="utf-8").replace('fp32 = "taken as bf16"\n', "")
    with pytest.raises(CatalogError, match="must have the rates") as caught:
        load_machine(write(tmp_path, text))
    assert caught.value.field == "chip.derate.matmul"


def test_a_number_without_a_source_is_refused(tmp_path):
    path = edited(tmp_path, 'hbm_GB = "NVIDIA H100 SXM data sheet"\n', "")
    with pytest.raises(CatalogError) as caught:
        load_machine(path)
    error = caught.value
    assert (error.field, error.message) == ("chip.hbm_GB", "has no source")
    assert error.line == line_of(path, "hbm_GB = 80")
    assert error.remedy == 'add hbm_GB = "..." to [chip.source]'


def test_an_empty_source_is_none(tmp_path):
    path = edited(tmp_path, 'hbm_GB = "NVIDIA H100 SXM data sheet"', 'hbm_GB = "  "')
    with pytest.raises(CatalogError, match="has no source"):
        load_machine(path)


def test_a_source_of_nothing_is_refused(tmp_path):
    path = edited(tmp_path, "[chip.source]\n", '[chip.source]\nhbm_gb = "typo"\n')
    with pytest.raises(CatalogError) as caught:
        load_machine(path)
    assert caught.value.field == "chip.source.hbm_gb"
    assert caught.value.line == line_of(path, "hbm_gb")


@pytest.mark.parametrize("value", ['source = "a book"', "source = { hbm_GB = 3 }"])
def test_sources_are_a_table_of_texts(tmp_path, value):
    path = write(tmp_path, f'as_of = "2026-11"\n[chip]\n{value}\n')
    with pytest.raises(CatalogError, match="table of texts"):
        load_machine(path)


@pytest.mark.parametrize("value", ["2026", '"2026-13"', '"November 2026"', "2026-11-01"])
def test_a_date_that_is_not_a_month(tmp_path, value):
    path = edited(tmp_path, 'as_of = "2026-11"', f"as_of = {value}")
    with pytest.raises(CatalogError) as caught:
        load_machine(path)
    assert (caught.value.field, caught.value.line) == ("as_of", line_of(path, "as_of"))


GRAPH = """
extends = "h100-hgx"
[scale_up]
kind = "graph"
nodes = [{ name = "a" }, { name = "b" }, { name = "s", kind = "switch" }]
links = [{ ends = ["a", "s"], GB_per_s = 100 }, { ends = ["s", "b"], GB_per_s = 50, links = 2 }]
[scale_up.achieved.default]
derate = 0.8
base_us = 5
"""


def test_a_graph_lists_its_fabric_itself(tmp_path):
    text = Path(whole_graph(tmp_path)).read_text(encoding="utf-8")
    base = (TOPOLOGIES / "h100-hgx.toml").read_text(encoding="utf-8")
    fabric = base[base.index("[scale_out]") : base.index("[size]")]
    with pytest.raises(CatalogError, match="belongs into the links of a graph"):
        load_machine(write(tmp_path, text + fabric))


def whole_graph(folder):
    """The same without a base: its own chip, nothing inherited."""
    text = (TOPOLOGIES / "h100-hgx.toml").read_text(encoding="utf-8")
    chip = text[text.index("[chip]") : text.index("[scale_up]")]
    body = GRAPH.replace('extends = "h100-hgx"', "")
    source = '[scale_up.source]\nall = "a drawing"\n'
    head = 'summary = "two chips"\nas_of = "2026-11"\n'
    return write(folder, head + chip + body + source, "drawn.toml")


def test_a_graph_machine(tmp_path):
    spec = load_machine(whole_graph(tmp_path))
    assert (spec.name, spec.num_chips, spec.size_text) == ("drawn", 2, "2 chips")
    assert [link.bytes_per_s for link in spec.scale_up.links] == [100e9, 50e9]
    assert all(link.scale_up for link in spec.scale_up.links)
    assert {s.field for s in spec.sources if s.text == "a drawing"} == {
        "scale_up.links",
        "scale_up.achieved.default.derate",
        "scale_up.achieved.default.base_us",
    }


@pytest.mark.parametrize(
    ("old", "new", "field", "message"),
    [
        ('{ name = "b" }', '{ name = "a" }', "scale_up.nodes", "'a' appears twice"),
        ('kind = "switch" }', 'kind = "swich" }', "scale_up.nodes", "unknown kind 'swich'"),
        ('ends = ["s", "b"]', 'ends = ["s", "c"]', "scale_up.links", "'c', which is not a node"),
        ('ends = ["s", "b"]', 'ends = ["b", "b"]', "scale_up.links", "joins 'b' to itself"),
        ('ends = ["s", "b"]', 'ends = ["s", "a"]', "scale_up.links", "twice"),
        ("GB_per_s = 50", "GB_per_s = 0", "scale_up.links.GB_per_s", "0 is outside (0"),
    ],
)
def test_bad_graphs(tmp_path, old, new, field, message):
    path = Path(whole_graph(tmp_path))
    path.write_text(path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    with pytest.raises(CatalogError) as caught:
        load_machine(str(path))
    assert (caught.value.field, message in caught.value.message) == (field, True)


@pytest.mark.parametrize(
    ("base", "old", "new", "field"),
    [
        ("mi300x-hgx", "links_per_pair = 1", "pairs = [[0, 0, 1]]", "scale_up.pairs"),
        ("mi300x-hgx", "links_per_pair = 1", "pairs = [[0, 8, 1]]", "scale_up.pairs"),
        ("mi300x-hgx", "links_per_pair = 1", "pairs = []", "scale_up.links_per_pair"),
        ("tpu-v5e", "full_shape = [16, 16]", "full_shape = [4, 4]", "size.shape"),
        (
            "trn2",
            "link_GB_per_s = [128, 128, 64]",
            "link_GB_per_s = [1, 2]",
            "scale_up.link_GB_per_s",
        ),
        ("gb200-nvl36x2", "parts = 2", "parts = 5", "scale_up.parts"),
        ("v100-dgx", "chips_per_nic = 2", "chips_per_nic = 3", "scale_out.chips_per_nic"),
    ],
)
def test_shapes_that_do_not_close(tmp_path, base, old, new, field):
    path = edited(tmp_path, f"\n{old}\n", f"\n{new}\n", base)
    if old.startswith("links_per_pair"):
        text = Path(path).read_text(encoding="utf-8")
        lines = [line for line in text.splitlines() if not line.startswith('links_per_pair = "')]
        source = '[scale_up.source]\nall = "a test"'
        path = write(tmp_path, "\n".join(lines).replace("[scale_up.source]", source))
    with pytest.raises(CatalogError) as caught:
        load_machine(path)
    assert caught.value.field == field


def test_levels_of_switches_nest(tmp_path):
    text = (TOPOLOGIES / "trn3.toml").read_text(encoding="utf-8")
    with pytest.raises(CatalogError, match=r"\[4, 70, 144\] must each divide the next"):
        load_machine(write(tmp_path, text.replace("span = 72", "span = 70")))


def test_a_torus_has_at_most_three_axes(tmp_path):
    path = edited(tmp_path, "full_shape = [16, 16]", "full_shape = [4, 4, 4, 4]", "tpu-v5e")
    with pytest.raises(CatalogError, match="one to three axes"):
        load_machine(path)


# --- extends -------------------------------------------------------------------------

FASTER = """
extends = "h100-hgx"
as_of = "2027-01"
[chip]
hbm_GB_per_s = 4000
[chip.source]
hbm_GB_per_s = "our own measurement"
"""


def test_extending_a_machine(tmp_path):
    spec, base = load_machine(write(tmp_path, FASTER)), load_machine("h100-hgx")
    assert spec.name == "mine"
    assert spec.chip.hbm_bytes_per_s == 4e12
    assert spec.chip.hbm_bytes == base.chip.hbm_bytes
    assert spec.scale_out == base.scale_out
    sources = {source.field: source for source in spec.sources}
    changed = sources["chip.hbm_GB_per_s"]
    assert (changed.text, changed.as_of) == ("our own measurement", "2027-01")
    assert sources["chip.hbm_GB"].as_of == "2026-11"


def test_extending_a_neighbour_file(tmp_path):
    write(tmp_path, FASTER, "faster.toml")
    text = FASTER.replace("h100-hgx", "faster.toml").replace("4000", "5000")
    assert load_machine(write(tmp_path, text)).chip.hbm_bytes_per_s == 5e12


def test_an_override_is_its_own_source(tmp_path):
    text = FASTER.replace('hbm_GB_per_s = "our own measurement"', "").replace(
        'as_of = "2027-01"\n', ""
    )
    path = write(tmp_path, text)
    found = {source.field: source for source in load_machine(path).sources}
    assert found["chip.hbm_GB_per_s"].text == f"given in {path}"
    assert found["chip.hbm_GB"].as_of == "2026-11"


def test_mixed_chips(tmp_path):
    text = (
        'extends = "h100-hgx"\n[size]\ndomains = 4\n[[mix]]\ndomains = [2, 3]\nchip = "h200-hgx"\n'
    )
    spec = load_machine(write(tmp_path, text))
    assert [domain for domain, _ in spec.mix] == [2, 3]
    assert spec.mix[0][1] == load_machine("h200-hgx").chip
    assert machine_from_facts(machine_facts(write(tmp_path, text))) == spec
    with pytest.raises(CatalogError, match="unknown machine 'h201'"):
        load_machine(write(tmp_path, text.replace("h200-hgx", "h201")))
    with pytest.raises(CatalogError, match="named twice"):
        load_machine(write(tmp_path, text.replace("[2, 3]", "[2, 2]")))
    with pytest.raises(CatalogError, match="there is no domain 9999"):
        load_machine(write(tmp_path, text.replace("[2, 3]", "[2, 9999]")))


def test_an_override_is_blamed_for_its_own_mistakes(tmp_path):
    path = write(tmp_path, FASTER.replace("4000", "-1"))
    with pytest.raises(CatalogError) as caught:
        load_machine(path)
    assert (caught.value.file, caught.value.line) == (path, line_of(path, "hbm_GB_per_s"))


def test_extending_an_unknown_machine(tmp_path):
    path = write(tmp_path, FASTER.replace("h100-hgx", "h1000"))
    with pytest.raises(CatalogError, match="unknown machine 'h1000'") as caught:
        load_machine(path)
    assert (caught.value.field, caught.value.line) == ("extends", 2)
    assert "h100-hgx" in caught.value.remedy


def test_extending_in_a_circle(tmp_path):
    write(tmp_path, FASTER.replace("h100-hgx", "b.toml"), "a.toml")
    write(tmp_path, FASTER.replace("h100-hgx", "a.toml"), "b.toml")
    with pytest.raises(CatalogError, match="extends itself"):
        load_machine(str(tmp_path / "a.toml"))


def test_extends_is_a_text(tmp_path):
    with pytest.raises(CatalogError, match="name or the path"):
        load_machine(write(tmp_path, 'extends = 3\nas_of = "2026-11"\n'))


def test_bottomless_files(tmp_path):
    with pytest.raises(CatalogError):
        load_machine(write(tmp_path, f"x = {'[' * 5000}{']' * 5000}\n"))


def test_numbers_beyond_floating_point(tmp_path):
    path = edited(tmp_path, "\nhbm_GB = 80\n", f"\nhbm_GB = 1{'0' * 400}\n")
    with pytest.raises(CatalogError) as caught:
        load_machine(path)
    assert caught.value.field == "chip.hbm_GB"


@pytest.mark.parametrize("seed", range(40))
def test_a_damaged_file_is_refused_in_our_own_words(tmp_path, seed):
    """Lines dropped, swapped, cut off or repeated: never another exception."""
    draw = random.Random(seed)
    name = draw.choice(["h100-hgx", "gb200-nvl72", "tpu-v5e"])
    lines = (TOPOLOGIES / f"{name}.toml").read_text(encoding="utf-8").splitlines()
    for _ in range(draw.randint(1, 3)):
        a, b = draw.randrange(len(lines)), draw.randrange(len(lines))
        damage = draw.randrange(4)
        if damage == 0:
            del lines[a]
        elif damage == 1:
            lines[a], lines[b] = lines[b], lines[a]
        elif damage == 2:
            lines[a] = lines[a][: draw.randrange(len(lines[a]) + 1)]
        else:
            lines.insert(b, lines[a])
    try:
        spec = load_machine(write(tmp_path, "\n".join(lines)))
    except CatalogError as error:
        assert error.file.endswith("mine.toml")
        assert error.message
    else:
        # harmless damage: comments, empty lines, optional fields, texts
        assert spec.chip.hbm_bytes == load_machine(name).chip.hbm_bytes
