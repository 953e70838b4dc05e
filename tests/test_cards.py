"""A card tells only what lies there."""
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from retinalogos.cards import dataset_card, folder_hash, model_card
from retinalogos.data.dataset import build_dataset
from ruamel.yaml import YAML

ROOT = Path(__file__).parent.parent


@pytest.fixture()
def project(tmp_path):
    for name in ("params.yaml", "dvc.lock", "settings.ini"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "data/results", tmp_path / "data/results")
    return tmp_path


def put_checkpoint(project, facts=None):
    folder = project / "data/checkpoints/finetune"
    (folder / "transformer").mkdir(parents=True)
    (folder / "transformer/config.json").write_text(json.dumps({"num_layers": 2, "hidden_size": 48, "sample_size": 32}))
    if facts:
        (folder / "training.json").write_text(json.dumps(facts))
    return folder


def lock_in(project, folder):
    """Say in dvc.lock that `folder` was made by finetune and measured by sample."""
    lock = YAML().load(project / "dvc.lock")
    path = folder.relative_to(project).as_posix()
    for stage, kind in (("finetune", "outs"), ("sample", "deps")):
        next(entry for entry in lock["stages"][stage][kind] if entry["path"] == path)["md5"] = folder_hash(folder)
    YAML().dump(lock, project / "dvc.lock")


def test_without_a_checkpoint_it_tells_of_the_run_on_record(project):
    text = model_card(project)
    assert "No checkpoint lies here: this card tells of the run on record" in text and "model-index:" in text and "license: apache-2.0" in text


def test_a_checkpoint_that_was_not_measured_has_no_scores(project):
    put_checkpoint(project, {"source": ["my_clinic"], "pairs": 700, "kept": 650})
    text = model_card(project)
    fid = json.loads((project / "data/results/summary.json").read_text())["fidelity"]["fid"]["finetune"]
    assert "photographs of patients from my_clinic" in text and "700 photographs with captions" in text and "256 px" in text
    assert "license: other" in text and "model-index" not in text and "There are none for this checkpoint" in text
    assert "simulated** eyes only" not in text and f"{fid:.3f}" not in text and "lies here" not in text


def test_a_checkpoint_that_tells_nothing_is_not_called_simulated(project):
    put_checkpoint(project)
    text = model_card(project)
    assert "nothing here tells" in text and "license: other" in text and "an unknown number of photographs" in text


def test_scores_of_these_very_bytes_are_shown_and_one_byte_takes_them_away(project):
    folder = put_checkpoint(project, {"source": ["simulated"], "pairs": 700, "kept": 650})
    lock_in(project, folder)
    text = model_card(project)
    assert "model-index:" in text and "There are none" not in text and "simulated** eyes only" in text and "license: apache-2.0" in text
    (folder / "transformer/config.json").write_text(json.dumps({"num_layers": 2, "hidden_size": 48, "sample_size": 16}))
    assert "There are none for this checkpoint" in model_card(project)


def test_names_from_outside_are_escaped(project):
    put_checkpoint(project, {"source": ["<img src=q onerror=alert(1)>\n---\nlicense: mit"]})
    text = model_card(project)
    assert "<img" not in text.partition("# RetinaLogos")[2] and "\n---\nlicense: mit" not in text.partition("# RetinaLogos")[2]


def test_the_card_of_another_data_set_has_no_scorecard(project):
    build_dataset(project / "data/dataset", low_resolution=32, high_resolution=64, seed=1, n_patients=10, render_size=64)
    text = dataset_card(project)
    assert "No results here are of this data set" in text and "| question" not in text


def test_the_hash_of_a_folder_is_dvcs(tmp_path):
    folder = tmp_path / "repo/data/some"
    (folder / "b/c").mkdir(parents=True)
    for name in ("b/c/x", "b.txt", "a"):
        (folder / name).write_text(name)
    for command in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"], [sys.executable, "-m", "dvc", "add", "-q", "data/some"]):
        subprocess.run(command, cwd=tmp_path / "repo", check=True, capture_output=True)
    assert YAML().load(tmp_path / "repo/data/some.dvc")["outs"][0]["md5"] == folder_hash(folder)
