"""Sensors and clocks, read from folders that look like those of real machines."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks.clocks import clock_facts
from benchmarks.energy import Energy, Ina3221, Rapl, energy_of_block, find_sensor


def _files(root: Path, content: dict[str, str]) -> None:
    for name, text in content.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n", encoding="ascii")


def _package(root: Path, energy: int) -> Path:
    zone = "class/powercap/intel-rapl:0"
    _files(
        root,
        {
            f"{zone}/name": "package-0",
            f"{zone}/energy_uj": str(energy),
            f"{zone}/max_energy_range_uj": "1000000",
            # Inside the package already, and beside it: neither may be counted again.
            "class/powercap/intel-rapl:0:0/name": "core",
            "class/powercap/intel-rapl:0:0/energy_uj": "5",
            "class/powercap/intel-rapl:1/name": "psys",
            "class/powercap/intel-rapl:1/energy_uj": "5",
        },
    )
    return root / zone / "energy_uj"


def test_a_package_counter_is_read_at_both_ends(tmp_path: Path) -> None:
    counter = _package(tmp_path, 100_000)
    with energy_of_block(tmp_path) as energy:
        counter.write_text("700000")
    assert energy.joules == pytest.approx(0.6)
    assert energy.sensor == "RAPL, 1 package(s): processor only"
    record = energy.record(3)
    assert record["measured"]
    assert record["joules_per_field"] == pytest.approx(0.2)


def test_a_counter_that_ran_over_is_mended(tmp_path: Path) -> None:
    counter = _package(tmp_path, 900_000)
    with energy_of_block(tmp_path) as energy:
        counter.write_text("200000")
    assert energy.joules == pytest.approx(0.3)


def test_a_counter_that_may_not_be_read_is_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _package(tmp_path, 1)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with energy_of_block(tmp_path) as energy:
        pass
    record = energy.record(5)
    assert not record["measured"]
    assert "run as root" in record["reason"]


def _board(root: Path, labels: tuple[str, ...]) -> None:
    chip = "class/hwmon/hwmon3"
    _files(root, {f"{chip}/name": "ina3221"})
    for number, label in enumerate(labels, start=1):
        _files(
            root,
            {
                f"{chip}/in{number}_label": label,
                f"{chip}/in{number}_input": "5000",
                f"{chip}/curr{number}_input": str(1000 * number),
            },
        )
    # Another chip of the same class.
    _files(root, {"class/hwmon/hwmon0/name": "tmp102", "class/hwmon/hwmon0/in1_label": "VDD_IN"})


def test_a_jetsons_whole_input_is_taken_alone(tmp_path: Path) -> None:
    _board(tmp_path, ("VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC"))
    sensor = find_sensor(tmp_path)
    assert isinstance(sensor, Ina3221)
    assert sensor.name == "INA3221: VDD_IN"
    now = iter((0.0, 2.0, 2.0, 2.0, 2.0))
    sensor.clock = lambda: next(now, 2.0)
    with sensor.measuring() as energy:
        pass
    # 5 V and 1 A for two seconds.
    assert energy.joules == pytest.approx(10)
    assert energy.record(10)["watts"] == pytest.approx(5)


def test_rails_of_a_board_without_such_an_input_are_summed(tmp_path: Path) -> None:
    _board(tmp_path, ("VDD_GPU_SOC", "VDD_CPU_CV"))
    sensor = find_sensor(tmp_path)
    assert isinstance(sensor, Ina3221)
    now = iter((0.0, 1.0))
    sensor.clock = lambda: next(now, 1.0)
    with sensor.measuring() as energy:
        pass
    assert energy.joules == pytest.approx(5 + 10)


def test_without_a_sensor_the_reason_is_on_record(tmp_path: Path) -> None:
    assert not isinstance(find_sensor(tmp_path), Rapl)
    with energy_of_block(tmp_path) as energy:
        pass
    assert "no power sensor" in energy.record(3)["reason"]
    assert Energy(joules=1.0).record(0) == {
        "measured": False,
        "reason": "no field was examined",
    }


def _core(root: Path, governor: str, low: int, high: int) -> None:
    for core in (0, 1):
        folder = f"devices/system/cpu/cpu{core}/cpufreq"
        _files(
            root,
            {
                f"{folder}/scaling_governor": governor,
                f"{folder}/scaling_min_freq": str(low),
                f"{folder}/scaling_max_freq": str(high),
            },
        )


@pytest.mark.parametrize(
    ("governor", "low", "no_turbo", "fixed"),
    [
        ("performance", 800, "1", True),
        ("performance", 800, "0", False),
        ("schedutil", 800, None, False),
        ("schedutil", 1500, None, True),
    ],
)
def test_clocks_are_fixed_or_not(
    tmp_path: Path, governor: str, low: int, no_turbo: str | None, fixed: bool
) -> None:
    _core(tmp_path, governor, 1000 * low, 1_500_000)
    if no_turbo is not None:
        _files(tmp_path, {"devices/system/cpu/intel_pstate/no_turbo": no_turbo})
    facts = clock_facts(tmp_path, lambda: "NV Power Mode: MAXN 0")
    assert facts["fixed"] is fixed
    assert facts["governors"] == {governor: 2}
    assert facts["range_mhz"] == [low, 1500]
    assert facts["nvpmodel"] == "NV Power Mode: MAXN 0"
    assert facts["note"].startswith("clocks fixed" if fixed else "clocks not fixed")


def test_a_machine_that_hides_its_clocks_is_not_called_fixed(tmp_path: Path) -> None:
    facts = clock_facts(tmp_path, lambda: None)
    assert facts["fixed"] is None
    assert facts["governors"] is None
    assert "not known" in facts["note"]
