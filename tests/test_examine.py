"""What `captions.examine` reads in captions that it was not written for, against facts that were written down by hand for each of them.

`captions_by_hand.json` holds four sets. On `by_hand`, `held_out` and `new_lesions` rules were improved, so their scores are regression tests.
Those of `held_out` and `new_lesions` were written and labelled first: before any change for them, all facts but the items were read with a precision of
0.976 and a recall of 0.964 (60 captions), and 0.986 and 0.973 (16). No rule was changed for the 15 of `glaucoma`, about glaucoma and the cup-to-disc ratio:
theirs is the honest score, though their writer had read the rules. The paper's eight captions are read from ../shared/realdata where it lies.
"""
import json
from pathlib import Path

import pandas as pd
import pytest

from retinalogos.captions.examine import ITEM_TERMS, extract_facts
from retinalogos.data.records import LESIONS

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


def extracted(text):
    """What the examination reads in a caption, in the form of `labelled`."""
    facts = extract_facts(text)
    pairs = {(kind, getattr(facts, kind)) for kind in SINGLE if getattr(facts, kind) is not None}
    return pairs | {("items", item) for item in ITEM_TERMS if getattr(facts, item)} | {(kind, lesion) for kind in LISTS for lesion in getattr(facts, kind)}


def scores(captions):
    """One row a kind of fact: how many are labelled, read and both, precision and recall; the last rows pool them."""
    pairs = [(labelled(facts), extracted(text)) for text, facts in captions]
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
