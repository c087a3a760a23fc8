"""Fillings of devices: all of them, their prices against all cuts, and the same in plain loops."""

import math
import random
from collections import Counter

import numpy as np
import pytest
import train_brute as brute
from train_attack import bounded
from train_tiny import tiny_request

from planner.domain.run import ScheduleKind
from planner.search.training.filling_bound import FillingBound
from planner.search.training.fillings import Devices, enumerate_fillings
from planner.search.training.scalar import ScalarBound
from planner.search.training.scalar_fillings import filled_s

# No step takes this long.
NO_LIMIT_S = 1e6


def devices(totals, contents, common, able):
    return Devices(
        ahead=True,
        totals=totals,
        special=tuple(range(len(contents))),
        contents=tuple(np.array(own).reshape(-1, len(totals)) for own in contents),
        num_common=max(able, default=0),
        common=np.array(common, dtype=np.int64),
        able=np.array(able, dtype=np.int64),
        # Every layer takes a second.
        seconds=tuple(
            np.array(own, dtype=float).reshape(-1, len(totals)).sum(1) for own in contents
        ),
        common_s=np.array(common, dtype=float),
        total_s=float(sum(totals)),
    )


def test_fillings_by_hand():
    # 7 common layers and 1 other: the first device has 1 + 1, 2 + 1 or 2 + 0 of them; three
    # alike ones have 1 to 3, only one has room for 3. Left for those: 6 with two ways
    # (2 2 2, 3 2 1), 5 with two (2 2 1, 3 1 1).
    found = enumerate_fillings(devices((7, 1), [[(1, 1), (2, 1), (2, 0)]], [1, 2, 3], [3, 3, 1]))
    rows = {
        (tuple(special[0]), tuple(common))
        for special, common in zip(found.special.tolist(), found.common.tolist(), strict=True)
    }
    assert rows == {
        ((1, 1), (0, 3, 0)),
        ((1, 1), (1, 1, 1)),
        ((2, 1), (1, 2, 0)),
        ((2, 1), (2, 0, 1)),
    }


def test_nothing_fills_what_has_no_room():
    assert len(enumerate_fillings(devices((7,), [[(1,)]], [1, 2], [2, 2]))) == 0
    assert len(enumerate_fillings(devices((3,), [[(1,), (2,)]], [], []))) == 0
    assert len(enumerate_fillings(devices((2,), [[(1,), (2,)]], [], []))) == 1


def test_too_many_fillings_are_none():
    many = [[(a, b) for a in range(30) for b in range(30)]] * 4
    assert enumerate_fillings(devices((58, 58), many, [], [])) is None


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """Pipelines of tiny requests: search, row, place, prices of all cuts."""
    folder, rng, found = tmp_path_factory.mktemp("fillings"), random.Random(3), []
    for seed in range(21_000, 21_150):
        request = tiny_request(seed, folder)
        search = bounded(request)
        rows = range(len(search.meshes))
        for row in rng.sample(rows, min(4, len(rows))):
            own = search.cases(np.array([row]))
            every = search.menu_places(own.policies).tolist()
            for place in rng.sample(every, min(4, len(every))):
                run = search.run_of(row, place)
                shape = (run.schedule, run.mesh.pp, run.mesh.virtual_stages)
                cuts = brute.cuts(len(request.model.layers), *shape) if run.mesh.pp > 1 else []
                if 0 < len(cuts) <= 120:
                    priced = [
                        brute.predict_training(request.model, request.topology, run, cut)
                        for cut in cuts
                    ]
                    fitting = [one.seconds for one in priced if one.memory.fits]
                    found.append((search, row, place, min(fitting, default=math.inf)))
    return found


def bound_of(search, row, place, limit_s):
    case, pipeline = search.case(row, place), search.pipeline(row, place)
    return FillingBound(search.bound, case, pipeline).bounded(limit_s)


def test_no_cut_is_cheaper_than_the_cheapest_filling(cases):
    met, kinds = Counter(), Counter()
    for search, row, place, best in cases:
        found = bound_of(search, row, place, NO_LIMIT_S)
        assert found is not None
        kind = search.run_of(row, place).schedule
        assert found.bound_s <= min(best, NO_LIMIT_S) * (1 + 1e-9), (kind, row, place)
        kinds[kind] += 1
        met[kind] += found.bound_s >= min(best, NO_LIMIT_S) * (1 - 1e-9)
    assert sum(kinds.values()) > 100 and len(kinds) >= 6
    # Order on a device, and which stage of DualPipe has what, are all that is left out.
    exact = [kind for kind in kinds if kind is not ScheduleKind.DUALPIPE]
    assert sum(met[kind] for kind in exact) > 0.9 * sum(kinds[kind] for kind in exact)


def test_a_limit_is_kept(cases):
    for search, row, place, best in cases[:60]:
        if best == math.inf:
            continue
        whole = bound_of(search, row, place, NO_LIMIT_S).bound_s
        for limit in (0.9 * whole, 1.2 * whole):
            found = bound_of(search, row, place, limit)
            assert found.bound_s == pytest.approx(min(limit, whole), rel=1e-9)


def test_plain_loops_agree(cases):
    checks = 0
    for search, row, place, _ in cases:
        run = search.run_of(row, place)
        if run.schedule is ScheduleKind.DUALPIPE:
            continue
        request = search.request
        scalar = ScalarBound(model=request.model, topology=request.topology, run=run)
        loops = filled_s(scalar, NO_LIMIT_S)
        own = bound_of(search, row, place, NO_LIMIT_S).bound_s
        # Loops know all bytes of a device; the search those that it can tell in advance.
        assert loops >= own * (1 - 1e-6), run
        checks += loops == pytest.approx(own, rel=1e-6)
    assert checks > 90
