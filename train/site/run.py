"""Adapting a detector to a site: check, train with replay, compare before and after.

Owns the order of these and the record of the run. Does not own any step itself. Which pictures
serve what: the site's own are learnt from but for the held-out part, which stops the training
and is measured on; source pictures of ``train`` are replayed, those of the check split only
measured on.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from calibration.class_accuracy import ClassMetrics
from calibration.fields import digest_files
from edge_runtime.errors import DataError, SettingsError
from edge_runtime.film_report import RESEARCH_USE
from train import THREADS
from train.datasets.labelled import LabelledImage, LabelledSet
from train.run_folder import make_folder, storing
from train.site.export_record import export_record
from train.site.fields import typical_cell_px
from train.site.folder import is_written, write_folder
from train.site.prepare import Prepared, prepare
from train.site.settings import SiteSettings
from train.site.verdict import Change, SiteResult, site_remark, source_verdict

SETTINGS_NAME = "site.json"
RECORD_NAME = "training.json"
# Two cells of the finest grid that these detectors answer on.
SMALL_CELL_PX = 16


def adapt_to_site(
    settings: SiteSettings,
    out: Path,
    *,
    device: str = "auto",
    resume: bool = False,
    workers: int = 2,
    say: Callable[[str], None] = lambda line: None,
    now: Callable[[], datetime] = lambda: datetime.now(timezone.utc),
) -> SiteResult:
    """Adapts a detector to a site's few labelled fields, and judges what that did.

    Args:
        settings: what to learn from, and how.
        out: run folder, new or empty: ``data/``, ``run/``, ``site.json``, ``training.json``,
            ``site.md`` and its pictures.
        device: ``auto``, ``cpu``, or the index of one GPU.
        resume: take up an interrupted run after its last whole epoch.
        workers: processes that load data.
        say: told before every step, and what was decided.
        now: the clock, for the record.

    Returns:
        The result. A source that lost too much is no exception: ``passed`` is False, and the
        checkpoint lies as ``rejected.pt`` where ``best.pt`` would be.

    Raises:
        DataError: fields, source or checkpoint cannot be used, or there is nothing to resume.
        SettingsError: class names or device mean nothing here, or the folder holds a run.
        StoreError: the folder cannot be written.
    """
    from train.evaluate_attridet import require_one_device
    from train.own_checkpoint import load_own_checkpoint
    from train.site.page import write_page
    from train.site.training import REJECTED, best_epoch, held_out_curve, train_on_plan

    where = require_one_device(device)
    started = now()
    start_file = Path(settings.start_from)
    model = load_own_checkpoint(start_file)
    classes, size = _of_detector(model, settings)
    _require_free_layers(model, settings.hyp.freeze)
    say("looking through the fields and the source")
    prepared = prepare(settings, classes)
    _say_what_was_found(prepared, say)
    cells_px = _cells_px(prepared, size, say)
    _claim(settings, out, resume=resume)
    _lay_out(prepared, classes, out / "data", resume=resume)
    say("measuring the detector as it is")
    before = _measure(model, prepared, size, where)
    plan = prepared.plan
    say(
        f"training: {len(prepared.site.train)} fields of the site, {len(prepared.site.held_out)} "
        f"held out; an epoch shows {plan.shown_site} of the site and {plan.shown_replay} replayed"
    )
    trained = train_on_plan(
        settings,
        plan,
        out,
        size=size,
        device=where.removeprefix("cuda:"),
        resume=resume,
        workers=workers,
        threads=THREADS,
    )
    say("measuring the adapted detector")
    adapted = load_own_checkpoint(trained)
    after = _measure(adapted, prepared, size, where)
    changes = {name: Change(before[name], after[name]) for name in before}
    source = {each.name: changes[f"source {each.name}"] for each in prepared.sources}
    passed, verdict = source_verdict(source, settings.limit_drop)
    curve = held_out_curve(out)
    with storing(out):
        checkpoint = trained if passed else trained.replace(trained.with_name(REJECTED))
        record = {
            "what": "adaptation of a detector to a site",
            "research_use": RESEARCH_USE,
            "passed": passed,
            "verdict": verdict,
            # The export takes what stands here; a rejected checkpoint does not.
            "checkpoint": checkpoint.name if passed else None,
            "rejected": None if passed else checkpoint.relative_to(out).as_posix(),
            "checkpoint_sha256": digest_files([checkpoint]),
            "start_from_sha256": digest_files([start_file]),
            "settings": settings.model_dump(mode="json"),
            "classes": list(classes),
            "size": size,
            "pictures": _counts(prepared),
            "cell_px": cells_px,
            "site": changes["site"].document(),
            "site_test": changes["site test"].document() if "site test" in changes else None,
            "source": {name: each.document() for name, each in source.items()},
            "held_out_ap_by_epoch": curve,
            "best_epoch": best_epoch(curve),
            **export_record(settings, prepared, model, size),
            "started": started.isoformat(timespec="seconds"),
            "minutes": round((now() - started).total_seconds() / 60, 1),
            "resumed": resume,
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, device {where}",
            **_versions(),
        }
        result = SiteResult(
            checkpoint,
            passed,
            verdict,
            changes["site"],
            changes.get("site test"),
            source,
            tuple(curve),
            record,
        )
        held_out = prepared.site.held_out
        write_page(
            result, model, adapted, held_out, out, size=size, score=settings.score, device=where
        )
        # Last, so that a folder with it is a finished run.
        (out / RECORD_NAME).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    say(site_remark(result.site))
    return result


def judged_sets(prepared: Prepared) -> dict[str, tuple[LabelledSet, Sequence[LabelledImage]]]:
    """What is measured before and after, by name: none of it is trained on."""
    site = prepared.site
    sets: dict[str, tuple[LabelledSet, Sequence[LabelledImage]]] = {
        "site": (prepared.site_set, site.held_out)
    }
    if any(len(each) for each in site.test):
        sets["site test"] = (prepared.site_set, site.test)
    for source in prepared.sources:
        sets[f"source {source.name}"] = (source.labelled, source.check)
    return sets


def _measure(model: Any, prepared: Prepared, size: int, where: str) -> dict[str, ClassMetrics]:
    from train.evaluate_attridet import judge_pictures

    return {
        name: judge_pictures(model, fields, images, size=size, device=where).detection
        for name, (fields, images) in judged_sets(prepared).items()
    }


def _of_detector(model: Any, settings: SiteSettings) -> tuple[tuple[str, ...], int]:
    """Its classes, and the side of its input.

    Raises:
        DataError: it has an attribute head, which would not stay with it.
        SettingsError: the side is not known.
    """
    from train.models.attridet import AttriDetModel

    if isinstance(model, AttriDetModel):
        raise DataError(
            f"{settings.start_from}: a detector with an attribute head, which would be lost; "
            "start from a plain one and train the head on it afterwards"
        )
    classes = tuple(str(model.names[place]) for place in sorted(model.names))
    arguments = model.args if isinstance(model.args, dict) else vars(model.args)
    size = settings.size or arguments.get("imgsz")
    if not isinstance(size, int) or size <= 0 or size % 32:
        raise SettingsError(
            f"{settings.start_from}: does not say the side of its input; give --size"
        )
    return classes, size


def _require_free_layers(model: Any, freeze: int) -> None:
    layers = len(model.model)
    if freeze >= layers:
        raise SettingsError(
            f"--freeze {freeze}: the detector has {layers} layers, so nothing would be left to "
            f"train; give {layers - 1} at most"
        )


def _say_what_was_found(prepared: Prepared, say: Callable[[str], None]) -> None:
    for line in prepared.site.notes:
        say(line)
    for source in prepared.sources:
        for line in source.labelled.notes:
            say(line)
    for folder, cells in prepared.background.items():
        shown = ", ".join(f"{count} {name!r}" for name, count in cells.items())
        say(f"{folder}: taken as background: {shown}")


def _cells_px(prepared: Prepared, size: int, say: Callable[[str], None]) -> dict[str, float | None]:
    """Typical width of a cell in the input, of the site and of each source set."""
    own = typical_cell_px((*prepared.site.train, *prepared.site.held_out), size)
    found = {"site": own} | {
        f"source {each.name}": typical_cell_px(each.check, size) for each in prepared.sources
    }
    shown = ", ".join(f"{name} {px:.0f}" for name, px in found.items() if px is not None)
    say(f"typical width of a cell in the input, pixels: {shown}")
    if own is not None and own < SMALL_CELL_PX:
        say(
            f"the site's cells are only {own:.0f} pixels wide in an input of {size}: give a "
            "larger --size, or they will be found badly"
        )
    return {name: None if px is None else round(px, 1) for name, px in found.items()}


def _claim(settings: SiteSettings, out: Path, *, resume: bool) -> None:
    """Makes the folder this adaptation's, or finds that it is."""
    if Path(settings.fields).resolve() in (out.resolve(), *out.resolve().parents):
        raise SettingsError(
            f"{out}: lies in the folder of the fields, which stays as it is; choose another --out"
        )
    file = out / SETTINGS_NAME
    mine = settings.model_dump_json()
    if (out / RECORD_NAME).is_file():
        raise SettingsError(f"{out}: holds a finished run already; choose another --out")
    if resume:
        if not file.is_file():
            raise DataError(f"{out}: no run to resume; start without --resume")
        if file.read_text(encoding="utf-8") != mine:
            raise SettingsError(f"{out}: begun with other settings; choose another --out")
        return
    if (out / "run" / "weights" / "last.pt").is_file():
        raise SettingsError(f"{out}: holds a run already; choose another --out, or --resume")
    if out.is_dir() and any(out.iterdir()) and not file.is_file():
        raise SettingsError(f"{out}: holds other files; choose a new folder as --out")
    make_folder(out)
    with storing(out):
        # What a run that was stopped before its first epoch left.
        shutil.rmtree(out / "run", ignore_errors=True)
        file.write_text(mine, encoding="utf-8")


