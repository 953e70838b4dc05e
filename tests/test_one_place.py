"""Each fact in one place: a lesion is added on a copy of the package by a change of one notebook,
and whatever knows lesions knows it then.

The copy reads its lesions in a process of its own; the tests ask what it found there.
"""
import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from nbdev.export import nb_export

from retinalogos.eye.lesions import DRAWN, LESION_ROWS, SAYABLE, drawn_and_not_sayable
from retinalogos.eye.records import DISEASES, LESIONS
from retinalogos.eye.simulate import simulate_patient

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = "nbs/eye/03_lesions.ipynb"

NEW_CELLS = ['''#| export
def telangiectasias(rng, scene, count):
    """Small dark red bulges of the capillaries around the fovea."""
    radii = spot_radii(rng, "telangiectasias", count)
    centres = scene.place(cluster(rng, np.array([scene.geometry.fovea]), 0.12, 400), 1.2 * radii)
    return ({"telangiectasias": draw_polygons(scene.size, blobs(rng, centres, radii[:len(centres)]))},
            {"telangiectasias": len(centres)})''', '''#| export
add_lesion("telangiectasias", draw=telangiectasias, turn=115, layer=525, radii=(0.012, 0.018),
           inks={"telangiectasias": Ink((0.50, 0.20, 0.24), False)}, segmented="red_lesions",
           outline=(255, 128, 0), pattern=r"tele?angiectas(?:ia|ias|is|es)",
           sentence="{few}telangiectasias are seen as bulges of the smallest vessels")''']
NEW_LINES = (  # in the tables of who has it: where, and what is put there
    (r'"branch_retinal_vein_occlusion": \{\s*"": \{', '"telangiectasias": (1, 4, 8), '),
    (r'"branch_retinal_vein_occlusion": \{0: \(', '"telangiectasias", '))

QUESTIONS = '''
import json
import numpy as np
from numpy.random import default_rng
from retinalogos.analysis.biomarkers import STRUCTURES, structure_shares
from retinalogos.analysis.grader import TASKS, record_labels
from retinalogos.captions.examine import examine, excluded_lesions, extract_facts
from retinalogos.captions.facts import FACTS_RULES, facts_schema
from retinalogos.captions.template import caption_record, deny_lesion, invent_lesion
from retinalogos.explore import LESION_COLOURS, outlines
from retinalogos.eye.lesions import drawn_and_not_sayable
from retinalogos.eye.records import EyeRecord, Findings
from retinalogos.eye.simulate import simulate_patient

NEW = "telangiectasias"
small = {seed: simulate_patient(seed, 16) for seed in range(100)}  # the findings are those of any size
eyes = [eye for pair in small.values() for eye in pair]
ill = [eye for eye in eyes if NEW in eye.findings.lesions]
eye = next(eye for seed, pair in small.items() for k in (0, 1) if NEW in pair[k].findings.lesions
           and pair[k].findings.quality == "good" for eye in [simulate_patient(seed, 128)[k]])
mask, without = eye.masks[NEW], eye.masks | {NEW: np.zeros_like(eye.masks[NEW])}
captions = {style: [caption_record(eye.record, eye.findings, default_rng(k), style) for k in range(40)]
            for style in ("short", "long")}
naming = [text for texts in captions.values() for text in texts if NEW in text]
verdicts = [examine(text, eye.record, eye.findings) for text in naming]
normal = EyeRecord(eye="OD", general_label="normal")
alone = EyeRecord(eye="OD", disease_labels=("branch_retinal_vein_occlusion",), general_label="abnormal",
                  grade_labels={"diabetic_retinopathy": 0})
red = STRUCTURES.index("red_lesions")
gain = structure_shares(eye.masks, 64) - structure_shares(without, 64)
invented = examine(invent_lesion("right eye. no retinal lesions.", NEW, default_rng(0)), normal)
denied = examine(deny_lesion("left eye. few telangiectasias.", NEW, default_rng(0)), eye.record)
print(json.dumps({
    "diseases": sorted({name for each in ill for name in each.record.disease_labels}),
    "counts": [getattr(each.findings, NEW) for each in ill],
    "labelled": all(NEW in each.record.subclinical_labels for each in ill),
    "row": Findings.from_row(eye.findings.to_row()) == eye.findings,
    "masked": [bool(each.masks[NEW].any()) for each in eyes if NEW not in each.findings.lesions],
    "pixels": int(mask.sum()),
    "darker": float(eye.image[mask][:, 1].mean() / eye.image[eye.masks["field_of_view"]][:, 1].mean()),
    "short": sum(NEW in text for text in captions["short"]),
    "long": [text for text in captions["long"] if "bulges of the smallest vessels" in text][:1],
    "stated": all(NEW in verdict.facts.stated_lesions for verdict in verdicts),
    "faithful": all(verdict.faithful for verdict in verdicts),
    "other_words": [extract_facts(f"right eye, {words}").stated_lesions
                    for words in ("macular telangiectasia", "teleangiectasis")],
    "hedged": extract_facts("possible telangiectasias").hedged_lesions,
    "invented": invented.contradictions, "denied": denied.contradictions,
    "excluded": [NEW in excluded_lesions(record) for record in (normal, alone)],
    "schema": NEW in json.dumps(facts_schema()) and NEW in FACTS_RULES,
    "segmented": {name: float(gain[k].sum()) for k, name in enumerate(STRUCTURES)},
    "graded": [TASKS[NEW], record_labels(eye.record)[NEW], record_labels(normal)[NEW]],
    "colour": [LESION_COLOURS[NEW], list(LESION_COLOURS.values()).count(LESION_COLOURS[NEW])],
    "outlined": int((outlines(eye.image, eye.masks, {NEW: LESION_COLOURS[NEW]})
                     == LESION_COLOURS[NEW]).all(axis=2).sum()),
    "drawn_and_not_sayable": drawn_and_not_sayable(),
    "images": {seed: [each.image.tobytes().hex() for each in small[seed] if NEW not in each.findings.lesions]
               for seed in range(10)},
}))
'''


