"""File systems: read-only places, links, left-overs of the dead and of the living, full disks, files in the way. Nothing is lost, nothing half written."""
import json
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
from ruamel.yaml import YAML

from hostile import Case, Either, Says
from retinalogos.config import UserError, atomic_path, overlay, read_yaml, remove_leftovers, stage_folder, write_json, write_table


def dead_pid() -> int:
    """The number of a process that has ended."""
    child = multiprocessing.get_context("fork").Process(target=lambda: None)
    child.start()
    child.join()
    return child.pid


def write_folder(folder, name="data/out", content="new"):
    """Write a stage's folder with one file; what lies there afterwards."""
    with stage_folder(folder / name) as new:
        (Path(new) / "a.txt").write_text(content)
    return tree(folder)


def tree(folder) -> dict:
    """Content of every file below `folder` by path; links as `-> target`."""
    return {str(p.relative_to(folder)): f"-> {os.readlink(p)}" if p.is_symlink() else p.read_text() for p in sorted(folder.rglob("*")) if p.is_symlink() or p.is_file()}


def prepared(prepare, act=write_folder):
    """The function of a case: `act` after `prepare(folder)`."""
    def run(folder):
        (folder / "data").mkdir()
        prepare(folder)
        return act(folder)
    return at_the_door(run)


def at_the_door(run):
    """`run`, whose OSError becomes one line, as the command line and the stages do (the cases of whole stages try that)."""
    def door(folder):
        try:
            return run(folder)
        except OSError as error:
            raise UserError(str(error)) from None
    return door


def left(kind, pid, name="out"):
    """Make what a process `pid` that died would have left."""
    def prepare(folder):
        place = folder / f"data/.{kind}-{pid() if callable(pid) else pid}-{name}"
        place.mkdir()
        (place / "half.txt").write_text("half")
    return prepare


NEW = {"data/out/a.txt": "new"}


def folders():
    """Folders of stages: left-overs, links, files in the way."""
    for kind in ("part", "old"):
        for name, pid in {"a dead process": dead_pid, "this very number": os.getpid, "number 1 of another container": 999_999}.items():
            yield f".{kind} of {name}", prepared(left(kind, pid)), NEW
    yield ".part of a living process", prepared(lambda folder: None, beside_a_living_one), (NEW, True)
    keep = lambda got: got.get("data/out/a.txt") == "new"
    yield ".part of another folder", prepared(left("part", dead_pid, "other")), keep
    yield "a .part that is a file", prepared(lambda folder: (folder / f"data/.part-{os.getpid()}-out").write_text("x")), Either((NEW, Says("out")))
    for kind in ("part", "old"):
        yield f".{kind} of dead ones, cleared at the start", prepared(left(kind, dead_pid, "other"), lambda folder: (remove_leftovers(folder / "data"), list(tree(folder)))), (1, [] if kind == "part" else ["data/other/half.txt"])
    yield "an earlier folder", prepared(lambda folder: write_folder(folder, content="old")), NEW
    yield "a file in its place", prepared(lambda folder: (folder / "data/out").write_text("precious")), Either((NEW, lambda got: "precious" in got.values(), Says("out")))

    def link(folder):
        (folder / "large").mkdir()
        (folder / "data/out").symlink_to(folder / "large")
    yield "a link to another disk", prepared(link), lambda got: got.get("large/a.txt") == "new" and got.get("data/out", "").startswith("->") and len(got) == 2
    yield "a link, with something in it", prepared(lambda folder: (link(folder), (folder / "large/old.txt").write_text("old"))), lambda got: got.get("large/a.txt") == "new" and "large/old.txt" not in got and len(got) == 2
    yield "a dangling link", prepared(lambda folder: (folder / "data/out").symlink_to(folder / "gone")), Either((lambda got: "new" in got.values(), Says("out|link")))
    yield "a link to itself", prepared(lambda folder: (folder / "data/out").symlink_to("out")), Either((lambda got: "new" in got.values(), Says("out|link")))
    yield "data is a link", lambda folder: ((folder / "large").mkdir(), (folder / "data").symlink_to("large"), write_folder(folder))[2], lambda got: "new" in got.values()
    yield "data is a file", at_the_door(lambda folder: ((folder / "data").write_text("x"), write_folder(folder))[1]), Says("data")

    def raising(folder):
        write_folder(folder, content="old")
        try:
            with stage_folder(folder / "data/out") as new:
                (Path(new) / "b.txt").write_text("half")
                raise KeyboardInterrupt
        except KeyboardInterrupt:
            return tree(folder)
    yield "an interruption keeps the earlier one", prepared(lambda folder: None, raising), {"data/out/a.txt": "old"}
    for names in ("a name with spaces", "\u00e9t\u00e9", "a\nb", "-rf", "x" * 200, "$HOME"):
        yield f"folder {names[:12]!r}", prepared(lambda folder: None, lambda folder, names=names: write_folder(folder, f"data/{names}")), lambda got: list(got.values()) == ["new"]


