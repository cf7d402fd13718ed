"""From folders of fields to a bundle that says which films it holds for, and a film with it."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from typer.testing import CliRunner

from calibration.domain_fields import FolderDomain, VirtualDomains
from calibration.domain_statistics import find_borders, fit_statistics
from edge_runtime import cli
from edge_runtime.backends import BACKENDS, backend_row
from edge_runtime.bundle import open_bundle
from edge_runtime.errors import BackendError, DataError, SettingsError
from edge_runtime.film_report import film_json_schema
from edge_runtime.types import UInt8Image
from edge_runtime.virtual_film import FilmSpec
from export.bundle_writer import draft_of, write_bundle
from export.cli import app
from export.domain_export import STATISTICS_NAME, fit_domain, with_domain
from export.domain_sources import domain_sources
from tests.support import MODEL_NAME, manifest_of, paint_field, toy_detector, write_image
from tests.support import write_bundle as write_files

pytest.importorskip("onnx")


def field(seed: int, *, tinted: float = 0.0) -> UInt8Image:
    """Two to four cells among red cells, on a film that is a little lighter or darker."""
    rng = np.random.default_rng(seed)

    def discs(count: int, low: float, high: float) -> list[tuple[float, float, float]]:
        return [
            (rng.uniform(20, 140), rng.uniform(20, 100), rng.uniform(low, high))
            for _ in range(count)
        ]

    pixels = paint_field(
        160, 120, discs(int(rng.integers(2, 5)), 18, 30), red_cells=discs(12, 10, 16), seed=seed
    ).astype(np.float64)
    light = rng.uniform(0.95, 1.02)
    gains = light * np.array([1 + tinted, 1.0, 1 - tinted])
    return np.asarray(np.clip(pixels * gains, 0, 255), np.uint8)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two laboratories with unlike light."""
    root = tmp_path_factory.mktemp("data")
    for name, tinted, first in (("north", 0.0, 0), ("south", -0.1, 500)):
        for split, count, seeds in (("train", 24, 0), ("val", 12, 100)):
            folder = root / name / "images" / split
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = field(first + seeds + index, tinted=tinted)
                write_image(folder / f"{index:03d}.png", pixels)
    return root


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy bundle with feature maps and without statistics."""
    files = {MODEL_NAME: toy_detector(maps=[("early", 4), ("later", 8)])}
    document = manifest_of(files)
    document["detector"]["feature_maps"] = [
        {"name": "early", "channels": 3, "stride": 4},
        {"name": "later", "channels": 3, "stride": 8},
    ]
    return write_files(tmp_path_factory.mktemp("bare") / "bundle", files, document)


@pytest.fixture(scope="module")
def assessed(bare: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with statistics of both laboratories, through the command."""
    out = tmp_path_factory.mktemp("assessed") / "bundle"
    flags = ["--domain", "north=north", "--domain", "south=south", "--data", str(data)]
    done = CliRunner().invoke(
        app,
        ["add-domain", "--bundle", str(bare), "--out", str(out), "--version", "0.2.0", *flags],
    )
    assert done.exit_code == 0, (done.output, done.exception)
    return out


def sources(data: Path) -> list[FolderDomain]:
    return [FolderDomain(name, data / name) for name in ("north", "south")]


def test_the_models_keep_every_byte_and_the_rest_is_told(bare: Path, assessed: Path) -> None:
    before, after = open_bundle(bare), open_bundle(assessed)
    assert after.id == "toy-discs-0.2.0"
    assert after.contents[MODEL_NAME] == before.contents[MODEL_NAME]
    assert after.manifest.detector == before.manifest.detector
    spec = after.manifest.domain
    assert spec is not None
    assert spec.reads == ("later",)
    assert [each.name for each in spec.domains] == ["north", "south"]
    assert [each.training_fields for each in spec.domains] == [24, 24]
    assert [each.validation_fields for each in spec.domains] == [12, 12]
    assert spec.borders_hold_for == (MODEL_NAME,)
    page = after.contents["model_card.md"].decode()
    assert "## Which films these figures hold for" in page
    assert "| south | 24 | 12 |" in page


def test_the_same_fields_give_the_same_bundle(assessed: Path, bare: Path, data: Path) -> None:
    again = with_domain(draft_of(open_bundle(bare)), sources(data))
    assert again.contents[STATISTICS_NAME] == open_bundle(assessed).contents[STATISTICS_NAME]
    assert again.domain == open_bundle(assessed).manifest.domain


