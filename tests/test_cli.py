"""The command line as a person meets it: a process, what it prints, its exit status, the files it leaves."""
import os
import re
import shutil
import subprocess
import sys
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


def test_help_tells_all_commands(project):
    status, out, err = run(project, "--help")
    assert status == 0 and all(command in out for command in ("generate", "caption", "study", "preset", "stage", "card", "doctor"))


@pytest.mark.parametrize("arguments", [["--help"], ["caption", "--help"], ["study", "make", "--help"], ["doctor", "--help"], ["preset", "list"]])
def test_what_needs_no_heavy_library_imports_none(arguments):
    """Half a second is what torch alone takes; a clock would only say how busy the machine is."""
    heavy = ("torch", "numpy", "pandas", "matplotlib", "transformers", "diffusers", "papermill", "pyarrow", "httpx", "dvc")
    script = f"import sys\nfrom retinalogos.cli import main\ntry: main({arguments})\nexcept SystemExit: pass\nprint([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, text=True, capture_output=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("arguments, said", [
    (["generate", "left eye"], "no checkpoint in"),
    (["generate", "left eye", "--checkpoint", "nowhere"], "no checkpoint in nowhere: run `make repro` first"),
    (["generate", "left eye", "--out", "grid.jpg"], "--out grid.jpg: the picture is a PNG"),
    (["generate", "left eye", "-n", "0"], "-n 0: at least one"),
    (["generate", "left eye", "--seed", "-4"], "--seed -4"),
    (["generate", " "], "prompt 1 is empty"),
    (["caption", "photograph.jpg"], "captions.backend in params.yaml is template"),
    (["caption", "photograph.jpg", "--eye", "OD"], "photograph.jpg: no such file"),
    (["caption"], "run the dataset stage first"),
    (["card", "dataset"], "run the dataset stage first"),
    (["card", "model", "--out", "card.md"], "there is nothing to tell of; run `make repro` first"),
    (["preset", "diff", "gpu", "papr"], "no preset 'papr'; did you mean 'paper'?"),
    (["preset", "show", "papr"], "no preset 'papr'; did you mean 'paper'?"),
    (["preset", "apply", "odir", "--params", "gone.yaml"], "gone.yaml: no such file"),
    (["stage", "pretrian"], "no stage 'pretrian'; did you mean 'pretrain'?"),
])
def test_what_cannot_be_done_is_said_in_one_line(project, arguments, said):
    before = files(project)
    status, out, err = run(project, *arguments)
    assert status == 2 and err.startswith("error: ") and said in err and len(err.splitlines()) == 1
    assert files(project) == before


@pytest.mark.parametrize("arguments", [[], ["paint"], ["generate"], ["generate", "left eye", "-n", "four"], ["preset"], ["preset", "diff", "gpu"],
                                       ["card"], ["card", "paper"], ["caption", "a.png", "--eye", "left"]])
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
                       "batch_size": load_params().sample.batch_size, "progress": True}
    assert capsys.readouterr().out == "new/grid.png\n"
    colours = {tuple(pixel) for pixel in np.asarray(Image.open("new/grid.png").convert("RGB")).reshape(-1, 3)}
    assert {(80, 80, 80), (120, 120, 120), (160, 160, 160)} <= colours, "every seed has its column"
    assert os.listdir("new") == ["grid.png"]


def test_quiet_prints_where_the_picture_is_and_nothing_else(sampled, capsys):
    calls, arguments = sampled
    assert cli.main([*arguments, "--quiet"]) == 0 and calls[0][2]["progress"] is False
    assert capsys.readouterr() == ("grid.png\n", "")


def test_a_quiet_stage_prints_nothing_but_its_failure(project, monkeypatch, capsys):
    from retinalogos import stage

    def fail(name):
        print("progress"), print("progress", file=sys.stderr)
        raise stage.StageFailed(f"stage {name}: no room")

    monkeypatch.setattr(stage, "run_stage", fail)
    assert cli.main(["stage", "sample", "--quiet"]) == 1 and capsys.readouterr() == ("", "error: stage sample: no room\n")
    assert cli.main(["stage", "sample"]) == 1 and capsys.readouterr() == ("progress\n", "progress\nerror: stage sample: no room\n")


