"""What the guides, the README and CONTRIBUTING tell people to type: every command and option is there, and every file and parameter."""
import re
import shlex
from pathlib import Path

import pytest
from accelerate.commands.launch import launch_command_parser
from dvc.cli import DvcParserError
from dvc.cli.parser import get_main_parser

from retinalogos import cli
from retinalogos.config import Params, presets

ROOT = Path(__file__).parent.parent
PAGES = [*sorted((ROOT / "nbs/guides").glob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
TARGETS = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), flags=re.M)
MADE = ("data/", ".dvc/", "my_", "dvc_plots", ".venv", "settings.local.ini", "_site")  # files that appear later


def commands(page):
    """The shell commands of a page, each as its words; assignments before a command are left out."""
    text = "\n".join(re.findall(r"^ *```bash\n(.*?)^ *```", page.read_text(encoding="utf-8"), flags=re.M | re.S)).replace("\\\n", " ")
    for line in text.splitlines():
        for part in re.split(r" && ", line):
            words = shlex.split(part, comments=True)
            if words[:1] == ["srun"]:  # what it runs, with numbers in the place of Slurm's variables
                words = shlex.split(re.sub(r"\$\(\([^)]*\)\)|\$\w+", "16", words[-1]))
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words.pop(0)
            if words:
                yield [Path(words[0]).name, *words[1:]]


def module_file(name):
    return ROOT / f"{name.replace('.', '/')}.py"


def accept(words):
    """Raises or gives False for a command that would not be understood; None for one that is not ours."""
    name, *rest = words
    if name == "retinalogos":
        args = cli.parser().parse_args(rest)
        return all(getattr(args, field, None) in (None, *presets()) for field in ("other",)) and (rest[0] != "preset" or rest[1] == "list" or args.name in presets())
    if name == "make":
        return all(word in TARGETS for word in rest if "=" not in word)
    if name == "dvc":
        args = get_main_parser().parse_args(rest)
        changed = [change.partition("=")[0] for change in getattr(args, "set_param", None) or []]
        return all(key.partition(".")[2] in Params.model_fields[key.partition(".")[0]].annotation.model_fields for key in changed)
    if name == "accelerate":
        args = launch_command_parser().parse_args(rest[1:])
        return (ROOT / args.config_file).is_file() and module_file(args.training_script).is_file()
    if name == "python" and rest[0] == "-m" and rest[1].startswith("retinalogos"):
        return module_file(rest[1]).is_file()
    if name in ("pytest", "nbdev-test"):
        return all((ROOT / word).exists() for word in rest if word.startswith(("tests/", "nbs")))
    return None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_are_understood(page, capsys):
    found, wrong = 0, []
    for words in commands(page):
        try:
            fine = accept(words)
        except (SystemExit, DvcParserError):
            fine = False
        found += fine is not None
        if fine is False:
            wrong.append((shlex.join(words), capsys.readouterr().err.strip()[-200:]))
    assert wrong == [] and found > 0


@pytest.mark.parametrize("words", ["retinalogos paint", "retinalogos preset apply papr", "make dinner", "dvc exp run -S pretrain.rl=1", "dvc exp walk",
                                   "accelerate launch --config_file presets/accelerate/none.yaml -m retinalogos.stage pretrain", "python -m retinalogos.stages x"])
def test_wrong_commands_would_be_found(words):
    try:
        assert accept(words.split()) is False
    except (SystemExit, DvcParserError):
        pass


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_are_there(page):
    named = re.findall(r"`((?:nbs|presets|tests|docs|retinalogos|data/results)/[\w./-]*|[\w]+\.(?:ini|yaml|lock|cff|toml|txt))`", page.read_text(encoding="utf-8"))
    assert [name for name in named if not name.startswith(MADE) and not (ROOT / name).exists()] == []
    assert [name for name in named if name.startswith("data/results/") and not (ROOT / name).exists()] == []
