"""How fast and in how much memory the generator trains. Prints numbers; no test.

    python tests/benchmarks/training.py speed --resolution 128     our loop against two others, same model, data and optimizers
    python tests/benchmarks/training.py speed --vae sdxl --steps 1 --rounds 3       the same with an autoencoder of the size of SDXL's
    python tests/benchmarks/training.py memory                     the `gpu` preset's transformer with and without checkpointed blocks and adapters
    python tests/benchmarks/training.py utilisation --preset paper --resolution 512 --peak 989      model-FLOPs utilisation, here of an H100 (TFLOP/s, dense bfloat16)

`speed`, in processor seconds a step, the loops in turn and the median over the rounds, so that other work on the machine counts little:
`bare` is nothing but forward, backward and optimizer on batches that lie ready in memory; `ours` is `trainer.train_flow`'s step, with batch, noise,
schedule and averaged weights; `plain` is ours, but encodes photographs and captions at each step. Shapes and optimizer are those of `params.yaml`.
How far `plain` falls behind is what encoding costs beside a step, so it depends on the encoders. Those of the default are small (the autoencoder's encoder is one linear map):
the aim of 1.5 times the steps is not reached with them, only with an autoencoder such as SDXL's. Latents on disk or in memory make no difference to a step; they save the
encoding at each start.

`utilisation` counts the floating-point operations of a step (`trainer.step_flops`: no recomputation, no optimizer; PaLM, Chowdhery et al., 2022, appendix B) and divides by
time and by the peak that you name.
"""
import argparse
import multiprocessing
import resource
import statistics
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from diffusers import AutoencoderKL

from retinalogos.config import load_params, with_preset
from retinalogos.training.encoders import build_autoencoder, build_language_model, train_tokenizer
from retinalogos.training.trainer import (FlowData, Run, TrainSettings, _advance, _gradients, add_adapters, build_transformer, encode_pairs, initialise,
                                          make_batch, step_flops)

ROOT = Path(__file__).parents[2]
CAPTION = "left eye, moderate non-proliferative diabetic retinopathy. the optic disc is on the left, with {} microaneurysms, hard exudates and a clear macula."


def transformer_of(params, resolution, channels, text_dim):
    names = ("hidden_size", "num_layers", "num_heads", "num_kv_heads", "patch_size", "architecture")
    return initialise(build_transformer(channels, text_dim, resolution, **{name: getattr(params.pretrain, name) for name in names}), 0)


def settings_of(section, **changed):
    return TrainSettings(**{name: value for name, value in section.model_dump().items() if name in TrainSettings.__dataclass_fields__} | changed)


def sdxl_autoencoder():
    """An autoencoder of the shape of SDXL's, untrained."""
    return AutoencoderKL(block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4,
                         down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4)


def loops(resolution, vae):
    """The three loops, each a function that makes one step."""
    params, random = load_params(ROOT / "params.yaml"), np.random.default_rng(0)
    images = random.integers(0, 256, (64, resolution, resolution, 3), np.uint8)
    captions = [CAPTION.format(k) for k in range(len(images))]
    tokenizer = train_tokenizer(captions, params.encoders.vocab_size, params.encoders.max_tokens)
    text_encoder = build_language_model(tokenizer, params.encoders.text_dim, params.encoders.text_layers, params.encoders.text_heads).model.eval()
    encoders = (sdxl_autoencoder() if vae == "sdxl" else build_autoencoder(params.encoders.latent_channels)).eval(), tokenizer, text_encoder
    data = encode_pairs(images, captions, *encoders, progress=False)
    settings = settings_of(params.finetune)
    made = {name: Run(transformer_of(params, resolution, data.latents.shape[1], data.embeddings.shape[2]), settings, "") for name in ("bare", "ours", "plain")}
    ready = [make_batch(data, settings.batch_size, 0, step) for step in range(8)]

    def bare():
        run = made["bare"]
        _gradients(run.accelerator, run.model, ready[run.step % 8])
        torch.nn.utils.clip_grad_norm_(run.model.parameters(), settings.clip_norm)
        for optimizer in run.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        run.step += 1

    def plain():
        rows = random.integers(0, len(images), settings.batch_size)
        few = encode_pairs(images[rows], [captions[row] for row in rows], *encoders, progress=False)
        _advance(made["plain"], FlowData(few.latents, few.embeddings, few.mask, few.empty, few.empty_mask), 0)

    return {"bare": bare, "ours": lambda: _advance(made["ours"], data, 0), "plain": plain}


def speed(resolution, rounds, steps, vae):
    steppers = loops(resolution, vae)
    names, spent = list(steppers), {name: [] for name in steppers}
    for k in range(rounds + 1):
        for name in names[k % 3:] + names[:k % 3]:
            start = time.process_time()
            for _ in range(steps):
                steppers[name]()
            if k:  # the first round warms up
                spent[name].append((time.process_time() - start) / steps)
    table = pd.DataFrame({"seconds a step": {name: statistics.median(values) for name, values in spent.items()}})
    table["ours is faster by"] = table["seconds a step"] / table.loc["ours", "seconds a step"]
    print(f"{resolution} px, autoencoder {vae}, {rounds} rounds of {steps} steps, {torch.get_num_threads()} threads\n{table.round(4).to_string()}")


