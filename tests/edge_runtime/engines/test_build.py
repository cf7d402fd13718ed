"""Building and keeping engines, on the recording library."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import pytest

from edge_runtime.bundle import Bundle, open_bundle, shipped_bundle_path
from edge_runtime.engines.cache import EngineCache, default_folder
from edge_runtime.engines.for_bundle import (
    BuiltEngine,
    EngineTarget,
    build_engine,
    build_for_bundle,
    engine_target,
)
from edge_runtime.engines.tensorrt_api import flavour_named
from edge_runtime.errors import BackendError, BundleError, StoreError
from tests.recording_tensorrt import RecordingGpu, RecordingTensorRt
from tests.support import toy_detector
from tests.toy_heads import toy_classifier

FULL = flavour_named("tensorrt")
RTX = flavour_named("tensorrt-rtx")


def target_of(api: RecordingTensorRt) -> EngineTarget:
    return engine_target(FULL, api=api.typed(), device=api.gpu)


def build(
    folder: Path, api: RecordingTensorRt, model: bytes | None = None, said: list[str] | None = None
) -> BuiltEngine:
    lines = [] if said is None else said
    return build_engine(
        EngineCache(folder),
        target_of(api),
        toy_detector() if model is None else model,
        artifact="detector.onnx",
        say=lines.append,
        now=lambda: datetime(2026, 11, 21, tzinfo=timezone.utc),
        clock=iter([1.0, 3.5]).__next__,
    )


@pytest.fixture(scope="module")
def shipped() -> Bundle:
    return open_bundle(shipped_bundle_path())


@pytest.fixture(scope="module")
def quantised(shipped: Bundle) -> bytes:
    return shipped.contents["classifier.tensorrt.int8.onnx"]


@pytest.mark.parametrize(
    ("version", "network", "flags"),
    [
        # Strong typing alone decides from 10 on; 11 knows no explicit batch any more.
        ("11.4.1", "network 1", []),
        ("10.3.0", "network 3", []),
        # Before, exactly the types of the graph are allowed: int8 for its Q/DQ pairs.
        ("8.6.1", "network 1", ["flag INT8"]),
    ],
)
def test_each_release_is_held_to_the_graphs_types(
    version: str, network: str, flags: list[str], quantised: bytes, tmp_path: Path
) -> None:
    api = RecordingTensorRt(version=version)
    record = build(tmp_path, api, quantised).record
    assert api.calls == [network, *flags, "timing b''", "build"]
    assert record.strongly_typed == (version != "8.6.1")


def test_an_old_release_is_not_allowed_int8_without_pairs(tmp_path: Path) -> None:
    api = RecordingTensorRt(version="8.6.1")
    build(tmp_path, api)
    assert not [call for call in api.calls if call.startswith("flag")]


def test_the_record_says_what_it_is_and_the_inspector_what_runs(
    quantised: bytes, tmp_path: Path
) -> None:
    engine = build(tmp_path, RecordingTensorRt(), quantised)
    record = engine.record
    assert engine.built
    assert (record.capabilities, record.version) == (("8.7",), "10.3.0")
    assert (record.built_at, record.seconds) == ("2026-11-21T00:00:00+00:00", 2.5)
    assert record.cells == (1, 16, 64)
    assert record.layers_from == "engine inspector"
    assert len(record.convolutions) == 15
    assert {(row.asked, row.runs) for row in record.convolutions} == {("int8", "int8")}
    assert json.loads((tmp_path / f"{record.key}.json").read_text())["sha256"] == record.sha256
    assert engine.path.stat().st_size == record.size


def test_the_same_engine_is_not_built_twice(tmp_path: Path) -> None:
    api = RecordingTensorRt()
    first = build(tmp_path, api)
    api.calls.clear()
    again = build(tmp_path, api)
    assert (first.built, again.built, api.calls) == (True, False, [])
    assert again.record == first.record


def test_another_release_gpu_or_model_is_another_engine(tmp_path: Path) -> None:
    engines = [
        build(tmp_path, RecordingTensorRt()),
        build(tmp_path, RecordingTensorRt(version="10.16.0")),
        build(tmp_path, RecordingTensorRt(gpu=RecordingGpu(capability="7.2"))),
        build(tmp_path, RecordingTensorRt(), toy_classifier()),
    ]
    assert all(engine.built for engine in engines)
    assert len({engine.record.key for engine in engines}) == 4
    assert len(EngineCache(tmp_path).records()) == 4


@pytest.mark.parametrize("damage", ["flipped", "shorter", "gone"])
def test_an_altered_engine_is_refused_and_built_again(damage: str, tmp_path: Path) -> None:
    api, said = RecordingTensorRt(), list[str]()
    engine = build(tmp_path, api)
    content = engine.path.read_bytes()
    if damage == "gone":
        engine.path.unlink()
    else:
        flipped = bytes([content[0] ^ 1]) + content[1:]
        engine.path.write_bytes(flipped if damage == "flipped" else content[:-1])
    with pytest.raises(BackendError, match="leukoscope engine build again"):
        EngineCache(tmp_path).load(engine.record)
    assert build(tmp_path, api, said=said).built
    assert "built again, because engine" in said[0]
    assert EngineCache(tmp_path).load(engine.record) == content


def test_a_record_under_anothers_name_vouches_for_nothing(tmp_path: Path) -> None:
    api = RecordingTensorRt()
    one, two = build(tmp_path, api), build(tmp_path, api, toy_classifier())
    for suffix in (".json", ".engine"):
        first, second = (engine.path.with_suffix(suffix) for engine in (one, two))
        kept = first.read_bytes()
        first.write_bytes(second.read_bytes())
        second.write_bytes(kept)
    cache = EngineCache(tmp_path)
    assert cache.records() == ()
    assert len(cache.unreadable()) == 2
    # Nor does one whose fields do not make its key.
    other = json.loads(one.path.with_suffix(".json").read_text()) | {"version": "9.9"}
    two.path.with_suffix(".json").write_text(json.dumps(other))
    assert cache.records() == ()


def test_a_build_that_broke_off_leaves_no_engine(tmp_path: Path) -> None:
    engine = build(tmp_path, RecordingTensorRt())
    engine.path.with_suffix(".json").unlink()
    assert EngineCache(tmp_path).records() == ()
    assert EngineCache(tmp_path).unreadable() == (engine.path.name,)
    assert build(tmp_path, RecordingTensorRt()).built


def test_kernel_times_are_kept_for_the_next_build(tmp_path: Path) -> None:
    api = RecordingTensorRt()
    build(tmp_path, api)
    build(tmp_path, api, toy_classifier())
    assert [call for call in api.calls if call.startswith("timing")] == [
        "timing b''",
        "timing b'+build'",
    ]
    times = tmp_path / "tensorrt-10.3.0-8.7.timing"
    assert times.read_bytes() == b"+build+build"
    # Times that the library does not want are made again instead of failing the build.
    times.write_bytes(b"of another device")
    api.calls.clear()
    build(tmp_path, api, toy_classifier(48))
    assert api.calls[1:3] == ["timing b'of another device'", "timing b''"]


def test_clearing_takes_one_or_all(tmp_path: Path) -> None:
    api = RecordingTensorRt()
    one, two = build(tmp_path, api), build(tmp_path, api, toy_classifier())
    for name in ("notes.txt", "package.json", "tensorrt.timing", "steam.engine"):
        (tmp_path / name).write_text("mine")
    cache = EngineCache(tmp_path)
    assert len(cache.remove([one.record.key])) == 2
    assert cache.records() == (two.record,)
    assert len(cache.remove()) == 3
    assert cache.unreadable() == ()
    assert {path.name for path in tmp_path.iterdir()} == {
        "notes.txt", "package.json", "tensorrt.timing", "steam.engine"
    }  # fmt: skip


def test_all_heads_of_the_shipped_bundle(shipped: Bundle, tmp_path: Path) -> None:
    api, said = RecordingTensorRt(), list[str]()
    target = target_of(api)
    built = build_for_bundle(shipped, tmp_path, say=said.append, target=target)
    assert [engine.record.artifact for engine in built] == [
        f"{head}.tensorrt.int8.onnx" for head in ("detector", "attribute_head", "classifier")
    ]
    assert "88 of 88 convolutions in int8 (engine inspector), for 8.7" in said[0]
    again = build_for_bundle(shipped, tmp_path, say=said.append, target=target)
    assert not any(engine.built for engine in again)
    assert "already there" in said[3]


def test_a_bundle_without_tensorrt_artifacts_is_one_line(shipped: Bundle, tmp_path: Path) -> None:
    detector = shipped.manifest.detector
    on_cpu = tuple(each for each in detector.artifacts if each.runtime == "cpu")
    manifest = shipped.manifest.model_copy(
        update={"detector": detector.model_copy(update={"artifacts": on_cpu})}
    )
    bare = replace(shipped, manifest=manifest)
    with pytest.raises(BundleError, match="no detector artifact for tensorrt") as refusal:
        build_for_bundle(bare, tmp_path, say=print, target=target_of(RecordingTensorRt()))
    assert "\n" not in str(refusal.value)
    assert not list(tmp_path.iterdir())


def test_what_the_library_refuses_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=r"tensorrt 10\.3\.0 refuses the model: ModelImporter"):
        build(tmp_path, RecordingTensorRt(), b"no model")
    api = RecordingTensorRt(refuses_to_build="Error Code 10:\nno implementation for a/Conv")
    with pytest.raises(BackendError, match=r"fails to build the engine: Error Code 10: no impl"):
        build(tmp_path, api)
    assert not list(tmp_path.glob("*.engine"))


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "engines").write_text("a file")
    with pytest.raises(StoreError, match=r"a file is in the way; .* with --engines"):
        build(tmp_path / "engines", RecordingTensorRt())


def test_only_rtx_builds_for_gpus_elsewhere(tmp_path: Path) -> None:
    api = RecordingTensorRt()
    with pytest.raises(BackendError, match="builds for the GPU it runs on only"):
        engine_target(FULL, ["8.6"], api=api.typed())
    target = engine_target(RTX, ["8.6", "8.9", "8.6"], api=api.typed())
    assert target.capabilities == ("8.6", "8.9")
    engine = build_engine(EngineCache(tmp_path), target, toy_detector(), artifact="d.onnx")
    # No timing cache: TensorRT-RTX times nothing.
    assert api.calls == ["network 3", "capability SM86 0", "capability SM89 1", "build"]
    assert engine.record.layers_from.startswith("no GPU here")
    one = engine_target(RTX, ["8.9"], api=api.typed())
    served = build_engine(EngineCache(tmp_path), one, toy_detector(), artifact="d.onnx")
    assert served.record == engine.record
    strange = engine_target(RTX, ["8.7"], api=api.typed())
    with pytest.raises(BackendError, match=r"not build for compute capability 8\.7; .* 8\.6, 8\.9"):
        build_engine(EngineCache(tmp_path), strange, toy_detector(), artifact="d.onnx")


def test_where_engines_lie() -> None:
    assert default_folder({"LEUKOSCOPE_ENGINES": "/e", "HOME": "/h"}) == Path("/e")
    assert default_folder({"XDG_CACHE_HOME": "/c", "HOME": "/h"}) == Path("/c/leukoscope/engines")
    assert default_folder({"HOME": "/h"}) == Path("/h/.cache/leukoscope/engines")
