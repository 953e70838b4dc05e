"""States and weights: what another run left, what is damaged, what only changes the cost."""
import os
import signal
from dataclasses import replace

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file, save_file

from retinalogos.config import UserError
from retinalogos.training.encoders import build_autoencoder, load_autoencoder, seal
from retinalogos.training.trainer import (FlowData, TrainSettings, accelerate_notes, build_transformer, initialise,
                                          load_state, read_state, save_state, train_flow)

SETTINGS = TrainSettings(steps=12, batch_size=8, lr=1e-3, checkpoint_every=4, warmup_steps=2)


@pytest.fixture(scope="module")
def data():
    torch.manual_seed(0)
    mask = torch.ones(32, 8, dtype=torch.long)
    return FlowData(torch.randn(32, 4, 4, 4), torch.randn(32, 8, 16), mask, torch.zeros(1, 8, 16), mask[:1])


def fresh():
    return initialise(build_transformer(4, 16, 32, 32, 2, 2, 2, patch_size=2), 0)


def stop_at(last):
    def watch(model, step):
        if step == last:
            os.kill(os.getpid(), signal.SIGINT)
        return {}
    return watch


@pytest.fixture()
def stopped(data, tmp_path):
    """A state at step 9 of 12: asked to stop after step 8, it makes one more."""
    with pytest.raises(KeyboardInterrupt):
        train_flow(fresh(), data, SETTINGS, 0, data, state=tmp_path / "run.pt", progress=False, watch=stop_at(8))
    assert read_state(tmp_path / "run.pt")["step"] == 9
    return tmp_path / "run.pt"


@pytest.mark.parametrize("change", [{}, {"micro_batch_size": 2}, {"gradient_checkpointing": True}, {"checkpoint_every": 3}, {"patience": 5}],
                         ids=lambda change: next(iter(change), "nothing"))
def test_what_only_changes_the_cost_goes_on(data, stopped, capsys, change):
    seen = []
    model, losses = train_flow(fresh(), data, replace(SETTINGS, **change), 0, data, state=stopped, progress=False,
                               watch=lambda model, step: seen.append(step) or {})
    assert "going on at step 9 of 12" in capsys.readouterr().out and min(seen) > 9
    whole, expected = train_flow(fresh(), data, SETTINGS, 0, data, progress=False)
    assert losses.step.tolist() == expected.step.tolist() and abs(losses.loss - expected.loss).max() < 1e-4
    assert max(float((a - b).abs().max()) for a, b in zip(model.parameters(), whole.parameters())) < 1e-4


@pytest.mark.parametrize("change", [{"lr": 2e-3}, {"steps": 16}, {"batch_size": 4}, {"caption_dropout": 0.2}], ids=lambda change: next(iter(change)))
def test_another_run_keeps_the_state_of_the_first(data, stopped, capsys, change):
    before = read_state(stopped)
    with pytest.raises(KeyboardInterrupt):
        train_flow(fresh(), data, replace(SETTINGS, **change), 0, state=stopped, progress=False, watch=stop_at(4))
    printed = capsys.readouterr().out
    assert "kept as run." in printed and "going on" not in printed
    train_flow(fresh(), data, SETTINGS, 0, data, state=stopped, progress=False)
    assert "going on at step 9 of 12" in capsys.readouterr().out, "the first run finds its state again"
    assert before["step"] == 9


def cut(path):
    path.write_bytes(path.read_bytes()[:-2000])


def flip(path):
    state = torch.load(path, weights_only=True)
    next(iter(state["model"].values())).view(-1)[0] += 1
    torch.save(state, path)


def spoil(path):
    state = torch.load(path, weights_only=True)
    next(iter(state["model"].values())).view(-1)[0] = float("nan")
    torch.save(state, path)


DAMAGE = {"empty": (lambda path: path.write_bytes(b""), "an empty file"), "cut": (cut, "not a readable state"),
          "text": (lambda path: path.write_text("hello"), "not a readable state"), "flipped": (flip, "damaged"), "nan": (spoil, "not finite"),
          "a list": (lambda path: torch.save([1, 2], path), "something else"), "no run": (lambda path: torch.save({"step": 3}, path), "something else"),
          "a number": (lambda path: torch.save(torch.zeros(3), path), "something else")}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_state_is_told_and_kept(data, stopped, kind):
    damage, reason = DAMAGE[kind]
    damage(stopped)
    content = stopped.read_bytes()
    with pytest.raises(UserError, match=f"{stopped.name}: .*{reason}"):
        train_flow(fresh(), data, SETTINGS, 0, state=stopped, progress=False)
    assert stopped.read_bytes() == content


