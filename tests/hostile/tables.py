"""Label tables, cell by cell: what other programs write is read; what no caption uses never costs a photograph; the rest is rejected with a reason."""
import csv
import io
import zipfile

import numpy as np
import pandas as pd
from openpyxl import Workbook
from PIL import Image

from hostile import Case, Either, Says
from retinalogos.data.dataset import name_images
from retinalogos.data.sources import FolderSource, Reject

COLUMNS = {"eye": "eye", "glaucoma": "glaucoma", "dr_grade": "grade", "age": "age", "sex": "sex", "patient": "patient", "quality": "quality", "labels": "labels"}
ROW = {"image": "a.png", "eye": "OD", "glaucoma": "0", "grade": "1", "age": "50", "sex": "F", "patient": "p", "quality": "", "labels": ""}


def photographs(folder, names=("a.png",)):
    """A folder of data with such (one-colour) photographs."""
    for k, name in enumerate(names):
        path = folder / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((40, 40, 3), 50 + k, np.uint8)).save(path.with_suffix(".png")) if path.suffix == ".png" else path.write_bytes(b"x")
    return folder


def outcome(item):
    """An item as a dict of what it says, or (reject, reason)."""
    if isinstance(item, Reject):
        return "rejected", item.reason
    record = item.record
    return {"eye": record.eye, "glaucoma": record.grade_labels.get("glaucoma"), "grade": record.dr_grade, "age": item.age, "sex": item.sex,
            "patient": item.patient_id, "file": item.file.name}


def read(folder, content=None, rows=(ROW,), **options):
    """What a folder with this table (`content` in bytes, or `rows` as CSV) gives, row by row."""
    if content is None:
        file = io.StringIO()
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
        content = file.getvalue().encode()
    name = options.setdefault("table", "labels.csv")
    (folder / name).write_bytes(content)
    return [outcome(item) for item in FolderSource(folder, **{"columns": COLUMNS} | options).items()]


def rejected(word):
    """A test: the photograph is rejected, and the reason holds `word`."""
    return lambda v: v[0] == "rejected" and word in v[1].lower()


SIDES = {"OD": ("OD", "od", " OD ", "right", "Right", "RIGHT", "R", "r", "RE", "right eye", "Right Eye", "O.D.", "oculus dexter", "OD\u00a0"),
         "OS": ("OS", "os", "left", "LEFT", "L", "LE", "left eye", "O.S.", "oculus sinister")}
NO_SIDE = ("OU", "both", "middle", "0", "1", "2", "rightleft", "OD/OS", "R L", "not right", "odd", "ri", "\u0663", "=OD", "<b>OD</b>")
YES = ("1", "1.0", "yes", "Yes", "YES", "y", "true", "True", "TRUE", "t", "positive", " 1 ")
NO = ("0", "0.0", "no", "No", "N", "false", "False", "FALSE", "negative")
NO_BOOLEAN = ("2", "-1", "maybe", "0.5", "yesno", "1e9", "inf", "\u0661", "glaucoma?", "10")
GRADES = {"0": 0, "1": 1, "2.0": 2, " 3 ": 3, "4.00": 4, "4": 4, "0.0": 0}
NO_GRADES = ("5", "-1", "1.5", "inf", "1e9", "two", "0x1", "\u0663", "1;2", "10", "99", "1.01", "True", "0,5")
AGES = {"54": 54.0, "54.5": 54.5, "54.0": 54.0, "054Y": 54.0, "54 years": 54.0, "0": 0.0, "119": 119.0, "90+": 90.0, ">89": 89.0, "89+": 89.0, "54 y": 54.0}
NO_AGES = ("300", "-5", "121", "999", "1e5", "abc", "inf", "-inf", "1954-03-02", "54/55", "5" * 400, "0x36", "forty", "12:30", "54 kg", "=54")
SEXES = {"F": "female", "f": "female", "M": "male", "male": "male", "Female": "female", "MALE": "male", "Woman": Either(("female", None)), "man": Either(("male", None))}
NO_SEXES = ("U", "O", "Unknown", "other", "x", "0", "1", "2", "9", "m/f", "\u7537", "-", "nonbinary")
BLANKS = ("", " ", "NA", "N/A", "n/a", "#N/A", "NULL", "null", "None", "nan", "NaN", "NAN", "<NA>", "\u00a0", "\t", "-", ".", "?", "unknown", "missing", "#NULL!", "NaT")
SURE = set(BLANKS[:15])