def beside_a_living_one(folder):
    """Write a folder while another process writes the same; what lies there, and whether the other's files stay."""
    code = "import sys, time\nfrom pathlib import Path\nfrom retinalogos.config import stage_folder\nwith stage_folder(sys.argv[1]) as new:\n    (Path(new) / 'b.txt').write_text('b')\n    print('ready', flush=True)\n    time.sleep(50)"
    other = subprocess.Popen([sys.executable, "-c", code, folder / "data/out"], stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])})
    other.stdout.readline()
    there = write_folder(folder)
    other.kill()
    held = [name for name in there if name.endswith("/b.txt")]
    return {name: text for name, text in there.items() if name not in held}, len(held) == 1


def killed(folder, moment):
    """A process is killed while it writes a folder, and the next writes again."""
    write_folder(folder, content="old")

    def die():
        real, count = os.replace, [0]

        def replace(*about):
            count[0] += 1
            if count[0] == moment:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*about)
        os.replace = replace
        if moment == 0:
            with stage_folder(folder / "data/out") as new:
                (Path(new) / "a.txt").write_text("half")
                os.kill(os.getpid(), signal.SIGKILL)
        shutil.rmtree = (lambda *about, **named: os.kill(os.getpid(), signal.SIGKILL)) if moment == 3 else shutil.rmtree
        write_folder(folder, content="second")
    child = multiprocessing.get_context("fork").Process(target=die)
    child.start()
    child.join()
    return child.exitcode == -signal.SIGKILL or moment == 3, write_folder(folder)


def full(folder, act):
    """`act` where files can have 20 kB at most, as on a full disk; an earlier file stays, nothing half is left."""
    (folder / "x.json").write_text("old")
    (folder / "x.csv").write_text("old")
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
    try:
        act(folder)
    except OSError as error:
        assert all(text == "old" for text in tree(folder).values()), tree(folder)
        return f"OSError {error.filename or ''}"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    return "written"


def stage(prepare, name="dataset"):
    """The function of a case: exit status and last lines of `python -m retinalogos.stage NAME` in a small project."""
    def run(folder):
        root = Path(__file__).resolve().parents[2]
        project = folder / "project"
        shutil.copytree(root / "nbs/stages", project / "nbs/stages")
        content = overlay(read_yaml(root / "params.yaml"), {"dataset": {"n_patients": 2, "render_size": 128}, "base": {"low_resolution": 32, "high_resolution": 64}})
        YAML().dump(content, project / "params.yaml")
        changed = prepare(project)
        done = subprocess.run([sys.executable, "-m", "retinalogos.stage", name], cwd=project, text=True, capture_output=True, timeout=110, env=os.environ | {"PYTHONPATH": str(root)} | (changed if isinstance(changed, dict) else {}))
        return done.returncode, done.stderr, (project / "data/dataset/records.parquet").is_file()
    return run


def one_line(word):
    """A test: the stage ended with one line that holds `word`."""
    return lambda got: got[0] in (1, 2) and "Traceback" not in got[1] and len(got[1].strip().splitlines()) == 1 and word in got[1]


def in_the_way(name, as_file=True):
    def prepare(project):
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text("x") if as_file else (project / name).mkdir()
    return prepare


