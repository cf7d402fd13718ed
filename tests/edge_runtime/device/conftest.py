"""A signed bundle of the toy detector that has everything an installation asks for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edge_runtime.bundle import SIGNATURES_NAME, open_bundle
from edge_runtime.signature import manifest_message, signatures_to_bytes
from tests.signed_bundles import drawn_key, write_zip
from tests.support import MODEL_NAME, manifest_of, paint_field, toy_detector, write_bundle

BOTH = ("cpu", "tensorrt")


def signed_toy(folder: Path, runtimes: tuple[str, ...] = BOTH) -> Path:
    """A bundle file for these runtime families, with golden data, signed by ``drawn_key(1)``."""
    from export.bundle_writer import draft_of
    from export.bundle_writer import write_bundle as write_draft
    from export.golden import make_golden

    files = {MODEL_NAME: toy_detector()}
    document = manifest_of(files)
    artifact = document["detector"]["artifacts"][0]
    document["detector"]["artifacts"] = [artifact | {"runtime": each} for each in runtimes]
    plain = open_bundle(write_bundle(folder / "plain", files, document))
    fields = [paint_field(160, 120, [(80.0, 60.0, 36.0)], seed=2)]
    spec, golden = make_golden(plain, fields, None)
    contents = {**plain.contents, **golden}
    draft = replace(draft_of(plain), golden=spec, contents=contents)
    made = write_draft(draft, folder / "unsigned.zip")
    signature = drawn_key(1).sign(manifest_message(made.manifest_bytes))
    signed = {**made.files, SIGNATURES_NAME: signatures_to_bytes([signature])}
    return write_zip(signed, folder / "signed.zip")


@pytest.fixture(scope="session")
def toy_for_both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For the processor and for TensorRT."""
    pytest.importorskip("onnx", reason="the toy model is made with onnx; leukoscope[export]")
    return signed_toy(tmp_path_factory.mktemp("both"))


@pytest.fixture(scope="session")
def toy_for_cpu(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For the processor alone."""
    pytest.importorskip("onnx", reason="the toy model is made with onnx; leukoscope[export]")
    return signed_toy(tmp_path_factory.mktemp("cpu"), ("cpu",))
