"""The command as a person meets it: one clear line, the right exit code, whole files."""

from __future__ import annotations

import errno
import itertools
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edge_runtime import bundle as bundle_module
from edge_runtime import cli
from edge_runtime.backends import openvino
from edge_runtime.film_report import RESEARCH_USE
from edge_runtime.stages import Detector, Examined
from edge_runtime.types import Frame
from tests.support import paint_field, write_image

CELLS = [(60.0, 60.0, 30.0), (120.0, 50.0, 26.0)]
REPORT = ["cells.csv", "film.json", "report.html"]


@dataclass
class Answer:
    """What one call of the command left behind."""

    code: int
    out: str
    err: str

    def one_line(self) -> str:
        """The error, after checking that it is what every error must be."""
        assert self.code == 2, (self.code, self.out, self.err)
        assert self.err.startswith("leukoscope: ")
        assert self.err.endswith("\n")
        assert self.err.count("\n") == 1, self.err
        assert "Traceback" not in self.err
        return self.err


Leukoscope = Callable[..., Answer]


@pytest.fixture
def leukoscope(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Leukoscope:
    """Calls the command in this process, through its entry point."""
    for name in ("OPENCV_LOG_LEVEL", "OPENCV_FFMPEG_LOGLEVEL"):
        # Set and unset, so that what the command sets is taken back after the test.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)

    def call(*arguments: str | Path) -> Answer:
        monkeypatch.setattr(sys, "argv", ["leukoscope", *map(str, arguments)])
        capfd.readouterr()
        code: Any = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code
        told = capfd.readouterr()
        return Answer(int(code or 0), told.out, told.err)

    return call


@pytest.fixture
def film(tmp_path: Path) -> Path:
    """A folder of three good fields."""
    folder = tmp_path / "film"
    folder.mkdir()
    for number in (1, 2, 10):
        write_image(folder / f"field_{number}.png", paint_field(180, 120, CELLS, seed=number))
    return folder


@pytest.fixture
def run(leukoscope: Leukoscope, film: Path, tmp_path: Path, toy_bundle_folder: Path) -> Leukoscope:
    """``leukoscope run`` with the toy bundle; named flags take the place of the defaults."""

    def call(*more: str | Path, **flags: str | Path) -> Answer:
        merged: dict[str, str | Path] = {
            "source": film,
            "out": tmp_path / "out",
            "bundle": toy_bundle_folder,
            "threads": "1",
        }
        merged |= flags
        pairs = [part for key, value in merged.items() for part in (f"--{key}", value)]
        return leukoscope("run", *pairs, *more)

    return call


def film_json(out: Path) -> Any:
    return json.loads((out / "film.json").read_text(encoding="utf-8"))


def files_in(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_a_film_becomes_a_report(run: Leukoscope, tmp_path: Path) -> None:
    answer = run()
    assert (answer.code, answer.err) == (0, "")
    assert "6 white cells in 3 fields" in answer.out
    assert "onnxruntime float32 on CPUExecutionProvider" in answer.out
    assert str(tmp_path / "out" / "report.html") in answer.out
    assert RESEARCH_USE in answer.out
    assert files_in(tmp_path / "out") == REPORT
    report = film_json(tmp_path / "out")
    assert report["state"] == "complete"
    assert [f["name"] for f in report["fields"]] == [
        "field_1.png",
        "field_2.png",
        "field_10.png",
    ]
    assert report["settings"]["threads"] == 1
    for cell in report["cells"]:
        x1, y1, x2, y2 = cell["box_xyxy"]
        centre = ((x1 + x2) / 2, (y1 + y2) / 2)
        assert any(centre == pytest.approx((x, y), abs=3) for x, y, _ in CELLS)


def test_bad_fields_among_good_ones_are_counted_and_named(
    run: Leukoscope, film: Path, tmp_path: Path
) -> None:
    (film / "field_3.jpg").write_bytes(b"")
    (film / "field_4.jpg").write_text("no image")
    answer = run()
    assert (answer.code, answer.err) == (0, "")
    assert "6 white cells in 3 fields" in answer.out
    assert "2 fields skipped, the first: field_3.jpg: empty file (0 bytes)" in answer.out
    fields = film_json(tmp_path / "out")["fields"]
    assert [f["skipped"] for f in fields] == [False, False, True, True, False]
    assert fields[3]["reason"].startswith("not an image")


def test_a_gate_that_is_asked_for_refuses_and_says_so(
    run: Leukoscope, film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "none"))
    dark = paint_field(180, 120, CELLS, seed=3) // 8
    write_image(film / "field_3.png", dark.astype("uint8"))
    answer = run("--gate")
    assert answer.code == 0
    assert "nobody has set this camera up" in answer.err
    assert "too dark" in answer.out
    report = film_json(tmp_path / "out")
    assert report["gate"]["judged"] == 4
    assert report["gate"]["refused"]["too dark"] == 1
    (skipped,) = [f for f in report["fields"] if f["name"] == "field_3.png"]
    assert skipped["reason"].startswith("too dark (light")
    assert report["mosaic"] is None
    assert report["tally"] is None


def test_a_camera_profile_that_is_none_is_one_line(run: Leukoscope, tmp_path: Path) -> None:
    line = run(**{"camera-profile": tmp_path / "missing.toml"}).one_line()
    assert "missing.toml" in line
    assert "leukoscope setup camera" in line


def test_twelve_megapixels_are_reported_in_their_own_pixels(
    run: Leukoscope, tmp_path: Path
) -> None:
    cells = [(500.0, 400.0, 120.0), (3700.0, 2800.0, 130.0), (2000.0, 1500.0, 110.0)]
    image = write_image(tmp_path / "large.jpg", paint_field(4000, 3000, cells))
    assert run(source=image).code == 0
    report = film_json(tmp_path / "out")
    (field,) = report["fields"]
    assert (field["width"], field["height"]) == (4000, 3000)
    assert field["tiles"] > 1
    found = sorted(cell["box_xyxy"] for cell in report["cells"])
    expected = sorted([x - d / 2, y - d / 2, x + d / 2, y + d / 2] for x, y, d in cells)
    assert len(found) == 3
    for box, wanted in zip(found, expected, strict=True):
        assert box == pytest.approx(wanted, abs=8)


def test_save_frames_and_limit(run: Leukoscope, tmp_path: Path) -> None:
    assert run("--save-frames", limit="2").code == 0
    assert files_in(tmp_path / "out") == [
        "cells.csv",
        "film.json",
        "frames/field_1.jpg",
        "frames/field_2.jpg",
        "report.html",
    ]


def test_a_settings_file_counts_and_flags_win(run: Leukoscope, tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("limit = 1\nscore = 0.5\n")
    assert run(settings=file, score="0.6").code == 0
    settings = film_json(tmp_path / "out")["settings"]
    assert (settings["limit"], settings["score"]) == (1, 0.6)


def test_openvino_says_that_it_ran(run: Leukoscope, tmp_path: Path) -> None:
    reason = openvino.unsupported_reason()
    if reason is not None:
        pytest.skip(reason)
    assert run(backend="openvino").code == 0
    report = film_json(tmp_path / "out")
    assert report["backend"]["name"] == "openvino"
    assert report["totals"]["cells"] == 6


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"source": "{tmp}/absent"}, "no such file or folder"),
        ({"source": "{tmp}/empty"}, "no image in it"),
        ({"source": "{tmp}/text.txt"}, "neither image nor video"),
        ({"source": "virtual:nonsense"}, "no optical profile 'nonsense'"),
        ({"source": "virtual:phone:x"}, "seed 'x'"),
        ({"source": ""}, "empty"),
        ({"bundle": "{tmp}/absent"}, "no such file or folder"),
        ({"bundle": "{tmp}/empty"}, "manifest.json is missing"),
        ({"bundle": "{tmp}/text.txt"}, "neither a folder nor a whole bundle file"),
        ({"backend": "tensorflow"}, "unknown; choose one of auto"),
        ({"settings": "{tmp}/unknown.toml"}, "unknown key 'scroe'"),
        ({"settings": "{tmp}/absent.toml"}, "No such file"),
        ({"settings": "{tmp}/text.txt"}, "not TOML"),
        ({"score": "1.5"}, "--score"),
        ({"limit": "0"}, "--limit"),
        ({"threads": "-1"}, "--threads"),
        ({"out": "{tmp}/text.txt"}, "a file is in the way"),
        ({"out": "{tmp}/text.txt/inner"}, "a file is in the way"),
        ({"out": "{tmp}/taken"}, "a folder is in the way"),
    ],
    ids=lambda value: (
        " ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else ""
    ),
)
def test_bad_input_is_one_line(
    run: Leukoscope, tmp_path: Path, flags: dict[str, str], words: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "taken" / "film.json").mkdir(parents=True)
    (tmp_path / "text.txt").write_text("text, not anything else")
    (tmp_path / "unknown.toml").write_text("scroe = 0.5\n")
    answer = run(**{key: value.format(tmp=tmp_path) for key, value in flags.items()})
    assert words in answer.one_line()
    # Nothing was started that looks like a report.
    out = tmp_path / "out"
    assert not out.exists() or files_in(out) == []


