"""Wall time and peak memory of the commands that users wait for.

Run with the interpreter that has planner installed: python tests/benchmarks/bench_commands.py
"""

import resource
import subprocess
import sys
import time

RACK = ["plan", "deepseek-v3", "--on", "gb200-nvl72", "--context", "8k", "--tpot", "20ms"]
NODES = ["plan", "deepseek-v3", "--on", "h800-hgx", "--context", "8k", "--tpot", "50ms"]
FOUR = ["compare", *RACK[1:6], "--racks", "4"]
PREFILL = ["plan", "deepseek-v3", "--on", "gb200-nvl72"]
POOLS = ["plan", "kimi-k2", "--on", "gb200-nvl72", "--racks", "16", "--phase", "serve"]
POOLS += ["--input", "4k", "--output", "1k", "--ttft", "2s", "--tpot", "30ms"]
# 35 of 1,152 chips, 3 %.
DEAD = [f"--without=chip:r{7 * n % 16}/t{5 * n % 18}/c{n % 4}" for n in range(35)]
COMMANDS = {
    "help": ["--help"],
    "rack": RACK,
    "18 nodes": [*NODES, "--nodes", "18"],
    "two racks": [*RACK, "--racks", "2"],
    "compare": [*FOUR, "--strategies", "ep,pp,tp,ep+pp"],
    "frontier": ["frontier", *RACK[1:6]],
    "prefill": [*PREFILL, "--phase", "prefill", "--seq", "4k", "--ttft", "1s"],
    "pools": [*POOLS, *DEAD],
}
LAUNCH = [sys.executable, "-c", "from planner.cli.main import main; main()"]

if __name__ == "__main__":
    for name, arguments in COMMANDS.items():
        times = []
        for _ in range(3):
            start = time.perf_counter()
            subprocess.run([*LAUNCH, *arguments], check=True, capture_output=True)
            times.append(time.perf_counter() - start)
        print(f"{name:12s} {min(times):6.2f} s (best of 3)")
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"largest peak memory {peak:.0f} MiB")