def cell(column, text, want, key=None):
    """A case of one cell of one column; `want` is the value of the field, a test of the whole outcome, or `Either`."""
    def right(got):
        if callable(want):
            return want(got)
        return isinstance(got, dict) and (got[key or column] in want if isinstance(want, Either) else got[key or column] == want)
    return Case(f"{column} {text[:30]!r}", lambda folder: read(photographs(folder), rows=[ROW | {column: text}])[0], right)


def cells():
    """Cells, column by column."""
    yield from (cell("eye", text, side) for side, texts in SIDES.items() for text in texts)
    yield from (cell("eye", text, rejected("eye")) for text in NO_SIDE)
    yield from (cell("glaucoma", text, 1) for text in YES)
    yield from (cell("glaucoma", text, 0) for text in NO)
    yield from (cell("glaucoma", text, rejected("glaucoma")) for text in NO_BOOLEAN)
    yield from (cell("grade", text, grade) for text, grade in GRADES.items())
    yield from (cell("grade", text, rejected("grade")) for text in NO_GRADES)
    yield from (cell("age", text, Either((None, 89.0, 90.0)) if text[0] == ">" or text[-1] == "+" else age) for text, age in AGES.items())
    yield from (cell("age", text, None) for text in NO_AGES)
    yield from (cell("sex", text, sex) for text, sex in SEXES.items())
    yield from (cell("sex", text, None) for text in NO_SEXES)
    for blank in BLANKS:
        yield from (cell(column, blank, None) for column in ("age", "sex"))
        for column in ("eye", "glaucoma", "grade"):
            maybe = lambda got, column=column: got[0] == "rejected" if isinstance(got, tuple) else got[column] is None
            yield cell(column, blank, None if blank in SURE else maybe)


FILES = {"a.png": "a.png", "a": "a.png", "A.PNG": "a.png", " a.png ": "a.png", "./a.png": "a.png", "images/a.png": None, "sub/b.png": "b.png", "sub\\b.png": "b.png", "b": "b.png", "caf\u00e9.png": "caf\u00e9.png",
         "cafe\u0301.png": None, "../labels.csv": None, "/etc/passwd": None, "a.jpg": None, "nothing.png": None, "": None, ".": None, "a\0.png": None, "sub": None, "~/a.png": None, "a.png/": None, "a%2epng": None,
         "*.png": None, "x" * 5000: None, "\ud83d.png": None, "sub/../a.png": "a.png", "C:\\images\\a.png": None, "a.png#1": None}


def names():
    """Names of photographs: the file that is meant, or a reason; never a file outside."""
    for name, file in FILES.items():
        def right(got, file=file):
            return isinstance(got, dict) and got["file"] == file if file else isinstance(got, tuple) or got["file"] in ("caf\u00e9.png", "a.png")
        yield Case(f"image {name[:30]!r}", lambda folder, name=name: read(photographs(folder, ("a.png", "sub/b.png", "caf\u00e9.png")), ("image,eye\n" + f'"{name}",OD\n').encode("utf-8", "surrogatepass"), columns={"eye": "eye"})[0],
                   right if name != "\ud83d.png" else Either((right, Says("labels.csv.*UTF-8"))))


def ids(rng):
    """Ids of photographs are unique, whatever their names."""
    parts = ("x", "x.2", "x.3", "x.2.2", "x-2", "X", "x y", "x_y", "a/x", "a-x", "\u00e9", "e", "x.2.3", "..", "x..2")
    for k in range(10):
        files = [rng.choice(parts) + rng.choice((".jpg", ".png", ".2.jpg", ".tif", "", ".JPG")) for _ in range(30)]
        yield Case(f"ids of {len(files)} files, {k}", lambda folder, files=files: len(set(name_images(["s"] * len(files), files))), 30)


