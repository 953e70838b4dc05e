"""States of a training, caches of latents, and checkpoints: empty, cut, flipped, not finite, foreign. Found by content, told, made again where they can be."""
import functools
import io
import pickle
import shutil
import tempfile
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from hostile import Case, Either, Says
from retinalogos.config import UserError
from retinalogos.training import trainer
from retinalogos.training.cache import fill
from retinalogos.training.trainer import FlowData, TrainSettings, build_transformer, initialise, train_flow

SETTINGS = dict(steps=8, batch_size=4, lr=1e-3, warmup_steps=2, checkpoint_every=3)


def data(seed=0):
    """Random latents and texts, as a training reads them."""
    draw = torch.Generator().manual_seed(seed)
    return FlowData(torch.randn(12, 4, 4, 4, generator=draw), torch.randn(12, 6, 16, generator=draw), torch.ones(12, 6, dtype=torch.long), torch.zeros(1, 6, 16), torch.ones(1, 6, dtype=torch.long))


def train(state=None, seed=0, watch=None, **changed):
    """(all weights as one tensor, what was printed) after a small training."""
    torch.set_num_threads(1)
    model = initialise(build_transformer(4, 16, 32, 32, 2, 2, 2, patch_size=2), 0)
    with redirect_stdout(said := io.StringIO()):
        model, _ = train_flow(model, data(seed), TrainSettings(**SETTINGS | changed), 0, state=state, progress=False, watch=watch)
    return torch.cat([p.detach().flatten() for p in model.parameters()]), said.getvalue()


class Stop(Exception):
    """Ends a training as a kill would."""


def left_state(folder, seed=0, **changed) -> Path:
    """The state that a training leaves which died after step 6: that of step 3."""
    def die(model, step):
        if step == 6:
            raise Stop
        return {}
    try:
        train(folder / "run/train.pt", seed, die, **changed)
    except Stop:
        pass
    return folder / "run/train.pt"


def going_on(change, keep=False):
    """The function of a case: a state changed by `change(path)` is met by the same training. (same weights as undisturbed?, went on?, told or kept?)."""
    def run(folder):
        whole, _ = train(folder / "whole/train.pt")
        state = left_state(folder)
        before = state.read_bytes()
        change(state)
        found = state.read_bytes() if state.is_file() else None
        weights, said = train(state)
        aside = [file for file in state.parent.iterdir() if file != state and file.is_file() and file.read_bytes() == found]
        assert before
        return torch.equal(weights, whole), "going on at step 3 of 8" in said, bool(said.strip()) and (bool(aside) or not keep)
    return run


def rewrite(change):
    """Change what the state holds, as torch reads it."""
    def run(path):
        torch.save(change(torch.load(path, weights_only=True)), path)
    return run


