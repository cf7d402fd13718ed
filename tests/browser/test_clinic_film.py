"""A whole film in a real browser: from sign-in to the signed PDF, and every view at three sizes.

The browser is Debian's Chromium through its own driver; the device is ``leukoscope serve`` with the
shipped bundle and a film that is moved by hand under the virtual microscope. With
``LEUKOSCOPE_SCREENSHOTS`` set to a folder, every view is kept there as a PNG to look at.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("selenium", reason="leukoscope[test]")
pytest.importorskip("uvicorn", reason="leukoscope[clinic]")

from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from edge_runtime.clinic.store.store import open_store
from tests.clinic_films import PASSWORD, hire

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.skipif(
        CHROMIUM is None or DRIVER is None,
        reason="no chromium with its driver here: sudo apt-get install chromium chromium-driver",
    ),
    pytest.mark.timeout(300),
]

# A phone, the 7-inch touch screen of a device, a desk.
SIZES = {"phone": (390, 844), "seven": (800, 480), "desk": (1280, 800)}
SOURCE = "paced:4:virtual:hcm_100x_c2:7:hand"
RESEARCH = "For research use only. Not for use in diagnostic procedures."
SLIDE = "S-2026-0042"


@dataclass
class Person:
    """Somebody at the device, with a browser."""

    browser: Chrome
    address: str
    downloads: Path

    def see(self, selector: str) -> Any:
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[Any]:
        return self.browser.find_elements(By.CSS_SELECTOR, selector)

    def go(self, path: str) -> None:
        self.browser.get(self.address + path)

    def until(self, done: Callable[[], Any], what: str, s: float = 60) -> Any:
        return WebDriverWait(self.browser, s, poll_frequency=0.1).until(lambda _: done(), what)

    def click(self, selector: str) -> None:
        element = self.see(selector)
        self.browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
        element.click()

    def downloaded(self, ending: str) -> Path:
        found = self.until(lambda: list(self.downloads.glob(f"*{ending}")), f"a {ending} came")
        return Path(found[0])

    def resize(self, name: str) -> None:
        width, height = SIZES[name]
        self.browser.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False},
        )

    def look(self, view: str) -> None:
        """What must hold of every view at every size."""
        for size, (width, _) in SIZES.items():
            self.resize(size)
            time.sleep(0.1)
            wide = self.browser.execute_script("return document.documentElement.scrollWidth")
            assert wide <= width, f"{view} on a {size}: {wide} px of {width}"
            assert RESEARCH in self.see("body").text
            small = [
                element.text or element.get_attribute("outerHTML")[:80]
                for element in self.all("main button, main a.button")
                if element.is_displayed() and element.size["height"] < 36
            ]
            assert not small, f"{view} on a {size}: too small for a gloved finger: {small}"
            kept = os.environ.get("LEUKOSCOPE_SCREENSHOTS")
            if kept:
                Path(kept).mkdir(parents=True, exist_ok=True)
                self.browser.save_screenshot(str(Path(kept) / f"{view}-{size}.png"))
        self.resize("seven")


@contextmanager
def serving(store: Path) -> Iterator[str]:
    """The address of a device; it must end well when told so."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("LEUKOSCOPE_")}
    command = [sys.executable, "-m", "edge_runtime.cli", "serve", "--port", "0"]
    process = subprocess.Popen(
        [*command, "--store", str(store), "--source", SOURCE],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**environment, "XDG_CONFIG_HOME": os.devnull},
    )  # fmt: skip
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.match(r"serving (http://\S+)/", line)
        assert found is not None, (line, process.communicate(timeout=20))
        yield found[1]
        process.terminate()
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.communicate(timeout=20)


@contextmanager
def chromium(downloads: Path) -> Iterator[Chrome]:
    options = ChromeOptions()
    assert CHROMIUM is not None
    assert DRIVER is not None
    options.binary_location = CHROMIUM
    # As root, as in a container, Chromium starts without its sandbox only.
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    options.add_argument("--lang=en")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    options.add_experimental_option(
        "prefs", {"download.default_directory": str(downloads), "intl.accept_languages": "en"}
    )
    browser = Chrome(options=options, service=Service(DRIVER))
    try:
        yield browser
    finally:
        browser.quit()


@pytest.fixture(scope="module")
def person(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Person]:
    folder = tmp_path_factory.mktemp("clinic")
    with open_store(folder / "store") as opened:
        hire(opened)
    downloads = folder / "downloads"
    downloads.mkdir()
    with serving(folder / "store") as address, chromium(downloads) as browser:
        someone = Person(browser, address, downloads)
        someone.resize("seven")
        yield someone
        log: Any = browser
        told = [
            each
            for each in log.get_log("browser")
            # Told by the page itself, in words; the browser's line is no defect.
            if each["level"] == "SEVERE" and "401" not in each["message"]
        ]
        assert not told, "the browser complains, as of the content policy"