@pytest.fixture
def photographs(project):
    """Two files of simulated eyes."""
    from retinalogos.data.simulate import simulate_patient
    for eye in simulate_patient(3, render_size=160):
        Image.fromarray(eye.image).save(project / f"{eye.record.eye}.png")
    return ["OD.png", "OS.png"]


def use_server(project, address, model="null"):
    text = (project / "params.yaml").read_text()
    (project / "params.yaml").write_text(text.replace("backend: template ", "backend: openai ", 1).replace("  model: null ", f"  model: {model} ", 1))
    (project / "settings.ini").write_text(f"[captions]\nserver = {address}\n")


def test_photographs_are_captioned_by_the_backend_of_params(project, photographs):
    status, out, err = run(project, "caption", *photographs, "--labels", "moderate non proliferative retinopathy")
    assert status == 0 and [line.partition(": ")[0] for line in out.splitlines()] == photographs and err == ""
    assert all(re.search("moderate|grade 2|NPDR", line) for line in out.splitlines()), out
    use_server(project, "http://127.0.0.1:9")
    status, out, err = run(project, "caption", *photographs)
    assert status == 2 and out == "" and "http://127.0.0.1:9/v1: it does not say which models it has" in err and len(err.splitlines()) == 1


def test_a_photograph_without_a_caption_is_told_and_counts(project, photographs, monkeypatch, capsys):
    from retinalogos.captions import run as captions
    from retinalogos.captions.backends import Result

    class Halting:
        def answer(self, jobs):
            first, second = jobs
            yield Result(first, "Right eye, healthy.")
            yield Result(second, error="status 500")

    monkeypatch.setattr(captions, "make_backend", lambda section, machine: Halting())
    monkeypatch.chdir(project)
    use_server(project, "http://127.0.0.1:9")
    assert cli.main(["caption", *photographs]) == 1
    assert capsys.readouterr() == ("OD.png: Right eye, healthy.\n", "OS.png: status 500\n")


def test_doctor_says_what_is_missing(tmp_path, project):
    for name in ("pyproject.toml", "constraints.txt", "settings.ini", "dvc.lock"):
        shutil.copy(ROOT / name, project)
    (project / "data/results").mkdir(parents=True)
    shutil.copy(ROOT / "data/results/summary.json", project / "data/results")
    use_server(project, "http://127.0.0.1:9")
    before = files(project)
    status, out, err = run(project, "doctor", "--quiet")
    found = {line.split()[1]: line for line in out.splitlines()}
    assert status == 1 and err == "" and all(line.startswith("problem") for line in found.values())
    assert "does not say which models it has" in found["captions"] and "dvc init" in found["DVC"] and "params.yaml" not in found
    assert files(project) == before
    status, out, err = run(project, "doctor")
    assert status == 1 and {"ok", "note", "problem"} == {line.split()[0] for line in out.splitlines()}


def test_card_is_written_whole(tmp_path):
    status, said, err = run(ROOT, "card", "model", "--out", str(tmp_path / "new/card.md"))
    assert status == 0, err
    text = (tmp_path / "new/card.md").read_text()
    assert said == f"{tmp_path}/new/card.md\n" and text.startswith("---\n") and "model-index:" in text and os.listdir(tmp_path / "new") == ["card.md"]
    assert run(ROOT, "card", "model") == (0, text, "")


@pytest.mark.parametrize("out, said", [("folder.png", "a folder is there"), ("params.yaml/x.png", "nothing can be written in")])
def test_where_a_picture_cannot_go_is_said_before_it_is_drawn(sampled, capsys, out, said):
    calls, arguments = sampled
    Path("folder.png").mkdir()
    Path("params.yaml").touch()
    assert cli.main([*arguments, "--out", out]) == 2
    assert said in capsys.readouterr().err and not calls


def test_a_name_that_the_terminal_cannot_show_ends_nothing(project, photographs):
    (project / "OD.png").rename(project / "\u7709.png")
    done = subprocess.run([sys.executable, "-m", "retinalogos.cli", "caption", "\u7709.png", "--eye", "OD"], cwd=project, capture_output=True, text=True,
                          env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0 and done.stdout.startswith("\\u7709.png: ") and done.stderr == ""


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
