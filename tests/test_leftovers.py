"""What killed runs leave, linked and full places, and the one line that a person reads."""
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from dvc.schema import COMPILED_LOCKFILE_SCHEMA
from ruamel.yaml import YAML

from retinalogos.config import UserError, remove_leftovers, stage_folder
from retinalogos.stage import free_locks, lock_is_whole, mend_lock, prepare
from test_stage import ROOT, files, project, run, write  # noqa: F401  (project is a fixture)

LOCK = (ROOT / "dvc.lock").read_text(encoding="utf-8")


def test_left_overs_of_the_dead_are_removed_at_the_start(project):  # noqa: F811
    write(project, "print('hello')")
    for name in ("data/.part-4-dataset", "data/.old-4-captions", "data/results/.part-9-x.json"):
        (project / name).mkdir(parents=True)
        (project / name / "half").touch()
    (project / "data/captions").mkdir()
    assert run(project)[0] == 0 and not [name for name in files(project) if ".part-" in name or ".old-" in name]


def test_a_folder_that_a_living_process_fills_stays(tmp_path):
    with stage_folder(tmp_path / "result") as folder:
        (folder / "half").touch()
        assert remove_leftovers(tmp_path) == 0 and (folder / "half").exists()
    assert os.listdir(tmp_path) == ["result"]


def test_without_locks_nothing_is_removed(tmp_path, monkeypatch):
    import errno
    import fcntl

    def flock(number, how):
        raise OSError(errno.ENOLCK, "no locks")
    (tmp_path / ".part-1-x").mkdir()
    monkeypatch.setattr(fcntl, "flock", flock)
    assert remove_leftovers(tmp_path) == 0 and (tmp_path / ".part-1-x").exists()


def test_a_link_is_written_through(tmp_path):
    (tmp_path / "large/result").mkdir(parents=True)
    (tmp_path / "large/result/old").touch()
    (tmp_path / "result").symlink_to(tmp_path / "large/result")
    with stage_folder(tmp_path / "result") as folder:
        (folder / "new").touch()
    assert (tmp_path / "result").is_symlink() and os.listdir(tmp_path / "large") == ["result"]
    assert os.listdir(tmp_path / "large/result") == ["new"] and sorted(os.listdir(tmp_path)) == ["large", "result"]


def test_a_link_to_itself_is_told(tmp_path):
    (tmp_path / "result").symlink_to("result")
    with pytest.raises(UserError, match="leads to itself"), stage_folder(tmp_path / "result"):
        pass


def test_data_as_a_link_is_refused_before_anything_runs(project, tmp_path_factory):  # noqa: F811
    write(project, "print('hello')")
    (project / "data").symlink_to(tmp_path_factory.mktemp("large"))
    status, out, err = run(project)
    assert status == 2 and "dvc cache dir" in err and len(err.splitlines()) == 1 and "started" not in out


def test_each_cut_of_a_lock_is_mended(tmp_path):
    lock, kept = tmp_path / "dvc.lock", tmp_path / "data/run/dvc.lock"
    lock.write_text(LOCK)
    prepare(tmp_path) if (tmp_path / "data").mkdir() is None else None
    assert kept.read_text() == LOCK and mend_lock(tmp_path) == ""
    small = LOCK[:LOCK.index("\n  captions:") + 1]  # one stage, cut everywhere
    kept.write_text(small)
    COMPILED_LOCKFILE_SCHEMA(YAML(typ="safe").load(small))
    for share in range(0, len(small) - 1, 7):
        lock.write_text(small[:share])
        try:
            COMPILED_LOCKFILE_SCHEMA(YAML(typ="safe").load(small[:share]))
        except Exception:
            assert "put back" in mend_lock(tmp_path) and lock.read_text() == small, share
    assert not lock_is_whole(LOCK[:40]) and not lock_is_whole("") and not lock_is_whole("- a list")


RWLOCKS = {"empty": "", "cut": "{", "dead": '{"a": {"write": {"pid": 999999999, "cmd": "dvc"}}}',
           "number in use again": '{"a": {"read": [{"pid": %d, "cmd": "dvc"}]}}'}


