"""Some hundreds of hostile inputs, by class, each with its right outcome: no traceback, nothing wrong kept in silence.

    python tests/campaign.py                   all classes
    python tests/campaign.py --only captions   one class, and what went wrong in it
    python tests/campaign.py --seed 7          other members of the kinds that are drawn

No part of `make test`. Each input runs in a process of its own, at most two minutes, with at most 6 GB.
Exit status 1 unless every outcome is right.
"""
import argparse
import io
import multiprocessing
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from contextlib import redirect_stderr, redirect_stdout
from importlib import import_module
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "TQDM_DISABLE": "1", "HF_HUB_OFFLINE": "1"}
sys.path.insert(0, str(Path(__file__).parent))
import pandas as pd

from hostile import Says, is_right
from retinalogos.config import UserError

CLASSES = ("captions", "journal", "tables", "photographs", "settings", "params", "states", "arguments", "study", "cards",
           "doctor", "files")
SECONDS, BYTES = 120, 6 << 30
VERDICTS = ("right", "wrong in silence", "wrong words", "traceback", "hang")


def outcome(case, folder: Path) -> tuple[str, object]:
    """What came of a case: (value, it), (error, its words) or (traceback, its end)."""
    said = io.StringIO()
    try:
        with redirect_stdout(said), redirect_stderr(said), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return "value", case.run(folder)
    except UserError as error:
        return "error", str(error)
    except BaseException as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(where.filename).name}:{where.lineno}"
        return "traceback", f"{type(error).__name__}: {str(error)[:160]} ({place})"


def judge(case, kind: str, content) -> str:
    """One of `VERDICTS`."""
    if kind in ("traceback", "hang"):
        return kind
    if is_right(kind, content, case.want, case.lines):
        return "right"
    return "wrong words" if kind == "error" else "wrong in silence"


def in_child(case, pipe):
    """Run a case within its limits, and send verdict and outcome."""
    resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with tempfile.TemporaryDirectory(prefix="campaign-") as folder:
        os.chdir(folder)
        kind, content = outcome(case, Path(folder))
        pipe.send((judge(case, kind, content), " ".join(ascii(content).split())[:300]))
        os.chdir("/")


def run_case(case) -> tuple[str, str]:
    """Verdict and outcome of a case, run in a process of its own."""
    here, there = multiprocessing.Pipe(duplex=False)
    child = multiprocessing.get_context("fork").Process(target=in_child, args=(case, there), daemon=False)
    child.start()
    there.close()
    try:
        verdict, told = here.recv() if here.poll(SECONDS) else ("hang", f"nothing after {SECONDS} s")
    except EOFError:
        verdict, told = "traceback", "the process died (out of memory?)"
    child.kill()
    child.join()
    return verdict, told


def run_class(name: str, seed: int, listed: bool) -> dict:
    """Run every case of a class; a row of the table."""
    cases = list(import_module(f"hostile.{name}").cases(random.Random(f"{seed} {name}")))
    counts, begun = Counter(), time.monotonic()
    for case in cases:
        verdict, told = run_case(case)
        counts[verdict] += 1
        if listed and verdict != "right":
            want = f"says {str(case.want)!r}" if isinstance(case.want, Says) else ascii(case.want)[:80]
            print(f"{verdict:16} {name}: {ascii(case.name)[1:-1]}: {told}; wanted: {want}", flush=True)
    row = {"class": name, "inputs": len(cases)} | {verdict: counts[verdict] for verdict in VERDICTS}
    return row | {"seconds": round(time.monotonic() - begun)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", action="append", choices=CLASSES, help="this class (may be given several times)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quiet", action="store_true", help="the table alone")
    args = parser.parse_args()
    rows = [run_class(name, args.seed, not args.quiet) for name in args.only or CLASSES]
    table = pd.DataFrame(rows)
    total = {"class": "all"} | table.drop(columns="class").sum().to_dict()
    print(pd.concat([table, pd.DataFrame([total])]).to_markdown(index=False))
    return 0 if total["right"] == total["inputs"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
