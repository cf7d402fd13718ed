"""The attribute head stage: what found cells look like, from the detector's feature maps.

Owns how its model is fed and what its logits mean. Does not own where cells are
(see ``stages``) nor the schema's words (see ``attributes``).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from edge_runtime.backends import InferenceBackend, Tensor, fits
from edge_runtime.bundle import AttributeHeadSpec, DetectorSpec
from edge_runtime.errors import BackendError
from edge_runtime.types import Float32Array, Int64Array

_REMEDY = "the bundle was put together wrongly, export it again"


class AttributeHead:
    """Judges the attributes of found cells. Safe to call from several threads."""

    def __init__(
        self, spec: AttributeHeadSpec, detector: DetectorSpec, backend: InferenceBackend
    ) -> None:
        """Checks that model, schema and detector fit each other.

        Args:
            spec: the bundle's attribute head.
            detector: the bundle's detector, whose feature maps it reads.
            backend: the loaded model.

        Raises:
            BackendError: tensor names or shapes differ from the manifest's, or the model has
                not one output for each of the schema's.
        """
        self._spec = spec
        self._backend = backend
        self._starts = np.cumsum((0, *spec.widths)).tolist()
        _check_tensors(spec, detector, backend)

    @property
    def spec(self) -> AttributeHeadSpec:
        """The manifest's part on it."""
        return self._spec

    def judge(
        self, feature_maps: Mapping[str, Tensor], boxes_xyxy: Float32Array
    ) -> tuple[Int64Array, Float32Array]:
        """Attributes of the cells of one look.

        Args:
            feature_maps: the detector's, by name; float32 ``(1, channels, h, w)``, here or on
                the device.
            boxes_xyxy: float32 ``(n, 4)``, pixels of the detector's input.

        Returns:
            Value indices by the schema, int64 ``(n, attributes)``, and their probabilities,
            float32 of the same shape.

        Raises:
            BackendError: the model fails, or answers with something that is no number.
        """
        spec = self._spec
        count = len(spec.attributes.attributes)
        if len(boxes_xyxy) == 0:
            return np.zeros((0, count), np.int64), np.zeros((0, count), np.float32)
        arrays: dict[str, Tensor] = {name: feature_maps[name] for name in spec.reads}
        arrays[spec.boxes] = np.ascontiguousarray(boxes_xyxy, np.float32)
        logits = self._backend.infer(arrays)[spec.output]
        expected = (len(boxes_xyxy), self._starts[-1])
        if logits.shape != expected or not np.isfinite(logits).all():
            raise BackendError(
                f"attribute head: it answers {logits.shape} with "
                f"{int((~np.isfinite(logits)).sum())} values that are no numbers, wanted "
                f"{expected}; {_REMEDY}, or try another --backend"
            )
        values = np.empty((len(logits), count), np.int64)
        shares = np.empty((len(logits), count), np.float32)
        for column, (start, end) in enumerate(
            zip(self._starts[:-1], self._starts[1:], strict=True)
        ):
            table = self._probabilities(logits[:, start:end].astype(np.float64))
            values[:, column] = table.argmax(axis=1)
            shares[:, column] = table.max(axis=1)
        return values, shares

    def _probabilities(self, logits: NDArray[np.float64]) -> Float32Array:
        """One attribute's values, ``(n, values)``, each row summing to 1."""
        if self._spec.outputs == "per_attribute":
            logs = np.concatenate([_log_sigmoid(-logits), _log_sigmoid(logits)], axis=1)
            return np.asarray(np.exp(logs), np.float32)
        # Through logarithms: the sigmoids of values that all are far from it are all zero.
        softmax = self._spec.activation == "softmax"
        logs = logits if softmax else _log_sigmoid(logits)
        powers = np.exp(logs - logs.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True), np.float32)


def _log_sigmoid(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(-np.logaddexp(0.0, -logits))


def _check_tensors(
    spec: AttributeHeadSpec, detector: DetectorSpec, backend: InferenceBackend
) -> None:
    inputs = {tensor.name: tensor.shape for tensor in backend.inputs}
    outputs = {tensor.name: tensor.shape for tensor in backend.outputs}
    expected: dict[str, tuple[int, ...]] = {
        each.name: (
            1,
            each.channels,
            detector.input.height // each.stride,
            detector.input.width // each.stride,
        )
        for each in detector.feature_maps
        if each.name in spec.reads
    }
    expected[spec.boxes] = (-1, 4)
    if set(inputs) != set(expected) or not all(
        fits(inputs[name], shape) for name, shape in expected.items()
    ):
        raise BackendError(
            f"attribute head: its model takes {inputs}, the manifest says {expected} "
            f"(-1 is any number of cells); {_REMEDY}"
        )
    width = sum(spec.widths)
    if not fits(outputs.get(spec.output), (-1, width)):
        raise BackendError(
            f"attribute head: its model gives {outputs}, attribute schema "
            f"{spec.attributes.name!r} wants {spec.output!r} {(-1, width)}: {width} outputs for "
            f"{len(spec.attributes.attributes)} attributes; {_REMEDY}"
        )
