"""Every named set: on a small folder of its documented layout, and on its real label file where ../shared/realdata lies.

The layouts are those of `../shared/realdata/labels/FORMATS.md`. Where no label file of a set was found (AIROGS, ORIGA, PAPILA, REFUGE2,
BRSET) they follow the columns that public loader code reads: KeepFIT-CFP/local_data/prepare_partitions.py of lxirich/MM-Retinal for ORIGA,
PAPILA and AIROGS, and its BRSET reader for BRSET; for REFUGE2 the folders and columns that converters of the challenge's archive name.
"""
import shutil
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from retinalogos.config import SOURCES, UserError
from retinalogos.data.named_sets import DESCRIPTIONS, RFMID_FINDINGS, open_source
from retinalogos.data.sources import Reject, SourceItem

ROOT = Path(__file__).resolve().parents[1]
LABELS = ROOT.parent / "shared" / "realdata" / "labels"
needs_real = pytest.mark.skipif(not LABELS.is_dir(), reason="the real label files are not on this machine")
BOM = "\ufeff"


def touch(root, names):
    """Empty files: an adapter does not open photographs."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def write(root, tables):
    """Tables by path: text as it stands, rows as an Excel sheet."""
    for name, content in tables.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str): path.write_text(content, encoding="utf-8", newline="")
        else: pd.DataFrame(content).to_excel(path, header=False, index=False)


def brset(image, patient, age, sex, eye, parts=(1, 1, 1), dr=0, **flags):
    names = "macular_edema scar nevus amd vascular_occlusion hypertensive_retinopathy drusens hemorrhage retinal_detachment myopic_fundus increased_cup_disc other"
    return ",".join(map(str, [image, patient, "Canon", age, sex, eye, *parts, dr, *(flags.get(n, 0) for n in names.split())])) + "\n"


BRSET_HEADER = ("image_id,patient_id,camera,patient_age,patient_sex,exam_eye,optic_disc,vessels,macula,DR_ICDR,macular_edema,scar,nevus,amd,vascular_occlusion,"
                "hypertensive_retinopathy,drusens,hemorrhage,retinal_detachment,myopic_fundus,increased_cup_disc,other\n")
RFMID_HEADER = f"{BOM}ID,Disease_Risk,{','.join(RFMID_FINDINGS)}\n"


def rfmid(number, risk, *codes):
    return f"{number},{risk},{','.join(str(int(code in codes)) for code in RFMID_FINDINGS)}\n"


PAPILA_SHEET = [["", "Age", "Gender", "Diagnosis", "Refractive error", ""], ["", "", "", "", "dioptre_1", "dioptre_2"], ["ID", "", "", "", "", ""]]

# set -> (tables, photographs, {photograph: what its item says}, {rejected name: part of the reason})
LAYOUTS = {
    "eyepacs": ({"trainLabels.csv": "image,level\n10_left,0\n10_right,4\n13_left,9\n"}, ["train/10_left.jpeg", "train/10_right.jpeg", "train/13_left.jpeg"],
                {"10_left.jpeg": dict(patient="10", eye="OS", dr=0), "10_right.jpeg": dict(patient="10", eye="OD", dr=4)}, {"13_left": "dr_grade '9'"}),
    "aptos2019": ({"train.csv": "id_code,diagnosis\n000c1434d8d7,2\n"}, ["train_images/000c1434d8d7.png"],
                  {"000c1434d8d7.png": dict(patient="000c1434d8d7", eye=None, dr=2)}, {}),
    "airogs": ({"train_labels.csv": "challenge_id,class\nTRAIN000000,NRG\nTRAIN000001,RG\nTRAIN000002,U\n"},
               ["0/TRAIN000000.jpg", "5/TRAIN000001.jpg", "5/TRAIN000002.jpg"],
               {"TRAIN000000.jpg": dict(glaucoma=False, normal=None), "TRAIN000001.jpg": dict(glaucoma=True)}, {"TRAIN000002": "glaucoma 'U'"}),
    "idrid": ({"2. Groundtruths/a. IDRiD_Disease Grading_Training Labels.csv": "Image name,Retinopathy grade,Risk of macular edema ,,\r\nIDRiD_001,3,2,,\r\n",
               "2. Groundtruths/b. IDRiD_Disease Grading_Testing Labels.csv": "Image name,Retinopathy grade,Risk of macular edema\r\nIDRiD_001,1,1\r\n"},
              ["1. Original Images/a. Training Set/IDRiD_001.jpg", "1. Original Images/b. Testing Set/IDRiD_001.jpg"],
              {"a. Training Set/IDRiD_001.jpg": dict(patient="Training-IDRiD_001", dr=3, diseases=("suspected_macular_oedema", "diabetic_retinopathy"), signs=("hard_exudates",)),
               "b. Testing Set/IDRiD_001.jpg": dict(patient="Testing-IDRiD_001", dr=1, diseases=("diabetic_retinopathy",), signs=("hard_exudates",))}, {}),
    "refuge2": ({"Train/REFUGE1-val/Fovea_locations.xlsx": [["ID", "ImgName", "Glaucoma Label", "Fovea_X", "Fovea_Y"], [1, "V0001.jpg", 1, 3.5, 4]],
                 "Train/REFUGE1-test/Glaucoma_label_and_Fovea_location.xlsx": [["ID", "ImgName", "Label(Glaucoma=1)", "Fovea_X", "Fovea_Y"], [1, "T0001.jpg", 0, 3, 4]],
                 "Validation/glaucoma.csv": "FileName,Glaucoma Risk\nV0001.jpg,0\n"},
                ["Train/REFUGE1-train/Training400/Glaucoma/g0001.jpg", "Train/REFUGE1-train/Training400/Non-Glaucoma/n0001.jpg",
                 "Train/REFUGE1-val/REFUGE-Validation400/V0001.jpg", "Train/REFUGE1-test/Test400/T0001.jpg", "Validation/Images/V0001.jpg"],
                {"g0001.jpg": dict(glaucoma=True), "n0001.jpg": dict(glaucoma=False), "REFUGE-Validation400/V0001.jpg": dict(glaucoma=True, patient="val-V0001"),
                 "T0001.jpg": dict(glaucoma=False), "Images/V0001.jpg": dict(glaucoma=False, patient="refuge2-val-V0001")}, {}),
    "odir": ({"full_df.csv": "ID,Patient Age,Patient Sex,Left-Fundus,Right-Fundus,Left-Diagnostic Keywords,Right-Diagnostic Keywords,N,D,G,C,A,H,M,O,filename\r\n"
              "7,57,Female,7_left.jpg,7_right.jpg,normal fundus,glaucoma，drusen,0,0,1,0,1,0,0,0,7_left.jpg\r\n"
              "7,57,Female,7_left.jpg,7_right.jpg,normal fundus,glaucoma，drusen,0,0,1,0,1,0,0,0,7_right.jpg\r\n"},
             ["preprocessed_images/7_left.jpg", "preprocessed_images/7_right.jpg"],
             {"7_left.jpg": dict(patient="7", eye="OS", normal=True, age=57.0, note="flag A but no keyword says age_related_macular_degeneration"),
              "7_right.jpg": dict(eye="OD", glaucoma=True, signs=("drusen",))}, {}),
    "messidor2": ({"messidor_data.csv": "id_code,diagnosis,adjudicated_dme,adjudicated_gradable\na_PP.png,2,1,1\nIM1.JPG,0,0,1\nb.png,,,0\n"},
                  ["IMAGES/a_PP.png", "IMAGES/IM1.jpg", "IMAGES/b.png"],
                  {"a_PP.png": dict(dr=2, diseases=("macular_oedema", "diabetic_retinopathy")), "IM1.jpg": dict(dr=0), "b.png": dict(dr=None, quality="reject")}, {}),
    "ddr": ({"DR_grading/train.txt": "007-0004-000.jpg 0\n007-0007-000.jpg 5\n", "DR_grading/valid.txt": "2017.jpg 4\n"},
            ["DR_grading/train/007-0004-000.jpg", "DR_grading/train/007-0007-000.jpg", "DR_grading/valid/2017.jpg"],
            {"007-0004-000.jpg": dict(dr=0, quality=None), "007-0007-000.jpg": dict(dr=None, quality="reject"), "2017.jpg": dict(dr=4)}, {}),
    "rfmid": ({"Training_Set/RFMiD_Training_Labels.csv": RFMID_HEADER + rfmid(1, 1, "DR", "ODC") + rfmid(2, 0) + rfmid(3, 0, "ERM"),
               "Test_Set/RFMiD_Testing_Labels.csv": RFMID_HEADER + rfmid(1, 1, "BRVO")},
              ["Training_Set/Training/1.png", "Training_Set/Training/2.png", "Training_Set/Training/3.png", "Test_Set/Test/1.png"],
              {"Training/1.png": dict(patient="Training-1", dr=None, diseases=("diabetic_retinopathy",), signs=("large_cup_to_disc_ratio",)),
               "Training/2.png": dict(normal=True, dr=0), "Test/1.png": dict(patient="Testing-1", diseases=("branch_retinal_vein_occlusion",))},
              {"3": "contradictory labels"}),
    "deepdrid": ({"regular_fundus_images/regular-fundus-training/regular-fundus-training.csv":
                  "patient_id,image_id,image_path,Overall quality,left_eye_DR_Level,right_eye_DR_Level,patient_DR_Level,Clarity,Field definition,Artifact\n"
                  "1,1_l1,\\regular-fundus-training\\1\\1_l1.jpg,0,2,,2,8,8,4\n56,56_r3,\\regular-fundus-training\\56\\56_r3.jpg,1,1,,1,10,8,1\n"},
                 ["regular_fundus_images/regular-fundus-training/Images/1/1_l1.jpg", "regular_fundus_images/regular-fundus-training/Images/56/56_r3.jpg"],
                 {"1_l1.jpg": dict(patient="1", eye="OS", dr=2, quality="usable"),
                  "56_r3.jpg": dict(patient="56", eye=None, dr=1, quality="good", note="the file name says right eye, the grade stands under the left")}, {}),
    "papila": ({"ClinicalData/patient_data_od.xlsx": PAPILA_SHEET + [["#002", 47, 0, 2, .75, 1], ["#004", 58, 1, 1, 1, ""]],
                "ClinicalData/patient_data_os.xlsx": PAPILA_SHEET + [["#002", 47, 0, 0, .75, 1]]},
               ["FundusImages/RET002OD.jpg", "FundusImages/RET004OD.jpg", "FundusImages/RET002OS.jpg"],
               {"RET002OD.jpg": dict(patient="002", eye="OD", glaucoma=None, age=47.0, sex="male", diseases=("suspected_glaucoma",)),
                "RET004OD.jpg": dict(patient="004", glaucoma=True, sex="female"), "RET002OS.jpg": dict(patient="002", eye="OS", glaucoma=False)}, {}),
    "g1020": ({"G1020.csv": "imageID,binaryLabels\nimage_0.jpg,0\nimage_1.jpg,1\n"}, ["Images/image_0.jpg", "Images/image_1.jpg"],
              {"image_0.jpg": dict(glaucoma=False), "image_1.jpg": dict(glaucoma=True)}, {}),
    "origa": ({"OrigaList.csv": "Eye,Filename,ExpCDR,Set,Glaucoma\nOD,001.jpg,0.5,A,0\nOS,002.jpg,0.7,B,1\n"}, ["Images/001.jpg", "Images/002.jpg"],
              {"001.jpg": dict(glaucoma=False), "002.jpg": dict(glaucoma=True)}, {}),
    "brset": ({"labels.csv": BRSET_HEADER + brset("img00001", 1, 48, 1, 1) + brset("img00002", 1, 48, 1, 2, dr=3, macular_edema=1, hemorrhage=1)
               + brset("img00003", 2, "", 2, 1, parts=(2, 1, 1), increased_cup_disc=1) + brset("img00004", 3, 60, 2, 1, parts=(1, 1, "bv"))},
              [f"fundus_photos/img0000{k}.jpg" for k in (1, 2, 3, 4)],
              {"img00001.jpg": dict(patient="1", eye="OD", sex="male", age=48.0, dr=0, normal=True),
               "img00002.jpg": dict(eye="OS", dr=3, diseases=("macular_oedema", "diabetic_retinopathy"), signs=("haemorrhages",)),
               "img00003.jpg": dict(sex="female", age=None, normal=False, glaucoma=None, signs=("large_cup_to_disc_ratio",))}, {"img00004": "macula=bv"}),
}


def told(item):
    """What an item says, by the short names used above."""
    record = item.record
    return dict(patient=item.patient_id, eye=record.eye, dr=record.dr_grade, glaucoma=record.glaucoma, quality=record.image_quality, age=item.age, sex=item.sex,
                diseases=record.disease_labels, signs=record.subclinical_labels, note=item.note,
                normal=None if record.general_label is None else record.general_label == "normal")


def split(found):
    return [i for i in found if isinstance(i, SourceItem)], {i.file: i.reason for i in found if isinstance(i, Reject)}


@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_documented_layout(name, tmp_path):
    tables, photographs, expected, rejected = LAYOUTS[name]
    if any(table.endswith(".xlsx") for table in tables): pytest.importorskip("openpyxl")
    write(tmp_path, tables)
    touch(tmp_path, photographs)
    source = open_source(name, tmp_path)
    items, rejects = split(list(source.items()))
    assert len(items) == len(expected) and len(items) + len(rejects) == len(photographs), rejects
    for ending, says in expected.items():
        (item,) = [i for i in items if i.file.as_posix().endswith("/" + ending)]
        assert {key: told(item)[key] for key in says} == says, ending
    for file, reason in rejected.items(): assert reason in rejects[file]
    published = any(labels.rows for labels in source.about.files[-1:])
    assert not published or any("were published" in note for note in source.notes), "a handful of rows is not the whole set, and that is said"


@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_a_layout_that_is_not_there_is_named(name, tmp_path):
    with pytest.raises(UserError, match="none of the label files") as error: list(open_source(name, tmp_path).items())
    about = DESCRIPTIONS[name]
    assert str(tmp_path) in str(error.value) and about.where in str(error.value) and about.files[0].file in str(error.value)
    touch(tmp_path, ["unrelated/notes.txt"])
    with pytest.raises(UserError): list(open_source(name, tmp_path).items())


@pytest.mark.parametrize("name", [name for name in DESCRIPTIONS if name != "refuge2"])
def test_a_table_of_other_columns_or_without_photographs_is_named(name, tmp_path):
    file = DESCRIPTIONS[name].files[0].file
    write(tmp_path, {file: "colour,shape\nred,round\n" if not file.endswith(".xlsx") else [["colour"], ["red"]]})
    if file.endswith(".xlsx"): pytest.importorskip("openpyxl")
    touch(tmp_path, [f"{folder}/x.jpg" for labels in DESCRIPTIONS[name].files[:1] for folder in [Path(file).parent / labels.images[0]]])
    with pytest.raises(UserError) as error: list(open_source(name, tmp_path).items())
    assert Path(file).name in str(error.value)


def test_photographs_that_are_not_there_are_named(tmp_path):
    write(tmp_path, {"G1020.csv": "imageID,binaryLabels\nimage_0.jpg,0\n"})
    with pytest.raises(UserError, match="no folder of photographs for G1020.csv; looked for Images, images"): list(open_source("g1020", tmp_path).items())


def test_two_copies_of_a_label_file_are_a_question(tmp_path):
    write(tmp_path, {"a/G1020.csv": "imageID,binaryLabels\n", "b/G1020.csv": "imageID,binaryLabels\n"})
    with pytest.raises(UserError, match="there 2 times"): list(open_source("g1020", tmp_path).items())


def test_every_set_says_where_it_comes_from_and_can_be_asked_for():
    assert set(SOURCES) == {"simulated", "folder", *DESCRIPTIONS}
    for about in DESCRIPTIONS.values():
        assert about.citation and about.licence and about.where.startswith("https://") and about.cannot_tell
    written = (ROOT / "settings.ini").read_text()
    assert all(f"\n{name} =" in written for name in SOURCES if name != "simulated")


# ---- the real label files --------------------------------------------------------------------------------------------------------------


@needs_real
def test_eyepacs_whole(tmp_path):
    table = pd.read_csv(LABELS / "eyepacs/trainLabels.csv")
    shutil.copy(LABELS / "eyepacs/trainLabels.csv", tmp_path)
    touch(tmp_path, [f"train/{image}.jpeg" for image in table.image])
    source = open_source("eyepacs", tmp_path)
    items, rejects = split(list(source.items()))
    assert len(items) == 35126 and not rejects and len({i.patient_id for i in items}) == 17563
    assert Counter(i.record.dr_grade for i in items) == table.level.value_counts().to_dict()
    assert [i.record.eye for i in items] == table.image.str.endswith("left").map({True: "OS", False: "OD"}).tolist()
    assert source.notes == ["retinopathy_solution.csv is missing: its photographs are left out"]


@needs_real
def test_messidor2_whole(tmp_path):
    table = pd.read_csv(LABELS / "messidor2/messidor_data.csv")
    shutil.copy(LABELS / "messidor2/messidor_data.csv", tmp_path)
    touch(tmp_path, [f"IMAGES/{name.replace('.JPG', '.jpg')}" for name in table.id_code])
    source = open_source("messidor2", tmp_path)
    items, rejects = split(list(source.items()))
    assert len(items) == 1744 and not rejects and source.notes == ["messidor_data.csv has 1,744 rows, 1,748 were published"]
    assert Counter(i.record.dr_grade for i in items) == table.diagnosis.value_counts().to_dict()
    assert sum("macular_oedema" in i.record.disease_labels for i in items) == table.adjudicated_dme.sum()


@needs_real
def test_idrid_whole(tmp_path):
    for path in (LABELS / "idrid").iterdir():
        (tmp_path / "2. Groundtruths").mkdir(exist_ok=True)
        shutil.copy(path, tmp_path / "2. Groundtruths")
        folder = {"a": "a. Training Set", "b": "b. Testing Set"}[path.name[0]]
        touch(tmp_path, [f"1. Original Images/{folder}/{name}.jpg" for name in pd.read_csv(path)["Image name"]])
    source = open_source("idrid", tmp_path)
    items, rejects = split(list(source.items()))
    assert len(items) == 516 and not rejects and not source.notes and len({i.patient_id for i in items}) == 516
    assert Counter(i.record.dr_grade for i in items)[0] == 168
    assert sum("suspected_macular_oedema" in i.record.disease_labels for i in items) == 243


@needs_real
def test_rfmid_whole(tmp_path):
    table = pd.read_csv(LABELS / "rfmid/RFMiD_Training_Labels.csv", encoding="utf-8-sig")
    (tmp_path / "Training_Set/Training_Set").mkdir(parents=True)
    shutil.copy(LABELS / "rfmid/RFMiD_Training_Labels.csv", tmp_path / "Training_Set/Training_Set")
    touch(tmp_path, [f"Training_Set/Training_Set/Training/{k}.png" for k in table.ID])
    source = open_source("rfmid", tmp_path)
    items, rejects = split(list(source.items()))
    assert len(items) == 1920 and not rejects and len(source.notes) == 2
    assert sum(i.record.general_label == "normal" for i in items) == (table.Disease_Risk == 0).sum()
    for code, label in (("DR", "diabetic_retinopathy"), ("CRVO", "central_retinal_vein_occlusion"), ("ERM", "epiretinal_membrane")):
        assert sum(label in i.record.disease_labels for i in items) == table[code].sum()


@needs_real
@pytest.mark.parametrize("edition", ["full_df.csv", "ODIR-5K_Training_Annotations(Updated)_V2.xlsx"])
def test_odir_whole(edition, tmp_path):
    if edition.endswith("xlsx"): pytest.importorskip("openpyxl")
    table = pd.read_csv(LABELS / "odir/full_df.csv")
    shutil.copy(LABELS / "odir" / edition, tmp_path)
    touch(tmp_path, [f"images/{name}" for name in table.filename])
    source = open_source("odir", tmp_path)
    items, rejects = split(list(source.items()))
    assert source.notes == ([f"full_df.csv has {len(table):,} rows, 6,392 were published"] if edition == "full_df.csv" else [])
    refused = {file: reason for file, reason in rejects.items() if "no such file" not in reason}
    assert list(refused) == ["875_left.jpg"] and "normal with the disease label epiretinal_membrane" in refused["875_left.jpg"]
    words = [row[f"{side}-Diagnostic Keywords"] for row in table.to_dict("records") for side in ("Left", "Right") if row["filename"] == row[f"{side}-Fundus"]]
    assert sorted(i.record.report for i in items) == sorted(w.strip() for w in words if w != "epiretinal membrane，normal fundus，lens dust")
    assert not [i.note for i in items if "flag" in i.note], "the flags agree with the keywords of both eyes taken together"
    by_name = {i.file.name: i for i in items}
    assert by_name["1447_right.jpg"].record.general_label == "normal", "the patient's flag G belongs to the other eye"
    young = [i for i in items if i.note == "age 1 taken as missing"]
    assert len(young) == (table["Patient Age"] == 1).sum() > 0 and all(i.age is None for i in young)


@needs_real
@pytest.mark.parametrize("name, file, target, folder, suffix, count", [
    ("aptos2019", "aptos2019/train.reconstructed.csv", "train.csv", "train_images", ".png", 3662),
    ("g1020", "g1020/G1020.excerpt.csv", "G1020.csv", "Images", "", 31),
    ("deepdrid", "deepdrid/regular-fundus-training.excerpt.csv", "regular_fundus_images/regular-fundus-training/regular-fundus-training.csv",
     "regular_fundus_images/regular-fundus-training/Images/1", ".jpg", 20)])
def test_other_real_rows(name, file, target, folder, suffix, count, tmp_path):
    table = pd.read_csv(LABELS / file, dtype=str)
    (tmp_path / target).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(LABELS / file, tmp_path / target)
    column = {"aptos2019": "id_code", "g1020": "imageID", "deepdrid": "image_id"}[name]
    touch(tmp_path, [f"{folder}/{image}{suffix}" for image in table[column]])
    items, rejects = split(list(open_source(name, tmp_path).items()))
    assert len(items) == count == len(table) and not rejects
    if name == "deepdrid": assert [i.file.stem for i in items if i.note] == ["56_r3", "56_l3"] and len({i.patient_id for i in items}) == 5
    if name == "aptos2019": assert Counter(i.record.dr_grade for i in items) == table.diagnosis.astype(int).value_counts().to_dict()


@needs_real
def test_ddr_rows(tmp_path):
    for part in ("train", "valid", "test"):
        (tmp_path / "DR_grading").mkdir(exist_ok=True)
        shutil.copy(LABELS / f"ddr/DR_grading/{part}.reconstructed.txt", tmp_path / f"DR_grading/{part}.txt")
        touch(tmp_path, [f"DR_grading/{part}/{line.split()[0]}" for line in (tmp_path / f"DR_grading/{part}.txt").read_text().splitlines()])
    source = open_source("ddr", tmp_path)
    items, rejects = split(list(source.items()))
    assert len(items) == 13673 and not rejects and not source.notes
    assert sum(i.record.image_quality == "reject" and i.record.dr_grade is None for i in items) == 1151
