"""A metric is one row: it stands in the results, in the guide, and nowhere else by hand; one row more
is seen everywhere."""
import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from retinalogos.analysis.ablation import ABLATION_METRICS, READ
from retinalogos.report import metrics
from retinalogos.report.metrics import (METRICS, asked, gathered, guide_line, metric_at,
                                        values_at)
from retinalogos.report.summary import RESULTS, headline_table, read_results, summary
from retinalogos.stage import notebook_source

ROOT = Path(__file__).parent.parent
ROWS = ROOT / "nbs/report/39_metrics.ipynb"
GUIDE = ROOT / "nbs/guides/05_metrics.md"
ROW = """
    Metric("biomarkers.disc_overlap", "overlap of the discs", "biomarkers.dice.disc", digits=1,
           unit="Dice of discs", part="biomarkers", question="Is the disc found where it is?",
           limit=0.5, beforehand=True, gathered="summary"),
"""
"""A metric that has no row: the stage measures it, and says so in biomarkers.json."""


@pytest.fixture(scope="module")
def results():
    return read_results(ROOT / "data/results")


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_its_number_stands_in_the_results_or_the_row_says_what_it_needs(results, metric):
    assert values_at(results, metric.place) or metric.needs
    if isinstance(metric.limit, str):
        assert values_at(results, metric.limit) or metric.needs


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_the_guide_has_its_line(metric):
    cells = guide_line(metric)
    assert f"| {' | '.join(cells)} |" in GUIDE.read_text(encoding="utf-8").splitlines()
    assert metric.name in cells[0] and metric.question in cells[2]


def test_the_guide_is_what_the_rows_make():
    subprocess.run([sys.executable, "docs/guide.py", "--check"], cwd=ROOT, check=True)


def test_the_files_of_results_are_those_that_the_stages_write(results):
    assert set(RESULTS) == set(metrics.PAGES) == set(results)
    assert all((ROOT / f"nbs/results/{page}.ipynb").exists() for page in metrics.PAGES.values())


def test_headline_numbers_and_questions_are_those_of_the_rows(results):
    names = headline_table(results)["name"].tolist()
    assert names == [metric.name for metric in gathered() if values_at(results, metric.place)]
    nested = summary(results, {})
    for metric in gathered():
        assert (metric.gathered == "summary") == bool(values_at(nested, metric.name)), metric.name
    report = json.loads((ROOT / "data/results/report.json").read_text())
    assert len(report["scorecard"]) == len(asked()) + 2, "readers, and patients of other clinics"


def test_what_the_ablation_measures_has_rows():
    """The analysis cannot read the rows, which stand above it; so they are held together here."""
    for name in {*ABLATION_METRICS, *READ}:
        metric = metric_at(f"ablation.rows.IV.{name}")
        assert metric in METRICS, name
        signed = {"Spearman correlation", "quadratic kappa"}
        assert name not in READ or (READ[name][1][0] < 0) == (metric.unit in signed), name


