"""Wounds from files, from command-line texts, and back into the facts of a machine."""

import pytest

from planner.catalog.machine_size import sized
from planner.catalog.machines import load_machine, machine_facts, machine_from_facts
from planner.catalog.wounds_file import load_wounds, parse_wounds, with_wounds
from planner.domain.hardware import NO_WOUNDS, Sizing, Wounds
from planner.errors import CatalogError, SpecError

ALL = Wounds(
    without=("chip:r0/t3/c2", "switch:r0/sw5"),
    degrade=(("link:r0/t0/c0--r0/sw1", 0.5), ("nic:r0/t0/c0", 0.25)),
    usable=(("*", 70), ("r0", 68)),
)
TEXT = """
without = ["chip:r0/t3/c2", "switch:r0/sw5", "chip:r0/t3/c2"]

[degrade]
"nic:r0/t0/c0" = 0.25
"link:r0/t0/c0--r0/sw1" = 0.5

[usable]
r0 = 68
"*" = 70
"""


def write(folder, text):
    path = folder / "wounds.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_file_of_every_kind(tmp_path):
    assert load_wounds(write(tmp_path, TEXT)) == ALL


def test_an_empty_file_is_no_wound(tmp_path):
    assert not load_wounds(write(tmp_path, ""))


@pytest.mark.parametrize(
    ("text", "field", "message"),
    [
        ('witout = ["chip:x"]', "", "unknown field `witout`"),
        ('without = "chip:x"', "without", "expected `array`"),
        ("without = [3]", "without", "expected `str`"),
        ("[degrade]\nx = true", "degrade", "expected `float`"),
        ("[degrade]\nx = 1.5", "degrade", "x = 1.5 is outside [1e-06, 1]"),
        ("[degrade]\nx = 0", "degrade", "x = 0"),
        ("[degrade]\nx = nan", "degrade", "nan is outside"),
        ("[usable]\nr0 = 7.5", "usable", "expected `int`"),
        ('[wounds]\nwithout = ["chip:x"]', "", "unknown field `wounds`"),
    ],
)
def test_what_a_file_must_not_say(tmp_path, text, field, message):
    path = write(tmp_path, text)
    with pytest.raises(CatalogError) as caught:
        load_wounds(path)
    assert message in caught.value.message
    assert caught.value.field.partition("[")[0] == field
    assert (caught.value.file, caught.value.remedy != "") == (path, True)


def test_malformed_and_missing_files(tmp_path):
    with pytest.raises(CatalogError) as caught:
        load_wounds(write(tmp_path, "without = [\n[usable]\n"))
    assert caught.value.line is not None
    with pytest.raises(CatalogError, match="no such file"):
        load_wounds(str(tmp_path / "none.toml"))


def test_texts_of_every_option():
    parsed = parse_wounds(
        without=("chip:r0/t3/c2", "switch:r0/sw5", "chip:r0/t3/c2"),
        degrade=("nic:r0/t0/c0=0.25", "link:r0/t0/c0--r0/sw1=0.5"),
        usable=("r0=68", "*=70"),
    )
    assert parsed == ALL
    assert parse_wounds((), (), ()) is NO_WOUNDS


def test_the_last_of_two_fractions_has_its_way():
    parsed = parse_wounds((), ("switch:a=0.5", "switch:a=0.75"), ("r0=2", "r0=2"))
    assert parsed == Wounds(degrade=(("switch:a", 0.75),), usable=(("r0", 2),))
    with pytest.raises(SpecError, match="r0 is given twice"):
        parse_wounds((), (), ("r0=1", "r0=2"))


@pytest.mark.parametrize(
    ("degrade", "usable", "option"),
    [
        ("switch:r0/sw0", None, "--degrade"),
        ("=0.5", None, "--degrade"),
        ("switch:r0/sw0=", None, "--degrade"),
        ("switch:r0/sw0=0", None, "--degrade"),
        ("switch:r0/sw0=1.01", None, "--degrade"),
        ("switch:r0/sw0=nan", None, "--degrade"),
        ("switch:r0/sw0=half", None, "--degrade"),
        (None, "r0", "--usable"),
        (None, "r0=", "--usable"),
        (None, "r0=-1", "--usable"),
        (None, "r0=7.5", "--usable"),
        (None, "r0=٣", "--usable"),
    ],
)
def test_texts_that_cannot_be_read(degrade, usable, option):
    with pytest.raises(SpecError, match=option) as caught:
        parse_wounds((), (degrade,) if degrade else (), (usable,) if usable else ())
    assert caught.value.remedy


def test_wounds_of_the_file_and_of_the_options_add_up(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('extends = "gb200-nvl72"\n[wounds]\nwithout = ["chip:r0/t0/c0"]\n')
    spec = load_machine(str(path))
    more = Wounds(without=("switch:r0/sw5",), usable=(("r0", 70),))
    assert sized(spec, Sizing(wounds=more)).wounds == Wounds(
        without=("chip:r0/t0/c0", "switch:r0/sw5"), usable=(("r0", 70),)
    )


def test_options_overrule_the_fraction_of_the_file():
    first = Wounds(degrade=(("switch:a", 0.5), ("switch:b", 0.5)))
    second = Wounds(degrade=(("switch:a", 0.75),))
    assert first.joined(second).degrade == (("switch:a", 0.75), ("switch:b", 0.5))


def test_facts_carry_wounds_along():
    spec = sized(load_machine("gb200-nvl72"), Sizing(wounds=ALL))
    facts = machine_facts("gb200-nvl72")
    assert machine_from_facts(with_wounds(facts, spec)).wounds == ALL
    assert with_wounds(facts, load_machine("gb200-nvl72")) is facts
