"""How fast captions are made, and how well a language model reads them. Prints numbers; no test.

    python tests/benchmarks/captions.py client           our client against a server of known speed on loopback
    python tests/benchmarks/captions.py template         simulated records captioned by the template backend, examined and purified, in shards
    python tests/benchmarks/captions.py facts MODEL      facts read by a language model (as `captions.facts_model` names it) and by the rules, on the captions labelled by hand

`client`: the server answers at most `--slots` requests at a time, each after `--latency` seconds, as a model on a GPU would; so it can give
slots / latency captions a second. What it really gives is measured with a bare client, which sends the same ready-made request again and again.
"""
import argparse
import asyncio
import io
import json
import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
from PIL import Image

from retinalogos.captions.backends import Job, OpenAIBackend
from retinalogos.captions.examine import examine_table, extract_facts
from retinalogos.captions.facts import facts_backend, model_facts
from retinalogos.captions.prompts import STRUCTURES, load_prompt
from retinalogos.captions.template import caption_table
from retinalogos.config import settings, write_table
from retinalogos.data.anatomy import draw_geometry, draw_patient, draw_plan
from retinalogos.data.lesions import draw_counts
from retinalogos.data.records import EyeRecord
from retinalogos.data.simulate import findings_of, record_of
from retinalogos.stage import measured
from retinalogos.training.purify import purify, strata

SAID = json.dumps({name: "normal" for name in STRUCTURES} | {"caption": "right eye with clear media, an optic disc with sharp margins and even vessels"})
REPLY = json.dumps({"choices": [{"message": {"content": SAID}}], "usage": {"prompt_tokens": 900, "completion_tokens": 60}}).encode()


async def serve(latency, slots, port):
    """Answer every request with `REPLY` after `latency` seconds, `slots` of them at a time; the port goes into the pipe `port`."""
    free = asyncio.Semaphore(slots)

    async def talk(reader, writer):
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                await reader.readexactly(int(head.split(b"content-length:")[1].split(b"\r\n")[0]))
                async with free:
                    await asyncio.sleep(latency)
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(REPLY) + REPLY)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0, limit=2**20, backlog=512)
    port.send(server.sockets[0].getsockname()[1])
    await server.serve_forever()


