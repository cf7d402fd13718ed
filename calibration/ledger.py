"""Results of long measurements, one small file each, so that a broken run goes on.

Owns names, writing and reading of the files. Does not own what is measured.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from edge_runtime.clinic.atomic_file import prepare_folder, replacing, utf8

_SHOWN_HASH = 12


class Ledger:
    """A folder of results.

    A result belongs to everything it depends on: another model, another set of pictures or
    another setting is another file, and an old file is never taken for it.

    Args:
        folder: made when missing.
        identity: what all results depend on, e.g. hashes of model and pictures.

    Raises:
        StoreError: the folder cannot be written.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        prepare_folder(folder)
        self._folder = folder
        self._identity = dict(identity)

    def remember(
        self, name: str, depends_on: Mapping[str, Any], measure: Callable[[], dict[str, Any]]
    ) -> dict[str, Any]:
        """A result measured earlier, or measured now and written.

        Args:
            name: for people.
            depends_on: what this result depends on beside the ledger's identity.
            measure: gives a JSON object.

        Raises:
            StoreError: the file cannot be written.
        """
        key = {"name": name, **self._identity, **depends_on}
        text = json.dumps(key, sort_keys=True)
        readable = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:80]
        digest = hashlib.sha256(text.encode()).hexdigest()[:_SHOWN_HASH]
        file = self._folder / f"{readable}-{digest}.json"
        known = _read(file)
        if known is not None and known.get("key") == json.loads(text):
            result: dict[str, Any] = known["result"]
            return result
        found = measure()
        document = {"key": key, "result": found}
        with replacing(file) as written:
            written.write(utf8(json.dumps(document, indent=1, sort_keys=True) + "\n"))
        return found


def _read(file: Path) -> dict[str, Any] | None:
    """A whole file, or None: what is missing or broken is measured again."""
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    whole = isinstance(document, dict) and isinstance(document.get("result"), dict)
    return document if whole else None
