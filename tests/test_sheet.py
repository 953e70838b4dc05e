"""A reader's sheet when the computer goes down in the middle of it."""
import os
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd

from retinalogos.analysis.caption_readers import examination_report
from retinalogos.captions.sheet import draw_sample, make_sheets, open_rows, read_sheet

ROOT = Path(__file__).parent.parent
READER = """
import sys
from retinalogos.captions.sheet import ITEMS, fill_in
form = fill_in(sys.argv[1])
while True:
    for item in ITEMS: form.answers[item].value = "right"
    form.answers["faithful"].value = "yes"
    form.next.click()
    print(form.place, flush=True)
"""


def test_a_killed_reader_loses_no_answer_and_goes_on(tmp_path):
    captions = pd.DataFrame({"image_id": [f"eye-{k}" for k in range(400)], "caption": "left eye, no diabetic retinopathy"})
    sheet, = make_sheets(tmp_path, draw_sample(captions, 400, 0), ["simulated"])
    for _ in range(2):
        filled = int((~open_rows(read_sheet(sheet))).sum())
        with subprocess.Popen([sys.executable, "-c", READER, str(sheet)], stdout=subprocess.PIPE, text=True,
                              env=os.environ | {"PYTHONPATH": str(ROOT)}) as reader:
            try:
                places = [int(reader.stdout.readline()) for _ in range(3)]
                time.sleep(0.05)
            finally:
                reader.kill()
        assert places[0] == filled + 1, "it begins at the first open row"
        now = read_sheet(sheet)
        assert filled + 3 <= (~open_rows(now)).sum() < 400
    report = examination_report([sheet], None, 400, draws=10)
    assert report["readers"]["simulated"]["faithful"]["n"] == (~open_rows(now)).sum() and report["readers"]["simulated"]["open"] > 0
