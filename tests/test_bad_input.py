"""Bad files and bad rows end in rejects.parquet with a reason, and the run goes on; where nothing is left it stops clearly."""
import zlib

import cv2
import numpy as np
import pandas as pd
import pytest

from retinalogos.config import UserError
from retinalogos.data.dataset import build_dataset, load_images, load_records, load_rejects
from retinalogos.data.simulate import simulate_patient
from retinalogos.data.sources import FolderSource

COLUMNS = {"patient": "patient", "eye": "eye", "dr_grade": "grade", "labels": "labels"}
SMALL = dict(low_resolution=32, high_resolution=64, seed=0, val_fraction=0.0, test_fraction=0.0)


def bomb(width, height):
    """A valid PNG header that declares width x height pixels, and almost no data."""
    def chunk(kind, body): return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def png(image):
    return cv2.imencode(".png", image[..., ::-1])[1].tobytes()


@pytest.fixture(scope="module")
def eyes():
    return [simulate_patient(seed, render_size=128)[0].image for seed in (1, 2, 3)]


@pytest.fixture
def folder(tmp_path, eyes):
    """A data folder in which two photographs are fine and everything else is wrong in its own way."""
    root = tmp_path / "set"
    images = root / "images"
    images.mkdir(parents=True)
    good = png(eyes[0])
    files = {"good.png": good, "other.png": png(eyes[1]), "again.png": good, "empty.jpg": b"", "half.png": good[: len(good) // 2],
             "noise.jpg": bytes(range(256)) * 20, "notes.png": b"seen on Monday", "bomb.png": bomb(60_000, 60_000),
             "large.png": bomb(12_000, 9_000), "unlabelled.png": png(eyes[2]), "graded.png": png(eyes[2] // 2), "worded.png": png(eyes[2] // 3),
             "sided.png": png(eyes[2] // 4), "torn.png": png(eyes[2] // 5), "twice.png": png(eyes[1] // 2), "black.png": png(eyes[0] * 0),
             "tiny.png": png(eyes[0][:8, :8])}
    for name, content in files.items(): (images / name).write_bytes(content)
    (tmp_path / "secret.png").write_bytes(png(eyes[2]))
    (images / "link.png").symlink_to(tmp_path / "secret.png")
    rows = [(name, "OD", 1, "") for name in files if name not in ("unlabelled.png", "twice.png", "graded.png", "worded.png", "sided.png", "torn.png")]
    rows += [("graded.png", "OD", 7, ""), ("worded.png", "OD", "", "glaucma"), ("sided.png", "middle", 1, ""), ("torn.png", "OD", 2, "normal fundus"),
             ("twice.png", "OD", 1, ""), ("twice.png", "OS", 1, ""), ("missing.png", "OD", 1, ""), ("../../secret.png", "OD", 1, ""),
             (str(tmp_path / "secret.png"), "OD", 1, ""), ("link.png", "OD", 1, ""), ("", "OD", 1, "")]
    table = pd.DataFrame([(name, f"p{k}", *rest) for k, (name, *rest) in enumerate(rows)], columns=["image", "patient", "eye", "grade", "labels"])
    table.to_csv(root / "labels.csv", index=False)
    return root


EXPECTED = {
    "again.png": "the same pixels as", "empty.jpg": "empty", "half.png": "truncated or corrupt", "noise.jpg": "not an image",
    "notes.png": "not an image", "bomb.png": "megapixels", "large.png": "megapixels", "unlabelled.png": "no row", "graded.png": "dr_grade '7'",
    "worded.png": "unknown label 'glaucma'", "sided.png": "unknown eye 'middle'", "torn.png": "contradictory labels",
    "twice.png": "contradictory rows", "missing.png": "no such file", "../../secret.png": "outside", "link.png": "outside",
    "(blank)": "no such file", "black.png": "black", "tiny.png": "too small",
}


@pytest.mark.parametrize("workers", [1, 2])
def test_every_bad_file_is_rejected_with_a_reason(folder, tmp_path, workers):
    counts = build_dataset(tmp_path / "out", FolderSource(folder, columns=COLUMNS), workers=workers, **SMALL)
    assert sorted(load_records(tmp_path / "out").file) == ["images/good.png", "images/other.png"]
    rejects = load_rejects(tmp_path / "out")
    assert list(rejects.columns) == ["file", "reason"]
    reasons = {file.removeprefix("images/"): reason for file, reason in zip(rejects.file, rejects.reason)}
    for file, reason in EXPECTED.items(): assert reason in reasons.pop(file, "not rejected"), file
    assert list(reasons.values()) == ["the path leads outside the image folder"], "the absolute path, and nothing else"
    assert counts["rejected"] == len(rejects) == len(EXPECTED) + 1


def test_good_images_survive_beside_bad_ones(folder, tmp_path, eyes):
    build_dataset(tmp_path / "out", FolderSource(folder, columns=COLUMNS), **SMALL)
    ids, images = load_images(tmp_path / "out")
    assert len(ids) == 2 and images.shape == (2, 64, 64, 3)
    assert np.abs(images[0].astype(int) - cv2.resize(eyes[0], (64, 64), interpolation=cv2.INTER_AREA)).mean() < 15


def test_nothing_left_is_a_clear_error_and_writes_nothing(folder, tmp_path):
    for name in ("good.png", "other.png", "again.png"): (folder / "images" / name).write_bytes(b"")
    with pytest.raises(UserError, match="no usable photograph.*labels.csv|no usable photograph"):
        build_dataset(tmp_path / "out", FolderSource(folder, columns=COLUMNS), **SMALL)
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".part*"))


def test_a_failed_run_keeps_the_earlier_data_set(folder, tmp_path):
    source = FolderSource(folder, columns=COLUMNS)
    build_dataset(tmp_path / "out", source, **SMALL)
    before = {p: p.read_bytes() for p in (tmp_path / "out").rglob("*.parquet")}
    for path in (folder / "images").iterdir(): path.unlink()
    with pytest.raises(UserError): build_dataset(tmp_path / "out", source, **SMALL)
    assert {p: p.read_bytes() for p in (tmp_path / "out").rglob("*.parquet")} == before


@pytest.mark.parametrize("options, reason", [
    ({"table": "nowhere.csv"}, "no such label table"), ({"columns": {"image": "photo"}}, "no column photo"), ({"table": "images/good.png"}, "not a readable CSV"),
])
def test_a_table_that_cannot_be_read_names_itself(folder, options, reason):
    with pytest.raises(UserError, match=reason) as error: list(FolderSource(folder, **options).items())
    assert str(folder) in str(error.value)


def test_an_unknown_column_name_is_refused(folder):
    with pytest.raises(ValueError, match="colour"): FolderSource(folder, columns={"colour": "red"})


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="no such data folder"): FolderSource(tmp_path / "nowhere")


def test_splits_that_leave_nothing_to_train_on_are_refused(folder, tmp_path):
    with pytest.raises(UserError, match="val_fraction"):
        build_dataset(tmp_path / "out", FolderSource(folder, columns=COLUMNS), **{**SMALL, "val_fraction": .5, "test_fraction": .5})
    assert not (tmp_path / "out").exists()
