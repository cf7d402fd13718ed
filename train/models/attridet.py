"""AttriDet: a detector and an attribute head trained together, in one backward pass.

Owns the joint network, its loss and the trainer. Does not own the head and its pooling (see
``attribute_head``), the attribute loss (see ``losses``) nor the loop, EMA, AMP and
multi-GPU, which are ultralytics'.

One loss, one backward pass, one optimiser: with two backward passes under AMP, of which
only the detector's is scaled, the attributes' share of the backbone's gradient would be
divided by the loss scale, 65,536 at first, and joint training would be joint in name only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils import RANK
from ultralytics.utils.ops import xywh2xyxy

from edge_runtime.attributes import MISSING, AttributeSchema
from edge_runtime.errors import SettingsError
from train.attribute_files import DATA_KEY
from train.attributed_dataset import AttributedDataset
from train.dataset_arguments import dataset_arguments
from train.losses import AsymmetricLoss
from train.models.attribute_head import (
    AttriHead,
    FeatureTap,
    HeadOutputs,
    Tap,
    describe_taps,
    logit_widths,
    pool_cells,
    tapped_layers,
)

# Where the tapped maps travel among the detector's own outputs.
_MAPS = "attribute_maps"


class AttriDetSettings(BaseModel):
    """What AttriDet adds to a training run; the section ``attridet`` of the data YAML.

    There and not among ultralytics' arguments, because those refuse unknown names, and
    because the data YAML is what every process of a multi-GPU run reads anew.

    Attributes:
        attributes: schema of the sidecars.
        weight: of the attribute loss beside the detector's.
        dropout: of the head; the paper's 0.2, the authors' code has 0.5.
        outputs: logits per value or, for binary attributes, one per attribute.
        layers: tapped layers; None takes those of the detector's family.
        fresh_head: draw the head anew although the starting checkpoint has one, as the
            authors do in their second phase. Resuming a run never does.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    attributes: AttributeSchema
    weight: float = Field(default=1.0, ge=0)
    dropout: float = Field(default=0.2, ge=0, lt=1)
    outputs: HeadOutputs = "per_value"
    layers: tuple[int, ...] | None = Field(default=None, min_length=1)
    fresh_head: bool = False

    @classmethod
    def from_data(cls, data: dict[str, Any]) -> AttriDetSettings:
        """The settings in a data YAML that ultralytics has read.

        Raises:
            SettingsError: no such section, or a bad one.
        """
        where = data.get("yaml_file", "data YAML")
        if DATA_KEY not in data:
            raise SettingsError(f"{where}: no section {DATA_KEY!r} with the attributes")
        try:
            return cls.model_validate(data[DATA_KEY])
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in (DATA_KEY, *first["loc"]))
            raise SettingsError(f"{where}: {key}: {first['msg']}") from error


