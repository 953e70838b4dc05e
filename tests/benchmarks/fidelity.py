"""FID and KID of 10,000 + 10,000 feature vectors, and photographs passed through a network: `python tests/benchmarks/fidelity.py [VECTORS]`.

Vectors of 128 numbers (the reader of this project) and of 2,048 (Inception), made up; wanted: FID and KID together, KID with its interval of 200 draws,
within 20 s on 2 cores. On a shared machine elapsed time is that of the neighbours too, so processor time divided by the cores used stands beside it and is what
is judged. Then photographs of 256 pixels are decoded and looked at a batch at a time, few and eight times as many: the peak memory must be the same. They are
looked at by their mean colour, because a network's own memory would hide theirs.
"""
import os
import resource
import subprocess
import sys
import tempfile
import time

os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # threads that wait for a busy neighbour are not to count as work

import numpy as np
import pandas as pd

from retinalogos.analysis.features import Extractor, sample_batches, stream_features
from retinalogos.analysis.fidelity import frechet_distance, kernel_distance
from retinalogos.data.images import encode_png


def timed(function, *arguments):
    """The value, processor seconds for each core and elapsed seconds."""
    start, elapsed = time.process_time(), time.perf_counter()
    value = function(*arguments)
    return value, (time.process_time() - start) / int(os.environ["OMP_NUM_THREADS"]), time.perf_counter() - elapsed


def distances(vectors):
    """Seconds of both distances at both lengths; True where each pair stays within 20."""
    good, rng = True, np.random.default_rng(0)
    for length in (128, 2048):
        real, synthetic = (rng.standard_normal((vectors, length), np.float32) + gap for gap in (0, np.float32(.05)))
        fid, fid_cpu, fid_elapsed = timed(frechet_distance, real, synthetic)
        kid, kid_cpu, kid_elapsed = timed(kernel_distance, real, synthetic)
        print(f"{vectors:,} + {vectors:,} vectors of {length}: FID {fid:.3f} in {fid_cpu:.1f} s ({fid_elapsed:.1f} s elapsed), "
              f"KID {kid['value']:.5f} in {kid_cpu:.1f} s ({kid_elapsed:.1f} s elapsed)", flush=True)
        good &= fid_cpu + kid_cpu <= 20
    return good


def stream(photographs):
    """Peak memory in MB of reading so many photographs, in this process."""
    folder, rng = tempfile.mkdtemp(), np.random.default_rng(0)
    png = encode_png(np.repeat(np.repeat(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8), 8, 0), 8, 1))
    pd.DataFrame({"sample_id": [str(k) for k in range(photographs)], "image": [png] * photographs}).to_parquet(f"{folder}/samples.parquet")
    colour = Extractor("colour", "mean colour", lambda images: images.mean((1, 2), dtype=np.float32))
    keys, features = stream_features({"colour": colour}, sample_batches(folder))
    assert len(keys) == photographs == len(features["colour"])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def main():
    if sys.argv[1:2] == ["--stream"]:
        print(stream(int(sys.argv[2])))
        return True
    good = distances(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
    few, many = (float(subprocess.check_output([sys.executable, __file__, "--stream", str(number)])) for number in (500, 4000))
    print(f"peak memory: {few:.0f} MB for 500 photographs, {many:.0f} MB for 4,000, which are {4000 * 256 * 256 * 3 / 1e6:.0f} MB decoded")
    return good and many - few < 50


if __name__ == "__main__":
    sys.exit(not main())
