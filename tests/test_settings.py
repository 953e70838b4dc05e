"""params.yaml and settings: what can never make sense is refused at once, and named."""
import shutil
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from retinalogos.config import UserError, load_params, read_yaml, settings

ROOT = Path(__file__).parent.parent
NEVER = [
    ("sample.guidance_scale", float("inf")), ("sample.guidance_scale", float("nan")), ("sample.guidance_scale", 1e30), ("sample.guidance_scale", 0.5),
    ("sample.guidance_interval", [1.0, 0.0]), ("sample.guidance_interval", [float("nan")] * 2), ("sample.guidance_interval", [-5, 7]), ("sample.guidance_interval", [0.5, 0.5]),
    ("pretrain.lr", float("inf")), ("pretrain.lr", 0), ("pretrain.lr", -1e-3), ("pretrain.lr", 10), ("pretrain.time_shift", float("inf")),
    ("pretrain.hidden_size", 130), ("pretrain.hidden_size", 132), ("pretrain.num_kv_heads", 3), ("pretrain.patch_size", 3), ("pretrain.steps", 10 ** 30),
    ("pretrain.weight_decay", float("nan")), ("pretrain.ema_decay", 1), ("pretrain.clip_norm", float("inf")), ("pretrain.micro_batch_size", 0),
    ("base.low_resolution", 7), ("base.low_resolution", 100), ("base.low_resolution", 8), ("base.low_resolution", 256), ("base.high_resolution", 130),
    ("base.seed", 10 ** 30), ("base.seed", True), ("base.seed", -1), ("base.seed", 1.5), ("dataset.n_patients", True), ("dataset.n_patients", 0),
    ("dataset.render_size", 64), ("dataset.val_fraction", 0.9), ("dataset.test_fraction", float("nan")), ("dataset.source", "odri"),
    ("encoders.text_dim", 130), ("encoders.clip_dim", 40), ("encoders.latent_channels", 500), ("encoders.vocab_size", 3), ("encoders.max_tokens", 1),
    ("downstream.n_synthetic", 10 ** 6), ("downstream.doses", [10 ** 6]), ("fidelity.bootstrap", 1), ("captions.temperature", float("inf")),
    ("purify.clip_quantile", 1), ("captions.max_tokens", 0), ("finetune.caption_dropout", 1.1), ("reader_study.n_images", "many"),
]


def with_value(folder, key, value):
    content = read_yaml(ROOT / "params.yaml")
    section, name = key.split(".")
    content[section][name] = value
    with open(folder / "params.yaml", "w") as file:
        YAML().dump(content, file)
    return folder / "params.yaml"


@pytest.mark.parametrize("key, value", NEVER, ids=lambda value: str(value)[:24])
def test_what_never_makes_sense_is_refused_by_name(tmp_path, key, value):
    with pytest.raises(UserError) as caught:
        load_params(with_value(tmp_path, key, value))
    said, (section, name) = str(caught.value), key.split(".")
    assert said.startswith("params.yaml: ") and name in said and "Traceback" not in said and len(said) < 400


@pytest.fixture()
def place(tmp_path, monkeypatch):
    shutil.copy(ROOT / "settings.ini", tmp_path)
    import os
    for name in list(os.environ):
        if name.startswith("RETINALOGOS_"):
            monkeypatch.delenv(name)
    return tmp_path


LOCAL = "[machine]\nworkers = 3\n[captions]\nkey = sk-SECRET\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_settings_are_read_in_every_usual_encoding(place, encoding):
    (place / "settings.local.ini").write_bytes(LOCAL.encode(encoding))
    assert settings(place).workers == 3 and settings(place).caption_key == "sk-SECRET" and "SECRET" not in repr(settings(place))


@pytest.mark.parametrize("content, said", [
    ("[data]\nodir = /Fotos/Zürich\n".encode("latin-1"), "settings.local.ini: not text in UTF-8"), (b"\xff\xfe\x00", "settings.local.ini"),
    (b"[captions]\nkey sk-SECRET\n", "settings.local.ini, line 2"), (b"key = sk-SECRET\n", "settings.local.ini, line 1"),
    (b"[captions]\nkey = sk-SECRET\nkey = sk-SECRET\n", "line 3: a name is there twice"), (b"[captions\nkey = sk-SECRET\n", "line 1"),
    (b"[DEFAULT]\nkey = sk-SECRET\n", r"\[DEFAULT\]"), (b"[caption]\nkey = sk-SECRET\n", "did you mean 'captions'"),
    (b"[captions]\nkeys = sk-SECRET\n", "did you mean 'key'"), (b"[data]\nodri = /x\n", "did you mean 'odir'"),
    (b"[machine]\nworkers = 1000000000\n", "workers"), (b"[machine]\ndevice = banana\n", "device"), (b"[machine]\nworkers = -1\n", "workers"),
    (b"[captions]\ntimeout = inf\n", "caption_timeout"), (b"[captions]\nprompt_price = nan\n", "caption_prompt_price"),
    (b"[captions]\nconcurrency = 100000000\n", "caption_concurrency"), (b"[captions]\nkey sk-SECRET==\n", "unknown name"),
    (b"[captions]\nkey sk-SECRET:abc\n", "unknown name"), (b"[sk-SECRET]\nx = 1\n", "unknown section name"), (b"[captions]\nconcurrency = sk-SECRET\n", "caption_concurrency"),
    (b"[data]\nodir = ~nobody9/x\n", "odir"), (b"[data]\nodir = a\0b\n", "odir"), (b"[machine]\ndevice = cuda:999999999999\n", "device")])
def test_a_fault_in_settings_names_the_file_and_never_the_key(place, content, said):
    (place / "settings.local.ini").write_bytes(content)
    with pytest.raises(UserError, match=said) as caught:
        settings(place)
    assert "secret" not in str(caught.value).lower() and len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("name, near", [("RETINALOGOS_CAPTION_SERVER", "RETINALOGOS_CAPTIONS_SERVER"), ("RETINALOGOS_DEVICE", "RETINALOGOS_MACHINE_DEVICE"),
                                        ("RETINALOGOS_DATA_ODRI", "RETINALOGOS_DATA_ODIR"), ("RETINALOGOS_CAPTIONS_SERVR", "RETINALOGOS_CAPTIONS_SERVER"),
                                        ("RETINALOGOS_MACHINE_WORKER", "RETINALOGOS_MACHINE_WORKERS")])
def test_a_misspelt_name_in_the_environment_is_told(place, monkeypatch, name, near):
    monkeypatch.setenv(name, "x")
    with pytest.raises(UserError, match=f"nothing reads {name}; did you mean '{near}'"):
        settings(place)
