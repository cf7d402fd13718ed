"""Sparse-LeukemiaAttri: LeukemiaAttri's labels inside one patch of every training picture.

Owns giving every picture its patch, from label rows or ``patches.csv``. Does not own what the
patch columns mean (see ``patches``).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edge_runtime.errors import DataError
from train.datasets.label_rows import cell_arrays
from train.datasets.labelled import LabelledImage, LabelledSet, Patch
from train.datasets.leukemia_attri import slide_of
from train.datasets.patches import (
    PATCH_FILE,
    PatchColumns,
    PatchLayout,
    PatchLayoutError,
    detect_layout,
    read_patches,
)
from train.datasets.schemas import DatasetSpec
from train.datasets.yolo_folders import YoloField, is_yolo_folder, read_yolo_folder

# patches.csv keeps six decimals; pixels of a 640 px picture are rounded more.
_AGREEMENT = 0.002


def read(root: Path, spec: DatasetSpec) -> LabelledSet:
    """Reads the folder; training pictures whose patch nobody wrote down are left out.

    Raises:
        DataError: the folder is not this data set.
    """
    if not is_yolo_folder(root):
        raise DataError(
            f"{root}: not a Sparse-LeukemiaAttri folder; expected images/<split> with "
            f"labels/<split>"
        )
    folder = read_yolo_folder(root, spec)
    bad, notes, warnings = list(folder.bad), list(folder.notes), []
    file = root / PATCH_FILE
    known = {(each.split, each.image.name) for each in folder.fields}
    kept, bad_patches = read_patches(file, known) if file.is_file() else ({}, [])
    bad += bad_patches

    columns: dict[Path, PatchColumns] = {}
    for each in folder.fields:
        found, why = _one_patch(each)
        bad += why
        if found is not None:
            columns[each.image] = found
    layout: PatchLayout | None = None
    if columns:
        if spec.patch_frame_px is None:
            raise DataError(f"{spec.name}: schemas.yaml gives it patches and no patch_frame_px")
        try:
            layout = detect_layout(
                list(columns.values()), frame_px=spec.patch_frame_px, order=spec.patch_order
            )
            unit = "fractions" if layout.divisor == 1 else f"pixels of {layout.divisor:g}"
            notes.append(f"patch columns: {layout.order}, {unit}")
        except PatchLayoutError as error:
            bad += [f"{root}: {error}", *error.offenders]

    images: list[LabelledImage] = []
    unknown: list[str] = []
    empty = 0
    for each in folder.fields:
        own = columns.get(each.image)
        from_rows = layout.patch(own.values) if layout is not None and own is not None else None
        from_file = kept.get((each.split, each.image.name))
        if from_rows is not None and from_file is not None and not _agree(from_rows, from_file):
            where = "" if own is None else own.where
            bad.append(f"{where}: its patch is not the one in {PATCH_FILE}")
        patch = from_file or from_rows
        if patch is None and each.split != "test":
            if not each.rows:
                unknown.append(each.image.name)
                continue
            if own is None:
                bad.append(
                    f"{each.label}:{each.rows[0].line}: no patch, neither here nor in "
                    f"{PATCH_FILE}; only test pictures are labelled as a whole"
                )
        empty += patch is not None and not each.rows
        cells = cell_arrays(list(each.rows), len(spec.attribute_names))
        images.append(
            LabelledImage(
                each.image,
                each.split,
                root.name,
                *cells,
                group=slide_of(each.image),
                patch_xyxyn=patch,
            )
        )
    whole = sum(each.patch_xyxyn is None for each in images)
    notes.append(f"{len(images) - whole} pictures with a patch, {whole} labelled as a whole")
    if empty:
        notes.append(f"{empty} patches with no label in them: valid, all that they show is no cell")
    if unknown:
        warnings.append(
            f"{len(unknown)} pictures have no row and no patch in {PATCH_FILE}, so what is "
            f"labelled in them is unknown; left out, the first: {unknown[0]}"
        )
    return LabelledSet.as_read(spec, root, images, bad, warnings=warnings, notes=notes)


def _one_patch(picture: YoloField) -> tuple[PatchColumns | None, list[str]]:
    """The patch columns of one picture, and rows that name another patch than the first."""
    with_patch = [row for row in picture.rows if row.patch is not None]
    if not with_patch or with_patch[0].patch is None:
        return None, []
    first = with_patch[0].patch
    bad = [
        f"{picture.label}:{row.line}: another patch than line {with_patch[0].line}; "
        f"a picture has one patch"
        for row in with_patch
        if row.patch != first
    ]
    centres = np.array(
        [row.box_xywhn[:2] for row in with_patch if row.patch == first], np.float32
    ).reshape(-1, 2)
    return PatchColumns(f"{picture.label}:{with_patch[0].line}", first, centres), bad


def _agree(one: Patch, other: Patch) -> bool:
    return all(abs(a - b) <= _AGREEMENT for a, b in zip(one, other, strict=True))
