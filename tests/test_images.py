"""The retina is found whatever stands around it, and what shows none is refused; copies that were turned or mirrored are found."""
import tracemalloc

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from retinalogos.data.dataset import build_dataset, load_notes, load_records, load_rejects
from retinalogos.data.images import (RejectedImage, _eight_bit, field_of_view, near_duplicates, read_photograph, thumbnail,
                                     turned_duplicates)
from retinalogos.data.simulate import simulate_patient
from retinalogos.data.sources import FolderSource

SIDE, HEIGHT, WIDTH, LEFT, TOP = 256, 320, 480, 112, 32
EYE = simulate_patient(29, render_size=SIDE, cameras="one")[0].image
ACROSS = np.mgrid[:SIDE, :SIDE][1] / (SIDE - 1) - 0.5
WHOLE = (LEFT, TOP, LEFT + SIDE, TOP + SIDE)


def place(retina=EYE, ground=0):
    picture = np.full((HEIGHT, WIDTH, 3), ground, np.uint8)
    picture[TOP:TOP + SIDE, LEFT:LEFT + SIDE] = np.where(retina.max(2, keepdims=True) > 0, retina, ground)
    return picture


def lit(share):
    return (EYE * np.broadcast_to(share, (SIDE, SIDE))[..., None]).astype(np.uint8)


def within(side, frame=(1000, 1500)):
    large = np.zeros((*frame, 3), np.uint8)
    large[300:300 + side, 500:500 + side] = cv2.resize(EYE, (side, side), interpolation=cv2.INTER_AREA)
    return large, (500, 300, 500 + side, 300 + side)


def words(text, at, size):
    return cv2.putText(place(), text, at, cv2.FONT_HERSHEY_SIMPLEX, size, (255, 255, 255), 2)


FOUND = {
    "plain": (place(), WHOLE), "white panel": (np.concatenate([place(), np.full((HEIGHT, 180, 3), 235, np.uint8)], axis=1), WHOLE),
    "grey panel": (np.concatenate([place(), np.full((HEIGHT, 180, 3), 120, np.uint8)], axis=1), WHOLE),
    "banner below": (np.concatenate([place(), np.full((60, WIDTH, 3), 245, np.uint8)]), WHOLE), "words in a corner": (words("OD 2019", (5, 315), 0.6), WHOLE),
    "thin frame": (cv2.rectangle(place(), (1, 1), (WIDTH - 2, HEIGHT - 2), (255, 255, 255), 1), WHOLE), "white paper": (place(ground=255), WHOLE),
    "half in shade": (place(lit(np.where(ACROSS > 0, 0.12, 1))), WHOLE), "30 % of the light": (place(lit(0.3)), WHOLE), "12 % of the light": (place(lit(0.12)), WHOLE),
    "a reflection outside": (cv2.ellipse(place(), (52, 160), (48, 140), 0, 0, 360, (235, 235, 235), -1), WHOLE),
    "3 % of a frame": within(240), "8 % of a frame": within(390),
}


@pytest.mark.parametrize("name", FOUND)
def test_the_retina_is_found(name):
    picture, true = FOUND[name]
    assert np.abs(np.array(field_of_view(picture)) - true).max() <= 0.05 * (true[2] - true[0]), field_of_view(picture)


def test_words_that_touch_the_retina_cut_nothing_off():
    box = field_of_view(words("RIGHT EYE 00123", (2, 165), 0.7))
    assert box[0] <= LEFT + 2 and abs(box[2] - WHOLE[2]) <= 8 and abs(box[1] - WHOLE[1]) <= 8 and abs(box[3] - WHOLE[3]) <= 8


def page():
    picture = np.full((HEIGHT, WIDTH, 3), 250, np.uint8)
    for k in range(8):
        cv2.putText(picture, "The retina of the right eye", (10, 35 + 36 * k), cv2.FONT_HERSHEY_SIMPLEX, 0.9, (20, 20, 20), 2)
    return picture


NONE = {
    "text": page(), "noise": np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8), "one colour": np.full((96, 96, 3), (180, 90, 40), np.uint8),
    "rectangle": cv2.rectangle(np.zeros((HEIGHT, WIDTH, 3), np.uint8), (60, 60), (400, 200), (200, 110, 60), -1),
    "two eyes": np.concatenate([place(), place()], axis=1), "black": np.zeros((96, 96, 3), np.uint8),
    "chessboard": np.kron(np.indices((8, 8)).sum(0) % 2, np.ones((32, 32)))[..., None].repeat(3, 2).astype(np.uint8) * 255,
    "grey gradient": np.broadcast_to(np.linspace(0, 255, 256)[:, None], (256, 256))[..., None].repeat(3, 2).astype(np.uint8),
}


