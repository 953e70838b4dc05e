"""Every stage, end to end, small: simulated eyes through all stages, real photographs through training to samples."""
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from ruamel.yaml import YAML
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from retinalogos.analysis.downstream import external_set
from retinalogos.config import STAGES, overlay, read_yaml
from retinalogos.stage import StageFailed, run_stage
from retinalogos.training.trainer import read_state

ROOT = Path(__file__).parent.parent
REAL = ROOT.parent / "shared/realdata/odir_256"
TINY = {
    "base": {"low_resolution": 32, "high_resolution": 64},
    "dataset": {"n_patients": 70, "render_size": 64},
    "encoders": {"vae_steps": 3, "text_steps": 3, "clip_steps": 3, "text_dim": 32, "text_heads": 2, "clip_dim": 64, "clip_layers": 1},
    "pretrain": {"hidden_size": 64, "num_layers": 2, "num_heads": 2, "num_kv_heads": 1, "steps": 30, "checkpoint_every": 10},
    "finetune": {"steps": 40, "checkpoint_every": 5},
    "sample": {"n_images": 20, "n_balanced": 20, "n_per_disease": 2, "n_counterfactual": 2, "strip_seeds": 1, "num_inference_steps": 2},
    "readers": {"steps": 5}, "fidelity": {"bootstrap": 5}, "adherence": {"bootstrap": 5}, "memorisation": {"bootstrap": 5, "n_members": 10},
    "downstream": {"n_real": 20, "n_synthetic": 20, "doses": [10], "seeds": 2, "steps": 2}, "reader_study": {"n_images": 8},
    "ablation": {"steps": 4, "n_images": 10, "seeds": 2, "num_inference_steps": 2},
    "biomarkers": {"n_patients": 4, "steps": 3, "n_images": 10, "bootstrap": 5}, "fairness": {"bootstrap": 5, "smallest_group": 5, "steps": 3},
}


def make_project(folder, *overlays):
    shutil.copytree(ROOT / "nbs/stages", folder / "nbs/stages")
    content = read_yaml(ROOT / "params.yaml")
    for layer in (*overlays, TINY):
        overlay(content, layer)
    YAML().dump(content, folder / "params.yaml")
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    project = make_project(tmp_path_factory.mktemp("simulated"))
    for stage in STAGES:
        run_stage(stage, project)
    return project


def test_every_declared_output_is_written(finished):
    declared = YAML(typ="safe").load(ROOT / "dvc.yaml")
    outs = [next(iter(o)) if isinstance(o, dict) else o for stage in declared["stages"].values() for o in stage["outs"]]
    assert [o for o in [*outs, *declared["metrics"]] if not (finished / o).exists()] == []


def test_the_summary_has_the_promised_names(finished):
    summary = json.loads((finished / "data/results/summary.json").read_text())
    assert set(summary["adherence"]) == {"laterality_accuracy", "dr_spearman"}
    assert set(summary["fidelity"]["fid"]) == {"floor", "untrained", "pretrain", "finetune"}
    assert set(summary["purification"]) == {"precision", "recall"} and "nearest_ratio" in summary["memorisation"]
    for task in ("dr_grading", "glaucoma"):
        for condition in ("real_only", "real_plus_synthetic"):
            assert {"mean", "low", "high"} <= set(summary["downstream"][task][condition])
    assert set(summary["run"]) == {"seconds", "peak_memory_gb", "cores"}


def test_fidelity_has_every_metric_for_every_row_and_disease(finished):
    fidelity = json.loads((finished / "data/results/fidelity.json").read_text())
    for metric in ("kid", "precision", "recall", "density", "coverage", "cmmd", "fd_reader", "fd_clip", "clip_score"):
        assert set(fidelity[metric]) == {"floor", "untrained", "pretrain", "finetune"} and all(row["low"] is not None for row in fidelity[metric].values()), metric
    assert len(fidelity["per_disease"]) == 12 and all({"n", "kid", "coverage", "floor"} <= set(scores) for scores in fidelity["per_disease"].values())
    assert all(scores["kid"]["value"] is None for scores in fidelity["per_disease"].values() if min(scores["n"], scores["n_reference"]) < 8)
    behaviour = pd.read_csv(finished / "data/results/metric_behaviour.csv")
    assert {"none", "noise", "blur", "repetition"} <= set(behaviour.damage) and "inception_score" in set(behaviour.metric)
    assert behaviour[behaviour.value.isna()].metric.isin(["inception_score"]).all(), "which few photographs do not have"