def add_to_notebook(notebook: Path) -> None:
    """Write the new lesion into a copy of the notebook: two cells and a line in each table."""
    content = json.loads(notebook.read_text(encoding="utf-8"))
    cells, sources = content["cells"], ["".join(cell["source"]) for cell in content["cells"]]
    for pattern, line in NEW_LINES:
        place, = (k for k, source in enumerate(sources) if re.search(pattern, source))
        sources[place] = re.sub(pattern, lambda match: match[0] + line, sources[place], count=1)
    for cell, source in zip(cells, sources):
        cell["source"] = source
    last = max(k for k, source in enumerate(sources) if source.startswith("#| export\nadd_lesion("))
    new = [cells[last] | {"id": f"new{k}", "source": source} for k, source in enumerate(NEW_CELLS)]
    cells[last + 1:last + 1] = new
    notebook.write_text(json.dumps(content), encoding="utf-8")


def copied_package(folder: Path) -> Path:
    """The package and the notebook of lesions, copied into a folder."""
    shutil.copytree(ROOT / "retinalogos", folder / "retinalogos",
                    ignore=shutil.ignore_patterns("__pycache__"))
    (folder / NOTEBOOK).parent.mkdir(parents=True)
    return Path(shutil.copy(ROOT / NOTEBOOK, folder / NOTEBOOK))


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What the copy says of the new lesion."""
    folder = tmp_path_factory.mktemp("copy")
    notebook = copied_package(folder)
    add_to_notebook(notebook)
    nb_export(notebook, lib_path=folder / "retinalogos")
    ended = subprocess.run([sys.executable, "-c", QUESTIONS], cwd=folder, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-2000:]
    return json.loads(ended.stdout.splitlines()[-1])


def test_one_notebook_was_changed(tmp_path):
    """An export of the unchanged notebook gives the package; one of the changed gives one other file."""
    notebook = copied_package(tmp_path)
    files = sorted(path.relative_to(tmp_path) for path in (tmp_path / "retinalogos").rglob("*.py"))
    def changed():
        return [str(file) for file in files if (tmp_path / file).read_text() != (ROOT / file).read_text()]
    nb_export(notebook, lib_path=tmp_path / "retinalogos")
    assert changed() == []
    add_to_notebook(notebook)
    nb_export(notebook, lib_path=tmp_path / "retinalogos")
    assert changed() == ["retinalogos/eye/lesions.py"]


def test_a_new_lesion_is_simulated(found):
    assert found["diseases"] == ["branch_retinal_vein_occlusion"] and found["labelled"] and found["row"]
    assert found["counts"] and all(4 <= count <= 8 for count in found["counts"])
    assert found["pixels"] > 20 and found["darker"] < 0.8, "dark red on the retina"
    assert not any(found["masked"]), "no mask where there is none"


def test_a_new_lesion_is_stated_in_captions(found):
    assert found["short"] > 5 and found["long"], "in both styles"
    assert found["stated"] and found["faithful"], "and what the captions state is read in them"


def test_a_new_lesion_is_examined(found):
    assert found["other_words"] == [["telangiectasias"]] * 2 and found["hedged"] == ["telangiectasias"]
    assert any("states telangiectasias" in text for text in found["invented"])
    assert any("denies telangiectasias" in text for text in found["denied"])
    assert found["excluded"] == [True, False], "normal eyes have none, occluded veins may bring them"
    assert found["schema"], "a language model that reads facts is told of it"


def test_a_new_lesion_is_segmented_graded_and_on_the_screen(found):
    assert found["segmented"].pop("red_lesions") > 0 and not any(found["segmented"].values())
    assert found["graded"] == [["absent", "present"], 1, 0]
    assert found["colour"] == [[255, 128, 0], 1] and found["outlined"] > 5


def test_a_new_lesion_changes_no_other_eye(found):
    for seed, images in found["images"].items():
        before = {eye.image.tobytes().hex() for eye in simulate_patient(int(seed), 16)}
        assert set(images) <= before and images, seed


def test_what_is_drawn_may_be_stated(found):
    assert drawn_and_not_sayable() == [] == found["drawn_and_not_sayable"]
    assert set(DRAWN) == set(SAYABLE) == set(DISEASES)
    drawn = {lesion for stages in DRAWN.values() for lesions in stages.values() for lesion in lesions}
    assert drawn == set(LESION_ROWS) == set(LESIONS)


# Which code outside the rows and tables names a lesion or a disease, and why. `diabetic_retinopathy`
# and `glaucoma`, which have grades of their own, are questions of the whole project.
NAMED_LESIONS = {("eye/anatomy.py", "venous_beading"),  # the veins draw their beads
                 ("eye/simulate.py", "venous_beading")}  # and are told to
NAMED_DISEASES = {("eye/anatomy.py", "hypertensive_retinopathy"),  # narrow arteries, nipped veins
                  ("eye/anatomy.py", "pathological_myopia"),  # a tilted disc, atrophy around it
                  ("eye/simulate.py", "pathological_myopia"),  # a paler macula
                  ("eye/simulate.py", "cataract"),  # a veil before the picture
                  ("training/requests.py", "age_related_macular_degeneration"),  # chosen for pairs
                  ("training/requests.py", "pathological_myopia")}


def named_in_code(names: set[str]) -> set[tuple[str, str]]:
    """(module, name) of every text that is one of the names; words of public sets (`data`) are theirs."""
    package = ROOT / "retinalogos"
    files = [file for file in package.rglob("*.py") if file.parent.name != "data"]
    return {(str(file.relative_to(package)), node.value) for file in files
            if file.name != "_modidx.py" for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
            if isinstance(node, ast.Constant) and node.value in names}


def test_no_other_module_names_a_lesion_or_a_disease():
    lesions = named_in_code(set(LESIONS) - set(DISEASES))
    assert {pair for pair in lesions if pair[0] != "eye/lesions.py"} == NAMED_LESIONS
    diseases = named_in_code(set(DISEASES[2:]))
    rows = ("eye/diseases.py", "eye/lesions.py")
    assert {pair for pair in diseases if pair[0] not in rows} == NAMED_DISEASES
    assert {name for file, name in diseases if file == rows[0]} == set(DISEASES[2:])
