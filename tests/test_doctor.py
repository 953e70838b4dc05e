"""doctor on sick projects: one check fails, the others go on; each says its own line."""
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from retinalogos.doctor import dvc_error, examine

ROOT = Path(__file__).parent.parent


@pytest.fixture()
def project(tmp_path):
    for name in ("params.yaml", "pyproject.toml", "constraints.txt", "settings.ini", "dvc.lock"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "data/results").mkdir(parents=True)
    shutil.copy(ROOT / "data/results/summary.json", tmp_path / "data/results")
    return tmp_path


SICK = {
    "summary cut": ("data/results/summary.json", b'{"adherence": {', "room"), "summary a list": ("data/results/summary.json", b"[]", "room"),
    "pyproject": ("pyproject.toml", b"[project\n", "packages"), "no constraints": ("constraints.txt", None, "packages"),
    "settings in Latin-1": ("settings.ini", "[data]\nodir = /Fotos/Z\xfcrich\n".encode("latin-1"), "settings.ini"),
    "params": ("params.yaml", b"base: {", "params.yaml"), "lock a list": ("dvc.lock", b"- 1\n", "room"), "lock cut": ("dvc.lock", b"schema: '2.0'\nstages:\n  data", "room"),
}


@pytest.mark.parametrize("name", SICK)
def test_one_sick_file_is_one_problem(project, name):
    file, content, check = SICK[name]
    (project / file).unlink()
    if content is not None:
        (project / file).write_bytes(content)
    checks = {one.what: one for one in examine(project)}
    assert checks[check].state == "problem" and len(checks[check].said.splitlines()) == 1 and len(checks[check].said) < 400
    assert {"python", "packages", "accelerator", "params.yaml", "settings.ini", "captions", "room", "generator", "DVC"} <= set(checks)


NOT_RECORDED = {
    "no summary": ("data/results/summary.json", None), "no run": ("data/results/summary.json", b"{}"),
    "run null": ("data/results/summary.json", b'{"run": null}'), "a peak of NaN": ("data/results/summary.json", b'{"run": {"peak_memory_gb": NaN}}'),
    "no lock": ("dvc.lock", None), "a stage without outs": ("dvc.lock", b"schema: '2.0'\nstages:\n  dataset:\n    cmd: x\n"),
}


@pytest.mark.parametrize("name", NOT_RECORDED)
def test_what_no_run_has_recorded_is_called_so(project, name):
    file, content = NOT_RECORDED[name]
    (project / file).unlink()
    if content is not None:
        (project / file).write_bytes(content)
    room = {one.what: one for one in examine(project)}["room"]
    assert room.state == "note" and f"not on record ({file})" in room.said and "0.0 GB" not in room.said and "nan" not in room.said


@pytest.mark.parametrize("name", ["a folder", "a link to itself"])
def test_a_summary_that_is_no_file_is_a_problem(project, name):
    file = project / "data/results/summary.json"
    file.unlink()
    file.mkdir() if name == "a folder" else file.symlink_to(file.name)
    assert {one.what: one.state for one in examine(project)}["room"] == "problem"


def test_an_archive_is_told_from_a_clone(project):
    said = {one.what: one.said for one in examine(project)}["DVC"]
    assert "clone with git" in said and "git init" in said


def test_the_line_of_dvc_that_says_what_is_wrong():
    printed = "WARNING: old\nERROR: './dvc.lock' is invalid.\nWhile parsing\n\nHaving any troubles? Hit us up at https://dvc.org/support"
    assert dvc_error(printed) == "'./dvc.lock' is invalid." and dvc_error("") == "failed"


def test_a_run_in_progress_is_a_note(project):
    (project / ".git").mkdir()
    (project / ".dvc").mkdir()
    (project / ".dvc/config").touch()
    (project / "retinalogos").mkdir()
    (project / "retinalogos/__init__.py").touch()
    (project / "retinalogos/stage.py").write_text("import time\ntime.sleep(60)\n")
    running = subprocess.Popen([sys.executable, "-m", "retinalogos.stage", "dataset"], cwd=project, env=os.environ | {"PYTHONPATH": str(project)})
    try:
        time.sleep(1)
        check = {one.what: one for one in examine(project)}["DVC"]
        assert check.state == "note" and f"process {running.pid}" in check.said
    finally:
        running.kill()
        running.wait()
