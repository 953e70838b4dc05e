"""The stage runner as DVC and a person meet it: a process with an exit status, in a project of one stage."""
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_notebook

ROOT = Path(__file__).parent.parent
PARAMETERS = ["seed", "low_resolution", "high_resolution", "use_rule", "use_clip", "rule_threshold", "clip_quantile", "llm", "llm_threshold"]
NOTEBOOK = "nbs/stages/04_purify.ipynb"


@pytest.fixture
def project(tmp_path):
    (tmp_path / "nbs/stages").mkdir(parents=True)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    return tmp_path


def write(project, *cells, tags=("parameters",), names=PARAMETERS):
    first = new_code_cell("\n".join(f"{name} = 0" for name in names), metadata={"tags": list(tags)})
    nbformat.write(new_notebook(cells=[first, *map(new_code_cell, cells)]), project / NOTEBOOK)


def start(project, stage="purify", **env):
    return subprocess.Popen([sys.executable, "-m", "retinalogos.stage", stage], cwd=project, text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(ROOT)} | env)


def run(project, stage="purify", **env):
    process = start(project, stage, **env)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def files(project):
    return sorted(str(f.relative_to(project)) for f in project.rglob("*") if f.is_file())


def test_a_stage_gets_its_section_and_runs_at_the_root(project):
    write(project, "import os, json\njson.dump([seed, use_rule, os.getcwd()], open('seen.json', 'w'))\nprint('hello')")
    status, out, err = run(project)
    assert (status, err) == (0, "")
    assert json.loads((project / "seen.json").read_text()) == [20261124, True, str(project.resolve())]
    assert out.splitlines()[0].startswith("== purify: started") and "hello" in out and "== purify: done in" in out
    cost = json.loads((project / "data/run/purify.json").read_text())
    assert set(cost) == {"stage", "seconds", "peak_memory_gb", "cores"} and cost["peak_memory_gb"] > 0.05


def test_the_same_stage_twice_gives_the_same_bytes(project):
    write(project, "from retinalogos.config import write_json\nwrite_json('out.json', sorted({'a', 'b', 'c'}) + [hash('a')])")
    first = run(project)[0], (project / "out.json").read_bytes()
    assert first == (run(project)[0], (project / "out.json").read_bytes()), "hashes of strings must not vary"


@pytest.mark.parametrize("change, said", [
    (dict(names=PARAMETERS[:-1] + ["clip_quantil"]), "parameter 'clip_quantil' is not in params.yaml; did you mean 'clip_quantile'?"),
    (dict(names=PARAMETERS[:-1]), "no parameter 'llm_threshold' for this key of params.yaml"),
    (dict(tags=()), "expected one cell tagged 'parameters', found 0"),
])
def test_parameters_that_do_not_match_stop_it_before_it_starts(project, change, said):
    write(project, "open('ran', 'w')", **change)
    before = files(project)
    status, out, err = run(project)
    assert status == 2 and said in err and len(err.strip().splitlines()) == 1 and "Traceback" not in err
    assert files(project) == before


@pytest.mark.parametrize("old, new, said", [
    ("  clip_quantile:", "  clip_quantil:", "section 'purify': unknown key 'clip_quantil'; did you mean 'clip_quantile'?"),
    ("  seed: 20261124\n", "", "section 'base': missing key 'seed'"),
    ("  clip_quantile: ", "  clip_quantile: 7 #", "key 'clip_quantile': input should be less than 1, got 7"),
])
def test_a_fault_in_params_stops_it_before_it_starts(project, old, new, said):
    write(project, "open('ran', 'w')")
    text = (project / "params.yaml").read_text(encoding="utf-8")
    assert old in text
    (project / "params.yaml").write_text(text.replace(old, new, 1), encoding="utf-8")
    status, out, err = run(project)
    assert status == 2 and said in err and "Traceback" not in err and not (project / "ran").exists()


def test_an_unknown_stage(project):
    status, out, err = run(project, "purity")
    assert (status, err) == (2, "error: no stage 'purity'; did you mean 'purify'?\n")


def test_a_stage_without_its_notebook(project):
    status, out, err = run(project, "dataset")
    assert status == 2 and "expected one nbs/stages/NN_dataset.ipynb, found 0" in err


