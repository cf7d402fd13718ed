"""What a film's record keeps of a long film."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np

from edge_runtime.examiner import Examination
from edge_runtime.film_record import FilmRecord
from edge_runtime.types import CellFinding, Detections, FieldResult, JudgedAttribute
from tests.clinic_films import SETUP

CLASSES = ("neutrophil", "lymphocyte", "monocyte", "eosinophil", "basophil")


def field_of(index: int, *, repeat: bool) -> FieldResult:
    """Three finds, with everything that heads say of them."""
    cells = tuple(
        CellFinding(
            box_xyxy=(1.5 + row, 2.5, 60.25 + index, 70.125),
            score=0.9,
            class_name=CLASSES[row],
            crop_jpeg=b"",
            class_probabilities=dict.fromkeys(CLASSES, 0.2 + index * 1e-06),
            attributes={
                f"attribute {each}": JudgedAttribute("value", 0.5 + index * 1e-6)
                for each in range(11)
            },
            film_cell=row,
            film_xy=(10.0 + index, 20.0),
            counts=not repeat,
        )
        for row in range(3)
    )
    return FieldResult(index, f"field_{index}", 640, 480, cells, b"", 1.0, 5)


def grown(fields: int, *, repeat: bool) -> float:
    """Bytes that a record grows by with every find."""
    setup = replace(SETUP, attribute_head=None, attribute_schema=None, classifier=None)
    record = FilmRecord(setup)
    found = Detections(
        np.zeros((3, 4), np.float32), np.full(3, 0.9, np.float32), np.zeros(3, np.int64)
    )
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for index in range(fields):
            record.add(
                field_of(index, repeat=repeat),
                Examination(found, 5, None, {"detect": 0.1}),
                {"detect": 0.1},
            )
        return (tracemalloc.get_traced_memory()[0] - before) / (3 * fields)
    finally:
        tracemalloc.stop()


def test_a_repeat_costs_little() -> None:
    """A stage that rests shows the same cells ten times a second for minutes."""
    cell, repeat = grown(200, repeat=False), grown(200, repeat=True)
    assert repeat < 1500
    assert cell > 3 * repeat
