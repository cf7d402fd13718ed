"""The one place where export reaches into train: a checkpoint becomes float ONNX.

Owns nothing but the seam, so that everything else here works without torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from calibration.float_heads import FloatAttributeHead, FloatClassifier
from edge_runtime.errors import LeukoscopeError
from export.trained_scales import TrainedScales, trained_scales


def float_onnx(
    checkpoint: Path,
    out: Path,
    image_size: int,
    *,
    feature_layers: Sequence[int] = (),
    one_to_one: bool | None = None,
) -> Path:
    """Writes a detector's checkpoint as float ONNX and returns ``out``.

    A checkpoint is a pickle: only give one of your own training runs.

    Args:
        checkpoint: ``best.pt`` of a training run.
        out: the ONNX file to write.
        image_size: side of the square input in pixels.
        feature_layers: layers whose outputs become outputs of the graph too.
        one_to_one: of a network with both heads, the one that names every cell once (True)
            or the one whose doubles are suppressed (False); None: the first if it has it.

    Raises:
        DataError: no such checkpoint, it is no detector, or has no one-to-one head.
        LeukoscopeError: the training side is not installed.
        StoreError: ``out`` cannot be written.
    """
    with _training_side():
        from train.to_onnx import export_float_onnx

        return export_float_onnx(
            checkpoint,
            out,
            image_size,
            feature_layers=feature_layers,
            one_to_one=one_to_one,
        )


def trained_quantisation(
    checkpoint: Path, float_model: bytes, image_size: int, *, one_to_one: bool | None = None
) -> TrainedScales | None:
    """The int8 scales a checkpoint was trained with; None where training knew nothing of int8.

    Args:
        checkpoint: ``best.pt`` of a training run.
        float_model: out of ``float_onnx`` for the same checkpoint, size and head.
        image_size: side of the square input in pixels.
        one_to_one: which head, as in ``float_onnx``.

    Raises:
        DataError: no such checkpoint, or its scales do not fit the float model.
        LeukoscopeError: the training side is not installed.
        SettingsError: what quantisation-aware training needs is not installed.
    """
    with _training_side():
        from train.to_onnx import export_rounded_onnx

        rounded = export_rounded_onnx(checkpoint, image_size, one_to_one=one_to_one)
    return None if rounded is None else trained_scales(rounded, float_model)


def float_classifier(checkpoint: Path) -> FloatClassifier:
    """The classifier of a training run's ``classifier.pt``.

    Raises:
        DataError: missing, of another kind, or its parts do not fit each other.
        LeukoscopeError: the training side is not installed.
        SettingsError: an unknown architecture.
    """
    with _training_side():
        from train.to_onnx import export_classifier

        return export_classifier(checkpoint)


def float_attribute_head(checkpoint: Path, detector: Path, image_size: int) -> FloatAttributeHead:
    """The attribute head of a training run's ``attribute_head.pt``.

    Args:
        checkpoint: the head's.
        detector: checkpoint of the detector whose maps it reads.
        image_size: side of that detector's input in pixels.

    Raises:
        DataError: missing, of another kind, trained on another detector, or its parts do
            not fit each other.
        LeukoscopeError: the training side is not installed.
        SettingsError: outputs that the attributes do not allow.
    """
    with _training_side():
        from train.to_onnx import export_attribute_head

        return export_attribute_head(checkpoint, detector, image_size)


@contextmanager
def _training_side() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        raise LeukoscopeError(
            f"export of a checkpoint: {error.name} is not installed here; "
            "pip install 'leukoscope[train]'"
        ) from error
