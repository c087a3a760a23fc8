"""Options shared by all commands, written once, and their translation into a question."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

import click

from planner.cli.trace_options import TRACE_OPTION, apply_trace
from planner.domain.degrees import OVERLAP_LABELS, OverlapMode
from planner.domain.dtypes import DType
from planner.domain.hardware import Sizing
from planner.domain.question import DegreeLimits, Question
from planner.domain.workload import Objective, Phase, TimeModel
from planner.errors import SpecError
from planner.units import parse_seconds, parse_tokens, parse_usd

Command = TypeVar("Command", bound=Callable[..., Any])
MAX_DEGREE = 100_000
MAX_SEED = 2**31 - 1  # CP-SAT keeps its seed in 32 bits

_WHOLE = re.compile(r"-?[0-9]{1,15}")

DEGREES = {
    "tp": "Attention tensor parallelism",
    "pp": "Pipeline stages",
    "ep": "Expert parallelism",
    "dp": "Attention data parallelism, over all replicas",
    "expert-tp": "Tensor parallelism inside an expert",
    "slots": "Expert copies per MoE layer",
    "microbatches": "Microbatches in flight",
    "replicas": "Replicas of the model",
    "cp": "Ranks that share each context's cache",
}
# Options of phases and axes that this version does not plan yet, refused by name.
LATER = {
    "concurrency": "serving",
}


def parse_values(text: str | None, option: str, least: int = 1) -> frozenset[int] | None:
    """Read a value, a list or a range: ``8``, ``64,72``, ``1..4`` or a mixture."""
    if text is None:
        return None
    found: set[int] = set()
    for part in text.split(","):
        first, dots, last = part.strip().partition("..")
        ends = (first, last) if dots else (first, first)
        if not all(_WHOLE.fullmatch(end) for end in ends):
            raise SpecError(
                f"{option}: cannot read '{text}'", f"write for example {option} 8, 64,72 or 1..4"
            )
        low, high = int(ends[0]), int(ends[1])
        if low < least or high < low:
            positive = "positive numbers" if least else "numbers from 0 on"
            raise SpecError(
                f"{option}: '{part.strip()}' is not a range of {positive}",
                f"write for example {option} 1..4",
            )
        if high > MAX_DEGREE:
            raise SpecError(f"{option}: {high} is more than {MAX_DEGREE:,}", "write a smaller one")
        found.update(range(low, high + 1))
    return frozenset(found)


SURVIVED = ("chip", "tray", "node", "any")
_DOMAINS = ("domain", "node", "rack", "slice")


def parse_reserve(text: str | None) -> tuple[int, int]:
    """Read ``N`` or ``N/domain``: spares of the whole machine, spares of every domain."""
    if text is None:
        return 0, 0
    number, slash, of = text.partition("/")
    if not (number.isascii() and number.isdigit()) or (slash and of not in _DOMAINS):
        raise SpecError(
            f"--reserve: cannot read '{text}'", "write for example --reserve 4 or 2/domain"
        )
    count = int(number)
    return (0, count) if slash else (count, 0)


def parse_survive(text: str | None) -> str | None:
    """Read ``1``, ``1/tray`` or ``tray``: any one part of a kind may die, or of all kinds."""
    if text is None:
        return None
    number, slash, part = text.partition("/")
    part = part if slash else "any" if number == "1" else number
    if (slash and number != "1") or part not in SURVIVED:
        raise SpecError(
            f"--survive: cannot read '{text}'",
            "write --survive 1, or 1/chip, 1/tray or 1/node; more than one at once is not planned",
        )
    return part


def parse_shape_option(text: str | None) -> tuple[int, ...] | None:
    """Read ``8x8x16``."""
    if text is None:
        return None
    from planner.catalog.machine_size import parse_shape

    return parse_shape(text)


def _apply(command: Command, options: list[Any]) -> Command:
    for option in reversed(options):
        command = option(command)
    return command


def size_options(command: Command) -> Command:
    """How much of the machine, and in what state."""
    return _apply(
        command,
        [
            click.option("--nodes", type=int, help="Number of nodes."),
            click.option("--racks", type=int, help="Number of racks."),
            click.option("--slices", type=int, help="Number of slices of a torus."),
            click.option("--shape", metavar="8x8x16", help="Shape of a slice of a torus."),
            click.option(
                "--without",
                multiple=True,
                metavar="KIND:NAME",
                help="Dead part, e.g. chip:r0/t3/c2, tray:r0/t3, switch:r0/sw5; repeatable.",
            ),
            click.option(
                "--degrade",
                multiple=True,
                metavar="KIND:NAME=X",
                help="Fraction of bandwidth left, e.g. link:r0/t3/c2--r0/sw5=0.5; repeatable.",
            ),
            click.option(
                "--usable",
                multiple=True,
                metavar="DOMAIN=N",
                help="Usable chips of a node or rack, e.g. r0=70, or '*=70'; repeatable.",
            ),
            click.option("--wounds", metavar="FILE", help="TOML file of without, degrade, usable."),
        ],
    )


def to_sizing(values: dict[str, Any]) -> Sizing:
    """Translate the options of :func:`size_options`.

    Raises
    ------
    SpecError, CatalogError
        Naming the option, or the file, that cannot be read.
    """
    from planner.catalog.wounds_file import load_wounds, parse_wounds

    wounds = parse_wounds(values["without"], values["degrade"], values["usable"])
    if values["wounds"] is not None:
        wounds = load_wounds(values["wounds"]).joined(wounds)
    return Sizing(
        nodes=values["nodes"],
        racks=values["racks"],
        slices=values["slices"],
        shape=parse_shape_option(values["shape"]),
        wounds=wounds,
    )


def degree_options(command: Command) -> Command:
    """One option per degree: a value, a list or a range; what is given twice is joined."""
    options = [
        click.option(
            f"--{name}",
            metavar="N|N,N|N..N",
            help=f"{text}.",
            multiple=True,
            callback=lambda _, __, given: ",".join(given) if given else None,
        )
        for name, text in DEGREES.items()
    ]
    options += [
        click.option(
            "--overlap",
            metavar="WHAT",
            help="Communication behind computation: none, ep, tp or ep,tp; free if absent. "
            "train: none, or of tp,dp,ep what the engine can hide; all if absent.",
        ),
        click.option("--no-overlap", is_flag=True, help="The same as --overlap none."),
        click.option("--draft", metavar="N|N..N", help="Drafted tokens per pass, e.g. 0..3."),
        click.option("--acceptance", type=float, help="Probability that a draft is accepted."),
    ]
    return _apply(command, options)


def parse_overlap(values: dict[str, Any]) -> frozenset[int] | None:
    """Read ``--overlap`` and ``--no-overlap``; None when both are absent."""
    label = values["overlap"]
    if label is not None and label not in OVERLAP_LABELS:
        raise SpecError(
            f"--overlap: '{label}' is not one of {', '.join(OVERLAP_LABELS)}",
            "write for example --overlap ep",
        )
    if values["no_overlap"]:
        if label not in (None, OverlapMode.NONE.label):
            raise SpecError(f"--no-overlap contradicts --overlap {label}", "leave one out")
        label = OverlapMode.NONE.label
    return None if label is None else frozenset({int(OVERLAP_LABELS[label])})


def question_options(command: Command) -> Command:
    """Everything that a question consists of, beside the model."""
    dtypes = click.Choice([dtype.value for dtype in DType])
    options = [
        click.option("--on", "machine", metavar="MACHINE", help="Catalogue name or TOML file."),
        click.option(
            "--phase",
            type=click.Choice([p.value for p in Phase]),
            default="decode",
            show_default=True,
            help="What the chips do.",
        ),
        click.option(
            "--context",
            metavar="TOKENS",
            help="Cached tokens per sequence, e.g. 8k; prefill: before it, none if absent.",
        ),
        click.option(
            "--seq",
            metavar="TOKENS",
            help="prefill: new tokens of a sequence, e.g. 4k; train: tokens of a sequence.",
        ),
        TRACE_OPTION,
        click.option(
            "--exclude",
            multiple=True,
            metavar="CHIP",
            help="Healthy chips not to use, e.g. r0/t3/c2, tray:r0/t3, rack:r1; repeatable.",
        ),
        click.option(
            "--reserve",
            metavar="N|N/domain",
            help="Spare chips to leave idle, on the machine or in each node, rack or slice.",
        ),
        click.option(
            "--survive",
            metavar="1|1/PART",
            help="Go on when any one part dies: chip, tray or node; 1 alone means each of them.",
        ),
        click.option("--tpot", metavar="TIME", help="Longest time per output token, e.g. 20ms."),
        click.option("--ttft", metavar="TIME", help="prefill: longest time of a pass, e.g. 1s."),
        click.option(
            "--batch",
            "--global-batch",
            "batch",
            type=int,
            help="Sequences on the whole machine; free if absent. train: those of a step.",
        ),
        click.option("--weights", type=dtypes, help="Format of the matmul weights."),
        click.option("--activations", type=dtypes, help="Format of matmul inputs."),
        click.option("--kv", type=dtypes, help="Format of the KV cache."),
        click.option("--price", metavar="USD", help="Dollars per chip-hour."),
        click.option(
            "--loads",
            metavar="FILE",
            help="Tokens of each expert [layers, experts]: JSON, CSV, .npy, .npz, or recorded.",
        ),
        click.option(
            "--objective",
            type=click.Choice([o.value for o in Objective]),
            default="throughput",
            show_default=True,
            help="What to optimise.",
        ),
        click.option(
            "--time-model",
            type=click.Choice([t.value for t in TimeModel]),
            default="sum",
            show_default=True,
            help="How parts of a layer add up.",
        ),
        click.option("--ideal", is_flag=True, help="Pure roofline: no derates, no latencies."),
        click.option("--gap", type=float, default=0.005, show_default=True, help="Gap to prove."),
        click.option("--time-limit", metavar="TIME", help="Stop early with an honest gap."),
        click.option(
            "--seed",
            type=click.IntRange(0, MAX_SEED),
            default=0,
            show_default=True,
            help="Random seed; no step of a decode plan is random.",
        ),
        *(
            click.option(f"--{name}", f"later_{name.replace('-', '_')}", hidden=True)
            for name in LATER
        ),
    ]
    return degree_options(size_options(_apply(command, options)))


def output_options(command: Command) -> Command:
    """``-o FILE`` and ``--json``."""
    return _apply(
        command,
        [
            click.option("-o", "--out", metavar="FILE", help="Write the layout to FILE."),
            click.option("--json", "as_json", is_flag=True, help="Print JSON."),
        ],
    )


def _refuse_later(values: dict[str, Any]) -> None:
    phase = values["phase"]
    if phase not in (Phase.DECODE.value, Phase.PREFILL.value):
        raise SpecError(
            f"phase {phase} is not supported by this version", "supported: decode, prefill"
        )
    for name, phase_name in LATER.items():
        if values.get(f"later_{name.replace('-', '_')}") is not None:
            raise SpecError(
                f"--{name} belongs to {phase_name}, which this version does not plan",
                "supported: --phase decode with --context, --phase prefill with --seq",
            )


def _tokens(values: dict[str, Any], name: str) -> int | None:
    text = values[name]
    return None if text is None else parse_tokens(text, f"--{name}")


def _dtype(name: str | None) -> DType | None:
    return None if name is None else DType(name)


def to_question(model: str, values: dict[str, Any]) -> Question:
    """Translate parsed options into a question.

    Raises
    ------
    SpecError
        Naming the option that cannot be read, is missing, or is not supported yet.
    """
    _refuse_later(values)
    values, _ = apply_trace(values["phase"], values)
    phase = Phase(values["phase"])
    needed = [("machine", "--on", "gb200-nvl72"), ("context", "--context", "8k")]
    if phase is Phase.PREFILL:
        needed[1] = ("seq", "--seq", "4k")
    for name, option, example in needed:
        if values.get(name) is None:
            where = "" if phase is Phase.DECODE else f" for --phase {phase.value}"
            raise SpecError(f"{option} is missing{where}", f"write for example {option} {example}")
    gap = values["gap"]
    if not 0 <= gap < 1:
        raise SpecError(f"--gap: {gap} is not in [0, 1)", "write for example --gap 0.005")
    seconds = {
        name: None if values[name] is None else parse_seconds(values[name], f"--{option}")
        for name, option in (("tpot", "tpot"), ("ttft", "ttft"), ("time_limit", "time-limit"))
    }
    price = values["price"]
    sizing = to_sizing(values)
    reserve, reserve_per_domain = parse_reserve(values["reserve"])
    return Question(
        model=model,
        machine=values["machine"],
        phase=phase,
        context_tokens=_tokens(values, "context") or 0,
        seq_len=_tokens(values, "seq"),
        ttft_s=seconds["ttft"],
        nodes=sizing.nodes,
        racks=sizing.racks,
        slices=sizing.slices,
        shape=sizing.shape,
        wounds=sizing.wounds,
        weights=_dtype(values["weights"]),
        activations=_dtype(values["activations"]),
        kv=_dtype(values["kv"]),
        tpot_s=seconds["tpot"],
        batch=values["batch"],
        price_usd_per_hour=None if price is None else parse_usd(price, "--price"),
        objective=Objective(values["objective"]),
        time_model=TimeModel(values["time_model"]),
        ideal=values["ideal"],
        loads=values["loads"],
        limits=DegreeLimits(
            **{
                name.replace("-", "_"): parse_values(values[name.replace("-", "_")], f"--{name}")
                for name in DEGREES
            },
            overlap=parse_overlap(values),
            draft=parse_values(values["draft"], "--draft", least=0),
        ),
        acceptance=values["acceptance"],
        gap=gap,
        time_limit_s=seconds["time_limit"],
        seed=values["seed"],
        exclude=tuple(dict.fromkeys(values["exclude"])),
        reserve=reserve,
        reserve_per_domain=reserve_per_domain,
        survive=parse_survive(values["survive"]),
    )
