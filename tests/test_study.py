"""A reader study as people meet it: a page in a real browser, files of answers, the command line; and its statistics, over many studies."""
import base64
import io
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import websocket
from PIL import Image

from retinalogos.analysis.reader_pack import ASPECTS, make_key
from retinalogos.analysis.reader_study import (averaged_detection, detection, equivalence, join_answers, read_answers, read_key,
                                               simulated_answers)
from retinalogos.data.simulate import simulate_patients

ROOT = Path(__file__).parent.parent
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
KEYS = {"Enter": 13, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}


def run(*arguments, cwd=ROOT):
    done = subprocess.run([sys.executable, "-m", "retinalogos.cli", *map(str, arguments)], cwd=cwd, text=True, capture_output=True,
                          env=os.environ | {"PYTHONPATH": str(ROOT)})
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    """A pack made of two folders: large camera pictures with metadata, and small generated ones. Name, page, key."""
    folder = tmp_path_factory.mktemp("study")
    eyes = [eye.image for patient in simulate_patients(4, 11, 192, progress=False) for eye in patient]
    (folder / "clinic").mkdir()
    (folder / "model").mkdir()
    exif = Image.Exif()
    exif[0x010F] = "Camera of Ward 7"
    for k, image in enumerate(eyes[:4]):
        Image.fromarray(np.pad(image, ((10, 10), (60, 60), (0, 0)))).save(folder / f"clinic/patient-{k}.jpg", exif=exif)
    for k, image in enumerate(eyes[4:]):
        Image.fromarray(image).resize((128, 128)).save(folder / f"model/sample-{k}.png")
    status, out, err = run("study", "make", "--real", folder / "clinic", "--synthetic", folder / "model", "-n", 8, "--out", folder / "pack")
    assert status == 0, err
    return folder / "pack"


def test_the_page_holds_no_hint_of_the_truth(pack):
    page, key = (pack / "page.html").read_text(encoding="utf-8"), read_key(pack / "key.json")
    pictures = json.loads(re.search(r"pictures = (\[.*?\]);", page).group(1))
    words = page.replace(json.dumps(pictures), "")
    files = [base64.b64decode(picture) for picture in pictures]
    opened = [Image.open(io.BytesIO(file)) for file in files]
    assert len(files) == 8 and len({len(file) for file in files}) == 1
    assert {(image.format, image.size, image.mode, len(image.getexif())) for image in opened} == {("JPEG", (256, 256), "RGB", 0)}
    assert len({repr(image.quantization) for image in opened}) == 1 and {tuple(sorted(image.info)) for image in opened} == {tuple(sorted(opened[0].info))}
    assert not any(b"Ward 7" in file for file in files)
    for hint in ("clinic", "model", "patient-", "sample-", str(key["seed"]), str(pack.parent)):
        assert hint not in words
    assert key["study"] in words, "so that answers can be matched with the key"
    assert [item["source"] for item in key["items"]].count("real") == 4


def test_two_packs_have_two_orders_and_a_seed_makes_one_again(pack, tmp_path):
    folders = ["--real", pack.parent / "clinic", "--synthetic", pack.parent / "model", "-n", "8"]
    for name, seed in (("a", []), ("b", ["--seed", "3"]), ("c", ["--seed", "3"])):
        assert run("study", "make", *folders, *seed, "--out", tmp_path / name)[0] == 0
    keys = [(tmp_path / name / "key.json").read_text() for name in "abc"]
    assert keys[1] == keys[2] and len({json.loads(k)["study"] for k in (*keys, (pack / "key.json").read_text())}) == 3
    assert (tmp_path / "b/page.html").read_bytes() == (tmp_path / "c/page.html").read_bytes()


