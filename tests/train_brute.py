"""Brute force over training layouts: every mesh, policy and cut of a tiny request, priced in full.

Sets, with D chips in a domain, L layers, H heads, E experts of width W, B sequences of S tokens:

    tp         divides H, and D or twice D; or is D or 2 D times a whole number of domains
    cp         divides S / 2, leaves 512 tokens, at most 64
    pp         1 .. L + 2
    dp         divides B; not if its double is one too, unless cost or a pin says so
    all        what tp cp, a stage, or ep expert_tp ranks reach lies on the domains like the first
    microbatch divides B / dp, up to 16 or 32 or 64, unless it is pinned
    ep, expert_tp  divide E, and W and D (up to 16); both together the stage
    schedule   none without a pipeline, else any; interleaved where p divides m, with 2 .. 8, 10,
               12, 16, 20 or 24 chunks; DualPipe with even p and m, m >= 2 p, ZeRO 0 or 1
    cuts       inner chunks hold max(1, floor(L / C) - 1) .. ceil(L / C) + 1 layers, the first and
               the last none up to that; no device more than ceil(L / p) + 1

Every combination is priced by ``predict_training`` and nothing else; nothing of
``planner.search.training`` is used but the names of the request.
"""

import itertools
import math
from collections import Counter

from planner.cost.attention import decode_core
from planner.cost.runs.training import predict_training
from planner.cost.schedules.kinds import chunk_devices
from planner.domain.model import MoeFfn
from planner.domain.run import Mesh, Overlap, Recompute, Run, RunKind, ScheduleKind
from planner.domain.workload import Objective

USUAL = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16, 20, 24)


def permits(allowed, value):
    return allowed is None or value in allowed


def divisors(number):
    return [d for d in range(1, number + 1) if number % d == 0]


