"""Correcting cells and fields, signing and reopening, each in the trail under the right name."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable

import pytest

from edge_runtime.clinic.store.store import ClinicStore
from tests.clinic_browser import Browser
from tests.clinic_films import People

SignIn = Callable[[str], Browser]


def test_naming_rejecting_restoring_and_taking_back(
    sign_in: SignIn, store: ClinicStore, film: int
) -> None:
    browser = sign_in("operator")
    cell = store.films.cells(film)[0]
    named = browser.post(f"/cells/{cell.id}/class", {"class_name": "eosinophil"}).json()
    assert named == {
        "id": cell.id, "field": 0, "class_name": "eosinophil", "rejected": False,
        "given": True, "crop": cell.crop_file,
    }  # fmt: skip
    assert browser.post(f"/cells/{cell.id}/reject").json()["rejected"] is True
    assert browser.post(f"/cells/{cell.id}/restore").json()["rejected"] is False
    actions = [each.action for each in store.trail.of_film(film) if each.cell == cell.id]
    assert actions == ["class_given", "cell_rejected", "cell_restored"]
    assert {x.user for x in store.trail.of_film(film) if x.cell} == {"Otto Operator"}
    undone = [browser.post(f"/films/{film}/undo").json() for _ in range(4)]
    assert [each["what"] for each in undone] == [
        "cell_restored", "cell_rejected", "class_given", None,
    ]  # fmt: skip
    assert undone[2]["cell"]["class_name"] == cell.shown_class
    assert undone[2]["cell"]["given"] is False
    assert store.films.cells(film)[0] == cell


def test_a_cell_that_meanwhile_became_a_repeat_is_taken_back(
    sign_in: SignIn, store: ClinicStore, film: int
) -> None:
    from sqlalchemy import text

    browser = sign_in("operator")
    cell = store.films.cells(film)[0]
    browser.post(f"/cells/{cell.id}/reject")
    with store.database.writing() as connection:
        connection.execute(text(f"UPDATE cells SET counts = 0 WHERE id = {cell.id}"))
    undone = browser.post(f"/films/{film}/undo").json()
    assert undone["cell"]["id"] == cell.id


def test_nobody_takes_back_what_another_did(sign_in: SignIn, store: ClinicStore, film: int) -> None:
    cell = store.films.cells(film)[0]
    sign_in("operator").post(f"/cells/{cell.id}/class", {"class_name": "eosinophil"})
    assert sign_in("reviewer").post(f"/films/{film}/undo").json()["what"] is None


@pytest.mark.parametrize(
    ("data", "status"), [({"class_name": "nonsense"}, 409), ({}, 422), ({"class_name": ""}, 422)]
)
def test_a_class_that_is_none(
    sign_in: SignIn, store: ClinicStore, film: int, data: dict[str, object], status: int
) -> None:
    cell = store.films.cells(film)[0]
    assert sign_in("operator").post(f"/cells/{cell.id}/class", data).status_code == status
    assert sign_in("operator").post("/cells/999/reject").status_code == 404
    assert sign_in("admin").post("/cells/999/reject").status_code == 403


def test_an_admin_corrects_nothing(sign_in: SignIn, store: ClinicStore, film: int) -> None:
    browser = sign_in("admin")
    cell = store.films.cells(film)[0]
    assert browser.post(f"/cells/{cell.id}/reject").status_code == 403
    assert browser.post(f"/films/{film}/undo").status_code == 403
    assert browser.post(f"/films/{film}/fields/0/check", {"checked": "true"}).status_code == 403
    assert "class-bar" not in browser.get(f"/films/{film}/gallery").text
    assert store.films.cells(film)[0] == cell


def test_the_gallery_groups_by_the_class_that_counts(
    sign_in: SignIn, store: ClinicStore, film: int
) -> None:
    browser = sign_in("operator")
    cells = store.films.cells(film)
    browser.post(f"/cells/{cells[0].id}/class", {"class_name": "eosinophil"})
    browser.post(f"/cells/{cells[1].id}/reject")
    groups = gallery(browser.get(f"/films/{film}/gallery").text)
    assert groups["eosinophil"] == {cells[0].id, cells[3].id}
    assert groups["rejected"] == {cells[1].id}
    assert groups["unclassified"] == {cells[5].id}
    assert "lymphocyte" not in groups
    assert next(iter(groups)) == "unclassified"


def test_a_field_with_its_boxes_and_a_cell_that_was_missed(
    sign_in: SignIn, store: ClinicStore, film: int
) -> None:
    browser = sign_in("operator")
    page = browser.get(f"/films/{film}/fields/1").text
    (cell,) = store.films.cells(film, 1)
    assert f'data-cell="{cell.id}"' in page
    side = re.search(r'data-side="([\d.]+)"', page)
    assert side is not None
    assert float(side[1]) == 28
    box = {"x1": 100, "y1": 60, "x2": 130, "y2": 90}
    added = browser.post(f"/films/{film}/fields/1/cells", {**box, "class_name": "lymphocyte"})
    assert added.status_code == 200
    made = store.films.cells(film, 1)[1]
    assert (made.id, made.box_xyxy) == (added.json()["id"], (100, 60, 130, 90))
    assert added.json()["crop"] is not None
    for bad in ({"x1": "nan"}, {"x1": "inf"}, {"x1": "1e300"}, {"x2": 101}, {"x1": "x"}):
        answer = browser.post(
            f"/films/{film}/fields/1/cells", {**box, **bad, "class_name": "lymphocyte"}
        )
        assert answer.status_code in (409, 422), bad
    assert browser.get(f"/films/{film}/fields/2").status_code == 404


def test_checking_a_field(sign_in: SignIn, store: ClinicStore, film: int) -> None:
    browser = sign_in("operator")
    path = f"/films/{film}/fields/1/check"
    assert browser.post(path, {"checked": "true"}).json() == {"field": 1, "checked": True}
    assert [each.index for each in store.films.fields(film) if each.checked] == [1]
    assert "✓" in browser.get(f"/films/{film}/fields").text
    undone = browser.post(f"/films/{film}/undo").json()
    assert (undone["what"], undone["field"]) == ("field_checked", 1)
    assert browser.post(f"/films/{film}/fields/2/check", {"checked": "true"}).status_code == 409


def test_from_preliminary_to_final_and_back(sign_in: SignIn, store: ClinicStore, film: int) -> None:
    reviewer, operator = sign_in("reviewer"), sign_in("operator")
    shown = content_of(reviewer.get(f"/films/{film}/review").text)
    # Somebody corrects a cell while the reviewer looks.
    cell = store.films.cells(film)[0]
    operator.post(f"/cells/{cell.id}/class", {"class_name": "eosinophil"})
    refused = reviewer.post(f"/films/{film}/sign", {"content_sha256": shown})
    assert refused.status_code == 409
    assert store.films.get(film).review == "preliminary"
    shown = content_of(reviewer.get(f"/films/{film}/review").text)
    signed = reviewer.post(f"/films/{film}/sign", {"content_sha256": shown, "comment": "clear"})
    assert signed.status_code == 303
    (signature,) = store.review.signatures(film)
    assert (signature.user, signature.comment) == ("Rosa Reviewer", "clear")
    assert signature.content_sha256 == shown
    assert "Final, signed".lower() in reviewer.get(f"/films/{film}").text.lower()
    # A signed film takes no correction.
    assert operator.post(f"/cells/{cell.id}/reject").status_code == 409
    assert "class-bar" not in operator.get(f"/films/{film}/gallery").text
    assert reviewer.post(f"/films/{film}/reopen", {"why": " "}).status_code == 409
    assert reviewer.post(f"/films/{film}/reopen", {"why": "smudge"}).status_code == 303
    assert store.films.get(film).review == "preliminary"
    assert "smudge" in reviewer.get(f"/films/{film}/review").text
    assert operator.post(f"/cells/{cell.id}/reject").status_code == 200


@pytest.mark.parametrize("role", ["operator", "admin"])
def test_only_a_reviewer_signs(sign_in: SignIn, store: ClinicStore, film: int, role: str) -> None:
    browser = sign_in(role)
    page = browser.get(f"/films/{film}/review").text
    assert "content_sha256" not in page
    content = store.review.content(film)
    assert browser.post(f"/films/{film}/sign", {"content_sha256": content}).status_code == 403
    assert browser.post(f"/films/{film}/reopen", {"why": "x"}).status_code == 403
    assert store.review.signatures(film) == []


def test_what_was_changed_behind_a_signature_is_told(
    sign_in: SignIn, store: ClinicStore, people: People, film: int
) -> None:
    from sqlalchemy import text

    store.review.sign(film, people.reviewer)
    with store.database.writing() as connection:
        connection.execute(text("UPDATE cells SET given_class = 'eosinophil' WHERE number = 1"))
    for tail in ("", "/review"):
        page = sign_in("reviewer").get(f"/films/{film}{tail}").text
        assert "What is stored is not what was signed" in page


def test_many_hands_at_once(sign_in: SignIn, store: ClinicStore, film: int) -> None:
    browsers = [sign_in(role) for role in ("operator", "reviewer", "operator")]
    cells = store.films.cells(film)
    codes: list[int] = []

    def work(browser: Browser) -> None:
        for cell in cells:
            codes.append(browser.post(f"/cells/{cell.id}/reject").status_code)
            codes.append(browser.get(f"/films/{film}").status_code)
            codes.append(browser.post(f"/cells/{cell.id}/restore").status_code)

    threads = [threading.Thread(target=work, args=(each,)) for each in browsers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(codes) == {200}
    assert len(codes) == 3 * 3 * len(cells)
    assert store.check() == []
    assert [each.rejected for each in store.films.cells(film)] == [False] * len(cells)


def content_of(page: str) -> str:
    found = re.search(r'name="content_sha256" value="([0-9a-f]{64})"', page)
    assert found is not None
    return found[1]


def gallery(page: str) -> dict[str, set[int]]:
    """Cells by group, groups without cells left out."""
    parts = re.split(r'data-group="([a-z_]+)"', page)[1:]
    groups = {
        name: {int(cell) for cell in re.findall(r'data-cell="(\d+)"', part)}
        for name, part in zip(parts[::2], parts[1::2], strict=True)
    }
    return {name: members for name, members in groups.items() if members}
