"""What a calibration did, as a document: ranges, errors, costs, and what stayed in float.

Owns the document's form, putting it together from measurements and writing it beside its page.
Does not own any measurement (see ``histograms``, ``layer_error``, ``sensitivity``) nor the page's
markup (see ``report_page``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from calibration.dataset import CalibrationSet, Stratum
from calibration.histograms import TensorHistogram
from calibration.layer_error import clipped_share, rounding_sqnr
from calibration.ranges import METHODS, Method, Range, choose_range
from calibration.sensitivity import BlockCost
from edge_runtime.clinic.atomic_file import prepare_folder, replacing, utf8
from edge_runtime.film_report import RESEARCH_USE

REPORT_JSON = "calibration_report.json"
REPORT_HTML = "calibration.html"
# As many bars as a chart of a third of a screen shows apart.
SHOWN_BINS = 64


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class LayerState(_Part):
    """What became of one layer with weights.

    Attributes:
        name, kind: of its node.
        block: it belongs to; empty in the float tail.
        output: the tensor it makes.
        int8: whether weights and input are.
        why_float: the reason when it is not.
        sqnr_db: of its output, int8 against float; None when not measured.
    """

    name: str
    kind: str
    block: str
    output: str
    int8: bool
    why_float: str
    sqnr_db: float | None = None


class TensorReport(_Part):
    """One activation: what was seen and the range chosen.

    Attributes:
        low, high: extremes seen.
        counts: ``SHOWN_BINS`` equal parts of low to high.
        chosen: the range, low and high.
        by_method: what every method would have chosen.
        clipped: share of values outside the chosen range, 0..1.
        rounding_db: SQNR of rounding this activation alone, estimated; None for a constant.
        sqnr_db: measured, with the errors of all layers before; None when not measured.
    """

    name: str
    low: float
    high: float
    counts: tuple[int, ...]
    chosen: tuple[float, float]
    by_method: dict[str, tuple[float, float]]
    clipped: float
    rounding_db: float | None
    sqnr_db: float | None


class HeadReport(_Part):
    """One head's int8 graph for one runtime family.

    Attributes:
        runtime: cpu (unsigned activations) or tensorrt (symmetric).
        calibrated_on, judged_on: in words; ``judged_on`` empty without labels.
        figure: what the figures are, e.g. AP50-95.
        float_figures, int8_figures: per domain, 0..1.
        output_db: SQNR of each output.
        quantised_share: of the convolutions' work in int8, 0..1.
    """

    head: str
    runtime: str
    method: str
    calibrated_on: str
    judged_on: str
    figure: str
    float_size: int
    int8_size: int
    quantised_share: float
    float_figures: dict[str, float]
    int8_figures: dict[str, float]
    output_db: dict[str, float]
    tensors: tuple[TensorReport, ...]
    layers: tuple[LayerState, ...]
    blocks: tuple[BlockCost, ...]


class SetReport(_Part):
    """The pictures, without naming any."""

    digest: str
    images: int
    minimum: int
    domains: dict[str, int]
    cells_from: str | None
    strata: tuple[Stratum, ...]
    passed_over: dict[str, int]


class CalibrationReport(_Part):
    """All heads that were calibrated together."""

    schema_version: Literal[1] = 1
    research_use: str = RESEARCH_USE
    name: str
    date: str
    pictures: SetReport | None
    heads: tuple[HeadReport, ...]

    def to_json(self) -> str:
        """The document as text; the same for the same measurements."""
        return self.model_dump_json(indent=1) + "\n"


def set_report(drawn: CalibrationSet) -> SetReport:
    """What a report says of a calibration set."""
    return SetReport(
        digest=drawn.digest,
        images=len(drawn.images),
        minimum=drawn.minimum,
        domains=drawn.domains,
        cells_from=drawn.cells_from,
        strata=drawn.strata,
        passed_over=drawn.passed_over,
    )


def tensor_reports(
    histograms: Mapping[str, TensorHistogram],
    chosen: Mapping[str, Range],
    errors: Mapping[str, float],
    *,
    symmetric: bool,
    methods: Sequence[Method] = METHODS,
) -> tuple[TensorReport, ...]:
    """What was seen of each activation that has a range in the int8 graph.

    Args:
        histograms: of ``observe``.
        chosen: ranges that the int8 graph was made with.
        errors: measured SQNR by tensor, dB.
        symmetric: the graph is of the kind for TensorRT.
        methods: those to compare.
    """
    reports = []
    for name, seen in histograms.items():
        if name not in chosen:
            continue
        others = {method: choose_range(seen, method) for method in methods}
        reports.append(
            TensorReport(
                name=name,
                low=seen.low,
                high=seen.high,
                counts=_coarser(seen),
                chosen=(chosen[name].low, chosen[name].high),
                by_method={key: (found.low, found.high) for key, found in others.items()},
                clipped=clipped_share(seen, chosen[name]),
                rounding_db=rounding_sqnr(seen, chosen[name], symmetric=symmetric),
                sqnr_db=errors.get(name),
            )
        )
    return tuple(reports)


def write_report(report: CalibrationReport, folder: Path) -> tuple[Path, Path]:
    """Writes the document and its page, each whole or not at all.

    Returns:
        ``(calibration_report.json, calibration.html)``.

    Raises:
        StoreError: the folder cannot be written.
    """
    from calibration.report_page import calibration_page

    prepare_folder(folder, (REPORT_JSON, REPORT_HTML))
    written = []
    for name, text in ((REPORT_JSON, report.to_json()), (REPORT_HTML, calibration_page(report))):
        with replacing(folder / name) as file:
            file.write(utf8(text))
        written.append(folder / name)
    return written[0], written[1]


def _coarser(histogram: TensorHistogram) -> tuple[int, ...]:
    counts = histogram.counts.reshape(SHOWN_BINS, -1).sum(axis=1)
    return tuple(np.asarray(counts, np.int64).tolist())
