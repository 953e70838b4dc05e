"""Real label layouts: on the real files where ../shared/realdata lies, else on a small folder of the same layout."""
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from retinalogos.captions.examine import examine_table
from retinalogos.captions.template import caption_table
from retinalogos.data.anatomy import draw_patient
from retinalogos.data.dataset import build_dataset, load_findings, load_images, load_records, load_rejects
from retinalogos.data.images import crop_square, near_duplicates, read_photograph, resize, thumbnail
from retinalogos.data.simulate import simulate_patient
from retinalogos.data.named_sets import open_source
from retinalogos.data.sources import FolderSource, Reject, SourceItem, read_keywords

REAL = Path(__file__).resolve().parents[2] / "shared" / "realdata"
COMMA = "，"
ROWS = [  # (eye, keywords) of made patients in ODIR's words
    (("left", "normal fundus"), ("right", f"moderate non proliferative retinopathy{COMMA}hypertensive retinopathy")),
    (("left", "glaucoma"), ("right", "suspected glaucoma")),
    (("left", "dry age-related macular degeneration"), ("right", f"drusen{COMMA}lens dust")),
    (("left", "severe proliferative diabetic retinopathy"), ("right", f"mild nonproliferative retinopathy{COMMA}laser spot")),
    (("left", "pathological myopia"), ("right", "cataract")),
    (("left", "diabetic retinopathy"), ("right", "normal fundus")),
]


def made_odir(root):
    """A folder in ODIR's layout with simulated eyes in place of photographs, one of them stored under two names."""
    (root / "images").mkdir(parents=True)
    rows = []
    for number, sides in enumerate(ROWS):
        pictures = {eye.record.eye: eye.image for eye in simulate_patient(number, render_size=128)}
        for side, keywords in sides:
            names = [f"{number}_{side}_60_Male_{letters}.jpg" for letters in (("DH", "H") if "hypertensive" in keywords else ("X",))]
            for name in names:
                cv2.imwrite(str(root / "images" / name), pictures["OS" if side == "left" else "OD"][..., ::-1])
                rows.append({"image": name, "ID": number, "eye": side, "age": 60, "sex": "Male", "keywords": keywords, "N": 0, "D": 1})
    pd.DataFrame(rows).to_csv(root / "labels.csv", index=False)
    return root


@pytest.fixture(scope="module", params=["made", "real"])
def odir(request, tmp_path_factory):
    if request.param == "made": return made_odir(tmp_path_factory.mktemp("odir") / "set")
    if not (REAL / "odir_256" / "labels.csv").is_file(): pytest.skip("the real photographs are not on this machine")
    return REAL / "odir_256"


@pytest.fixture(scope="module")
def items(odir):
    return list(open_source("odir", odir).items())


def test_every_row_and_every_photograph_is_accounted_for(odir, items):
    table = pd.read_csv(odir / "labels.csv")
    used = [item for item in items if isinstance(item, SourceItem)]
    assert len(used) == len(table) == len(list((odir / "images").iterdir())), [i for i in items if isinstance(i, Reject)][:5]


def test_records_follow_the_keywords_of_the_eye(odir, items):
    table = pd.read_csv(odir / "labels.csv").set_index("image")
    grades = {"mild nonproliferative retinopathy": 1, "moderate non proliferative retinopathy": 2, "severe nonproliferative retinopathy": 3,
              "proliferative diabetic retinopathy": 4, "normal fundus": 0, "glaucoma": None}
    for item in items:
        row = table.loc[item.file.name]
        assert item.record.report == row.keywords and item.patient_id == str(row.ID) and item.age == (row.age if row.age > 1 else None) and item.sex == row.sex.lower()
        assert item.record.eye == {"left": "OS", "right": "OD"}[row.eye]
        if row.keywords in grades: assert item.record.dr_grade == grades[row.keywords], row.keywords
        assert ("glaucoma" in item.record.disease_labels) == ("glaucoma" in row.keywords.split(COMMA))
        if row.keywords == "normal fundus": assert item.record.general_label == "normal" and not item.record.disease_labels


def test_a_data_set_is_built_with_patients_whole_and_copies_out(odir, tmp_path):
    out = tmp_path / "dataset"
    counts = build_dataset(out, open_source("odir", odir), low_resolution=32, high_resolution=64, seed=5, max_images=120, workers=2)
    records, rejects = load_records(out), load_rejects(out)
    assert counts["images"] == len(records) <= 120 and set(records.source) == {"odir"} and len(load_findings(out)) == 0
    assert (records.groupby("patient_id").split.nunique() == 1).all() and counts["train"] > 0
    assert rejects.reason.str.contains("the same pixels as").all()
    ids, images = load_images(out, "train")
    assert images.shape[1:] == (64, 64, 3) and ids == records.image_id[records.split == "train"].tolist()
    if odir != REAL / "odir_256": assert len(rejects) == 1


