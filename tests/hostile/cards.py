"""Text from files in cards, forms and pages: never a tag, never front matter, never a lie about where photographs came from."""
import json
import re
import shutil
from pathlib import Path

import pandas as pd

from hostile import Case, Either, Says
from hostile.photographs import encoded, eye, place
from retinalogos import cards
from retinalogos.analysis.reader_pack import folder_material, make_pack
from retinalogos.captions.sheet import row_page
from retinalogos.data.dataset import build_dataset
from retinalogos.data.sources import FolderSource

HTML = ("<script>alert(1)</script>", "<img src=q onerror=alert(1)>", "</td><iframe src=x>", "<svg/onload=alert(1)>", "<a href='javascript:alert(1)'>x</a>", "&lt;b&gt;<b>", "<!-- ", "<style>*{display:none}</style>",
        "<ScRiPt >alert(1)</sCrIpT>", "<details open ontoggle=alert(1)>", "\n<img src=q onerror=alert(1)>", "<math><mi//xlink:href=\"data:x,<script>\">")
MARKDOWN = ("\n---\nlicense: mit\n---\n", "\n# Heading", "![x](http://127.0.0.1/x.png)", "[click](javascript:alert(1))", "| a | b |\n|---|---|", "\n```\n", "`<b>`", "\u202e\u2066", "\x1b[2J", "{{7*7}}", "$(id)", "\r\nlicense: mit")
TAG = re.compile(r"<\s*/?\s*(script|img|iframe|svg|a |a>|style|details|math|b>)|<!--|javascript:|!\[x\]\(http", re.I)


def table_set(folder, name=None, file=None, cell=None, where="labels"):
    """A data set of two photographs with such a name, a file's name or a cell in its table; the text of its card."""
    (folder / "set/images").mkdir(parents=True)
    for k in range(2):
        (folder / f"set/images/{k}.png").write_bytes(encoded(place(eye(k))))
    rows = [("0.png", "OD", "", ""), ("1.png", "OS", "", "")]
    if file is not None:
        rows.append((file, "OD", "", ""))
        try:
            path = folder / "set/images" / (file.replace("/", "") + ".png")
            path.write_bytes(encoded(place(eye(0))))
        except (OSError, ValueError):
            pass
    if cell is not None:
        rows.append(("0.png", *(cell if column == where else "" for column in ("eye", "labels", "report"))))
    pd.DataFrame(rows, columns=["image", "eye", "labels", "report"]).to_csv(folder / "set/labels.csv", index=False)
    source = FolderSource(folder / "set", name=name, columns={"eye": "eye", "labels": "labels", "report": "report"})
    build_dataset(folder / "out", source, low_resolution=32, high_resolution=64, seed=0, val_fraction=0.0, test_fraction=0.0)
    return (folder / "out/README.md").read_text(encoding="utf-8")


def clean(card) -> bool:
    """No tag, one front matter with our keys alone, and no control characters."""
    head = card.split("---\n")[1]
    return not TAG.search(card) and "license: mit" not in head and card.count("\n---\n") == 1 and not re.search(r"[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069]", card)


def page(text):
    """The page of a reader who judges a caption: what the form shows."""
    return row_page(pd.Series({"caption": text}), {"report": text, "file": text, "disease_labels": json.dumps([text])})


def pack_text(folder, text):
    """The page of a study whose photographs have such names."""
    for kind in ("real", "synthetic"):
        (folder / kind).mkdir()
        for k in range(2):
            name = re.sub(r"[/\0]", "", f"{text[:100]}{k}.png")
            (folder / kind / name).write_bytes(encoded(eye(k + 5 * (kind == "real"))))
    html, key = make_pack(folder_material(folder / "real"), folder_material(folder / "synthetic"), 4, 1)
    return text.strip() not in html


def model_card(folder, change):
    """The model card of this repository's results, changed by `change(results folder)`."""
    root = Path(__file__).resolve().parents[2]
    (folder / "data").mkdir()
    shutil.copytree(root / "data/results", folder / "data/results")
    for name in ("dvc.lock", "params.yaml", "dvc.yaml"):
        shutil.copy(root / name, folder / name)
    change(folder)
    return cards.model_card(folder)


def own_dataset(folder):
    """Photographs of one's own, and nothing trained on them yet."""
    table_set(folder / "made")
    (folder / "made/out").rename(folder / "data/dataset")


def own_checkpoint(folder, weights=b"other weights"):
    """A checkpoint that no result was measured on."""
    place_ = folder / "data/checkpoints/finetune/transformer"
    place_.mkdir(parents=True)
    (place_ / "diffusion_pytorch_model.safetensors").write_bytes(weights)
    (place_.parent / "model_index.json").write_text("{}")


def no_claim(card) -> bool:
    """Neither simulated eyes nor Apache nor a number of the run on record."""
    return "**simulated**" not in card and "license: apache-2.0" not in card and "21.36" not in card


def cases(rng):
    for text in HTML + MARKDOWN:
        yield Case(f"name of the set {text[:24]!r}", lambda folder, text=text: table_set(folder, name=f"a{text}"), clean)
        yield Case(f"name of a file {text[:24]!r}", lambda folder, text=text: table_set(folder, file=f"b{text}"), clean)
        yield Case(f"a label {text[:24]!r}", lambda folder, text=text: table_set(folder, cell=f"c{text}"), clean)
        yield Case(f"a caption in the form {text[:24]!r}", lambda folder, text=text: page(text), lambda shown: not re.search(r"<\s*/?\s*(script|img|iframe|svg|a |style|details|math)|<!--", shown, re.I))
        yield Case(f"a name in a study {text[:24]!r}", lambda folder, text=text: pack_text(folder, text), True)
    unknown = Says("checkpoint|data|trained|run")
    yield Case("model card: a data set of one's own", lambda folder: model_card(folder, own_dataset), Either((no_claim, unknown)))
    yield Case("model card: another checkpoint", lambda folder: model_card(folder, own_checkpoint), Either((no_claim, unknown)))
    yield Case("model card: both", lambda folder: model_card(folder, lambda f: (own_dataset(f), own_checkpoint(f))), Either((no_claim, unknown)))
    yield Case("model card: nothing trained here", lambda folder: model_card(folder, lambda f: None), Either((no_claim, unknown)))