@pytest.mark.parametrize("name", NONE)
def test_what_shows_no_single_retina_is_refused(name):
    with pytest.raises(RejectedImage, match="no (single )?retina found"):
        field_of_view(NONE[name])


def test_a_crop_inside_the_field_is_taken_whole():
    assert field_of_view(EYE[48:208, 48:208]) == (0, 0, 160, 160)


@pytest.mark.parametrize("dtype, values", [(np.uint16, 65535), (np.int32, 4095)])
def test_deep_pictures_need_no_more_than_their_own_memory(dtype, values):
    deep = np.random.default_rng(0).integers(0, values, (2000, 1500, 3)).astype(dtype)
    tracemalloc.start()
    eight = _eight_bit(deep)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * deep.size and eight.dtype == np.uint8
    assert (eight == (deep.astype(np.int64) >> (8 if values > 4095 else 4))).all()


def test_grey_levels_between_0_and_1(tmp_path):
    Image.fromarray((EYE[..., 1] / 255).astype(np.float32), "F").save(tmp_path / "f.tif")
    assert np.abs(read_photograph(tmp_path / "f.tif")[..., 0].astype(int) - EYE[..., 1] * (EYE[..., 1].max() < 256)).max() <= 128
    assert read_photograph(tmp_path / "f.tif").max() > 100


TURNS = {"mirrored": lambda image: image[:, ::-1], "turned by 180 degrees": lambda image: np.rot90(image, 2), "turned by 90 degrees": lambda image: np.rot90(image, -1),
         "upside down": lambda image: image[::-1]}


@pytest.mark.parametrize("name", TURNS)
def test_turned_and_mirrored_copies_are_found_and_other_eyes_are_not(name):
    eyes = [eye.image for k in range(12) for eye in simulate_patient((5, k), 256)]
    copy = np.ascontiguousarray(TURNS[name](eyes[7]))
    found = turned_duplicates(np.stack([thumbnail(image) for image in [*eyes, copy]]))
    assert list(found) == [(7, 24)] and near_duplicates(np.stack([thumbnail(image) for image in [*eyes, copy]])) == []


def write_set(folder, pictures, eyes):
    (folder / "images").mkdir(parents=True)
    for k, picture in enumerate(pictures):
        Image.fromarray(np.ascontiguousarray(picture)).save(folder / f"images/{k:02d}.png")
    pd.DataFrame({"image": [f"{k:02d}.png" for k in range(len(pictures))], "eye": eyes}).to_csv(folder / "labels.csv", index=False)
    return FolderSource(folder, columns={"eye": "eye"})


def test_a_mirrored_copy_stays_on_one_side_and_is_noted(tmp_path):
    eyes = [eye.image for k in range(8) for eye in simulate_patient((6, k), 256)]
    source = write_set(tmp_path / "set", [*eyes, eyes[0][:, ::-1]], ["OD", "OS"] * 8 + ["OS"])
    build_dataset(tmp_path / "out", source, low_resolution=64, high_resolution=128, seed=1, val_fraction=0.3, test_fraction=0.3)
    records, notes = load_records(tmp_path / "out").set_index("image_id"), load_notes(tmp_path / "out")
    copies = ["set-images-00", "set-images-16"]
    assert records.loc[copies, "split"].nunique() == 1 and sorted(notes.image_id) == copies
    assert all("mirrored; labelled OD and OS, of which one is wrong" in note for note in notes.note)


def test_too_little_quality_is_refused_with_its_score(tmp_path):
    sharp, blurred = EYE, cv2.GaussianBlur(EYE, (0, 0), 9)
    source = write_set(tmp_path / "set", [sharp, blurred], ["OD", "OD"])
    kept = build_dataset(tmp_path / "all", source, low_resolution=64, high_resolution=128, seed=1, val_fraction=0.0, test_fraction=0.0)
    assert kept["images"] == 2
    build_dataset(tmp_path / "out", source, low_resolution=64, high_resolution=128, seed=1, val_fraction=0.0, test_fraction=0.0, min_quality=0.5)
    rejects = load_rejects(tmp_path / "out")
    assert rejects.file.tolist() == ["images/01.png"] and "below dataset.min_quality 0.5" in rejects.reason[0]
