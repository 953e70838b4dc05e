"""How fast large JPEGs become two square PNGs, against decoding each in full and resizing it: `python tests/benchmarks/ingest.py [FOLDER]`.

FOLDER holds photographs (default: ../shared/realdata/codras/images, IDRiD at 4288 x 2848; where that is not there, simulated eyes enlarged
to that size). One process, one thread, processor time; the sum of three rounds that take turns. The plain loop only decodes, crops nothing,
resizes and encodes; ours also checks the header, finds the field of view, and takes quality, hash and thumbnail.
"""
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from retinalogos.data.dataset import make_picture
from retinalogos.data.images import encode_png, read_square, resize
from retinalogos.data.simulate import simulate_patient

LOW, HIGH, COUNT = 64, 128, 24
REAL = Path(__file__).resolve().parents[3] / "shared/realdata/codras/images"


def photographs(folder):
    """Up to COUNT large JPEGs of `folder`, or made ones."""
    if folder.is_dir(): return [p for p in sorted(folder.glob("*.jpg")) if max(Image.open(p).size) > 3000][:COUNT]
    folder = Path(tempfile.mkdtemp())
    for k in range(COUNT):
        eye = cv2.resize(simulate_patient(k, render_size=256)[0].image, (2848, 2848), interpolation=cv2.INTER_CUBIC)
        Image.fromarray(np.pad(eye, ((0, 0), (720, 720), (0, 0)))).save(folder / f"{k}.jpg", quality=92)
    return sorted(folder.glob("*.jpg"))


def plain(path):
    image = np.asarray(Image.open(path).convert("RGB"))
    return [encode_png(cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)) for side in (LOW, HIGH)]


def ours(path, high=HIGH):
    return make_picture(read_square(path, high), LOW, high)


def seconds(function, paths):
    start = time.process_time()
    for path in paths: function(path)
    return time.process_time() - start


def main():
    cv2.setNumThreads(1)
    paths = photographs(Path(sys.argv[1]) if len(sys.argv) > 1 else REAL)
    functions = {"plain decode and resize": plain, "ingestion": ours, "ingestion at 512": lambda path: ours(path, 512)}
    plain(paths[0]), ours(paths[0])
    rounds = [{name: seconds(function, paths) for name, function in functions.items()} for _ in range(3)]
    total = {name: sum(r[name] for r in rounds) / len(rounds) / len(paths) for name in functions}
    print(f"{len(paths)} JPEGs of about {Image.open(paths[0]).size[0]} x {Image.open(paths[0]).size[1]} pixels to {LOW} and {HIGH} pixels")
    for name, value in total.items(): print(f"{name}: {value * 1000:.0f} ms an image, {1 / value:.1f} images a second")
    ratio = total["plain decode and resize"] / total["ingestion"]
    print(f"ingestion is {ratio:.1f} times as fast as the plain loop (wanted: 2)")
    small, full = (resize(image, HIGH).astype(int) for image in (read_square(paths[0], HIGH), read_square(paths[0], 10 ** 6)))
    print(f"mean difference from the fully decoded picture: {np.abs(small - full).mean():.2f} grey levels of 255")
    return ratio


if __name__ == "__main__":
    sys.exit(main() < 2)
