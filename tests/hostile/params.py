"""params.yaml: every key with values that never make sense, keys that contradict each other, and files that are no YAML."""
import copy
import math
from pathlib import Path

from hostile import Case, Either, Says
from retinalogos.config import Params, check_params, load_params, overlay, read_yaml, stage_parameters

ROOT = Path(__file__).resolve().parents[2]
GOOD = read_yaml(ROOT / "params.yaml")
ZERO_IS_FINE = {"seed", "val_fraction", "test_fraction", "error_fraction", "temperature", "warmup_steps", "ema_decay", "caption_dropout", "weight_decay", "rule_threshold", "clip_quantile", "llm_threshold",
                "preview_prompts", "least_quality", "min_quality", "lowest_quality", "quality_threshold"}
NEVER_A_NUMBER = (math.inf, -math.inf, math.nan, -1, -0.5, "abc", [], {}, [1], True)
NEVER_A_WORD = (5, 1.5, True, [], {}, ["x"])
NEVER_A_FLAG = ("maybe", 2, -1, 0.5, [], {}, math.nan, None)


def changed(section, **keys):
    """The function of a case: params.yaml with these keys of a section."""
    return lambda folder: check_params(overlay(copy.deepcopy(GOOD), {section: keys}))


def kind_of(section, key):
    """What type a key of params.yaml has by its declaration: its schema of JSON, without null."""
    model = Params.model_fields[section].annotation
    schema = model.model_json_schema()["properties"][key]
    kinds = [one for one in schema.get("anyOf", [schema]) if one.get("type") != "null"]
    return kinds[0], len(kinds) < len(schema.get("anyOf", [schema]))


def keys(rng, each=4):
    """Every key, with `each` values drawn from those of another type, not finite, negative, zero, huge and null."""
    for section in Params.model_fields:
        for key in Params.model_fields[section].annotation.model_fields:
            schema, nullable = kind_of(section, key)
            kind = schema.get("type")
            wrong = {"integer": (*NEVER_A_NUMBER, 1.5, 10**30), "number": NEVER_A_NUMBER, "string": NEVER_A_WORD, "boolean": NEVER_A_FLAG}.get(kind, (5, "abc", True))
            if kind in ("integer", "number") and key not in ZERO_IS_FINE:
                wrong = (*wrong, 0)
            if kind == "string" and "enum" in schema:
                wrong = ("nonsense", "", *wrong)
            if not nullable and kind != "boolean":
                wrong = (*wrong, None)
            yield from ((section, key, one) for one in rng.sample(wrong, min(each, len(wrong))))


PAIRS = {  # (section, keys) -> what the line must name
    "low above high": ("base", {"low_resolution": 256, "high_resolution": 128}, "resolution"),
    "64 pixels a side of 10^7": ("base", {"high_resolution": 10**7}, "high_resolution"), "low of 10^7": ("base", {"low_resolution": 10**7}, "resolution"),
    "3 pixels a side": ("base", {"low_resolution": 3}, "low_resolution"), "65 pixels a side": ("base", {"low_resolution": 65}, "low_resolution"),
    "a seed of 2^64": ("base", {"seed": 2**64}, "seed"),
    "nothing left to train on": ("dataset", {"val_fraction": 0.5, "test_fraction": 0.5}, "val_fraction|test_fraction"),
    "more than all": ("dataset", {"val_fraction": 0.7, "test_fraction": 0.6}, "val_fraction|test_fraction"),
    "render smaller than high": ("dataset", {"render_size": 64}, "render_size"), "simulated and real": ("dataset", {"source": "simulated+odir"}, "simulated"),
    "a source twice": ("dataset", {"source": "odir+odir"}, "source"), "an empty source": ("dataset", {"source": ""}, "source"), "plus at the end": ("dataset", {"source": "odir+"}, "source"),
    "a pattern that is none": ("dataset", {"name_pattern": "(?P<patient>"}, "name_pattern"), "a pattern of other groups": ("dataset", {"name_pattern": r"(?P<Patient>\d+)"}, "name_pattern"),
    "columns unknown": ("dataset", {"columns": {"colour": "red"}}, "colo"), "columns of numbers": ("dataset", {"columns": {"eye": 5}}, "columns"), "one image": ("dataset", {"max_images": 0}, "max_images"),
    "heads do not divide the width": ("pretrain", {"hidden_size": 128, "num_heads": 5}, "num_heads"), "key heads do not divide heads": ("pretrain", {"num_heads": 4, "num_kv_heads": 3}, "num_kv_heads"),
    "more key heads than heads": ("pretrain", {"num_heads": 2, "num_kv_heads": 4}, "num_kv_heads"), "an odd head": ("pretrain", {"hidden_size": 20, "num_heads": 4}, "hidden_size|num_heads"),
    "patch larger than the latent": ("pretrain", {"patch_size": 64}, "patch_size"), "patch that does not divide": ("pretrain", {"patch_size": 3}, "patch_size"),
    "text heads do not divide": ("encoders", {"text_dim": 128, "text_heads": 3}, "text_heads"), "a vocabulary of 2": ("encoders", {"vocab_size": 2}, "vocab_size"), "a caption of 1 token": ("encoders", {"max_tokens": 1}, "max_tokens"),
    "interval reversed": ("sample", {"guidance_interval": [0.8, 0.2]}, "guidance_interval"), "interval outside": ("sample", {"guidance_interval": [-1.0, 2.0]}, "guidance_interval"),
    "interval of one": ("sample", {"guidance_interval": [0.5]}, "guidance_interval"), "interval of three": ("sample", {"guidance_interval": [0, 0.5, 1]}, "guidance_interval"), "interval of NaN": ("sample", {"guidance_interval": [math.nan, 1.0]}, "guidance_interval"),
    "guidance of 10^30": ("sample", {"guidance_scale": 1e30}, "guidance_scale"), "a dose above all": ("downstream", {"n_synthetic": 100, "doses": [150]}, "doses"), "a dose of 0": ("downstream", {"doses": [0]}, "doses"),
    "more synthetic than are drawn": ("downstream", {"n_synthetic": 5000}, "n_synthetic|n_balanced"), "one photograph in a study": ("reader_study", {"n_images": 1}, "n_images"), "an odd study": ("reader_study", {"n_images": 7}, "n_images"),
    "no extractors": ("fidelity", {"extractors": []}, "extractors"), "an extractor twice": ("fidelity", {"extractors": ["reader", "reader"]}, "extractors"), "transformers without a model": ("captions", {"backend": "transformers", "model": None}, "captions.*model|model"),
    "two words a caption": ("captions", {"backend": "openai", "max_words": 2}, "max_words"), "an unknown prompt": ("captions", {"backend": "openai", "prompt": "v99"}, "prompt"), "hot": ("captions", {"temperature": 5}, "temperature"),
    "model of blanks": ("captions", {"backend": "openai", "model": "  "}, "model"), "purify nothing": ("purify", {"clip_quantile": 1.0}, "clip_quantile"), "a judge without a name": ("purify", {"llm": ""}, "llm"),
    "half a photograph": ("sample", {"n_images": 0.5}, "n_images"), "warm-up longer than training": ("finetune", {"warmup_steps": 5000}, "warmup_steps"), "a learning rate of 10^6": ("pretrain", {"lr": 1e6}, "lr"),
    "decay of 1": ("finetune", {"ema_decay": 1.0}, "ema_decay"), "micro batch above the batch": ("finetune", {"micro_batch_size": 64}, "micro_batch_size"), "an adapter of rank 10^6": ("finetune", {"adapter": "lora", "adapter_rank": 10**6}, "adapter_rank"),
    "one photograph a group": ("fairness", {"smallest_group": 1}, "smallest_group"), "few resamples": ("fidelity", {"bootstrap": 1}, "bootstrap"),
}
FINE_AS_WELL = {"65 pixels a side", "one photograph a group", "micro batch above the batch", "warm-up longer than training", "more synthetic than are drawn", "an adapter of rank 10^6", "a learning rate of 10^6", "few resamples",
                "a caption of 1 token", "an odd study", "an extractor twice"}  # senseless, and harmless or told by the stage: either is right
