"""Rows of words in, aligned columns of text out. Pure."""

from __future__ import annotations

from collections.abc import Sequence


def columns(head: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[str] = ()) -> list[str]:
    """A line for the headings and one a row. `numbers`: headings whose cells stand at the right.

    A column in which no row has anything is left out.
    """
    shown = [i for i in range(len(head)) if any(row[i] for row in rows)]
    lines = [head, *rows]
    widths = {i: max(len(line[i]) for line in lines) for i in shown}
    return [
        "  ".join(
            line[i].rjust(widths[i]) if head[i] in numbers else line[i].ljust(widths[i]) for i in shown
        ).rstrip()
        for line in lines
    ]