def known_by_hand(source: str) -> set[str]:
    """Names, words and questions of metrics that code spells out."""
    told = {text for metric in METRICS for text in (metric.name, metric.question, metric.unit)}
    texts = {node.value for node in ast.walk(ast.parse(source))
             if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return texts & told - {""}


def test_what_names_a_metric_by_hand_would_be_found():
    assert known_by_hand("x = {'adherence.dr_spearman': 0.7}") == {"adherence.dr_spearman"}
    assert known_by_hand("'Are there copies?'") and not known_by_hand("x['fidelity']")


@pytest.mark.parametrize("wing", ["report", "study", "results", "stages"])
def test_no_other_code_knows_a_metric_by_hand(wing):
    allowed = {"reader_study.d_prime"}  # the line that only people can answer
    for notebook in sorted((ROOT / "nbs" / wing).glob("*.ipynb")):
        exported = [cell.source for cell in nbformat.read(notebook, as_version=4).cells
                    if cell.cell_type == "code" and "#| export" in cell.source]
        source = "\n".join(exported) if wing in ("report", "study") else notebook_source(notebook)
        assert notebook == ROWS or known_by_hand(source) <= allowed, notebook.name


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy of the repository with one row more, exported anew."""
    folder = tmp_path_factory.mktemp("one_row_more")
    for name in ("nbs", "docs", "retinalogos", "data/results"):
        shutil.copytree(ROOT / name, folder / name,
                        ignore=shutil.ignore_patterns(".ipynb_checkpoints", "__pycache__"))
    for name in ("pyproject.toml", "settings.ini", "params.yaml", "dvc.lock"):
        shutil.copy(ROOT / name, folder)
    notebook = folder / ROWS.relative_to(ROOT)
    content = nbformat.read(notebook, as_version=4)
    cell, = (cell for cell in content.cells if "EYES = (" in cell.source)
    cell.source = cell.source.replace("EYES = (\n", f"EYES = ({ROW}", 1)
    nbformat.write(content, notebook)
    run(folder, "-c", "from nbdev.export import nb_export\n"
        f"nb_export({str(notebook)!r}, 'retinalogos')")
    return folder


def run(folder, *arguments, check=True):
    """A Python process on the copy."""
    return subprocess.run([sys.executable, *arguments], cwd=folder, text=True, check=check,
                          capture_output=True, env=os.environ | {"PYTHONPATH": str(folder)})


SEEN = """
import json
from pathlib import Path
import retinalogos
from retinalogos.report import cards, metrics, scorecard, summary
results = summary.read_results("data/results")
headline = summary.headline_table(results)
headline.to_csv("data/results/headline.csv", index=False)
name = "biomarkers.disc_overlap"
def of(table):
    return table.set_index("name").loc[name].astype(str).to_dict()
print(json.dumps({
    "package": retinalogos.__file__, "number": results["biomarkers"]["dice"]["disc"],
    "summary": summary.summary(results, {})["biomarkers"]["disc_overlap"],
    "headline": float(of(headline)["value"]), "page": of(summary.headline_words(headline)),
    "target": of(summary.target_table(headline)), "card": cards.headline_text(Path(".")),
    "words": metrics.metric_at("biomarkers.dice.disc").words,
    "scorecard": [line for line in scorecard.scorecard(results) if "disc found" in line["question"]]}))
"""


def test_one_row_more_is_seen_in_every_table(copy):
    seen = json.loads(run(copy, "-c", SEEN).stdout)
    assert Path(seen["package"]).is_relative_to(copy)
    assert seen["number"] == seen["summary"] == seen["headline"] > 0.5
    assert seen["words"] == seen["page"]["in words"] == "overlap of the discs"
    assert seen["page"]["value"] == f"{seen['number']:.1f}", "digits as the row has them"
    assert seen["target"]["target"] == "at least 0.5" and seen["target"]["reached"] == "True"
    assert "overlap of the discs" in seen["card"]
    line, = seen["scorecard"]
    assert line["verdict"] == "met" and line["rule"] == "at least 0.5"
    assert line["measure"] == "Dice of discs" and line["where"] == "19_biomarkers"


def test_the_table_of_the_guide_is_old_until_it_is_written(copy):
    guide = copy / GUIDE.relative_to(ROOT)
    old = run(copy, "docs/guide.py", "--check", check=False)
    assert old.returncode and "run `make readme`" in old.stderr
    assert "biomarkers.disc_overlap" not in guide.read_text(encoding="utf-8")
    run(copy, "docs/guide.py")
    line, = (line for line in guide.read_text(encoding="utf-8").splitlines() if "disc_overlap" in line)
    assert "Dice of discs" in line and "at least 0.5, set beforehand" in line
    run(copy, "docs/guide.py", "--check")


def test_a_page_of_results_shows_it(copy):
    run(copy, "-c", SEEN)
    shown = run(copy, "-c", "import nbformat\nfrom nbclient import execute\n"
                "page = nbformat.read('nbs/results/00_overview.ipynb', as_version=4)\n"
                "page.cells = [cell for cell in page.cells if 'display(Image' not in cell.source]\n"
                "print(execute(page, cwd='nbs/results'))").stdout
    assert "overlap of the discs" in shown and "biomarkers.disc_overlap" in shown


def test_one_notebook_was_touched(copy):
    run(copy, "docs/guide.py")
    files = [file.relative_to(ROOT) for file in sorted((ROOT / "nbs").rglob("*.*")) if file.is_file()
             and ".ipynb_checkpoints" not in file.parts]
    touched = [file for file in files if (ROOT / file).read_bytes() != (copy / file).read_bytes()]
    assert touched == [GUIDE.relative_to(ROOT), ROWS.relative_to(ROOT)], "the guide by a command"
