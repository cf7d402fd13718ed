"""Which anchors lie in a labelled patch, and the loss there (SLA-Det's L_LR).

Owns the mask and the loss on labelled regions. Does not own patches through augmentations
(see ``patched_dataset``) nor the parts of ultralytics' loss (see ``anchors``).

Outside its patches a picture says nothing: neither that there is a cell nor that there is
none. So class scores there have a gradient of exactly zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Self

from train.sparse.anchors import AnchorOutputs, Cells, assign, losses_on
from train.step_loss import PATCH_INDEX, PATCHES


@dataclass(frozen=True)
class Patches:
    """p labelled rectangles of a batch.

    Attributes:
        corners_px: float ``(p, 4)``, x1, y1, x2, y2 in pixels of the network's picture.
        pictures: int64 ``(p,)``.
        size: width and height of the network's picture in pixels.
        batch: pictures there are.
    """

    corners_px: Tensor
    pictures: Tensor
    size: Tensor
    batch: int

    @classmethod
    def of_batch(cls, batch: dict[str, Any], outputs: AnchorOutputs) -> Self:
        """The patches of a batch whose outputs these are."""
        device, size = outputs.logits.device, outputs.size.float()
        corners = batch[PATCHES].to(device).float() * size.repeat(2)
        return cls(corners, batch[PATCH_INDEX].to(device).long(), size, len(outputs.logits))

    def shrunk(self, guard_px: Tensor | float) -> Self:
        """The patches without a band along their sides.

        A side on the picture's own border keeps its place: no cell is cut there that was
        left unlabelled for it.
        """
        edge = torch.zeros_like(self.corners_px)
        edge[:, 2:] = self.size
        # Half a pixel: patches have been through float arithmetic of augmentations.
        free = (self.corners_px - edge).abs() > 0.5
        inwards = torch.tensor([1.0, 1.0, -1.0, -1.0], device=self.corners_px.device)
        corners = self.corners_px + free * inwards * guard_px
        return type(self)(corners, self.pictures, self.size, self.batch)

    def hold_anchors(self, centres_px: Tensor) -> Tensor:
        """Which anchors ``(N, 2)`` lie in a patch of each picture, bool ``(B, N)``.

        Left and top sides belong to a patch, right and bottom ones do not, so patches that
        touch share no anchor.
        """
        x, y = centres_px[:, 0], centres_px[:, 1]
        x1, y1, x2, y2 = (side[:, None] for side in self.corners_px.unbind(1))
        held = (x1 <= x) & (x < x2) & (y1 <= y) & (y < y2)
        hits = torch.zeros(self.batch, len(centres_px), device=centres_px.device)
        return hits.index_add_(0, self.pictures, held.float()) > 0

    def hold_points(self, points_px: Tensor, pictures: Tensor) -> Tensor:
        """Which points ``(k, 2)`` of given pictures lie in a patch, bool ``(k,)``."""
        x, y = points_px[:, 0, None], points_px[:, 1, None]
        x1, y1, x2, y2 = self.corners_px.unbind(1)
        held = (x1 <= x) & (x <= x2) & (y1 <= y) & (y <= y2)
        return (held & (pictures[:, None] == self.pictures)).any(1)

    def shares_of(self, boxes_px: Tensor, pictures: Tensor) -> Tensor:
        """Share of each box ``(k, 4)`` that lies in patches, ``(k,)`` in 0..1.

        Patches of one picture do not overlap, as mosaics lay pictures side by side.
        """
        first = torch.maximum(boxes_px[:, None, :2], self.corners_px[:, :2])
        last = torch.minimum(boxes_px[:, None, 2:], self.corners_px[:, 2:])
        common = (last - first).clamp(min=0).prod(2) * (pictures[:, None] == self.pictures)
        area = (boxes_px[:, 2:] - boxes_px[:, :2]).prod(1)
        return common.sum(1) / area.clamp(min=1e-6)


@dataclass(frozen=True)
class Region:
    """Where a batch is labelled.

    Attributes:
        patches: as they are.
        certain: without the guard band; what shows no label here is background.
        inside: bool ``(B, N)``, anchors in a patch.
        negatives: bool ``(B, N)``, anchors in what is certain.
    """

    patches: Patches
    certain: Patches
    inside: Tensor
    negatives: Tensor

    @classmethod
    def of_batch(
        cls, batch: dict[str, Any], outputs: AnchorOutputs, guard_px: Tensor | float
    ) -> Self:
        """The labelled region of a batch, with a guard band of that width."""
        patches = Patches.of_batch(batch, outputs)
        certain = patches.shrunk(guard_px)
        centres = outputs.centres_px
        inside = patches.hold_anchors(centres)
        return cls(patches, certain, inside, certain.hold_anchors(centres))

    def labelled(self, cells: Cells) -> Cells:
        """The cells whose centre lies in a patch."""
        centres = cells.boxes_xywhn[:, :2] * self.patches.size
        return cells.select(self.patches.hold_points(centres, cells.pictures))


def labelled_region_loss(
    plain: Any, outputs: AnchorOutputs, cells: Cells, region: Region
) -> Tensor:
    """L_LR: ultralytics' losses on anchors in the patches alone, shape ``(3,)``.

    Source: LLD, sparse localisation, labelled-region loss. Cells whose centre lies in no
    patch are left out. In the guard band along a patch's sides only cells are learnt, no
    background: a cell cut by the border may be unlabelled.

    Args:
        plain: ultralytics' criterion, which this equals where a patch is the whole picture.
        outputs: of the network.
        cells: labels of the batch.
        region: where it is labelled.
    """
    assignment = assign(plain, outputs, region.labelled(cells), region.inside)
    return losses_on(plain, outputs, assignment, region.negatives | assignment.foreground)


def median_side_px(cells: Cells, size: Tensor) -> Tensor | None:
    """Median side of the cells in pixels, None without any."""
    if not len(cells):
        return None
    return (cells.boxes_xywhn[:, 2:].float() * size.float()).prod(1).sqrt().median()
