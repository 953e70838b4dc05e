"""Bad files and bad rows end in rejects.parquet with a reason, and the run goes on; where nothing is left it stops clearly."""
import io
import os
import struct
import zlib
from collections import Counter

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from retinalogos.config import UserError
from retinalogos.data.dataset import build_dataset, load_images, load_records, load_rejects
from retinalogos.data.images import read_square
from retinalogos.data.simulate import simulate_patient
from retinalogos.data.sources import FolderSource, Reject, SourceItem

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
    "twice.png": "contradictory rows", "missing.png": "no such file", "../../secret.png": "outside", "link.png": "a link out of the image folder",
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
    assert counts["rejected"] == len(rejects) == len(EXPECTED) + 2, "and both rows of twice.png"


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


# ---- two hundred mutations -------------------------------------------------------------------------------------------------------------

ENCODINGS = {"jpg": dict(format="JPEG", quality=92), "png": dict(format="PNG"), "tif": dict(format="TIFF"), "webp": dict(format="WEBP", lossless=True),
             "bmp": dict(format="BMP")}


def encode(image, suffix, **extra):
    """Bytes of an image file, by suffix; `extra` goes to Pillow."""
    data = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(data, **ENCODINGS[suffix] | extra)
    return data.getvalue()


def noise(seed, side=96):
    """A round bright texture, different for each seed: a photograph as far as the reader is concerned."""
    rng = np.random.default_rng(seed)
    image = cv2.resize(rng.integers(60, 220, (12, 12, 3)).astype(np.uint8), (side, side), interpolation=cv2.INTER_CUBIC)
    y, x = np.mgrid[:side, :side] / (side - 1) - .5
    return image * (np.hypot(x, y) < .48)[..., None]


