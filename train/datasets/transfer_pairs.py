"""Which labelled source field shows the same as which target picture.

Owns the pairs file, pairing by name, and finding pictures below a folder by name. Does not own
looking at any picture.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from edge_runtime.errors import DataError
from edge_runtime.image_file import IMAGE_SUFFIXES
from train.datasets.labelled import LabelledImage, LabelledSet

SAME_NAME = "same-name"
_HEADERS = (("source", "target"), ("source", "target", "chain"))
_LISTED = 5


@dataclass(frozen=True, slots=True)
class Pair:
    """A labelled source, the target picture, and perhaps one of a magnification between."""

    source: LabelledImage
    target: Path
    chain: Path | None = None


class _Named:
    """Pictures of one folder, found by path below it, by file name or by name without suffix."""

    def __init__(self, root: Path, pictures: Iterable[Path]) -> None:
        self._root = root
        self._by_path: dict[str, Path] = {}
        self._by_name: dict[str, set[Path]] = defaultdict(set)
        for each in pictures:
            below = each.relative_to(root) if each.is_relative_to(root) else each
            self._by_path[below.as_posix()] = each
            for name in (each.name, each.stem):
                self._by_name[name].add(each)

    def one(self, name: str, where: str) -> Path:
        """The picture of that name.

        Raises:
            DataError: there is none, or more than one.
        """
        exact = self._by_path.get(PurePosixPath(name).as_posix())
        # A picture in the folder itself has no longer name by which to tell it from one deeper.
        if exact is not None and (exact.name != name or len(self._by_name[name]) == 1):
            return exact
        found = sorted(self._by_name.get(name, ()))
        if len(found) != 1:
            why = (
                f"{len(found)} pictures of this name in {self._root}; give the path below it, "
                f"with ./ for the folder itself"
                if found
                else f"no such picture in {self._root}; mend the name or add the picture"
            )
            raise DataError(f"{where}: {name!r}: {why}")
        return found[0]

    def has(self, name: str) -> bool:
        """Whether at least one picture goes by this name."""
        return name in self._by_name


def find_pairs(
    sources: LabelledSet, targets: Path, pairs: str, *, chain: Path | None = None
) -> list[Pair]:
    """Pairs in the order of the file, or of the sources.

    Args:
        sources: labelled fields.
        targets: folder below which the target pictures lie.
        pairs: ``same-name``, or a CSV file with the columns source, target and perhaps chain.
        chain: folder of pictures of a magnification between; found by the source's name where
            the file has no such column.

    Raises:
        DataError: a folder or the file is missing or empty, a row is bad, a picture is not
            there or named twice, or a target has two sources.
    """
    target_names = _Named(targets, _pictures_below(targets))
    chain_names = None if chain is None else _Named(chain, _pictures_below(chain))
    if pairs == SAME_NAME:
        found = _by_name(sources, target_names, targets)
        named: list[tuple[str, LabelledImage, Path, str]] = [
            (str(source.image), source, target, source.image.stem) for source, target in found
        ]
    else:
        named = _from_file(sources, target_names, Path(pairs), chain)
    seen: dict[Path, str] = {}
    result = []
    for where, source, target, between in named:
        # Labels of two sources would have to become one file, and their patches one patch.
        if target in seen:
            raise DataError(f"{where}: target {target.name} has a source already, {seen[target]}")
        seen[target] = source.image.name
        via = None if chain_names is None else chain_names.one(between, where)
        result.append(Pair(source, target, via))
    _require_own_names(result)
    return result


def _by_name(
    sources: LabelledSet, targets: _Named, folder: Path
) -> list[tuple[LabelledImage, Path]]:
    missing = [each.image.name for each in sources.images if not targets.has(each.image.stem)]
    if missing:
        shown = ", ".join(missing[:_LISTED])
        more = f" and {len(missing) - _LISTED} more" if len(missing) > _LISTED else ""
        raise DataError(
            f"{folder}: no picture named like {shown}{more}; add it, or list the pairs in a file"
        )
    return [(each, targets.one(each.image.stem, str(each.image))) for each in sources.images]


def _from_file(
    sources: LabelledSet, targets: _Named, path: Path, chain: Path | None
) -> list[tuple[str, LabelledImage, Path, str]]:
    by_image = {each.image: each for each in sources.images}
    names = _Named(sources.root, by_image)
    found = []
    for where, row in _rows(path):
        if "chain" in row and chain is None:
            raise DataError(f"{path}:1: a column chain without --chain; name its folder")
        image = names.one(row["source"], where)
        between = row.get("chain", image.stem)
        found.append((where, by_image[image], targets.one(row["target"], where), between))
    if not found:
        raise DataError(f"{path}: no pair in it; one row each: source,target")
    return found


def _rows(path: Path) -> list[tuple[str, dict[str, str]]]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise DataError(
            f"{path}: pairs cannot be read: {why}; give a CSV file or {SAME_NAME}"
        ) from error
    reader = csv.reader(lines)
    header = tuple(each.strip() for each in next(reader, []))
    if header not in _HEADERS:
        raise DataError(f"{path}:1: expected the columns source,target or source,target,chain")
    rows = []
    try:
        for row in reader:
            if not row:
                continue
            where = f"{path}:{reader.line_num}"
            values = [each.strip() for each in row]
            if len(values) != len(header) or not all(values):
                raise DataError(f"{where}: expected {','.join(header)}, got {','.join(row)!r}")
            rows.append((where, dict(zip(header, values, strict=True))))
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: {error}") from error
    return rows


def _pictures_below(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; name one with pictures")
    found = sorted(
        each
        for each in folder.rglob("*")
        if each.suffix.lower() in IMAGE_SUFFIXES and not each.name.startswith(".")
    )
    if not found:
        raise DataError(f"{folder}: no picture in it ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return found


def _require_own_names(pairs: list[Pair]) -> None:
    """Every target of a split needs a label file of its own."""
    taken: dict[tuple[str, str], Path] = {}
    for pair in pairs:
        other = taken.setdefault((pair.source.split, pair.target.stem), pair.target)
        if other != pair.target:
            raise DataError(
                f"{pair.target}: same name as {other}; they would share one label file, rename one"
            )
