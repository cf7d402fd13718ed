"""Finding films, looking at one, its pictures, label and deletion."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from html import unescape
from typing import Any

import pytest

from edge_runtime.clinic.store.records import NewFilm
from edge_runtime.clinic.store.store import ClinicStore
from edge_runtime.clinic.web import film_routes
from edge_runtime.clinic.web.clinic import Clinic
from edge_runtime.film.mosaic_map import FilmMap, MapCell
from tests.clinic_browser import Browser
from tests.clinic_films import People, field_of, keep_film

SignIn = Callable[[str], Browser]


def test_films_are_found_by_their_words(sign_in: SignIn, store: ClinicStore, film: int) -> None:
    other = keep_film(store, [field_of(0)], film=NewFilm("T-8", "P-2000"))
    browser = sign_in("operator")
    everything = browser.get("/films").text
    assert everything.index(f"/films/{other}") < everything.index(f'/films/{film}"')
    found = browser.get("/films?words=P-1042").text
    assert f'href="/films/{film}"' in found
    assert f'href="/films/{other}"' not in found
    assert "No film has all these words." in browser.get("/films?words=nowhere").text
    assert f'href="/films/{film}"' not in browser.get("/films?review=final").text


def test_what_people_typed_is_not_markup(sign_in: SignIn, film: int) -> None:
    for path in ("/films", f"/films/{film}", f"/films/{film}/gallery", "/films?words=<b>"):
        text = sign_in("operator").get(path).text
        assert "<7>" not in text
        assert "<b>" not in text.replace("<b>1", "").replace("<b>2", "")
    assert "S-&lt;7&gt;" in sign_in("operator").get(f"/films/{film}").text


def test_older_films_are_on_the_next_page(
    sign_in: SignIn, store: ClinicStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(film_routes, "_ON_A_PAGE", 2)
    for number in range(5):
        keep_film(store, [], film=NewFilm(f"S-{number}"))
    browser = sign_in("operator")
    seen: list[str] = []
    path = "/films?words=S"
    for _ in range(3):
        text = browser.get(path).text
        seen += re.findall(r'href="/films/(\d+)"', text)
        older = re.findall(r'href="(/films\?[^"]*before=[^"]*)"', text)
        path = unescape(older[0]) if older else ""
    assert seen == ["5", "4", "3", "2", "1"]
    assert path == ""


def test_a_film_shows_its_corrected_counts(
    sign_in: SignIn, store: ClinicStore, people: People, film: int
) -> None:
    text = sign_in("operator").get(f"/films/{film}").text
    assert row(text, "neutrophil") == ["neutrophil", "2", "50.0"]
    cell = next(x for x in store.films.cells(film) if x.shown_class == "neutrophil")
    store.corrections.give_class(cell.id, "lymphocyte", people.operator)
    text = sign_in("operator").get(f"/films/{film}").text
    assert row(text, "neutrophil") == ["neutrophil", "1", "25.0"]
    assert row(text, "lymphocyte") == ["lymphocyte", "2", "50.0"]
    assert "out of focus" in text
    assert "class given" in text


def test_a_film_in_spanish(sign_in: SignIn, film: int) -> None:
    browser = sign_in("operator")
    browser.post("/language", {"language": "es"})
    text = browser.get(f"/films/{film}").text
    assert 'lang="es"' in text
    assert row(text, "neutrófilo") == ["neutrófilo", "2", "50,0"]
    assert "Solo para uso en investigación" in text


def test_the_device_sets_the_language_until_a_browser_chooses(
    sign_in: SignIn, store: ClinicStore, people: People
) -> None:
    store.settings.change(people.admin, language="es")
    browser = sign_in("operator")
    assert "Buscar" in browser.get("/films").text
    browser.post("/language", {"language": "en"})
    assert "Search" in browser.get("/films").text
    browser.post("/language", {"language": "xx"})
    assert "Search" in browser.get("/films").text


def test_every_page_says_what_it_is_for(sign_in: SignIn, film: int) -> None:
    browser = sign_in("admin")
    paths = (
        "/films", f"/films/{film}", f"/films/{film}/gallery", f"/films/{film}/fields",
        f"/films/{film}/fields/0", f"/films/{film}/review", "/device", "/device/check",
        "/device/trail", "/users", "/settings", "/account", "/nothing",
    )  # fmt: skip
    for path in paths:
        answer = browser.get(path)
        assert answer.status_code == (404 if path == "/nothing" else 200), path
        assert "For research use only. Not for use in diagnostic procedures." in answer.text
        # What the policy would refuse must not be there.
        assert not re.search(r"\sstyle=|<style|\son\w+=|<script(?![^>]*\ssrc=)", answer.text), path


def test_pictures_are_kept_by_the_browser_of_who_is_signed_in(
    sign_in: SignIn, anybody: Any, store: ClinicStore, film: int
) -> None:
    browser = sign_in("operator")
    cell = store.films.cells(film)[0]
    path = f"/films/{film}/pictures/{cell.crop_file}"
    assert path in browser.get(f"/films/{film}/gallery").text
    answer = browser.get(path)
    assert answer.content == store.pictures.read(film, cell.crop_file or "")
    assert answer.headers["content-type"] == "image/jpeg"
    assert answer.headers["cache-control"] == "private, max-age=43200, immutable"
    assert anybody.get(path).status_code == 401


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("0" * 64 + ".jpg", 404),
        ("0" * 64 + ".json.gz", 422),
        ("..%2f..%2fstore.sqlite", 404),
        ("lock", 422),
    ],
)
def test_nothing_else_of_the_store_is_given_out(
    sign_in: SignIn, film: int, name: str, status: int
) -> None:
    assert sign_in("admin").get(f"/films/{film}/pictures/{name}").status_code == status


@pytest.mark.parametrize("number", ["0", "999", "9" * 30, "-1", "x"])
def test_a_film_that_is_not_there(sign_in: SignIn, film: int, number: str) -> None:
    browser = sign_in("admin")
    for tail in ("", "/gallery", "/fields", "/review", "/fields/0"):
        assert browser.get(f"/films/{number}{tail}").status_code in (404, 422)
    for tail in ("/delete", "/sign", "/reopen", "/undo", "/label", "/export"):
        assert browser.post(f"/films/{number}{tail}").status_code in (403, 404, 422)


def test_an_operator_changes_the_label(
    sign_in: SignIn, store: ClinicStore, people: People, film: int
) -> None:
    browser = sign_in("operator")
    done = browser.post(f"/films/{film}/label", {"slide": "S-9", "patient": "", "note": "x"})
    assert done.status_code == 303
    assert "Saved." in browser.get(f"/films/{film}").text
    assert "Saved." not in browser.get(f"/films/{film}").text
    found = store.films.get(film)
    assert (found.slide, found.patient, found.note) == ("S-9", None, "x")
    assert browser.post(f"/films/{film}/label", {"slide": " "}).status_code == 409
    assert sign_in("admin").post(f"/films/{film}/label", {"slide": "S"}).status_code == 403


def test_only_an_admin_deletes(sign_in: SignIn, store: ClinicStore, film: int) -> None:
    for role in ("operator", "reviewer"):
        assert sign_in(role).post(f"/films/{film}/delete").status_code == 403
    assert sign_in("admin").post(f"/films/{film}/delete").status_code == 303
    assert store.films.search() == []
    change = store.trail.newest(2)[0]
    assert (change.action, change.user) == ("film_deleted", "Ada Admin")


def test_the_map_stands_in_the_page(
    clinic: Clinic, sign_in: SignIn, film: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = clinic.store.films.cells(film)
    assert "nobody knows how they lie" in sign_in("operator").get(f"/films/{film}").text
    drawn = FilmMap(
        tuple(MapCell(x.id, 0, x.box_xyxy, x.shown_class) for x in cells),
        ((0, (0.0, 0.0, 200.0, 150.0)),),
    )
    monkeypatch.setattr(type(clinic.store.films), "map_of", lambda films, film: drawn)
    text = sign_in("operator").get(f"/films/{film}").text
    assert f'id="cell-{cells[0].id}"' in text
    assert f'data-gallery="/films/{film}/gallery"' in text
    assert f'id="cell-{cells[0].id}"' in sign_in("operator").get(f"/films/{film}/gallery").text


def test_map_and_skipped_fields_in_spanish(
    clinic: Clinic, sign_in: SignIn, film: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = FilmMap(
        tuple(MapCell(x.id, 0, x.box_xyxy, "neutrophil") for x in clinic.store.films.cells(film)),
        ((0, (0.0, 0.0, 200.0, 150.0)), (1, (300.0, 0.0, 400.0, 150.0))),
        lost_fields=2,
    )
    monkeypatch.setattr(type(clinic.store.films), "map_of", lambda films, film: drawn)
    with clinic.store.database.writing() as connection:
        connection.exec_driver_sql(
            "UPDATE fields SET reason = 'out of focus (edges 3 px): turn the fine focus' "
            "WHERE reason IS NOT NULL"
        )
    browser = sign_in("operator")
    browser.post("/language", {"language": "es"})
    text = browser.get(f"/films/{film}").text
    assert "</strong> desenfocado</li>" in text
    map_svg = text[text.index("<svg xmlns") :].partition("</svg>")[0]
    assert f"neutrófilo: {len(drawn.cells)}" in map_svg
    assert "2 campos no están en el mapa" in map_svg
    assert "Otra parte del frotis" in map_svg
    for english in ("neutrophil", "Map of", "part of", "cell ", "research"):
        assert english not in map_svg, english


def row(text: str, name: str) -> list[str]:
    """Class, count and share of one row of the differential."""
    found = re.search(
        rf'<th scope="row">({name})</th>\s*<td[^>]*>(.*?)</td><td[^>]*>(.*?)</td>', text
    )
    assert found is not None, name
    return list(found.groups())


def test_fields_that_show_nothing_new_are_counted_and_not_listed(
    sign_in: SignIn, store: ClinicStore
) -> None:
    again = replace(field_of(1, ()), preview_jpeg=b"", frame_jpeg=None)
    film = keep_film(store, [field_of(0), again, field_of(2)])
    browser = sign_in("operator")
    listed = browser.get(f"/films/{film}/fields").text
    assert re.findall(rf'href="/films/{film}/fields/(\d+)"', listed) == ["0", "2"]
    assert "1 more field shows nothing new" in listed
    assert browser.get(f"/films/{film}/fields/1").status_code == 404
    # The next of the first is the one with a picture.
    assert (
        f'rel="next" href="/films/{film}/fields/2"' in browser.get(f"/films/{film}/fields/0").text
    )
    assert "of 2 fields checked" in browser.get(f"/films/{film}/review").text
