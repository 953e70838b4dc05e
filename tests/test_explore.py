"""The notebooks for JupyterLab: each runs top to bottom, moving a control changes the picture, and a fresh clone gets a sentence."""
import ast
import base64
import io
import shutil
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import torch
from nbformat.v4 import new_code_cell
from PIL import Image

from retinalogos.analysis.reader_pack import make_key
from retinalogos.analysis.reader_study import ANSWER_COLUMNS, simulated_answers
from retinalogos.captions.examine import examine_table
from retinalogos.captions.template import caption_table
from retinalogos.config import load_params, write_json, write_table
from retinalogos.data.dataset import build_dataset, load_findings, load_records
from retinalogos.stage import execute, notebook_source
from retinalogos.training.encoders import build_autoencoder, build_language_model, train_tokenizer
from retinalogos.training.sample import save_checkpoint
from retinalogos.training.trainer import build_transformer
from screenshots import digest
from test_pipeline import make_project

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "nbs/explore").glob("*.ipynb"))

CHECKS = {  # what a person would do with the form, and what must come of it
    "00_browse": """
assert bytes(picture.value).startswith(b"\\x89PNG") and number.max == len(eyes) == 40 and eyes.image_id[0] in page.value and "no exact masks" not in page.value
before, number.value = picture.value, 2
assert picture.value != before and eyes.image_id[1] in page.value
caption.value = "not faithful"
assert 0 < number.max == (~eyes.faithful).sum() and "<mark>" in page.value
disease.value, caption.value = "glaucoma", "any"
assert 0 < number.max == eyes.diseases.map(lambda names: "glaucoma" in names).sum() < 40
params = params.model_copy(update={"base": params.base.model_copy(update={"seed": 1})})  # as if the simulator had changed since
show()
assert "no exact masks" in page.value
eyes = eyes[:0]
show()
assert picture.value == b"" and page.value == "No such eye."
""",
    "01_simulator": """
seen = {picture.value}
for name, value in {"seed": 8, "eye": "OS", "dr_grade": 1, "glaucoma": True, "quality": "usable", "field": "disc_centred", "pigmentation": .9,
                    "cup_to_disc_ratio": .8, "disc_radius": .06, "camera": 4}.items():
    controls[name].value = value
    assert bytes(picture.value).startswith(b"\\x89PNG") and picture.value not in seen, name
    seen.add(picture.value)
assert (controls["cup_to_disc_ratio"].min, controls["cup_to_disc_ratio"].max) == (.66, .88)
before, controls["other"].value = picture.value, "cataract"
assert picture.value == before and "Not drawn" in page.value and "DR grade to 0" in page.value
controls["dr_grade"].value = 0
assert picture.value != before and "cataract" in page.value and "Not drawn" not in page.value
""",
    "02_prompt": """
assert list(pipelines) == ["pretrain", "finetune"] and bytes(picture.value).startswith(b"\\x89PNG")
seen = {picture.value}
for control, value in ((seed, 2), (changed, "left eye, glaucoma"), (prompt, "right eye, glaucoma"), (guidance, 4.), (steps, 3), (checkpoints, ("finetune",))):
    control.value = value
    assert picture.value not in seen, control.description
    seen.add(picture.value)
assert words.value == "<b>right</b> became <b>left</b>"
checkpoints.value = ()
assert picture.value == b""
""",
    "03_reader_study": """
assert bytes(picture.value).startswith(b"\\x89PNG") and "simulated readers" in title.value and "pooled" in table.value
seen = {picture.value}
for choice in (*MEASURES, "ratings"):
    shown.value = choice
    assert picture.value not in seen, choice
    seen.add(picture.value)
key.value = "pack/key.json"
assert "Nothing to show" in title.value and picture.value == b""
answers.value = "pack/answers-*.json"
assert title.value == "<b>2 readers, 20 photographs</b>" and table.value.count("simulated") == 2
shown.value = "study"
assert bytes(picture.value).startswith(b"\\x89PNG") and picture.value not in seen
""",
}


def save_tiny(folder, side):
    """A checkpoint that has learnt nothing, with weights that let prompt and seed through."""
    torch.manual_seed(side)
    tokenizer = train_tokenizer(["left eye, no diabetic retinopathy", "right eye, glaucoma"] * 4, vocab_size=60)
    transformer = build_transformer(16, 32, side, hidden_size=32, num_layers=2, num_heads=2, num_kv_heads=1)
    with torch.no_grad():
        for weight in transformer.parameters():
            weight.add_(0.2 * torch.randn_like(weight))
    text_encoder = build_language_model(tokenizer, dim=32, layers=2, heads=2).model.eval()
    save_checkpoint(folder, transformer, (build_autoencoder(decoder_channels=(16, 16, 64, 64)).eval(), tokenizer, text_encoder))