def test_one_changed_byte_in_the_bundle(
    run: Leukoscope, toy_bundle_folder: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(toy_bundle_folder, copy)
    model = bytearray((copy / "detector.onnx").read_bytes())
    model[1000] ^= 1
    (copy / "detector.onnx").write_bytes(model)
    assert "'detector.onnx' was altered" in run(bundle=copy).one_line()


def test_an_absent_backend_is_named_with_its_extra(
    run: Leukoscope, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(openvino, "find_spec", lambda name: None)
    line = run(backend="openvino").one_line()
    assert "leukoscope[openvino]" in line
    # It was asked for by name: nothing else may have run in its place.
    assert not (tmp_path / "out" / "film.json").exists()


def test_a_bundle_without_a_model_is_told(
    run: Leukoscope, leukoscope: Leukoscope, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(bundle_module, "shipped_bundle_path", lambda: tmp_path / "demo_bundle")
    answer = leukoscope("run", "--source", tmp_path, "--out", tmp_path / "out")
    assert "demo_bundle" in answer.one_line()
    assert "demo_bundle" in leukoscope("verify").one_line()


@pytest.mark.parametrize("bad", ["detector.onnx", "notes.txt"])
def test_a_model_that_is_none_is_a_backend_error(
    run: Leukoscope, tmp_path: Path, bad: str, toy_model: bytes
) -> None:
    """A bundle in which every hash is right and the model is text."""
    from tests.support import write_bundle

    files = {"detector.onnx": toy_model, "notes.txt": b"x"} | {bad: b"no model at all"}
    answer = run(bundle=write_bundle(tmp_path / "bundle", files))
    if bad == "notes.txt":
        assert answer.code == 0
    else:
        assert "onnxruntime refuses the model" in answer.one_line()


@pytest.fixture(params=["fsync", "replace", "write"])
def full_disk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fills up once the film runs, told by one of three system calls."""

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if request.param != "write":
        monkeypatch.setattr(os, request.param, full)
        return
    opened = Path.open

    class Full:
        def __init__(self, file: Any) -> None:
            self.file = file

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *exc: object) -> None:
            self.file.close()

        def __getattr__(self, name: str) -> Any:
            return full if name in ("write", "flush") else getattr(self.file, name)

    def open_full(self: Path, mode: str = "r", *rest: Any, **named: Any) -> Any:
        file = opened(self, mode, *rest, **named)
        return Full(file) if mode == "xb" else file

    monkeypatch.setattr(Path, "open", open_full)


@pytest.mark.usefixtures("full_disk")
def test_a_full_disk_is_one_line_and_leaves_no_half_file(run: Leukoscope, tmp_path: Path) -> None:
    line = run().one_line()
    assert "No space left on device" in line
    assert "free some space" in line
    assert [name for name in files_in(tmp_path / "out") if name not in REPORT] == []
    assert not (tmp_path / "out" / "film.json").exists()


def test_a_full_disk_at_the_start_costs_no_film(
    run: Leukoscope, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, content: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    assert "No space left" in run().one_line()
    assert files_in(tmp_path / "out") == []


def test_a_message_stays_one_line_whatever_a_name_holds(run: Leukoscope, tmp_path: Path) -> None:
    assert "no such file" in run(source=tmp_path / "two\nlines").one_line()
    folder = tmp_path / "bundle\nfolder"
    folder.mkdir()
    assert "manifest.json is missing" in run(bundle=folder).one_line()


@pytest.mark.skipif(sys.platform == "darwin", reason="its file names are always UTF-8")
def test_names_in_another_encoding_are_no_obstacle(
    run: Leukoscope, film: Path, tmp_path: Path
) -> None:
    odd = os.fsdecode(b"pr\xe4parat")
    os.rename(film / "field_1.png", film / f"{odd}.png")
    (film / f"{odd}.jpg").write_bytes(b"")
    answer = run(out=tmp_path / odd)
    assert (answer.code, answer.err) == (0, "")
    names = [field["name"] for field in film_json(tmp_path / odd)["fields"]]
    assert "pr\ufffdparat.png" in names


@pytest.mark.parametrize("arguments", [(), ("run",), ("nonsense",), ("run", "--nonsense")])
def test_wrong_usage_ends_with_code_two(leukoscope: Leukoscope, arguments: tuple[str, ...]) -> None:
    answer = leukoscope(*arguments)
    assert answer.code == (2 if arguments else answer.code)
    assert "Traceback" not in answer.err
    assert "Usage" in answer.err + answer.out


def test_ctrl_c_before_the_film_starts(
    run: Leukoscope, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def interrupted(path: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(bundle_module, "open_bundle", interrupted)
    answer = run()
    assert answer.code == 130
    assert "Traceback" not in answer.err
    assert answer.err.count("\n") <= 1
    assert not (tmp_path / "out").exists()


def test_verify_names_what_it_checked(leukoscope: Leukoscope, toy_bundle_folder: Path) -> None:
    answer = leukoscope("verify", toy_bundle_folder)
    assert answer.code == 0
    assert "toy-discs-0.1.0: 1 files" in answer.out
    assert "detector.onnx: cpu, float32" in answer.out


@pytest.fixture
def headed_bundle(tmp_path: Path) -> Path:
    """A bundle with a classifier and an attribute head."""
    from tests.toy_heads import classifier_part, head_part, write_toy_bundle

    classifier = classifier_part(outside_differential=["plum"])
    return write_toy_bundle(tmp_path / "headed", classifier=classifier, head=head_part())


def test_verify_lists_every_heads_artifacts(leukoscope: Leukoscope, headed_bundle: Path) -> None:
    answer = leukoscope("verify", headed_bundle)
    assert answer.code == 0
    for line in (
        "  detector.onnx: cpu, float32, detector",
        "  attribute_head.onnx: cpu, float32, attribute head",
        "  classifier.onnx: cpu, float32, classifier",
    ):
        assert line in answer.out.splitlines()


def test_the_summary_has_a_line_for_each_class(run: Leukoscope, headed_bundle: Path) -> None:
    """Six violet cells: 100 %, of which the exact interval begins at 54.1 %."""
    answer = run(bundle=headed_bundle)
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.splitlines()[1:5] == [
        "  navy          0    0.0%  (95 % interval 0.0 to 45.9 %)",
        "  violet        6  100.0%  (95 % interval 54.1 to 100.0 %)",
        "  plum          0  not in the differential",
        "  unclassified  0  not in the differential",
    ]


@pytest.mark.parametrize(("outside", "kind"), [("plum", "white cells"), ("violet", "cells")])
def test_cells_beside_the_differential_are_not_summed_up_as_white(
    outside: str, kind: str, run: Leukoscope, tmp_path: Path
) -> None:
    from tests.toy_heads import classifier_part, write_toy_bundle

    part = classifier_part(outside_differential=[outside])
    answer = run(bundle=write_toy_bundle(tmp_path / "bundle", classifier=part))
    assert f"6 {kind} in 3 fields" in answer.out


def test_verify_refuses_as_run_does(
    leukoscope: Leukoscope, toy_bundle_folder: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(toy_bundle_folder, copy)
    (copy / "extra").write_bytes(b"")
    assert "'extra' is not in the manifest" in leukoscope("verify", copy).one_line()


@pytest.fixture
def handler_before() -> Iterator[None]:
    """Whoever handled Ctrl-C before handles it again."""
    before = signal.getsignal(signal.SIGINT)
    yield
    assert signal.getsignal(signal.SIGINT) == before


@pytest.mark.usefixtures("handler_before")
def test_the_process_gets_its_ctrl_c_back(run: Leukoscope, tmp_path: Path) -> None:
    assert run().code == 0
    assert run(out=tmp_path / "film" / "field_1.png").code == 2


@pytest.mark.usefixtures("handler_before")
def test_the_first_ctrl_c_asks_and_the_second_one_ends() -> None:
    asked: list[str] = []
    with cli._CtrlC(lambda: asked.append("stop")):
        signal.raise_signal(signal.SIGINT)
        assert asked == ["stop"]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert asked == ["stop"]


@pytest.mark.usefixtures("handler_before")
def test_ctrl_c_in_a_film_gives_a_partial_report_and_no_error(
    run: Leukoscope, film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The signal comes while the second of many fields is examined."""
    for number in range(20, 60):
        shutil.copy(film / "field_1.png", film / f"field_{number}.png")
    examine, calls = Detector.examine, itertools.count(1)

    def interrupted(self: Detector, frame: Frame, *watchers: Any) -> Examined:
        if next(calls) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return examine(self, frame, *watchers)

    monkeypatch.setattr(Detector, "examine", interrupted)
    answer = run()
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.startswith("PARTIAL REPORT (interrupted)")
    report = film_json(tmp_path / "out")
    assert report["state"] == "interrupted"
    assert 1 <= len(report["fields"]) < 20
    assert report["totals"]["cells"] == 2 * len(report["fields"])
