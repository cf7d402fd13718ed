"""The first-boot script and the inbox: what they refuse, and a whole installation offline."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.signed_bundles import drawn_key, public

TOOLS = ("systemd-sysusers", "systemd-tmpfiles", "systemctl", "setpriv", "sha256sum")


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other users may enter, which pytest's own are not."""
    folder = Path(tempfile.mkdtemp(prefix="leukoscope-first-boot-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def as_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("makes a user in a folder's passwd, which needs root")
    absent = [tool for tool in TOOLS if shutil.which(tool) is None]
    if absent:
        pytest.skip(f"not installed here: {', '.join(absent)}")


def first_boot(repository: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", str(repository / "provisioning/first-boot.sh"), *map(str, arguments)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def refused(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 2, done
    last = done.stderr.splitlines()[-1]
    assert last.startswith("first-boot: ")
    return last


def test_what_it_refuses_it_refuses_before_it_changes_anything(
    repository: Path, as_root: None, tmp_path: Path
) -> None:
    payload, root = tmp_path / "payload", tmp_path / "root"
    root.mkdir()

    def call(*more: str) -> str:
        return refused(first_boot(repository, "--payload", payload, "--root", root, *more))

    assert "--payload FOLDER is missing" in refused(first_boot(repository, "--root", root))
    assert "unknown" in refused(first_boot(repository, "--colour", "red"))
    assert "is no folder" in call()
    wheels = payload / "wheels"
    wheels.mkdir(parents=True)
    assert "SHA256SUMS is missing" in call()
    (wheels / "leukoscope-1.0-py3-none-any.whl").write_bytes(b"one")
    done = subprocess.run(
        "sha256sum *.whl > SHA256SUMS", shell=True, cwd=wheels, check=True, text=True
    )
    assert done.returncode == 0
    assert "no pip wheel" in call()
    (wheels / "pip-1.0-py3-none-any.whl").write_bytes(b"two")
    assert "pip-1.0-py3-none-any.whl is not in SHA256SUMS" in call()
    subprocess.run("sha256sum *.whl > SHA256SUMS", shell=True, cwd=wheels, check=True)
    assert "this board is not known; name a --profile" in call()
    assert "profile moon: no such file" in call("--profile", "moon")
    (wheels / "pip-1.0-py3-none-any.whl").write_bytes(b"twa")
    assert "a wheel is damaged" in call("--profile", "x86-rtx")
    assert list(root.iterdir()) == []


def test_the_inbox_sorts_bundles_by_what_the_device_says(repository: Path, tmp_path: Path) -> None:
    inbox, settings = tmp_path / "inbox", tmp_path / "settings.toml"
    inbox.mkdir()
    command = tmp_path / "leukoscope"
    command.write_text(
        '#!/bin/sh\necho "asked: $*"\ncase $3 in */good.zip) exit 0 ;; esac\nexit 2\n'
    )
    command.chmod(0o755)
    for name in ("good.zip", "bad.zip", "half.zip.part"):
        (inbox / name).write_bytes(b"bundle")
    (inbox / "link.zip").symlink_to("/etc/passwd")
    key = tmp_path / "key.json"
    key.write_text("trusted")
    (inbox / ".bad.zip.log").symlink_to(key)
    script = repository / "provisioning/libexec/leukoscope-inbox"

    def call() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["sh", str(script), str(inbox), str(settings), str(command), "0.05"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    done = call()
    assert done.returncode == 1, "one was refused"
    assert sorted(path.name for path in (inbox / "installed").iterdir()) == [
        "good.zip", "good.zip.log"
    ]  # fmt: skip
    assert {path.name for path in (inbox / "refused").iterdir()} == {
        "bad.zip", "bad.zip.log", "link.zip", "link.zip.log"
    }  # fmt: skip
    assert (inbox / "installed/good.zip.log").read_text() == (
        f"asked: device install {inbox}/good.zip --settings {settings}\n"
    )
    assert "not a plain file" in (inbox / "refused/link.zip.log").read_text()
    assert (inbox / "half.zip.part").exists()
    assert not list(inbox.glob("*.zip"))
    assert key.read_text() == "trusted", "nothing is written through a link in the inbox"
    assert call().returncode == 0


def test_the_inbox_moves_nothing_into_a_folder_that_others_chose(
    repository: Path, tmp_path: Path
) -> None:
    inbox, slot = tmp_path / "inbox", tmp_path / "slot"
    inbox.mkdir()
    slot.mkdir()
    (slot / "bundle.zip").write_bytes(b"active")
    (inbox / "refused").symlink_to(slot)
    (inbox / "bundle.zip").write_bytes(b"forged")
    done = subprocess.run(
        ["sh", repository / "provisioning/libexec/leukoscope-inbox", inbox, "x", "false", "0.05"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "refused: not a folder of this user's own" in done.stderr
    assert (slot / "bundle.zip").read_bytes() == b"active"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_whole_device_offline_in_a_fresh_root(
    repository: Path, as_root: None, open_folder: Path
) -> None:
    named = os.environ.get("LEUKOSCOPE_WHEELS")
    if not named:
        pytest.skip(
            "set LEUKOSCOPE_WHEELS to a folder of collect_wheels.py for this machine's own "
            "python3 (or that of LEUKOSCOPE_PYTHON)"
        )
    pytest.importorskip("onnx", reason="the toy model is made with onnx; leukoscope[export]")
    from tests.edge_runtime.device.conftest import signed_toy

    payload, root = open_folder / "payload", open_folder / "root"
    for folder in (payload / "keys", payload / "bundles", root):
        folder.mkdir(parents=True)
    shutil.copytree(named, payload / "wheels")
    (payload / "keys/lab.json").write_bytes(public(drawn_key(1)).to_bytes())
    made = open_folder / "made"
    made.mkdir()
    shutil.copy(signed_toy(made), payload / "bundles/toy.zip")
    # As on a card that only root may read.
    payload.chmod(0o700)
    python = os.environ.get("LEUKOSCOPE_PYTHON", "/usr/bin/python3")
    call = ("--payload", payload, "--root", root, "--profile", "raspberry-pi-5", "--python", python)
    done = first_boot(repository, *call)
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert "toy-discs-0.1.0 is active, in slot a" in done.stdout
    assert "a film can run here, on backend onnxruntime" in done.stdout
    users = (root / "etc/passwd").read_text()
    (user,) = (line.split(":") for line in users.splitlines() if line.startswith("leukoscope:"))
    state = root / "var/lib/leukoscope"
    assert (state / "device/state.json").stat().st_uid == int(user[2]) != 0
    assert stat.S_IMODE((state / "device").stat().st_mode) == 0o755
    wants = root / "etc/systemd/system/multi-user.target.wants"
    assert {path.name for path in wants.iterdir()} == {
        "leukoscope-doctor.service", "leukoscope-inbox.path"
    }  # fmt: skip
    assert (state / "first-boot.done").exists()
    assert not list(state.glob("first-boot.??????"))
    current = (root / "opt/leukoscope/current").resolve()
    before = current.stat().st_mtime_ns
    again = first_boot(repository, *call)
    assert again.returncode == 0, again.stderr
    assert "left alone" in again.stdout
    assert "is active already" in again.stdout
    assert current.stat().st_mtime_ns == before
    answer = subprocess.run(
        [
            *(current / "bin/leukoscope", "doctor", "--json", "--backend", "tensorrt"),
            *("--root", state / "device"),
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert answer.returncode == 1
    assert json.loads(answer.stdout)["can_run"] is False
