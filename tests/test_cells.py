"""Cells, names, links and tables as other programs write them: each has one right reading, or one sentence that refuses it."""
import csv
import random
import re
from pathlib import Path

import cv2
import numpy as np
import openpyxl
import pytest

import retinalogos.data.sources as sources
from retinalogos.captions.examine import examine, extract_facts
from retinalogos.captions.template import STYLES, caption_record
from retinalogos.config import UserError
from retinalogos.data.dataset import build_dataset, load_images, load_records, name_images
from retinalogos.data.images import RejectedImage
from retinalogos.data.named_sets import BRSET_FINDINGS, BRSET_PARTS, open_source
from retinalogos.data.records import EyeRecord
from retinalogos.data.sources import DISEASE_WORDS, SIGN_WORDS, FolderSource, Reject, read_cells, read_keywords, read_table

READ = {
    "eye": {"OD": "OD", "o.d.": "OD", "Right eye": "OD", "right-eye": "OD", "R.": "OD", " L ": "OS", "LEFT_EYE": "OS", "os": "OS"},
    "glaucoma": {"True": True, "FALSE": False, "Y": True, "n": False, "1.0": True, " 0 ": False, "1.": True, "1,0": True},
    "dr_grade": {"2.0": 2, " 2 ": 2, "2,0": 2, "0": 0, "PDR": 4, "Moderate": 2,
                 "severe non-proliferative diabetic retinopathy": 3, "No DR": 0},
    "quality": {"Adequate": "good", "Inadequate": "reject", "1.0": "usable"},
    "age": {"57": 57, "57.5": 57.5, "57,5": 57.5, "90+": 90, ">89": 90, ">=90": 90, "045Y": 45, "006M": 0.5, "57 years": 57},
    "sex": {"F": "female", "Male": "male"},
}
BLANK = ("", "N/A", "n.a.", "NULL", "NaN", "-", "–", "None", "nan", "#N/A", "<NA>", "unknown")


@pytest.mark.parametrize("field, cell, value", [(f, cell, value) for f, cells in READ.items() for cell, value in cells.items()])
def test_a_cell_is_read(field, cell, value):
    values, notes = read_cells({field: cell})
    assert (values[field], notes) == (value, [])


@pytest.mark.parametrize("field", READ)
@pytest.mark.parametrize("cell", BLANK)
def test_a_blank_is_missing_and_no_fault(field, cell):
    assert read_cells({field: cell}) == ({field: None}, [])


@pytest.mark.parametrize("field, cell", [("sex", "U"), ("sex", "O"), ("sex", "2"), ("age", "300"), ("age", "121"), ("age", "-1"), ("age", "old")])
def test_a_cell_that_no_caption_uses_costs_no_photograph(field, cell):
    values, notes = read_cells({field: cell})
    assert values == {field: None} and len(notes) == 1 and field in notes[0] and cell in notes[0]


@pytest.mark.parametrize("field, cell", [("eye", "1"), ("eye", "OU"), ("dr_grade", "-1"), ("dr_grade", "5"), ("dr_grade", "2.5"),
                                         ("glaucoma", "2"), ("glaucoma", "0.5"), ("quality", "x")])
def test_a_cell_that_cannot_be_read_is_named(field, cell):
    with pytest.raises(RejectedImage, match=f"{field} '{re.escape(cell)}'"):
        read_cells({field: cell})


def test_ids_are_unique_also_where_case_does_not_count():
    draw = random.Random(0)
    for _ in range(2000):
        files = ["".join(draw.choice("xX.23-/ ä") for _ in range(draw.randint(1, 5))) + ".jpg" for _ in range(6)]
        assert len({name.lower() for name in name_images(["s"] * 6, files)}) == 6, files
    many = name_images(["s"] * 20_000, ["眼.jpg"] * 20_000)  # a search from 1 for each would not end
    assert len(set(many)) == 20_000 and many[-1] == "s--.20000"


