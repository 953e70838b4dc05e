"""How much one busy process beside it slows a training step. Prints numbers; no test.

    python tests/benchmarks/training_crowded.py
    python tests/benchmarks/training_crowded.py --steps 10 --rounds 5

Threads of OpenMP wait for each other at the end of each loop. Those that wait actively spin, and
lose whole slices of time when another process takes one of the cores; those that wait passively
sleep. The policy has to stand in the environment before torch is loaded, so each measurement is a
process of its own. Active and passive, quiet and crowded come in turn; the median over the rounds
counts. Shapes are those of `params.yaml`.

What is aimed at: passive beside one busy process takes at most 2.5 times its quiet step, and its
quiet step at most 1.05 times the active one. The numbers mean something only on a machine that is
otherwise idle: its load is printed first.
"""
import argparse
import os
import statistics
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

MOST_BESIDE_ONE, MOST_QUIET = 2.5, 1.05
STEPS = """
import sys, time
import torch
from training import FlowData, Run, _advance, load_params, settings_of, transformer_of, ROOT

params, resolution, steps = load_params(ROOT / "params.yaml"), int(sys.argv[1]), int(sys.argv[2])
torch.manual_seed(0)
channels, text_dim, side = params.encoders.latent_channels, params.encoders.text_dim, resolution // 8
mask = torch.ones(64, 64, dtype=torch.long)
data = FlowData(torch.randn(64, channels, side, side), torch.randn(64, 64, text_dim), mask,
                torch.zeros(1, 64, text_dim), mask[:1])
run = Run(transformer_of(params, resolution, channels, text_dim), settings_of(params.finetune), "")
_advance(run, data, 0)  # warms up
start = time.perf_counter()
for _ in range(steps):
    _advance(run, data, 0)
print("seconds a step", (time.perf_counter() - start) / steps)
"""


@contextmanager
def busy_processes(count: int):
    """`count` processes that compute while the block runs."""
    code = "import os, sys\nwhile os.getppid() == int(sys.argv[1]): sum(range(100000))"  # ends with its parent
    command = [sys.executable, "-c", code, str(os.getpid())]
    processes = [subprocess.Popen(command) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def seconds_a_step(policy: str, beside: int, threads: int, resolution: int, steps: int) -> float:
    """Of a fresh process with `OMP_WAIT_POLICY` = `policy`, beside so many busy ones."""
    here = Path(__file__).parent
    environment = os.environ | {"OMP_WAIT_POLICY": policy, "OMP_NUM_THREADS": str(threads),
                                "MKL_NUM_THREADS": str(threads),
                                "PYTHONPATH": os.pathsep.join([str(here), str(here.parents[1])])}
    for name in ("GOMP_SPINCOUNT", "KMP_BLOCKTIME"):  # these would overrule the policy
        environment.pop(name, None)
    with busy_processes(beside):
        done = subprocess.run([sys.executable, "-c", STEPS, str(resolution), str(steps)], env=environment,
                              text=True, stdout=subprocess.PIPE, check=True)
    return float(done.stdout.split()[-1])


def main(threads: int, resolution: int, steps: int, rounds: int):
    """Print the table and the two ratios."""
    print(f"{resolution} px, {threads} threads on {os.cpu_count()} cores, {rounds} rounds of {steps} steps; "
          f"load at the start {os.getloadavg()[0]:.1f}")
    cases = [(policy, beside) for beside in (0, 1) for policy in ("ACTIVE", "PASSIVE")]
    seconds = {case: [] for case in cases}
    for k in range(rounds):
        for case in cases[k % 4:] + cases[:k % 4]:
            seconds[case].append(seconds_a_step(*case, threads, resolution, steps))
    step = {case: statistics.median(values) for case, values in seconds.items()}
    for policy in ("ACTIVE", "PASSIVE"):
        quiet, crowded = step[policy, 0], step[policy, 1]
        print(f"{policy.lower():8}quiet {quiet:.3f} s a step, beside one busy process {crowded:.3f} s: "
              f"{crowded / quiet:.2f} times")
    slower, quiet = step["PASSIVE", 1] / step["PASSIVE", 0], step["PASSIVE", 0] / step["ACTIVE", 0]
    for what, ratio, most in (("beside one busy process over quiet, passive", slower, MOST_BESIDE_ONE),
                              ("quiet step, passive over active", quiet, MOST_QUIET)):
        print(f"{what}: {ratio:.2f}, aim at most {most}: {'reached' if ratio <= most else 'missed'}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--resolution", type=int, default=128)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    main(asked.threads, asked.resolution, asked.steps, asked.rounds)
