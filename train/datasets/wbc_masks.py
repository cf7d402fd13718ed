"""``wbc-masks``: single white cells with masks of nucleus and cytoplasm.

Owns its table. Near-duplicate cells share a group there; a cell without a group is alone.
"""

from __future__ import annotations

from pathlib import Path

from train.datasets.cell_tables import box_of, class_of, picture_of, read_cell_table, split_of
from train.datasets.labelled import LabelledImage, LabelledSet, one_cell
from train.datasets.schemas import DatasetSpec

TABLE = "labels.csv"


def read(root: Path, spec: DatasetSpec) -> LabelledSet:
    """Reads the folder.

    Raises:
        DataError: the folder is not this data set.
    """

    def picture(row: dict[str, str]) -> LabelledImage:
        return LabelledImage(
            picture_of(row, root),
            split_of(row),
            f"data set {row['dataset']}",
            *one_cell(box_of(row), class_of(row, spec.classes)),
            group=row["group"] or row["file"],
            mask=picture_of(row, root, "mask"),
        )

    images, bad = read_cell_table(
        root / TABLE, more_columns=("mask", "group", "dataset"), make=picture
    )
    return LabelledSet.as_read(
        spec,
        root,
        images,
        bad,
        notes=("class labels were never checked by an expert", "GPL-3.0: keep it separate"),
    )
