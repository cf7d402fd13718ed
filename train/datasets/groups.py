"""``groups.csv``: which pictures belong together (patient, film), as ``image,group``.

Owns the file. Does not own what a group is used for (see ``splits`` and ``train.site.fields``).
"""

from __future__ import annotations

import csv
from collections.abc import Container
from pathlib import Path

from edge_runtime.errors import DataError

GROUP_FILE = "groups.csv"


def read_groups(file: Path, known: Container[str]) -> tuple[dict[str, str], list[str]]:
    """Group of each picture by its file name, and ``file:line: why`` of every bad row.

    Args:
        file: it may be absent; then no group is known.
        known: names of pictures that there are.

    Raises:
        DataError: it cannot be read or has other columns.
    """
    if not file.is_file():
        return {}, []
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read: {error}") from error
    reader = csv.reader(lines)
    if next(reader, []) != ["image", "group"]:
        raise DataError(f"{file}:1: expected the columns image,group")
    groups: dict[str, str] = {}
    bad: list[str] = []
    for row in reader:
        if len(row) != 2 or not row[0] or not row[1]:
            bad.append(f"{file}:{reader.line_num}: expected image,group, got {','.join(row)!r}")
        elif row[0] not in known:
            bad.append(f"{file}:{reader.line_num}: no such picture as {row[0]}")
        elif groups.setdefault(row[0], row[1]) != row[1]:
            bad.append(f"{file}:{reader.line_num}: {row[0]} is of {groups[row[0]]} already")
    return groups, bad
