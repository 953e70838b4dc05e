"""The documentation site, built once from the notebooks as they stand."""
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
from test_study import Browser, needs_browser

ROOT = Path(__file__).parent.parent


class Page(HTMLParser):
    """What a page loads, links to and says."""

    def __init__(self, file):
        super().__init__()
        self.loads, self.links, self.anchors, self.words, self.skipping = [], [], set(), [], False
        self.prose, self.code = [], 0
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.skipping = tag in ("script", "style")
        self.code += tag in ("pre", "code")
        if found.get("id"):
            self.anchors.add(found["id"])
        if tag in ("script", "img", "iframe") and found.get("src"):
            self.loads.append(found["src"])
        if tag == "link" and found.get("rel") in ("stylesheet", "preload", "icon"):
            self.loads.append(found["href"])
        if tag == "a" and found.get("href"):
            self.links.append(found["href"])

    def handle_endtag(self, tag):
        self.skipping = False
        self.code -= tag in ("pre", "code")

    def handle_data(self, data):
        if not self.skipping:
            self.words.append(data)
            if not self.code:
                self.prose.append(data)

    @property
    def text(self):
        return "".join(self.words)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp("site") / "html"
    done = subprocess.run([sys.executable, "docs/build.py", str(out)], cwd=ROOT, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return out, done.stderr


@pytest.fixture(scope="module")
def pages(site):
    return {str(f.relative_to(site[0])): Page(f) for f in site[0].rglob("*.html") if "_static" not in f.parts}


def test_it_is_built_without_a_warning(site):
    assert [line for line in site[1].splitlines() if "WARNING" in line and "IPKernelApp" not in line] == []


def test_every_notebook_and_every_module_has_a_page(pages):
    notebooks = [f.relative_to(ROOT / "nbs").with_suffix(".html") for f in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in f.parts]
    modules = [".".join(f.relative_to(ROOT).with_suffix("").parts) for f in (ROOT / "retinalogos").rglob("[!_]*.py")]
    assert notebooks and {str(f) for f in notebooks} <= set(pages)
    assert modules and {f"api/{module}.html" for module in modules} <= set(pages)
    guides = [f"guides/{f.stem}.html" for f in (ROOT / "nbs/guides").glob("*.md")]
    assert guides and set(guides) <= set(pages)
    listed = {url for url in pages["guides.html"].links if url.startswith("guides/")}
    assert set(guides) <= listed, "the section lists its guides"


def test_pages_need_no_network(pages):
    assert [(name, url) for name, page in pages.items() for url in page.loads if re.match(r"(https?:)?//", url)] == []


def test_what_pages_load_and_link_to_is_there(site, pages):
    missing = []
    for name, page in pages.items():
        for url in page.loads + page.links:
            path, _, anchor = url.partition("#")
            if re.match(r"[a-z]+:", url):
                continue
            target = (site[0] / name).parent / path.partition("?")[0] if path else site[0] / name
            known = pages.get(str(target.resolve().relative_to(site[0].resolve()))) if target.exists() else None
            if not target.is_file() or (anchor and (known is None or unquote(anchor) not in known.anchors)):
                missing.append((name, url))
    assert missing == [] and sum(len(page.links) for page in pages.values()) > 1000


def test_pages_teach_and_do_not_show_the_machinery(pages):
    for name, page in pages.items():
        if not name.startswith("_modules/"):
            assert not re.search(r"^\s*#\|", page.text, flags=re.M), f"{name}: a directive"
            assert "Traceback (most recent call last)" not in page.text or name == "01_stage.html", name
            prose = "".join(page.prose)
            left = re.findall(r"```|:::|\{(?:toctree|eval-rst|code-cell|math|doc|ref)\}|</?(?:div|span|p|a|img|br|table|td|style)\b|\]\([\w./-]+\)|injected-parameters", prose)
            assert left == [], f"{name}: markup that was not rendered: {left}"


def test_search_and_dark_mode(site, pages):
    index = (site[0] / "index.html").read_text(encoding="utf-8")
    assert "theme-switch" in index and "search" in index and (site[0] / "searchindex.js").stat().st_size > 10_000


SEEN = """JSON.stringify({tooWide: Math.max(0, document.scrollingElement.scrollWidth - innerWidth),
                           broken: [...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.getAttribute('src'))})"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    found = Browser(folder / "profile", folder)
    yield found
    found.close()


def opened(browser, file, query=""):
    """Open a page of the site; it is there when this returns."""
    browser.ask("Page.navigate", url=file.as_uri() + query)
    browser.wait(lambda: browser.value(f"document.readyState === 'complete' && location.pathname.endsWith({json.dumps(file.name)})"), 60)


def complaints(events):
    """What the browser's console says of errors."""
    return [e["params"] for e in events if e["method"] in ("Runtime.exceptionThrown", "Log.entryAdded")
            or e["method"] == "Runtime.consoleAPICalled" and e["params"]["type"] in ("error", "warning")]


def looked_at(pages):
    """The pages that people are sent to, and the longest of each other folder: a browser takes half a second a page."""
    longest = {}
    for name, page in pages.items():
        folder = name.rpartition("/")[0].partition("/")[0]
        alone = name == "index.html" or folder in ("guides", "results", "explore")
        longest.setdefault(name if alone else folder, []).append((len(page.text), name))
    return [max(found)[1] for found in longest.values()]


@needs_browser
def test_pages_fit_narrow_and_wide_windows(site, pages, browser):
    """No page scrolls sideways, no picture is broken, and the console has nothing to complain of."""
    wrong = []
    for name in looked_at(pages):
        browser.events.clear()
        opened(browser, site[0] / name)
        for width in (390, 1280):
            browser.ask("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
            seen = json.loads(browser.value(SEEN))
            wrong += [(name, width, seen)] if seen["tooWide"] or seen["broken"] else []
        wrong += [(name, found) for found in complaints(browser.events)]
    assert wrong == [], wrong


@needs_browser
def test_a_search_finds_and_the_theme_changes(site, browser):
    """From a file, as here, without excerpts, which a browser fetches from a server only; so this comes after the look at the console."""
    opened(browser, site[0] / "search.html", "?q=guidance")
    browser.wait(lambda: browser.value("document.querySelectorAll('#search-results li a').length > 3"), 60)
    before = browser.value("getComputedStyle(document.body).backgroundColor")
    browser.value("document.querySelector('.theme-change-button[data-mode=dark]').click()")
    browser.wait(lambda: browser.value("document.documentElement.dataset.theme") == "dark")
    browser.wait(lambda: browser.value("getComputedStyle(document.body).backgroundColor") != before)


def test_the_reference_shows_signatures_docstrings_and_source(pages):
    page = pages["api/retinalogos.config.html"]
    assert "atomic_path" in page.text and "moved into place when the block ends well" in page.text
    assert any("_modules/retinalogos/config.html#" in link for link in page.links)


def test_a_results_page_that_fails_stops_the_build(tmp_path):
    import nbformat
    from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
    for folder in ("docs", "nbs/results", "retinalogos"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copytree(ROOT / "docs", tmp_path / "docs", dirs_exist_ok=True)
    nbformat.write(new_notebook(cells=[new_markdown_cell("# Index")]), tmp_path / "nbs/index.ipynb")
    nbformat.write(new_notebook(cells=[new_code_cell("open('data/results/summary.json')")]), tmp_path / "nbs/results/00_summary.ipynb")
    done = subprocess.run([sys.executable, "docs/build.py"], cwd=tmp_path, text=True, capture_output=True)
    assert done.returncode == 2 and "error: nbs/results/00_summary.ipynb: " in done.stderr and "No such file" in done.stderr
    assert not (tmp_path / "_site").exists()