class AttriDetModel(DetectionModel):
    """An ultralytics detector with an attribute head on two of its early layers.

    As a detector it answers as before. Its outputs in training carry the tapped maps along,
    so that nothing is kept between forward pass and loss.

    Args:
        cfg: ultralytics model file or document.
        settings: attributes and head.
        ch: channels of the input.
        nc: detector classes; None takes the model file's.
        verbose: print the model's layers.

    Raises:
        SettingsError: a detector family without known layers, none given, or attributes
            that do not fit the head's kind of outputs.
    """

    # Read by `_predict_once`, which the base class's constructor calls already.
    taps: tuple[Tap, ...] = ()

    def __init__(
        self,
        cfg: str | dict[str, Any],
        settings: AttriDetSettings,
        *,
        ch: int = 3,
        nc: int | None = None,
        verbose: bool = False,
    ) -> None:
        super().__init__(cfg, ch=ch, nc=nc, verbose=verbose)
        self.schema = settings.attributes
        self.widths = logit_widths(settings.attributes, settings.outputs)
        self.attribute_weight = settings.weight
        self.attribute_criterion = AsymmetricLoss()
        # ultralytics keeps the model file's name in the document it read.
        document: Any = self.yaml
        layers = settings.layers or tapped_layers(str(document.get("yaml_file", "")))
        taps = describe_taps(self, layers)
        self.attribute_head = AttriHead(
            sum(tap.channels for tap in taps), sum(self.widths), settings.dropout
        )
        self.taps = taps

    def _predict_once(self, x: Tensor, profile: bool = False, embed: Any = None) -> Any:
        if not self.taps or embed:
            return super()._predict_once(x, profile, embed)
        with FeatureTap(self._layers(), [tap.layer for tap in self.taps]) as tap:
            answer = super()._predict_once(x, profile, embed)
        outputs = answer[1] if isinstance(answer, tuple) else answer
        # An exporting head answers with one tensor; nobody takes a loss of that.
        if isinstance(outputs, dict):
            outputs[_MAPS] = tap.maps
        return answer

    def attribute_logits(
        self, maps: Sequence[Tensor], boxes_xyxy: Tensor, picture_index: Tensor
    ) -> Tensor:
        """Attribute logits ``(n, sum(widths))`` of boxes.

        Args:
            maps: of the tapped layers, as in a forward pass's outputs.
            boxes_xyxy: float ``(n, 4)``, pixels of the network's input.
            picture_index: ``(n,)``, the picture of the batch each box lies in.
        """
        strides = [tap.stride for tap in self.taps]
        logits: Tensor = self.attribute_head(pool_cells(maps, strides, boxes_xyxy, picture_index))
        return logits

    def attribute_loss(self, maps: Sequence[Tensor], batch: dict[str, Any]) -> Tensor:
        """The unweighted attribute loss on labelled boxes, a scalar.

        Boxes without any known attribute are left out before pooling: they would cost time
        and change nothing.
        """
        device = maps[0].device
        values = batch["attributes"].to(device)
        judged = (values != MISSING).any(dim=1)
        height, width = batch["img"].shape[2:]
        pixels = torch.tensor([width, height, width, height], device=device)
        boxes = xywh2xyxy(batch["bboxes"].to(device)[judged].float()) * pixels
        pictures = batch["batch_idx"].to(device)[judged]
        logits = self.attribute_logits(maps, boxes, pictures)
        return self.attribute_criterion(logits, values[judged], self.widths)

    def loss(self, batch: dict[str, Any], preds: Any = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Detector and attribute losses, to be summed by the caller as ultralytics does.

        Args:
            batch: of an ``AttributedDataset``, preprocessed.
            preds: outputs of a forward pass on ``batch["img"]``; None makes one.

        Returns:
            The losses times the batch size, shape ``(4,)``, and the detached values by
            name without that factor. The attribute loss is multiplied by the batch size
            because ultralytics returns its own like that.
        """
        preds = self.forward(batch["img"]) if preds is None else preds
        losses, items = super().loss(batch, preds)
        outputs = preds[1] if isinstance(preds, tuple) else preds
        attribute = self.attribute_weight * self.attribute_loss(outputs[_MAPS], batch)
        total = torch.cat([losses, (attribute * len(batch["img"])).reshape(1)])
        return total, {**items, "attr_loss": attribute.detach()}

    def _layers(self) -> nn.Sequential:
        layers: Any = self.model
        found: nn.Sequential = layers
        return found


class AttriDetTrainer(DetectionTrainer):
    """Ultralytics' detection trainer on fields with attributes.

    The data YAML carries a section ``attridet`` (see ``AttriDetSettings``). Give the
    optimiser by name: ultralytics' ``auto`` ignores the learning rate. Phase two of the
    paper is a second run with ``pretrained`` set to the first one's last checkpoint and
    ``fresh_head: true``.
    """

    def get_model(
        self, cfg: Any = None, weights: Any = None, verbose: bool = True
    ) -> AttriDetModel:
        """The joint network, with a checkpoint's weights where they fit.

        Raises:
            SettingsError: the checkpoint's head is for other attributes.
        """
        settings = AttriDetSettings.from_data(self.data)
        model: AttriDetModel = self.set_model_names_for_load(
            AttriDetModel(
                cfg,
                settings,
                ch=self.data["channels"],
                nc=self.data["nc"],
                verbose=verbose and RANK == -1,
            )
        )
        if not weights:
            return model
        fresh = settings.fresh_head and not self.resume
        theirs = weights if isinstance(weights, AttriDetModel) else None
        if theirs and not fresh and (theirs.schema, theirs.widths) != (model.schema, model.widths):
            raise SettingsError(
                f"checkpoint's attribute head is for schema {theirs.schema.name!r} with outputs "
                f"{theirs.widths}, the data has {model.schema.name!r} with {model.widths}; "
                "set fresh_head: true"
            )
        model.load(weights)
        if fresh:
            model.attribute_head.reset_parameters()
        return model

    def build_dataset(
        self, img_path: str, mode: str = "train", batch: int | None = None
    ) -> AttributedDataset:
        """Fields with attributes, for training with augmentations, for validation without."""
        return AttributedDataset(
            schema=AttriDetSettings.from_data(self.data).attributes,
            **dataset_arguments(self, img_path, mode, batch),
        )