def tiny_language_model(folder):
    """An untaught causal language model over whole words, saved as the hub would hold it."""
    words = Tokenizer(models.WordLevel({"[UNK]": 0, "[PAD]": 1, "yes": 2, "no": 3, "left": 4, "right": 5, "retinopathy": 6, "eye": 7}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]", pad_token="[PAD]").save_pretrained(folder)
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(vocab_size=8, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, pad_token_id=1,
                                 bos_token_id=None, eos_token_id=None)).save_pretrained(folder)
    return str(folder)


def test_a_language_model_judges_the_captions(finished, tmp_path):
    judge = {"llm": tiny_language_model(tmp_path / "judge"), "use_rule": False, "use_clip": False}
    project = make_project(tmp_path)
    for name in ("dataset", "captions", "encoders"):
        shutil.copytree(finished / "data" / name, project / "data" / name)

    def run(threshold):
        content = read_yaml(project / "params.yaml")
        overlay(content, {"purify": judge | {"llm_threshold": threshold}})
        YAML().dump(content, project / "params.yaml")
        run_stage("purify", project)
        journal = "".join(file.read_text() for file in sorted((project / "data/purify_journal").glob("*.jsonl")))
        return pd.read_parquet(project / "data/purified/scores.parquet"), journal

    everything, asked = run(0.0)
    assert everything.kept.all() and everything.llm_score.between(0, 1).all() and everything.llm_score.nunique() > 1
    threshold = float(everything.llm_score.median())
    some, asked_again = run(threshold)
    assert asked_again == asked and (some.llm_score == everything.llm_score).all(), "what is in the journal is not asked again"
    assert (some.kept == (some.llm_score >= threshold)).all() and 0 < some.kept.sum() < len(some)
    assert set(some.reason[~some.kept]) == {"the language model finds it false"}


def test_purification_drops_every_caption_found_false(finished):
    scores = pd.read_parquet(finished / "data/purified/scores.parquet")
    examination = pd.read_parquet(finished / "data/captions/examination.parquet").set_index("image_id")
    records = pd.read_parquet(finished / "data/dataset/records.parquet")
    assert set(scores.image_id) == set(records.image_id[records.split == "train"])
    assert not examination.faithful[scores.image_id[~examination.faithful[scores.image_id].to_numpy()]].any()
    assert not scores.kept[~examination.faithful[scores.image_id].to_numpy()].any() and scores.reason[~scores.kept].ne("").all()


def test_samples_keep_prompt_seed_and_target(finished):
    samples = pd.read_parquet(finished / "data/samples/samples.parquet")
    assert set(samples.checkpoint) == {"untrained", "pretrain", "finetune"}
    by_prompt = samples[samples.group == "test_prompts"].groupby(["prompt", "image_id"])
    assert by_prompt.size().eq(3).all() and by_prompt.seed.nunique().eq(1).all(), "each checkpoint gets the same prompts and seeds"
    assert set(samples.image_id[samples.group == "test_prompts"]).isdisjoint(
        pd.read_parquet(finished / "data/purified/scores.parquet").image_id), "no prompt comes from a training photograph"


