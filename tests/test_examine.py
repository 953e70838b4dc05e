"""What `captions.examine` reads in captions that it was not written for, against facts that were written down by hand for each of them.

`captions_by_hand.json` holds four sets. On `by_hand`, `held_out` and `new_lesions` rules were improved, so their scores are regression tests.
Those of `held_out` and `new_lesions` were written and labelled first: before any change for them, all facts but the items were read with a precision of
0.976 and a recall of 0.964 (60 captions), and 0.986 and 0.973 (16). No rule was changed for the 15 of `glaucoma`, about glaucoma and the cup-to-disc ratio:
theirs is the honest score, though their writer had read the rules. The paper's eight captions are read from ../shared/realdata where it lies.
"""
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from retinalogos.captions.examine import DISEASE_LESIONS, ITEM_TERMS, detection, examine_table, extract_facts
from retinalogos.captions.template import LONG_LEAST, LONG_MOST, MOST_WORDS, caption_table
from retinalogos.data.records import DISEASES, LESIONS, SIGNS, EyeRecord, Findings

ROOT = Path(__file__).resolve().parent.parent
PAPER = ROOT.parent / "shared/realdata/eyepacs_captioned/example_ver3.json"
LABELS = json.loads((ROOT / "tests/captions_by_hand.json").read_text(encoding="utf-8"))
SINGLE = ("eye", "disc_side", "dr_grade", "glaucoma", "cup_to_disc", "quality")
LISTS = ("stated_lesions", "denied_lesions", "hedged_lesions")


def captions_of(name):
    """(text, facts) pairs of one set."""
    if name != "paper": return [(row["text"], row["facts"]) for row in LABELS["captions"] if row["set"] == name]
    if not PAPER.is_file(): pytest.skip("the paper's captions are not here")
    texts = {Path(row["image"]).stem: row["caption"] for row in json.loads(PAPER.read_text(encoding="utf-8"))}
    return [(texts[image_id], facts) for image_id, facts in LABELS["paper"].items()]


def labelled(facts):
    """Labels of one caption as a set of (kind, value)."""
    pairs = {(kind, facts[kind]) for kind in SINGLE if kind in facts} | {("items", item) for item in facts["items"]}
    return pairs | {(kind, lesion) for kind in LISTS for lesion in facts.get(kind, ())}


def extracted(text, read=extract_facts):
    """What the examination, or another reader, reads in a caption, in the form of `labelled`."""
    facts = read(text)
    pairs = {(kind, getattr(facts, kind)) for kind in SINGLE if getattr(facts, kind) is not None}
    return pairs | {("items", item) for item in ITEM_TERMS if getattr(facts, item)} | {(kind, lesion) for kind in LISTS for lesion in getattr(facts, kind)}


def scores(captions, read=extract_facts):
    """One row a kind of fact: how many are labelled, read and both, precision and recall; the last rows pool them."""
    pairs = [(labelled(facts), extracted(text, read)) for text, facts in captions]
    count = lambda kinds: [sum(kind in kinds for part in (a(truth, read) for truth, read in pairs) for kind, _ in part)
                           for a in (lambda t, r: t, lambda t, r: r, lambda t, r: t & r)]
    groups = {kind: (kind,) for kind in (*SINGLE, *LISTS, "items")} | {"all but items": SINGLE + LISTS, "all": (*SINGLE, *LISTS, "items")}
    table = pd.DataFrame([count(kinds) for kinds in groups.values()], index=list(groups), columns=["labelled", "read", "right"])
    return table.assign(precision=table.right / table.read, recall=table.right / table.labelled)


@pytest.mark.parametrize("name", ["paper", "by_hand", "held_out", "new_lesions", "glaucoma"])
def test_what_is_read_is_there(name):
    captions = captions_of(name)
    table = scores(captions)
    print(f"\n{name}: {len(captions)} captions\n{table.round(3).to_string()}")
    for text, facts in captions:
        missed, extra = labelled(facts) - extracted(text), extracted(text) - labelled(facts)
        if missed or extra: print(f"{text[:70]} ... missed {sorted(missed, key=str)}, read {sorted(extra, key=str)}")
    assert (table.precision[["all but items", "all"]] >= .9).all()


