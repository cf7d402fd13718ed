"""PCM-Leukemia: nine classes in fields of 1920 x 1080, boxes only.

Owns the patient of a picture. The class list is the order of the paper's table; the set's own
class list, where there is one, is taken by name. The ways to hold out validation pictures are in
``splits``; the two-class form and the eight classes of the second stage are mappings in
``schemas.yaml``.
"""

from __future__ import annotations

from pathlib import Path

from edge_runtime.errors import DataError
from train.datasets.groups import GROUP_FILE, read_groups
from train.datasets.label_rows import cell_arrays
from train.datasets.labelled import LabelledImage, LabelledSet
from train.datasets.schemas import DatasetSpec
from train.datasets.yolo_folders import is_yolo_folder, read_yolo_folder


def read(root: Path, spec: DatasetSpec) -> LabelledSet:
    """Reads the folder with its own splits; patients come from ``groups.csv`` if it is there.

    Raises:
        DataError: the folder is not this data set, or ``groups.csv`` has other columns.
    """
    if not is_yolo_folder(root):
        raise DataError(
            f"{root}: not a PCM-Leukemia folder; expected images/<split> with labels/<split>"
        )
    folder = read_yolo_folder(root, spec)
    known = {each.image.name for each in folder.fields}
    groups, bad = read_groups(root / GROUP_FILE, known)
    images = tuple(
        LabelledImage(
            each.image,
            each.split,
            spec.name,
            *cell_arrays(list(each.rows), 0),
            group=groups.get(each.image.name),
        )
        for each in folder.fields
    )
    unknown = sum(each.group is None for each in images)
    notes = list(folder.notes)
    if unknown:
        notes.append(f"{unknown} pictures without a patient in {GROUP_FILE} (image,group)")
    return LabelledSet.as_read(spec, root, images, (*folder.bad, *bad), notes=notes)