def test_plain_diffusers_opens_the_checkpoints(finished):
    code = ("import sys\nfrom diffusers import DiffusionPipeline\n"
            "for checkpoint, side in (('pretrain', 32), ('finetune', 64)):\n"
            "    pipeline = DiffusionPipeline.from_pretrained(f'data/checkpoints/{checkpoint}')\n"
            "    image = pipeline('left eye, severe non-proliferative diabetic retinopathy', num_inference_steps=2).images[0]\n"
            "    assert image.size == (side, side), image.size\nassert not any(m.startswith('retinalogos') for m in sys.modules)")
    done = subprocess.run([sys.executable, "-c", code], cwd=finished, text=True, capture_output=True, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    assert done.returncode == 0, done.stderr[-2000:]


def weights(project, checkpoint="pretrain"):
    return (project / f"data/checkpoints/{checkpoint}/transformer/diffusion_pytorch_model.safetensors").read_bytes()


def start_stage(stage, project):
    return subprocess.Popen([sys.executable, "-m", "retinalogos.stage", stage], cwd=project, start_new_session=True, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=os.environ | {"PYTHONPATH": str(ROOT)})


def files(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


@pytest.mark.parametrize("stage, blow", [("pretrain", signal.SIGKILL), ("pretrain", signal.SIGINT), ("finetune", signal.SIGKILL)])
def test_a_stopped_training_goes_on_where_it_was(finished, tmp_path, stage, blow):
    project = tmp_path / "stopped"
    shutil.copytree(finished, project)
    checkpoint, state, latents = (project / "data" / name for name in (f"checkpoints/{stage}", f"run/{stage}.pt", "run/latents"))
    shutil.rmtree(checkpoint)
    encoded = {file: file.stat().st_ino for file in latents.rglob("*.safetensors")}
    process, deadline = start_stage(stage, project), time.monotonic() + 120
    while not state.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    os.killpg(process.pid, blow)
    process.communicate()
    assert state.exists() and not checkpoint.exists(), "killed before the first state or after the end"
    saved = read_state(state)["step"]
    process = start_stage(stage, project)
    printed, steps = process.communicate()[0], TINY[stage]["steps"]
    assert process.returncode == 0 and 0 < saved < steps and f"going on at step {saved} of {steps}" in printed, printed[-2000:]
    assert not state.exists() and not list(project.rglob(".part-*"))
    losses = pd.read_csv(checkpoint / "losses.csv")
    assert losses.step.tolist() == list(range(1, steps + 1))
    assert len(encoded) >= 6 and encoded == {file: file.stat().st_ino for file in encoded}, "latents are made once"
    assert files(checkpoint) == files(finished / "data/checkpoints" / stage)


def test_the_same_bytes_from_an_empty_cache(finished, tmp_path):
    project = tmp_path / "empty"
    shutil.copytree(finished, project)
    for folder in ("checkpoints/pretrain", "run/latents"):
        shutil.rmtree(project / "data" / folder)
    run_stage("pretrain", project)
    assert files(project / "data/checkpoints/pretrain") == files(finished / "data/checkpoints/pretrain")


def test_the_same_data_have_one_name_in_every_process(finished):
    code = ("from retinalogos.training.encoders import load_encoders\nfrom retinalogos.training.trainer import load_pairs\n"
            "print(load_pairs('data', 'train', 'low', load_encoders('data/encoders'), progress=False).fingerprint())")
    names = {subprocess.run([sys.executable, "-c", code], cwd=finished, text=True, capture_output=True, check=True,
                            env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": str(k)}).stdout for k in range(3)}
    assert len(names) == 1 and names.pop().strip()


def test_nothing_left_by_purification_is_told(finished, tmp_path):
    project = tmp_path / "nothing"
    shutil.copytree(finished, project)
    scores = project / "data/purified/scores.parquet"
    pd.read_parquet(scores).assign(kept=False).to_parquet(scores)
    before = weights(project, "finetune")
    with pytest.raises(StageFailed, match="purification kept none of .* pairs: lower purify.rule_threshold or purify.clip_quantile"):
        run_stage("finetune", project)
    assert weights(project, "finetune") == before


@pytest.mark.skipif(not REAL.is_dir(), reason="no real photographs on this machine")
def test_real_photographs_run_from_dataset_to_sample(tmp_path, monkeypatch):
    monkeypatch.setenv("RETINALOGOS_DATA_ODIR", str(REAL))
    project = make_project(tmp_path / "real", read_yaml(ROOT / "presets/odir.yaml"), {"dataset": {"max_images": 80}})
    for stage in STAGES[:STAGES.index("sample") + 1]:
        run_stage(stage, project)
    assert json.loads((project / "data/results/purification.json").read_text())["source"] == ["odir"]
    samples = pd.read_parquet(project / "data/samples/samples.parquet")
    assert (samples.checkpoint == "finetune").sum() > 20
    records = pd.read_parquet(project / "data/dataset/records.parquet")
    assert set(records.source) == {"odir"}
    name, photographs, labels, patients = external_set(project / "data/dataset", ["simulated"], 0, seed=0, size=48)
    assert name == "odir" and photographs.shape == (len(records), 48, 48, 3) and set(patients) == set(records.patient_id)
    assert labels.index.is_unique and (labels.dr_grade >= 0).any() and (labels.glaucoma >= 0).any()