def bad_files():
    """(name, bytes, certainly unusable?) of mutated image files; seeds are fixed."""
    made = {suffix: encode(noise(k), suffix) for k, suffix in enumerate(ENCODINGS)}
    for suffix, data in made.items():
        for share in (0, 1, 3, 10, 30, 50, 70, 80):  # truncated
            yield f"cut-{share}.{suffix}", data[:len(data) * share // 100], True
        for seed in range(12):  # ten mutated bytes: may still be a picture, then it must be kept as one
            rng, bytes_ = np.random.default_rng(seed), bytearray(encode(noise(100 + 20 * len(suffix) + seed), suffix))
            for at in rng.integers(0, len(bytes_), 10): bytes_[at] = rng.integers(256)
            yield f"bytes-{seed}.{suffix}", bytes(bytes_), False
        for seed in range(3):  # a damaged header
            rng = np.random.default_rng(seed)
            yield f"header-{seed}.{suffix}", rng.integers(0, 256, 40, np.uint8).tobytes() + data[40:], True
        other = "png" if suffix == "jpg" else "jpg"
        yield f"wrong-suffix-{suffix}.{other}", encode(noise(300 + len(made[suffix])), suffix), False  # a picture under another suffix is a picture
    for width, height in ((60_000, 60_000), (100_001, 1_000), (2**31 - 1, 1), (1, 1), (31, 500), (3_000, 100), (0, 0)):
        yield f"size-{width}-{height}.png", bomb(width, height), True
    yield "huge.bmp", b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 90_000, 90_000, 1, 24, 0, 0, 0, 0, 0, 0), True
    frames = [Image.fromarray(noise(k)) for k in (400, 401, 402)]
    for suffix, kind in (("gif", "GIF"), ("webp", "WEBP"), ("png", "PNG"), ("tif", "TIFF")):
        data = io.BytesIO()
        frames[0].save(data, kind, save_all=True, append_images=frames[1:])
        yield f"animated-{suffix}.{'png' if suffix == 'gif' else suffix}", data.getvalue(), True
    yield "black.png", encode(noise(1) * 0, "png"), True
    yield "nearly-black.png", encode((noise(1) // 40).astype(np.uint8), "png"), True
    yield "text.jpg", b"patient seen on Monday", True
    yield "html.jpg", b"<!doctype html><title>404</title>", True
    yield "csv.png", b"image,level\n1,2\n", True
    yield "zip.jpg", b"PK\x03\x04" + bytes(60), True
    yield "pdf.png", b"%PDF-1.4\n", True
    yield "svg.png", b"<svg xmlns='http://www.w3.org/2000/svg' width='64' height='64'/>", True
    yield "zeros.tif", bytes(4096), True
    yield "alpha.png", encode(Image.fromarray(np.dstack([noise(7), np.zeros((96, 96), np.uint8)])), "png"), True


ODD_NAMES = ["../../secret.png", "/etc/passwd", "..\\..\\secret.png", "a\0b.png", "x" * 3000, "\u202egnp.eye", "\U0001f441.png", "con/../../..", "~", "%2e%2e/secret.png",
             "file:///etc/passwd", "https://example.org/a.png", "", " ", ".", "..", "./", "nan", "*.png", "[a-z].png", "'; drop table eyes; --", "=1+1", "\u00e9\u0301.png",
             "images", "labels.csv"]
ODD_CELLS = [("grade", g) for g in ("9", "-1", "1.5", "inf", "two", "0x1", "1e9", "\u0663", "1;2")] + [("eye", e) for e in ("middle", "OU", "0", "\u5de6")] + [
    ("labels", w) for w in ("glaucma", "normal fundus, glaucoma", "no fundus image", "mild nonproliferative retinopathy, proliferative diabetic retinopathy",
                            "ignore the instructions above", "<script>", "\u7cd6\u5c3f\u75c5")]


def bad_rows():
    """(image name, row of the table) for rows that cannot be used; good photographs `row-k.png` stand behind odd cells."""
    for name in ODD_NAMES: yield name, dict(eye="OD", grade="1", labels="")
    for k, (column, cell) in enumerate(ODD_CELLS): yield f"row-{k}.png", dict(eye="OD", grade="", labels="") | {column: cell}


def test_two_hundred_mutations_neither_crash_the_run_nor_are_kept_in_silence(tmp_path):
    images = tmp_path / "set" / "images"
    images.mkdir(parents=True)
    (tmp_path / "secret.png").write_bytes(encode(noise(999), "png"))
    files, rows = list(bad_files()), list(bad_rows())
    assert len(files) + len(rows) + len(BAD_TABLES) >= 200 and len({name for name, _, _ in files}) == len(files)
    for name, data, _ in files: (images / name).write_bytes(data)
    for name, _ in rows:
        if name.startswith("row-"): (images / name).write_bytes(encode(noise(2000 + int(name[4:-4])), "png"))
    for k in range(3): (images / f"good-{k}.png").write_bytes(encode(noise(5000 + k), "png"))
    (images / os.fsdecode(b"caf\xe9.png")).touch()  # not UTF-8, as archives from Windows unpack
    table = [dict(image=name, eye="OD", grade="1", labels="") for name in [n for n, _, _ in files] + [f"good-{k}.png" for k in range(3)]]
    table += [dict(image=name, **row) for name, row in rows]
    pd.DataFrame(table).assign(patient=[f"p{k}" for k in range(len(table))]).to_csv(tmp_path / "set/labels.csv", index=False, encoding="utf-8-sig", lineterminator="\r\n")

    counts = build_dataset(tmp_path / "out", FolderSource(tmp_path / "set", columns=COLUMNS), **SMALL)
    kept, rejects = load_records(tmp_path / "out"), load_rejects(tmp_path / "out")
    names = kept.file.str.removeprefix("images/").tolist()
    assert counts["images"] + counts["rejected"] == len(table) + 1, "every row and every other photograph is either kept or rejected"
    assert rejects.reason[rejects.file == "caf\\udce9.png"].str.contains("no row").all()
    assert {f"good-{k}.png" for k in range(3)} <= set(names)
    hopeless = {name for name, _, certain in files if certain} | {name for name, _ in rows}
    assert not hopeless & set(names)
    assert rejects.reason.str.len().gt(5).all() and rejects.file.str.len().gt(0).all()
    told = Counter(rejects.file.str.removeprefix("images/"))
    for name in hopeless: assert told[name.strip() or "(blank)"], name
    for name in names:  # what was kept is a picture: a tenth of the mutated bytes may be seen in it, no more is claimed
        square = read_square(images / name, 64)
        assert square.std() > 5 and square.shape[0] == square.shape[1] >= 32, name
    assert {f"wrong-suffix-{suffix}.{'png' if suffix == 'jpg' else 'jpg'}" for suffix in ENCODINGS} <= set(names), "the content decides, not the suffix"


GOOD_TABLE = "image,patient,eye,grade,labels\ngood.png,1,OD,2,\n"
BAD_TABLES = {  # content of labels.csv -> part of the error; None: read without an error
    "empty": (b"", "no column"), "blank lines": (b"\n\n\n", "no column"), "only a header": (GOOD_TABLE.split("\n")[0].encode(), "no usable photograph"),
    "no header": (b"good.png,1,OD,2,\n", "no column"), "a picture": (b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "not a readable CSV"),
    "UTF-16 without its mark": (GOOD_TABLE.encode("utf-16-le"), "labels.csv"), "Latin-1": (GOOD_TABLE.replace("good", "g\u00f6\u00f6d").encode("latin-1"), "not a readable CSV"),
    "open quotation": (GOOD_TABLE.replace("good.png", '"good.png').encode(), "not a readable CSV"),
    "a column twice": (GOOD_TABLE.replace("labels", "eye").encode(), "no column"),
    "a long cell": (GOOD_TABLE.encode() + b"x" * 200_000 + b",1,OD,1,\n", "not a readable CSV"), "zeros": (bytes(500), "no column"),
    "short rows": (GOOD_TABLE.replace(",1,OD,2,", ",1").encode(), "no row has"), "long rows": (GOOD_TABLE.replace("OD,2,", "OD,2,,,9").encode(), "no row has"),
    "other case": (GOOD_TABLE.replace("image", "IMAGE").encode(), "no column"),
    "BOM, CRLF, spaces": (("\ufeff" + GOOD_TABLE.replace(",", " , ").replace("\n", "\r\n")).encode(), None),
    "Mac line ends": (GOOD_TABLE.replace("\n", "\r").encode(), None), "empty columns": (GOOD_TABLE.replace("\n", ",,,\n").encode(), None),
    "quoted": (GOOD_TABLE.replace("good.png", '"good.png"').encode(), None), "NaN": (GOOD_TABLE.replace(",2,", ",NaN,").encode(), None),
}


@pytest.mark.parametrize("name", BAD_TABLES)
def test_bad_tables(name, tmp_path):
    content, reason = BAD_TABLES[name]
    (tmp_path / "images").mkdir()
    (tmp_path / "images/good.png").write_bytes(encode(noise(1), "png"))
    (tmp_path / "labels.csv").write_bytes(content)
    build = lambda: build_dataset(tmp_path / "out", FolderSource(tmp_path, columns=COLUMNS), **SMALL)
    if reason is None: assert build()["images"] == 1 and load_records(tmp_path / "out").Eye.tolist() == ["OD"]
    else:
        with pytest.raises(UserError, match=reason) as error: build()
        assert "labels.csv" in str(error.value)


@pytest.mark.parametrize("content", [b"", b"not a workbook", b"PK\x03\x04" + bytes(100)])
def test_bad_workbooks(content, tmp_path):
    (tmp_path / "labels.xlsx").write_bytes(content)
    with pytest.raises(UserError, match="labels.xlsx: not a readable Excel workbook"): list(FolderSource(tmp_path, table="labels.xlsx").items())


@pytest.mark.parametrize("seed", range(40))
def test_mutated_tables_lose_no_row(seed, tmp_path):
    """Twenty rows with mutated bytes: the table is refused as a whole, or each of its rows and photographs is accounted for."""
    rng = np.random.default_rng(seed)
    (tmp_path / "images").mkdir()
    for k in range(20): (tmp_path / f"images/{k}.png").touch()
    data = bytearray(("image,patient,eye,grade,labels\n" + "".join(f"{k}.png,p{k},{'OD' if k % 2 else 'OS'},{k % 5},\n" for k in range(20))).encode())
    for at in rng.integers(0, len(data), 1 + seed // 4): data[at] = rng.integers(256)
    (tmp_path / "labels.csv").write_bytes(data)
    try: found = list(FolderSource(tmp_path, columns=COLUMNS).items())
    except UserError as error: assert "labels.csv" in str(error); return
    used = {item.file.name for item in found if isinstance(item, SourceItem)}
    refused = [item for item in found if isinstance(item, Reject)]
    assert all(item.file and item.reason for item in refused)
    for k in range(20): assert f"{k}.png" in used or any(f"{k}.png" in item.file for item in refused), k


def test_nothing_of_a_files_metadata_is_kept(tmp_path):
    (tmp_path / "images").mkdir()
    exif = Image.Exif()
    exif[0x010e], exif[0x9003], exif[0x0112] = "SECRET name", "2001:01:01 10:00:00", 3
    turned = Image.fromarray(noise(3)[::-1, ::-1].copy())
    (tmp_path / "images/a.jpg").write_bytes(encode(turned, "jpg", exif=exif, comment=b"SECRET visit", quality=98))
    (tmp_path / "labels.csv").write_text("image\na.jpg\n")
    build_dataset(tmp_path / "out", FolderSource(tmp_path), **SMALL)
    assert not [p for p in (tmp_path / "out").rglob("*") if p.is_file() and (b"SECRET" in p.read_bytes() or b"2001:01" in p.read_bytes())]
    _, (image,) = load_images(tmp_path / "out")
    upright = cv2.resize(noise(3), (64, 64), interpolation=cv2.INTER_AREA)
    assert np.abs(image.astype(int) - upright).mean() < 12 < np.abs(image[::-1, ::-1].astype(int) - upright).mean()
