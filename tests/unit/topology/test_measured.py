"""Expert dispatch and combine against published measurements, where they are at hand."""

import csv
import math
from pathlib import Path

import pytest

from planner.catalog.machines import load_machine, resize
from planner.domain.hardware import Op, SwitchDomain
from planner.topology.build import build_topology
from planner.topology.collectives import collective_rate
from planner.topology.groups import group_shape

MEASURED = Path(__file__).resolve().parents[4] / "shared" / "measured" / "visible.csv"
GROUPS = ("deepep-readme", "deepep-ll-sweep", "gb200-a2a-sweep")


def ratios():
    """Predicted over measured seconds, by whether the group fits into one domain."""
    found = {"inside": [], "across": []}
    with MEASURED.open() as file:
        rows = [row for row in csv.DictReader(file) if row["source_group"] in GROUPS]
    for row in rows:
        if row["topology"] not in ("h100-hgx", "h200-hgx", "h800-hgx", "gb200-nvl72"):
            continue
        chips = int(row["num_chips"])
        # Four chips receive at most four copies of a token's eight: the count of bytes in
        # the file, which counts every copy, is not what was sent.
        if chips < 8:
            continue
        spec = load_machine(row["topology"])
        assert isinstance(spec.scale_up, SwitchDomain)
        domains = math.ceil(chips / spec.scale_up.chips)
        if domains > 1:
            spec = resize(spec, nodes=domains)
        topology = build_topology(spec)
        rate = collective_rate(topology, Op.ALL_TO_ALL, group_shape(topology, range(chips)))
        tier = "across" if domains > 1 else "inside"
        found[tier].append(rate.seconds(float(row["bytes"])) / float(row["time_s"]))
    return found


@pytest.mark.skipif(not MEASURED.exists(), reason="published measurements are not at hand")
@pytest.mark.parametrize(
    ("tier", "mean_error", "worst"), [("across", 0.06, 1.25), ("inside", 0.2, 1.5)]
)
def test_all_to_all_is_close_to_published_times(tier, mean_error, worst):
    found = ratios()[tier]
    assert len(found) >= 20
    errors = [abs(math.log(ratio)) for ratio in found]
    assert sum(errors) / len(errors) < mean_error
    assert max(errors) < math.log(worst)
