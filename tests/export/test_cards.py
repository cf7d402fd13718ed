"""The card file is read strictly; page and manifest say the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from calibration.accuracy import DetectionMetrics
from edge_runtime.bundle import Artifact, CalibrationSummary, ModelCard
from edge_runtime.errors import DataError
from export.bundle_writer import detector_spec
from export.cards import CardText, load_card, model_card, render_card, reworded

FIGURES = DetectionMetrics(
    images=50,
    cells=52,
    ap=0.81234,
    ap50=0.98765,
    ar=0.85,
    recall=1.0,
    precision=0.9,
    false_cells=6,
)


def test_page_shows_what_the_manifest_holds(card_file: Path) -> None:
    card = model_card(load_card(card_file), {"one": FIGURES}, metrics_of="the cpu artifact")
    assert card.metrics["one"]["AP50-95"] == 0.8123
    artifact = Artifact(path="a.onnx", runtime="cpu", precision="int8", quantisation="Q/DQ")
    page = render_card(
        card,
        detector_spec(architecture="toy", image_size=64, artifacts=[artifact]),
        CalibrationSummary(digest="abc", images=7, domains={"one": 7}, method="minmax"),
        bundle_id="squares-1.2.3",
    )
    assert "For research use only. Not for use in diagnostic procedures." in page
    assert "| one | 50 | 52 | 0.812 | 0.988 | 0.850 | 1.000 | 0.900 |" in page
    assert "Finds squares. Nothing else." in page
    for said in ("Squares are no cells.", "drawn squares", "squares-1.2.3", "`abc`", "one 7"):
        assert said in page


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (("title: Squares", "titel: Squares"), "title: Field required"),
        (("limits: [Squares are no cells.]", "limits: []"), "limits"),
        (("title: Squares", "title: [oops"), "not YAML"),
    ],
)
def test_a_card_that_says_too_little_is_refused(
    card_file: Path, change: tuple[str, str], match: str
) -> None:
    card_file.write_text(card_file.read_text().replace(*change))
    with pytest.raises(DataError, match=match):
        load_card(card_file)


def test_a_missing_card_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="give --card"):
        load_card(tmp_path / "none.yaml")


def test_the_shipped_card_says_what_it_must(repository: Path) -> None:
    card = load_card(repository / "train" / "model_cards" / "wbc-detector.yaml")
    limits = " ".join(card.limits)
    assert "For research use only. Not for use in diagnostic procedures." in limits
    assert "never seen a film of a patient known to have leukaemia" in limits
    data = " ".join(card.training_data)
    for source in ("hcm_pbc", "lcm_raabin", "bccd", "pbc-extra", "wbc-masks", "virtual films"):
        assert source in data
    assert "GPL-3.0" in data
    assert card.licence.startswith("AGPL-3.0")


@pytest.mark.parametrize(
    ("name", "limits"),
    [
        ("wbc-classifier", ("never seen a blast", "one laboratory (Barcelona)", "no patients")),
        (
            "wbc-attributes",
            (
                "Immature granulocytes and erythroblasts have no attribute labels",
                "one laboratory (Barcelona)",
                "no patients",
            ),
        ),
    ],
)
def test_the_heads_cards_say_what_they_must(
    repository: Path, name: str, limits: tuple[str, ...]
) -> None:
    card = load_card(repository / "train" / "model_cards" / f"{name}.yaml")
    said = " ".join(" ".join(card.limits).split())
    for limit in ("For research use only. Not for use in diagnostic procedures.", *limits):
        assert limit in said
    assert "CellaVision" in " ".join(card.training_data)


def test_a_card_said_anew_keeps_its_figures() -> None:
    card = ModelCard(
        title="old",
        summary="old",
        limits=("old",),
        licence="MIT",
        training_data=("old",),
        metrics={"field": {"AP": 0.5}},
        metrics_of="an artifact",
    )
    text = CardText(
        title="new", summary="new", limits=("a", "b"), licence="MIT", training_data=("none",)
    )
    anew = reworded(card, text)
    assert (anew.title, anew.limits, anew.training_data) == ("new", ("a", "b"), ("none",))
    assert (anew.metrics, anew.metrics_of) == (card.metrics, card.metrics_of)
