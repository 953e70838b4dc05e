"""params.yaml, presets and settings.ini as they stand in the repository."""
import configparser
import re
from pathlib import Path

import pytest

from retinalogos.config import (SETTING_NAMES, UserError, apply_preset, check_params, load_params, overlay, presets, read_yaml, settings,
                                with_preset)

ROOT = Path(__file__).parent.parent


def project(folder, **changed):
    """A copy of params.yaml and the presets in `folder`, lines of params.yaml changed: pattern -> replacement."""
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    for pattern, new in changed.get("params", {}).items():
        text, n = re.subn(pattern, new, text, count=1, flags=re.M)
        assert n == 1, pattern
    (folder / "params.yaml").write_text(text, encoding="utf-8")
    (folder / "presets").mkdir(exist_ok=True)
    for file in presets(ROOT).values():
        (folder / "presets" / file.name).write_text(file.read_text(encoding="utf-8"), encoding="utf-8")
    return folder


def test_params_are_valid():
    assert load_params(ROOT / "params.yaml").base.high_resolution > load_params(ROOT / "params.yaml").base.low_resolution


@pytest.mark.parametrize("pattern, new, said", [
    (r"^  guidance_scale:", "  guidance_scal:", "section 'sample': unknown key 'guidance_scal'; did you mean 'guidance_scale'?"),
    (r"^  strip_seeds:.*\n", "", "section 'sample': missing key 'strip_seeds'"),
    (r"^purify:", "purfy:", "unknown section 'purfy'; did you mean 'purify'?"),
    (r"^  error_fraction: .*$", "  error_fraction: 1.5", "key 'error_fraction': input should be less than or equal to 1, got 1.5"),
    (r"^  seed: \d+", "  seed: 1\n  seed: 2", 'found duplicate key "seed"'),
    (r"^  seed: \d+", "  seed: [1", "not valid YAML"),
])
def test_a_fault_in_params_is_named(tmp_path, pattern, new, said):
    with pytest.raises(UserError) as caught:
        load_params(project(tmp_path, params={pattern: new}) / "params.yaml")
    assert said in str(caught.value) and "params.yaml" in str(caught.value)


@pytest.mark.parametrize("name", presets(ROOT))
def test_presets_are_valid_and_say_what_they_are(name):
    content, params = with_preset(name, ROOT / "params.yaml")
    assert params != load_params(ROOT / "params.yaml")
    assert presets(ROOT)[name].read_text(encoding="utf-8").startswith("# ")


@pytest.mark.parametrize("name, at_least, at_most", [("odir", 5e5, 1e7), ("gpu", 1e7, 2e8), ("paper", 1.5e9, 2e9)])
def test_the_generator_of_a_preset_can_be_built(name, at_least, at_most):
    import torch
    from retinalogos.training.trainer import build_transformer
    params = with_preset(name, ROOT / "params.yaml")[1]
    shape = {k: getattr(params.pretrain, k) for k in ("hidden_size", "num_layers", "num_heads", "num_kv_heads", "patch_size", "architecture")}
    with torch.device("meta"):  # shapes without memory
        transformer = build_transformer(params.encoders.latent_channels, params.encoders.text_dim, params.base.high_resolution, **shape)
    assert at_least < sum(p.numel() for p in transformer.parameters()) < at_most
    assert transformer.config.hidden_size == params.pretrain.hidden_size


def test_the_presets_that_the_design_names_exist():
    assert {"odir", "gpu", "paper"} <= set(presets(ROOT))


def test_a_misspelt_key_in_a_preset_is_named_and_nothing_is_written(tmp_path, monkeypatch):
    folder = project(tmp_path)
    (folder / "presets/mine.yaml").write_text("# mine\npretrain:\n  stepps: 3\n", encoding="utf-8")
    monkeypatch.chdir(folder)
    before = (folder / "params.yaml").read_bytes()
    with pytest.raises(UserError, match="presets/mine.yaml over params.yaml: section 'pretrain': unknown key 'stepps'; did you mean 'steps'"):
        apply_preset("mine")
    assert (folder / "params.yaml").read_bytes() == before
    assert {f.name for f in folder.iterdir()} == {"params.yaml", "presets"}


def test_applying_a_preset_keeps_comments_and_changes_only_its_keys(tmp_path, monkeypatch):
    folder = project(tmp_path)
    monkeypatch.chdir(folder)
    expected = check_params(overlay(read_yaml(ROOT / "params.yaml"), read_yaml(ROOT / "presets/odir.yaml")))
    assert apply_preset("odir") == load_params() == expected
    comments = re.findall(r"#.*", (ROOT / "params.yaml").read_text(encoding="utf-8"))
    assert re.findall(r"#.*", (folder / "params.yaml").read_text(encoding="utf-8")) == comments


def test_dvc_reads_the_same_values():
    from dvc.utils.serialize import load_yaml
    assert check_params(load_yaml(str(ROOT / "params.yaml"))) == load_params(ROOT / "params.yaml")


def test_experiment_and_machine_share_no_key():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "settings.ini", encoding="utf-8")
    assert set(parser.sections()) <= set(SETTING_NAMES)
    machine = {key for section in parser.sections() if section != "data" for key in parser[section]}
    experiment = {key for section in load_params(ROOT / "params.yaml").model_dump().values() for key in section}
    assert not machine & experiment


def test_settings_of_the_repository_name_no_machine(monkeypatch, tmp_path):
    (tmp_path / "settings.ini").write_text((ROOT / "settings.ini").read_text(encoding="utf-8"), encoding="utf-8")
    for name in [n for n in __import__("os").environ if n.startswith("RETINALOGOS_")]:
        monkeypatch.delenv(name)
    assert settings(tmp_path).data_roots == {} and settings(tmp_path).device == "auto" and settings(tmp_path).caption_server == ""
