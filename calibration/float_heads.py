"""Float heads as training hands them to export: the graph and what it says of itself.

Owns these two records only. Does not own making them (see ``train.heads_to_onnx``) nor what
becomes of them (see ``export``); neither side has to import the other for their sake.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge_runtime.bundle import Artifact, AttributeHeadSpec, ClassifierSpec, FeatureMapSpec


@dataclass(frozen=True, slots=True)
class FloatClassifier:
    """A classifier in float32.

    Attributes:
        model: ONNX bytes; input ``spec.input.name`` ``(n, 3, height, width)``, output
            ``spec.output`` ``(n, classes)``.
        spec: temperature and the abstention limit are not chosen yet.
    """

    model: bytes
    spec: ClassifierSpec


@dataclass(frozen=True, slots=True)
class FloatAttributeHead:
    """An attribute head in float32.

    Attributes:
        model: ONNX bytes; inputs ``spec.reads`` and ``spec.boxes``, output ``spec.output``.
        spec: as the manifest will have it, but for the artifacts.
        feature_maps: what it reads, in the order of ``spec.reads``.
        layers: the detector's layers that put these maps out.
    """

    model: bytes
    spec: AttributeHeadSpec
    feature_maps: tuple[FeatureMapSpec, ...]
    layers: tuple[int, ...]


def float_artifact(head: str) -> Artifact:
    """How a float head is listed before it has int8 artifacts."""
    return Artifact(
        path=f"{head}.float32.onnx", runtime="cpu", precision="float32", quantisation="none"
    )