def peak(queue, changed, resolution, batch_size):
    """Put into `queue` (gigabytes of weights, averages, optimizer, gradients and activations at most; seconds a step)."""
    params = with_preset("gpu", ROOT / "params.yaml")[1]
    channels, text_dim, side = params.encoders.latent_channels, params.encoders.text_dim, resolution // 8
    transformer, start = transformer_of(params, resolution, channels, text_dim), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    settings = settings_of(params.finetune, batch_size=batch_size, mixed_precision="no", **changed)
    if settings.adapter:
        add_adapters(transformer, settings.adapter, settings.adapter_rank, 0)
    data = FlowData(torch.randn(32, channels, side, side), torch.randn(32, 64, text_dim), torch.ones(32, 64, dtype=torch.long),
                    torch.zeros(1, 64, text_dim), torch.ones(1, 64, dtype=torch.long))
    run = Run(transformer, settings, "")
    seconds = []
    for _ in range(2):  # the second has the optimizer's state
        begun = time.process_time()
        _advance(run, data, 0)
        seconds.append(time.process_time() - begun)
    queue.put(((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start) / 1e6, min(seconds)))


def memory(resolution, batch_size):
    context = multiprocessing.get_context("spawn")
    for name, changed in {"as it is": {}, "gradient_checkpointing": {"gradient_checkpointing": True}, "micro_batch_size 2": {"micro_batch_size": 2},
                          "adapter lora": {"adapter": "lora"}, "lora, checkpointing": {"adapter": "lora", "gradient_checkpointing": True}}.items():
        queue = context.Queue()
        process = context.Process(target=peak, args=(queue, changed, resolution, batch_size))
        process.start()
        gigabytes, seconds = queue.get()
        process.join()
        print(f"{name}: {gigabytes:.2f} GB beside the model, {seconds:.1f} processor seconds a step (gpu preset, {resolution} px, batch {batch_size}, float32)", flush=True)


def utilisation(preset, resolution, text_tokens, steps, peak):
    """Print what share of `peak` [TFLOP/s] a training step of the preset's fine-tuning computes, after two steps to warm up."""
    params = with_preset(preset, ROOT / "params.yaml")[1] if preset else load_params(ROOT / "params.yaml")
    channels, text_dim, settings = params.encoders.latent_channels, params.encoders.text_dim, settings_of(params.finetune)
    transformer, side = transformer_of(params, resolution, channels, text_dim), resolution // 8
    with torch.device("meta"):
        twin = type(transformer).from_config(dict(transformer.config))
        if settings.adapter:
            add_adapters(twin, settings.adapter, settings.adapter_rank, 0)
    flops = step_flops(twin, text_tokens) * settings.batch_size
    if settings.adapter:
        add_adapters(transformer, settings.adapter, settings.adapter_rank, 0)
    data = FlowData(torch.randn(64, channels, side, side), torch.randn(64, text_tokens, text_dim), torch.ones(64, text_tokens, dtype=torch.long),
                    torch.zeros(1, text_tokens, text_dim), torch.ones(1, text_tokens, dtype=torch.long))
    run, seconds = Run(transformer, settings, ""), []
    for _ in range(steps + 2):
        begun = time.perf_counter()
        _advance(run, data, 0)  # ends with the loss on the CPU: nothing is still under way
        seconds.append(time.perf_counter() - begun)
    second = statistics.median(seconds[2:])
    print(f"{flops / 1e12:.3f} TFLOP a step, {second:.3f} s: {flops / second / 1e12:.3f} TFLOP/s, {100 * flops / second / 1e12 / peak:.1f} % of {peak} TFLOP/s "
          f"({preset or 'params.yaml'}, {resolution} px, batch {settings.batch_size}, {settings.mixed_precision}, {run.accelerator.device})")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["speed", "memory", "utilisation"])
    parser.add_argument("--resolution", type=int)
    parser.add_argument("--vae", choices=["ours", "sdxl"], default="ours")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--preset")
    parser.add_argument("--text-tokens", type=int, default=64)
    parser.add_argument("--peak", type=float, help="TFLOP/s of the device in the precision of the training")
    asked = parser.parse_args()
    if asked.what == "speed":
        speed(asked.resolution or 128, asked.rounds, asked.steps, asked.vae)
    elif asked.what == "utilisation":
        utilisation(asked.preset, asked.resolution or 128, asked.text_tokens, asked.steps, asked.peak or parser.error("utilisation needs --peak"))
    else:
        memory(asked.resolution or 256, asked.batch_size)
