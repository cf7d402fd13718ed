"""SLA-Det: a detector from pictures of which one patch is labelled.

Owns the method's options and putting its three losses together. Does not own them (see
``inside``, ``pseudo_labels``, ``similarity``), thresholds nor the schedule.

Source: LLD. In a patch the detector learns from labels; elsewhere from its own predictions,
the confident ones as labels, the undecided ones by drawing them to labelled cells. Ultralytics'
detectors have no objectness, so confidence is the highest class score. Not carried over from
the authors' program are its slips: thresholds and schedule are the paper's, candidates are
told from patches and not from labelled boxes, and the similarity loss has the sign that its
text asks for.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor
from typing_extensions import Self
from ultralytics.utils.loss import v8DetectionLoss

from edge_runtime.errors import SettingsError
from train.sparse.anchors import AnchorOutputs, Cells
from train.sparse.batch_picture import draw_batch
from train.sparse.inside import Region, labelled_region_loss, median_side_px
from train.sparse.pseudo_labels import Candidates, SmallestCell, judge, pseudo_label_loss
from train.sparse.schedule import TRIPLET_SHARE, TRIPLET_SHARE_WITH_ATTRIBUTES, Schedule
from train.sparse.similarity import Sign, cell_features, same_cell, triplet_loss
from train.sparse.thresholds import Thresholds
from train.step_loss import MethodOptions, StepContext, read_counts

LOSS_NAMES = ("box_loss", "cls_loss", "dfl_loss", "pseudo_loss", "triplet_loss")


class Options(MethodOptions):
    """What SLA-Det can be told; the defaults are the paper's where it says something.

    Attributes:
        labelled_region: learn inside patches only; otherwise what is unlabelled counts as
            background everywhere.
        pseudo_labels: take confident predictions outside the patches for labels.
        similarity: draw undecided predictions to labelled cells of their class.
        thresholds: ``fixed``, or ``calibrated`` to precisions of 0.70 and 0.95 in patches.
        t0: confidence of a candidate; with ``calibrated`` until the first calibration.
        t1: confidence of a label; with ``calibrated`` until the first calibration.
        t2: entropy in bits that a label stays below.
        calibrate_every: epochs between two calibrations.
        teacher: who labels: the network itself, or its running average.
        nms_iou: overlap from which the weaker of two candidates is dropped.
        agnostic_nms: also where the two are of different classes.
        guard: width of the band along a patch's sides in which nothing is learnt to be
            background, as a share of the cells' median side.
        min_area_px: smallest candidate in square pixels of the network's picture; None takes
            the smallest labelled cell.
        box_area: all anchors in an accepted box learn its class, not only those that answer
            for it.
        sign: of the similarity loss, ``intended`` by the paper's text or as ``printed``.
        pseudo_gain: weight of the pseudo-label loss.
        triplet_gain: weight of the similarity loss.
        triplet_epochs: number of first epochs with the similarity loss, or below 1 their
            share of all; None takes 0.8, with an attribute head a third.
        start_epoch: first epoch with pseudo-labels.
        last_epoch_lr_only: the last epoch has the labelled-region loss alone.
    """

    labelled_region: bool = True
    pseudo_labels: bool = True
    similarity: bool = True
    thresholds: Literal["fixed", "calibrated"] = "fixed"
    t0: float = Field(default=0.70, ge=0, le=1)
    t1: float = Field(default=0.95, ge=0, le=1)
    t2: float = Field(default=0.26, ge=0)
    calibrate_every: int = Field(default=5, ge=1)
    teacher: Literal["self", "ema"] = "self"
    nms_iou: float = Field(default=0.5, ge=0, le=1)
    agnostic_nms: bool = True
    guard: float = Field(default=0.25, ge=0)
    min_area_px: float | None = Field(default=None, ge=0)
    box_area: bool = False
    sign: Sign = "intended"
    pseudo_gain: float = Field(default=0.1, ge=0)
    triplet_gain: float = Field(default=0.1, ge=0)
    triplet_epochs: float | None = Field(default=None, ge=0)
    start_epoch: int = Field(default=0, ge=0)
    last_epoch_lr_only: bool = False

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.t0 > self.t1:
            raise ValueError(f"t0 {self.t0:g} is above t1 {self.t1:g}")
        return self


class SlaDetLoss:
    """The criterion of SLA-Det.

    Args:
        context: what it works with.
        options: see there.

    Raises:
        SettingsError: the network has no head of the kind the losses are for.
    """

    def __init__(self, context: StepContext, options: Options) -> None:
        if not isinstance(context.plain, v8DetectionLoss):
            raise SettingsError(
                f"method sla-det: needs a detector with ultralytics' v8 loss, this one has "
                f"{type(context.plain).__name__}; take yolo11 or yolov8"
            )
        self._context = context
        self._options = options
        self._plain: Any = context.plain
        share = TRIPLET_SHARE
        if hasattr(context.model, "attribute_head"):
            share = TRIPLET_SHARE_WITH_ATTRIBUTES
        given = options.triplet_epochs
        self._schedule = Schedule(
            share if given is None else given, options.start_epoch, options.last_epoch_lr_only
        )
        calibrated = options.thresholds == "calibrated"
        self.thresholds = Thresholds(
            options.t0, options.t1, options.calibrate_every if calibrated else None
        )
        self._smallest = SmallestCell()
        self._epoch = -1
        self._median_px: Tensor | None = None

    def __call__(self, preds: Any, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """Losses of one step; see ``StepLoss``."""
        moment = self._context.moment()
        if moment.epoch != self._epoch:
            self._begin_epoch(moment.epoch)
        outputs = AnchorOutputs.read(self._plain, preds)
        cells = Cells.labelled(batch, outputs.logits.device)
        region = self._region(batch, outputs, cells)
        if self._options.labelled_region:
            detection = labelled_region_loss(self._plain, outputs, cells, region)
        else:
            detection = self._plain(preds, batch)[0] / len(batch["img"])
        pseudo, triplet = self._outside(batch, outputs, region.labelled(cells), region)
        losses = torch.cat([detection, torch.stack([pseudo, triplet])])
        items = dict(zip(LOSS_NAMES, losses.detach(), strict=True))
        return losses * len(batch["img"]), items

    def _begin_epoch(self, epoch: int) -> None:
        if epoch > 0 and self._epoch < 0 and self._options.thresholds == "calibrated":
            # An interrupted training goes on. No checkpoint holds the thresholds, but the log.
            folder = self._context.log.folder
            counts = [] if folder is None else read_counts(folder)
            self.thresholds.take_up([each for each in counts if each["epoch"] < epoch])
        self._epoch = epoch
        self.thresholds.begin_epoch(epoch)
        # Sums over an epoch, so a value that is to be read as itself is added once.
        self._context.log.count(t0=self.thresholds.t0, t1=self.thresholds.t1)

    def _region(self, batch: dict[str, Any], outputs: AnchorOutputs, cells: Cells) -> Region:
        median = median_side_px(cells, outputs.size)
        self._median_px = self._median_px if median is None else median
        if self._median_px is None:
            return Region.of_batch(batch, outputs, 0.0)
        return Region.of_batch(batch, outputs, self._options.guard * self._median_px)

    def _outside(
        self, batch: dict[str, Any], outputs: AnchorOutputs, cells: Cells, region: Region
    ) -> tuple[Tensor, Tensor]:
        """Weighted pseudo-label and similarity losses; zeros in the graph where they are off."""
        options, moment, log = self._options, self._context.moment(), self._context.log
        labels = options.pseudo_labels and self._schedule.pseudo_labels(moment.epoch, moment.epochs)
        compares = options.similarity and self._schedule.similarity(moment.epoch, moment.epochs)
        collects = options.pseudo_labels or options.similarity
        collects = collects and self.thresholds.collects(moment.epoch)
        self._smallest.see(cells, outputs.size)
        accepted = Cells.of_corners(*_no_boxes(outputs), outputs.size)
        pseudo, triplet = _zero(outputs), _zero(outputs)
        if labels or compares or collects:
            found = Candidates.find(
                self._teacher(batch, outputs),
                floor=self.thresholds.floor(moment.epoch),
                nms_iou=options.nms_iou,
                agnostic=options.agnostic_nms,
            )
            if collects:
                self.thresholds.collect(found, cells, region)
                found = found.select(found.confidence > self.thresholds.t0)
            judged = judge(
                found,
                region.patches,
                t0=self.thresholds.t0,
                t1=self.thresholds.t1,
                t2=options.t2,
                min_area=self._min_area,
            )
            log.count(**judged.counts)
            if labels:
                accepted = found.select(judged.accepted).cells(outputs.size.float())
            if len(accepted):
                pseudo = (
                    options.pseudo_gain
                    * pseudo_label_loss(
                        self._plain, outputs, accepted, region.inside, box_area=options.box_area
                    ).sum()
                )
            if compares:
                triplet, pairs = self._triplet(outputs, found.select(judged.similar), cells)
                log.count(triplet_pairs=pairs)
        if log.wants_picture(moment.iteration):
            size = outputs.size.float()
            log.picture(
                f"step-{moment.iteration:06d}",
                lambda: draw_batch(
                    batch["img"],
                    (region.patches.corners_px, region.patches.pictures),
                    (cells.corners_px(size), cells.pictures),
                    (accepted.corners_px(size), accepted.pictures),
                ),
            )
        return pseudo, triplet

    @property
    def _min_area(self) -> float:
        given = self._options.min_area_px
        return self._smallest.area_px if given is None else given

    @torch.no_grad()
    def _teacher(self, batch: dict[str, Any], outputs: AnchorOutputs) -> AnchorOutputs:
        if self._options.teacher == "self":
            return outputs
        return AnchorOutputs.read(self._plain, self._context.averaged()(batch["img"]))

    def _triplet(
        self, outputs: AnchorOutputs, undecided: Candidates, cells: Cells
    ) -> tuple[Tensor, int]:
        if not len(undecided) or not len(cells):
            return _zero(outputs), 0
        cells_px = cells.corners_px(outputs.size.float())
        stride = float(self._plain.stride[0])
        boxes = torch.cat([undecided.boxes_px, cells_px])
        pictures = torch.cat([undecided.pictures, cells.pictures])
        features = cell_features(outputs.finest, stride, boxes, pictures)
        loss, pairs = triplet_loss(
            features[: len(undecided)],
            undecided.class_ids,
            features[len(undecided) :],
            cells.class_ids.long(),
            same_cell(undecided, cells, cells_px),
            sign=self._options.sign,
        )
        return self._options.triplet_gain * loss, pairs


def _zero(outputs: AnchorOutputs) -> Tensor:
    """A zero that is part of the graph, whatever the outputs are."""
    return outputs.logits[..., :0].sum()


def _no_boxes(outputs: AnchorOutputs) -> tuple[Tensor, Tensor, Tensor]:
    device = outputs.logits.device
    empty = torch.zeros(0, device=device)
    return empty.reshape(0, 4), empty, torch.zeros(0, dtype=torch.long, device=device)


def build(context: StepContext, options: MethodOptions) -> SlaDetLoss:
    """The criterion.

    Raises:
        SettingsError: see ``SlaDetLoss``.
    """
    assert isinstance(options, Options)
    return SlaDetLoss(context, options)
