"""Counts of blasts on a classifier's card: what the stop rule on a device reads."""

from __future__ import annotations

import numpy as np

from edge_runtime.bundle import Artifact, ClassifierSpec, CropInputSpec
from edge_runtime.film.confusion import BlastConfusion, confusion_of_card
from export.head_cards import class_figures
from export.head_evaluation import ClassAnswers

CLASSES = ("neutrophil", "myeloblast", "lymphoblast", "erythroblast")


def spec(blasts: tuple[str, ...]) -> ClassifierSpec:
    return ClassifierSpec(
        architecture="toy",
        classes=CLASSES,
        input=CropInputSpec(
            name="crops",
            width=8,
            height=8,
            layout="NCHW",
            colour="RGB",
            scale=1 / 255,
            pad_value=114,
            margin=0.1,
        ),
        output="logits",
        abstain_below=0.6,
        outside_differential=("erythroblast",),
        blasts=blasts,
        artifacts=(
            Artifact(path="classifier.onnx", runtime="cpu", precision="int8", quantisation="Q/DQ"),
        ),
    )


def answers() -> ClassAnswers:
    # Truth, what is said, how surely.
    rows = [
        ("myeloblast", "myeloblast", 0.9),
        ("myeloblast", "lymphoblast", 0.9),  # another kind of blast is a blast
        ("lymphoblast", "lymphoblast", 0.5),  # not sure enough: not named one
        ("lymphoblast", "neutrophil", 0.9),
        ("neutrophil", "neutrophil", 0.9),
        ("neutrophil", "myeloblast", 0.9),  # a false blast
        ("neutrophil", "myeloblast", 0.5),
        ("erythroblast", "myeloblast", 0.9),  # no white cell of the differential
    ]
    said = np.full((len(rows), len(CLASSES)), 0.0, np.float32)
    for row, (_, best, sure) in enumerate(rows):
        said[row] = (1 - sure) / 3
        said[row, CLASSES.index(best)] = sure
    truth = np.array([CLASSES.index(name) for name, _, _ in rows], np.int64)
    return ClassAnswers(np.full(len(rows), "site"), truth, {"int8": said})


def test_the_card_counts_blasts_as_the_device_would() -> None:
    figures = class_figures(spec(("myeloblast", "lymphoblast")), answers(), "int8")
    assert confusion_of_card(figures) == BlastConfusion(
        blasts=4, blasts_named=2, others=3, others_named=1
    )


def test_a_classifier_without_blasts_has_no_such_counts() -> None:
    assert confusion_of_card(class_figures(spec(()), answers(), "int8")) is None
