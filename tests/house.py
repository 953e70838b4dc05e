"""What the code looks like: `python tests/house.py` prints it, tests/test_notebooks.py holds it to
the limits.

Code is what stands in code cells and .py files; text in triple quotes (prompts, pages, docstrings)
is text, and the rows of a statement that is marked `# table` on its first line may be wider.
"""
import ast
import io
import json
import re
import statistics
import subprocess
import tokenize
from pathlib import Path

ROOT = Path(__file__).parent.parent
WIDEST, MEAN, MEDIAN_CELL, SHARE_SHORT, SHORT, LONGEST_FUNCTION = 110, 58, 10, 0.9, 25, 40


def sources(root: Path = ROOT):
    """(file, number of the cell or 0, exported or not, source) of all code in git."""
    listed = subprocess.run(["git", "ls-files", "nbs", "tests", "docs"], cwd=root, capture_output=True,
                            text=True, check=True).stdout.split()
    for name in listed:
        file = root / name
        if file.suffix == ".py":
            yield name, 0, False, file.read_text(encoding="utf-8")
        elif file.suffix == ".ipynb":
            for k, cell in enumerate(json.loads(file.read_text(encoding="utf-8"))["cells"]):
                if cell["cell_type"] == "code":
                    source = "".join(cell["source"])
                    yield name, k, "#| export" in source, source


def python(source: str) -> str:
    """The source with the lines of shell and magic commands emptied."""
    return "\n".join("" if line.startswith(("%", "!")) else line for line in source.split("\n"))


def text_lines(source: str) -> set[int]:
    """Numbers of the lines, from 1, that are text in triple quotes or rows of a marked table."""
    rows = set()
    for token in tokenize.generate_tokens(io.StringIO(python(source) + "\n").readline):
        if token.type == tokenize.STRING and token.end[0] > token.start[0]:
            rows |= set(range(token.start[0], token.end[0] + 1))
    lines = source.split("\n")
    for node in ast.walk(ast.parse(python(source))):
        if isinstance(node, ast.stmt) and lines[node.lineno - 1].rstrip().endswith("# table"):
            rows |= set(range(node.lineno, node.end_lineno + 1))
    return rows


def wide_lines(found) -> list[str]:
    """Where code is wider than the limit."""
    return [f"{name}, cell {k}, line {n}: {len(line)}" for name, k, _, source in found
            for n, line in enumerate(source.split("\n"), 1)
            if len(line) > WIDEST and n not in text_lines(source)]


def code_size(source: str) -> int:
    """Lines of a cell that hold code."""
    return sum(bool(line.strip()) and not line.startswith("#|") for line in source.split("\n"))


def long_functions(found) -> list[str]:
    """Functions with more lines than the limit."""
    return [f"{name}, cell {k}: {node.name}, {node.end_lineno - node.lineno + 1} lines"
            for name, k, _, source in found for node in ast.walk(ast.parse(python(source)))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            and node.end_lineno - node.lineno + 1 > LONGEST_FUNCTION]


def figures(root: Path = ROOT) -> dict:
    """The figures by name."""
    found = list(sources(root))
    lengths = [len(line) for *_, source in found for line in source.split("\n") if line.strip()]
    cells = [code_size(source) for *_, exported, source in found if exported]
    asserting = sum("assert" in source or "expect_fail" in source for name, k, exported, source in found
                    if name.endswith(".ipynb") and not exported)
    return {"lines of code": len(lengths), "mean width": round(statistics.mean(lengths), 1),
            f"lines over {WIDEST}": len(wide_lines(found)), "exported cells": len(cells),
            "median lines of an exported cell": statistics.median(cells),
            f"share under {SHORT} lines": round(sum(c < SHORT for c in cells) / len(cells), 3),
            "asserting cells": asserting, f"functions over {LONGEST_FUNCTION} lines":
            len(long_functions(found))}


EXAMPLES = {"a lesion": "laser_scars", "a metric": "fidelity.recall", "a training key": "clip_norm",
            "a data set": "papila", "a default": "caption_dropout"}
"""One of each kind; where it is named by hand is where a new one of its kind has to be written."""


def places(name: str, root: Path = ROOT) -> list[str]:
    """Files that name something by hand: exported code and settings. Parameters cells, dvc.yaml and
    the guide's table are written by commands."""
    word = re.compile(rf"(?<![\w.]){re.escape(name)}(?![\w.])")
    found = {file for file, _, exported, source in sources(root)
             if exported and word.search(source)}
    found |= {file for file in ("params.yaml", "settings.ini")
              if word.search((root / file).read_text(encoding="utf-8"))}
    return sorted(found)


if __name__ == "__main__":
    for name, value in figures().items():
        print(f"{name:36}{value}")
    for line in [*wide_lines(list(sources())), *long_functions(list(sources()))]:
        print("  ", line)
    for kind, name in EXAMPLES.items():
        print(f"places of {kind}, {name}: {', '.join(places(name))}")
