"""Rows of the journal of captions: what does not fit is asked again, what fits is taken, and nothing ends the run."""
import fcntl
import json
import os

from hostile import Case, Either, Says
from hostile.captions import FIRST, GOOD, SECOND, dataset
from retinalogos.captions.backends import Result
from retinalogos.captions.run import caption_dataset

OTHER = "an earlier answer about clear media and a round optic disc"


class Always:
    """A backend that answers everything well and counts how often it was asked."""
    name, model, revision, prompt_hash, temperature = "openai", "m", "", "h", 0.0

    def __init__(self):
        self.asked = []

    def answer(self, jobs):
        for job in jobs:
            self.asked.append(job.image_id)
            yield Result(job, GOOD, attempts=1)


def captions_with(change):
    """The function of a case: the journal of two photographs, its first row changed by `change` (bytes to bytes), is read again."""
    def run(folder):
        caption_dataset(dataset(folder / "set", (FIRST, SECOND)), Always(), 1, folder / "journal")
        file = next((folder / "journal").glob("*.jsonl"))
        first, second = file.read_bytes().splitlines()
        file.write_bytes(change(first.replace(GOOD.encode(), OTHER.encode())) + b"\n" + second + b"\n")
        backend = Always()
        table = caption_dataset(folder / "set", backend, 1, folder / "journal")
        again = caption_dataset(folder / "set", later := Always(), 1, folder / "journal")
        numbers = table[["attempts", "prompt_tokens", "answer_tokens"]]
        sound = table["image_id"].tolist() == ["eye-0", "eye-1"] and not later.asked and table["error"].tolist() == ["", ""]
        sound &= all(str(kind).startswith("int") for kind in numbers.dtypes) and numbers.ge(0).all(axis=None) and numbers.lt(2**31).all(axis=None)
        table.to_parquet(folder / "captions.parquet")
        sound &= again["caption"].tolist() == table["caption"].tolist()
        return (backend.asked, table["caption"][0]) if sound else f"not sound: {table.to_dict('records')}"
    return run


ASKED, TAKEN = (["eye-0"], GOOD), ([], OTHER)
FIELDS = {"caption": (None, 3, [], {}, True, "", "a\ud83db"), "error": (None, 5, [], {}, True), "attempts": ("x", -1, 10**30, None, 1.5, [], True),
          "seconds": ("abc", None, [], {}, 10**400), "prompt_tokens": ("x", -5, 10**30, None, {}), "answer_tokens": ("x", 2**63, [], True), "seen": ("not JSON", "[]", 5, [], None, '{"a": 1}'),
          "seed": ("x", None, 10**30, []), "written_at": (5, None, "yesterday", []), "image_id": ("eye-1", None, 5, [], "../x"), "model": (None, 5, []), "backend": (None, 5), "key": (None, 5, [], {}, "", "other")}
WHOLE = {"a list": b"[1]", "null": b"null", "a number": b"5", "a string": b'"x"', "an empty object": b"{}", "nothing": b"", "garbage": bytes(range(128, 256)), "zeros": bytes(300), "brackets": b"[" * 100_000,
         "a number of 10,000 digits": b'{"key": ' + b"9" * 10_000 + b"}", "key alone": None}


def cases(rng):
    for field, values in FIELDS.items():
        for value in values:
            def change(row, field=field, value=value):
                return json.dumps(json.loads(row) | {field: value}).encode()
            yield Case(f"{field}: {str(value)[:20]!r}", captions_with(change), ASKED if field in ("key", "caption") else Either((ASKED, TAKEN)))

        def lacks(row, field=field):
            return json.dumps({k: v for k, v in json.loads(row).items() if k != field}).encode()
        yield Case(f"without {field}", captions_with(lacks), ASKED if field in ("key", "caption") else Either((ASKED, TAKEN)))
    for name, whole in WHOLE.items():
        yield Case(name, captions_with(lambda row, whole=whole: whole if whole is not None else json.dumps({"key": json.loads(row)["key"]}).encode()), ASKED)
    for k in range(8):
        share = rng.uniform(0.05, 0.98)
        yield Case(f"cut at {share:.0%}", captions_with(lambda row, share=share: row[:int(len(row) * share)]), ASKED)
    yield Case("two rows in one line", captions_with(lambda row: row + row), ASKED)
    yield Case("NaN as seconds", captions_with(lambda row: row.replace(b'"seconds": 0', b'"seconds": NaN')), Either((ASKED, TAKEN)))
    yield Case("a good row, then a broken one of its key", captions_with(lambda row: row + b"\n" + json.dumps(json.loads(row) | {"caption": None}).encode()), TAKEN)
    yield Case("a caption and later a failure", captions_with(lambda row: row + b"\n" + json.dumps(json.loads(row) | {"caption": "", "error": "e"}).encode()), TAKEN)
    yield Case("carriage returns", captions_with(lambda row: row + b"\r"), TAKEN)
    yield Case("BOM before", captions_with(lambda row: b"\xef\xbb\xbf" + row), Either((ASKED, TAKEN)))
    yield Case("a row of 50 MB", captions_with(lambda row: json.dumps(json.loads(row) | {"caption": "a " * 25_000_000}).encode()), Either((ASKED, lambda v: v[0] == [])))
    for code in ("ENOSYS", "ENOLCK", "EOPNOTSUPP", "EINVAL", "EWOULDBLOCK", "EAGAIN"):
        def locked(folder, code=code):
            import errno

            def refuse(file, how):
                raise OSError(getattr(errno, code), os.strerror(getattr(errno, code)))
            fcntl.flock = refuse
            return captions_with(lambda row: row)(folder)
        another = Says("another process")
        yield Case(f"flock: {code}", locked, another if code in ("EWOULDBLOCK", "EAGAIN") else Either((TAKEN, Says("^(?!.*another process).*lock"))))
