"""Labelled cells of several data sets under one class list, as heads are trained on them.

Owns the choice of data sets in a recipe, the common class list and the record that export
reads. Does not own reading a data set (see ``catalog``).
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from calibration.labelled_cells import CellPicture, CellRow, CellSplit, LabelledCells
from edge_runtime.attributes import AttributeSchema
from edge_runtime.errors import DataError, SettingsError
from train.datasets.catalog import read_dataset
from train.datasets.labelled import LabelledImage, LabelledSet
from train.datasets.splits import Validation, with_validation

_SPLITS: tuple[CellSplit, ...] = ("train", "val", "test")


class CellSourceSpec(BaseModel):
    """One data set of a head's recipe.

    Attributes:
        dataset: its name in the catalogue.
        path: its folder, relative to the data root.
        mapping: class mapping to apply, if any.
        repeat: how often each training cell counts.
        judged: whether its validation and test cells are used as well.
        validation: how validation pictures are held out of ``train`` (see ``splits``).
        validation_seed: of that draw.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str
    path: str
    mapping: str | None = None
    repeat: int = Field(default=1, ge=1)
    judged: bool = True
    validation: Validation = "own"
    validation_seed: int = Field(default=0, ge=0)


def read_sources(
    sources: tuple[CellSourceSpec, ...],
    root: Path,
    classes: tuple[str, ...],
    *,
    name: str,
    with_attributes: bool,
) -> LabelledCells:
    """All sources as one record; a training picture stands in it ``repeat`` times.

    Pictures that another data set tests on are left out of training and validation.

    Args:
        sources: which.
        root: the data root.
        classes: the common class list; cells of other classes are left out.
        name: of the record.
        with_attributes: keep attributes; sources with attributes must then share a schema,
            cells of the others have none judged.

    Raises:
        DataError: a folder is not its data set, a row is bad, or no cell is left to train on.
        SettingsError: no such data set or mapping, or two attribute schemas.
    """
    for each in sources:
        if Path(each.path).is_absolute():
            raise SettingsError(
                f"{each.dataset}: path {each.path} must be relative to the data root; "
                f"give --data {Path(each.path).parent} and the folder's name"
            )
    twice = sorted({one for one in classes if classes.count(one) > 1})
    if twice:
        raise SettingsError(f"recipe {name}: class {twice[0]} is named twice; name each once")
    schema: AttributeSchema | None = None
    pictures: list[CellPicture] = []
    read = [(each, read_source(each, root)) for each in sources]
    if with_attributes:
        schema = _common_schema(read)
    for source, found in read:
        unknown = [one for one in classes if one in found.classes]
        if not unknown:
            raise SettingsError(
                f"{source.dataset}: none of its classes ({', '.join(found.classes)}) is in the "
                f"recipe's list ({', '.join(classes)}); give a mapping"
            )
        for split in _SPLITS:
            if split != "train" and not source.judged:
                continue
            chosen = found.of_split(split) if split == "test" else found.usable(split)
            rows = [
                cell_picture(each, found, source, split, root, classes, schema) for each in chosen
            ]
            kept = [row for row in rows if row.cells]
            pictures += kept * (source.repeat if split == "train" else 1)
    offered = {one for _, found in read for one in found.classes}
    absent = [one for one in classes if one not in offered]
    if absent:
        raise SettingsError(
            f"recipe {name}: class {absent[0]} is in none of its data sets "
            f"({', '.join(sorted(offered))}); mend the class list or give a mapping"
        )
    record = LabelledCells(name=name, classes=classes, attributes=schema, pictures=tuple(pictures))
    if not record.of_split("train"):
        raise DataError(f"{root}: no cell of the recipe's classes to train on; check the data")
    return record


def read_source(source: CellSourceSpec, root: Path) -> LabelledSet:
    """One data set of a recipe, mapped and with its validation pictures.

    Raises:
        DataError: the folder is not this data set, or a row is bad.
        SettingsError: no such data set or mapping.
    """
    found = read_dataset(source.dataset, root / source.path, mapping=source.mapping)
    return with_validation(found.require_clean(), source.validation, seed=source.validation_seed)


def _common_schema(read: list[tuple[CellSourceSpec, LabelledSet]]) -> AttributeSchema:
    schemas = {found.attributes for _, found in read if found.attributes is not None}
    # Sets of one family name their schema alike and may still be two objects.
    if len(schemas) != 1:
        raise SettingsError(
            f"attributes: the recipe's data sets have {len(schemas)} schemas, one is needed"
        )
    return schemas.pop()


def cell_picture(
    image: LabelledImage,
    found: LabelledSet,
    source: CellSourceSpec,
    split: CellSplit,
    root: Path,
    classes: tuple[str, ...],
    schema: AttributeSchema | None = None,
) -> CellPicture:
    """One picture of a read source as the record has it, cells of other classes left out."""
    rows = []
    for box, class_id, values in zip(
        image.boxes_xywhn.tolist(), image.class_ids.tolist(), image.attributes.tolist(), strict=True
    ):
        if found.classes[class_id] not in classes:
            continue
        judged: tuple[int, ...] = ()
        if schema is not None:
            judged = tuple(values) if found.attributes else (-1,) * len(schema.attributes)
        rows.append(
            CellRow(
                box_xywhn=(box[0], box[1], box[2], box[3]),
                class_id=classes.index(found.classes[class_id]),
                attributes=judged,
            )
        )
    return CellPicture(
        file=image.image.relative_to(root).as_posix(),
        split=split,
        domain=source.dataset,
        cells=tuple(rows),
    )