@pytest.mark.parametrize("name", ["paper", "by_hand", "held_out", "new_lesions", "glaucoma"])
def test_what_is_there_is_read(name):
    assert (scores(captions_of(name)).recall[["all but items", "all"]] >= .9).all()


def test_labels_use_known_words():
    facts = [row["facts"] for row in LABELS["captions"]] + list(LABELS["paper"].values())
    assert {kind for f in facts for kind in f} <= {*SINGLE, *LISTS, "items"}
    assert {lesion for f in facts for kind in LISTS for lesion in f.get(kind, ())} == set(LESIONS)
    assert {item for f in facts for item in f["items"]} == set(ITEM_TERMS)
    assert {f["quality"] for f in facts if "quality" in f} == {"good", "usable", "reject"}
    assert not any(set(f.get(a, ())) & set(f.get(b, ())) for f in facts for a in LISTS for b in LISTS if a < b)


def made_eye(rng):
    """(record, findings) of an eye of random diseases, each with some of the lesions that it can bring, and some signs."""
    diseases = tuple(name for name in DISEASES if rng.random() < .15)
    grade = int(rng.integers(1, 5)) if "diabetic_retinopathy" in diseases else 0
    possible = {lesion for name in diseases for lesion in DISEASE_LESIONS[name]} - ({"neovascularisation", "preretinal_haemorrhage"} if grade < 4 else set())
    if grade == 1: possible &= {"microaneurysms"}
    counts = {name: int(rng.integers(1, 30)) for name in LESIONS if name in possible and (rng.random() < .7 or name == "microaneurysms")}
    signs = tuple(name for name in SIGNS if name not in LESIONS and rng.random() < .1) if diseases else ()
    quality, eye = str(rng.choice(["good", "usable", "reject"], p=[.8, .15, .05])), ("OD", "OS")[int(rng.integers(2))]
    record = EyeRecord(eye=eye, image_quality=quality, subclinical_labels=(*counts, *signs), disease_labels=diseases, general_label="abnormal" if diseases else "normal",
                       grade_labels={"diabetic_retinopathy": grade} | ({} if "glaucoma" in diseases else {"glaucoma": 0}))
    side = .2 if eye == "OS" else .8
    more = {"flame_haemorrhages": int(rng.integers(counts["haemorrhages"] + 1))} if "haemorrhages" in counts else {}
    more |= {"macular_exudates": int(rng.integers(counts["hard_exudates"] + 1))} if "hard_exudates" in counts else {}
    return record, Findings(disc_x=side, disc_y=.5, disc_radius=.06, fovea_x=.5, fovea_y=.52, cup_to_disc_ratio=float(rng.uniform(.2, .9)), dr_grade=grade,
                            quality=quality, **counts, **more)


@pytest.mark.parametrize("style", ["short", "long"])
def test_planted_errors_are_found_among_all_lesions(style):
    """Eyes of all diseases and lesions, as records allow them (made here: the simulator's own are tested in the notebook of the examination)."""
    rng = np.random.default_rng(5)
    records, findings = ([{"image_id": str(k), **part.to_row()} for k, part in enumerate(parts)] for parts in zip(*(made_eye(rng) for _ in range(1500))))
    records, findings = pd.DataFrame(records), pd.DataFrame(findings)
    honest = caption_table(records, findings, 1, style)
    assert examine_table(honest, records, findings).faithful.all(), "true captions pass"
    captions = caption_table(records, findings, 1, style, error_fraction=.3)
    found = detection(~examine_table(captions, records, findings).faithful, captions.planted_error != "")
    words = honest.caption.str.split().str.len()
    print(f"{style}: {found}, words {words.min()} to {words.max()}, median {words.median():.0f}")
    assert found["precision"] >= .9 and found["recall"] >= .9
    assert words.between(LONG_LEAST, LONG_MOST).all() if style == "long" else words.max() <= MOST_WORDS + 3
    vocabulary = {word.strip(".,;") for text in honest.caption for word in text.split()}
    assert len(vocabulary) < 400, "a small text encoder has to learn it"
