"""1.4 million records: label table in, splits and tables out and read back: `python tests/benchmarks/records.py [ROWS]`.

The rows are EyePACS's (name with patient and eye, DR grade) and each carries a report of its own; pictures are stubs of a few bytes, because
decoding is measured by ingest.py. Prints the seconds of each step and the peak memory of the process; wanted: 5 minutes and 4 GB. Everything runs in one
thread, so on a busy machine processor time is what counts; elapsed time stands beside it.
"""
import hashlib
import re
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from retinalogos.data.dataset import Entry, Picture, load_records, record_grades, write_dataset
from retinalogos.data.records import EyeRecord
from retinalogos.data.sources import Part, read_item, read_table

NO_THUMBNAIL = np.zeros(1, np.float32)


def write_labels(path, rows):
    patients, grades = np.arange(rows) // 2, np.random.default_rng(0).integers(0, 5, rows)
    table = pd.DataFrame({"image": [f"{p}_{'right' if k % 2 else 'left'}" for k, p in enumerate(patients)], "level": grades})
    table.assign(report=[f"visit {k}, DR {g}" for k, g in enumerate(grades)]).to_csv(path, index=False)


def entries(path):
    """An entry for each row, as the adapters and `real_entries` make them."""
    table, _ = read_table(path, ["image", "level"])
    part = Part(path.name, path.parent, table.rename(columns={"level": "dr_grade"}))
    pattern = re.compile(r"(?P<patient>\d+)_(?P<eye>left|right)")
    for name, row in zip(table["image"], part.rows()):
        item = read_item(part, path.parent / f"{name}.jpeg", name, dict(zip(("dr_grade", "report"), row)), pattern)
        picture = Picture(b"low", b"high", .5, hashlib.sha256(name.encode()).hexdigest(), NO_THUMBNAIL)
        yield Entry(f"eyepacs-{name}", f"eyepacs-{item.patient_id}", picture, item.record, None, item.age, item.sex, f"train/{name}.jpeg", "eyepacs", item.note)


def main():
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 1_400_000
    folder, clock = Path(tempfile.mkdtemp()), [(time.process_time(), time.perf_counter())]

    def step(name):
        clock.append((time.process_time(), time.perf_counter()))
        print(f"{name}: {clock[-1][0] - clock[-2][0]:.0f} s ({clock[-1][1] - clock[-2][1]:.0f} s elapsed)", flush=True)

    write_labels(folder / "trainLabels.csv", rows)
    step("label table made (not counted)")
    counts = write_dataset(folder / "dataset", entries(folder / "trainLabels.csv"), .2, .2, seed=0)
    step(f"read, split and written: {counts}")
    records = load_records(folder / "dataset")
    assert len(records) == rows and (records.groupby("patient_id").split.nunique() == 1).all()
    grades = pd.Series(record_grades(records.head(1000)))
    assert grades.tolist() == records.Report_label.head(1000).str[-1].astype(int).tolist()
    step("tables read back")
    for row in records.itertuples(index=False, name=None): EyeRecord.from_row(dict(zip(records.columns, row)))
    step("every row read as a record")
    seconds, memory = clock[-1][0] - clock[1][0], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"{rows:,} records in {seconds:.0f} s and {memory:.2f} GB (wanted: 300 s, 4 GB)")
    return seconds <= 300 and memory <= 4


if __name__ == "__main__":
    sys.exit(not main())
