"""Whole commands on large machines: wall and processor seconds, peak memory, proven gap.

Run with the interpreter that has planner installed: python tests/benchmarks/bench_scale.py
Prints the tables of the README's section Scale. ``--runs 3`` takes the best of three,
``--only curve`` or ``--only goals`` one of the tables.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

LAUNCH = [sys.executable, "-c", "from planner.cli.main import main; main()"]
DECODE = ["plan", "deepseek-v3", "--context", "8k", "--tpot", "20ms", "--on", "gb200-nvl72"]
NODES = ["plan", "deepseek-v3", "--context", "4k", "--tpot", "50ms", "--on", "h100-hgx"]
RACKS = ["--on", "gb200-nvl72", "--racks", "16"]
SERVED = ["--input", "4k", "--output", "1k", "--ttft", "2s", "--tpot", "30ms", "--gap", "0.01"]
POOLS = ["plan", "kimi-k2", "--phase", "serve", *RACKS, *SERVED]
LLAMA = ["--batch", "2048", "--seq", "8k"]
DEEPSEEK = ["--batch", "15360", "--seq", "4k", "--gap", "0.01"]
CURVE = (9, 18, 36, 72, 144, 288, 576, 1152, 2304, 4096)


def skewed_loads(folder):
    """Log-normal routing loads of 58 layers and 256 experts."""
    table = np.random.default_rng(0).lognormal(0.0, 0.7, (58, 256))
    path = folder / "loads.json"
    path.write_text(json.dumps(table.round(4).tolist()))
    return str(path)


def dead_chips(folder):
    """3 % of the chips of 16 racks, at random."""
    names = [f"chip:r{r}/t{t}/c{c}" for r in range(16) for t in range(18) for c in range(4)]
    dead = sorted(random.Random(0).sample(names, round(0.03 * len(names))))
    path = folder / "wounds.toml"
    path.write_text("without = [" + ", ".join(f'"{name}"' for name in dead) + "]\n")
    return str(path)


def goals(folder):
    """Cases of the table: name, command, and the goals for seconds, MB and the gap in %."""
    train = ["--phase", "train", "--on"]
    return [
        ("DeepSeek-V3 decode, 72 x GB200", DECODE, (2, 400, 0.5)),
        (
            "DeepSeek-V3 decode with loads, 8 racks",
            [*DECODE, "--racks", "8", "--loads", skewed_loads(folder)],
            (4, 600, 0.5),
        ),
        (
            "Kimi-K2 decode, 16 racks, 3 % of chips dead",
            ["plan", "kimi-k2", *DECODE[2:], "--racks", "16", "--wounds", dead_chips(folder)],
            (8, 1000, 1),
        ),
        (
            "Kimi-K2 in separate pools, 16 racks, 3 % of chips dead",
            [*POOLS, "--wounds", dead_chips(folder)],
            (8, 1000, 1),
        ),
        (
            "Llama-3.1-405B training, 16,384 H100",
            ["plan", "llama-3.1-405b", *train, "h100-hgx", *["--nodes", "2048"], *LLAMA],
            (5, 600, 0.5),
        ),
        (
            "DeepSeek-V3 training, 2,048 H800",
            ["plan", "deepseek-v3", *train, "h800-hgx", *["--nodes", "256"], *DEEPSEEK],
            (5, 600, 1),
        ),
        (
            "DeepSeek-V3 decode, 4,096 nodes x 8 H100",
            [*NODES, "--nodes", "4096", "--gap", "0.02"],
            (20, 2000, 2),
        ),
    ]


def measure(arguments, runs):
    """Best wall and processor seconds of some runs, peak MB, and the printed certificate."""
    walls, busy, peaks, printed = [], [], [], ""
    for _ in range(runs):
        start = time.perf_counter()
        child = subprocess.Popen([*LAUNCH, *arguments, "--json"], stdout=subprocess.PIPE)
        printed = child.stdout.read()
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            sys.exit(f"{' '.join(arguments)} ended with {child.returncode}")
        walls.append(time.perf_counter() - start)
        busy.append(used.ru_utime + used.ru_stime)
        peaks.append(used.ru_maxrss * 1024 / 1e6)
    return min(walls), min(busy), max(peaks), json.loads(printed)["certificate"]


def print_goals(runs):
    print("| case | wall | processor | peak memory | gap | goal |")
    print("| --- | ---: | ---: | ---: | ---: | --- |")
    with tempfile.TemporaryDirectory() as folder:
        for name, arguments, (seconds, megabytes, gap) in goals(Path(folder)):
            wall, busy, peak, found = measure(arguments, runs)
            print(
                f"| {name} | {wall:.1f} s | {busy:.1f} s | {peak:.0f} MB | "
                f"{100 * found['gap']:.2f} % | {seconds} s, {megabytes} MB, {gap} % |",
                flush=True,
            )


def print_curve(runs):
    print("| chips | strategies | wall | processor | peak memory | gap |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: |")
    for nodes in CURVE:
        arguments = [*NODES, "--nodes", str(nodes), "--gap", "0.02"]
        wall, busy, peak, found = measure(arguments, runs)
        print(
            f"| {8 * nodes:,} | {found['enumerated']:,} | {wall:.1f} s | {busy:.1f} s | "
            f"{peak:.0f} MB | {100 * found['gap']:.2f} % |",
            flush=True,
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--only", choices=("goals", "curve"))
    asked = parser.parse_args()
    if asked.only != "curve":
        print_goals(asked.runs)
    if asked.only != "goals":
        print_curve(asked.runs)
