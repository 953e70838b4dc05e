"""doctor on sick projects: a check that fails is one problem that names its file, and the others go on."""
import json
import re
import shutil
from pathlib import Path

import torch  # noqa: F401  imported once here, not in every process

from hostile import Case
from retinalogos import doctor

ROOT = Path(__file__).resolve().parents[2]
FILES = ("params.yaml", "settings.ini", "pyproject.toml", "constraints.txt", "dvc.lock", "data/results/summary.json")
SICK = {"missing": None, "empty": b"", "zeros": bytes(200), "garbage": bytes(range(128, 256)), "a list": b"[1, 2]\n", "half": "half", "in UTF-16": "utf-16", "a comment in Latin-1": b"# \xe9\n", "a folder": "folder", "HTML": b"<html>\n",
        "brackets": b"[" * 50_000, "null": b"null\n", "a link to itself": "loop"}
HEALTHY_WHEN = {("settings.ini", "missing"), ("settings.ini", "empty"), ("constraints.txt", "empty"), ("constraints.txt", "missing")}
CONTENT = {"a stage without outs": ("dvc.lock", "schema: '2.0'\nstages:\n  dataset:\n    cmd: x\n"), "stages a list": ("dvc.lock", "schema: '2.0'\nstages: []\n"), "stages null": ("dvc.lock", "schema: '2.0'\nstages:\n"),
           "outs of words": ("dvc.lock", "stages:\n  dataset:\n    outs: [a, b]\n"), "a size in words": ("dvc.lock", "stages:\n  dataset:\n    outs:\n    - {path: a, size: many}\n"), "a size below 0": ("dvc.lock", "stages:\n  dataset:\n    outs:\n    - {path: a, size: -5}\n"),
           "summary without run": ("data/results/summary.json", "{}"), "run null": ("data/results/summary.json", '{"run": null}'), "a peak in words": ("data/results/summary.json", '{"run": {"peak_memory_gb": "much"}}'),
           "a peak of NaN": ("data/results/summary.json", '{"run": {"peak_memory_gb": NaN}}'), "no dependencies": ("pyproject.toml", "[project]\nname = 'x'\n"), "a dependency that is none": ("pyproject.toml", "[project]\ndependencies = ['===']\n"),
           "dependencies a word": ("pyproject.toml", "[project]\ndependencies = 'torch'\n"), "a dependency a number": ("pyproject.toml", "[project]\ndependencies = [5]\n"), "a constraint with two signs": ("constraints.txt", "torch==2==3\n"),
           "a constraint with a mark": ("constraints.txt", "torch==2 ; python_version > '3'\n"), "device of another world": ("settings.ini", "[machine]\ndevice = quantum\n"), "data on the moon": ("settings.ini", "[data]\nodir = /moon\n"),
           "a server that is none": ("settings.ini", "[captions]\nserver = localhost\n"), "a server that is dead": ("settings.ini", "[captions]\nserver = http://127.0.0.1:9/v1\n"), "a server with a port of words": ("settings.ini", "[captions]\nserver = http://x:y/\n")}


def project(folder):
    """A copy of what doctor reads."""
    for name in (*FILES, "dvc.yaml"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    shutil.copytree(ROOT / ".dvc", folder / ".dvc", ignore=shutil.ignore_patterns("cache", "tmp"))
    return folder


def spoil(file: Path, how):
    """Make a file sick."""
    data = file.read_bytes()
    file.unlink()
    if how == "folder":
        file.mkdir()
    elif how == "loop":
        file.symlink_to(file.name)
    elif how is not None:
        file.write_bytes(data[:len(data) // 2] if how == "half" else data.decode().encode(how) if isinstance(how, str) else how)


def checks(folder, file, how, dvc=False):
    """(number of checks, the problems and notes as one text) of a project with one sick file."""
    spoil(project(folder) / file, how)
    if not dvc:
        doctor.check_dvc = lambda root: doctor.Check("DVC", "ok", "not asked here")
    found = doctor.examine(folder)
    return len(found), "\n".join(map(str, (one for one in found if one.state != "ok"))), max(len(str(one).splitlines()) for one in found)


def cases(rng):
    def told(file):
        words = {"data/results/summary.json": "summary|room", "dvc.lock": "dvc.lock|room", "pyproject.toml": "pyproject|packages", "constraints.txt": "constraints|packages"}.get(file, file)
        return lambda got: got[0] >= 8 and got[2] == 1 and re.search(words, got[1]) is not None
    alive = lambda got: got[0] >= 8 and got[2] == 1
    for file in FILES:
        for name, how in SICK.items():
            harmless = (file, name) in HEALTHY_WHEN or file == "settings.ini" and name in ("a comment in Latin-1", "half", "in UTF-16") or file == "constraints.txt"
            yield Case(f"{file} {name}", lambda folder, file=file, how=how: checks(folder, file, how), alive if harmless or file == "params.yaml" and name in ("a comment in Latin-1", "in UTF-16") else told(file))
    for name, (file, text) in CONTENT.items():
        quiet = name in ("a size below 0", "a constraint with a mark", "outs of words", "no dependencies", "a constraint with two signs", "data on the moon", "a server that is dead")
        yield Case(name, lambda folder, file=file, text=text: checks(folder, file, text.encode()), alive if quiet else told(file) if file != "settings.ini" else alive)
    for file, how in (("dvc.lock", "half"), ("dvc.yaml", "half"), (".dvc/config", b"[x\n")):
        yield Case(f"DVC asked: {file} {how if isinstance(how, str) else 'broken'}", lambda folder, file=file, how=how: checks(folder, file, how, True), lambda got: got[0] >= 8 and "DVC" in got[1] and got[2] == 1)
