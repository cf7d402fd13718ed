"""The pictures of an adaptation, laid out as ultralytics and the export read them.

Owns the folder ``data``: links or copies, five-column labels, ``data.yaml``. Does not own which
pictures go there (see ``fields``) nor how often each is shown (see ``plan``).
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import yaml

from train.attridet_folder import link_picture
from train.datasets.labelled import LabelledImage

FOLDER_NAME = "folder.json"
# Held-out pictures begin with it; the export finds them by this word.
SITE = "site"


def folder_identity(
    site: Sequence[LabelledImage],
    replay: Sequence[LabelledImage],
    held_out: Sequence[LabelledImage],
    hashes: dict[Path, str],
) -> str:
    """A digest of every picture and label, in their order."""
    digest = hashlib.sha256()
    for part in (site, replay, held_out):
        digest.update(f"{len(part)}\n".encode())
        for each in part:
            digest.update(hashes[each.image].encode())
            digest.update(_rows(each).encode())
    return digest.hexdigest()


def write_folder(
    site: Sequence[LabelledImage],
    replay: Sequence[LabelledImage],
    held_out: Sequence[LabelledImage],
    classes: Sequence[str],
    folder: Path,
    identity: str,
) -> Path:
    """Lays everything out anew; picture ``i`` of ``train`` is number ``i`` of the plan.

    Returns:
        ``data.yaml`` in it.

    Raises:
        StoreError: the folder cannot be written.
    """
    from train.run_folder import storing

    with storing(folder):
        shutil.rmtree(folder, ignore_errors=True)
        names = [
            f"{number:06d}_{SITE if number < len(site) else 'replay'}_{each.image.stem}"
            for number, each in enumerate([*site, *replay])
        ]
        _write([*site, *replay], names, folder, "train")
        names = [f"{SITE}_{number:06d}_{each.image.stem}" for number, each in enumerate(held_out)]
        _write(held_out, names, folder, "val")
        document = {
            "path": str(folder.resolve()),
            "train": "images/train",
            "val": "images/val",
            "names": dict(enumerate(classes)),
        }
        file = folder / "data.yaml"
        file.write_text(yaml.safe_dump(document, sort_keys=False, allow_unicode=True), "utf-8")
        # Last, so that a folder with it is a whole one.
        (folder / FOLDER_NAME).write_text(json.dumps({"identity": identity}) + "\n")
    return file


def is_written(folder: Path, identity: str) -> bool:
    """Whether these very pictures and labels lie there already."""
    try:
        return bool(json.loads((folder / FOLDER_NAME).read_text())["identity"] == identity)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _write(images: Sequence[LabelledImage], names: Sequence[str], folder: Path, split: str) -> None:
    pictures, labels = folder / "images" / split, folder / "labels" / split
    pictures.mkdir(parents=True)
    labels.mkdir(parents=True)
    for each, name in zip(images, names, strict=True):
        link_picture(each.image, pictures / f"{name}{each.image.suffix}")
        (labels / f"{name}.txt").write_text(_rows(each))


def _rows(image: LabelledImage) -> str:
    rows = [
        f"{label} " + " ".join(f"{value:.6f}" for value in box)
        for label, box in zip(image.class_ids.tolist(), image.boxes_xywhn.tolist(), strict=True)
    ]
    # A row that stands twice is one cell.
    return "".join(f"{row}\n" for row in dict.fromkeys(rows))
