"""A card tells only what lies there."""
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from ruamel.yaml import YAML

from retinalogos.cards import dataset_card, folder_hash, model_card
from retinalogos.config import UserError
from retinalogos.data.dataset import build_dataset
from retinalogos.data.dataset import dataset_card as card_of_tables
from retinalogos.data.named_sets import DESCRIPTIONS
from retinalogos.data.records import RECORD_KEYS
from retinalogos.data.sources import FolderSource
from retinalogos.training.sample import training_facts

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


def lock_in(project, path, md5, kinds=("outs", "deps"), stages=None):
    """Say in dvc.lock that `path` had this hash when it was made and when it was used."""
    lock = YAML().load(project / "dvc.lock")
    entries = [entry for name, stage in lock["stages"].items() for kind in kinds for entry in stage[kind] if stages is None or name in stages]
    for entry in entries:
        if entry["path"] == path:
            entry["md5"] = md5
    YAML().dump(lock, project / "dvc.lock")


FINETUNE = "data/checkpoints/finetune"


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
    lock_in(project, FINETUNE, folder_hash(folder))
    text = model_card(project)
    assert "model-index:" in text and "There are none" not in text and "simulated** eyes only" in text and "license: apache-2.0" in text
    (folder / "transformer/config.json").write_text(json.dumps({"num_layers": 2, "hidden_size": 48, "sample_size": 16}))
    assert "There are none for this checkpoint" in model_card(project)


def test_of_a_run_that_was_not_finished_no_scores_are_shown(project):
    """Trained anew and sampled, and then ended: the results are still those of the checkpoint before."""
    folder = put_checkpoint(project, {"source": ["simulated"], "pairs": 700, "kept": 650})
    lock_in(project, FINETUNE, folder_hash(folder))
    assert "model-index:" in model_card(project)
    lock_in(project, "data/samples", "0" * 32 + ".dir", ["outs"])
    text = model_card(project)
    assert "There are none for this checkpoint" in text and "model-index" not in text


@pytest.mark.parametrize("name", ["headline.csv", "report.json", "fidelity.json", "purification.json"])
def test_results_that_another_run_wrote_are_not_shown(project, name):
    folder = put_checkpoint(project, {"source": ["simulated"], "pairs": 700, "kept": 650})
    lock_in(project, FINETUNE, folder_hash(folder))
    with (project / "data/results" / name).open("a") as file:
        file.write("\n")
    assert "There are none for this checkpoint" in model_card(project)
    shutil.rmtree(folder)
    with pytest.raises(UserError, match="there is nothing to tell of"):
        model_card(project)


def test_a_checkpoint_of_the_run_on_record_that_tells_nothing_is_known_by_its_hash(project):
    lock_in(project, FINETUNE, folder_hash(put_checkpoint(project)))
    text = model_card(project)
    assert "simulated** eyes only" in text and "license: apache-2.0" in text and "model-index:" in text


def test_the_terms_of_a_public_set_are_named(project):
    put_checkpoint(project, {"source": ["odir"], "pairs": 7, "kept": 6})
    assert f"odir ({DESCRIPTIONS['odir'].licence})" in model_card(project)


DAMAGED = {
    "training cut": ("training.json", '{"source": ["simu'), "training a list": ("training.json", "[1]"),
    "training in brackets": ("training.json", "[" * 100_000), "sources a word": ("training.json", '{"source": "simulated"}'),
    "pairs a word": ("training.json", '{"source": ["simulated"], "pairs": "many"}'),
    "no shape": ("transformer/config.json", None), "shape cut": ("transformer/config.json", "{"),
    "shape null": ("transformer/config.json", "null"), "a width in words": ("transformer/config.json", '{"num_layers": 2, "hidden_size": "x", "sample_size": 8}'),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_checkpoint_is_one_line(project, name):
    file, content = DAMAGED[name]
    folder = put_checkpoint(project, {"source": ["simulated"], "pairs": 700, "kept": 650})
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_text(content)
    with pytest.raises(UserError) as caught:
        model_card(project)
    assert file in str(caught.value) and len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("content", ["", "stages: []\n", "stages:\n  a: {cmd: x, outs: [b]}\n", "[" * 1000])
def test_a_damaged_lock_is_one_line(project, content):
    (project / "dvc.lock").write_text(content)
    with pytest.raises(UserError, match="dvc.lock"):
        model_card(project)


def first_step(folder, *sources):
    """A data set of photographs of one's own, and a checkpoint of step 1 that has seen `sources`; none of it where there are none."""
    (folder / "dataset").mkdir()
    pd.DataFrame({"source": ["my_clinic"] * 3, "split": ["train", "train", "test"]}).to_parquet(folder / "dataset/records.parquet")
    (folder / "checkpoints/pretrain").mkdir(parents=True)
    if sources:
        (folder / "checkpoints/pretrain/training.json").write_text(json.dumps({"source": sources, "pairs": 9}))
    return training_facts(1, folder)


def test_what_step_1_has_seen_counts_for_the_last_step(tmp_path):
    facts = first_step(tmp_path, "odir")
    assert facts["source"] == ["my_clinic", "odir"] and facts["pairs"] == 2 and facts["kept"] == 1
    assert training_facts(data=tmp_path)["source"] == ["my_clinic"]


def test_of_a_first_step_that_tells_nothing_nothing_is_claimed(tmp_path):
    assert first_step(tmp_path) == {}


@pytest.mark.parametrize("name", ["simulated", " Simulated "])
def test_photographs_cannot_be_called_simulated(tmp_path, name):
    (tmp_path / "images").mkdir()
    with pytest.raises(UserError, match="what simulated eyes are called"):
        FolderSource(tmp_path, name=name)


@pytest.mark.parametrize("text", ["<img src=q onerror=alert(1)>", "a\n<script>", "a\x1b[2J", "a\u202eb", "[x](javascript:alert(1))", "a|b", "`<b>`"])
def test_a_name_does_nothing_in_the_card_of_a_data_set(text):
    rows = [{"image_id": f"{k}", "patient_id": f"p{k}", "split": "train", "source": text} | dict.fromkeys(RECORD_KEYS) for k in range(3)]
    rejects = pd.DataFrame({"file": ["a"], "reason": [f"unknown eye side {text}"]})
    card = card_of_tables(pd.DataFrame(rows), rejects)
    assert not re.search(r"<[a-z]|\x1b|\u202e|(?<!\\)\[x", card) and len(re.findall("(?m)^---$", card)) == 2


def test_names_from_outside_are_escaped(project):
    put_checkpoint(project, {"source": ["<img src=q onerror=alert(1)>\n---\nlicense: mit"], "pairs": 7, "kept": 6})
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
