"""Measured figures under the names of the published ones.

Owns these names and turning shares into percent. Does not own measuring.
"""

from __future__ import annotations

from typing import Any


def percent(value: float | None) -> float | None:
    """A share as the tables print it; None where nothing could be measured."""
    return None if value is None else round(100 * value, 2)


def detection_figures(document: dict[str, Any]) -> dict[str, float | None]:
    """Average precision, of all and of each class, and F1 per attribute, in percent.

    Args:
        document: has ``detection``, a ``ClassMetrics`` as a dict, and ``attributes``, by
            rule, empty without an attribute head.
    """
    detection = document["detection"]
    figures = {"map50_95": percent(detection["ap"]), "map50": percent(detection["ap50"])}
    for each in detection["classes"]:
        figures[f"ap_{each['name']}"] = percent(each["ap"])
        figures[f"ap50_{each['name']}"] = percent(each["ap50"])
    # The rule that the published figures were made with.
    nearest = document["attributes"].get("nearest")
    for attribute in nearest["attributes"] if nearest else ():
        figures[f"f1_{attribute['name']}"] = percent(attribute["f1"])
    return figures
