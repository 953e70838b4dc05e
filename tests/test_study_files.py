"""Files that readers send: each fault is one line that names file, photograph and what is wrong; results together or not at all."""
import copy
import json
import os
from pathlib import Path

import numpy as np
import pytest

from retinalogos.analysis.fidelity import inception_score
from retinalogos.analysis.reader_pack import ASPECTS, key_digest
from retinalogos.analysis.reader_study import analyse_study, study_text
from retinalogos.config import UserError

ITEMS = [{"item": f"{k:03d}", "source": "synthetic" if k % 2 else "real", "condition": "normal", "origin": f"o{k}"} for k in range(12)]
KEY = {"study": key_digest(7, ITEMS), "seed": 7, "items": ITEMS}


def answers(reader="ana", shift=0):
    return {"study": KEY["study"], "reader": reader, "answers": [
        {"item": item["item"], "judged": ("real", "synthetic")[(k + shift) // 3 % 2], "confidence": 1 + k % 3, "ratings": {ASPECTS[0]: 1 + (k + shift) % 3}}
        for k, item in enumerate(ITEMS)]}


def write(folder, *contents):
    (folder / "key.json").write_text(json.dumps(KEY))
    files = []
    for k, content in enumerate(contents):
        files.append(folder / f"answers-{k}.json")
        files[-1].write_text(content if isinstance(content, str) else json.dumps(content))
    return folder / "key.json", files


def changed(change):
    content = copy.deepcopy(answers())
    change(content)
    return content


def first(**values):
    return lambda content: content["answers"][0].update(values)


FAULTS = {
    "reader null": (lambda c: c.update(reader=None), "code"), "reader list": (lambda c: c.update(reader=["x"]), "code"), "reader empty": (lambda c: c.update(reader=""), "code"),
    "reader long": (lambda c: c.update(reader="a" * 10_000), "code"), "reader escape": (lambda c: c.update(reader="ana\n\x1b[2Jfake"), "code"),
    "reader of all": (lambda c: c.update(reader="All Readers"), "tables use that name"), "reader pooled": (lambda c: c.update(reader="Pooled"), "tables use that name"),
    "confidence dict": (first(confidence={}), "photograph 000: confidence"), "confidence true": (first(confidence=True), "photograph 000: confidence"),
    "confidence nan": (first(confidence=float("nan")), "photograph 000: confidence"), "confidence 4": (first(confidence=4), "photograph 000: confidence"),
    "confidence text": (first(confidence="2"), "photograph 000: confidence"), "rating dict": (first(ratings={ASPECTS[0]: {}}), f"photograph 000: {ASPECTS[0]}"),
    "ratings list": (first(ratings=[1]), "photograph 000: its ratings"), "judged list": (first(judged=["real"]), "photograph 000: judged"),
    "judged null": (first(judged=None), "photograph 000: judged"), "item list": (first(item=["001"]), "names no photograph"), "item number": (first(item=1), "names no photograph"),
    "no ratings": (lambda c: c["answers"][0].pop("ratings"), "photograph 000: its ratings"),
    "an aspect of its own": (first(ratings={"colour\x1b": 2}), "photograph 000: nobody was asked"),
    "item unknown": (first(item="zzz"), "photograph zzz"), "item twice": (first(item="001"), "001 is answered twice"),
    "item tag": (first(item="<img src=x>\x1b[2J"), "not in this pack"), "answers null": (lambda c: c.update(answers=None), "not a file of answers"),
    "answer null": (lambda c: c.update(answers=[None]), "names no photograph"), "none": (lambda c: c.update(answers=[]), "no photograph has been answered"),
    "other study": (lambda c: c.update(study=["x"]), "another pack"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_names_file_and_photograph(tmp_path, name):
    change, said = FAULTS[name]
    key, files = write(tmp_path, answers("bo"), changed(change))
    with pytest.raises(UserError) as caught:
        analyse_study(key, files, tmp_path / "out")
    assert str(caught.value).startswith(f"{files[1]}: ") and said in str(caught.value)
    assert "\x1b" not in str(caught.value) and len(str(caught.value).splitlines()) == 1 and not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", ["[" * 100_000, "", "null", "[]", "7", '"text"', "{", "\0"])
def test_a_file_that_is_no_file_of_answers(tmp_path, content):
    key, files = write(tmp_path, content)
    with pytest.raises(UserError) as caught:
        analyse_study(key, files, tmp_path / "out")
    assert str(files[0]) in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.parametrize("other", ["ana", "Ana", "ANA"])
def test_one_reader_has_one_file(tmp_path, other):
    key, files = write(tmp_path, answers("ana"), answers(other))
    with pytest.raises(UserError, match="has answered in .*answers-0.json already"):
        analyse_study(key, files, tmp_path / "out")


def test_results_are_written_together_or_not_at_all(tmp_path, monkeypatch):
    from retinalogos.analysis import reader_study
    key, files = write(tmp_path, answers("ana"), answers("bo", 1))
    monkeypatch.setattr(reader_study, "draw_ratings", lambda scores: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        analyse_study(key, files, tmp_path / "out")
    assert os.listdir(tmp_path / "out") == []
    monkeypatch.undo()
    analyse_study(key, files, tmp_path / "out")
    assert sorted(os.listdir(tmp_path / "out")) == ["ratings.csv", "ratings.png", "readers.csv", "scores.json", "study.png"]


def intervals(scores):
    if isinstance(scores, dict):
        if "low" in scores:
            yield scores
        for value in scores.values():
            yield from intervals(value)


def test_no_interval_has_no_width_and_unknown_agreement_is_not_zero(tmp_path):
    alike = answers("ana")
    for k, answer in enumerate(alike["answers"]):
        answer |= {"judged": ITEMS[k]["source"], "confidence": 2, "ratings": {aspect: 2 for aspect in ASPECTS}}
    for contents in ([alike], [alike, alike | {"reader": "bo"}], [answers("ana"), answers("bo", 1)]):
        key, files = write(tmp_path, *contents)
        scores = analyse_study(key, files, tmp_path / "out")
        found = list(intervals(scores))
        assert found and all(row["low"] is None or row["low"] < row["high"] for row in found)
        if len(contents) == 1:
            assert "is not known" in study_text(scores) and "next study" not in study_text(scores)


@pytest.mark.parametrize("n, splits", [(5, 0), (8, 0), (24, 0), (39, 0), (40, 2), (100, 5), (400, 10)])
def test_the_inception_score_of_few_is_missing(n, splits):
    classes = np.arange(n) // 4 % 5 if n >= 100 else np.arange(n) % 5
    score = inception_score(20.0 * np.eye(5)[classes])
    if not splits:
        assert score["value"] is score["low"] is score["high"] is None
    else:
        assert 4 < score["value"] <= 5.001 and (score["low"] is None or 1 <= score["low"] < score["high"])


def test_it_is_never_below_one():
    noise = np.random.default_rng(0).normal(0, 0.01, (60, 5))
    assert inception_score(noise)["low"] is None or inception_score(noise)["low"] >= 1


