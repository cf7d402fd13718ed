"""Fields whose boxes carry attributes through ultralytics' augmentations.

Owns the sidecar files, and keeping every attribute row with its box. Does not own reading
any published data set (see ``datasets``) nor the augmentations, which are ultralytics'.

Beside ``images/a.jpg`` and the five-column ``labels/a.txt`` lies ``attributes/a.npy``: one
row of value indices per label row. Ultralytics must not see attributes in a label file: it
reads rows of more than six columns as polygons, and takes eleven columns for a wrong box
without a word.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from ultralytics.data.dataset import YOLODataset
from ultralytics.data.utils import img2label_paths

from edge_runtime.attributes import MISSING, AttributeSchema
from edge_runtime.errors import DataError, SettingsError
from edge_runtime.types import Int64Array


def attribute_file(image: Path) -> Path:
    """Where the attributes of an image's cells lie."""
    (path,) = img2label_paths([image], "attributes", ".npy")
    return Path(path)


def write_attributes(image: Path, values: Int64Array, schema: AttributeSchema) -> Path:
    """Writes the sidecar of one image, creating its folder.

    Args:
        image: the image; it need not exist yet.
        values: ``(cells, attributes)``, value indices or ``MISSING``, in the order of the
            label file's rows.
        schema: what the columns mean.

    Returns:
        The file written.

    Raises:
        DataError: values that the schema does not have.
    """
    path = attribute_file(image)
    _check(values, schema, path)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, values.astype(np.int16), allow_pickle=False)
    return path


def read_attributes(image: Path, schema: AttributeSchema) -> Int64Array:
    """The sidecar of one image, int64 ``(cells, attributes)``.

    Raises:
        DataError: no such file, no array of whole numbers, or values that the schema does
            not have.
    """
    path = attribute_file(image)
    try:
        # Never pickles: a data set is somebody else's file.
        values = np.load(path, allow_pickle=False)
    except FileNotFoundError as error:
        raise DataError(
            f"{path}: no such file; every image with cells needs its attributes "
            f"({MISSING} where nobody judged one)"
        ) from error
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: not an array of attributes; write it again") from error
    if not np.issubdtype(values.dtype, np.integer):
        raise DataError(f"{path}: holds {values.dtype}; value indices are whole numbers")
    _check(values, schema, path)
    checked: Int64Array = values.astype(np.int64)
    return checked


def _check(values: Int64Array, schema: AttributeSchema, path: Path) -> None:
    if values.ndim != 2 or values.shape[1] != len(schema.attributes):
        raise DataError(
            f"{path}: table of shape {values.shape}; schema {schema.name!r} has "
            f"{len(schema.attributes)} attributes, one column each"
        )
    strange = (values < MISSING) | (values >= np.array(schema.widths))
    if strange.any():
        row, column = (int(index) for index in np.argwhere(strange)[0])
        attribute = schema.attributes[column]
        raise DataError(
            f"{path}: cell {row} has {attribute.name} = {int(values[row, column])}; "
            f"schema {schema.name!r} knows 0 to {len(attribute.values) - 1}, "
            f"and {MISSING} for not judged"
        )


class AttributedDataset(YOLODataset):
    """Ultralytics' detection data set with one row of attributes per box.

    Batches gain ``attributes``, int64 ``(boxes, attributes)``, in the order of ``bboxes``.

    While a picture is augmented, the attributes ride as further columns of the class array:
    flips leave that array alone, and whatever joins pictures or drops boxes joins and drops
    its rows. Outside that, in ``labels`` and in batches, the class array has one column, as
    everything else of ultralytics expects. ``Instances`` cannot carry them, because the
    augmentations build new ones from boxes alone.

    Args:
        schema: what the columns of the sidecars mean.
    """

    def __init__(self, *args: Any, schema: AttributeSchema, **kwargs: Any) -> None:
        # The constructor of the base class reads the labels already.
        self.schema = schema
        super().__init__(*args, **kwargs)

    def get_labels(self) -> list[dict[str, Any]]:
        """Ultralytics' labels with ``attributes`` beside ``cls`` and ``bboxes``.

        Raises:
            DataError: a sidecar is missing, malformed, or has another number of rows.
        """
        labels: list[dict[str, Any]] = super().get_labels()
        for label in labels:
            cells = len(label["cls"])
            image = Path(label["im_file"])
            if cells == 0 and not attribute_file(image).is_file():
                label["attributes"] = np.zeros((0, len(self.schema.attributes)), np.int64)
                continue
            values = read_attributes(image, self.schema)
            if len(values) != cells:
                raise DataError(
                    f"{attribute_file(image)}: {len(values)} rows for {cells} boxes; "
                    "the label file may hold the same row twice, which ultralytics drops"
                )
            label["attributes"] = values
        return labels

    def update_labels(self, include_class: list[int] | None) -> None:
        """Keeps the chosen classes only, attributes with them."""
        if include_class is not None:
            for label in self.labels:
                chosen = np.isin(label["cls"].ravel(), include_class)
                label["attributes"] = label["attributes"][chosen]
        super().update_labels(include_class)

    def build_transforms(self, hyp: Any) -> Any:
        """Ultralytics' augmentations.

        Raises:
            SettingsError: own Albumentations transforms, which give the class array back
                with one column.
        """
        if getattr(hyp, "augmentations", None):
            raise SettingsError(
                "augmentations: own Albumentations transforms lose attributes; leave them out"
            )
        return super().build_transforms(hyp)

    def update_labels_info(self, label: dict[str, Any]) -> dict[str, Any]:
        """Puts the attributes beside the class, for the way through the augmentations."""
        label["cls"] = np.concatenate(
            [label["cls"], label.pop("attributes").astype(label["cls"].dtype)], axis=1
        )
        joined: dict[str, Any] = super().update_labels_info(label)
        return joined

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One augmented picture with its boxes, classes and attributes.

        Raises:
            RuntimeError: an augmentation has not kept one row per box.
        """
        sample: dict[str, Any] = super().__getitem__(index)
        columns = len(self.schema.attributes)
        rows = sample.pop("cls")
        # Without a box ultralytics makes an empty class array of its own width.
        if len(rows) == 0:
            rows = rows.new_zeros(0, 1 + columns)
        if rows.shape != (len(sample["bboxes"]), 1 + columns):
            raise RuntimeError(
                f"{sample['im_file']}: an augmentation left {tuple(rows.shape)} classes and "
                f"attributes for {len(sample['bboxes'])} boxes"
            )
        sample["cls"] = rows[:, :1]
        sample["attributes"] = rows[:, 1:].long()
        return sample

    @staticmethod
    def collate_fn(batch: list[dict[str, Any]]) -> dict[str, Any]:
        """Ultralytics' batch, with all attributes in one table."""
        plain = [{k: v for k, v in sample.items() if k != "attributes"} for sample in batch]
        together: dict[str, Any] = YOLODataset.collate_fn(plain)
        together["attributes"] = torch.cat([sample["attributes"] for sample in batch])
        return together
