"""Fenced blocks of the documents."""

from __future__ import annotations

import re
from typing import NamedTuple


class Block(NamedTuple):
    """A fenced block."""

    line: int
    language: str
    text: str


def blocks(markdown: str) -> list[Block]:
    """Every fenced block, in order."""
    found = re.finditer(r"^```(\w*)\n(.*?)^```$", markdown, re.M | re.S)
    return [Block(markdown[: m.start()].count("\n") + 1, m[1], m[2]) for m in found]
