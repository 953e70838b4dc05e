"""Simulated photographs a second, with all masks, at several sizes: `python tests/benchmarks/simulate.py [WORKERS]` (default 2; wanted: 60 at 128 px)."""
import sys
import time

from retinalogos.data.simulate import simulate_patients

if __name__ == "__main__":
    workers = int(sys.argv[1]) if len(sys.argv) > 1 else 2
    for size, patients in ((64, 240), (128, 240), (256, 160), (512, 60), (1024, 20)):
        begun, images = None, 0
        for eyes in simulate_patients(patients + 8 * workers, 1, size, workers, progress=False):
            if begun is None: begun = time.perf_counter()  # the processes have started
            else: images += len(eyes)
        print(f"{size:5d} px: {images / (time.perf_counter() - begun):6.1f} images/s, {workers} processes, n {images}")
