"""Arguments of the command line: one line that names what is wrong and status 2, or what was asked for; nothing else is written."""
import os
import re
import shutil
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from hostile import Case, Either
from hostile.states import checkpoint
from retinalogos import cli
from retinalogos.analysis import reader_pack, reader_study  # noqa: F401  imported once here, not in every process
from retinalogos.captions import run  # noqa: F401
from retinalogos.data import figures  # noqa: F401
from retinalogos.data.simulate import simulate_patient
from retinalogos.training import sample

ROOT = Path(__file__).resolve().parents[2]


def project(folder):
    """A project without results, with a photograph, two folders of pictures and a checkpoint that paints the seed."""
    shutil.copy(ROOT / "params.yaml", folder)
    shutil.copytree(ROOT / "presets", folder / "presets")
    (folder / "model").mkdir()
    (folder / "model/model_index.json").write_text("{}")
    for name, seeds in {"real": range(4), "synthetic": range(4, 8)}.items():
        (folder / name).mkdir()
        for seed in seeds:
            Image.fromarray(simulate_patient(seed, render_size=96)[0].image).save(folder / name / f"{seed}.png")
    shutil.copy(folder / "real/0.png", folder / "eye.png")
    return folder


def paint():
    """The sampler paints pictures at once, and checks its arguments as torch would."""
    def generate(pipeline, prompts, seeds, **choices):
        for seed in seeds:
            torch.Generator().manual_seed(seed)
        assert all(isinstance(prompt, str) and prompt.encode() for prompt in prompts)
        return np.stack([np.full((32, 32, 3), seed % 200, np.uint8) for seed in seeds])
    sample.load_checkpoint, sample.generate = (lambda *about, **named: "pipeline"), generate


def files(folder):
    return {str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file() and "__pycache__" not in str(f)}


def command(arguments, env=None):
    """The function of a case: (status, what was printed as an error, files that are new)."""
    def run(folder):
        paint()
        before, out, err = files(project(folder)), StringIO(), StringIO()
        os.environ.update(env or {})
        with redirect_stdout(out), redirect_stderr(err):
            try:
                status = cli.main(arguments)
            except SystemExit as end:  # argparse
                status = end.code
        return status, err.getvalue(), sorted(files(folder) - before)
    return run


def refused(word):
    """A test: status 2 (or 1), one line of error that holds `word`, no file written."""
    def right(got):
        lines = [line for line in got[1].strip().splitlines() if not line.startswith(("usage:", " "))]
        return got[0] in (1, 2) and len(lines) == 1 and re.search(word, lines[0], re.I) is not None and not got[2]
    return right


def done(*written):
    return lambda got: got[0] == 0 and got[2] == sorted(written)


GENERATE = ["generate", "left eye", "--checkpoint", "model", "-q"]
REFUSED = {  # arguments -> what the line must name
    ("--seed", "18446744073709551616"): "seed", ("--seed", "18446744073709551615", "-n", "2"): "seed", ("--seed", "-1"): "seed", ("--seed", "1.5"): "seed", ("--seed", "1e3"): "seed", ("--seed", "nan"): "seed", ("--seed", "9" * 5000): "seed",
    ("-n", "0"): "-n", ("-n", "-3"): "-n", ("-n", "many"): "-n", ("-n", "1000000000"): "-n", ("-n", "1e2"): "-n", ("--guidance", "inf"): "guidance", ("--guidance", "-inf"): "guidance", ("--guidance", "nan"): "guidance",
    ("--guidance", "0"): "guidance", ("--guidance", "-2"): "guidance", ("--guidance", "1e30"): "guidance", ("--guidance", "much"): "guidance", ("--guidance", "1e400"): "guidance", ("--steps", "0"): "steps", ("--steps", "-1"): "steps",
    ("--steps", "1.5"): "steps", ("--steps", "1000000000"): "steps", ("--out", "grid.jpg"): "--out", ("--out", "grid"): "--out", ("--out", ""): "--out", ("--out", "model"): "--out", ("--out", "."): "--out", ("--out", "params.yaml"): "--out",
    ("--out", "params.yaml/x.png"): "params.yaml", ("--out", "x\0.png"): "--out|null", ("--out", "/proc/x.png"): "/proc", ("--out", "a" * 300 + ".png"): "name|long", ("--checkpoint", "nowhere"): "nowhere", ("--checkpoint", ""): "checkpoint",
    ("--checkpoint", "params.yaml"): "params.yaml", ("--steps", ""): "steps", ("--colour",): "colour",
}
PROMPTS = {"": "empty", " \t": "empty", "\u200b": "empty|prompt", "\x00": "prompt|null|control", "left \udcff eye": "prompt|utf", "\n\n": "empty"}
DRAWN = {"dollars": "left eye $\\frac{$", "one dollar": "costs $5", "backslashes": "\\alpha \\\\", "braces": "{left} {0} %s %d", "50,000 words": "retina " * 50_000, "one word of 100,000": "a" * 100_000, "a newline": "left\neye",
         "emoji": "left eye \U0001f441", "right to left": "\u202eleft eye", "Chinese": "\u5de6\u773c", "an escape": "left \x1b[2J eye", "a leading hyphen": " -n 5", "percent": "100 % sure", "carets": "x^2_3 ^^ __", "quotes": "\"left\" 'eye'",
         "a tab": "left\teye", "HTML": "<b>left</b>", "combining": "e" + "\u0301" * 500}