FOLDER = "from retinalogos.config import stage_folder\nwith stage_folder('data/purified') as f:\n    (f / 'scores').write_text('{}')\n    {}"


def test_a_failure_leaves_the_earlier_result_and_the_failing_cell(project):
    write(project, FOLDER.format("good", "pass"))
    assert run(project)[0] == 0
    cost = (project / "data/run/purify.json").read_bytes()
    write(project, FOLDER.format("half", "1 / 0"), "open('ran', 'w')")
    status, out, err = run(project)
    assert status == 1 and "ZeroDivisionError: division by zero" in err and "data/executed/04_purify.ipynb" in err
    assert len(err.splitlines()) < 20
    assert (project / "data/purified/scores").read_text() == "good" and not (project / "ran").exists()
    assert files(project / "data") == ["executed/04_purify.ipynb", "purified/scores", "run/purify.json"]
    assert (project / "data/run/purify.json").read_bytes() == cost, "the cost of the last run that ended well"
    cells = nbformat.read(project / "data/executed/04_purify.ipynb", as_version=4).cells
    assert any(o.output_type == "error" for cell in cells for o in cell.get("outputs", []))


def test_an_error_of_the_user_is_told_in_its_own_words(project):
    write(project, "from retinalogos.config import UserError\nraise UserError('labels.csv: no column image; rename it')")
    status, out, err = run(project)
    assert (status, err) == (1, "error: stage purify: labels.csv: no column image; rename it\n")


def test_a_killed_kernel_is_told(project):
    write(project, "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    status, out, err = run(project)
    assert status == 1 and "process ended" in err and "Traceback" not in err


def test_installed_kernels_are_of_no_account(project, tmp_path_factory):
    jupyter = tmp_path_factory.mktemp("jupyter")
    (jupyter / "kernels/python3").mkdir(parents=True)
    spec = {"argv": ["/bin/false", "{connection_file}"], "display_name": "broken", "language": "python"}
    (jupyter / "kernels/python3/kernel.json").write_text(json.dumps(spec))
    write(project, "import sys\nprint('run by', sys.executable)")
    status, out, err = run(project, JUPYTER_PATH=str(jupyter))
    assert status == 0 and f"run by {sys.executable}" in out, err


def test_what_it_prints_is_seen_while_it_runs(project):
    write(project, "import time\nprint('early', flush=True)\ntime.sleep(30)")
    process = start(project)
    begun = time.monotonic()
    try:
        assert any(line == "early\n" for line in process.stdout) and time.monotonic() - begun < 25
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_stopping_it_stops_the_kernel(project, how):
    write(project, "import os, time\ntry:\n    print(os.getpid(), flush=True)\n    time.sleep(120)\nfinally:\n    open('tidied', 'w')", "open('ran', 'w')")
    process = start(project)
    kernel = psutil.Process(next(int(line) for line in process.stdout if line.strip().isdigit()))
    process.send_signal(how)
    _, err = process.communicate(timeout=60)
    assert process.returncode == (-how if how == signal.SIGKILL else 130), err
    if how != signal.SIGKILL:
        line, tornado = f"stage purify: stopped ({how.name})\n", "ERROR:tornado.general:Uncaught exception in ZMQStream callback\n"
        before = err.removesuffix(line)  # ipykernel's own words, where the signal met it between two messages; none of ours
        assert (project / "tidied").exists() and err.endswith(line) and (not before or before.startswith(tornado)), err
    psutil.wait_procs([kernel], timeout=20)
    assert not kernel.is_running(), "the work goes on without anybody"
    assert not (project / "data/run/purify.json").exists() and not (project / "ran").exists()


def test_progress_bars_do_not_flood(project):
    write(project, "from tqdm import tqdm\nimport time\nfor _ in tqdm(range(400)): time.sleep(0.005)")
    status, out, err = run(project)
    assert status == 0 and "400/400" in err and err.count("\r") < 10
    page = nbformat.read(project / "data/executed/04_purify.ipynb", as_version=4)
    assert "\r" not in str(page.cells), "the page shows the last state of a bar only"
