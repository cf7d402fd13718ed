"""Units, profiles and scripts are what systemd, the settings and a shell accept."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import typer

from edge_runtime.backends import row_named
from edge_runtime.settings import load_settings

HARDENED = ("leukoscope-doctor.service", "leukoscope-film@.service", "leukoscope-inbox.service")
# The page listens, so it has a network; the rest holds for it as well.
SERVE = "leukoscope-serve.service"
# As `systemd-analyze security` of systemd 252 judges them, in tenths.
MOST_EXPOSED = 10
MOST_EXPOSED_SERVING = 16


@pytest.fixture
def provisioning(repository: Path) -> Path:
    return repository / "provisioning"


def needs(tool: str) -> None:
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed here")


def test_systemd_accepts_the_units(provisioning: Path, tmp_path: Path) -> None:
    needs("systemd-analyze")
    # Programs are looked for; here they are stand-ins, so that everything said counts.
    units = tmp_path / "units"
    shutil.copytree(provisioning / "systemd", units)
    (units / "jetson-gpu.conf").unlink()
    drop_in = units / "leukoscope-film@.service.d"
    drop_in.mkdir()
    shutil.copy(provisioning / "systemd" / "jetson-gpu.conf", drop_in)
    for path in units.glob("*.service"):
        path.write_text(re.sub(r"/opt/leukoscope/\S+/\S+", "/bin/true", path.read_text()))
    for path in sorted(units.glob("*.*")):
        if path.is_dir():
            continue
        name = path.name.replace("@.", "@slide-1.")
        done = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", str(path.with_name(name))],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        ours = [line for line in done.stderr.splitlines() if "leukoscope" in line]
        assert (done.returncode, ours) == (0, []), name


def test_the_units_are_hardened(provisioning: Path) -> None:
    needs("systemd-analyze")
    for name in (*HARDENED, SERVE):
        most = MOST_EXPOSED_SERVING if name == SERVE else MOST_EXPOSED
        done = subprocess.run(
            [
                *("systemd-analyze", "security", "--offline=true"),
                *(f"--threshold={most}", "--no-pager"),
                str(provisioning / "systemd" / name),
            ],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if "unrecognized option" in done.stderr:
            pytest.skip("this systemd-analyze judges no files")
        assert done.returncode == 0, (name, done.stdout[-300:], done.stderr)


def test_only_what_must_be_is_writable(provisioning: Path) -> None:
    for name in (*HARDENED, SERVE):
        text = (provisioning / "systemd" / name).read_text()
        for line in ("User=leukoscope", "ProtectSystem=strict", "NoNewPrivileges=yes",
                     "DevicePolicy=closed", "IPAddressDeny=any"):  # fmt: skip
            assert f"\n{line}\n" in text, (name, line)
        assert ("\nPrivateNetwork=yes\n" in text) == (name != SERVE), name
        assert not re.search(r"^(WatchdogSec|PrivateDevices=yes)", text, re.M), name
        writable = ["/var/lib/leukoscope/inbox"] if "inbox" in name else []
        assert re.findall(r"^ReadWritePaths=(.*)$", text, re.M) == writable, name
    # systemd sets the mode of a StateDirectory at every start, and tmpfiles.d's is another.
    inbox = (provisioning / "systemd" / "leukoscope-inbox.service").read_text()
    assert re.findall(r"^StateDirectory=(.*)$", inbox, re.M) == ["leukoscope/device"]
    folders = (provisioning / "tmpfiles.d" / "leukoscope.conf").read_text()
    assert re.search(r"^d /var/lib/leukoscope/inbox +3770 ", folders, re.M)
    film = (provisioning / "systemd" / "leukoscope-film@.service").read_text()
    assert re.findall(r"^StateDirectory=(.*)$", film, re.M) == ["leukoscope/reports"]
    serve = (provisioning / "systemd" / SERVE).read_text()
    assert re.findall(r"^StateDirectory=(.*)$", serve, re.M) == ["leukoscope/clinic"]
    assert re.findall(r"^IPAddressAllow=(.*)$", serve, re.M) == ["localhost"]


def test_the_page_s_unit_gives_flags_that_the_command_has(provisioning: Path) -> None:
    from edge_runtime.serve_cli import app

    text = (provisioning / "systemd" / SERVE).read_text().replace("\\\n", " ")
    (start,) = re.findall(r"^ExecStart=(.*)$", text, re.M)
    known = {flag for each in typer.main.get_command(app).params for flag in each.opts}
    assert {word for word in start.split() if word.startswith("--")} <= known
    # Only a signal that lets a film end in order, and no second try of what was refused.
    assert "KillSignal" not in text
    assert "\nRestartPreventExitStatus=2\n" in text


@pytest.mark.parametrize(
    ("profile", "backend"),
    [
        ("orin-nano", "tensorrt"),
        ("orin-nx", "tensorrt"),
        ("agx-orin", "tensorrt"),
        ("raspberry-pi-5", "onnxruntime"),
        ("x86-rtx", "tensorrt-rtx"),
    ],
)
def test_every_profile_is_settings(provisioning: Path, profile: str, backend: str) -> None:
    settings = load_settings(provisioning / "profiles" / f"{profile}.toml", environment={})
    assert row_named(settings.backend).name == backend
    assert settings.device_root == Path("/var/lib/leukoscope/device")
    assert settings.threads >= 2
    assert {path.stem for path in (provisioning / "profiles").iterdir()} == {
        "orin-nano", "orin-nx", "agx-orin", "raspberry-pi-5", "x86-rtx"
    }  # fmt: skip


def test_shellcheck_finds_nothing(provisioning: Path) -> None:
    needs("shellcheck")
    scripts = [provisioning / "first-boot.sh", provisioning / "libexec" / "leukoscope-inbox"]
    done = subprocess.run(
        ["shellcheck", *map(str, scripts)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_cloud_init_runs_the_first_boot_script(provisioning: Path) -> None:
    yaml = pytest.importorskip("yaml", reason="pyyaml comes with leukoscope[export]")
    text = (provisioning / "cloud-init" / "user-data").read_text()
    assert text.startswith("#cloud-config\n")
    document = yaml.safe_load(text)
    (command,) = document["runcmd"]
    assert command[0] == "sh"
    assert command[1].endswith("payload/provisioning/first-boot.sh")
    assert command[2:] == ["--payload", "/mnt/leukoscope/payload"]
