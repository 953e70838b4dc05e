"""Photographs as cameras and export programs leave them: field of view, depth, copies, quality."""
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from retinalogos.data.dataset import build_dataset, load_notes, load_records, load_rejects
from retinalogos.data.images import (RejectedImage, crop_field, crop_square, find_field, quality_score,
                                     read_photograph, thumbnail, turned_copies)
from retinalogos.data.simulate import simulate_patient
from retinalogos.data.sources import FolderSource

SIDE, HEIGHT, WIDTH, LEFT, TOP = 384, 480, 720, 168, 48
CIRCLE = np.array([LEFT + SIDE / 2, TOP + SIDE / 2, SIDE / 2])  # x, y, radius of the field in the picture
EYE = simulate_patient(29, render_size=SIDE, cameras="one")[0].image
Y, X = np.mgrid[:SIDE, :SIDE] / (SIDE - 1) - 0.5


def place(retina=EYE, ground=0):
    """The round retina in a picture of 720 x 480 pixels with `ground` around it."""
    picture = np.full((HEIGHT, WIDTH, 3), ground, np.uint8)
    inside = (np.hypot(X, Y) < 0.497)[..., None]
    picture[TOP:TOP + SIDE, LEFT:LEFT + SIDE] = np.where(inside, retina, np.asarray(ground, np.uint8))
    return picture


def lit(share):
    """The retina with only a share of its light, a number or one for each pixel."""
    return (EYE * np.broadcast_to(share, (SIDE, SIDE))[..., None]).astype(np.uint8)


def paint(where, value):
    """The picture with one colour on a slice of it."""
    picture = place()
    picture[where] = value
    return picture


def write(text, at, size=1.0):
    return cv2.putText(place(), text, at, cv2.FONT_HERSHEY_SIMPLEX, size, (255, 255, 255), 3)


def within(side, at):
    """The retina of `side` pixels at (x, y) in a black picture of 1,200 x 800, and its circle."""
    picture = np.zeros((800, 1200, 3), np.uint8)
    small = cv2.resize(EYE, (side, side), interpolation=cv2.INTER_AREA)
    picture[at[1]:at[1] + side, at[0]:at[0] + side] = small
    return picture, np.array([at[0] + side / 2, at[1] + side / 2, side / 2])


NOISE = np.random.default_rng(0)
VIEWS = {
    "plain": place(), "right half at an eighth of the light": place(lit(np.where(X > 0, 0.12, 1))),
    "left half in shade": place(lit(np.clip(0.6 + 0.9 * X, 0.1, 1))),
    "a dark rim": place(lit(np.where(np.hypot(X, Y) > 0.38, 0.12, 1))),
    "underexposed": place(lit(0.12)), "on white": place(ground=255), "on grey": place(ground=128),
    "on blue": place(ground=(20, 40, 200)),
    "white panel": np.concatenate([place(), np.full((HEIGHT, 300, 3), 235, np.uint8)], axis=1),
    "grey panel": paint(np.s_[:, :120], 90), "banner above": paint(np.s_[:40], 245),
    "banner below": paint(np.s_[-40:], 245),
    "words in a corner": write("OD 2019-03-04", (10, 470)),
    "words that touch": write("RIGHT EYE 00123", (5, 250)),
    "white frame": cv2.rectangle(place(), (3, 3), (WIDTH - 4, HEIGHT - 4), (255, 255, 255), 4),
    "caliper": cv2.line(place(), (30, 60), (30, 420), (255, 255, 255), 3),
    "caliper that touches": cv2.line(place(), (100, 240), (200, 240), (255, 255, 255), 3),
    "reflection": cv2.ellipse(place(), (80, 240), (75, 200), 0, 0, 360, (235, 235, 235), -1),
    "noisy ground": np.clip(place() + NOISE.integers(0, 14, (HEIGHT, WIDTH, 3)), 0, 255).astype(np.uint8),
}


@pytest.mark.parametrize("name", VIEWS)
def test_the_circle_of_the_field_is_found(name):
    field = find_field(VIEWS[name])
    assert np.abs(np.array([field.x, field.y, field.radius]) - CIRCLE).max() < 4, field
    expected = np.array([LEFT, TOP, LEFT + SIDE, TOP + SIDE])
    assert np.abs(np.array(field.box) - expected).max() <= 0.03 * SIDE, f"{np.array(field.box) - expected}"
    assert field.coverage > 0.97 and not field.note


@pytest.mark.parametrize(
    "side, at", [(300, (60, 100)), (200, (700, 300)), (130, (20, 40)), (100, (900, 500))])
def test_small_retinas_are_found(side, at):
    picture, circle = within(side, at)
    field = find_field(picture)
    assert np.abs(np.array([field.x, field.y, field.radius]) - circle).max() < 0.02 * side + 1, field


