"""From a bundle folder to a device that runs it, through the commands a person types."""

from __future__ import annotations

import json
import stat
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from edge_runtime import cli
from edge_runtime.bundle import open_bundle
from edge_runtime.film_report import RESEARCH_USE
from export import bundle_cli
from export.bundle_writer import draft_of, write_bundle
from export.signing import new_signing_key, read_private_key, write_private_key
from tests.support import paint_field, write_image
from tests.toy_heads import classifier_part, head_part, write_toy_bundle

assert bundle_cli.app.registered_commands


@dataclass
class Answer:
    """What one call of the command left behind."""

    code: int
    out: str
    err: str

    def refusal(self) -> str:
        assert self.code == 2, (self.code, self.out, self.err)
        assert self.err.count("\n") == 1, self.err
        assert self.err.startswith("leukoscope: ")
        return self.err


Leukoscope = Callable[..., Answer]


@pytest.fixture
def leukoscope(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Leukoscope:
    """Calls the command in this process; it must end well unless ``code`` says otherwise."""

    def call(*arguments: str | Path, code: int = 0) -> Answer:
        monkeypatch.setattr(sys, "argv", ["leukoscope", *map(str, arguments)])
        capfd.readouterr()
        ended: Any = 0
        try:
            cli.main()
        except SystemExit as end:
            ended = end.code
        told = capfd.readouterr()
        answer = Answer(int(ended or 0), told.out, told.err)
        assert answer.code == code, answer
        return answer

    return call


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("exported") / "bundle"
    return write_toy_bundle(made, classifier=classifier_part(), head=head_part())


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("fields")
    discs = {"navy": [(40.0, 40.0, 30.0)], "plum": [(110.0, 60.0, 44.0)]}
    write_image(made / "a.png", paint_field(160, 120, stained=discs, seed=1))
    write_image(made / "b.png", paint_field(160, 120, [(80.0, 60.0, 36.0)], seed=2))
    return made


def new_key(leukoscope: Leukoscope, folder: Path, name: str = "lab") -> tuple[Path, Path]:
    private, public = folder / f"{name}.pem", folder / f"{name}.json"
    leukoscope(
        "bundle", "key", private, "--public", public, "--name", name, "--no-passphrase",
        "--first-day", "2026-01-01", "--days", "3650",
    )  # fmt: skip
    return private, public


@pytest.fixture
def keys(leukoscope: Leukoscope, tmp_path: Path) -> tuple[Path, Path]:
    return new_key(leukoscope, tmp_path)


@pytest.fixture
def create(
    leukoscope: Leukoscope, folder: Path, pictures: Path, keys: tuple[Path, Path], tmp_path: Path
) -> Callable[..., Path]:
    """``leukoscope bundle create`` with the first key."""

    def call(version: str = "1.0.0", *more: str | Path) -> Path:
        out = tmp_path / f"{version}.zip"
        leukoscope(
            "bundle", "create", folder, "--out", out, "--key", keys[0], "--version", version,
            "--golden-fields", pictures, *more,
        )  # fmt: skip
        return out

    return call


def test_a_key_pair_stays_with_its_owner(leukoscope: Leukoscope, tmp_path: Path) -> None:
    private, public = new_key(leukoscope, tmp_path)
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert b"PRIVATE KEY" in private.read_bytes()
    document = json.loads(public.read_text())
    assert document["not_before"] == "2026-01-01"
    assert document["revoked"] is False
    assert set(document) == {"format", "name", "public_key", "not_before", "not_after", "revoked"}
    before = private.read_bytes()
    again = leukoscope(
        "bundle", "key", private, "--public", tmp_path / "x.json", "--name", "x",
        "--no-passphrase", code=2,
    )  # fmt: skip
    assert "not overwritten" in again.refusal()
    assert private.read_bytes() == before


def test_a_private_key_is_never_written_over(leukoscope: Leukoscope, tmp_path: Path) -> None:
    private, public = new_key(leukoscope, tmp_path)
    before = private.read_bytes()
    answer = leukoscope("bundle", "sign", public, "--key", private, "--out", private, code=2)
    assert "is no public key file" in answer.refusal()
    assert private.read_bytes() == before
    # Nor is a new one by its own public half.
    same = tmp_path / "same.pem"
    answer = leukoscope(
        "bundle", "key", same, "--public", same, "--name", "x", "--no-passphrase", code=2
    )
    assert "the private key's own file" in answer.refusal()
    assert not same.exists()


def test_there_is_no_private_key_without_its_public_half(
    leukoscope: Leukoscope, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    answer = leukoscope(
        "bundle", "key", tmp_path / "lab.pem", "--public", tmp_path / "file" / "lab.json",
        "--name", "x", "--no-passphrase", code=2,
    )  # fmt: skip
    assert "--public" in answer.refusal()
    assert not (tmp_path / "lab.pem").exists()


def test_a_passphrase_protects_a_key(
    leukoscope: Leukoscope, create: Callable[..., Path], tmp_path: Path
) -> None:
    secret, wrong = tmp_path / "secret", tmp_path / "wrong"
    secret.write_text("open sesame\n")
    wrong.write_text("open barley\n")
    private = tmp_path / "kept.pem"
    leukoscope(
        "bundle", "key", private, "--public", tmp_path / "kept.json", "--name", "kept",
        "--passphrase-file", secret,
    )  # fmt: skip
    assert b"ENCRYPTED" in private.read_bytes()
    made = create()
    for extra, words in (
        ([], "protected; give --passphrase-file"),
        (["--passphrase-file", wrong], "wrong passphrase"),
        (["--passphrase-file", tmp_path / "absent"], "name a readable file"),
    ):
        answer = leukoscope("bundle", "sign", made, "--key", private, *extra, code=2)
        assert words in answer.refusal()
    leukoscope("bundle", "sign", made, "--key", private, "--passphrase-file", secret)
    no_terminal = leukoscope(
        "bundle", "key", tmp_path / "y.pem", "--public", tmp_path / "y.json", "--name", "y", code=2
    )
    assert "--no-passphrase" in no_terminal.refusal()
    assert not (tmp_path / "y.pem").exists()


def test_a_key_that_others_can_read_is_not_used(
    leukoscope: Leukoscope, create: Callable[..., Path], keys: tuple[Path, Path]
) -> None:
    made = create()
    keys[0].chmod(0o640)
    answer = leukoscope("bundle", "sign", made, "--key", keys[0], code=2)
    assert "chmod 600" in answer.refusal()


def test_what_is_no_private_key_is_one_line(
    leukoscope: Leukoscope, create: Callable[..., Path], keys: tuple[Path, Path], tmp_path: Path
) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    made = create()
    other = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    for name, raw, words in (
        ("ec.pem", other, "another kind of key"),
        ("text.pem", b"hello", "no private key in PEM"),
        ("public.pem", keys[1].read_bytes(), "no private key in PEM"),
    ):
        path = tmp_path / name
        path.write_bytes(raw)
        path.chmod(0o600)
        answer = leukoscope("bundle", "sign", made, "--key", path, code=2)
        assert words in answer.refusal()


def test_a_key_is_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edge_runtime.errors import StoreError

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("export.signing.os.fsync", full)
    with pytest.raises(StoreError, match="No space left"):
        write_private_key(new_signing_key(), tmp_path / "k.pem", None)
    assert not (tmp_path / "k.pem").exists()


def test_the_same_inputs_give_the_same_bytes(
    create: Callable[..., Path], leukoscope: Leukoscope, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    first = create().read_bytes()
    (tmp_path / "1.0.0.zip").unlink()
    assert create().read_bytes() == first
    # Made again from the signed file, with its golden data.
    again = tmp_path / "again.zip"
    leukoscope(
        "bundle", "create", tmp_path / "1.0.0.zip", "--out", again, "--key", keys[0],
    )  # fmt: skip
    assert again.read_bytes() == first


def test_the_card_is_of_the_version_that_is_made(create: Callable[..., Path]) -> None:
    opened = open_bundle(create("7.8.9"))
    page = opened.contents["model_card.md"].decode()
    assert f"- Bundle: {opened.id}\n" in page
    assert opened.id.endswith("-7.8.9")


def test_a_report_and_golden_data_are_ordinary_files(
    create: Callable[..., Path], leukoscope: Leukoscope, folder: Path, tmp_path: Path
) -> None:
    report = tmp_path / "report"
    report.mkdir()
    (report / "calibration.html").write_text("<p>ranges</p>")
    (report / "calibration_report.json").write_text("{}")
    opened = open_bundle(create("1.0.0", "--calibration-report", report))
    assert opened.contents["calibration/calibration.html"] == b"<p>ranges</p>"
    assert "calibration/calibration_report.json" in opened.contents
    assert opened.manifest.golden is not None
    assert len(opened.manifest.golden.fields) == 2
    before = open_bundle(folder).contents
    assert {name: opened.contents[name] for name in before} == before
    (report / "calibration.html").unlink()
    answer = leukoscope(
        "bundle", "create", folder, "--out", tmp_path / "x.zip", "--calibration-report", report,
        code=2,
    )  # fmt: skip
    assert "calibration.html: No such file" in answer.refusal()
    assert not (tmp_path / "x.zip").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--out", "folder"], "ending in .zip"),
        (["--out", "x.zip", "--key", "absent.pem"], "name a readable file"),
        (["--out", "x.zip", "--golden-fields", "absent"], "no such folder"),
        (["--out", "x.zip", "--version", "one"], "version"),
        (["--out", "x.zip", "--largest-mb", "0.001"], "at most 0.001 MB"),
    ],
)
def test_create_refuses_in_one_line(
    leukoscope: Leukoscope,
    folder: Path,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    if "--golden-fields" not in arguments:
        arguments = [*arguments, "--golden-fields", str(pictures)]
    answer = leukoscope("bundle", "create", folder, *arguments, code=2)
    # Golden data are said on the way; the last line is the refusal.
    last = answer.err.splitlines()[-1]
    assert last.startswith("leukoscope: ")
    assert words in last
    assert list(tmp_path.iterdir()) == []


def test_verify_tells_signed_from_unsigned(
    create: Callable[..., Path], leukoscope: Leukoscope, folder: Path, tmp_path: Path
) -> None:
    made = create()
    trusted = tmp_path / "trusted"
    trusted.mkdir()
    assert "signatures not checked" in leukoscope("bundle", "verify", made).out
    assert "not signed" in leukoscope("bundle", "verify", folder).out
    empty = leukoscope("bundle", "verify", made, "--keys", trusted, code=2)
    assert "trusted here: none" in empty.refusal()
    (trusted / "lab.json").write_bytes((tmp_path / "lab.json").read_bytes())
    assert "signed by lab (" in leukoscope("bundle", "verify", made, "--keys", trusted).out
    unsigned = leukoscope("bundle", "verify", folder, "--keys", trusted, code=2)
    assert "not signed" in unsigned.refusal()


def test_signatures_are_added_and_stay(
    create: Callable[..., Path], leukoscope: Leukoscope, tmp_path: Path
) -> None:
    made = create()
    whole = made.read_bytes()
    second, public = new_key(leukoscope, tmp_path, "second")
    leukoscope("bundle", "sign", made, "--key", second, "--out", tmp_path / "both.zip")
    assert made.read_bytes() == whole
    trusted = tmp_path / "trusted"
    trusted.mkdir()
    for name in ("lab.json", "second.json"):
        (trusted / name).write_bytes((tmp_path / name).read_bytes())
        both = leukoscope("bundle", "verify", tmp_path / "both.zip", "--keys", trusted)
    assert "lab (" in both.out
    assert "second (" in both.out
    # The same key again changes nothing.
    before = (tmp_path / "both.zip").read_bytes()
    leukoscope("bundle", "sign", tmp_path / "both.zip", "--key", second)
    assert (tmp_path / "both.zip").read_bytes() == before
    vouched = leukoscope("bundle", "sign", public, "--key", tmp_path / "lab.pem")
    assert "signed by" in vouched.out
    assert len(json.loads(public.read_text())["signatures"]) == 1


def test_diff_names_what_differs(
    create: Callable[..., Path], leukoscope: Leukoscope, folder: Path
) -> None:
    first, second = create("1.0.0"), create("1.1.0")
    assert leukoscope("bundle", "diff", first, first).out == "no difference\n"
    told = leukoscope("bundle", "diff", first, second, code=1).out
    version, card = told.splitlines()
    assert version == 'version: "1.0.0" -> "1.1.0"'
    assert card.startswith("file model_card.md: ")
    wide = leukoscope("bundle", "diff", folder, first, code=1).out
    assert "file golden/field_0.bmp: added" in wide
    assert "signatures (not checked): none -> " in wide


def test_a_bundle_cannot_speak_for_the_program(
    leukoscope: Leukoscope, folder: Path, tmp_path: Path
) -> None:
    source = open_bundle(folder)
    title = "Discs\nsigned by lab\x1b[2J\u202e"
    card = source.manifest.model_card.model_copy(update={"title": title})
    forged = tmp_path / "forged"
    write_bundle(replace(draft_of(source), model_card=card), forged)
    for told in (
        leukoscope("bundle", "inspect", forged).out,
        leukoscope("bundle", "diff", folder, forged, code=1).out,
    ):
        assert "Discs" in told
        assert "\nsigned by lab" not in told
        assert not {"\x1b", "\u202e"} & set(told)


@pytest.mark.parametrize("version", ["\u0661.\u0662.\u0663", "1.2.1000000000"])
def test_no_version_is_given_that_no_device_takes(
    leukoscope: Leukoscope, folder: Path, pictures: Path, tmp_path: Path, version: str
) -> None:
    answer = leukoscope(
        "bundle", "create", folder, "--out", tmp_path / "x.zip", "--version", version,
        "--golden-fields", pictures, code=2,
    )  # fmt: skip
    assert "version: String should match" in answer.err
    assert not (tmp_path / "x.zip").exists()


def test_inspect_says_what_is_inside(create: Callable[..., Path], leukoscope: Leukoscope) -> None:
    told = leukoscope("bundle", "inspect", create()).out
    assert "toy-discs-1.0.0: Purple discs" in told
    assert "(not checked)" in told
    assert "golden data: cpu (3 cells in 2 fields, onnxruntime" in told
    assert "classifier.onnx: cpu, float32" in told
    assert RESEARCH_USE in told


def test_a_device_installs_runs_and_goes_back(
    create: Callable[..., Path],
    leukoscope: Leukoscope,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root, out = tmp_path / "device", tmp_path / "film"
    first, second = create("1.0.0"), create("2.0.0")
    no_root = leukoscope("device", "status", code=2)
    assert "give --root" in no_root.refusal()
    assert "device trust" in leukoscope("device", "install", first, "--root", root, code=2).err
    monkeypatch.setenv("LEUKOSCOPE_DEVICE_ROOT", str(root))
    assert "taken: lab (" in leukoscope("device", "trust", tmp_path / "lab.json").out
    assert "no installed bundle can start" in leukoscope("device", "status", code=2).err
    installed = leukoscope("device", "install", first).out
    assert "classifier: passed, 3 cells, probabilities off by 0.000" in installed
    assert "no engine built" in installed
    assert "toy-discs-1.0.0 is active, in slot a" in installed
    leukoscope("device", "install", second)
    told = leukoscope("device", "status").out
    assert "slot a: previous, toy-discs-1.0.0" in told
    assert "slot b: active, toy-discs-2.0.0, signed by lab (" in told
    assert "highest version: 2.0.0" in told
    leukoscope("run", "--source", pictures, "--out", out, "--threads", "1")
    film = json.loads((out / "film.json").read_text())
    assert film["bundle"]["id"] == "toy-discs-2.0.0"
    assert [each.partition(" (")[0] for each in film["bundle"]["signed_by"]] == ["lab"]
    assert film["settings"]["device_root"] == str(root)
    assert film["totals"]["cells"] == 3
    assert "toy-discs-1.0.0 is active" in leukoscope("device", "rollback").out
    assert "passed" in leukoscope("device", "build-engines").out
    assert "older than 2.0.0" in leukoscope("device", "install", create("1.5.0"), code=2).err
    leukoscope("device", "install", create("1.5.0"), "--allow-downgrade")
    events = [json.loads(line) for line in (root / "audit.jsonl").read_text().splitlines()]
    assert events[-1]["downgrade"] is True


def test_run_asks_for_a_signature_where_keys_are_trusted(
    create: Callable[..., Path],
    leukoscope: Leukoscope,
    folder: Path,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made, trusted = create(), tmp_path / "trusted"
    trusted.mkdir()
    (trusted / "lab.json").write_bytes((tmp_path / "lab.json").read_bytes())
    run = ["run", "--source", pictures, "--out", tmp_path / "film", "--threads", "1"]
    leukoscope(*run, "--bundle", folder)
    assert json.loads((tmp_path / "film/film.json").read_text())["bundle"]["signed_by"] == []
    monkeypatch.setenv("LEUKOSCOPE_TRUSTED_KEYS", str(trusted))
    assert "not signed" in leukoscope(*run, "--bundle", folder, code=2).refusal()
    # The shipped bundle is not signed either.
    assert "not signed" in leukoscope(*run, code=2).refusal()
    leukoscope(*run, "--bundle", made)
    (trusted / "lab.json").unlink()
    assert "unknown here" in leukoscope(*run, "--bundle", made, code=2).refusal()


def test_a_revocation_comes_from_the_key_itself(
    create: Callable[..., Path], leukoscope: Leukoscope, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    root, revocation = tmp_path / "device", tmp_path / "revoked.json"
    leukoscope("device", "trust", keys[1], "--root", root)
    leukoscope(
        "bundle", "key", keys[0], "--public", revocation, "--name", "lab", "--revoke",
        "--first-day", "2026-01-01",
    )  # fmt: skip
    told = leukoscope("device", "trust", revocation, "--root", root)
    assert "was revoked" in told.out
    assert "was revoked" in leukoscope("device", "install", create(), "--root", root, code=2).err


def test_a_private_key_comes_back(tmp_path: Path) -> None:
    made = new_signing_key()
    for name, secret in (("plain", None), ("protected", b"secret")):
        path = tmp_path / name
        write_private_key(made, path, secret)
        assert read_private_key(path, secret).key_id == made.key_id
