"""Fields of which only a patch is labelled, the patch kept through augmentations.

Owns that patches go where their pictures go. Does not own the patches' file (see
``datasets.patches``) nor what a method makes of them.

While a picture is augmented its patch rides as one more box with a class of its own, so flips,
shifts, scales and mosaics move it as they move cells; where a mosaic joins pictures, their
patches come along. Turning and shearing would make another shape of it, and mixing two
pictures over each other would make "labelled" meaningless: both are refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from ultralytics.data.dataset import YOLODataset

from edge_runtime.attributes import MISSING
from edge_runtime.errors import DataError, SettingsError
from train.attributed_dataset import AttributedDataset
from train.step_loss import PATCH_INDEX, PATCHES

_REFUSED = ("degrees", "shear", "perspective", "mixup", "cutmix", "copy_paste")


class _WithPatches(YOLODataset):
    """Adds ``patches`` ``(p, 4)`` corners as fractions and ``patch_idx`` to batches.

    Args:
        patches: by file name of the picture; corners as fractions.
    """

    def __init__(
        self,
        *args: Any,
        patches: dict[str, tuple[float, float, float, float]],
        **kwargs: Any,
    ) -> None:
        # The constructor of the base class reads the labels already.
        self._patches = patches
        super().__init__(*args, **kwargs)

    @property
    def _patch_class(self) -> int:
        return len(self.data["names"])

    def update_labels(self, include_class: list[int] | None) -> None:
        """Keeps the chosen classes only, then adds one row more to each label, the patch.

        Not before: leaving out classes, or making all one, would take the patch for a cell.

        Raises:
            DataError: a picture has no patch.
        """
        super().update_labels(include_class)
        for label in self.labels:
            name = Path(label["im_file"]).name
            if name not in self._patches:
                raise DataError(f"{label['im_file']}: no patch is known of it")
            x1, y1, x2, y2 = self._patches[name]
            box = np.array([[(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1]], np.float32)
            own = np.array([[self._patch_class]], label["cls"].dtype)
            label["cls"] = np.concatenate([label["cls"].reshape(-1, 1), own])
            label["bboxes"] = np.concatenate([label["bboxes"].reshape(-1, 4), box])
            if "attributes" in label:
                values = label["attributes"]
                nothing = np.full((1, values.shape[1]), MISSING, values.dtype)
                label["attributes"] = np.concatenate([values, nothing])

    def build_transforms(self, hyp: Any) -> Any:
        """Ultralytics' augmentations.

        Raises:
            SettingsError: one of those under which a patch is no longer one.
        """
        if self.augment:
            for name in _REFUSED:
                if getattr(hyp, name, 0.0):
                    raise SettingsError(
                        f"{name}: a labelled patch does not survive it; set it to 0"
                    )
        return super().build_transforms(hyp)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One augmented picture, its patches taken out from among its boxes."""
        sample: dict[str, Any] = super().__getitem__(index)
        is_patch = sample["cls"].reshape(-1) == self._patch_class
        boxes = sample["bboxes"][is_patch]
        half = boxes[:, 2:] / 2
        sample[PATCHES] = torch.cat([boxes[:, :2] - half, boxes[:, :2] + half], 1).clamp(0, 1)
        for key in ("cls", "bboxes", "attributes", "batch_idx"):
            if key in sample:
                sample[key] = sample[key][~is_patch]
        return sample

    @staticmethod
    def _collate_patches(
        batch: list[dict[str, Any]],
    ) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        plain = [{k: v for k, v in sample.items() if k != PATCHES} for sample in batch]
        index = [torch.full((len(s[PATCHES]),), i) for i, s in enumerate(batch)]
        together = {
            PATCHES: torch.cat([sample[PATCHES] for sample in batch]).float(),
            PATCH_INDEX: torch.cat(index).long(),
        }
        return plain, together


class PatchedDataset(_WithPatches):
    """Cells and patches."""

    @staticmethod
    def collate_fn(batch: list[dict[str, Any]]) -> dict[str, Any]:
        """Ultralytics' batch, and all patches in one table."""
        plain, patches = _WithPatches._collate_patches(batch)
        return {**YOLODataset.collate_fn(plain), **patches}


class PatchedAttributedDataset(_WithPatches, AttributedDataset):
    """Cells with attributes, and patches."""

    @staticmethod
    def collate_fn(batch: list[dict[str, Any]]) -> dict[str, Any]:
        """Ultralytics' batch with attributes, and all patches in one table."""
        plain, patches = _WithPatches._collate_patches(batch)
        return {**AttributedDataset.collate_fn(plain), **patches}
