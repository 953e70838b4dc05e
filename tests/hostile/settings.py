"""settings.ini, settings.local.ini and names of the environment: one line that names file and key, and no key is shown."""
import os

import torch

from hostile import Case, Either, Says
from retinalogos.config import settings

SECRET = "sk-SECRET-123"
MACHINE = "[machine]\nworkers = 3\n"


def read(local: bytes, env=None, main: bytes = b""):
    """The function of a case: the settings of a project with these files and variables."""
    def run(folder):
        (folder / "params.yaml").write_text("")
        (folder / "settings.ini").write_bytes(main)
        (folder / "settings.local.ini").write_bytes(local)
        os.environ.update(env or {})
        return settings(folder)
    return run


def workers(number):
    return lambda found: found.workers == number


def files():
    """Files in other encodings and of other forms."""
    named = Says(r"^(?!.*SECRET).*settings\.local\.ini")
    for encoding in ("utf-8-sig", "utf-16", "utf-16-le", "utf-32"):
        yield f"in {encoding}", MACHINE.encode(encoding), Either((workers(3), named))
    for encoding in ("latin-1", "cp1252", "gb18030", "mac_roman"):
        note = "\u7b14" if encoding == "gb18030" else "\u00e9"
        yield f"a comment in {encoding}", f"# {note}\n{MACHINE}".encode(encoding), Either((workers(3), named))
        yield f"a path in {encoding}", f"[data]\nodir = /data/{note}\n".encode(encoding), Either((named, lambda found: note in str(found.data_roots)))
    for name, text in {"no section": f"workers = 3\nkey = {SECRET}\n", "no equals sign": f"[captions]\nkey {SECRET}\n", "a key twice": f"[captions]\nkey = {SECRET}\nkey = {SECRET}2\n", "a section twice": f"[captions]\nkey = {SECRET}\n[captions]\n",
                       "an open bracket": f"[captions\nkey = {SECRET}\n", "garbage": "\x00\x01\x02", "JSON": '{"captions": {"key": "%s"}}' % SECRET, "YAML": f"captions:\n  key: {SECRET}\n", "unknown section": f"[caption]\nkey = {SECRET}\n",
                       "unknown key": f"[captions]\nkye = {SECRET}\n", "TOML list": f"[[captions]]\nkey = '{SECRET}'\n", "an empty section": f"[]\nkey = {SECRET}\n", "DEFAULT": f"[DEFAULT]\nkye = {SECRET}\n"}.items():
        yield name, text.encode(), named if name not in ("YAML",) else Says(r"^(?!.*SECRET)")
    yield "nothing", b"", workers(2)
    yield "comments alone", b"# a\n; b\n", workers(2)
    yield "CRLF", MACHINE.replace("\n", "\r\n").encode(), workers(3)
    yield "a percent sign", b"[captions]\nkey = a%(b)s\n", lambda found: found.caption_key == "a%(b)s"
    yield "blank values", b"[machine]\nworkers =\ndevice =   \n", workers(2)
    yield "upper case", b"[machine]\nWORKERS = 3\n", workers(3)


NUMBERS = {"workers": ("machine", ("0", "-1", "1.5", "two", "inf", "nan", "1e3", "\u0663x", "0x2", "1,000", "100000000")), "concurrency": ("captions", ("0", "-1", "inf", "nan", "x", "1.5", "100000000")),
           "timeout": ("captions", ("0", "-1", "inf", "nan", "soon", "1e400", "-inf")), "images_per_batch": ("captions", ("0", "-3", "x", "nan")), "prompt_price": ("captions", ("-1", "nan", "inf", "free")),
           "answer_price": ("captions", ("-0.1", "nan", "-inf", "1,5"))}
WORDS = {"device": ("machine", ("gpu", "cuda:x", "CUDA", "tpu", "cuda:-1", "cpu0", "0")), "server": ("captions", ("localhost:8000", "ftp://x", "http://", "://", "not an address", "http:// x", "http://x:port"))}
NAMES = ("CAPTION_SERVER", "DEVICE", "WORKERS", "CAPTIONS_SERVR", "MACHINE_DEVCE", "DATA_ODRI", "CAPTIONS_TIME_OUT", "MACHINES_DEVICE", "CAPTIONS", "DATA", "MACHINE_", "SERVER", "KEY", "DATAODIR", "CAPTIONS__KEY", "_MACHINE_WORKERS", "TRACKER", "DATASET_ODIR")


def values():
    """Values that make no sense, in the file and in the environment."""
    for key, (section, texts) in (NUMBERS | WORDS).items():
        for text in texts:
            named = Says(rf"{key}")
            if key == "server":
                continue
            yield Case(f"[{section}] {key} = {text}", read(f"[{section}]\n{key} = {text}\n".encode()), named)
            yield Case(f"RETINALOGOS_{section.upper()}_{key.upper()}={text}", read(b"", {f"RETINALOGOS_{section.upper()}_{key.upper()}": text}), named)
    from retinalogos.captions.backends import server_address
    for text in WORDS["server"][1]:
        yield Case(f"server {text}", lambda folder, text=text: server_address(text), Says("server"))
    for name in NAMES:
        yield Case(f"RETINALOGOS_{name}", read(b"", {f"RETINALOGOS_{name}": "3"}), Says(f"RETINALOGOS_{name}" if not name.endswith("_") else "MACHINE"))


ACCELERATE = {"ACCELERATE_MIXED_PRECISION": "bf16", "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4", "ACCELERATE_USE_CPU": "true", "ACCELERATE_DOWNCAST_BF16": "true", "ACCELERATE_DYNAMO_BACKEND": "EAGER", "ACCELERATE_SPLIT_BATCHES": "true"}


def trained(folder, env):
    """Weights after three steps of a small training under these variables, as one number, and what was printed."""
    import io
    from contextlib import redirect_stdout

    from retinalogos.training.trainer import FlowData, TrainSettings, build_transformer, initialise, train_flow
    os.environ.update(env)
    torch.manual_seed(0)
    data = FlowData(torch.randn(8, 4, 4, 4), torch.randn(8, 8, 16), torch.ones(8, 8, dtype=torch.long), torch.zeros(1, 8, 16), torch.ones(1, 8, dtype=torch.long))
    model = initialise(build_transformer(4, 16, 32, 32, 2, 2, 2, patch_size=2), 0)
    with redirect_stdout(said := io.StringIO()):
        model, _ = train_flow(model, data, TrainSettings(steps=3, batch_size=4, lr=1e-3, warmup_steps=1), 0, progress=False)
    return sum(float(p.double().abs().sum()) for p in model.parameters()), said.getvalue()


def accelerate():
    """Variables of accelerate: the result stays, or they are named."""
    for name, value in ACCELERATE.items():
        def run(folder, name=name, value=value):
            plain = trained(folder, {})[0]
            for module in ("accelerate.state",):
                import importlib
                importlib.import_module(module).AcceleratorState._reset_state(True)
            number, said = trained(folder, {name: value})
            return abs(number - plain) < 1e-6 or name in said
        yield Case(f"{name}={value}", run, Either((True, Says(name))))


def cases(rng):
    for name, data, want in files():
        yield Case(f"file: {name}", read(data), want)
        if name in ("in utf-8-sig", "no equals sign", "unknown key"):
            main = Says(r"^(?!.*SECRET).*settings\.ini") if isinstance(want, Says) else want
            yield Case(f"settings.ini: {name}", read(b"", main=data), main)
    yield from values()
    yield from accelerate()
