"""Notebooks, the modules they export, params.yaml and dvc.yaml: in step with each other."""
import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from ruamel.yaml import YAML

from retinalogos.config import STAGES, Params, load_params, stage_parameters
from retinalogos.stage import check_parameters, code_dependencies, find_notebook, imported_modules, notebook_source

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted(f for f in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in f.parts)
LIBRARY = [f for f in NOTEBOOKS if f.parent.name not in ("stages", "results", "explore") and f.stem != "index"]
WINGS = ["config", "data", "captions", "training", "analysis"]  # each may import itself and what stands before it
PIPELINE = YAML(typ="safe").load(ROOT / "dvc.yaml")


def name(path):
    return str(path.relative_to(ROOT / "nbs"))


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The notebooks and what nbdev needs, exported and cleaned afresh elsewhere."""
    folder = tmp_path_factory.mktemp("copy")
    shutil.copytree(ROOT / "nbs", folder / "nbs", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    for file in ("pyproject.toml", "settings.ini"):
        shutil.copy(ROOT / file, folder)
    (folder / "retinalogos").mkdir()
    shutil.copy(ROOT / "retinalogos/__init__.py", folder / "retinalogos")
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(folder)}
    for command in (["git", "init", "-q"], ["nbdev-export"], ["nbdev-clean"]):
        subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    return folder


def test_modules_are_what_the_notebooks_export(copy):
    here, there = ({str(f.relative_to(base)): f.read_text(encoding="utf-8") for f in (base / "retinalogos").rglob("*.py")}
                   for base in (ROOT, copy))
    assert set(here) == set(there)
    assert not [file for file in here if here[file] != there[file]], "run nbdev-export"


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=name)
def test_notebooks_are_clean(copy, notebook):
    cleaned = (copy / "nbs" / name(notebook)).read_text(encoding="utf-8")
    assert notebook.read_text(encoding="utf-8") == cleaned, "run nbdev-clean"


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=name)
def test_notebooks_hold_no_failure_and_are_small(notebook):
    outputs = [o for cell in nbformat.read(notebook, as_version=4).cells for o in cell.get("outputs", [])]
    assert not [o for o in outputs if o.output_type == "error"]
    assert notebook.stat().st_size < 600_000
    assert all(len(o.get("data", {}).get("image/png", "")) < 200_000 for o in outputs)


@pytest.mark.parametrize("notebook", LIBRARY, ids=name)
def test_library_notebooks_run_before_they_are_stored(notebook):
    cells = [c for c in nbformat.read(notebook, as_version=4).cells if c.cell_type == "code"]
    assert any(c.outputs for c in cells), "stored without outputs: the site would show none"


@pytest.mark.parametrize("notebook", LIBRARY, ids=name)
def test_exported_cells_are_small(notebook):
    cells = [c.source for c in nbformat.read(notebook, as_version=4).cells if c.cell_type == "code"]
    sizes = [len([line for line in s.splitlines() if line.strip() and not line.startswith("#|")]) for s in cells if "#| export" in s]
    assert max(sizes, default=0) <= 40


@pytest.mark.parametrize("stage", STAGES)
def test_parameters_cells_match_params(stage):
    check_parameters(find_notebook(stage, ROOT), stage_parameters(stage, load_params(ROOT / "params.yaml")))


@pytest.mark.parametrize("stage", STAGES)
def test_stage_notebooks_are_thin(stage):
    tree = ast.parse(notebook_source(find_notebook(stage, ROOT)))
    assert not [n for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.ClassDef))], "functions belong in the library"
    cells = [c for c in nbformat.read(find_notebook(stage, ROOT), as_version=4).cells if c.cell_type == "code"]
    assert len(cells) <= 15 and not any(c.outputs for c in cells), "thin, and stored without outputs"


def test_imports_run_downwards():
    for file in (ROOT / "retinalogos").rglob("[!_]*.py"):
        module = file.relative_to(ROOT / "retinalogos").with_suffix("").parts
        wing = module[0]
        if wing in WINGS:
            imported = {name.split(".")[0] for name in imported_modules(file.read_text(encoding="utf-8"), ".".join(module))} - {""}
            assert imported <= set(WINGS[:WINGS.index(wing) + 1]), f"{file.name} imports upwards: {imported}"


def test_progress_is_text():
    """`tqdm.auto` makes widgets, which nobody sees while a stage runs and no page can show."""
    assert not [f.name for f in NOTEBOOKS if f.parent.name != "explore" and "tqdm.auto" in notebook_source(f)]


def test_stage_notebooks_are_numbered_in_pipeline_order():
    files = sorted((ROOT / "nbs/stages").glob("*.ipynb"))
    assert [f.stem for f in files] == [f"{i:02d}_{stage}" for i, stage in enumerate(STAGES)]
    assert list(PIPELINE["stages"]) == list(STAGES)


def outs(stage):
    return [next(iter(o)) if isinstance(o, dict) else o for o in PIPELINE["stages"][stage]["outs"]]


@pytest.mark.parametrize("stage", STAGES)
def test_pipeline_calls_the_runner_and_tracks_base_and_own_section(stage):
    told = PIPELINE["stages"][stage]
    assert told["cmd"] == f"python -m retinalogos.stage {stage}" and told["desc"]
    own = [stage] if Params.model_fields[stage].annotation.model_fields else []
    assert told["params"] == ["base", *own]


@pytest.mark.parametrize("stage", STAGES)
def test_pipeline_depends_on_the_code_that_a_stage_uses(stage):
    notebook = find_notebook(stage, ROOT)
    draws = any(out.endswith(".png") for out in outs(stage))
    needed = [str(notebook.relative_to(ROOT)), *code_dependencies(notebook, ROOT, shows_only=not draws)]
    told = [d for d in PIPELINE["stages"][stage]["deps"] if not d.startswith("data/")]
    assert sorted(told) == sorted(needed)


def test_pipeline_data_dependencies_are_made_by_an_earlier_stage():
    made = set()
    for stage in STAGES:
        needs = {d for d in PIPELINE["stages"][stage]["deps"] if d.startswith("data/")}
        assert needs <= made, f"{stage} needs {needs - made}"
        made |= set(outs(stage))


def test_small_results_are_in_git_and_the_rest_is_not():
    for stage in STAGES:
        for out in PIPELINE["stages"][stage]["outs"]:
            small = isinstance(out, dict)
            path = next(iter(out)) if small else out
            assert small == path.startswith("data/results/"), path
            assert not small or out[path]["cache"] is False
            ignored = subprocess.run(["git", "check-ignore", "-q", path], cwd=ROOT).returncode == 0
            assert ignored != small, path


def test_readme_is_made_from_the_index():
    subprocess.run([sys.executable, "docs/readme.py", "--check"], cwd=ROOT, check=True)
