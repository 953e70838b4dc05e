"""Kill `make repro` of a small project at random moments, start it again, compare with an undisturbed run.

    python tests/kill_repro.py                 40 kills
    python tests/kill_repro.py --kills 4 --seed 7

No part of `make test`. Each round starts from nothing and is killed several times: SIGKILL to the whole
process group, as a batch system does. Exit status 1 unless every round ends with the same bytes,
training went on wherever a state was there, and nothing is left over.
"""
import argparse
import hashlib
import os
import random
import re
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pandas as pd
import psutil
from ruamel.yaml import YAML

from retinalogos.config import overlay, read_yaml

ROOT = Path(__file__).resolve().parent.parent
LAST = "finetune"
SMALL = {
    "base": {"low_resolution": 32, "high_resolution": 64},
    "dataset": {"n_patients": 40, "render_size": 64},
    "encoders": {"vae_steps": 3, "text_steps": 3, "clip_steps": 3, "text_dim": 32, "text_heads": 2,
                 "clip_layers": 1},
    "pretrain": {"hidden_size": 64, "num_layers": 2, "num_heads": 2, "num_kv_heads": 1, "steps": 120,
                 "warmup_steps": 5, "checkpoint_every": 5},
    "finetune": {"steps": 80, "warmup_steps": 5, "checkpoint_every": 5},
    "sample": {"n_images": 8, "n_balanced": 10, "n_per_disease": 1, "n_counterfactual": 1, "strip_seeds": 1,
               "num_inference_steps": 2},
    "downstream": {"n_synthetic": 10, "doses": [5]},
}
AIMED = {"pretrain": 4, "finetune": 4}  # odds of a kill; of every other stage 1
TRAINED = ("pretrain", "finetune")
GIT = "git -c user.name=kill -c user.email=kill@example.invalid"


def sh(command: str, folder: Path) -> None:
    """Run a shell command in `folder`; an exception where it fails."""
    subprocess.run(command, shell=True, cwd=folder, check=True, stdout=subprocess.DEVNULL)


def small_project(folder: Path) -> Path:
    """A clone of this checkout with few patients and steps, up to the stage `LAST`, with our environment."""
    sh(f"git clone -q '{ROOT}' '{folder}'", ROOT)
    writer = YAML()
    writer.dump(overlay(read_yaml(folder / "params.yaml"), SMALL), folder / "params.yaml")
    stages = read_yaml(folder / "dvc.yaml")["stages"]
    names = list(stages)
    kept = {name: stages[name] for name in names[:names.index(LAST) + 1]}
    writer.dump({"stages": kept}, folder / "dvc.yaml")
    (folder / ".venv").symlink_to(ROOT / ".venv")
    (folder / ".git/info/exclude").write_text(".venv\n")
    sh(f"{GIT} commit -qam small", folder)
    return folder


def start_over(folder: Path) -> None:
    """Back to a fresh clone: no data, no cache of DVC; the environment counts as installed."""
    for process in living(folder):
        process.kill()
    sh("git clean -ffdxq -e .venv && git checkout -q -- .", folder)
    for file in ("pyproject.toml", "constraints.txt"):
        os.utime(folder / file, (0, 0))


def living(folder: Path) -> list[psutil.Process]:
    """Processes that work in `folder`: what a kill of the group has left."""
    return [process for process in psutil.process_iter(["cwd"]) if process.info["cwd"] == str(folder)]