def meshes(request):
    """``(tp, cp, dp, pp, ep, expert_tp, microbatch, sequence parallelism)`` of the space."""
    model, limits, topology = request.model, request.limits, request.topology
    largest = max(map(len, topology.domains))
    heads = math.gcd(*(int(decode_core(x.attention, 1.0).num_heads) for x in model.layers))
    batch, seq = request.global_batch, request.seq_len
    moe = [x.ffn for x in model.layers if isinstance(x.ffn, MoeFfn)]
    experts = math.gcd(*(ffn.num_experts for ffn in moe)) if moe else 1
    width = math.gcd(*(int(ffn.expert_width) for ffn in moe)) if moe else 1
    every_dp = request.objective is Objective.COST or limits.dp is not None
    for tp in divisors(heads):
        whole = tp % largest == 0 and tp <= 2 * largest
        if not (largest % tp == 0 or whole):
            continue
        if tp <= largest:
            usable = sum(len(domain) // tp * tp for domain in topology.domains)
        else:
            usable = len(topology.domains) // (tp // largest) * tp
        for cp in divisors(seq):
            if cp > 1 and (seq % (2 * cp) or seq // cp < 512 or cp > 64):
                continue
            for pp in range(1, len(model.layers) + 3):
                room = usable // (tp * cp * pp)
                able = [
                    dp
                    for dp in divisors(batch)
                    if dp <= room and permits(limits.dp, dp)
                    if all(alike(topology, n, tp * cp * dp * pp) for n in (tp * cp, tp * cp * dp))
                ]
                for dp in able:
                    if 2 * dp in able and not every_dp:
                        continue
                    for own in itertools.product(
                        divisors(experts), divisors(width), divisors(batch // dp), (False, True)
                    ):
                        mesh = (tp, cp, dp, pp, *own)
                        if allowed(request, mesh, largest):
                            yield mesh


def alike(topology, span, used):
    """Whether all blocks of ranks have as many chips in each domain as the first."""
    owners = [domain for domain, chips in enumerate(topology.domains) for _ in chips]
    spread = [sorted(Counter(owners[i : i + span]).values()) for i in range(0, used, span)]
    return all(own == spread[0] for own in spread)


def allowed(request, mesh, largest):
    """What does not follow from the loops of :func:`meshes`."""
    tp, cp, dp, pp, ep, expert_tp, microbatch, split = mesh
    limits = request.limits
    names = ("tp", "cp", "dp", "pp", "ep", "expert_tp", "microbatch")
    if not all(
        permits(getattr(limits, name), value) for name, value in zip(names, mesh[:7], strict=True)
    ):
        return False
    if microbatch > 16 and microbatch not in (32, 64) and limits.microbatch is None:
        return False
    if expert_tp > 16 or largest % expert_tp or tp * cp * dp % (ep * expert_tp):
        return False
    if not alike(request.topology, ep * expert_tp, tp * cp * dp * pp):
        return False
    if tp == 1 or request.topology.is_torus:
        return not split
    return permits(limits.sequence_parallel, split)


def policies(request, mesh):
    """``(schedule, chunks per device, recomputation, ZeRO stage)`` of a mesh."""
    limits = request.limits
    _, cp, dp, pp, *_, microbatch, _ = mesh
    count = request.global_batch // dp // microbatch
    recomputes = [Recompute.NONE, Recompute.SELECTIVE, Recompute.FULL]
    if limits.recompute is not None:
        recomputes = [r for r in Recompute if r in limits.recompute]
    for kind in ScheduleKind:
        if (kind is ScheduleKind.NONE) != (pp == 1):
            continue
        if kind is not ScheduleKind.NONE and not permits(limits.schedules, kind):
            continue
        for chunks in USUAL if limits.virtual_stages is None else limits.virtual_stages:
            if (chunks > 1) != (kind is ScheduleKind.INTERLEAVED):
                continue
            own = pp * (2 if kind is ScheduleKind.ZB_V else chunks)
            if own > len(request.model.layers) + 2:
                continue
            if kind is ScheduleKind.INTERLEAVED and count % pp:
                continue
            dual = kind is ScheduleKind.DUALPIPE
            if dual and (pp % 2 or count % 2 or count < 2 * pp):
                continue
            for recompute, zero in itertools.product(recomputes, range(4)):
                if not permits(limits.zero, zero) or (zero and cp * dp == 1) or (dual and zero > 1):
                    continue
                yield kind, chunks, recompute, zero


def cuts(num_layers, kind, pp, chunks):
    """Layers of every chunk, in all ways."""
    total = pp * (2 if kind is ScheduleKind.ZB_V else chunks)
    if total == 1:
        return [(num_layers,)]
    least, most = max(1, num_layers // total - 1), math.ceil(num_layers / total) + 1
    per_device = math.ceil(num_layers / pp) + 1
    devices = chunk_devices(kind, pp, total // pp)
    inner = [range(least, most + 1)] * (total - 2)
    found = []
    for counts in itertools.product(range(most + 1), *inner, range(most + 1)):
        held = [0] * pp
        for device, count in zip(devices, counts, strict=True):
            held[device] += count
        if sum(counts) == num_layers and max(held) <= per_device:
            found.append(counts)
    return found


def run_of(request, mesh, policy):
    """A mesh with a policy as the cost model takes it."""
    tp, cp, dp, pp, ep, expert_tp, microbatch, split = mesh
    kind, chunks, recompute, zero = policy
    overlap = request.overlap
    if kind not in (ScheduleKind.DUALPIPE, ScheduleKind.INTERLEAVED):
        overlap = overlap - {Overlap.EP}
    return Run(
        kind=RunKind.TRAIN,
        mesh=Mesh(
            attn_tp=tp,
            cp=cp,
            attn_dp=dp,
            pp=pp,
            virtual_stages=chunks,
            ep=ep,
            expert_tp=expert_tp,
        ),
        global_batch=request.global_batch,
        seq_len=request.seq_len,
        microbatch=microbatch,
        schedule=kind,
        recompute=recompute,
        zero_stage=zero,
        sequence_parallel=split,
        overlap=overlap,
        optimizer=request.optimizer,
        optimizer_state=request.optimizer_state,
        gradients=request.gradients,
    )


def value_of(request, run, seconds):
    """Objective, smaller is better."""
    if request.objective is Objective.LATENCY:
        return seconds
    largest = max(map(len, request.topology.domains))
    rented = math.ceil(run.mesh.num_chips / largest) * largest
    tokens = request.global_batch * request.seq_len
    return request.price_usd_per_hour / 3600 * rented * seconds / tokens * 1e6


def strategies(request):
    """Every mesh with every policy."""
    return [(mesh, policy) for mesh in meshes(request) for policy in policies(request, mesh)]


def price_all(request, strategy):
    """``(counts, prediction)`` of every cut of one strategy."""
    run = run_of(request, *strategy)
    every = cuts(len(request.model.layers), run.schedule, run.mesh.pp, run.mesh.virtual_stages)
    return run, [
        (own, predict_training(request.model, request.topology, run, own)) for own in every
    ]


def best_of(request, every):
    """Smallest objective among the cuts that fit, infinite if none does."""
    best = math.inf
    for strategy in every:
        run, found = price_all(request, strategy)
        seconds = [one.seconds for _, one in found if one.memory.fits]
        if seconds:
            best = min(best, value_of(request, run, min(seconds)))
    return best