def _lay_out(prepared: Prepared, classes: tuple[str, ...], data: Path, *, resume: bool) -> None:
    if is_written(data, prepared.identity):
        return
    if resume and (data / "data.yaml").is_file():
        raise SettingsError(
            f"{data}: fields or source have changed since the run began; choose another --out"
        )
    site = prepared.site
    write_folder(site.train, prepared.replay, site.held_out, classes, data, prepared.identity)


def _counts(prepared: Prepared) -> dict[str, Any]:
    site, plan = prepared.site, prepared.plan
    return {
        "site": {
            "different_fields": site.different,
            "train": len(site.train),
            "held_out": len(site.held_out),
            "test": len(site.test),
            "train_cells": sum(len(each) for each in site.train),
            "held_out_cells": sum(len(each) for each in site.held_out),
            "notes": list(site.notes),
        },
        "source": {
            each.name: {
                "replayed_from": len(each.train),
                "checked_on": len(each.check),
                "notes": list(each.labelled.notes),
            }
            for each in prepared.sources
        },
        "epoch": {"site": plan.shown_site, "replay": plan.shown_replay},
        "background": prepared.background,
    }


def _versions() -> dict[str, str]:
    import torch
    from ultralytics import __version__ as ultralytics_version

    return {"torch": torch.__version__, "ultralytics": ultralytics_version}