@pytest.mark.parametrize("content", RWLOCKS)
def test_locks_of_a_killed_dvc_are_removed(tmp_path, content):
    (tmp_path / ".dvc/tmp").mkdir(parents=True)
    (tmp_path / ".dvc/tmp/rwlock").write_text(RWLOCKS[content].replace("%d", str(os.getpid())))
    assert "removed" in free_locks(tmp_path) and not (tmp_path / ".dvc/tmp/rwlock").exists()


def test_marks_of_a_merge_are_not_overwritten(tmp_path):
    (tmp_path / "dvc.lock").write_text("<<<<<<< HEAD\n" + LOCK)
    with pytest.raises(UserError, match="marks of a merge"):
        mend_lock(tmp_path)


def test_the_notebook_of_a_living_stage_stays(project):  # noqa: F811
    write(project, "import pathlib\nfrom retinalogos.stage import prepare\nprepare(pathlib.Path('.'))\nprint('second stage')", "print('still here')")
    status, out, err = run(project)
    assert (status, err) == (0, "") and "still here" in out


def test_a_cut_lock_comes_back_from_git(tmp_path):
    (tmp_path / "dvc.lock").write_text(LOCK)
    for command in (["init", "-q"], ["add", "dvc.lock"], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "x"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    (tmp_path / "dvc.lock").write_text(LOCK[:40])
    assert "put back from git" in mend_lock(tmp_path) and (tmp_path / "dvc.lock").read_text() == LOCK


def test_a_long_tmpdir(project, tmp_path_factory):  # noqa: F811
    write(project, "print('hello')")
    place = tmp_path_factory.mktemp("t") / ("x" * 60) / ("y" * 60)
    place.mkdir(parents=True)
    status, out, err = run(project, TMPDIR=str(place))
    assert (status, err) == (0, "") and "hello" in out and os.listdir(place) == []


@pytest.mark.parametrize("cell, said", [
    ("raise OSError(28, 'No space left on device', '/tmp/x')", "No space left on device.*TMPDIR"),
    ("raise PermissionError(13, 'Permission denied', 'data/out')", "Permission denied"), ("open('nowhere/at/all')", "No such file")])
def test_an_error_of_the_system_is_one_line(project, cell, said):  # noqa: F811
    write(project, cell)
    status, _, err = run(project)
    import re
    assert status == 1 and re.search(said, err) and "Traceback" not in err and len(err.splitlines()) == 2


@pytest.mark.parametrize("content", ["", "{", "[]", '{"cells": 7}', "\0" * 100])
def test_a_stage_notebook_that_is_none(project, content):  # noqa: F811
    write(project, "print('hello')")
    (project / "nbs/stages/04_purify.ipynb").write_text(content)
    status, _, err = run(project)
    assert status == 2 and err.startswith("error: ") and "Traceback" not in err


def test_a_file_in_the_place_of_data(project):  # noqa: F811
    write(project, "print('hello')")
    (project / "data").write_text("")
    status, _, err = run(project)
    assert status == 2 and "is a file" in err and len(err.splitlines()) == 1


def test_threads_wait_without_spinning():
    code = "import os, retinalogos; print(os.environ['OMP_WAIT_POLICY'])"
    bare = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"} | {"PYTHONPATH": str(ROOT)}
    for given, expected in (({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")):
        assert subprocess.run([sys.executable, "-c", code], env=bare | given, text=True, capture_output=True, check=True).stdout.strip() == expected


def test_make_says_before_it_installs_that_git_is_needed(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    done = subprocess.run(["make", "repro"], cwd=tmp_path, text=True, capture_output=True)
    assert done.returncode == 2 and "clone with git" in done.stdout + done.stderr and os.listdir(tmp_path) == ["Makefile"]


def test_make_works_in_a_path_with_a_space(tmp_path):
    place = Path(tmp_path, "My Drive")
    place.mkdir()
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, place)
    done = subprocess.run(["make", "-n", "install"], cwd=place, text=True, capture_output=True)
    assert done.returncode == 0 and f'test -x "{place}/.venv/bin/python"' in done.stdout and f'"{place}/.venv/bin/python" -m pip' in done.stdout
