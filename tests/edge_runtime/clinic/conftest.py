"""Films small enough to read, with real JPEG bytes in them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import pytest

from edge_runtime.film_report import (
    BackendRecord,
    BundleRecord,
    CellRecord,
    FieldRecord,
    FilmReport,
    ModelCardSummary,
    StageTiming,
    TotalsRecord,
)
from edge_runtime.sinks import Sink
from edge_runtime.types import CellFinding, FieldResult, SkippedFrame


def jpeg(seed: int, side: int = 24) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (side, side, 3), np.uint8)
    done, data = cv2.imencode(".jpg", pixels)
    assert done
    return bytes(data.tobytes())


@dataclass
class Film:
    """What a runner would hand to its sinks."""

    results: list[FieldResult] = field(default_factory=list)
    skipped: list[SkippedFrame] = field(default_factory=list)
    changes: dict[str, Any] = field(default_factory=dict)

    def add(self, name: str, scores: Sequence[float] = (), class_name: str = "wbc") -> None:
        index = len(self.results) + len(self.skipped)
        cells = tuple(
            CellFinding(
                (10.0 + 50 * n, 20.0, 40.123456 + 50 * n, 60.5),
                score,
                class_name,
                jpeg(1000 * index + n),
            )
            for n, score in enumerate(scores)
        )
        self.results.append(
            FieldResult(index, name, 640, 480, cells, jpeg(index, 48), 0.5, 1, jpeg(index, 64))
        )

    def skip(self, name: str, reason: str) -> None:
        index = len(self.results) + len(self.skipped)
        self.skipped.append(SkippedFrame(index, name, reason))

    def report(self) -> FilmReport:
        fields = [
            FieldRecord(
                index=r.index,
                name=r.name,
                width=r.width,
                height=r.height,
                skipped=False,
                reason=None,
                cells=len(r.cells),
                tiles=r.tiles,
            )
            for r in self.results
        ] + [
            FieldRecord(
                index=s.index,
                name=s.name,
                width=None,
                height=None,
                skipped=True,
                reason=s.reason,
                cells=0,
                tiles=0,
            )
            for s in self.skipped
        ]
        cells = [
            CellRecord(field=r.index, box_xyxy=c.box_xyxy, score=c.score, class_name=c.class_name)
            for r in self.results
            for c in r.cells
        ]
        names = [cell.class_name for cell in cells]
        values: dict[str, Any] = {
            "state": "complete",
            "source": "films/slide 12",
            "started_at": "2026-07-25T14:03:11+02:00",
            "duration_s": 12.3456789,
            "leukoscope_version": "0.1.0",
            "bundle": BundleRecord(id="wbc-test-1.0.0", sha256="ab" * 32),
            "backend": BackendRecord(
                name="onnxruntime",
                version="1.23.2",
                device="CPUExecutionProvider",
                precision="int8",
                artifact="detector.int8.onnx",
                threads=2,
            ),
            "model_card": ModelCardSummary(
                title="White cell detector",
                summary="Finds white cells.",
                limits=["Has never seen leukemia."],
                licence="AGPL-3.0",
                metrics={"bccd": {"AP50": 0.979, "AR": 0.83}, "hcm_pbc": {"AP50": 0.991}},
            ),
            "settings": {"detector": {"score_threshold": 0.3}, "backend": "auto"},
            "fields": sorted(fields, key=lambda record: record.index),
            "cells": cells,
            "totals": TotalsRecord(
                fields=len(self.results),
                fields_skipped=len(self.skipped),
                cells=len(cells),
                cells_by_class={name: names.count(name) for name in names},
            ),
            "timings": [
                StageTiming(
                    stage="detect",
                    count=len(self.results),
                    p50_ms=38.61234,
                    p95_ms=50.2,
                    p99_ms=65.6,
                )
            ],
        }
        return FilmReport(**(values | self.changes))

    def through(self, sink: Sink) -> None:
        sink.start()
        items: list[FieldResult | SkippedFrame] = [*self.results, *self.skipped]
        for item in sorted(items, key=lambda item: item.index):
            if isinstance(item, SkippedFrame):
                sink.skip(item)
            else:
                sink.append(item)
        sink.finish(self.report())


@pytest.fixture
def make_film() -> Callable[[], Film]:
    return Film


@pytest.fixture
def film() -> Film:
    """Three fields with 2, 0 and 1 cells, and one that could not be read."""
    film = Film()
    film.add("a.jpg", [0.91, 0.55])
    film.add("b.jpg")
    film.skip("broken.jpg", "truncated JPEG")
    film.add("c.jpg", [0.987654321])
    return film
