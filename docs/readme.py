"""README.md from nbs/index.ipynb: `python docs/readme.py [--check]`.

The index is written once, as a notebook that also opens the site. It is run, so that its numbers are those of the committed results. The README
shows its words, its code and what the code printed; links and pictures, which in the notebook start from nbs/, start from the root of the
repository here.
"""
import posixpath
import re
import subprocess
import sys
from pathlib import Path

import nbformat
from nbclient import execute

from build import prepare

ROOT = Path(__file__).resolve().parent.parent


def printed(outputs) -> str:
    """What a code cell printed or returned, as text; pictures have their own files."""
    texts = [o.get("text") or o.get("data", {}).get("text/plain", "") for o in outputs if "image/png" not in o.get("data", {})]
    text = "".join(texts).rstrip()
    return f"\n\n```text\n{text}\n```" if text else ""


def readme(notebook) -> str:
    """Markdown of the prepared notebook."""
    parts = []
    for cell in prepare(notebook).cells:
        shown = "" if "remove-input" in cell.metadata.get("tags", []) else f"```python\n{cell.source}\n```"
        parts.append(cell.source if cell.cell_type == "markdown" else (shown + printed(cell.outputs)).strip())
    text = "\n\n".join(part for part in parts if part)
    text = re.sub(r'(\]\(|src=")((?![a-z]+:|#|/)[^)"\s]+)', lambda m: m[1] + posixpath.normpath(f"nbs/{m[2]}"), text)
    return "<!-- made from nbs/index.ipynb by `make readme` -->\n\n" + text + "\n"


if __name__ == "__main__":
    index, target = ROOT / "nbs/index.ipynb", ROOT / "README.md"
    stored = nbformat.read(index, as_version=4)
    now = execute(nbformat.read(index, as_version=4), cwd=index.parent)
    if "--check" in sys.argv:
        same = target.exists() and target.read_text(encoding="utf-8") == readme(stored) == readme(now)
        sys.exit(None if same else "README.md is not what nbs/index.ipynb makes of the committed results: run `make readme`")
    nbformat.write(now, index)
    subprocess.run(["nbdev-clean", "--fname", str(index)], cwd=ROOT, check=True)
    target.write_text(readme(now), encoding="utf-8")
    print(target)