def sign_in(person: Person, name: str, secret: str) -> None:
    person.go("/")
    person.until(lambda: person.all("[name=secret]"), "the page asks who is there")
    person.look("sign-in")
    person.see("[name=name]").send_keys(name)
    person.see("[name=secret]").send_keys(secret + Keys.ENTER)
    person.until(lambda: person.all("#live"), "the microscope's view comes")


def count(person: Person) -> int:
    return int(re.sub(r"\D", "", person.see("#cells").text) or 0)


def test_a_film_from_sign_in_to_the_signed_pdf(person: Person) -> None:
    sign_in(person, "Rosa Reviewer", PASSWORD)
    # There is a picture before there is a film: the operator has to find the focus.
    person.until(lambda: re.search(r"\d", person.see("#age").text), "a picture with its age")
    person.look("live-before")

    person.see("[name=slide]").send_keys(SLIDE)
    person.click("#go")
    person.until(lambda: count(person) >= 8, "eight cells are counted")
    assert person.see("#live").get_attribute("data-phase") == "running"
    assert person.see("#say-text").text
    drawn = person.browser.execute_script(
        "const c = document.getElementById('view');"
        "const p = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
        "return new Set(p).size"
    )
    assert drawn > 50, "the canvas shows a film, not one colour"
    person.look("live-running")
    person.click("#stop")
    person.browser.switch_to.alert.accept()
    person.until(lambda: person.see("#look").is_displayed(), "the film ended")
    person.click("#look")

    person.until(lambda: person.all("table.differential"), "the film's result")
    film = person.browser.current_url.rstrip("/").rsplit("/", 1)[1]
    assert SLIDE in person.see("h1").text
    assert len(person.all("table.differential tbody tr")) == 6
    marks = len(person.all("#map [id^=cell-]"))
    assert marks == int(person.see("ul.figures li:first-child .value").text) >= 8
    person.look("film")

    name_one_cell(person, film)
    check_a_field(person, film)

    person.go(f"/films/{film}/review")
    person.look("review")
    person.click("form[action$='/sign'] button")
    person.until(lambda: person.all(".film-head .badge.good"), "the film is final")
    person.go(f"/films/{film}/review")
    assert person.all("p.hash"), "what was signed is named by its SHA-256"
    assert "Rosa Reviewer" in person.see("main").text
    person.look("signed")

    person.go(f"/films/{film}")
    person.click("button[value=pdf]")
    paper = person.downloaded(".pdf")
    assert paper.read_bytes().startswith(b"%PDF-")
    person.go(f"/films/{film}/gallery")
    assert person.see("[data-cell]").get_attribute("disabled"), "what is signed is not corrected"


def name_one_cell(person: Person, film: str) -> None:
    """By key, taken back, and by touch."""
    person.go(f"/films/{film}/gallery")
    person.look("gallery")
    cell = person.see("[data-cell]")
    number, before = cell.get_attribute("data-cell"), cell.get_attribute("data-class")
    wanted = "monocyte" if before != "monocyte" else "basophil"
    button = person.see(f"[data-give={wanted}]")
    key = button.get_attribute("data-key")

    def now() -> str:
        return str(person.see(f"#cell-{number}").get_attribute("data-class"))

    person.click(f"#cell-{number}")
    person.see("body").send_keys(key)
    person.until(lambda: now() == wanted, "a key names the cell")
    person.see("body").send_keys("u")
    person.until(lambda: now() == before, "U takes it back")
    person.click(f"#cell-{number}")
    person.click(f"[data-give={wanted}]")
    person.until(lambda: now() == wanted, "a tap names it")


def check_a_field(person: Person, film: str) -> None:
    person.go(f"/films/{film}/fields")
    person.look("fields")
    person.click("main a[href*='/fields/']")
    person.until(lambda: person.all("#check"), "one field")
    person.look("field")
    here = person.browser.current_url
    person.click("#check")
    person.until(lambda: person.browser.current_url != here, "on to the next field")


def test_the_other_views(person: Person) -> None:
    for view in ("films", "device", "device/doctor", "account"):
        person.go(f"/{view}")
        assert person.all("h1"), view
        person.look(view.replace("/", "-"))
    person.go("/films?words=0042")
    assert SLIDE in person.see("main").text
    person.go("/films?words=nothing-is-called-so")
    assert SLIDE not in person.see("main").text


def test_all_of_it_in_spanish(person: Person) -> None:
    person.go("/account")
    person.click(".me summary")
    person.click(".me-menu button[value=es]")
    person.until(lambda: person.see("html").get_attribute("lang") == "es", "it speaks Spanish")
    for view in ("live", "films", "films/1", "films/1/gallery", "films/1/review", "device"):
        person.go(f"/{view}")
        words = person.see("body").text
        assert "Solo para uso en investigación" in words
        unsaid = re.findall(r"\b(?:live|film|films|gallery|review|device|base)\.[a-z_]+\b", words)
        assert not unsaid, f"{view}: {unsaid} have no words"


def test_without_a_session_there_is_nothing(person: Person) -> None:
    person.browser.delete_all_cookies()
    person.go("/films/1")
    assert person.all("[name=secret]")
    assert SLIDE not in person.browser.page_source