def test_statistics_take_the_place_of_older_ones(
    assessed: Path, data: Path, tmp_path: Path
) -> None:
    draft = with_domain(
        draft_of(open_bundle(assessed)), sources(data)[:1], reads=["early", "later"]
    )
    made = write_bundle(draft, tmp_path / "bundle.zip")
    spec = made.manifest.domain
    assert spec is not None
    assert [each.name for each in spec.domains] == ["north"]
    assert len(made.contents[STATISTICS_NAME]) == 4 * (12 + 12 + 78)


@pytest.fixture
def film(tmp_path: Path) -> Callable[[float], Path]:
    """A folder of five fields nobody fitted anything on."""

    def make(tinted: float) -> Path:
        folder = tmp_path / f"film_{tinted}"
        folder.mkdir()
        for index in range(5):
            write_image(folder / f"{index}.png", field(900 + index, tinted=tinted))
        return folder

    return make


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., tuple[str, dict[str, Any], str]]:
    """``leukoscope run``: what it prints, film.json, report.html."""

    def call(bundle: Path, source: Path, *flags: str) -> tuple[str, dict[str, Any], str]:
        out = tmp_path / f"out_{source.name}"
        arguments = ["run", "--source", str(source), "--out", str(out), "--bundle", str(bundle)]
        monkeypatch.setattr(sys, "argv", ["leukoscope", *arguments, "--threads", "1", *flags])
        for name in ("OPENCV_LOG_LEVEL", "OPENCV_FFMPEG_LOGLEVEL", "OPENBLAS_NUM_THREADS"):
            # Set and unset, so that what the command sets is taken back after the test.
            monkeypatch.setenv(name, "")
            monkeypatch.delenv(name)
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert not end.value.code
        document = json.loads((out / "film.json").read_text(encoding="utf-8"))
        jsonschema.validate(document, film_json_schema())
        return capfd.readouterr().out, document, (out / "report.html").read_text(encoding="utf-8")

    return call


@pytest.mark.parametrize("backend", [row.name for row in BACKENDS])
def test_a_film_like_the_validated_ones_is_within(
    backend: str, assessed: Path, film: Callable[..., Path], run: Callable[..., Any]
) -> None:
    try:
        backend_row(backend)
    except BackendError as error:
        pytest.skip(str(error))
    told, document, page = run(assessed, film(-0.1), "--backend", backend)
    assert "domain: within the validated domain (score 0." in told
    domain = document["domain"]
    assert (domain["outside"], domain["nearest"], domain["threshold"]) == (False, "south", 1.0)
    assert domain["score"] == pytest.approx(
        np.median([each["domain_score"] for each in document["fields"]])
    )
    assert "Within the validated domain" in page
    assert "were not shown to hold here" not in page
    assert [each["stage"] for each in document["timings"]][:3] == ["read", "detect", "domain"]


def test_a_film_of_another_colour_is_outside_and_says_so_first(
    assessed: Path, film: Callable[..., Path], run: Callable[..., Any]
) -> None:
    told, document, page = run(assessed, film(0.3))
    assert "OUTSIDE THE VALIDATED DOMAIN" in told
    assert "outside above 1; nearest " in told
    assert "the figures of this bundle were not shown to hold here" in told
    domain = document["domain"]
    assert domain["outside"] is True
    assert domain["score"] > 2
    assert domain["fields_outside"] == 5
    banner = page.index("Outside the validated domain.")
    assert banner < page.index('id="totals-title"')
    assert "were not shown to hold here" in page


def test_cells_are_the_same_with_and_without_statistics(
    assessed: Path, bare: Path, film: Callable[..., Path], run: Callable[..., Any]
) -> None:
    folder = film(0.0)
    _, without, page = run(bare, folder)
    told, _, _ = run(bare, folder)
    assert "domain: not assessed" in told
    assert without["domain"] is None
    assert all(each["domain_score"] is None for each in without["fields"])
    assert "Not assessed" in page
    _, with_it, _ = run(assessed, folder)
    assert with_it["cells"] == without["cells"]
    assert len(with_it["cells"]) > 0


