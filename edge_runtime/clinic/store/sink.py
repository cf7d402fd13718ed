"""The sink that writes a film into the store while it is examined.

Owns the free-disk gate and what of a run the store gets. Does not own how anything is stored
(see ``films``). When ``append`` returns, the field is on the disk: a power cut costs the frames
that were still being looked at, and nothing else.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from edge_runtime.clinic.store.records import NewFilm
from edge_runtime.clinic.store.store import ClinicStore
from edge_runtime.clinic.store.users import User
from edge_runtime.film_record import FilmRecord, FilmSetup
from edge_runtime.film_report import FilmReport
from edge_runtime.types import FieldResult, SkippedFrame

if TYPE_CHECKING:
    from edge_runtime.clinic.store.device_settings import ClinicSettings
    from edge_runtime.film.mosaic import MosaicUpdate

_log = logging.getLogger(__name__)

# A film that began may use half of the reserve; the rest is for its report and corrections.
_SHARE_WHILE_RUNNING = 0.5


class StoreSink:
    """Writes one film. Use an instance once.

    Args:
        store: open as long as the film runs.
        film: what a person says of it.
        setup: as the runner has it (see ``film_run.film_setup``), so that a film cut short
            by a power cut still says what looked at it.
        by: who examines; None when nobody is signed in.
    """

    def __init__(
        self, store: ClinicStore, film: NewFilm, setup: FilmSetup, by: User | None = None
    ) -> None:
        self._store = store
        self._film = film
        self._setup = setup
        self._by = by
        self._number: int | None = None
        self._settings: ClinicSettings | None = None

    @property
    def film(self) -> int:
        """The film's number in the store; ValueError before ``start``."""
        if self._number is None:
            raise ValueError("the film has not begun")
        return self._number

    def start(self) -> None:
        """Begins the film.

        Raises:
            StoreError: too little is free on the disk, or it cannot be written.
            AccessError: the user may not examine films.
            RecordError: the slide is not named.
        """
        self._store.require_room()
        settings = self._store.settings.current()
        header = FilmRecord(self._setup).report("interrupted", self._store.now(), 0.0)
        template = self._setup.template
        self._number = self._store.films.start(
            self._film,
            header,
            settings,
            by=self._by,
            template=None if template is None else template.model_dump(mode="json"),
        )
        self._settings = settings

    def append(self, result: FieldResult) -> None:
        """Keeps one field; StoreError when it cannot, or too little is free on the disk."""
        settings = self._settings
        if settings is None:
            raise ValueError("the film has not begun")
        self._store.pictures.require_room(
            int(_SHARE_WHILE_RUNNING * settings.minimum_free_mb * 1_000_000)
        )
        self._store.films.add_field(self.film, result, keep_frame=settings.keep_frames)

    def skip(self, skipped: SkippedFrame) -> None:
        """Keeps that a field could not be looked at; StoreError when it cannot."""
        self._store.films.add_skipped(self.film, skipped)

    def settle(self, update: MosaicUpdate) -> None:
        """Keeps which cells turned out to be one when the film ended; StoreError if it cannot."""
        self._store.films.settle(self.film, update)

    def finish(self, report: FilmReport) -> None:
        """Ends the film; StoreError when it cannot be written."""
        self._store.films.finish(self.film, report)
        _log.info("film %d: %s, %d cells", self.film, report.state, report.totals.cells)
