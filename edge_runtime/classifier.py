"""The classifier stage: which class a found cell is of, from its crop.

Owns batching, what the model's logits mean, and when a cell stays unclassified. Does not
own how a crop is cut (see ``preprocess.crop_tensor``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_runtime.backends import InferenceBackend, fits
from edge_runtime.bundle import ClassifierSpec
from edge_runtime.errors import BackendError
from edge_runtime.preprocess import crop_tensor
from edge_runtime.types import Float32Array, Int64Array, UInt8Image

# Crops at once: a field full of cells must not need the memory of a film.
_BATCH = 16
_REMEDY = "the bundle was put together wrongly, export it again"


@dataclass(frozen=True, slots=True)
class CellClasses:
    """The classes of N cells.

    Attributes:
        class_ids: int64 ``(N,)``, the most probable class, an index into the classifier's.
        probabilities: float32 ``(N, classes)``, each row summing to 1.
        unclassified: bool ``(N,)``, cells whose best class is not probable enough.
    """

    class_ids: Int64Array
    probabilities: Float32Array
    unclassified: NDArray[np.bool_]


class Classifier:
    """Names found cells. Safe to call from several threads."""

    def __init__(self, spec: ClassifierSpec, backend: InferenceBackend) -> None:
        """Checks that model and manifest fit each other.

        Args:
            spec: the bundle's classifier.
            backend: the loaded model.

        Raises:
            BackendError: tensor names or shapes differ from the manifest's, or the model has
                not one output for each class.
        """
        self._spec = spec
        self._backend = backend
        _check_tensors(spec, backend)

    @property
    def spec(self) -> ClassifierSpec:
        """The manifest's part on it."""
        return self._spec

    def classify(self, pixels: UInt8Image, boxes_xyxy: Float32Array) -> CellClasses:
        """Classes of the cells of one frame.

        Args:
            pixels: the frame, RGB uint8 ``(H, W, 3)``.
            boxes_xyxy: float32 ``(n, 4)``, frame pixels.

        Raises:
            BackendError: the model fails, or answers with something that is no number.
        """
        spec = self._spec
        logits = np.zeros((len(boxes_xyxy), len(spec.classes)), np.float64)
        for start in range(0, len(boxes_xyxy), _BATCH):
            part = slice(start, start + _BATCH)
            crops = crop_tensor(pixels, boxes_xyxy[part], spec.input)
            answer = self._backend.infer({spec.input.name: crops})[spec.output]
            if answer.shape != logits[part].shape or not np.isfinite(answer).all():
                raise BackendError(
                    f"classifier: it answers {answer.shape} with "
                    f"{int((~np.isfinite(answer)).sum())} values that are no numbers, wanted "
                    f"{logits[part].shape}; {_REMEDY}, or try another --backend"
                )
            logits[part] = answer
        logits /= spec.temperature
        powers = np.exp(logits - logits.max(axis=1, initial=-np.inf, keepdims=True))
        probabilities = (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)
        # In the probabilities' own precision: a float32 0.6 is above a double 0.6.
        enough = np.float32(spec.abstain_below)
        return CellClasses(
            probabilities.argmax(axis=1).astype(np.int64),
            probabilities,
            probabilities.max(axis=1, initial=0.0) < enough,
        )


def _check_tensors(spec: ClassifierSpec, backend: InferenceBackend) -> None:
    inputs = {tensor.name: tensor.shape for tensor in backend.inputs}
    outputs = {tensor.name: tensor.shape for tensor in backend.outputs}
    expected = (-1, 3, spec.input.height, spec.input.width)
    if set(inputs) != {spec.input.name} or not fits(inputs[spec.input.name], expected):
        raise BackendError(
            f"classifier: its model takes {inputs}, the manifest says {spec.input.name!r} "
            f"{expected} (-1 is any number of cells); {_REMEDY}"
        )
    if not fits(outputs.get(spec.output), (-1, len(spec.classes))):
        raise BackendError(
            f"classifier: its model gives {outputs}, the manifest says {spec.output!r} "
            f"{(-1, len(spec.classes))}: one for each of its {len(spec.classes)} classes; {_REMEDY}"
        )