@pytest.mark.parametrize("name", ["on white", "words that touch", "caliper that touches"])
def test_what_lies_around_the_circle_turns_black(name):
    square = crop_square(VIEWS[name])
    y, x = np.mgrid[:len(square), :len(square)] / (len(square) - 1) - 0.5
    assert square[np.hypot(x, y) > 0.53].max() < 30 and square[np.hypot(x, y) < 0.45].max(axis=1).min() > 30


def text_page():
    page = np.full((HEIGHT, WIDTH, 3), 250, np.uint8)
    for line in range(12):
        at = (20, 40 + 35 * line)
        cv2.putText(page, "the patient was seen on Monday", at, cv2.FONT_HERSHEY_SIMPLEX, 1, (0, 0, 0), 2)
    return page


def no_eyes():
    noise = NOISE.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    coarse = NOISE.integers(0, 256, (12, 18, 3), np.uint8)
    black, y = np.zeros((HEIGHT, WIDTH, 3), np.uint8), np.mgrid[:HEIGHT, :WIDTH][0]
    two = np.concatenate([place()[:, LEFT - 4:LEFT + SIDE + 4]] * 2, axis=1)
    board = np.kron(np.indices((8, 12)).sum(axis=0) % 2, np.full((60, 60), 255)).astype(np.uint8)
    triangle = np.array([[360, 20], [60, 460], [660, 460]])
    section = np.repeat((np.exp(-((y - 240) / 25.0) ** 2) * 220).astype(np.uint8)[..., None], 3, axis=2)
    return {
        "page of text": (text_page(), "no round field"),
        "page inverted": (255 - text_page(), "text or noise"),
        "noise": (noise, "text or noise"),
        "coarse noise": (cv2.resize(coarse, (WIDTH, HEIGHT)), "no round field"),
        "chessboard": (cv2.cvtColor(board, cv2.COLOR_GRAY2RGB), "text or noise|no r"),
        "gradient": (black + (np.arange(WIDTH) * 255 // WIDTH).astype(np.uint8)[:, None], "no round field"),
        "one colour": (black + np.uint8([180, 80, 40]), "no round field"), "black": (black, "black"),
        "a section": (section, "no r"), "two eyes": (two, "several round fields"),
        "rectangle": (cv2.rectangle(black.copy(), (100, 100), (620, 400), (200, 90, 40), -1),
                      "no round field"),
        "triangle": (cv2.fillPoly(black.copy(), [triangle], (200, 90, 40)), "no round field"),
    }


@pytest.mark.parametrize("name", no_eyes())
def test_what_has_no_round_field_is_refused(name):
    picture, reason = no_eyes()[name]
    with pytest.raises(RejectedImage, match=reason):
        find_field(picture)


def test_cut_fields_are_kept_and_noted():
    field = find_field(EYE[38:-38, 38:-38])  # the circle is seen in the corners only
    assert field.box == (0, 0, 308, 308) and abs(field.radius - SIDE / 2) < 6 and not field.note
    for cut in (60, 90):
        inner = EYE[cut:-cut, cut:-cut]
        assert "no edge" in find_field(inner).note and np.array_equal(crop_square(inner), inner)
    half = place()
    half[:, WIDTH // 2:] = 0
    assert "far from square" in find_field(half).note and 0.45 < find_field(half).coverage < 0.55


@pytest.mark.parametrize("cameras", ["one", "many"])
def test_simulated_photographs_come_out_as_they_are(cameras):
    for seed in range(12):
        image = simulate_patient((3, seed), render_size=256, cameras=cameras)[0].image
        left, top, right, bottom = find_field(image).box
        rows, columns = np.nonzero(cv2.GaussianBlur(image.max(axis=2), (3, 3), 0) > 40)
        assert left <= columns.min() and right > columns.max() and top <= rows.min() and bottom > rows.max()
        square, field = crop_field(image)
        shown = field.box
        assert np.array_equal(square[shown[1]:shown[3], shown[0]:shown[2]], image[top:bottom, left:right])


MEASURE = """
import sys
from retinalogos.data.images import read_photograph

def most():
    lines = open("/proc/self/status").read().split(chr(10))
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith("VmHWM")))

read_photograph(sys.argv[2])
before = most()
assert read_photograph(sys.argv[1]).shape == (4000, 3000, 3)
print((most() - before) / 12e6)
"""


def large_files(folder):
    """Files of 4,000 x 3,000 pixels; how many bytes a pixel may be needed (OpenCV decodes 16 bits in 12)."""
    y, x = np.mgrid[:4000, :3000]
    grey = (x // 12).astype(np.uint8)
    colour = np.repeat(grey[..., None], 3, axis=2)
    cv2.imwrite(str(folder / "deep.png"), colour.astype(np.uint16) * 256)
    cv2.imwrite(str(folder / "deep grey.png"), grey.astype(np.uint16) * 256)
    Image.fromarray(colour).convert("RGBA").save(folder / "alpha.png", compress_level=1)
    Image.fromarray(colour).convert("CMYK").save(folder / "cmyk.jpg")
    Image.fromarray(grey).convert("P").save(folder / "palette.gif")
    return {"deep.png": 14, "deep grey.png": 7, "alpha.png": 9, "cmyk.jpg": 9, "palette.gif": 9}


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="memory is read from /proc")
def test_memory_is_a_few_bytes_a_pixel(tmp_path):
    small = np.zeros((64, 64, 3), np.uint16) + 40
    cv2.imwrite(str(tmp_path / "small.png"), small)
    for name, most in large_files(tmp_path).items():
        command = [sys.executable, "-c", MEASURE, tmp_path / name, tmp_path / "small.png"]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert float(told) < most, f"{name}: {told.strip()} bytes a pixel"


def test_deep_pictures_keep_their_values(tmp_path):
    values = NOISE.integers(0, 65536, (700, 600, 3)).astype(np.uint16)  # more rows than a strip has
    values[0, 0] = 65535
    cv2.imwrite(str(tmp_path / "deep.png"), values[..., ::-1])
    assert np.array_equal(read_photograph(tmp_path / "deep.png"), values >> 8)
    Image.fromarray(values[..., 0] >> 4).save(tmp_path / "twelve.tif")
    assert np.array_equal(read_photograph(tmp_path / "twelve.tif")[..., 2], values[..., 0] >> 8)
    Image.fromarray(np.float32(values[..., 0] / 65535)).save(tmp_path / "F.tif")
    assert np.abs(read_photograph(tmp_path / "F.tif")[..., 1].astype(int) - (values[..., 0] >> 8)).max() <= 1
    opaque = np.where(values[..., 0] > 32767, 255, 0).astype(np.uint8)
    alpha = np.dstack([(values >> 8).astype(np.uint8), opaque])
    Image.fromarray(alpha).save(tmp_path / "alpha.png")
    assert np.array_equal(read_photograph(tmp_path / "alpha.png"), alpha[..., :3] * (alpha[..., 3:] > 0))


def turn(image, degrees):
    size = len(image)
    return cv2.warpAffine(image, cv2.getRotationMatrix2D((size / 2 - 0.5,) * 2, degrees, 1), (size, size))


COPIES = {  # how, mirrored
    "re-saved": (lambda i: i, False), "mirrored": (lambda i: i[:, ::-1], True),
    "upside down": (lambda i: i[::-1], True),
    "turned by 90": (lambda i: np.rot90(i), False), "turned by 180": (lambda i: np.rot90(i, 2), False),
    "turned by 270": (lambda i: np.rot90(i, 3), False), "transposed": (lambda i: i.transpose(1, 0, 2), True),
    "transposed, turned": (lambda i: np.rot90(i, 2).transpose(1, 0, 2), True),
    "turned by 3": (lambda i: turn(i, 3), False),
    "turned by -10": (lambda i: turn(i, -10), False), "turned by 45": (lambda i: turn(i, 45), False),
    "cropped by 5 %": (lambda i: i[19:-19, 19:-19], False),
    "cropped, mirrored": (lambda i: i[15:-15, -15:15:-1], True),
    "half the size": (lambda i: cv2.resize(i, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA), False),
    "brighter": (lambda i: np.clip(i * 1.3, 0, 255).astype(np.uint8), False),
}


def jpeg(image):
    data = cv2.imencode(".jpg", np.ascontiguousarray(image), [cv2.IMWRITE_JPEG_QUALITY, 80])[1]
    return cv2.imdecode(data, cv2.IMREAD_COLOR)


@pytest.fixture(scope="module")
def strangers():
    """Both eyes of eight simulated patients, none a copy of another, and their thumbnails."""
    pairs = [simulate_patient((17, seed), render_size=SIDE, cameras="one") for seed in range(8)]
    eyes = [eye.image for pair in pairs for eye in pair]
    return eyes, np.stack([thumbnail(*crop_field(eye)) for eye in eyes])


@pytest.mark.parametrize("name", COPIES)
def test_copies_are_found_however_turned(name, strangers):
    (eyes, thumbnails), (change, mirrored) = strangers, COPIES[name]
    changed = np.stack([thumbnail(*crop_field(jpeg(change(eye)))) for eye in eyes[:6]])
    copies = turned_copies(np.concatenate([thumbnails, changed]))
    expected = [(k, len(eyes) + k, mirrored) for k in range(6)]
    assert [(copy.first, copy.second, copy.mirrored) for copy in copies] == expected


def test_many_pictures_are_compared_by_bands_with_the_same_result(strangers, monkeypatch):
    _, thumbnails = strangers
    eyes = strangers[0]
    changed = np.stack([thumbnail(*crop_field(jpeg(np.rot90(eye)[:, ::-1]))) for eye in eyes])
    both = np.concatenate([thumbnails, changed])
    few = turned_copies(both)
    monkeypatch.setattr("retinalogos.data.images.FEW", 1)
    assert turned_copies(both) == few and len(few) == len(eyes)


def test_flat_pictures_are_no_copies():
    flat = np.stack([thumbnail(np.full((64, 64, 3), 90 + k, np.uint8)) for k in range(3)])
    assert turned_copies(flat) == []


def hazy_eye(seed, side):
    """A retina in haze: a bright disc, and faint vessels that differ from eye to eye."""
    rng, eye = np.random.default_rng(seed), np.zeros((SIDE, SIDE, 3), np.uint8)
    cv2.circle(eye, (SIDE // 2, SIDE // 2), SIDE // 2 - 4, (150, 90, 50), -1)
    for _ in range(14):
        path = np.cumsum(rng.normal(0, 14, (40, 2)) + rng.normal(0, 7, 2), axis=0) + (side * SIDE, SIDE / 2)
        cv2.polylines(eye, [path.astype(np.int32)], False, (130, 70, 40), 4)
    eye = cv2.circle(eye, (round(side * SIDE), SIDE // 2), 22, (250, 180, 170), -1)
    return cv2.GaussianBlur(eye, (0, 0), 1.5) * (np.hypot(X, Y) < 0.48)[..., None]


def test_a_bright_disc_in_the_same_place_makes_no_copy():
    eyes = [hazy_eye(seed, side) for seed, side in enumerate((0.75, 0.75, 0.25, 0.25))]
    thumbnails = np.stack([thumbnail(*crop_field(eye)) for eye in [*eyes, eyes[0][:, ::-1]]])
    assert [(copy.first, copy.second) for copy in turned_copies(thumbnails)] == [(0, 4)]


def built(folder, pictures, eyes, **options):
    """Records, rejects and notes of the data set of these pictures by name, with a side each."""
    (folder / "set/images").mkdir(parents=True)
    for name, picture in pictures.items():
        Image.fromarray(np.ascontiguousarray(picture)).save(folder / "set/images" / name)
    rows = "".join(f"{name},{eyes.get(name, '')},p{k}\n" for k, name in enumerate(pictures))
    (folder / "set/labels.csv").write_text("image,eye,patient\n" + rows, encoding="utf-8")
    source = FolderSource(folder / "set", columns={"eye": "eye", "patient": "patient"})
    sizes = dict(low_resolution=32, high_resolution=128, seed=0, val_fraction=0.3, test_fraction=0.3)
    build_dataset(folder / "out", source, **sizes, **options)
    records = load_records(folder / "out").set_index("file")
    notes = load_notes(folder / "out").set_index("image_id").note
    told = {file: notes.get(image_id, "") for file, image_id in records.image_id.items()}
    return records, load_rejects(folder / "out").set_index("file").reason, told


@pytest.mark.parametrize("side, words", [("OS", "one eye is counted as two"), ("OD", "the wrong way round")])
def test_a_mirrored_copy_is_noted_and_stays_in_one_split(tmp_path, strangers, side, words):
    eyes = strangers[0]
    pictures = {"a.png": place(EYE), "b.png": place(EYE[:, ::-1])} | {f"{k}.png": eyes[k] for k in range(8)}
    records, _, notes = built(tmp_path, pictures, {"a.png": "OD", "b.png": side})
    assert records.split["images/a.png"] == records.split["images/b.png"]
    assert "a mirrored copy of images/a.png" in notes["images/b.png"]
    assert words in notes["images/a.png"] and words in notes["images/b.png"]
    assert not any(notes[f"images/{k}.png"] for k in range(8))


def test_pictures_without_an_eye_and_of_too_little_quality_are_rejected_with_a_reason(tmp_path):
    pictures = {"good.png": place(), "text.png": text_page(), "noise.png": no_eyes()["noise"][0],
                "blurred.png": place(cv2.GaussianBlur(EYE, (0, 0), 25)),
                "small.png": within(130, (20, 40))[0]}
    records, rejects, _ = built(tmp_path, pictures, {})
    assert set(rejects.index) == {"images/text.png", "images/noise.png"}
    score = records.quality_score["images/blurred.png"]
    assert score < 0.5 * records.quality_score["images/good.png"]
    records, rejects, _ = built(tmp_path / "strict", pictures, {}, min_quality=0.5)
    assert rejects["images/blurred.png"] == f"quality score {score:.2f} is below dataset.min_quality 0.5"
    assert "images/good.png" in records.index


def test_the_score_of_a_photograph_is_that_of_its_crop(tmp_path):
    expected = quality_score(crop_square(place()))
    assert quality_score(crop_square(VIEWS["white panel"])) == pytest.approx(expected, abs=0.03)
