"""What networks that saw simulated eyes alone do on real photographs: `python tests/benchmarks/transfer.py REAL [--seeds N] [--sheet FILE]`.

REAL holds `codras/images` (photographs with YOLO boxes of the disc), `odir_256` (`images`, `labels.csv` with image, ID and eye) and `drive`
(`training` and `test` in DRIVE's layout). Writes nbs/results/transfer.json and transfer_numbers.csv, which the results page *Transfer* reads; neither
holds a pixel of a photograph. `--sheet` writes simulated and real photographs side by side to a file: keep it out of the repository.
"""
import argparse
import json
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from joblib import Parallel, delayed

from retinalogos.analysis.biomarkers import train_segmenter
from retinalogos.analysis.transfer import (compare_numbers, disc_result, find_points, give_away, laterality_result, likelihoods, photograph_numbers,
                                           read_boxed_discs, read_traced_vessels, simulated_shares, vary, vessel_result)
from retinalogos.config import write_json
from retinalogos.data.images import read_square, resize
from retinalogos.data.simulate import simulate_patient

ASKED = {"disc": .80, "laterality": .85, "vessels": .90, "vessels_training": .90}
RESULTS = Path(__file__).resolve().parents[2] / "nbs/results"
FINDER = {"n_patients": 700, "size": 128, "steps": 900, "batch_size": 16, "lr": 4e-3}
VESSELS = {"n_patients": 60, "size": 512, "part": 192, "steps": 350, "batch_size": 8, "lr": 6e-3}


def train(structures, seed, n_patients, size, steps, batch_size, lr, part=None):
    images, shares = simulated_shares(n_patients, 1000 + seed, size, structures, max(size, 256), good_only=part is not None)
    return train_segmenter(images, shares, steps, batch_size, lr, seed, vary=vary, part=part, progress=True)


def photographs(paths, size):
    return np.stack(Parallel(2)(delayed(lambda p: resize(read_square(p, size), size))(p) for p in paths))


def thin_vessels(network, images):
    "Vessel likelihoods of photographs at 256 px, a batch at a time, reduced to 128 px."
    return np.stack([cv2.resize(m[0], (128, 128), interpolation=cv2.INTER_AREA) for k in range(0, len(images), 32) for m in likelihoods(network, images[k:k + 32])])


def measure(real, seed):
    finder, vessels = train(("disc", "fovea"), seed, **FINDER), train(("vessels",), seed, **VESSELS)
    labels = pd.read_csv(real / "odir_256/labels.csv", encoding="utf-8-sig")
    files = [real / "odir_256/images" / name for name in labels["image"]]
    odir = photographs(files, 128)
    found = {"disc": disc_result(finder, *read_boxed_discs(real / "codras/images", 128)),
             "laterality": laterality_result(finder, odir, labels["eye"].map({"right": "OD", "left": "OS"}), labels["ID"], seed=seed),
             "vessels": vessel_result(vessels, read_traced_vessels(real / "drive/test"), seed=seed),
             "vessels_training": vessel_result(vessels, read_traced_vessels(real / "drive/training"), seed=seed)}
    some = np.random.default_rng(seed).permutation(len(files))[:600]
    eyes = [eye.image for k in range(300) for eye in simulate_patient((2000 + seed, 0, k), 256)]
    sides = {"real": photographs([files[k] for k in some], 256), "simulated": np.stack(eyes)}
    numbers = {name: photograph_numbers(small := np.stack([resize(i, 128) for i in images]), find_points(finder, small), thin_vessels(vessels, images))
               for name, images in sides.items()}
    area, needed = give_away(numbers["real"], numbers["simulated"], seed)
    without, _ = give_away(*(numbers[kind].drop(columns="field") for kind in ("real", "simulated")), seed)
    found["give_away"] = {"auc": round(area, 3), "auc_without_field": round(without, 3), "needed": needed.to_dict(), "n_real": len(some), "n_simulated": len(eyes)}
    return found, compare_numbers(**numbers, seed=seed)


def sheet(real, file):
    names = pd.read_csv(real / "odir_256/labels.csv", encoding="utf-8-sig")["image"]
    drawn = [eye.image for k in range(8) for eye in simulate_patient((3000, 0, k), 512)][:16]
    shot = [resize(read_square(real / "odir_256/images" / name, 512), 512) for name in names.sample(10, random_state=0)]
    shot += [resize(read_square(path, 512), 512) for path in sorted((real / "codras/images").glob("*.jpg"))[::10]][:6]
    rows = [np.hstack(side[k:k + 8]) for side in (drawn, shot) for k in (0, 8)]
    cv2.imwrite(str(file), np.vstack(rows)[..., ::-1])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("real", type=Path)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--sheet", type=Path)
    arguments = parser.parse_args()
    if arguments.sheet: sheet(arguments.real, arguments.sheet)
    runs = [measure(arguments.real, seed) for seed in range(arguments.seeds)]
    write_json(RESULTS / "transfer.json", {"asked": ASKED, "finder": FINDER, "vessels": VESSELS, "seeds": [found for found, _ in runs]})
    runs[0][1].rename_axis("number").to_csv(RESULTS / "transfer_numbers.csv")
    for found, table in runs: print(json.dumps(found, indent=1), table.to_string(), sep="\n")
