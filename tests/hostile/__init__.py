"""Hostile inputs, one page a class: `cases(rng)` of a page gives a `Case` for each input, with its right outcome.

The pages are tables of inputs, and wider than other code.
"""
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class Says(str):
    """The right outcome is an error in one line in which this regular expression is found, letters of any case."""


class Either(tuple):
    """Any of these outcomes is right."""


@dataclass(frozen=True)
class Case:
    """One input: `run(folder)` gives a value, or raises; `want` is that value, a test of it, `Says` or `Either`."""
    name: str
    run: Callable[[Path], Any]
    want: Any
    lines: int = 1  # that an error may have


def is_right(kind: str, content, want, lines: int = 1) -> bool:
    """Whether an outcome (`value` or `error`, and what it was) is as wanted."""
    if isinstance(want, Either):
        return any(is_right(kind, content, one, lines) for one in want)
    if isinstance(want, Says):
        told = str(content).strip()
        return kind == "error" and len(told.splitlines()) <= lines and re.search(want, told, re.I | re.S) is not None
    if kind != "value":
        return False
    if not callable(want):
        return type(content) is type(want) and content == want
    try:
        return bool(want(content))
    except (AttributeError, IndexError, KeyError, TypeError):  # a value of another form than the test reads
        return False