class Browser:
    """Headless Chromium, spoken to by its DevTools protocol."""

    def __init__(self, profile, downloads):
        self.process = subprocess.Popen([CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0",
                                         "--remote-allow-origins=*", "--window-size=1200,900", f"--user-data-dir={profile}", "about:blank"],
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.numbers, self.events = itertools.count(1), []
        port_file = Path(profile) / "DevToolsActivePort"
        self.wait(lambda: port_file.exists() and "\n" in port_file.read_text(), 60)
        port = port_file.read_text().splitlines()[0]
        pages = json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}/json", timeout=30))
        address = next(page["webSocketDebuggerUrl"] for page in pages if page["type"] == "page")
        self.socket = websocket.create_connection(address, timeout=60)
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.ask(f"{domain}.enable")
        self.ask("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(downloads))

    def ask(self, method, **parameters):
        number = next(self.numbers)
        self.socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self.socket.recv())
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]
            self.events.append(message)

    def wait(self, condition, seconds=20):
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "the browser did not come to it"
            time.sleep(0.05)

    def value(self, expression):
        found = self.ask("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def open(self, url):
        self.ask("Page.navigate", url=url)
        self.wait(lambda: self.value("document.readyState === 'complete' && typeof begin === 'function'"))

    def press(self, *keys):
        for key in keys:
            text = {} if key in KEYS and key != "Enter" else {"text": "\r" if key == "Enter" else key}
            code = {"windowsVirtualKeyCode": KEYS.get(key, ord(key[0].upper()))}
            self.ask("Input.dispatchKeyEvent", type="keyDown", key=key, **text, **code)
            self.ask("Input.dispatchKeyEvent", type="keyUp", key=key, **code)

    def close(self):
        self.socket.close()
        self.process.terminate()
        self.process.wait(timeout=30)


@pytest.fixture
def browser(tmp_path):
    (tmp_path / "downloads").mkdir()
    found = Browser(tmp_path / "profile", tmp_path / "downloads")
    yield found
    found.close()


needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


def place(browser):
    return browser.value("document.getElementById('place').textContent")


def saved_by(browser, folder):
    browser.value("document.getElementById('export').click()")
    browser.wait(lambda: list(folder.glob("answers-*.json")))
    file, = folder.glob("answers-*.json")
    return file


@needs_browser
def test_a_reader_answers_with_the_keyboard_reloads_and_saves(pack, browser, tmp_path):
    key, url = read_key(pack / "key.json"), (pack / "page.html").as_uri()
    browser.open(url)
    browser.value("document.getElementById('reader').focus()")
    browser.press(*"ana-1", "Enter")
    assert place(browser) == "photograph 1 of 8, 0 complete"
    assert browser.value("document.getElementById('picture').complete && document.getElementById('picture').naturalWidth") == 256
    browser.press("s", "3", "1", "2", "3", "1", "0", "2")  # synthetic, certain; disc 1 ... lesions cannot be judged, overall 2
    assert place(browser) == "photograph 1 of 8, 1 complete"
    browser.press("ArrowRight", "r", "2", "3", "3", "3", "3", "3", "3", "Enter")
    assert place(browser) == "photograph 3 of 8, 2 complete"
    browser.press("r", "ArrowDown", "1", "ArrowLeft", "ArrowLeft", "ArrowDown", "2")  # photograph 3 without confidence; 1: certain -> fairly sure
    assert place(browser) == "photograph 1 of 8, 2 complete"
    before = browser.value("exported()")

    browser.open(url)
    assert place(browser).endswith("2 complete") and browser.value("exported()") == before, "a reload keeps the answers"
    order = browser.value("order.map(k => String(k + 1).padStart(3, '0'))")
    assert sorted(order) == [item["item"] for item in key["items"]]

    file = saved_by(browser, tmp_path / "downloads")
    assert file.name == f"answers-{key['study']}-ana-1.json"
    answers = read_answers(file, key).set_index("item")
    assert set(answers.index) == set(order[:3]) and set(answers["reader"]) == {"ana-1"}
    first = answers.loc[order[0]]
    assert first["judged"] == "synthetic" and first["confidence"] == 2
    assert first[list(ASPECTS)].fillna(-1).tolist() == [1, 2, 3, 1, -1, 2]
    assert answers.loc[order[1], ["judged", "confidence", *ASPECTS]].tolist() == ["real", 2, *[3] * 6]
    assert answers.loc[order[2], "judged"] == "real" and np.isnan(answers.loc[order[2], "confidence"]) and answers.loc[order[2], "disc"] == 1
    assert [e for e in browser.events if e["method"] in ("Runtime.exceptionThrown", "Log.entryAdded")] == []
    asked = {e["params"]["request"]["url"].partition(":")[0] for e in browser.events if e["method"] == "Network.requestWillBeSent"}
    assert asked <= {"file", "data", "blob", "about"}, "it asks nobody for anything"


@needs_browser
def test_readers_have_their_own_order_and_answers(pack, browser):
    browser.open((pack / "page.html").as_uri())
    orders = {}
    for reader in ("one", "two", "one"):
        browser.value(f"begin('{reader}')")
        orders.setdefault(reader, browser.value("order"))
        assert browser.value("order") == orders[reader]
        assert browser.value("done()") == (1 if reader == "one" and len(orders) == 2 else 0)
        if len(orders) == 1:
            browser.press("s", "1", "1", "1", "1", "1", "1", "1")
    assert orders["one"] != orders["two"]
    browser.value("document.getElementById('leave').click()")
    browser.wait(lambda: browser.value("document.readyState === 'complete' && !document.getElementById('start').hidden"))


@needs_browser
@pytest.mark.parametrize("code, taken", [("pooled", False), ("Averaged", False), ("two words", False), ("", False), ("pool", True)])
def test_the_page_takes_the_codes_that_the_analysis_takes(pack, browser, code, taken):
    browser.open((pack / "page.html").as_uri())
    browser.value("localStorage.clear()")
    browser.open((pack / "page.html").as_uri())
    browser.value("document.getElementById('reader').focus()")
    browser.press(*code, "Enter")
    assert browser.value("!document.getElementById('reading').hidden") == taken


@needs_browser
def test_from_the_browser_to_the_report(pack, browser, tmp_path):
    """A reader who knows the truth, driven through all photographs: d' is high, and the report is complete."""
    key = read_key(pack / "key.json")
    truth = {item["item"]: item["source"] for item in key["items"]}
    browser.open((pack / "page.html").as_uri())
    browser.value("begin('oracle')")
    for _ in truth:
        browser.press("s" if truth[browser.value("item()")] == "synthetic" else "r", *"3", *"222222", "Enter")
    assert place(browser).endswith("8 complete")
    file = saved_by(browser, tmp_path / "downloads")
    status, out, err = run("study", "analyse", pack / "key.json", file, "--out", tmp_path / "report")
    assert status == 0 and err == "", err
    scores = json.loads((tmp_path / "report/scores.json").read_text())
    assert scores["readers"]["oracle"]["accuracy"]["value"] == 1 and scores["averaged"]["auc"]["value"] == 1
    assert not scores["equivalence"]["equivalent"] and scores["ratings"]["disc"]["real"]["value"] == 2
    assert "not shown" in out and "oracle" in out
    assert sorted(f.name for f in (tmp_path / "report").iterdir()) == ["ratings.csv", "ratings.png", "readers.csv", "scores.json", "study.png"]


def test_what_cannot_be_analysed_is_said_in_one_line(pack, tmp_path):
    key = read_key(pack / "key.json")
    (tmp_path / "empty.json").write_text("")
    (tmp_path / "other.json").write_text(json.dumps({"study": "0" * 16, "reader": "a", "answers": [
        {"item": "001", "judged": "real", "confidence": 1, "ratings": {}}]}))
    (tmp_path / "one.json").write_text((tmp_path / "other.json").read_text().replace("0" * 16, key["study"]))
    (tmp_path / "key.json").write_text((pack / "key.json").read_text().replace('"real"', '"synthetic"', 1))
    for arguments, said in ((["none.json", tmp_path / "one.json"], "none.json: no such file"),
                            ([pack / "key.json", tmp_path / "empty.json"], "empty.json: not JSON"),
                            ([pack / "key.json", tmp_path / "other.json"], "answers to another pack"),
                            ([tmp_path / "key.json", tmp_path / "one.json"], "changed after the pack was made"),
                            ([pack / "key.json", tmp_path / "one.json", tmp_path / "one.json"], "reader a has answered"),
                            ([pack / "key.json", tmp_path / "one.json"], "only photographs of one kind")):
        status, out, err = run("study", "analyse", *arguments, "--out", tmp_path / "report")
        assert status == 2 and err.startswith("error: ") and said in err and len(err.splitlines()) == 1, err
    assert not (tmp_path / "report").exists()
    shutil.copy(ROOT / "params.yaml", tmp_path)
    for arguments, said in ((["--real", tmp_path / "gone", "--synthetic", tmp_path], "gone: no such folder"), (["--out", tmp_path], "run `make repro` first"),
                            (["--real", tmp_path], "go together"), (["--real", pack.parent / "clinic", "--synthetic", pack.parent / "model"], "ask for fewer")):
        status, out, err = run("study", "make", *arguments, cwd=tmp_path)
        assert status == 2 and said in err and len(err.splitlines()) == 1, err


def study_key(photographs):
    tables = [pd.DataFrame({"origin": [f"{kind}{k}" for k in range(photographs // 2)], "condition": "normal"}) for kind in "rs"]
    return make_key(*tables, 0)


def test_d_prime_is_recovered_within_its_interval():
    """95 % of studies are expected to hold the true value: of 400 one-reader studies at least 365, of 100 with five readers at least 88 (3 standard errors)."""
    key, truth, one, five = study_key(120), 0.7, 0, 0
    synthetic = [item["source"] == "synthetic" for item in key["items"]]
    for seed in range(400):
        judged = simulated_answers(key, [truth], criterion=0.1, seed=seed)["judged"]
        found = detection(judged == "synthetic", synthetic)["d_prime"]
        one += found["low"] <= truth <= found["high"]
    for seed in range(100):
        answers = join_answers(simulated_answers(key, [truth] * 5, criterion=0.1, seed=1000 + seed), key)
        found = averaged_detection(answers, draws=400, seed=seed)["d_prime"]
        five += found["low"] <= truth <= found["high"]
    print(f"held by {one} of 400 intervals of one reader, and by {five} of 100 of five readers")
    assert one >= 365 and five >= 88


def test_equivalence_is_seldom_shown_where_it_is_not():
    """True difference = margin: at most 5 % may be "shown"; of 400 studies 5 % is 20, and more than 33 would have a chance below 0.3 %."""
    key, shown = study_key(600), 0
    for seed in range(400):  # d' 0.2513 without leaning: shares called real differ by 0.1
        answers = join_answers(simulated_answers(key, [0.2513] * 4, seed=seed), key)
        shown += equivalence(answers, margin=0.1)["equivalent"]
    print(f"shown in {shown} of 400 studies at the margin")
    assert shown <= 33
    same = [equivalence(join_answers(simulated_answers(key, [0.0] * 4, seed=seed), key), 0.1)["equivalent"] for seed in range(20)]
    assert sum(same) >= 10, "and it can be shown where there is no difference"