OTHERS = {
    ("caption", "gone.png"): "template|gone.png", ("caption", "gone.png", "--eye", "OD"): "gone.png", ("caption", "params.yaml", "--eye", "OD"): "params.yaml", ("caption", "model", "--eye", "OD"): "model", ("caption", "eye.png"): "template",
    ("caption", "eye.png", "--eye", "left"): "eye", ("caption", "eye.png", "--labels", "glaucma"): "glaucma", ("caption", "eye.png", "--labels", ""): "labels|template", ("caption", "eye.png", "--labels", "normal fundus, abnormal"): "contradict",
    ("caption", "eye.png", "--labels", "x" * 100_000): "label", ("caption", "eye.png", "--retry-failures", "--eye", "OD"): "retry", ("caption", "--eye", "OD"): "eye", ("caption",): "dataset", ("caption", "\0", "--eye", "OD"): "null|file|path",
    ("caption", "a" * 5000, "--eye", "OD"): "file|name|long", ("caption", "--labels", "normal"): "labels", ("preset", "show", "papr"): "paper", ("preset", "show", "../params"): "preset", ("preset", "show", ""): "preset", ("preset", "diff", "gpu", "papr"): "papr",
    ("preset", "apply", "gpu", "--params", "gone.yaml"): "gone.yaml", ("preset", "apply", "gpu", "--params", "model"): "model", ("preset", "show", "gpu", "--params", "presets"): "presets", ("preset", "apply", "gpu", "--params", "eye.png"): "eye.png",
    ("preset", "show", "\0"): "preset", ("stage", "pretrian"): "pretrain", ("stage", ""): "stage", ("stage", "base"): "stage", ("stage", "../x"): "stage", ("stage", "dataset"): "notebook|nbs", ("card", "model"): "data|results|dvc", ("card", "dataset"): "dataset",
    ("card", "dataset", "--out", "model"): "dataset|model", ("study", "plan", "--margin", "0"): "margin", ("study", "plan", "--margin", "nan"): "margin", ("study", "plan", "--margin", "inf"): "margin", 
    ("study", "plan", "--power", "1"): "power", ("study", "plan", "--power", "nan"): "power", ("study", "plan", "--agreement", "2"): "agreement", ("study", "plan", "--agreement", "nan"): "agreement", ("study", "make"): "data|real",
    ("study", "make", "--real", "real"): "synthetic", ("study", "make", "--real", "gone", "--synthetic", "synthetic"): "gone", ("study", "make", "--real", "model", "--synthetic", "synthetic"): "model|picture|photograph",
    ("study", "make", "--real", "real", "--synthetic", "synthetic", "-n", "0"): "-n|photograph", ("study", "make", "--real", "real", "--synthetic", "synthetic", "-n", "-2"): "-n|photograph", ("study", "make", "--real", "real", "--synthetic", "synthetic", "-n", "7"): "7|even|half",
    ("study", "make", "--real", "real", "--synthetic", "synthetic", "-n", "1000000"): "1000000|1,000,000|enough|only|photographs", ("study", "make", "--real", "real", "--synthetic", "synthetic", "-n", "4", "--out", "params.yaml"): "params.yaml",
    ("study", "make", "--real", "real", "--synthetic", "real", "-n", "4"): "real|same", ("study", "make", "--real", "real", "--synthetic", "synthetic", "-n", "4", "--seed", "-1"): "seed",
    ("study", "analyse", "gone.json", "a.json"): "gone.json", ("study", "analyse", "params.yaml", "a.json"): "params.yaml", ("study", "analyse", "model", "a.json"): "model", ("study", "analyse", "presets/gpu.yaml", "presets/gpu.yaml"): "gpu.yaml", ("paint",): "paint",
}
DEVICES = {"cuda": "cuda", "cuda:99": "cuda", "mps": "mps", "quantum": "device|quantum", "cpu:x": "device|cpu"}


def cases(rng):
    for arguments, word in REFUSED.items():
        yield Case(f"generate {' '.join(arguments)[:50]}", command([*GENERATE, *arguments]), refused(word))
    for prompt, word in PROMPTS.items():
        yield Case(f"generate {prompt!r}", command(["generate", prompt, "--checkpoint", "model", "-q"]), refused(word))
    for name, prompt in DRAWN.items():
        yield Case(f"generate {name}", command(["generate", prompt, "--checkpoint", "model", "-q", "-n", "1"]), Either((done("grid.png"), refused("prompt"))) if name in ("an escape", "50,000 words", "one word of 100,000") else done("grid.png"))
    for arguments, word in OTHERS.items():
        yield Case(" ".join(arguments)[:60], command(list(arguments)), refused(word))
    for device, word in DEVICES.items():
        yield Case(f"generate on {device}", on_device(device), refused(word))
    yield Case("generate, largest seed", command([*GENERATE, "-n", "1", "--seed", str(2**63 - 1)]), done("grid.png"))
    yield Case("generate into a new folder", command([*GENERATE, "-n", "1", "--out", "new/x.png"]), done("new/x.png"))
    yield Case("study make", command(["study", "make", "--real", "real", "--synthetic", "synthetic", "-n", "8"]), done("study/key.json", "study/page.html"))
    yield Case("caption with labels", command(["caption", "eye.png", "--labels", "glaucoma", "--eye", "OD"]), done())


def on_device(device):
    """`generate` with a real, small checkpoint, on a device that is not there."""
    small = str(checkpoint())

    def run(folder):
        before, err = files(project(folder)), StringIO()
        os.environ["RETINALOGOS_MACHINE_DEVICE"] = device
        with redirect_stdout(StringIO()), redirect_stderr(err):
            status = cli.main(["generate", "left eye", "-n", "1", "--checkpoint", small, "-q"])
        return status, err.getvalue(), sorted(files(folder) - before)
    return run
