"""Build the documentation site: `python docs/build.py [OUT]` (default: _site/).

Pages are the notebooks, and the guides (nbs/guides/*.md). Library notebooks and the index are shown with the outputs stored in them, stages as they were last executed
(data/executed/), and results pages are run here, since they only read what the stages wrote. No network is needed.
"""
import shutil
import sys
from pathlib import Path

import nbformat
from nbformat.v4 import new_markdown_cell

from retinalogos.config import UserError
from retinalogos.stage import execute, explain

SECTIONS = {  # folder in nbs/: title, what it holds
    "guides": ("Guides", "From a wish to the commands that fulfil it, and what appears where."),
    "results": ("Results", "What the finished run found. These pages only read the files that the stages wrote."),
    "stages": ("Pipeline", "The stages in the order in which they run, as they were last executed."),
    "data": ("Data", "Records, simulated eyes, adapters to real data sets, images, splits."),
    "captions": ("Captions", "Words from records, and the examination of those words."),
    "training": ("Training", "Encoders, flow matching, the trainer, purification, sampling."),
    "analysis": ("Analysis", "Everything that is measured on the images."),
    "explore": ("Explore", "Forms to try things out, for JupyterLab (`make lab`). The pictures show them in use; here they do not move."),
}
FOUNDATION = ("foundation", "Foundation", "Configuration, the stage runner, the command line, the check of the machine, cards.")


def directives(source: str) -> list[str]:
    """The nbdev directives of a cell: `hide`, `export`, `echo: false` and so on."""
    return [line.lstrip()[2:].strip() for line in source.splitlines() if line.lstrip().startswith("#|")]


def page_cell(cell):
    """The cell as the site shows it, or None."""
    found = directives(cell.source) if cell.cell_type == "code" else []
    if "hide" in found:
        return None
    if cell.cell_type == "code":
        cell.source = "\n".join(line for line in cell.source.splitlines() if not line.lstrip().startswith("#|")).strip("\n")
        cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
        if "echo: false" in found:
            cell.metadata["tags"] = [*cell.metadata.get("tags", []), "remove-input"]
    return cell if cell.source.strip() else None


def prepare(notebook):
    """The notebook without directives, hidden and empty cells; of the two parameters cells only the one that was used."""
    tags = [set(cell.metadata.get("tags", [])) for cell in notebook.cells]
    if any("injected-parameters" in t for t in tags):
        notebook.cells = [cell for cell, t in zip(notebook.cells, tags) if "parameters" not in t]
    notebook.cells = [cell for cell in map(page_cell, notebook.cells) if cell is not None]
    notebook.metadata.pop("widgets", None)
    return notebook


def title_of(notebook, fallback: str) -> str:
    """The first heading."""
    lines = (line for cell in notebook.cells if cell.cell_type == "markdown" for line in cell.source.splitlines())
    return next((line[2:].strip() for line in lines if line.startswith("# ")), fallback)


def run_results(source: Path, root: Path, out: Path) -> Path:
    """Execute a results page; UserError with the end of the traceback when it fails."""
    executed = out / "executed" / source.name
    try:
        execute(source, executed, {}, root)
    except Exception as error:
        raise UserError(f"{source.relative_to(root)}: {explain(error, executed)}") from None
    return executed


def read_page(source: Path, root: Path, out: Path):
    """The notebook `source` with the outputs that the site shows."""
    if source.parent.name == "results":
        return nbformat.read(run_results(source, root, out), as_version=4)
    executed = root / "data/executed" / source.name
    if source.parent.name != "stages":
        return nbformat.read(source, as_version=4)
    if executed.exists():
        return nbformat.read(executed, as_version=4)
    notebook = nbformat.read(source, as_version=4)
    notebook.cells.insert(1, new_markdown_cell("*Not run on this machine: `make repro` runs it, then this page shows what it printed.*"))
    return notebook


def toctree(entries, options=("hidden:",)) -> str:
    """A MyST toctree."""
    return "\n".join(["```{toctree}", *(f":{o}" for o in options), "", *entries, "```"])


def write_section(pages: Path, name: str, title: str, said: str, entries: list[str]):
    """The page that opens a section and lists what is in it."""
    (pages / f"{name}.md").write_text(f"# {title}\n\n{said}\n\n" + toctree(entries, ("maxdepth: 1",)) + "\n", encoding="utf-8")


def write_notebooks(root: Path, pages: Path) -> list[str]:
    """Prepare every notebook and guide below nbs/; returns the sections that exist, in order."""
    nbs, work = root / "nbs", pages.with_name(pages.name + "_work")
    files = [f for f in sorted([*nbs.rglob("*.ipynb"), *nbs.glob("guides/*.md")]) if not any(p.startswith((".", "_")) for p in f.relative_to(nbs).parts)]
    entries = {}
    for file in files:
        name = file.relative_to(nbs)
        target = pages / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix == ".md":
            shutil.copy(file, target)
        else:
            nbformat.write(prepare(read_page(file, root, work)), target)
        section = name.parts[0] if len(name.parts) > 1 else FOUNDATION[0]
        if name.stem != "index":
            entries.setdefault(section, []).append(str(name.with_suffix("")))
    shutil.rmtree(work, ignore_errors=True)
    titles = SECTIONS | {FOUNDATION[0]: FOUNDATION[1:]}
    for section in entries:
        write_section(pages, section, *titles[section], entries[section])
    return [s for s in titles if s in entries]


def write_api(root: Path, pages: Path):
    """One reference page for each module."""
    modules = [".".join(f.relative_to(root).with_suffix("").parts) for f in sorted((root / "retinalogos").rglob("[!_]*.py"))]
    (pages / "api").mkdir()
    for module in modules:
        text = f"# {module.removeprefix('retinalogos.')}\n\n```{{eval-rst}}\n.. automodule:: {module}\n```\n"
        (pages / "api" / f"{module}.md").write_text(text, encoding="utf-8")
    write_section(pages, "api/index", "Reference", "Every module, function by function.", modules)


def write_index(root: Path, pages: Path, sections: list[str]):
    """The front page, and below it everything else."""
    index = pages / "index.ipynb"
    if not index.exists():
        raise UserError("nbs/index.ipynb is missing: it is the front page")
    notebook = nbformat.read(index, as_version=4)
    notebook.cells.append(new_markdown_cell(toctree([*sections, "api/index"])))
    nbformat.write(notebook, index)


def build(root: Path, out: Path, pages: Path, *options: str) -> int:
    """Prepare `pages` from the notebooks of `root` and render them into `out`; Sphinx's exit status."""
    from sphinx.cmd.build import main as sphinx
    shutil.rmtree(pages, ignore_errors=True)
    pages.mkdir(parents=True)
    write_index(root, pages, write_notebooks(root, pages))
    write_api(root, pages)
    shutil.rmtree(out, ignore_errors=True)
    status = sphinx(["-q", "-E", "-c", str(root / "docs"), "-d", str(pages / ".doctrees"), *options, str(pages), str(out)])
    shutil.rmtree(out.parent / "jupyter_execute", ignore_errors=True)  # copies of the notebooks that myst-nb leaves beside the site
    return status


if __name__ == "__main__":
    here = Path(__file__).resolve().parent.parent
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else here / "_site"
    try:
        status = build(here, target, here / "_docs")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print(f"site: {target / 'index.html'}" if status == 0 else "error: the site was not built", file=sys.stderr if status else sys.stdout)
    sys.exit(status)
