"""Several processes: the configurations load, two processes train as one does, sharded or not, and only the first writes."""
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser

ROOT = Path(__file__).parent.parent
CONFIGURATIONS = sorted((ROOT / "presets/accelerate").glob("*.yaml"))
TRAINING = """
import json, os, sys
import torch
from accelerate import PartialState
from accelerate.utils import DistributedType

folder, sharded = sys.argv[1], sys.argv[2] == "fsdp"
written, process = [], PartialState(cpu=True)
sys.addaudithook(lambda event, given: event == "os.rename" and str(given[1]).startswith(folder) and written.append(os.path.basename(given[1])))
if sharded: PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU  # accelerate shards on GPUs only, torch anywhere

from retinalogos.training.cache import fill
made = fill(f"{os.path.dirname(folder)}/cache-{sys.argv[2]}", [(lambda k=k: {"number": str(k)}, lambda k=k: {"x": torch.full((2,), k)}) for k in range(3)], progress=False)

from retinalogos.training import trainer
from retinalogos.training.trainer import FlowData, TrainSettings, build_transformer, initialise, train_flow
random = torch.Generator().manual_seed(0)
data = FlowData(torch.randn(12, 4, 8, 8, generator=random), torch.randn(12, 8, 16, generator=random), torch.ones(12, 8, dtype=torch.long),
                torch.zeros(1, 8, 16), torch.ones(1, 8, dtype=torch.long))
class Watched(trainer.Run):  # what the network is wrapped in while it trains
    def __init__(self, *given):
        super().__init__(*given)
        wrapped.append(type(self.model).__name__)
wrapped, trainer.Run = [], Watched

settings = TrainSettings(6, 8, 1e-3, warmup_steps=2, ema_decay=0.8, checkpoint_every=3)
shape = dict(latent_channels=4, text_dim=16, image_size=64, hidden_size=32, num_layers=2, num_heads=2, num_kv_heads=1)

def train(watch=None):
    return train_flow(initialise(build_transformer(**shape), 0), data, settings, 0, data, state=f"{folder}/state.pt", progress=False, watch=watch)

def kill(model, step):
    if step == 6: raise SystemError
    return {}

try: train(kill)
except SystemError: assert os.listdir(folder) == ["state.pt"]
transformer, losses = train()
weights = [float(p.detach().norm()) for p in transformer.parameters()]
with open(f"{folder}/../{os.path.basename(folder)}-{process.process_index}.json", "w") as file:
    json.dump({"kind": str(PartialState().distributed_type), "losses": losses.loss.tolist(), "held_out": losses.validation_loss.dropna().tolist(),
               "weights": weights, "written": written, "made": made, "model": wrapped[-1]}, file)
"""


@pytest.mark.parametrize("file", CONFIGURATIONS, ids=lambda file: file.stem)
def test_configurations_are_what_accelerate_wants(file):
    assert load_config_from_file(str(file)).num_processes > 1
    launch = launch_command_parser().parse_args(["--config_file", str(file), "-m", "retinalogos.stage", "pretrain"])
    launch, _, _ = _validate_launch_command(launch)
    assert (launch.use_fsdp, launch.multi_gpu) == ((True, False) if file.stem == "fsdp" else (False, True))
    assert f"--config_file presets/accelerate/{file.name}" in file.read_text()


def run(folder, kind, launcher=()):
    script = folder / "training.py"
    script.write_text(TRAINING)
    (folder / kind).mkdir()
    environment = os.environ | {"PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *launcher, str(script), str(folder / kind), kind], env=environment, text=True, capture_output=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(file.read_text()) for file in sorted(folder.glob(f"{kind}-*.json"))]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one process, not compiled, says of its training."""
    return run(tmp_path_factory.mktemp("alone"), "one")[0]


def test_two_processes_train_as_one(alone, tmp_path):
    for kind, configuration in (("ddp", "one_machine"), ("fsdp", "fsdp")):
        first, second = run(tmp_path, kind, ["-m", "accelerate.commands.launch", "--config_file", f"{ROOT}/presets/accelerate/{configuration}.yaml", "--num_processes", "2"])
        assert (kind == "fsdp") == first["kind"].endswith("FSDP"), first["kind"]
        for process in (first, second):
            for what in ("losses", "held_out", "weights"):
                assert process[what] == pytest.approx(alone[what], abs=1e-4), (kind, what)
        assert set(first["written"]) == {"state.pt"} and second["written"] == []
        assert (first["made"], second["made"], alone["made"]) == (2, 1, 3) and len(list((tmp_path / f"cache-{kind}").iterdir())) == 3, "each encodes its share"


def test_a_compiled_transformer_trains_as_one_that_is_not(alone, tmp_path):
    """`accelerate launch --dynamo_backend`; aot_eager traces and differentiates as inductor does, and needs no compiler."""
    launcher = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "aot_eager"]
    compiled, = run(tmp_path, "compiled", launcher)
    assert compiled["losses"] == pytest.approx(alone["losses"], rel=1e-5) and compiled["weights"] == pytest.approx(alone["weights"], rel=1e-5)
    assert compiled["model"] == "OptimizedModule" != alone["model"]
