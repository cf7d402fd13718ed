"""``pbc-attributes`` and ``pbc-extra``: PBC crops with a class, a box and WBCAtt's attributes.

Owns the rule between sets: some crops of ``pbc-attributes`` are pictures of ``wbc-domains`` too,
often in another split. Nothing that either set tests on may be trained on.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from edge_runtime.errors import DataError
from train.datasets.cell_tables import box_of, class_of, picture_of, read_cell_table, split_of
from train.datasets.labelled import LabelledImage, LabelledSet, one_cell
from train.datasets.schemas import DatasetSpec, index_of_word, load_spec

TABLE = "annotations.csv"
_EXTRA = "pbc-extra"
_SHARED = ("wbc_domains_file", "wbc_domains_split")
_SHARED_SPLITS = ("", "train", "val", "test")


def read(root: Path, spec: DatasetSpec) -> LabelledSet:
    """Reads one of the two sets.

    A picture is ``held_out`` when ``wbc-domains`` tests on it and its own split is another, so
    ``usable("train")`` and ``usable("val")`` never hold a test picture of either set.

    Raises:
        DataError: the folder is not this data set.
    """
    extra = spec.name == _EXTRA
    images, bad = read_cell_table(
        root / TABLE,
        more_columns=(*spec.attribute_names, *(() if extra else _SHARED)),
        make=lambda row: _picture(row, root, spec, extra=extra),
    )
    notes = ["patients unknown: one of them may be in several splits"]
    if not extra:
        for split in ("train", "val"):
            count = sum(each.held_out for each in images if each.split == split)
            notes.append(f"{count} {split} pictures are test in wbc-domains: never trained on")
    return LabelledSet.as_read(spec, root, images, bad, notes=notes)


def read_together(attributes_root: Path, extra_root: Path) -> LabelledSet:
    """Both sets as one: test and validation from ``pbc-attributes`` only.

    Raises:
        DataError: a folder is not its data set, or a row of either is bad.
    """
    first = read(attributes_root, load_spec("pbc-attributes")).require_clean()
    extra = read(extra_root, load_spec(_EXTRA)).require_clean()
    return first.with_images((*first.images, *extra.images))


def files_tested_here(attributes_root: Path) -> frozenset[str]:
    """Pictures of ``wbc-domains`` that ``pbc-attributes`` tests on.

    A detector that is judged on the test split of ``pbc-attributes`` must not learn from them.

    Returns:
        Paths relative to the ``wbc-domains`` folder, with forward slashes.

    Raises:
        DataError: the folder is not this data set, or a row is bad.
    """
    found: set[str] = set()
    spec = load_spec("pbc-attributes")

    def note(row: dict[str, str]) -> LabelledImage:
        picture = _picture(row, attributes_root, spec, extra=False)
        if picture.split == "test" and row["wbc_domains_file"]:
            found.add(row["wbc_domains_file"])
        return picture

    images, bad = read_cell_table(attributes_root / TABLE, more_columns=_SHARED, make=note)
    LabelledSet(
        spec.name, attributes_root, spec.classes, spec.attributes, tuple(images), tuple(bad)
    ).require_clean()
    return frozenset(found)


def _picture(row: dict[str, str], root: Path, spec: DatasetSpec, *, extra: bool) -> LabelledImage:
    split = split_of(row)
    if extra and split != "train":
        raise DataError(f"split {split!r}: {_EXTRA} is for training only")
    shared = "" if extra else row["wbc_domains_split"]
    if shared not in _SHARED_SPLITS:
        raise DataError(f"wbc_domains_split {shared!r}: expected train, val, test or nothing")
    attributes: tuple[int, ...] = ()
    if spec.attributes is not None:
        attributes = tuple(
            index_of_word(each, row[each.name]) for each in spec.attributes.attributes
        )
    image = LabelledImage(
        picture_of(row, root),
        split,
        "pbc",
        *one_cell(box_of(row), class_of(row, spec.classes), attributes),
    )
    return replace(image, held_out=split != "test" and shared == "test")
