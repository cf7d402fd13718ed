"""The table of data sets: one row each, its module imported when it is asked for.

A new data set is one module with ``read(root, spec)``, one row here and its entry in
``schemas.yaml``.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from edge_runtime.errors import DataError, SettingsError
from train.datasets.labelled import LabelledSet
from train.datasets.schemas import DatasetSpec, PatchOrder, load_spec


@dataclass(frozen=True, slots=True)
class DatasetRow:
    """One line of the table; the module has ``read``."""

    name: str
    module: str


DATASETS: tuple[DatasetRow, ...] = (
    DatasetRow("leukemia-attri", "train.datasets.leukemia_attri"),
    DatasetRow("sparse-leukemia-attri", "train.datasets.sparse_leukemia_attri"),
    DatasetRow("pcm-leukemia", "train.datasets.pcm_leukemia"),
    DatasetRow("all-idb1", "train.datasets.all_idb1"),
    DatasetRow("lmu", "train.datasets.munich"),
    DatasetRow("pbc-attributes", "train.datasets.pbc_cells"),
    DatasetRow("pbc-extra", "train.datasets.pbc_cells"),
    DatasetRow("wbc-masks", "train.datasets.wbc_masks"),
)


def read_dataset(
    name: str, root: Path, *, mapping: str | None = None, patch_order: PatchOrder | None = None
) -> LabelledSet:
    """Reads a data set; bad rows are listed in it (see ``LabelledSet.require_clean``).

    Args:
        name: one of the table.
        root: its folder.
        mapping: class mapping of ``schemas.yaml`` to apply, or None for its own classes.
        patch_order: how to read patch columns that the labels alone leave open.

    Raises:
        SettingsError: no such data set or mapping, or it has no patches to order.
        DataError: the folder is not this data set.
    """
    row = next((each for each in DATASETS if each.name == name), None)
    if row is None:
        known = ", ".join(each.name for each in DATASETS)
        raise SettingsError(f"data set {name!r}: unknown; choose one of {known}")
    spec = load_spec(name)
    if patch_order is not None:
        if spec.patch_frame_px is None:
            raise SettingsError(f"patch order {patch_order}: {name} has no patch columns")
        spec = spec.model_copy(update={"patch_order": patch_order})
    chosen = None if mapping is None else spec.mapping(mapping)
    read_set = _read(row, root, spec)
    return read_set if chosen is None else read_set.mapped(chosen)


def _read(row: DatasetRow, root: Path, spec: DatasetSpec) -> LabelledSet:
    try:
        found: LabelledSet = import_module(row.module).read(root, spec)
    except (OSError, csv.Error) as error:
        raise DataError(f"{root}: cannot be read: {error}") from error
    return found
