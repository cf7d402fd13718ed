"""The doctor finds what is there, what is wrong and what mends it, on machines drawn from files."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.bundle import open_bundle
from edge_runtime.device.doctor import DoctorRow, Examination, examine
from edge_runtime.device.doctor.machine import Machine
from edge_runtime.device.files import DiskFiles
from edge_runtime.device.install import install
from edge_runtime.engines import build_for_bundle, engine_target, flavour_named, for_bundle
from edge_runtime.errors import BackendError
from edge_runtime.settings import Settings
from tests.edge_runtime.device import drawn_machines as drawn
from tests.edge_runtime.device.drawn_machines import DrawnSoftware, draw, without
from tests.recording_tensorrt import RecordingTensorRt
from tests.signed_bundles import device_at, drawn_key, public


@pytest.fixture
def root(toy_for_both: Path, tmp_path: Path) -> Path:
    """A device root with the signed toy bundle, installed."""
    device = device_at(tmp_path / "device", DiskFiles())
    device.root.keys.mkdir(parents=True)
    (device.root.keys / "lab.json").write_bytes(public(drawn_key(1)).to_bytes())
    install(device, toy_for_both)
    return device.root.path


@pytest.fixture
def engines(
    root: Path, toy_for_both: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], None]:
    """Builds the bundle's engine as one capability's board would, with the recording library."""

    def build(capability: str) -> None:
        monkeypatch.setattr(for_bundle, "platform_here", lambda: "linux-aarch64-tegra")
        api = RecordingTensorRt()
        api.gpu.compute_capability = capability
        target = engine_target(flavour_named("tensorrt"), api=api.typed(), device=api.gpu)
        build_for_bundle(
            open_bundle(toy_for_both), root / "engines", say=lambda line: None, target=target
        )

    return build


def orin(folder: Path, **changes: Any) -> Machine:
    return draw(folder, drawn.ORIN_FILES, drawn.ORIN_COMMANDS, processor="aarch64", **changes)


def orin_software(**changes: Any) -> DrawnSoftware:
    parts: dict[str, Any] = {
        "versions": {"onnxruntime": "1.23.2", "tensorrt": "10.3.0"},
        "why": without("tensorrt"),
        "cuda": "12.6",
        "card": drawn.ORIN_GPU,
    }
    return DrawnSoftware(**(parts | changes))


def pi(folder: Path, commands: dict[str, str] | None = None, **changes: Any) -> Machine:
    answers = drawn.PI_COMMANDS | (commands or {})
    return draw(folder, drawn.PI_FILES, answers, processor="aarch64", **changes)


def pi_software(**changes: Any) -> DrawnSoftware:
    return DrawnSoftware({"onnxruntime": "1.31.1"}, without(), **changes)


def rtx(folder: Path, files: dict[str, str] | None = None, **changes: Any) -> Machine:
    drawn_files = drawn.RTX_FILES | (files or {})
    return draw(folder, drawn_files, drawn.RTX_COMMANDS, processor="x86_64", **changes)


def row(found: Examination, what: str) -> DoctorRow:
    rows = [each for each in found.rows if each.what == what]
    assert len(rows) == 1, (what, [each.what for each in found.rows])
    return rows[0]


def test_an_orin_nano_with_engines_is_ready(
    root: Path, engines: Callable[[str], None], tmp_path: Path
) -> None:
    engines("8.7")
    software = orin_software()
    settings = Settings(backend="tensorrt", device_root=root)
    found = examine(orin(tmp_path / "orin"), software, settings)
    assert found.can_run, found.verdict
    assert found.verdict == "a film can run here, on backend tensorrt"
    assert row(found, "board").value.startswith("NVIDIA Jetson Orin Nano")
    assert "\0" not in row(found, "board").value
    assert row(found, "JetPack") == DoctorRow("JetPack", "6.2+b77 (L4T 36.4.3)")
    assert row(found, "power mode").value.startswith("25W")
    assert row(found, "CUDA driver").value == "540.4.0, for CUDA up to 12.6"
    assert row(found, "CUDA toolkit").value == "12.6.11"
    assert row(found, "TensorRT").value == (
        "tensorrt 10.3.0; system libnvinfer10 10.3.0.30-1+cuda12.5"
    )
    assert row(found, "engines").value.startswith("1 of 1 for Orin (8.7) with tensorrt 10.3.0")
    assert row(found, "temperature") == DoctorRow("temperature", "53 °C (gpu-thermal)")
    assert row(found, "throttling").state == "good"
    assert row(found, "clock").value == "2027-01-02 03:04 UTC, synchronised, hardware clock"
    assert row(found, "slots").value.startswith("a: active, toy-discs-0.1.0, installed 2026-06-01")
    assert row(found, "cameras").value == "vi-output, imx477 9-001a (/dev/video0)"
    assert row(found, "GStreamer in OpenCV").state == "attention"
    assert software.opened == ["tensorrt"]


@pytest.mark.parametrize("capability", [None, "7.2"])
def test_engines_of_no_or_another_gpu_stop_it(
    root: Path, engines: Callable[[str], None], tmp_path: Path, capability: str | None
) -> None:
    if capability is not None:
        engines(capability)
    software = orin_software()
    settings = Settings(backend="tensorrt", device_root=root)
    found = examine(orin(tmp_path / "orin"), software, settings)
    assert not found.can_run
    assert found.verdict == "NO film can run here on backend tensorrt; see engines"
    lacking = row(found, "engines")
    assert lacking.value.startswith("none of detector.onnx for Orin (8.7)")
    assert lacking.remedy == f"leukoscope device build-engines --root {root} --backend tensorrt"
    assert software.opened == []


def test_a_damaged_engine_stops_it(
    root: Path, engines: Callable[[str], None], tmp_path: Path
) -> None:
    engines("8.7")
    (path,) = (root / "engines").glob("*.engine")
    path.write_bytes(b"other")
    settings = Settings(backend="tensorrt", device_root=root)
    found = examine(orin(tmp_path / "orin"), orin_software(), settings)
    assert not found.can_run
    assert "altered" in row(found, "engines").value


def test_tensorrt_that_the_environment_hides_is_told_from_one_that_is_absent(
    root: Path, tmp_path: Path
) -> None:
    settings = Settings(backend="tensorrt", device_root=root)
    software = orin_software(versions={"onnxruntime": "1.23.2"}, why=without())
    found = examine(orin(tmp_path / "orin"), software, settings)
    hidden = row(found, "TensorRT")
    assert hidden.state == "missing"
    assert hidden.stops
    assert "this Python does not see" in hidden.value
    assert "--system-site-packages" in (hidden.remedy or "")
    assert row(found, "backend tensorrt").remedy == "JetPack brings it"
    assert row(found, "models").value.startswith("not tried")
    bare = {
        k: v for k, v in drawn.ORIN_COMMANDS.items() if "nvinfer" not in k and "jetpack" not in k
    }
    machine = replace(orin(tmp_path / "orin"), run=lambda words: bare.get(" ".join(words)))
    found = examine(machine, software, settings)
    assert row(found, "TensorRT").remedy == "sudo apt-get install nvidia-jetpack"
    assert row(found, "JetPack").state == "attention"
    assert row(found, "JetPack").value.startswith("L4T 36.4.3;")


def test_heat_is_told_by_the_points_that_slow_down_and_not_by_those_of_a_fan(
    tmp_path: Path,
) -> None:
    machine = orin(tmp_path / "orin")
    zone = tmp_path / "orin/sys/class/thermal/thermal_zone1"
    (zone / "temp").write_text("99500\n")
    (tmp_path / "orin/sys/class/hwmon/hwmon2/oc1_event_cnt").write_text("3\n")
    found = examine(machine, orin_software(), Settings())
    hot = row(found, "temperature")
    assert hot.value == "gpu-thermal 100 °C, slows down from 99 °C"
    assert hot.state == "attention"
    slowed = row(found, "throttling")
    assert slowed.value == "since the start: over-current"
    assert "power supply" in (slowed.remedy or "")
    assert found.can_run, "the shipped bundle on the processor"


def test_a_raspberry_pi_is_ready_on_its_processor(root: Path, tmp_path: Path) -> None:
    found = examine(pi(tmp_path / "pi"), pi_software(), Settings(device_root=root))
    assert found.can_run, found.verdict
    assert row(found, "board").value == "Raspberry Pi 5 Model B Rev 1.0"
    assert row(found, "GPU") == DoctorRow("GPU", "no NVIDIA GPU here")
    assert row(found, "cameras").value == (
        "HD USB Camera: HD USB Camera (/dev/video0, /dev/video1)"
    )
    assert row(found, "libcamera").value == "imx477 [4056x3040 12-bit RGGB]"
    assert "does not see" in row(found, "picamera2").value
    assert row(found, "throttling").value == "none since the start"
    assert not any("JetPack" in each.what for each in found.rows)
    assert row(found, "backend tensorrt").state == "missing"
    assert not row(found, "backend tensorrt").stops


def test_a_weak_supply_of_a_raspberry_pi_is_told(tmp_path: Path) -> None:
    weak = {"vcgencmd get_throttled": "throttled=0x50005\n"}
    found = examine(pi(tmp_path / "pi", weak), pi_software(), Settings())
    said = row(found, "throttling")
    assert said.value == (
        "now: under-voltage, throttled; since the start: under-voltage, throttled"
    )
    assert said.state == "attention"
    assert "power supply" in (said.remedy or "")


def test_a_wished_gpu_that_is_not_there_stops_it(root: Path, tmp_path: Path) -> None:
    settings = Settings(backend="tensorrt", device_root=root)
    found = examine(pi(tmp_path / "pi"), pi_software(), settings)
    assert not found.can_run
    assert [each.what for each in found.stopping] == ["GPU", "backend tensorrt", "models"]


def test_a_pc_with_a_card_says_what_is_missing_step_by_step(root: Path, tmp_path: Path) -> None:
    settings = Settings(backend="tensorrt-rtx", device_root=root)
    software = DrawnSoftware({"onnxruntime": "1.31.1"}, without())
    no_driver = rtx(tmp_path / "a", {"proc/driver/nvidia/version": ""})
    found = examine(no_driver, software, settings)
    assert row(found, "CUDA driver").remedy == "sudo ubuntu-drivers install"
    assert row(found, "CUDA driver").stops
    software.cuda = "13.0"
    found = examine(rtx(tmp_path / "b"), software, settings)
    assert row(found, "CUDA driver").value == "580.95.05, for CUDA up to 13.0"
    assert row(found, "GPU").remedy == "pip install 'cuda-python==13.*'"
    assert row(found, "TensorRT").remedy == "pip install 'leukoscope[tensorrt-rtx]'"
    software.card = drawn.RTX_GPU
    software.versions["tensorrt_rtx"] = "1.7.1.116"
    del software.why["tensorrt-rtx"]
    found = examine(rtx(tmp_path / "b"), software, settings)
    assert [each.what for each in found.stopping] == ["engines"]
    assert row(found, "GPU").value.startswith("NVIDIA GeForce RTX 4060, compute capability 8.9")
    assert row(found, "board").value == "ASUS System Product Name"
    assert row(found, "throttling").value == "none since the start"


def test_a_wrong_clock_and_days_of_keys_are_told(root: Path, tmp_path: Path) -> None:
    settings = Settings(device_root=root)
    lab = f"key {public(drawn_key(1))}"

    def at(now: datetime) -> Examination:
        machine = pi(tmp_path / "pi", now=now)
        return examine(machine, pi_software(), settings)

    stopped = at(datetime(1970, 1, 1, 0, 3, tzinfo=timezone.utc))
    assert row(stopped, "clock").state == "attention"
    assert "not a plausible date" in row(stopped, "clock").value
    assert "not valid before 2026-01-01" in row(stopped, lab).value
    assert stopped.can_run, "what is installed goes on working"
    good = at(datetime(2027, 6, 1, tzinfo=timezone.utc))
    assert row(good, "clock").value == "2027-06-01 00:00 UTC, synchronised, hardware clock"
    assert row(good, lab).state == "good"
    assert row(good, lab).value == "trusted 2026-01-01 to 2027-12-31, 213 days left"
    soon = at(datetime(2027, 12, 20, tzinfo=timezone.utc))
    assert row(soon, lab).state == "attention"
    assert "11 days left" in row(soon, lab).value
    late = at(datetime(2028, 1, 1, tzinfo=timezone.utc))
    assert "expired on 2027-12-31" in row(late, lab).value
    free = {"timedatectl show --property=NTPSynchronized --value": "no\n"}
    adrift = examine(
        pi(tmp_path / "pi", free, now=datetime(2027, 6, 1, tzinfo=timezone.utc)),
        pi_software(), settings,
    )  # fmt: skip
    assert "not synchronised" in row(adrift, "clock").value


def test_an_empty_root_and_one_without_keys_stop_it(root: Path, tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    found = examine(pi(tmp_path / "pi"), pi_software(), Settings(device_root=nowhere))
    assert [each.what for each in found.stopping] == ["keys", "bundle"]
    assert row(found, "device root").remedy == f"leukoscope device trust KEY.json --root {nowhere}"
    for slot in ("a", "b"):
        (root / "slots" / slot / "bundle.zip").unlink(missing_ok=True)
    found = examine(pi(tmp_path / "pi"), pi_software(), Settings(device_root=root))
    assert [each.what for each in found.stopping] == ["bundle"]
    assert row(found, "bundle").remedy == f"leukoscope device install BUNDLE.zip --root {root}"
    assert row(found, "slots").state == "attention"


def test_a_root_that_others_may_write_to_is_told(root: Path, tmp_path: Path) -> None:
    settings = Settings(device_root=root)
    assert row(examine(pi(tmp_path / "pi"), pi_software(), settings), "device root").state == "good"
    (root / "keys").chmod(0o775)
    loose = row(examine(pi(tmp_path / "pi"), pi_software(), settings), "device root")
    assert loose.value == f"{root}: others may write to {root / 'keys'}"
    (root / "keys").chmod(0o755)
    key = next((root / "keys").glob("*.json"))
    key.chmod(0o666)
    loose = row(examine(pi(tmp_path / "pi"), pi_software(), settings), "device root")
    assert loose.value == f"{root}: others may write to {key}"
    key.chmod(0o644)
    for number in range(5):
        (root / "engines" / f"{number}.engine").write_bytes(b"")
        (root / "engines" / f"{number}.engine").chmod(0o664)
    loose = row(examine(pi(tmp_path / "pi"), pi_software(), settings), "device root")
    assert loose.value.endswith("2.engine and 2 more")
    assert loose.remedy == f"sudo chmod -R go-w {root}"


def test_what_a_film_needs_and_lacks(toy_for_cpu: Path, root: Path, tmp_path: Path) -> None:
    machine = pi(tmp_path / "pi", may_use=lambda path: False, free_bytes=lambda path: 900_000_000)
    (tmp_path / "pi/proc/meminfo").write_text("MemTotal: 1000000 kB\nMemAvailable: 300000 kB\n")
    software = pi_software(refuses="onnxruntime refuses the model")
    found = examine(machine, software, Settings(device_root=root))
    assert row(found, "memory").state == "attention"
    assert row(found, "disk").state == "attention"
    assert row(found, "disk").value == f"0.9 GB free in {root}"
    assert "may not open /dev/video0, /dev/video1" in row(found, "cameras").value
    assert [each.what for each in found.stopping] == ["models"]
    assert row(found, "models").value == "onnxruntime refuses the model"
    install(device_at(root, DiskFiles()), toy_for_cpu, allow_downgrade=True)
    settings = Settings(backend="tensorrt", device_root=root)
    found = examine(orin(tmp_path / "orin"), orin_software(), settings)
    assert "no detector artifact for tensorrt" in row(found, "models").value


def test_the_json_form_says_the_same(root: Path, tmp_path: Path) -> None:
    found = examine(pi(tmp_path / "pi"), pi_software(), Settings(device_root=root))
    document = json.loads(json.dumps(found.to_json()))
    assert document["can_run"] is True
    assert document["backend"] == "onnxruntime"
    assert [DoctorRow(**each) for each in document["rows"]] == list(found.rows)
    assert {each["state"] for each in document["rows"]} <= {"good", "attention", "missing"}


def test_an_unknown_backend_is_an_error_and_no_row(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="'cuda': unknown"):
        examine(pi(tmp_path / "pi"), pi_software(), Settings(backend="cuda"))


def test_nothing_is_known_and_nothing_breaks(tmp_path: Path) -> None:
    machine = draw(tmp_path / "bare", {}, {}, processor="riscv64")
    found = examine(machine, DrawnSoftware({}, without()), Settings())
    assert row(found, "board").value == "it does not say"
    assert row(found, "cameras").state == "missing"
    assert found.can_run