TEXT = (ROOT / "params.yaml").read_text(encoding="utf-8")
FILES = {"nothing": b"", "a list": b"- a\n- b\n", "a word": b"hello\n", "zeros": bytes(500), "in UTF-16": TEXT.encode("utf-16"), "in UTF-32": TEXT.encode("utf-32"), "a comment in Latin-1": b"# \xe9\n" + TEXT.encode(),
         "a tab": TEXT.replace("  seed", "\tseed").encode(), "a key twice": TEXT.replace("  seed:", "  seed: 1\n  seed:").encode(), "a section twice": (TEXT + "\nbase:\n  seed: 1\n").encode(), "cut": TEXT[:900].encode(),
         "a Python object": TEXT.replace("seed: 20261124", "seed: !!python/object/apply:os.system ['touch owned']").encode(), "an unknown tag": TEXT.replace("seed: 20261124", "seed: !x 3").encode(),
         "a missing colon": TEXT.replace("seed: 20261124", "seed 20261124").encode(), "two documents": (TEXT + "---\n" + TEXT).encode(), "100,000 brackets": b"a: " + b"[" * 100_000, "no sections": b"{}\n", "sections of lists": b"base: []\n",
         "anchors in anchors": b"a: &a [x,x,x,x,x,x,x,x,x]\n" + b"".join(b"%c: &%c [%s]\n" % (98 + k, 98 + k, b",".join([b"*%c" % (97 + k)] * 9)) for k in range(8)), "an unknown section": (TEXT + "\nsampel:\n  n: 1\n").encode(),
         "an anchor of itself": b"base: &x\n  seed: *x\n", "a number as a section": (TEXT + "\n5: 6\n").encode(), "null as a section": TEXT.replace("summary: {}", "summary:").encode(), "a date": TEXT.replace("20261124", "2026-11-24").encode(),
         "octal": TEXT.replace("20261124", "0o17").encode(), "a number in words": TEXT.replace("steps: 800", "steps: 8e2").encode()}


def load(folder, data):
    (folder / "params.yaml").write_bytes(data)
    params = load_params(folder / "params.yaml")
    return [stage_parameters(stage, params) for stage in ("dataset", "pretrain")][1]["seed"]


def cases(rng):
    for section, key, value in keys(rng):
        want = Says(rf"'?{key}'?")
        yield Case(f"{section}.{key}: {str(value)[:20]!r}", changed(section, **{key: value}), want, lines=3)
    for name, (section, values, word) in PAIRS.items():
        want = Says(word)
        yield Case(name, changed(section, **values), Either((want, lambda params: True)) if name in FINE_AS_WELL else want, lines=3)
    for name, data in FILES.items():
        fine = {"in UTF-16": 20261124, "in UTF-32": 20261124, "octal": 15, "a number in words": 20261124, "null as a section": 20261124}
        want = Either((Says("params.yaml"), fine[name])) if name in fine else Says("params.yaml")
        yield Case(f"file: {name}", lambda folder, data=data: load(folder, data), want, lines=200)
