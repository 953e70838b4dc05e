"""The command line as a person meets it: a process, what it prints, its exit status, the files it leaves."""
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from retinalogos import cli
from retinalogos.config import load_params

ROOT = Path(__file__).parent.parent
CHECKPOINT = ROOT / "data/checkpoints/finetune"


@pytest.fixture
def project(tmp_path):
    shutil.copy(ROOT / "params.yaml", tmp_path)
    shutil.copytree(ROOT / "presets", tmp_path / "presets")
    return tmp_path


def run(project, *arguments):
    done = subprocess.run([sys.executable, "-m", "retinalogos.cli", *arguments], cwd=project, text=True, capture_output=True,
                          env=os.environ | {"PYTHONPATH": str(ROOT)})
    return done.returncode, done.stdout, done.stderr


def files(project):
    return {str(f.relative_to(project)) for f in project.rglob("*") if f.is_file()}


def test_help_answers_at_once(project):
    begun = time.monotonic()
    status, out, err = run(project, "--help")
    assert status == 0 and all(command in out for command in ("generate", "preset", "stage"))
    assert time.monotonic() - begun < 1


@pytest.mark.parametrize("arguments, said", [
    (["generate", "left eye"], "no checkpoint in"),
    (["generate", "left eye", "--checkpoint", "nowhere"], "no checkpoint in nowhere: run `make repro` first"),
    (["generate", "left eye", "--out", "grid.jpg"], "--out grid.jpg: the picture is a PNG"),
    (["generate", "left eye", "-n", "0"], "-n 0: at least one"),
    (["generate", "left eye", "--seed", "-4"], "--seed -4"),
    (["generate", " "], "prompt 1 is empty"),
    (["preset", "show", "papr"], "no preset 'papr'; did you mean 'paper'?"),
    (["preset", "apply", "odir", "--params", "gone.yaml"], "gone.yaml: no such file"),
    (["stage", "pretrian"], "no stage 'pretrian'; did you mean 'pretrain'?"),
])
def test_what_cannot_be_done_is_said_in_one_line(project, arguments, said):
    before = files(project)
    status, out, err = run(project, *arguments)
    assert status == 2 and err.startswith("error: ") and said in err and len(err.splitlines()) == 1
    assert files(project) == before


@pytest.mark.parametrize("arguments", [[], ["paint"], ["generate"], ["generate", "left eye", "-n", "four"], ["preset"]])
def test_wrong_usage(project, arguments):
    status, out, err = run(project, *arguments)
    assert status == 2 and err.startswith("usage: retinalogos") and "Traceback" not in err


def test_outside_a_project(tmp_path):
    status, out, err = run(tmp_path, "preset", "list")
    assert status == 2 and "no params.yaml here or in any folder above it" in err


def test_presets_are_listed_shown_and_applied(project):
    status, out, err = run(project, "preset", "list")
    assert status == 0 and [line.split()[0] for line in out.splitlines()] == sorted(f.stem for f in (ROOT / "presets").glob("*.yaml"))
    before = (project / "params.yaml").read_bytes()
    status, shown, err = run(project, "preset", "show", "odir")
    assert status == 0 and "dataset.source: simulated -> odir" in shown and (project / "params.yaml").read_bytes() == before
    assert run(project, "preset", "apply", "odir") == (0, shown, "")
    assert load_params(project / "params.yaml").dataset.source == "odir"
    assert run(project, "preset", "apply", "odir") == (0, "nothing to change\n", "")


@pytest.fixture
def sampled(project, monkeypatch):
    """`generate` with a sampler that paints the seed: what it was called with, and the arguments to say."""
    from retinalogos.training import sample
    (project / "model").mkdir()
    (project / "model/model_index.json").write_text("{}")
    calls = []

    def paint(pipeline, prompts, seeds, **choices):
        calls.append((prompts, seeds, choices))
        return np.stack([np.full((32, 32, 3), 40 * seed, np.uint8) for seed in seeds])

    monkeypatch.setattr(sample, "load_checkpoint", lambda folder, device: folder)
    monkeypatch.setattr(sample, "generate", paint)
    monkeypatch.chdir(project)
    return calls, ["generate", "left eye", "right eye", "-n", "3", "--seed", "2", "--checkpoint", "model"]


def test_generate_asks_for_each_prompt_with_the_same_seeds(sampled, capsys):
    calls, arguments = sampled
    assert cli.main([*arguments, "--steps", "7", "--out", "new/grid.png"]) == 0
    (prompts, seeds, choices), = calls
    assert prompts == ["left eye"] * 3 + ["right eye"] * 3 and seeds == [2, 3, 4, 2, 3, 4]
    assert choices == {"num_inference_steps": 7, "guidance_scale": load_params().sample.guidance_scale,
                       "batch_size": load_params().sample.batch_size}
    assert capsys.readouterr().out == "new/grid.png\n"
    colours = {tuple(pixel) for pixel in np.asarray(Image.open("new/grid.png").convert("RGB")).reshape(-1, 3)}
    assert {(80, 80, 80), (120, 120, 120), (160, 160, 160)} <= colours, "every seed has its column"
    assert os.listdir("new") == ["grid.png"]


def test_a_failure_while_sampling_leaves_the_earlier_picture(sampled, monkeypatch, capsys):
    from retinalogos.training import sample
    calls, arguments = sampled
    Path("grid.png").write_text("earlier")

    def fail(*args, **kwargs):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(sample, "generate", fail)
    assert cli.main(arguments) == 1
    assert Path("grid.png").read_text() == "earlier" and capsys.readouterr().err == "error: out of memory\n"
    assert not [f for f in os.listdir() if "part" in f]


@pytest.mark.skipif(not (CHECKPOINT / "model_index.json").exists(), reason="`make repro` has not made the checkpoint here")
def test_generate_with_the_finished_checkpoint(tmp_path):
    for out in ("one.png", "two.png"):
        status, said, err = run(ROOT, "generate", "left eye, severe non-proliferative diabetic retinopathy", "-n", "4", "--seed", "1",
                                "--out", str(tmp_path / out))
        assert status == 0, err
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes(), "same words, same seed, same picture"
    assert np.asarray(Image.open(tmp_path / "one.png").convert("RGB")).std() > 10