def stages():
    """Whole stages in odd places."""
    done = lambda got: got[0] == 0 and got[2]

    def long_tmpdir(length):
        def prepare(project):
            place = project.parent / ("t" * 200)[:max(1, length - len(str(project.parent)))]
            place.mkdir()
            return {"TMPDIR": str(place)}
        return prepare
    for length in (80, 120, 200):
        yield f"TMPDIR of {length} letters", stage(long_tmpdir(length)), Either((done, one_line("TMPDIR")))
    yield "TMPDIR that is not there", stage(lambda project: {"TMPDIR": str(project / "gone")}), done
    yield "TMPDIR that is a file", stage(lambda project: {"TMPDIR": str(project / "params.yaml")}), done
    yield "TMPDIR with spaces", stage(lambda project: ((project.parent / "my tmp").mkdir(), {"TMPDIR": str(project.parent / "my tmp")})[1]), done
    yield "data/executed is a file", stage(in_the_way("data/executed")), one_line("executed")
    yield "data is a file", stage(in_the_way("data")), one_line("data")
    yield "data/run is a file", stage(in_the_way("data/run")), Either((one_line("run"),))
    yield "data/dataset is a file", stage(in_the_way("data/dataset")), Either((done, one_line("dataset")))
    yield "the notebook is cut", stage(lambda project: next((project / "nbs/stages").glob("00_*")).write_text('{"cells": [')), one_line("00_dataset")
    yield "the notebook is empty", stage(lambda project: next((project / "nbs/stages").glob("00_*")).write_text("")), one_line("00_dataset")
    yield "the notebook is a list", stage(lambda project: next((project / "nbs/stages").glob("00_*")).write_text("[]")), one_line("00_dataset")
    yield "params.yaml in Latin-1", stage(lambda project: (project / "params.yaml").write_bytes(b"# \xe9\n" + (project / "params.yaml").read_bytes()) and None), one_line("params.yaml")
    yield "RANK in words", stage(lambda project: {"RANK": "first"}), Either((done, one_line("RANK")))
    yield "captions without a data set", stage(lambda project: None, "captions"), one_line("dataset")
    yield "settings in UTF-16", stage(lambda project: (project / "settings.local.ini").write_bytes("[machine]\nworkers = 1\n".encode("utf-16")) and None), Either((done, one_line("settings.local.ini")))
    yield "a stage of no name", stage(lambda project: None, "pretrian"), one_line("pretrain")


def cases(rng):
    for name, run, want in folders():
        yield Case(name, run, want)
    for moment, name in enumerate(("while it writes", "before the earlier one is moved", "between the moves", "before it clears up")):
        yield Case(f"killed {name}", lambda folder, moment=moment: killed(folder, moment), lambda got: got[0] and got[1] == NEW)
    large = {"a": list(range(50_000))}
    for name, act in {"JSON": lambda folder: write_json(folder / "x.json", large), "a table": lambda folder: write_table(folder / "x.csv", pd.DataFrame(large))}.items():
        yield Case(f"a full disk: {name}", lambda folder, act=act: full(folder, act), Either((lambda got: got.startswith("OSError"), Says("x.json|x.csv"))))
    yield Case("a folder in the place of a file", at_the_door(lambda folder: ((folder / "x.json").mkdir(), write_json(folder / "x.json", {}))[1].name), Says("x.json"))
    yield Case("a file reached by a link", lambda folder: ((folder / "real.json").write_text("{}"), (folder / "x.json").symlink_to("real.json"), write_json(folder / "x.json", {"a": 1}), json.loads((folder / "x.json").read_text()))[3], {"a": 1})
    yield Case("NaN in JSON", lambda folder: json.loads(write_json(folder / "x.json", {"a": float("nan"), "b": [float("inf")]}).read_text()), {"a": None, "b": [None]})

    def fails(folder):
        (folder / "x.txt").write_text("old")
        try:
            with atomic_path(folder / "x.txt") as temporary:
                Path(temporary).write_text("half")
                raise KeyboardInterrupt
        except KeyboardInterrupt:
            return tree(folder)
    yield Case("an interruption keeps the earlier file", fails, {"x.txt": "old"})
    for name, run, want in stages():
        yield Case(f"stage: {name}", run, want)