def test_a_record_of_training_names_the_domains(data: Path, tmp_path: Path) -> None:
    record = tmp_path / "training.json"
    phases = [
        {"recipe": {"domains": [{"name": "north", "path": "north"}], "leave_out": None}},
        {
            "recipe": {
                "domains": [{"name": n, "path": n} for n in ("north", "south")],
                "leave_out": "south",
            }
        },
    ]
    record.write_text(json.dumps(phases))
    found = domain_sources(["mine=elsewhere"], record, data=data, virtual=True)
    assert [name for each in found for name in each.names][:2] == ["north", "mine"]
    assert found[0] == FolderDomain("north", data / "north")
    assert isinstance(found[-1], VirtualDomains)
    record.write_text("[{}]")
    with pytest.raises(DataError, match="recipe: Field required"):
        domain_sources([], record, data=data, virtual=False)
    record.write_text("no")
    with pytest.raises(DataError, match="not JSON"):
        domain_sources([], record, data=data, virtual=False)


def test_bad_wishes_are_one_line(bare: Path, data: Path, tmp_path: Path) -> None:
    draft = draft_of(open_bundle(bare))
    with pytest.raises(SettingsError, match="the detector puts out early, later"):
        with_domain(draft, sources(data), reads=["last"])
    with pytest.raises(DataError, match="given twice"):
        with_domain(draft, [*sources(data), sources(data)[0]])
    with pytest.raises(DataError, match="no such folder"):
        with_domain(draft, [FolderDomain("nowhere", tmp_path)])
    for spelled in ("north", "=north", "north="):
        with pytest.raises(SettingsError, match="NAME=FOLDER"):
            domain_sources([spelled], None, data=data, virtual=False)
    for again in (["a=x", "b=y", " a = z"], ["a=x", "a=x"]):
        with pytest.raises(SettingsError, match="'a' is x already; name each domain once"):
            domain_sources(again, None, data=data, virtual=False)
    assert domain_sources([" a = x "], None, data=data, virtual=False)[0].names == ("a",)
    with pytest.raises(SettingsError, match="no domain"):
        domain_sources([], None, data=data, virtual=False)
    few = tmp_path / "few" / "images" / "train"
    few.mkdir(parents=True)
    write_image(few / "one.png", field(1))
    (few.parent / "val").mkdir()
    write_image(few.parent / "val" / "one.png", field(2))
    with pytest.raises(DataError, match="1 training fields, at least 10"):
        with_domain(draft, [FolderDomain("few", tmp_path / "few")])


def test_a_validation_field_that_was_trained_on_is_refused(
    bare: Path, data: Path, tmp_path: Path
) -> None:
    shutil.copytree(data / "north", tmp_path / "north")
    splits = tmp_path / "north" / "images"
    shutil.copy(splits / "train" / "003.png", splits / "val" / "another name.png")
    with pytest.raises(DataError, match="'north': 1 validation fields are training fields as well"):
        with_domain(draft_of(open_bundle(bare)), [FolderDomain("north", tmp_path / "north")])


def test_borders_are_rounded_up() -> None:
    rng = np.random.default_rng(0)
    training = {name: {"m": rng.normal(size=(30, 4))} for name in ("a", "b", "c")}
    validation = {name: {"m": rng.normal(size=(9, 4))} for name in training}
    fit = fit_domain(training, validation, "m", reads=["map"])
    statistics, _ = fit_statistics({name: each["m"] for name, each in training.items()})
    exact = find_borders(statistics, {name: [each["m"]] for name, each in validation.items()})
    for domain in fit.spec.domains:
        for kind, border in domain.borders.items():
            assert 0 <= border - exact[domain.name][kind] < 1e-4
            assert border == round(border, 4)


def test_a_detector_without_maps_cannot_be_assessed(tmp_path: Path, data: Path) -> None:
    files = {MODEL_NAME: toy_detector()}
    plain = open_bundle(write_files(tmp_path / "plain", files))
    with pytest.raises(DataError, match="puts out no feature map"):
        with_domain(draft_of(plain), sources(data))


def test_every_profile_of_the_virtual_microscope_is_a_domain() -> None:
    films = VirtualDomains(
        films={"train": 1, "val": 1, "test": 1},
        fields_per_film=1,
        spec=FilmSpec(size_um=(60.0, 60.0), pixel_size_um=0.5),
    )
    seen = {split: list(films.fields(split)) for split in ("train", "val")}
    assert tuple(name for name, _ in seen["train"]) == films.names
    assert "virtual:phone" in films.names
    for (_, one), (_, other) in zip(seen["train"], seen["val"], strict=True):
        assert not np.array_equal(one, other)
