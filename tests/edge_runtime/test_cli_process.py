"""The command as a process of its own: start-up, signals, plugged commands, real limits."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.film_report import RESEARCH_USE
from tests.support import paint_field, write_image

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TIMEOUT_S = 60


@pytest.fixture
def environment(repository: Path, tmp_path: Path) -> dict[str, str]:
    """Finds the packages without an installation; folders in ``PYTHONPATH`` come first."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("LEUKOSCOPE_")}
    paths = [str(tmp_path / "plugs"), str(repository)]
    return kept | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}


@pytest.fixture
def command(
    environment: dict[str, str], tmp_path: Path
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs ``leukoscope`` to its end, in a folder that holds no installation's metadata."""

    def call(*arguments: str | Path, **more: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "edge_runtime.cli", *map(str, arguments)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
            **{"cwd": tmp_path, **more},
        )

    return call


@pytest.fixture
def plug(tmp_path: Path) -> Callable[..., None]:
    """Installs commands as a distribution would: metadata and modules on the path."""

    def install(commands: dict[str, str], **modules: str) -> None:
        # Named as this very distribution: the first one on the path counts, and no other.
        metadata = tmp_path / "plugs" / "leukoscope-0.0.0.dist-info"
        metadata.mkdir(parents=True)
        (metadata / "METADATA").write_text(
            "Metadata-Version: 2.1\nName: leukoscope\nVersion: 0.0.0\n"
        )
        lines = [f"{name} = {target}\n" for name, target in commands.items()]
        (metadata / "entry_points.txt").write_text("[leukoscope.commands]\n" + "".join(lines))
        for name, source in modules.items():
            (tmp_path / "plugs" / f"{name}.py").write_text(source)

    return install


TYPER = "import typer\napp = typer.Typer()\n"


def one_line(answer: subprocess.CompletedProcess[str]) -> str:
    assert answer.returncode == 2, answer
    assert answer.stderr.count("\n") == 1, answer.stderr
    assert answer.stderr.startswith("leukoscope")
    return answer.stderr


def test_help_lists_the_commands_of_the_other_packages(
    command: Callable[..., Any], plug: Callable[..., None], repository: Path
) -> None:
    project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    commands = project["entry-points"]["leukoscope.commands"]
    plug(commands)
    answer = command("--help")
    assert answer.returncode == 0
    assert answer.stderr == ""
    for name in ("run", "verify", *commands):
        assert name in answer.stdout
    assert RESEARCH_USE.split(".")[0] in " ".join(answer.stdout.split())


def test_a_plugged_command_runs_with_its_own_flags(
    command: Callable[..., Any], plug: Callable[..., None]
) -> None:
    source = TYPER + (
        "@app.command()\n"
        "def weigh(grams: int) -> None:\n"
        "    typer.echo(f'{grams} g')\n"
        "@app.command()\n"
        "def other() -> None: ...\n"
    )
    plug({"scales": "scales_cli:app"}, scales_cli=source)
    assert command("scales", "weigh", "3").stdout == "3 g\n"
    answer = command("scales", "weigh", "three")
    assert answer.returncode == 2
    assert "leukoscope scales weigh" in answer.stderr


@pytest.mark.parametrize("name", ["train", "bench", "export", "calibrate"])
@pytest.mark.parametrize("late", [False, True], ids=["at import", "when it runs"])
def test_a_command_whose_library_is_absent_names_the_extra(
    command: Callable[..., Any], plug: Callable[..., None], name: str, late: bool
) -> None:
    missing = "import no_such_library_anywhere\n"
    body = f"@app.command()\ndef start() -> None:\n    {missing}"
    source = TYPER + body if late else missing + TYPER
    plug({name: "plugged_cli:app"}, plugged_cli=source)
    line = one_line(command(name))
    assert "no_such_library_anywhere is not installed here" in line
    extra = name if name in ("train", "bench") else "export"
    assert f"pip install 'leukoscope[{extra}]'" in line


WITHOUT_TORCH = """
import sys
for name in ("torch", "torchvision", "ultralytics"):
    sys.modules[name] = None
from edge_runtime import cli
sys.argv = ["leukoscope", "train", "detect", "--recipe", "wbc-detector", "--out", sys.argv[1]]
cli.main()
"""


def test_train_without_torch_names_its_extra(
    plug: Callable[..., None], environment: dict[str, str], tmp_path: Path
) -> None:
    pytest.importorskip("yaml", reason="recipes need it; leukoscope[train]")
    plug({"train": "train.cli:app"})
    answer = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, str(tmp_path / "run")],
        env=environment | {"LEUKOSCOPE_DATA": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert "leukoscope[train]" in one_line(answer)


LOADED = """
import sys
from edge_runtime.cli import main
sys.argv = ["leukoscope", *sys.argv[1:]]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
heavy = ("torch", "torchvision", "ultralytics", "onnx", "onnxruntime", "openvino", "jinja2", "cv2",
         "numpy", "matplotlib")
print("LOADED", sorted(name for name in heavy if name in sys.modules))
"""


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["verify", "--help"]])
def test_help_loads_nothing_heavy(environment: dict[str, str], arguments: list[str]) -> None:
    answer = subprocess.run(
        [sys.executable, "-c", LOADED, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=True,
    )
    assert answer.stdout.splitlines()[-1] == "LOADED []"


def test_a_run_loads_no_training_framework(
    environment: dict[str, str], tmp_path: Path, toy_bundle_folder: Path
) -> None:
    image = write_image(tmp_path / "field.png", paint_field(160, 120, [(60, 60, 30)]))
    arguments = ["run", "--source", image, "--bundle", toy_bundle_folder]
    arguments += ["--out", tmp_path / "out", "--threads", "1"]
    answer = subprocess.run(
        [sys.executable, "-c", LOADED, *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=True,
    )
    assert answer.stderr == ""
    loaded = answer.stdout.splitlines()[-1]
    assert "onnxruntime" in loaded
    assert not [n for n in ("torch", "ultralytics", "'onnx'", "openvino") if n in loaded]


def test_decoders_keep_quiet_about_broken_files(
    command: Callable[..., Any], tmp_path: Path, toy_bundle_folder: Path
) -> None:
    folder = tmp_path / "film"
    folder.mkdir()
    for suffix in (".jpg", ".png", ".bmp", ".tif", ".webp"):
        image = write_image(folder / f"cut{suffix}", paint_field(160, 120))
        image.write_bytes(image.read_bytes()[:900])
    write_image(folder / "whole.png", paint_field(160, 120, [(60, 60, 30)]))
    common = ["--bundle", toy_bundle_folder, "--threads", "1", "--out", tmp_path / "out"]
    answer = command("run", "--source", folder, *common)
    assert (answer.returncode, answer.stderr) == (0, "")
    assert "5 fields skipped" in answer.stdout

    (tmp_path / "broken.mp4").write_bytes(bytes(3000))
    answer = command("run", "--source", tmp_path / "broken.mp4", *common)
    assert "not a readable video" in one_line(answer)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_terminal_of_any_encoding_will_do(
    environment: dict[str, str], tmp_path: Path, toy_bundle_folder: Path, encoding: str
) -> None:
    image = write_image(tmp_path / "field.png", paint_field(160, 120, [(60, 60, 30)]))
    out = tmp_path / "präparat-病理"
    arguments = ["--source", image, "--bundle", toy_bundle_folder, "--out", out]
    answer = subprocess.run(
        [sys.executable, "-m", "edge_runtime.cli", "run", "--threads", "1", *map(str, arguments)],
        env=environment | {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "1"},
        capture_output=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert (answer.returncode, answer.stderr) == (0, b"")
    assert (out / "report.html").is_file()


def test_a_write_that_the_system_cuts_short_is_one_line(
    command: Callable[..., Any], tmp_path: Path, toy_bundle_folder: Path
) -> None:
    """A real limit on the size of files, as a quota has: no patched call in between."""
    image = write_image(tmp_path / "field.png", paint_field(160, 120, [(60, 60, 30)]))

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))

    arguments = ["--source", image, "--bundle", toy_bundle_folder, "--threads", "1"]
    answer = command("run", *arguments, "--out", tmp_path / "out", preexec_fn=limited)
    assert "report.html" in one_line(answer)
    # The parts that did fit are whole, and nothing half-written lies beside them.
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["cells.csv", "film.json"]
    json.loads((tmp_path / "out" / "film.json").read_text(encoding="utf-8"))


def start(environment: dict[str, str], out: Path, *arguments: str | Path) -> subprocess.Popen[str]:
    """A film in a process of its own, once it has begun."""
    process = subprocess.Popen(
        [sys.executable, "-m", "edge_runtime.cli", "run", "--out", str(out), *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + TIMEOUT_S
    # The folder is made by the first sink, when Ctrl-C is already caught.
    while not out.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return process


def test_ctrl_c_leaves_a_partial_report(
    environment: dict[str, str], tmp_path: Path, toy_bundle_folder: Path
) -> None:
    out = tmp_path / "out"
    arguments: list[str | Path] = ["--source", "virtual:lcm_40x_c2", "--bundle", toy_bundle_folder]
    process = start(environment, out, *arguments, "--limit", "100000", "--threads", "1")
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    told, errors = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, errors) == (0, "")
    assert "PARTIAL REPORT (interrupted)" in told
    report = json.loads((out / "film.json").read_text(encoding="utf-8"))
    assert report["state"] == "interrupted"
    assert 1 <= len(report["fields"]) < 1000
    assert [field["index"] for field in report["fields"]] == list(range(len(report["fields"])))
    assert report["totals"]["fields"] == len(report["fields"])
    assert (out / "report.html").is_file()
    assert (out / "cells.csv").is_file()
