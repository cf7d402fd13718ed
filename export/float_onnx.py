"""The one place where export reaches into train: a checkpoint becomes float ONNX.

Owns nothing but the seam, so that everything else here works without torch.
"""

from __future__ import annotations

from pathlib import Path

from edge_runtime.errors import LeukoscopeError


def float_onnx(checkpoint: Path, out: Path, image_size: int) -> Path:
    """Writes a checkpoint as float ONNX and returns ``out``.

    A checkpoint is a pickle: only give one of your own training runs.

    Args:
        checkpoint: ``best.pt`` of a training run.
        out: the ONNX file to write.
        image_size: side of the square input in pixels.

    Raises:
        DataError: no such checkpoint, or it is no detector.
        LeukoscopeError: the training side is not installed.
        StoreError: ``out`` cannot be written.
    """
    try:
        from train.to_onnx import export_float_onnx

        return export_float_onnx(checkpoint, out, image_size)
    except ModuleNotFoundError as error:
        raise LeukoscopeError(
            f"export of a checkpoint: {error.name} is not installed here; "
            "pip install 'leukoscope[train]'"
        ) from error
