"""Attacks on the relaxations of the training search: random meshes, policies and cuts, priced."""

import math

import numpy as np

from planner.cost.runs.training import predict_training
from planner.search.training.filling_bound import FillingBound
from planner.search.training.rooms import limits_of, slowest_device
from planner.search.training.search import TrainSearch

# Terms of a step that are not work of the slowest device.
OUTSIDE = ("bubble", "pipeline_hops", "gradients", "optimizer")
SLACK = 1 + 1e-9


def bounded(request):
    """A search whose bounds are set up, as before its loop."""
    search = TrainSearch(request)
    if len(search.meshes):
        search.prepare()
    return search


def random_cuts(rng, num_layers, pipeline, most):
    """Some cuts of the space: layers dealt out at random, evenly half of the time."""
    devices, p = pipeline.devices.tolist(), pipeline.num_devices
    if len(devices) == 1:
        return [(num_layers,)]
    low, high = limits_of(num_layers, len(devices))
    per_device = -(-num_layers // p) + 1
    found = set()
    for _ in range(most):
        counts, held = list(low), [0] * p
        for device, count in zip(devices, counts, strict=True):
            held[device] += count
        for _ in range(num_layers - sum(counts)):
            able = [
                chunk
                for chunk, device in enumerate(devices)
                if counts[chunk] < high[chunk] and held[device] < per_device
            ]
            if not able:
                break
            if rng.random() < 0.5:
                least = min(counts[chunk] for chunk in able)
                able = [chunk for chunk in able if counts[chunk] == least]
            chunk = rng.choice(able)
            counts[chunk] += 1
            held[devices[chunk]] += 1
        if sum(counts) == num_layers:
            found.add(tuple(counts))
    return sorted(found)


def _of_cut(search, place, bounds, counts):
    """Names of the bounds that the price of one cut undercuts."""
    request, run = search.request, place["run"]
    priced = predict_training(request.model, request.topology, run, counts)
    pipeline, slowest = place["pipeline"], place["slowest"]
    own = float(pipeline.device_s(counts).max())
    work = sum(term.seconds for term in priced.terms if term.name not in OUTSIDE)
    found = []
    if bounds["step"] > priced.seconds * SLACK:
        found.append("step")
    if bounds["memory"] > priced.memory.needed_bytes * SLACK:
        found.append("memory")
    if not math.isclose(own, work / run.num_microbatches, rel_tol=1e-9):
        found.append("device seconds")
    if priced.memory.fits:
        if slowest.seconds > own * SLACK:
            found.append("slowest device")
        if bounds["tight"] > priced.seconds * SLACK:
            found.append("tight step")
        if bounds["filled"] > priced.seconds * SLACK:
            found.append("fillings")
        if pipeline.rank(counts)[0] > 0:
            found.append("device bytes")
        if not bounds["room"]:
            found.append("room for the layers")
    return found


def violations_of(request, rng, sizes):
    """Checked cuts, and bounds above what a layout is priced at: ``sizes`` rows, policies, cuts."""
    search = bounded(request)
    num_rows, num_policies, num_cuts = sizes
    checks, broken = 0, []
    for row in rng.sample(range(len(search.meshes)), min(len(search.meshes), num_rows)):
        cases = search.cases(np.array([row]))
        if not len(cases):
            continue
        memory, step = search.bound.memory_bytes(cases), search.bound.step_s(cases)
        room = search.bound.has_room(cases)
        fits = memory <= search.bound.chip.hbm_usable_bytes
        if fits.any() and search.table.step_s[row] > step[fits].min() * SLACK:
            broken.append(("mesh table", search.meshes.mesh(row)))
        places = search.menu_places(cases.policies)
        for index in rng.sample(range(len(cases)), min(len(cases), num_policies)):
            code = int(places[index])
            pipeline = search.pipeline(row, code)
            slowest = slowest_device(pipeline)
            tight = math.inf
            if slowest.seconds < math.inf:
                case = search.case(row, code)
                tight = search.bound.tight_step_s(case, slowest.seconds, slowest.devices)
            filled = 0.0
            if pipeline.num_devices > 1:
                # A limit that most cuts keep, so that few fillings are left out.
                own = FillingBound(search.bound, search.case(row, code), pipeline)
                limit = 1.5 * max(float(step[index]), 0.0 if tight == math.inf else tight)
                every = own.bounded(limit)
                filled = 0.0 if every is None else every.bound_s
            place = {"run": search.run_of(row, code), "pipeline": pipeline, "slowest": slowest}
            bounds = {
                "step": step[index],
                "memory": memory[index],
                "tight": tight,
                "room": room[index],
                "filled": filled,
            }
            for counts in random_cuts(rng, len(request.model.layers), pipeline, num_cuts):
                checks += 1
                names = _of_cut(search, place, bounds, counts)
                if names:
                    broken.append((names, place["run"], counts))
    return checks, broken