def test_captions_of_real_records_state_only_what_is_recorded(odir, tmp_path):
    out = tmp_path / "dataset"
    build_dataset(out, open_source("odir", odir), low_resolution=32, high_resolution=32, seed=5, max_images=120)
    records = load_records(out)
    captions = caption_table(records, load_findings(out), seed=1, error_fraction=0.)
    examination = examine_table(captions, records)
    assert examination.faithful.all(), examination.contradictions[~examination.faithful].tolist()[:3]
    assert examination.stated_eye.notna().all() and examination.stated_disc_side.isna().all()
    assert not captions.caption.str.contains("cup-to-disc").any()


def test_all_official_odir_keywords_are_known():
    words = ["normal fundus", "macular epiretinal membrane", "myelinated nerve fibers", "branch retinal vein occlusion", "suspicious diabetic retinopathy"]
    table = REAL / "labels" / "odir" / "full_df.csv"
    if table.is_file():
        columns = pd.read_csv(table)[["Left-Diagnostic Keywords", "Right-Diagnostic Keywords"]]
        words = sorted({word.strip() for text in columns.to_numpy().ravel() for word in text.split(COMMA)})
    for word in words:
        if word in ("anterior segment image", "no fundus image"): continue
        read_keywords(word)  # raises RejectedImage when unknown


# layouts of other label files: (columns, pattern, table text, expected (patient, eye, grade, glaucoma))
LAYOUTS = {
    "eyepacs": ({"dr_grade": "level"}, r"(?P<patient>\d+)_(?P<eye>left|right)", "image,level\nA_10_left,2\n", ("10", "OS", 2, None)),
    "aptos": ({"image": "id_code", "dr_grade": "diagnosis"}, None, "id_code,diagnosis\nA_10_left,4\n", ("A_10_left", None, 4, None)),
    "idrid": ({"image": "Image name", "dr_grade": "Retinopathy grade"}, None,
              "Image name,Retinopathy grade,Risk of macular edema ,,\r\nA_10_left,0,0,,\r\n", ("A_10_left", None, 0, None)),
    "eyeq": ({"dr_grade": "DR_grade", "quality": "quality"}, None, ",image,quality,DR_grade\n0,A_10_left.jpeg,1,3\n", ("A_10_left", None, 3, None)),
    "g1020": ({"image": "imageID", "glaucoma": "binaryLabels"}, None, "imageID,binaryLabels\nA_10_left.jpeg,1\n", ("A_10_left", None, None, True)),
    "airogs": ({"image": "challenge_id", "glaucoma": "class"}, None, "﻿challenge_id,class\nA_10_left,NRG\n", ("A_10_left", None, None, False)),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_other_layouts_are_a_matter_of_naming_columns(name, tmp_path):
    columns, pattern, text, expected = LAYOUTS[name]
    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "images" / "A_10_left.jpeg"), np.full((64, 64, 3), 90, np.uint8))
    (tmp_path / "labels.csv").write_text(text, encoding="utf-8", newline="")
    (item,) = FolderSource(tmp_path, columns=columns, name_pattern=pattern).items()
    assert isinstance(item, SourceItem), item
    assert (item.patient_id, item.record.eye, item.record.dr_grade, item.record.glaucoma) == expected


def crops(image):
    """An image, and the same one re-saved smaller with its sides cut: what a second repository does to a photograph."""
    side = len(image)
    smaller = cv2.resize(image[:, side // 40:-side // 40], None, fx=.6, fy=.6, interpolation=cv2.INTER_AREA)
    return image, cv2.imdecode(cv2.imencode(".jpg", smaller, [cv2.IMWRITE_JPEG_QUALITY, 80])[1], cv2.IMREAD_COLOR)


@pytest.mark.parametrize("kind", ["made", "real"])
def test_known_near_duplicates_are_found_and_nothing_else(kind):
    if kind == "made":  # round fields only: with a field cut flat above and below, cut sides change what square is taken
        round_fields = [seed for seed in range(20) if draw_patient(np.random.default_rng((9, seed))).camera.field_cut == 1][:6]
        images = [image for seed in round_fields for image in crops(simulate_patient((9, seed), render_size=256)[0].image)]
    elif not (REAL / "idrid_seg_fullres").is_dir(): pytest.skip("the real photographs are not on this machine")
    else:
        folder = REAL / "idrid_seg_fullres"
        pairs = pd.read_csv(folder / "duplicates.csv")
        names = [folder / name for pair in zip(pairs.image, pairs.same_photo_as) for name in pair]
        names += [REAL / "odir_original/images/760_left.jpg", REAL / "odir_256/images/760_left_56_Female_M.jpg"]
        images = [read_photograph(name.resolve()) for name in names]
        assert len(images) == 18
    squares = [resize(crop_square(image), 256) for image in images]
    found = near_duplicates(np.stack([thumbnail(s) for s in squares]))
    assert found == [(k, k + 1) for k in range(0, len(images), 2)]