def test_states_of_other_runs_each_keep_their_name(tmp_path):
    path = tmp_path / "state.pt"
    for run in "abc":
        assert load_state(path, run) is None
        save_state(path, {"run": run, "step": ord(run), "weights": torch.ones(2)})
    assert load_state(path, "a")["step"] == ord("a") and load_state(path, "b")["step"] == ord("b")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["state.a.pt", "state.c.pt", "state.pt"]


@pytest.fixture()
def weights(tmp_path):
    torch.manual_seed(0)
    build_autoencoder(4).save_pretrained(tmp_path / "vae")
    seal(tmp_path)
    load_autoencoder(tmp_path / "vae")
    return tmp_path / "vae/diffusion_pytorch_model.safetensors"


def half_zeros(file):
    content = file.read_bytes()
    file.write_bytes(content[:len(content) // 2] + bytes(len(content) - len(content) // 2))


def nan(file):
    tensors = load_file(file)
    name = next(iter(tensors))
    save_file(tensors | {name: torch.full_like(tensors[name], float("nan"))}, file, metadata={"format": "pt"})


def one_byte(file):
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("damage, reason", [(half_zeros, "not those that were written"), (one_byte, "not those that were written"),
                                            (nan, "not finite"), (lambda file: file.write_bytes(b""), "no weights")])
def test_damaged_weights_are_told(weights, damage, reason):
    damage(weights)
    with pytest.raises(UserError, match=reason):
        load_autoencoder(weights.parent)


def test_stock_folders_need_no_seal(weights):
    (weights.parent / "hashes.json").unlink()
    load_autoencoder(weights.parent)


@pytest.mark.parametrize("variable, value", [
    ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4"), ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "many"),
    ("ACCELERATE_MIXED_PRECISION", "bf16")])
def test_variables_of_accelerate_change_no_result(data, monkeypatch, capsys, variable, value):
    trained = []
    for environment in ({}, {variable: value}):
        AcceleratorState._reset_state()  # else the precision of the first training in this process would stay
        for name in environment:
            monkeypatch.setenv(name, value)
        trained.append(train_flow(fresh(), data, replace(SETTINGS, steps=3), 0, progress=False))
        assert (f"{variable}={value} is not used" in capsys.readouterr().out) == bool(environment)
    (first, losses), (second, others) = trained
    assert losses.loss.tolist() == others.loss.tolist()
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters()))


@pytest.mark.parametrize("environment, notes", [
    ({}, []),
    ({"ACCELERATE_USE_CPU": "false", "ACCELERATE_DYNAMO_BACKEND": "no", "ACCELERATE_MIXED_PRECISION": "no"}, []),
    ({"ACCELERATE_USE_CPU": "true"}, ["ACCELERATE_USE_CPU is set: training runs on the CPU"]),
    ({"ACCELERATE_TORCH_DEVICE": "cuda:1"}, ["ACCELERATE_TORCH_DEVICE=cuda:1 is used"]),
    ({"ACCELERATE_DYNAMO_BACKEND": "INDUCTOR"}, ["ACCELERATE_DYNAMO_BACKEND=INDUCTOR is used"])])
def test_variables_of_accelerate_are_told(monkeypatch, environment, notes):
    for name in [name for name in os.environ if name.startswith("ACCELERATE_")]:
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert accelerate_notes("no") == notes


@pytest.mark.parametrize("variable, value, reason", [
    ("ACCELERATE_USE_DEEPSPEED", "true", "cannot do"), ("ACCELERATE_USE_MEGATRON_LM", "1", "cannot do"),
    ("ACCELERATE_USE_CPU", "perhaps", "neither true nor false")])
def test_variables_of_accelerate_that_cannot_be_obeyed(data, monkeypatch, variable, value, reason):
    monkeypatch.setenv(variable, value)
    with pytest.raises(UserError, match=f"{variable}.*{reason}"):
        train_flow(fresh(), data, SETTINGS, 0, progress=False)
