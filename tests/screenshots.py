"""Pictures of the explore notebooks for the site: `python tests/screenshots.py [PROJECT]`.

JupyterLab opens a copy of each in headless Chromium and runs it on the data of PROJECT (default: this repository after `make repro`); what the
form then looks like is stored in the notebook, as the JPEG output of its last cell. A digest of the notebook's code goes with it, as the
comment of the JPEG, so that a test can tell when the picture is older than the form.
"""
import base64
import hashlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from nbformat.v4 import new_output

from retinalogos.stage import notebook_source
from test_study import Browser

ROOT = Path(__file__).parent.parent
MOST_BYTES = 60_000
FORM = "[...document.querySelectorAll('.jp-OutputArea-output')].filter(o => o.querySelector('input') && o.querySelector('img')).at(-1)"


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def serve(folder, port, token):
    """JupyterLab on `folder`, which holds its settings too."""
    environment = os.environ | {f"JUPYTER_{name}_DIR": str(folder / ".jupyter") for name in ("CONFIG", "RUNTIME", "DATA")}
    options = ["--no-browser", f"--port={port}", f"--IdentityProvider.token={token}", "--LabApp.expose_app_in_browser=True", "--ip=127.0.0.1",
               f"--ServerApp.root_dir={folder}", "--allow-root", "--LabApp.news_url=None",
               "--LabApp.check_for_updates_class=jupyterlab.handlers.announcements.NeverCheckForUpdate"]
    return subprocess.Popen([sys.executable, "-m", "jupyterlab", *options], env=environment | {"PYTHONPATH": str(ROOT)}, cwd=folder,
                            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def take(browser, url):
    """JPEG of the form of the notebook at `url`, once every cell has run."""
    browser.ask("Emulation.setDeviceMetricsOverride", width=1300, height=2400, deviceScaleFactor=1, mobile=False)
    browser.ask("Page.navigate", url=url)
    browser.wait(lambda: browser.value("Boolean(window.jupyterapp?.commands.hasCommand('notebook:run-all-cells') && document.querySelector('.jp-CodeCell'))"), 90)
    time.sleep(5)  # until the kernel is there
    browser.value("window.finished = false; jupyterapp.commands.execute('notebook:run-all-cells').then(() => window.finished = true); 0")
    browser.wait(lambda: browser.value("window.finished"), 180)
    browser.wait(lambda: browser.value(f"Boolean({FORM})"), 30)
    time.sleep(3)  # until pictures are laid out
    box = json.loads(browser.value(f"JSON.stringify({FORM}.getBoundingClientRect())"))
    clip = {"x": box["x"], "y": box["y"], "width": box["width"], "height": box["height"], "scale": 1}
    for quality in (85, 75, 65, 55, 45, 35):
        picture = base64.b64decode(browser.ask("Page.captureScreenshot", format="jpeg", quality=quality, clip=clip)["data"])
        if len(picture) < MOST_BYTES:
            return picture
    raise SystemExit(f"{url}: no picture below {MOST_BYTES} bytes")


def digest(notebook):
    """Of the notebook's code, as bytes of hexadecimal digits."""
    return hashlib.sha256(notebook_source(notebook).encode()).hexdigest().encode()


def commented(jpeg, comment):
    """The JPEG with a comment (bytes), which no viewer shows."""
    return jpeg[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + jpeg[2:]


def store(notebook, picture):
    """Make `picture` the only output of the notebook, at its last code cell."""
    picture = commented(picture, digest(notebook))
    content = nbformat.read(notebook, as_version=4)
    cells = [cell for cell in content.cells if cell.cell_type == "code"]
    for cell in cells:
        cell.outputs = []
    cells[-1].outputs = [new_output("display_data", data={"image/jpeg": base64.b64encode(picture).decode()})]
    nbformat.write(content, notebook)


def main(project):
    with TemporaryDirectory() as name:
        folder, port, token = Path(name), free_port(), secrets.token_hex(16)
        shutil.copytree(ROOT / "nbs/explore", folder / "nbs/explore")
        shutil.copy(project / "params.yaml", folder)
        (folder / "data").symlink_to(project / "data")
        server = serve(folder, port, token)
        browser = Browser(folder / ".profile", folder)
        try:
            for notebook in sorted((ROOT / "nbs/explore").glob("*.ipynb")):
                picture = take(browser, f"http://127.0.0.1:{port}/doc/tree/nbs/explore/{notebook.name}?token={token}")
                store(notebook, picture)
                print(notebook.name, len(picture), "bytes")
        finally:
            browser.close()
            server.terminate()
            server.wait(timeout=60)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else ROOT).resolve())
