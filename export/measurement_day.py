"""The date written into cards and reports.

Owns where it comes from; a fixed one makes two exports of one run equal to the byte.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone

from edge_runtime.errors import SettingsError


def measurement_day(date: str | None, environment: Mapping[str, str]) -> str:
    """An ISO date.

    Args:
        date: as a person gave it.
        environment: ``SOURCE_DATE_EPOCH`` counts when nobody did; otherwise it is today, UTC.

    Raises:
        SettingsError: not a date.
    """
    if date is not None:
        try:
            return datetime.strptime(date, "%Y-%m-%d").date().isoformat()
        except ValueError as error:
            raise SettingsError(f"--date {date!r}: give it as YYYY-MM-DD") from error
    epoch = environment.get("SOURCE_DATE_EPOCH")
    if epoch is None:
        return datetime.now(timezone.utc).date().isoformat()
    try:
        return datetime.fromtimestamp(int(epoch), timezone.utc).date().isoformat()
    except (ValueError, OverflowError, OSError) as error:
        raise SettingsError(f"SOURCE_DATE_EPOCH={epoch!r}: not seconds since 1970") from error
