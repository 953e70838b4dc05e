"""The guide "Change one thing": its code, read from the page, is run on a copy of the repository."""
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from ruamel.yaml import YAML

from retinalogos.config import stage_parameters, load_params
from retinalogos.eye.simulate import simulate_patient
from test_pipeline import TINY, overlay, read_yaml

ROOT = Path(__file__).parent.parent
GUIDE = ROOT / "nbs/guides/06_change_one_thing.md"


def recipe(title: str, language: str = "python") -> list[str]:
    """The blocks of code in one section of the guide."""
    section, = re.findall(rf"^## {title}\n(.*?)(?=^## |\Z)", GUIDE.read_text(encoding="utf-8"),
                          flags=re.M | re.S)
    return re.findall(rf"^```{language}\n(.*?)^```", section, flags=re.M | re.S)


def change_cell(notebook: Path, marker: str, change) -> None:
    """Write `change(source)` into the one exported cell of a notebook that holds `marker`."""
    content = nbformat.read(notebook, as_version=4)
    cell, = (cell for cell in content.cells
             if cell.source.startswith("#| export") and marker in cell.source)
    cell.source = change(cell.source)
    nbformat.write(content, notebook)


@pytest.fixture
def copy(tmp_path):
    """The repository's notebooks, package and settings, with parameters for a tiny run."""
    for name in ("nbs", "retinalogos"):
        shutil.copytree(ROOT / name, tmp_path / name,
                        ignore=shutil.ignore_patterns(".ipynb_checkpoints", "__pycache__"))
    for name in ("pyproject.toml", "settings.ini", "dvc.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    content = read_yaml(ROOT / "params.yaml")
    overlay(content, TINY | {"dataset": {"n_patients": 40, "render_size": 64}})
    YAML().dump(content, tmp_path / "params.yaml")
    return tmp_path


def run(folder: Path, *arguments: str) -> str:
    """What a Python process prints whose package is the copy's."""
    done = subprocess.run([sys.executable, *arguments], cwd=folder, text=True, capture_output=True,
                          env=os.environ | {"PYTHONPATH": str(folder)})
    assert done.returncode == 0, done.stdout[-1500:] + done.stderr[-1500:]
    return done.stdout


def export(folder: Path, notebook: str) -> None:
    """Write the module of a notebook of the copy."""
    run(folder, "-c", "from nbdev.export import nb_export\n"
        f"nb_export({str(folder / notebook)!r}, 'retinalogos')")


def test_the_lesion_and_the_metric_are_those_that_other_tests_add():
    from test_metrics_once import ROW
    from test_one_place import NEW_CELLS
    told = "\n\n\n".join(cell.removeprefix("#| export\n") for cell in NEW_CELLS)
    assert recipe("A lesion")[0].strip() == told.strip()
    assert recipe("A metric")[0].strip() == ROW.strip()


def test_a_data_set(copy):
    notebook = "nbs/data/02_named_sets.ipynb"
    change_cell(copy / notebook, "DESCRIPTIONS = {", lambda source: f"{source}\n\n{recipe('A data set')[0]}")
    change_cell(copy / "nbs/00_config.ipynb", 'SOURCES = ("simulated"',
                lambda source: source.replace('"brset")', '"brset", "clinic")'))
    for name in (notebook, "nbs/00_config.ipynb"):
        export(copy, name)
    photographs = copy / "archive/photographs"
    photographs.mkdir(parents=True)
    for seed in (1, 2, 3):
        for eye in simulate_patient(seed, render_size=128):
            cv2.imwrite(str(photographs / f"{seed}{eye.record.eye}.png"), eye.image[..., ::-1])
    (copy / "archive/clinic.csv").write_text("file,who,side,grade\n" + "".join(
        f"{seed}{side}.png,{seed},{side},{seed}\n" for seed in (1, 2, 3) for side in ("OD", "OS")))
    settings = recipe("A data set", "ini")[0].replace("/archive/clinic", str(copy / "archive"))
    (copy / "settings.local.ini").write_text(settings)
    params = read_yaml(copy / "params.yaml")
    params["dataset"] |= {"source": "clinic", "min_quality": 0.0}
    YAML().dump(params, copy / "params.yaml")
    run(copy, "-m", "retinalogos.stage", "dataset")
    records = json.loads(run(copy, "-c", "from retinalogos.data.read import load_records\n"
                             "print(load_records('data/dataset')[['source', 'Eye']].to_json())"))
    assert set(records["source"].values()) == {"clinic"} and len(records["Eye"]) == 6
    assert set(records["Eye"].values()) == {"OD", "OS"}


def test_an_autoencoder(copy):
    run(copy, "-c", recipe("An autoencoder")[0])
    params = read_yaml(copy / "params.yaml")
    params["encoders"]["pretrained_vae"] = "my_autoencoder"
    YAML().dump(params, copy / "params.yaml")
    for stage in ("dataset", "captions", "encoders"):
        run(copy, "-m", "retinalogos.stage", stage)
    config = json.loads((copy / "data/encoders/vae/config.json").read_text())
    assert config["latent_channels"] == 6
    command, = recipe("An autoencoder", "bash")
    assert command.split()[-1] == "encoders.pretrained_vae=my_autoencoder"


def test_a_stage(copy):
    section, computed = recipe("A stage")
    values, entry = recipe("A stage", "yaml")
    change_cell(copy / "nbs/00_config.ipynb", "class SummarySection(",
                lambda source: f"#| export\n{section}\n\n\n{source.removeprefix('#| export')}")
    change_cell(copy / "nbs/00_config.ipynb", "    summary: SummarySection",
                lambda source: source.replace("    summary:", "    colours: ColoursSection\n    summary:"))
    export(copy, "nbs/00_config.ipynb")
    with (copy / "params.yaml").open("a") as file:
        file.write(values)
    with (copy / "dvc.yaml").open("a") as file:
        file.write("\n")
    text = (copy / "dvc.yaml").read_text()
    (copy / "dvc.yaml").write_text(text.replace("  summary:\n", f"{entry}\n  summary:\n", 1))
    base = stage_parameters("summary", load_params(ROOT / "params.yaml"))
    named = "".join(f"{name} = {value!r}\n" for name, value in base.items()) + "n_photographs = 4"
    notebook = new_notebook(cells=[new_markdown_cell("# Colours"), new_code_cell(
        named, metadata={"tags": ["parameters"]}), new_code_cell(computed)])
    nbformat.write(notebook, copy / "nbs/stages/21_colours.ipynb")
    assert run(copy, "-m", "retinalogos.stage", "--sync").startswith("colours, ")
    deps = read_yaml(copy / "dvc.yaml")["stages"]["colours"]["deps"]
    assert "nbs/stages/21_colours.ipynb" in deps and "retinalogos/data/read.py" in deps
    for stage in ("dataset", "colours"):
        run(copy, "-m", "retinalogos.stage", stage)
    mean = json.loads((copy / "data/results/colours.json").read_text())["mean"]
    assert len(mean) == 3 and mean[0] > mean[2], "a fundus is redder than it is blue"
