"""What leaves the device through the page: a film in five forms, and training sets.

Owns file names and the temporary folder of a training set. Does not own the forms (see
``exports``, ``film_pdf``). Each export is a POST: it is an entry of the audit trail, so it must not
happen because a browser looked ahead.
"""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Form, HTTPException, Request, Response
from fastapi.responses import FileResponse
from starlette.background import BackgroundTask

from edge_runtime.clinic.store.records import StoredFilm
from edge_runtime.clinic.web.access import Exporter, Here
from edge_runtime.clinic.web.asked import AskedFilm
from edge_runtime.clinic.web.pages import catalogue_of

router = APIRouter(tags=["exports"])
Form_ = Literal["csv", "json", "fhir", "html", "pdf"]
_TYPES: dict[Form_, tuple[str, str]] = {
    "csv": ("text/csv; charset=utf-8", "csv"),
    "json": ("application/json", "json"),
    "fhir": ("application/fhir+json", "fhir.json"),
    "html": ("text/html; charset=utf-8", "html"),
    "pdf": ("application/pdf", "pdf"),
}
# Within the store's folder: the system's own temporary folder may be memory.
_LEFT_OVER = ".export-"
_ONLY_PLAIN = ("csv", "json")
_MOST_FILMS = 1000
_FILE: dict[int | str, dict[str, Any]] = {200: {"content": {"application/octet-stream": {}}}}


@router.post("/films/{film}/export", response_class=Response, responses=_FILE)
def export_film(
    request: Request,
    clinic: Here,
    user: Exporter,
    found: AskedFilm,
    form: Annotated[Form_, Form()],
    anonymous: Annotated[bool, Form()] = False,
) -> Response:
    """One film as a file; anonymous as CSV and JSON only."""
    if anonymous and form not in _ONLY_PLAIN:
        raise HTTPException(422, f"{form}: names the patient; only CSV and JSON can leave that out")
    store, number = clinic.store, found.id
    if form == "csv":
        from edge_runtime.clinic.exports.film_files import film_csv

        content = film_csv(store, number, user, anonymous=anonymous)
    elif form == "json":
        from edge_runtime.clinic.exports.film_files import film_json

        content = film_json(store, number, user, anonymous=anonymous)
    elif form == "fhir":
        from edge_runtime.clinic.exports.fhir import fhir_bundle

        content = fhir_bundle(store, number, user)
    elif form == "html":
        from edge_runtime.clinic.exports.film_html import film_html

        content = film_html(store, number, user)
    else:
        from edge_runtime.clinic.film_pdf import film_pdf
        from edge_runtime.clinic.web.paper_words import paper_words

        spoken = catalogue_of(request)
        content = film_pdf(store, number, t=paper_words(spoken), language=spoken.language)
        store.note_export(number, user, "PDF report")
    kind, ending = _TYPES[form]
    name = "anonymous" if anonymous else _file_name(found)
    return Response(
        content,
        media_type=kind,
        headers={"content-disposition": f'attachment; filename="{name}.{ending}"'},
    )


@router.post("/training-set", response_class=FileResponse, responses=_FILE)
def training_set(
    clinic: Here,
    user: Exporter,
    films: Annotated[list[int], Form()],
    layout: Annotated[Literal["yolo", "coco"], Form()] = "yolo",
    by_class: Annotated[bool, Form()] = False,
) -> Response:
    """The checked fields of some films, zipped; nothing in it names a slide or a patient."""
    from edge_runtime.clinic.exports.training_set import write_training_set

    wanted = [number for number in dict.fromkeys(films) if 0 < number < 2**53][:_MOST_FILMS]
    if not wanted:
        raise HTTPException(422, "training set: choose films first")
    clinic.store.require_room()
    folder = Path(tempfile.mkdtemp(prefix=_LEFT_OVER, dir=clinic.store.folder))
    try:
        out = folder / "set"
        write_training_set(clinic.store, wanted, out, user, layout=layout, by_class=by_class)
        packed = folder / "set.zip"
        # Pictures are compressed already.
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
            for file in sorted(out.rglob("*")):
                if file.is_file():
                    archive.write(file, file.relative_to(out).as_posix())
        shutil.rmtree(out)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return FileResponse(
        packed,
        media_type="application/zip",
        filename=f"training-set-{layout}.zip",
        background=BackgroundTask(shutil.rmtree, folder, ignore_errors=True),
    )


def sweep_left_over(store: Path) -> None:
    """Removes what a power cut left of an export."""
    for folder in store.glob(f"{_LEFT_OVER}*"):
        shutil.rmtree(folder, ignore_errors=True)


def _file_name(film: StoredFilm) -> str:
    """By number and how far the review is; never by slide or patient, which a folder would show."""
    state = film.review if film.review == "preliminary" or not film.amended else "amended"
    return f"film-{film.id:06d}-{state}"
