"""Fields whose boxes carry attributes through ultralytics' augmentations.

Owns keeping every attribute row with its box. Does not own the sidecar files (see
``attribute_files``), reading any published data set (see ``datasets``) nor the augmentations,
which are ultralytics'.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from ultralytics.data.dataset import YOLODataset

from edge_runtime.attributes import AttributeSchema
from edge_runtime.errors import DataError, SettingsError
from train.attribute_files import attribute_file, read_attributes, write_attributes

__all__ = ["AttributedDataset", "attribute_file", "read_attributes", "write_attributes"]


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
