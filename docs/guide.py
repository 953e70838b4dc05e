"""The table of metrics in nbs/guides/05_metrics.md: `python docs/guide.py [--check]`.

It is made from the rows in nbs/report/39_metrics.ipynb, and stands between two marks of the guide.
"""
import sys
from pathlib import Path

from retinalogos.config import UserError
from retinalogos.report.metrics import with_table

GUIDE = Path(__file__).resolve().parent.parent / "nbs/guides/05_metrics.md"

if __name__ == "__main__":
    try:
        stored = GUIDE.read_text(encoding="utf-8")
        now = with_table(stored)
    except (OSError, UserError) as error:
        sys.exit(f"error: {GUIDE}: {error}")
    if "--check" in sys.argv:
        sys.exit(None if stored == now
                 else f"the table of {GUIDE.name} is not what the rows make: run `make readme`")
    GUIDE.write_text(now, encoding="utf-8")
    print(GUIDE)