async def bare(port, n, connections, image):
    """Requests a second of `n` ready-made requests over so many connections."""
    body = json.dumps({"image": image.hex()}).encode()
    request = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body

    async def one(count):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(count):
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(head.split(b"Content-Length: ")[1].split(b"\r\n")[0]))
        writer.close()

    start = time.perf_counter()
    await asyncio.gather(*(one(n // connections) for _ in range(connections)))
    return n // connections * connections / (time.perf_counter() - start)


def client(args):
    """Compare what our client gets with what the server gives a bare one."""
    pixels = np.random.default_rng(0).integers(0, 256, (args.side, args.side, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    here, there = multiprocessing.Pipe()
    server = multiprocessing.Process(target=lambda: asyncio.run(serve(args.latency, args.slots, there)), daemon=True)
    server.start()
    port = here.recv()
    given = asyncio.run(bare(port, args.n, args.slots, file.getvalue()))
    backend = OpenAIBackend(load_prompt("v1", "short"), f"http://127.0.0.1:{port}", "model", concurrency=args.slots)
    jobs = (Job(f"eye-{k}", file.getvalue(), EyeRecord(eye="OD"), seed=k) for k in range(args.n))
    start, busy = time.perf_counter(), time.process_time()
    captioned = sum(not result.error for result in backend.answer(jobs))
    seconds, busy = time.perf_counter() - start, time.process_time() - busy
    server.terminate()
    assert captioned == args.n
    print(f"{args.slots} requests at a time, {args.latency:g} s each, pictures of {file.tell() / 1000:.0f} kB: slots / latency {args.slots / args.latency:.1f}/s, "
          f"a bare client {given:.1f}/s, ours {args.n / seconds:.1f}/s: ratio {args.n / seconds / given:.3f} "
          f"({1000 * busy / args.n:.2f} ms of one core a caption)")


def simulated_tables(seed, first, n):
    """(records, findings) of `n` simulated eyes, as the data set has them, without pictures."""
    records, findings = [], []
    for number in range(first, first + n, 2):
        patient = draw_patient(np.random.default_rng([seed, number]))
        for side, eye in enumerate(("OD", "OS")):
            rng = np.random.default_rng([seed, number, 1 + side])
            plan = draw_plan(rng, patient, eye)
            geometry = draw_geometry(rng, patient, plan)
            found = findings_of(geometry, draw_counts(rng, geometry, plan), patient, plan, 2 / 3)
            image_id = f"sim-{number:08d}-{eye}"
            records.append({"image_id": image_id, **record_of(geometry, plan, found).to_row()})
            findings.append({"image_id": image_id, **found.to_row()})
    return pd.DataFrame(records), pd.DataFrame(findings)


def caption_shard(first, folder, n, size):
    """Caption and examine one shard, write both tables: (captions, seconds of captioning, of examination, of the rest)."""
    start = time.perf_counter()
    records, findings = simulated_tables(7, first, min(size, n - first))
    simulated = time.perf_counter()
    captions = caption_table(records, findings, 7 + first, "short", .15)
    captioned = time.perf_counter()
    examination = examine_table(captions, records, findings)
    examined = time.perf_counter()
    write_table(folder / f"captions-{first:09d}.parquet", captions)
    write_table(folder / f"examination-{first:09d}.parquet", examination.assign(stratum=strata(records)))
    return len(captions), captioned - simulated, examined - captioned, time.perf_counter() - examined, simulated - start


def purify_shards(folder):
    """Purify all shards as one set, with CLIP scores drawn at random, as if they were known: (pairs kept, seconds)."""
    start = time.perf_counter()
    table = pd.concat([pd.read_parquet(file, columns=["image_id", "contradictions", "stratum"]) for file in sorted(folder.glob("examination-*.parquet"))])
    scores = purify(table["image_id"], table["contradictions"], np.random.default_rng(0).normal(30, 5, len(table)), table["stratum"])
    write_table(folder / "scores.parquet", scores)
    return int(scores["kept"].sum()), time.perf_counter() - start


def template(args):
    """Caption and examine `--n` simulated records in shards, in `--workers` processes, then purify them."""
    with TemporaryDirectory() as folder, measured() as cost, ProcessPoolExecutor(args.workers) as pool:
        shards = list(pool.map(partial(caption_shard, folder=Path(folder), n=args.n, size=args.shard), range(0, args.n, args.shard)))
        kept, purifying = purify_shards(Path(folder))
    captions, captioning, examining, writing, simulating = map(sum, zip(*shards))
    seconds = cost["seconds"] - simulating / args.workers
    print(f"{captions} records in {args.workers} processes: {seconds:.0f} s, {captions / seconds:.0f} images/s, at most {cost['peak_memory_gb']:.2f} GB "
          f"(process seconds: captions {captioning:.0f}, examination {examining:.0f}, writing {writing:.0f}; then purification {purifying:.0f}, {kept} kept; simulating the records, not counted, {simulating:.0f})")


def facts(args):
    """Precision and recall of a language model and of the rules on each set of `tests/captions_by_hand.json`; where the model gave none, the rules' reading counts."""
    sys.path.insert(0, str(Path(__file__).parent.parent))
    from test_examine import LABELS, captions_of, scores
    texts = pd.DataFrame({"image_id": [row["text"] for row in LABELS["captions"]], "caption": [row["text"] for row in LABELS["captions"]]})
    with TemporaryDirectory() as journal:
        read = model_facts(texts, facts_backend(args.model, settings()), journal)
    print(f"{args.model}: {len(read)} of {len(texts)} captions read")
    for name in dict.fromkeys(row["set"] for row in LABELS["captions"]):
        rows = [scores(captions_of(name), reader).loc["all but items", ["precision", "recall"]] for reader in (lambda text: read.get(text) or extract_facts(text), extract_facts)]
        print(name, pd.DataFrame(rows, index=["model", "rules"]).round(3).to_dict("index"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_subparsers(required=True)
    one = what.add_parser("client")
    one.add_argument("--n", type=int, default=1000)
    one.add_argument("--latency", type=float, default=.5)
    one.add_argument("--slots", type=int, default=32)
    one.add_argument("--side", type=int, default=256, help="pixels of a picture")
    one.set_defaults(run=client)
    two = what.add_parser("template")
    two.add_argument("--n", type=int, default=1_400_000)
    two.add_argument("--workers", type=int, default=2)
    two.add_argument("--shard", type=int, default=20_000)
    two.set_defaults(run=template)
    three = what.add_parser("facts")
    three.add_argument("model")
    three.set_defaults(run=facts)
    chosen = parser.parse_args()
    multiprocessing.set_start_method("fork")
    chosen.run(chosen)