def out_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file that dvc.yaml declares as an output, by path."""
    stages = read_yaml(folder / "dvc.yaml")["stages"].values()
    outs = [next(iter(out)) if isinstance(out, dict) else out for stage in stages for out in stage["outs"]]
    files = [file for out in outs for file in [folder / out, *(folder / out).rglob("*")] if file.is_file()]
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


class Repro:
    """`make repro` in a process group of its own; what it says goes to a file."""

    def __init__(self, folder: Path, log: Path):
        self.log, self.folder = log, folder
        env = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL")}
        self.start = log.stat().st_size if log.is_file() else 0
        with log.open("ab") as file:
            self.process = subprocess.Popen(["make", "repro"], cwd=folder, env=env, start_new_session=True,
                                            stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT)

    def said(self) -> str:
        """What this run has said so far."""
        return self.log.read_bytes()[self.start:].decode("utf-8", "replace")

    def reached(self, stage: str, saved: bool) -> bool:
        """Wait until `stage` has started (`saved`: has a state, or is done); False if the run ends before."""
        state = self.folder / f"data/run/{stage}.pt"
        while self.process.poll() is None:
            said = self.said()
            ready = not saved or state.is_file() or f"== {stage}: done" in said
            if f"== {stage}: started" in said and ready:
                return True
            time.sleep(0.02)
        return False

    def kill_in(self, seconds: float) -> bool:
        """SIGKILL to the group after so many seconds; False if the run was over before."""
        try:
            self.process.wait(seconds)
            return False
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            return True


def durations(said: str) -> dict[str, float]:
    """Seconds of each stage, as the stages say."""
    return {name: float(seconds) for name, seconds in re.findall(r"== (\w+): done in (\d+) s", said)}


def states(folder: Path) -> set[str]:
    """Trainings that have a state and no checkpoint yet."""
    return {name for name in TRAINED if (folder / f"data/run/{name}.pt").is_file()
            and not (folder / f"data/checkpoints/{name}/model_index.json").is_file()}


def steps_gone_on(said: str) -> dict[str, int]:
    """The step at which each training went on in one run."""
    runs = re.findall(r"== (\w+): started(.*?)(?=\n== \w+: started|\Z)", said, re.DOTALL)
    return {name: int(step) for name, part in runs for step in re.findall(r"going on at step (\d+) of \d+", part)[:1]}


def heal(folder: Path, said: str) -> str:
    """Do what a run that stopped asks for, `git checkout dvc.lock`; "" when that was not asked."""
    if "git checkout" not in said or "dvc.lock" not in said:
        return ""
    sh("git checkout -q -- dvc.lock", folder)
    return "git checkout dvc.lock"


def draw_moments(rng: random.Random, count: int, seconds: dict[str, float]) -> list[tuple[str, bool, float]]:
    """(stage, after its first state?, seconds after its start or that state) of `count` kills, in order.

    Up to 3 s later than the stage's end, where DVC writes its lock.
    """
    order, moments = list(seconds), []
    for name in rng.choices(order, [AIMED.get(name, 1) for name in order], k=count):
        saved = name in TRAINED and rng.random() < 0.6
        moments.append((name, saved, rng.uniform(0, 8 if saved else seconds[name] + 3)))
    return sorted(moments, key=lambda moment: (order.index(moment[0]), moment[1]))


def finish(folder: Path, log: Path, row: dict) -> str:
    """Run to the end, with what a message asks for, at most three times; what was said. Notes in `row`."""
    said = ""
    for _ in range(3):
        run = Repro(folder, log)
        status = run.process.wait(1800)
        said += run.said()
        row["exit"] = status
        if status == 0 or not (asked := heal(folder, run.said())):
            return said
        row["healed"] += f"{asked} "
    return said


def check_training(row: dict, held: set[str], said: str) -> None:
    """Note in `row` at which step each training that had a state (`held`) went on.

    A kill may come before it could say so: then nothing is noted.
    """
    gone_on, over = steps_gone_on(said), durations(said)
    for name in held:
        if name in gone_on or name in over:
            row["states"] += 1
            row["went on"] += gone_on.get(name, 0) > 0
            row["steps"] += f"{name} {gone_on.get(name, 'anew')} "


def one_round(folder: Path, log: Path, moments, expected: dict[str, str]) -> dict:
    """Kill at each of the `moments`, then run to the end and compare; a row of the table."""
    row = {"kills": 0, "healed": "", "states": 0, "went on": 0, "steps": "", "exit": None}
    start_over(folder)
    for stage, saved, delay in moments:
        held, run = states(folder), Repro(folder, log)
        if run.reached(stage, saved):
            row["kills"] += run.kill_in(delay)
        elif asked := heal(folder, run.said()):
            row["healed"] += f"{asked} "
        run.process.wait()
        check_training(row, held, run.said())
    held = states(folder)
    check_training(row, held, finish(folder, log, row))
    return row | compare(folder, expected)


def compare(folder: Path, expected: dict[str, str]) -> dict:
    """Files that differ, whether dvc.lock is sound, what was left over, and processes still alive."""
    there = out_hashes(folder)
    differ = sorted(name for name in expected | there if expected.get(name) != there.get(name))
    status = subprocess.run([".venv/bin/dvc", "status", "--json"], cwd=folder, capture_output=True, text=True)
    left = [p for p in (folder / "data").rglob(".*") if p.name.startswith((".part", ".old"))]
    sound = status.returncode == 0 and status.stdout.strip() == "{}"
    return {"differ": len(differ), "first": next(iter(differ), ""), "lock": sound,
            "left over": " ".join(str(p.relative_to(folder)) for p in left), "alive": len(living(folder))}


def passed(row: dict) -> bool:
    """Whether a round ended as it should; processes that wait for work without end are told, not counted."""
    went_on = row["states"] == row["went on"]
    return row["exit"] == 0 and not row["differ"] and row["lock"] and not row["left over"] and went_on


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--a-round", type=int, default=8, help="kills planned in one round (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    top, rng, rows = Path(tempfile.mkdtemp(prefix="kill-repro-")), random.Random(args.seed), []
    folder = small_project(top / "project")
    start_over(folder)
    said = finish(folder, top / "undisturbed.log", first := {"exit": None, "healed": ""})
    seconds, expected = durations(said), out_hashes(folder)
    print(f"{folder}: undisturbed run: exit {first['exit']}, {seconds}, {len(expected)} files", flush=True)
    if first["exit"]:
        print(said[-3000:])
        return 1
    while sum(row["kills"] for row in rows) < args.kills and len(rows) < 2 * args.kills:
        begun, missing = time.monotonic(), args.kills - sum(row["kills"] for row in rows)
        moments = draw_moments(rng, min(args.a_round, missing), seconds)
        number = len(rows) + 1
        rows.append({"round": number} | one_round(folder, top / f"{number:02d}.log", moments, expected))
        rows[-1] |= {"passed": passed(rows[-1]), "seconds": round(time.monotonic() - begun)}
        print(rows[-1], flush=True)
    table = pd.DataFrame(rows)
    print(table.to_markdown(index=False))
    print(f"{table['kills'].sum()} kills in {len(table)} rounds, {table['passed'].sum()} rounds as the undisturbed run; "
          f"training went on {table['went on'].sum()} of {table['states'].sum()} times that a state was there")
    if table["passed"].all():
        shutil.rmtree(top)
    return 0 if table["passed"].all() else 1


if __name__ == "__main__":
    raise SystemExit(main())