def spoiled(tensors, how):
    """A dict of tensors with a fault in its first large one."""
    tensors = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in tensors.items()}
    name = next(k for k, v in tensors.items() if isinstance(v, torch.Tensor) and v.numel() > 20 and v.is_floating_point())
    flat = tensors[name].view(-1)
    if how == "zeros":
        flat[len(flat) // 2:] = 0
    else:
        flat[3] = float(how)
    return tensors


class Touch:
    """Unpickled by a careless reader, it leaves a file."""

    def __reduce__(self):
        return Path.touch, (Path("owned"),)


def put(content):
    return lambda path: path.write_bytes(content)


def states(rng):
    """Files in the place of the state."""
    on, told = (True, True, True), Says(r"train\.pt")
    anew = Either(((True, False, True), told))
    yield "untouched", lambda path: None, on
    for name, content in {"nothing": b"", "text": b"hello", "zeros": bytes(5000), "a pickle that acts": pickle.dumps(Touch()), "a zip of nothing": b"PK\x05\x06" + bytes(18), "one byte": b"\x80", "HTML": b"<html>"}.items():
        yield name, put(content), anew
    for share in sorted(rng.uniform(0.01, 0.99) for _ in range(6)):
        yield f"cut at {share:.0%}", lambda path, share=share: path.write_bytes(path.read_bytes()[:int(share * path.stat().st_size)]), anew
    for k in range(8):
        at, value = rng.random(), rng.randrange(1, 256)
        yield f"a byte flipped at {at:.1%}", lambda path, at=at, value=value: flip(path, at, value), Either((anew, on))
    for share in (0.3, 0.5, 0.8):
        yield f"zeros from {share:.0%} on", lambda path, share=share: zeros_from(path, share), anew
    for name, change in {"a list": lambda state: [1], "null": lambda state: None, "a tensor": lambda state: torch.zeros(3), "no run": lambda state: {k: v for k, v in state.items() if k != "run"}, "step a word": lambda state: state | {"step": "3"},
                         "step -1": lambda state: state | {"step": -1}, "step beyond": lambda state: state | {"step": 99}, "step 1.5": lambda state: state | {"step": 1.5}, "no model": lambda state: {k: v for k, v in state.items() if k != "model"},
                         "model of NaN": lambda state: state | {"model": spoiled(state["model"], "nan")}, "model of infinity": lambda state: state | {"model": spoiled(state["model"], "inf")},
                         "model half zeros": lambda state: state | {"model": spoiled(state["model"], "zeros")}, "average of NaN": lambda state: state | {"ema": state["ema"] | {"shadow_params": [t * float("nan") for t in state["ema"]["shadow_params"]]}},
                         "a weight of another shape": lambda state: state | {"model": {k: v.reshape(-1)[:1] for k, v in state["model"].items()}}, "no optimizers": lambda state: state | {"optimizers": []},
                         "losses a word": lambda state: state | {"losses": "x"}, "fewer losses": lambda state: state | {"losses": state["losses"][:1]}}.items():
        yield name, rewrite(change), anew
    yield "a folder", lambda path: (path.unlink(), path.mkdir()), Either(((True, False, False), anew))
    yield "a dangling link", lambda path: (path.unlink(), path.symlink_to("gone")), Either(((True, False, False), anew))


def flip(path, at, value):
    content = bytearray(path.read_bytes())
    content[int(at * (len(content) - 1))] ^= value
    path.write_bytes(bytes(content))


def zeros_from(path, share):
    content = path.read_bytes()
    kept = int(share * len(content))
    path.write_bytes(content[:kept] + bytes(len(content) - kept))


def other_runs():
    """A state of another run is kept aside; settings that change no result go on from it."""
    for name, change in {"another seed of data": dict(seed=5), "another rate": dict(lr=2e-3), "another batch": dict(batch_size=6), "another optimizer": dict(optimizer="muon")}.items():
        def run(folder, change=change):
            whole, _ = train(folder / "whole/train.pt")
            state = left_state(folder, **change)
            before = state.read_bytes()
            weights, said = train(state)
            kept = any(file.is_file() and file.read_bytes() == before for file in state.parent.iterdir())
            return torch.equal(weights, whole), "going on" in said, kept
        yield Case(f"state of {name}", run, (True, False, True))
    for name, change in {"micro batches of 2": dict(micro_batch_size=2), "gradient checkpointing": dict(gradient_checkpointing=True), "a state every 2": dict(checkpoint_every=2), "every 3, then 1": dict(checkpoint_every=1)}.items():
        def run(folder, change=change):
            whole, _ = train(folder / "whole/train.pt")
            weights, said = train(left_state(folder), **change)
            return float((weights - whole).abs().max()) < 1e-4, "going on at step 3 of 8" in said
        yield Case(f"goes on with {name}", run, (True, True))


def cached(change):
    """The function of a case: the file of a cache changed by `change(path)` is asked for again; (content right?, how many were made)."""
    def run(folder):
        make = lambda: {"latents": torch.arange(4000.0).reshape(10, 4, 10, 10) + 1}
        parts = [(lambda: {"autoencoder": "x", "shard of photographs": "y"}, make)]
        with redirect_stdout(io.StringIO()):
            fill(folder / "cache", parts, progress=False)
            path = folder / "cache/00000.safetensors"
            change(path)
            made = fill(folder / "cache", parts, progress=False)
        return torch.equal(load_file(path)["latents"], make()["latents"]), made
    return run


def caches(rng):
    """Files in the place of a cache."""
    yield "untouched", lambda path: None, (True, 0)
    for name, content in {"nothing": b"", "zeros": bytes(9000), "text": b"hello", "a header without end": (10**12).to_bytes(8, "little") + b"{", "a header of brackets": (2000).to_bytes(8, "little") + b"[" * 2000}.items():
        yield name, put(content), (True, 1)
    for share in (0.1, 0.5, 0.8, 0.99):
        yield f"zeros from {share:.0%} on", lambda path, share=share: zeros_from(path, share), (True, 1)
        yield f"cut at {share:.0%}", lambda path, share=share: path.write_bytes(path.read_bytes()[:int(share * path.stat().st_size)]), (True, 1)
    for k in range(8):
        at, value = rng.uniform(0.05, 1), rng.randrange(1, 256)
        yield f"a byte flipped at {at:.1%}", lambda path, at=at, value=value: flip(path, at, value), (True, 1)
    key = {"autoencoder": "x", "shard of photographs": "y"}
    for name, tensors in {"other numbers": {"latents": torch.zeros(10, 4, 10, 10)}, "another name": {"x": torch.ones(3)}, "NaN": {"latents": torch.full((10, 4, 10, 10), np.nan)}, "fewer rows": {"latents": torch.ones(3, 4, 10, 10)}}.items():
        yield f"{name} under the right key", lambda path, tensors=tensors: save_file(tensors, path, metadata=key), (True, 1)
    yield "a dangling link", lambda path: (path.unlink(), path.symlink_to("gone")), (True, 1)


@functools.cache
def checkpoint() -> Path:
    """A whole pipeline on disk with the smallest encoders, made once; a step of training each."""
    from retinalogos.training import encoders, sample
    torch.set_num_threads(1)
    folder, captions = Path(tempfile.mkdtemp(prefix="campaign-checkpoint-")), ["left eye, healthy", "right eye, glaucoma"] * 20
    images = np.random.default_rng(0).integers(0, 255, (40, 32, 32, 3), np.uint8)
    autoencoder, _ = encoders.make_autoencoder(None, images, 4, 1, 4, 1e-3, 0)
    tokenizer, text_encoder, _ = encoders.make_text_encoder(None, captions, 200, 16, 32, 1, 2, 1, 4, 1e-3, 0)
    transformer = initialise(build_transformer(4, 32, 32, 32, 2, 2, 2, patch_size=1), 0)
    sample.save_checkpoint(folder / "model", transformer, (autoencoder, tokenizer, text_encoder))
    return folder / "model"


def opened(change, name="transformer/diffusion_pytorch_model.safetensors"):
    """The function of a case: a checkpoint whose file `name` was changed is opened and draws one picture."""
    def run(folder):
        from retinalogos.training.sample import generate, load_checkpoint
        torch.set_num_threads(1)
        shutil.copytree(checkpoint(), folder / "model")
        change(folder / "model" / name)
        image = generate(load_checkpoint(folder / "model"), ["left eye"], [1], guidance_scale=2.0, num_inference_steps=1, batch_size=1, progress=False)
        return "drawn" if image.std() > 0 else "a flat picture"
    return run


def tensors_of(path, how):
    save_file(spoiled(load_file(path), how), path, metadata={"format": "pt"})


def checkpoints(rng):
    """Files of a finished generator: opened, or one line that names the folder."""
    told = Says("model|checkpoint|weights")
    yield "untouched", opened(lambda path: None), "drawn"
    for name in ("transformer/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"):
        for how in ("nan", "inf", "zeros"):
            yield f"{name.partition('/')[0]}: {how}", opened(lambda path, how=how: tensors_of(path, how), name), told
        for share in (0.0, 0.4, 0.9):
            yield f"{name.partition('/')[0]}: cut at {share:.0%}", opened(lambda path, share=share: path.write_bytes(path.read_bytes()[:int(share * path.stat().st_size)]), name), told
            yield f"{name.partition('/')[0]}: zeros from {share:.0%}", opened(lambda path, share=share: zeros_from(path, share), name), told
        yield f"{name.partition('/')[0]}: missing", opened(lambda path: path.unlink(), name), told
    for name in ("model_index.json", "transformer/config.json", "vae/config.json", "text_encoder/config.json", "tokenizer/tokenizer.json", "scheduler/scheduler_config.json"):
        for how, content in {"empty": b"", "a list": b"[]", "half": b'{"_class_name": "', "zeros": bytes(100)}.items():
            yield f"{name}: {how}", opened(put(content), name), Either((told, "drawn")) if name == "model_index.json" else told


def cases(rng):
    for name, change, want in states(rng):
        yield Case(f"state: {name}", going_on(change), want)
    yield from other_runs()
    for name, change, want in caches(rng):
        yield Case(f"cache: {name}", cached(change), want)
    try:
        checkpoint()
    except Exception as error:
        yield Case("a small pipeline", lambda folder, error=error: f"could not be made: {error}", "made")
        return
    for name, run, want in checkpoints(rng):
        yield Case(f"checkpoint: {name}", run, want)
