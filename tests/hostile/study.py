"""Files of a reader study: keys, answers and readers' names of odd types, and results that would claim too much."""
import json

from hostile import Case, Either, Says
from retinalogos.analysis.reader_pack import ASPECTS, key_digest
from retinalogos.analysis.reader_study import analyse_study

ITEMS = [{"item": f"{k:03d}", "source": "real" if k % 2 else "synthetic", "condition": "normal", "origin": f"o{k}"} for k in range(1, 13)]
STUDY = key_digest(0, ITEMS)


def answers(reader="ana", flip=(), **changed):
    """A file of answers of one reader, mostly right."""
    rows = [{"item": one["item"], "judged": one["source"] if k not in flip else "real", "confidence": 1 + k % 3, "ratings": dict.fromkeys(ASPECTS, 1 + k % 3)} for k, one in enumerate(ITEMS)]
    return {"study": STUDY, "reader": reader, "answers": rows} | changed


def analyse(folder, files: dict, key=None):
    """The scores of these files (name -> content, or bytes), and what lies in the folder of results."""
    (folder / "key.json").write_text(json.dumps(key or {"study": STUDY, "seed": 0, "items": ITEMS}))
    for name, content in files.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    try:
        scores = analyse_study(folder / "key.json", [folder / name for name in files], folder / "out")
    except BaseException:
        if list((folder / "out").glob("*")):
            raise AssertionError("results are written, and not together") from None
        raise
    return scores


def first(**changed):
    """Answers whose first row has these values."""
    content = answers()
    content["answers"][0].update(changed)
    return content


ODD = (5, -1, 1.5, True, False, "", "x", [], {}, ["real"], {"a": 1}, "NaN", "Infinity", 10**30, "<img src=x>", "\x1b[2J", None)
LONG = ("a" * 10_000, "a\nb", "a\x1b[2J", " ", "", "all readers", "pooled", "All Readers", "\u202eana", "a\u200b", None, 5, ["x"], {"a": 1}, True, "<script>x</script>", "a\ud83d")
TAKEN = {"confidence": (None,)}


def fields():
    """Values of odd types in each place."""
    for field in ("item", "judged", "confidence", "ratings"):
        for value in ODD:
            if value is None and field == "confidence" or value == {} and field == "ratings":
                continue
            yield f"{field} {str(value)[:20]!r}", first(**{field: value})
    for value in ODD:
        if value is not None:
            yield f"a rating {str(value)[:20]!r}", first(ratings={"disc": value})
    for value in ODD:
        yield f"study {str(value)[:20]!r}", answers(study=value)
        yield f"answers {str(value)[:20]!r}", answers(answers=value)
    for value in LONG:
        yield f"reader {str(value)[:20]!r}", answers(reader=value)
    for field in ("item", "judged", "ratings"):
        content = answers()
        del content["answers"][0][field]
        yield f"without {field}", content
    for field in ("study", "reader", "answers"):
        yield f"without {field}", {k: v for k, v in answers().items() if k != field}
    yield "an unknown aspect", first(ratings={"colour": 2})
    yield "a photograph twice", answers(answers=answers()["answers"] + answers()["answers"][:1])
    yield "an unknown photograph", first(item="999")
    yield "judged in upper case", first(judged="REAL")
    yield "confidence as text", first(confidence="2")


WHOLE = {"nothing": b"", "brackets": b"[" * 100_000, "a list": b"[]", "null": b"null", "zeros": bytes(100), "half": json.dumps(answers()).encode()[:200], "Latin-1": json.dumps(answers("\u00e9"), ensure_ascii=False).encode("latin-1"),
         "NaN": json.dumps(first(confidence=2)).replace('"confidence": 2', '"confidence": NaN').encode(), "HTML": b"<html>", "a picture": b"\x89PNG\r\n\x1a\n", "two objects": json.dumps(answers()).encode() * 2,
         "a number of 10,000 digits": b'{"study": ' + b"9" * 10_000 + b"}"}


def pairs():
    """Two files: names that are one reader's, or the table's own."""
    for one, other in (("ana", "ana"), ("Ana", "ana "), ("ana", "ANA"), ("ana", "ana\u200b"), ("\u00e9", "e\u0301"), ("ana", "all readers"), ("all readers", "ben"), ("pooled", "ben")):
        yield f"{one!r} and {other!r}", {"a.json": answers(one), "b.json": answers(other)}


def interval_of(scores, *path):
    for name in path:
        scores = scores[name]
    return scores


def no_width(scores) -> bool:
    """Whether any 95 % interval in `scores` has no width."""
    if isinstance(scores, dict):
        if {"low", "high"} <= set(scores) and scores["low"] is not None and scores["low"] == scores["high"]:
            return True
        return any(map(no_width, scores.values()))
    return isinstance(scores, list) and any(map(no_width, scores))


def claims():
    """Results of few or equal answers: no interval without width, no agreement of 0 where it is unknown."""
    two = lambda **each: {"a.json": answers("ana", **each), "b.json": answers("ben", **each)}
    for name, files in {"all right": two(), "all real": two(flip=range(12)), "one reader": {"a.json": answers()}, "one wrong": two(flip=(1,)),
                        "few answers": {"a.json": answers(answers=answers()["answers"][:2])}, "no ratings": {"a.json": answers(answers=[row | {"ratings": {}} for row in answers()["answers"]])},
                        "other photographs": {"a.json": answers("ana", answers=answers()["answers"][:6]), "b.json": answers("ben", answers=answers()["answers"][6:])}}.items():
        yield Case(f"intervals: {name}", lambda folder, files=files: no_width(analyse(folder, files)), False)
    yield Case("kappa of equal answers", lambda folder: analyse(folder, two(flip=range(12)))["agreement"]["fleiss"]["value"], None)
    yield Case("kappa without shared photographs", lambda folder: analyse(folder, {"a.json": answers("ana", answers=answers()["answers"][:6]), "b.json": answers("ben", answers=answers()["answers"][6:])})["agreement"]["fleiss"]["value"], None)
    yield Case("only real photographs answered", lambda folder: analyse(folder, {"a.json": answers(answers=[row for row in answers()["answers"] if int(row["item"]) % 2])}), Says("one kind"))


KEYS = {"seed": (None, "x", [], 1.5), "items": (None, [], {}, [1], "x"), "study": (None, 5, "", "0" * 16)}


def cases(rng):
    for name, content in fields():
        yield Case(name, lambda folder, content=content: analyse(folder, {"a.json": content})["n_readers"], Says(r"a\.json"))
    for name, data in WHOLE.items():
        yield Case(f"file: {name}", lambda folder, data=data: analyse(folder, {"a.json": data})["n_readers"], Says(r"a\.json"))
    for name, files in pairs():
        yield Case(f"readers {name}", lambda folder, files=files: analyse(folder, files)["n_readers"], Says(r"[ab]\.json"))
    for field, values in KEYS.items():
        for value in values:
            key = {"study": STUDY, "seed": 0, "items": ITEMS} | {field: value}
            yield Case(f"key: {field} {str(value)[:20]!r}", lambda folder, key=key: analyse(folder, {"a.json": answers()}, key)["n_readers"], Says(r"key\.json"))
    yield Case("confidence null", lambda folder: analyse(folder, {"a.json": first(confidence=None)})["n_readers"], 1)
    yield Case("a rating null", lambda folder: analyse(folder, {"a.json": first(ratings={"disc": None})})["n_readers"], 1)
    yield from claims()
