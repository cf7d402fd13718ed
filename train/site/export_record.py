"""What ``leukoscope export bundle`` reads in a run's ``training.json``.

Owns these keys for an adaptation, so that its run folder can be exported as any other. Does not
own what the export makes of them (see ``export.training_run``).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from train.site.folder import SITE
from train.site.prepare import Prepared
from train.site.settings import SiteSettings


def export_record(
    settings: SiteSettings, prepared: Prepared, model: Any, size: int
) -> dict[str, Any]:
    """The keys ``recipe`` and ``compose``.

    The source sets are the run's domains: gate and card measure them on val and test. The
    site's held-out fields stand beside them as the run's own pictures: the gate and the
    operating point count them, the card's test figures do not, for training stopped on them.
    """
    folders = [Path(each).resolve() for each in settings.replay]
    root = Path(os.path.commonpath([each.parent for each in folders]))
    document = model.yaml if isinstance(model.yaml, dict) else {}
    activation = "relu" if "relu" in str(document.get("activation", "")).lower() else "silu"
    stem = Path(str(document.get("yaml_file", "detector.yaml"))).stem
    return {
        "recipe": {
            "name": "site",
            "purpose": f"{Path(settings.start_from).name} adapted to a site",
            "model": f"{stem.removesuffix(f'-{activation}')}.yaml",
            "activation": activation,
            "data_root": str(root),
            "domains": [
                {
                    "name": source.name,
                    "path": folder.relative_to(root).as_posix(),
                    "class_count": len(classes),
                    "white_cell_classes": [
                        place
                        for place, name in enumerate(classes)
                        if prepared.rules.target(name) is not None
                    ],
                }
                for source, folder, classes in zip(
                    prepared.sources, folders, prepared.source_classes, strict=True
                )
            ],
            "leave_out": None,
            "compose": {"size": size},
        },
        "compose": {"validation_pictures": {SITE: len(prepared.site.held_out)}},
    }
