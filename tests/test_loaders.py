"""Models of strangers: code that lies beside weights is never run, and nobody is asked whether it should be."""
import ast
import builtins
import json
from pathlib import Path

import pytest

from retinalogos.analysis.downstream import named_classifier
from retinalogos.analysis.features import transformers_extractor
from retinalogos.captions.backends import load_language_model, load_vlm
from retinalogos.config import UserError
from retinalogos.training.encoders import load_autoencoder, load_clip, load_text_encoder, open_tokenizer
from retinalogos.training.sample import load_checkpoint
from retinalogos.training.trainer import load_transformer

PACKAGE = Path(__file__).parent.parent / "retinalogos"
CLASSES = ("AutoConfig", "AutoModel", "AutoTokenizer", "AutoProcessor", "AutoModelForCausalLM", "AutoModelForImageTextToText",
           "AutoModelForImageClassification", "AutoImageProcessor")


@pytest.fixture()
def stranger(tmp_path, monkeypatch):
    """A folder whose every part names code of its own; the code would leave the file `ran`. Whoever is asked says yes."""
    code = f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Stranger:\n    pass\n"
    own = {"auto_map": {name: "stranger.Stranger" for name in CLASSES}, "model_type": "stranger", "architectures": ["Stranger"]}
    for folder in (tmp_path / "model", *(tmp_path / "model" / name for name in ("text_encoder", "tokenizer", "vae", "transformer", "scheduler"))):
        folder.mkdir()
        (folder / "stranger.py").write_text(code)
        for name in ("config.json", "tokenizer_config.json", "preprocessor_config.json", "processor_config.json", "model_index.json"):
            (folder / name).write_text(json.dumps(own))
        (folder / "scheduler_config.json").write_text(json.dumps({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 1.0}))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(builtins, "input", lambda *asked: (tmp_path / "asked").touch() or "y")
    return tmp_path / "model"


LOADERS = {
    "text encoder": load_text_encoder, "clip": load_clip, "autoencoder": load_autoencoder, "tokenizer": open_tokenizer,
    "generator": load_transformer, "checkpoint": load_checkpoint, "features": transformers_extractor,
    "resnet": lambda name: named_classifier("resnet", name, 2), "vit": lambda name: named_classifier("vit", name, 2),
    "captions": lambda name: load_vlm(name, None, "cpu"), "facts": lambda name: load_language_model(name, "cpu", "purify.llm"),
}


@pytest.mark.parametrize("what", LOADERS)
def test_code_beside_weights_is_never_run(stranger, what):
    with pytest.raises(UserError) as caught:
        LOADERS[what](str(stranger))
    left = {file.name for file in stranger.parent.iterdir()}
    assert left == {"model"} and len(str(caught.value).splitlines()) == 1


def loads(tree):
    """The calls of `from_pretrained` on a class that may run code of its own."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "from_pretrained":
            name = node.func.value.id if isinstance(node.func.value, ast.Name) else ""
            if name.startswith("Auto") and not name.startswith("Autoencoder"):
                yield node


def test_every_loader_says_so():
    seen = 0
    for file in PACKAGE.rglob("*.py"):
        for call in loads(ast.parse(file.read_text(encoding="utf-8"))):
            seen += 1
            named = {key.arg: key.value for key in call.keywords}
            assert None in named or isinstance(named.get("trust_remote_code"), ast.Constant) and named["trust_remote_code"].value is False, \
                f"{file.name}:{call.lineno}"
    assert seen >= 5