TABLE = "image,eye,grade,sex\na.png,OD,2,M\n"
ONE = {"columns": {"eye": "eye", "dr_grade": "grade", "sex": "sex"}}


def fine(got):
    """The one row was read right."""
    return isinstance(got, list) and len(got) == 1 and isinstance(got[0], dict) and (got[0]["eye"], got[0]["grade"], got[0]["sex"]) == ("OD", 2, "male")


def whole_tables():
    """Encodings, separators and shapes of a table: read right, or one line that names the file."""
    named = Says(r"labels\.csv")
    for encoding in ("utf-8-sig", "utf-16", "utf-16-le", "utf-32", "cp037"):
        yield f"in {encoding}", TABLE.encode(encoding), Either((fine, named))
    for encoding in ("latin-1", "cp1252", "mac_roman", "gb18030", "shift_jis"):
        yield f"a note in {encoding}", TABLE.replace("sex\n", "sex,note\n").replace("M\n", "M," + ("\u8a3b" if encoding in ("gb18030", "shift_jis") else "\u00e9t\u00e9") + "\n").encode(encoding), Either((fine, named))
    for name, mark in {"semicolons": ";", "tabs": "\t", "bars": "|", "blanks": " ", "full-width commas": "\uff0c", "NUL": "\0"}.items():
        yield f"separated by {name}", TABLE.replace(",", mark).encode(), Either((fine, named))
    for name, text in {"CRLF": TABLE.replace("\n", "\r\n"), "CR": TABLE.replace("\n", "\r"), "blank lines": TABLE.replace("\n", "\n\n\n"), "quoted": TABLE.replace("a.png", '"a.png"'), "commas at the end": TABLE.replace("\n", ",,,\n"),
                       "without the last newline": TABLE.strip(), "blanks in the header": TABLE.replace("eye", " eye "), "a comment first": "# made by x\n" + TABLE, "columns in another order": "sex,grade,eye,image\nM,2,OD,a.png\n",
                       "sep= of Excel": "sep=,\n" + TABLE, "upper case": TABLE.replace("image,eye", "Image,Eye"), "form feed": TABLE + "\f", "row of blanks": TABLE + ",,,\n", "end mark of DOS": TABLE + "\x1a"}.items():
        yield name, text.encode(), Either((fine, named, lambda got: isinstance(got, list) and any(fine([one]) for one in got)))
    for name, table in {"nothing": b"", "one newline": b"\n", "a header alone twice": TABLE.split("\n")[0].encode() + b"\n" + b"image,image\n", "zeros": bytes(2000), "a picture": b"\x89PNG\r\n\x1a\n" + bytes(range(256)),
                        "HTML": b"<!doctype html><table><tr><td>a.png</table>", "JSON": b'[{"image": "a.png"}]', "an open quotation": TABLE.replace("a.png", '"a.png').encode(), "a column twice": TABLE.replace("sex", "eye").encode(),
                        "100,000 columns": b"," * 100_000 + b"\n", "a cell of 30 MB": TABLE.replace("M\n", "M" * 30_000_000 + "\n").encode()}.items():
        yield name, table, Either((named, lambda got: isinstance(got, list) and all(isinstance(one, tuple) or one["sex"] is None for one in got)))


def workbook(change=None, rows=(("image", "eye", "grade", "sex"), ("a.png", "OD", 2, "M"))) -> bytes:
    """An .xlsx with these rows, changed by `change(sheet)`."""
    book, file = Workbook(), io.BytesIO()
    for row in rows:
        book.active.append(row)
    if change:
        change(book.active)
    book.save(file)
    return file.getvalue()


def put(at, value):
    return lambda sheet: sheet.__setitem__(at, value)


