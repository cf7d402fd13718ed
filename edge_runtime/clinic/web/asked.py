"""What routes are asked for: a film or a cell by its number, read once for all views.

Owns the bounds of what an address may hold, and that a film or cell which is not there is 404. Does
not own who may see it (see ``access``).
"""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, HTTPException, Path

from edge_runtime.clinic.store.records import StoredCell, StoredFilm
from edge_runtime.clinic.web.access import Here
from edge_runtime.errors import RecordError

# The largest number that a script can hold exactly; SQLite's are larger still.
_LARGEST = 2**53
FilmNumber = Annotated[int, Path(ge=1, le=_LARGEST)]
CellNumber = Annotated[int, Path(ge=1, le=_LARGEST)]
UserNumber = Annotated[int, Path(ge=1, le=_LARGEST)]
FieldIndex = Annotated[int, Path(ge=0, le=_LARGEST)]


def asked_film(film: FilmNumber, clinic: Here) -> StoredFilm:
    """The film of an address.

    Raises:
        HTTPException: 404 when there is none.
    """
    try:
        return clinic.store.films.get(film)
    except RecordError as error:
        raise HTTPException(404, str(error)) from error


def asked_cell(cell: CellNumber, clinic: Here) -> StoredCell:
    """The cell of an address.

    Raises:
        HTTPException: 404 when there is none.
    """
    try:
        return clinic.store.films.cell(cell)
    except RecordError as error:
        raise HTTPException(404, str(error)) from error


AskedFilm = Annotated[StoredFilm, Depends(asked_film)]
AskedCell = Annotated[StoredCell, Depends(asked_cell)]