def save_pack(folder):
    """A key and the answers of two simulated readers."""
    key = make_key(*(pd.DataFrame({"origin": [f"{kind} {k}" for k in range(10)], "condition": "normal"}) for kind in ("real", "synthetic")), seed=1)
    write_json(folder / "key.json", key)
    for reader, rows in simulated_answers(key, [0, 2]).groupby("reader"):
        answers = [{"item": row["item"], "judged": row["judged"], "confidence": row["confidence"], "ratings": {a: row[a] for a in ANSWER_COLUMNS[4:]}}
                   for row in rows.to_dict("records")]
        write_json(folder / f"answers-{reader[-1]}.json", {"study": key["study"], "reader": reader, "answers": answers})


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """What the notebooks look for, as small as it can be: the pipeline's tables and folders, without running its stages."""
    folder = make_project(tmp_path_factory.mktemp("explore"))
    params, data = load_params(folder / "params.yaml"), folder / "data"
    build_dataset(data / "dataset", low_resolution=params.base.low_resolution, high_resolution=params.base.high_resolution, seed=params.base.seed,
                  n_patients=20, render_size=params.dataset.render_size, cameras=params.dataset.cameras)
    records, findings = load_records(data / "dataset"), load_findings(data / "dataset")
    captions = caption_table(records, findings, params.base.seed, error_fraction=0.4)
    write_table(data / "captions/captions.parquet", captions)
    write_table(data / "captions/examination.parquet", examine_table(captions, records, findings))
    for name, side in (("pretrain", params.base.low_resolution), ("finetune", params.base.high_resolution)):
        save_tiny(data / "checkpoints" / name, side)
    (data / "results").mkdir()
    for name in ("reader_study.json", "reader_study.png"):
        shutil.copy(ROOT / "data/results" / name, data / "results")
    save_pack(folder / "pack")
    return folder


def name(path):
    return path.stem


def test_every_notebook_is_checked():
    assert set(CHECKS) == {notebook.stem for notebook in NOTEBOOKS}


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=name)
def test_a_fresh_clone_is_told_what_to_do(notebook, tmp_path, monkeypatch, capsys):
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(notebook_source(notebook), names)
    if notebook.stem == "01_simulator":
        assert bytes(names["picture"].value).startswith(b"\x89PNG")
    else:
        assert names["picture"].value == b""
        said = names["title"].value if "title" in names else capsys.readouterr().out
        assert "Nothing to show" in said and ("make repro" in said or "reader_study.json: no such file" in said)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=name)
def test_it_runs_and_its_controls_change_the_picture(notebook, project, tmp_path):
    content = nbformat.read(notebook, as_version=4)
    content.cells.append(new_code_cell(CHECKS[notebook.stem]))
    nbformat.write(content, tmp_path / notebook.name)
    execute(tmp_path / notebook.name, tmp_path / "executed.ipynb", {}, project)
    executed = nbformat.read(tmp_path / "executed.ipynb", as_version=4)
    assert any("application/vnd.jupyter.widget-view+json" in output.get("data", {}) for cell in executed.cells for output in cell.get("outputs", []))


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=name)
def test_it_defines_nothing_but_callbacks(notebook):
    nodes = list(ast.walk(ast.parse(notebook_source(notebook))))
    callbacks = {node.args[0].id for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "observe"}
    assert {node.name for node in nodes if isinstance(node, (ast.FunctionDef, ast.ClassDef))} == callbacks


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=name)
def test_its_page_shows_a_light_picture_of_the_form(notebook):
    outputs = [o for cell in nbformat.read(notebook, as_version=4).cells for o in cell.get("outputs", [])]
    pictures = [base64.b64decode(o.data["image/jpeg"]) for o in outputs if "image/jpeg" in o.get("data", {})]
    assert len(pictures) == len(outputs) == 1 and len(pictures[0]) < 61_000, "stored by python tests/screenshots.py"
    assert Image.open(io.BytesIO(pictures[0])).info.get("comment") == digest(notebook), "the form has changed since: run python tests/screenshots.py"
