"""Bundles are the same to the byte, verify, and never harm what lies at their place."""

from __future__ import annotations

import dataclasses
import os
import time
import zipfile
from pathlib import Path

import pytest

from edge_runtime.bundle import Artifact, CalibrationSummary, ModelCard, open_bundle
from edge_runtime.errors import BundleError, StoreError
from export.bundle_writer import BundleDraft, detector_spec, write_bundle, write_float_bundle

ARTIFACT = Artifact(path="a/model.onnx", runtime="cpu", precision="int8", quantisation="none")


@pytest.fixture
def draft() -> BundleDraft:
    return BundleDraft(
        name="squares",
        version="1.2.3",
        detector=detector_spec(architecture="toy", image_size=64, artifacts=[ARTIFACT]),
        calibration=CalibrationSummary(digest="d", images=1, domains={"a": 1}, method="minmax"),
        model_card=ModelCard(
            title="t",
            summary="s",
            limits=("l",),
            licence="l",
            training_data=("d",),
            metrics={"a": {"AP50": 0.9}},
            metrics_of="m",
        ),
        contents={"model_card.md": b"card", ARTIFACT.path: b"model"},
    )


@pytest.mark.parametrize("name", ["bundle", "bundle.zip"])
def test_written_bundle_opens_with_what_was_given(
    draft: BundleDraft, tmp_path: Path, name: str
) -> None:
    written = write_bundle(draft, tmp_path / "new" / name)
    opened = open_bundle(tmp_path / "new" / name)
    assert opened == written
    assert opened.contents == draft.contents
    assert opened.id == "squares-1.2.3"
    assert opened.manifest.detector == draft.detector
    assert "research use only" in opened.manifest.research_use
    assert os.listdir(tmp_path / "new") == [name], "nothing is left beside it"


def test_file_and_folder_are_the_same_bundle(draft: BundleDraft, tmp_path: Path) -> None:
    folder = write_bundle(draft, tmp_path / "b")
    file = write_bundle(draft, tmp_path / "b.zip")
    assert folder.sha256 == file.sha256


def test_same_content_same_bytes_at_any_time_in_any_order(
    draft: BundleDraft, tmp_path: Path
) -> None:
    turned = dataclasses.replace(draft, contents=dict(reversed(list(draft.contents.items()))))
    write_bundle(draft, tmp_path / "1.zip")
    time.sleep(2.1)  # zip dates have a grain of two seconds
    write_bundle(turned, tmp_path / "2.zip")
    assert (tmp_path / "1.zip").read_bytes() == (tmp_path / "2.zip").read_bytes()


@pytest.mark.parametrize("name", ["bundle", "bundle.zip"])
def test_an_earlier_bundle_is_replaced(draft: BundleDraft, tmp_path: Path, name: str) -> None:
    write_bundle(draft, tmp_path / name)
    newer = dataclasses.replace(draft, version="2.0.0", contents={ARTIFACT.path: b"better"})
    assert write_bundle(newer, tmp_path / name).id == "squares-2.0.0"
    assert open_bundle(tmp_path / name).contents == {ARTIFACT.path: b"better"}
    assert os.listdir(tmp_path) == [name]


def test_somebodys_files_are_not_replaced(draft: BundleDraft, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"cat")
    with pytest.raises(StoreError, match="holds no bundle"):
        write_bundle(draft, tmp_path / "photos")
    (tmp_path / "notes.zip").write_bytes(b"notes")
    with pytest.raises(StoreError, match="is no bundle file"):
        write_bundle(draft, tmp_path / "notes.zip")
    assert (tmp_path / "photos" / "cat.jpg").read_bytes() == b"cat"
    assert (tmp_path / "notes.zip").read_bytes() == b"notes"


@pytest.mark.parametrize("name", ["page", "page.zip"])
def test_a_web_page_with_a_manifest_is_no_bundle(
    draft: BundleDraft, tmp_path: Path, name: str
) -> None:
    files = {"manifest.json": b'{"name": "my page", "files": []}', "index.html": b"<p>mine"}
    if name.endswith(".zip"):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for path, content in files.items():
                archive.writestr(path, content)
    else:
        (tmp_path / name).mkdir()
        for path, content in files.items():
            (tmp_path / name / path).write_bytes(content)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(StoreError, match="exists and"):
        write_bundle(draft, tmp_path / name)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_bundle_with_something_beside_it_is_not_replaced(
    draft: BundleDraft, tmp_path: Path
) -> None:
    write_bundle(draft, tmp_path / "bundle")
    (tmp_path / "bundle" / "thesis.docx").write_bytes(b"years")
    with pytest.raises(StoreError, match="exists and"):
        write_bundle(draft, tmp_path / "bundle")
    assert (tmp_path / "bundle" / "thesis.docx").read_bytes() == b"years"


def test_an_empty_folder_is_filled(draft: BundleDraft, tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    assert write_bundle(draft, tmp_path / "bundle").id == "squares-1.2.3"


def test_too_large_is_refused_and_nothing_written(draft: BundleDraft, tmp_path: Path) -> None:
    large = dataclasses.replace(draft, contents={ARTIFACT.path: bytes(2000)})
    with pytest.raises(BundleError, match=r"at most 0\.001 MB"):
        write_bundle(large, tmp_path / "bundle", largest_bytes=1000)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"name": "White Cells"}, "name"),
        ({"version": "1"}, "version"),
        ({"contents": {"other.onnx": b""}}, "is not among the manifest's files"),
        ({"contents": {ARTIFACT.path: b"", "../out": b""}}, "no file can be called"),
        ({"contents": {ARTIFACT.path: b"", "manifest.json": b""}}, "no file can be called"),
    ],
)
def test_what_would_not_verify_is_not_written(
    draft: BundleDraft, tmp_path: Path, change: dict[str, object], match: str
) -> None:
    broken = dataclasses.replace(draft, **change)  # type: ignore[arg-type]
    place = tmp_path / "deep"
    place.mkdir()
    with pytest.raises(BundleError, match=match):
        write_bundle(broken, place / "bundle")
    assert os.listdir(place) == []
    assert os.listdir(tmp_path) == ["deep"]


def test_a_place_that_cannot_be_written_is_one_clear_error(
    draft: BundleDraft, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="choose another folder"):
        write_bundle(draft, tmp_path / "file" / "bundle")


def test_float_bundle_for_comparisons(float_model: bytes, tmp_path: Path) -> None:
    (tmp_path / "float.onnx").write_bytes(float_model)
    out = write_float_bundle(tmp_path / "float.onnx", tmp_path / "bundle", image_size=64)
    artifact = open_bundle(out).artifact_for("cpu")
    assert artifact.precision == "float32"
    assert open_bundle(out).contents[artifact.path] == float_model
    with pytest.raises(StoreError, match="export the float model first"):
        write_float_bundle(tmp_path / "none.onnx", tmp_path / "other", image_size=64)