def test_three_photographs_of_one_stem_keep_their_own_pixels(tmp_path):
    (tmp_path / "images").mkdir()
    for number, name in enumerate(("x.jpg", "x.2.jpg", "x.png")):
        picture = np.zeros((96, 96, 3), np.uint8)
        cv2.circle(picture, (48, 48), 44, (60, 90, 120 + 40 * number), -1)
        cv2.circle(picture, (20 + 25 * number, 48), 9, (190, 220, 250), -1)
        cv2.imwrite(str(tmp_path / "images" / name), picture)
    (tmp_path / "labels.csv").write_text("image\nx.jpg\nx.2.jpg\nx.png\n")
    build_dataset(tmp_path / "out", FolderSource(tmp_path, name="s"), low_resolution=16, high_resolution=32, seed=0)
    files = dict(zip(load_records(tmp_path / "out")["image_id"], load_records(tmp_path / "out")["file"]))
    ids, pictures = load_images(tmp_path / "out")
    red = {files[i]: int(picture[24, 16, 0]) // 40 for i, picture in zip(ids, pictures)}
    assert len(set(ids)) == 3 and len(set(red.values())) == 3, red


@pytest.fixture
def linked(tmp_path):
    """A folder of one photograph, one link to a photograph elsewhere, and one linked folder with a photograph."""
    (tmp_path / "set" / "images").mkdir(parents=True)
    (tmp_path / "store").mkdir()
    for path in ("set/images/own.png", "store/A.png", "store/b.png"):
        cv2.imwrite(str(tmp_path / path), np.full((40, 40, 3), 90, np.uint8))
    (tmp_path / "set/images/A.png").symlink_to(tmp_path / "store/A.png")
    (tmp_path / "set/images/sub").symlink_to(tmp_path / "store")
    (tmp_path / "set/images/circle").symlink_to(tmp_path / "set/images")
    (tmp_path / "set/images/._own.png").write_bytes(b"\0\5\x16\7")
    (tmp_path / "set/labels.csv").write_text("image\nown.png\nA.png\nb.png\n")
    return tmp_path / "set"


def test_links_are_followed_where_a_setting_allows_it(linked):
    kept = [item.file.name for item in FolderSource(linked, follow_links=True).items() if not isinstance(item, Reject)]
    assert kept == ["own.png", "A.png", "b.png"]


def test_links_are_refused_by_name_of_the_setting(linked):
    items = list(FolderSource(linked).items())
    lost = {item.file: item.reason for item in items if isinstance(item, Reject)}
    assert len(items) - len(lost) == 1 and "link out of" in lost["A.png"] and "follow_links" in lost["A.png"]
    assert not any("._" in file for file in lost)


@pytest.mark.parametrize("text, eye", [("﻿image,eye\na.png,OD\n", "OD"), ("image;eye\na.png;OD\n", "OD"), ("image\teye\na.png\tOD\n", "OD"),
                                       ('image;"a, b, c";eye\na.png;x;OD\n', "OD"), ('image,"a; b; c; d",eye\na.png,x,OD\n', "OD")])
def test_a_table_is_read_whatever_separates_its_cells(text, eye, tmp_path):
    (tmp_path / "t.csv").write_text(text, encoding="utf-8")
    assert read_table(tmp_path / "t.csv", ["image", "eye"])[0]["eye"].tolist() == [eye]


def test_wide_tables_are_refused(tmp_path):
    (tmp_path / "t.csv").write_text("image" + ",x" * 2000 + "\n")
    with pytest.raises(UserError, match="2,001 cells in row 1"):
        read_table(tmp_path / "t.csv", ["image"])


def test_long_workbooks_are_refused(tmp_path, monkeypatch):
    book = openpyxl.Workbook()
    book.active["A1"], book.active["A50"] = "image", "a.png"
    book.save(tmp_path / "t.xlsx")
    assert read_table(tmp_path / "t.xlsx", ["image"])[0]["image"].tolist() == ["a.png"]
    monkeypatch.setattr(sources, "MAX_ROWS", 20)
    with pytest.raises(UserError, match="more than 20 rows"):
        read_table(tmp_path / "t.xlsx", ["image"])


@pytest.mark.parametrize("none, one", [("0", "1"), ("0.0", "1.0"), ("False", "True"), ("no", "yes")])
@pytest.mark.parametrize("file", ["labels_brset.csv", "labels.csv"])
def test_brset_flags(none, one, file, tmp_path):
    (tmp_path / "fundus_photos").mkdir()
    rows = [{"image_id": name, "patient_id": name, "patient_age": "48", "patient_sex": "1", "exam_eye": "1.0", "DR_ICDR": "0.0",
             "quality": quality, **dict.fromkeys(BRSET_PARTS, "1.0"), **dict.fromkeys(BRSET_FINDINGS, none), "scar": scar}
            for name, quality, scar in (("a", "Adequate", none), ("b", "Inadequate", one))]
    for name in "ab":
        cv2.imwrite(str(tmp_path / f"fundus_photos/{name}.jpg"), np.full((40, 40, 3), 90, np.uint8))
    (tmp_path / file).write_text("\n".join([",".join(rows[0]), *(",".join(row.values()) for row in rows)]))
    records = [item.record for item in open_source("brset", tmp_path).items()]
    assert [(r.eye, r.image_quality, r.general_label, r.subclinical_labels) for r in records] == [
        ("OD", "good", "normal", ()), ("OD", "reject", "abnormal", ("chorioretinal_scar",))]


def random_record(draw: random.Random) -> EyeRecord:
    """A sparse record of diseases and signs that label files name."""
    diseases = [name.replace(" ", "_") for name in draw.sample(sorted(DISEASE_WORDS | {"diabetic retinopathy"}), draw.choice([0, 1, 1, 2]))]
    signs = [name.replace(" ", "_") for name in draw.sample(sorted(SIGN_WORDS), draw.choice([0, 0, 1, 2]))]
    grades = {"diabetic_retinopathy": draw.randint(1, 4)} if "diabetic_retinopathy" in diseases else {}
    return EyeRecord(eye=draw.choice([None, "OD", "OS"]), image_quality=draw.choice([None, "good", "usable", "reject"]),
                     disease_labels=diseases, subclinical_labels=signs, grade_labels=grades,
                     general_label="abnormal" if diseases or signs else draw.choice([None, "normal"]))


def test_captions_state_only_what_a_sparse_record_says():
    draw = random.Random(1)
    for number in range(600):
        record = random_record(draw)
        named = extract_facts(", ".join((*record.disease_labels, *record.subclinical_labels)).replace("_", " ")).stated_lesions
        for style in STYLES:
            caption = caption_record(record, None, np.random.default_rng(number), style)
            facts = extract_facts(caption)
            assert "cup" not in caption or "large_cup_to_disc_ratio" in record.subclinical_labels, (caption, record)
            assert set(facts.stated_lesions) <= {*record.subclinical_labels, *record.disease_labels, *named}, (caption, record)
            assert facts.disc_side is None and facts.cup_to_disc is None and facts.eye in (None, record.eye), (caption, record)
            assert not (facts.denied_lesions or facts.no_lesions) or record.general_label == "normal", (caption, record)
            assert examine(caption, record).contradictions == (), (caption, record)


def reading(keyword: str) -> str:
    """What a keyword says, in the words of `odir_keywords.csv`."""
    try:
        labels = read_keywords(keyword)
    except RejectedImage as error:
        return error.reason.rpartition(": ")[2]
    grade = [] if labels.dr_grade is None else [f"grade {labels.dr_grade}"]
    words = [*grade, "normal" * labels.normal, labels.quality, *labels.diseases, *labels.signs]
    return " + ".join(filter(None, words))


def test_the_keywords_of_the_official_odir_workbook():
    with open(Path(__file__).parent / "odir_keywords.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 102
    assert {row["keyword"]: reading(row["keyword"]) for row in rows} == {row["keyword"]: row["reading"] for row in rows}