def rezip(data, change):
    """The zip `data` with its members changed by `change(name, content)`; None leaves one out."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            if (content := change(name, old.read(name))) is not None:
                new.writestr(name, content)
    return file.getvalue()


def workbooks():
    """Workbooks: read right, or one line that names the file; never all the memory."""
    told = Says(r"labels\.xlsx")
    for at in ("XFD1048576", "XFD2000", "A1048576", "XFD1", "ZZ1", "A100000", "AAA50000"):
        yield f"one x in {at}", workbook(put(at, "x")), Either((told, fine, lambda got: isinstance(got, list) and any(fine([one]) for one in got)))
    for name, rows in {"as it should": ((2, "M"),), "a float": ((2.0, "M"),), "text": (("2", "M"),)}.items():
        yield f"grade {name}", workbook(rows=(("image", "eye", "grade", "sex"), ("a.png", "OD", *rows[0]))), fine
    yield "a formula", workbook(put("C2", "=1+1")), Either((told, lambda got: got[0]["grade"] is None if isinstance(got[0], dict) else True))
    yield "a date as grade", workbook(put("C2", pd.Timestamp("2026-01-02"))), Either((told, lambda got: isinstance(got[0], tuple)))
    yield "true as grade", workbook(put("C2", True)), Either((told, lambda got: isinstance(got[0], tuple)))
    yield "an error as sex", workbook(put("D2", "#N/A")), lambda got: got[0]["sex"] is None
    yield "merged cells", workbook(lambda sheet: sheet.merge_cells("A1:B1")), told
    yield "hidden rows", workbook(lambda sheet: setattr(sheet.row_dimensions[2], "hidden", True)), Either((fine, told))
    data = workbook()
    for share in (5, 50, 95):
        yield f"cut at {share} %", data[:len(data) * share // 100], told
    yield "nothing", b"", told
    yield "CSV by another name", TABLE.encode(), Either((told, fine))
    yield "an old .xls", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(3000), told
    yield "no sheet in it", rezip(data, lambda name, content: None if "sheet1" in name else content), told
    yield "broken XML", rezip(data, lambda name, content: content[:-30] if "sheet1" in name else content), told
    yield "900 MB of blanks", rezip(data, lambda name, content: content + b" " * 900_000_000 if "sheet1" in name else content), told
    entity = b'<?xml version="1.0"?><!DOCTYPE l [<!ENTITY a "aaaaaaaaaa">' + b"".join(b'<!ENTITY %c "%s">' % (98 + k, b"&%c;" % (97 + k) * 10) for k in range(9)) + b']><worksheet>&j;</worksheet>'
    yield "entities in entities", rezip(data, lambda name, content: entity if "sheet1" in name else content), told


PATTERNS = {r"(?P<Patient>\d+)_(?P<Eye>left|right)": "group|Patient", r"(\d+)_(left|right)": "group|patient", r"(?P<patient>\d+": "regular expression", r"(?P<who>\d+)_(?P<eye>left|right)": "who|group", r"nothing": "group|match|patient",
            r"(?P<patient>[A-Z]{5})": "match|no name", r"(?P<eye>OD|OS)": "match|no name", "*": "regular expression", "(?P<image>.*)": "image|group"}


def patterns():
    """Patterns of names: groups that nobody knows and patterns that match nothing are refused."""
    def run(folder, pattern):
        photographs(folder, ("10_left.png", "10_right.png"))
        return read(folder, b"image\n10_left.png\n10_right.png\n", columns={}, name_pattern=pattern)
    for pattern, word in PATTERNS.items():
        yield Case(f"pattern {pattern}", lambda folder, pattern=pattern: run(folder, pattern), Says(word))
    yield Case("a good pattern", lambda folder: [(one["patient"], one["eye"]) for one in run(folder, r"(?P<patient>\d+)_(?P<eye>left|right)")], [("10", "OS"), ("10", "OD")])


def cases(rng):
    for page in (cells(), names(), ids(rng), patterns()):
        yield from page
    for name, table, want in whole_tables():
        yield Case(f"table: {name}", lambda folder, table=table: read(photographs(folder), table, **ONE), want)
    for name, table, want in workbooks():
        yield Case(f"workbook: {name}", lambda folder, table=table: read(photographs(folder), table, table="labels.xlsx", **ONE), want)
