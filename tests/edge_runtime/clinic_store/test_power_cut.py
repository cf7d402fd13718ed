"""The power may go at any instant: what was committed is there, whole, with its pictures."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from edge_runtime.clinic.store.database import DATABASE_FILE
from edge_runtime.clinic.store.records import NewFilm
from edge_runtime.clinic.store.sink import StoreSink
from edge_runtime.clinic.store.store import ClinicStore, open_store
from tests.clinic_films import SETUP, field_of
from tests.signed_bundles import PowerCutError, PowerDisk, operations_of

CLASSES = ("neutrophil", "lymphocyte", "neutrophil")

# For each line a process that examines without end, and says after every append which field is
# committed. Forked, so that only the first waits for the imports.
WRITERS = """
import os, signal, sys
from pathlib import Path
from edge_runtime.clinic.store.records import NewFilm
from edge_runtime.clinic.store.sink import StoreSink
from edge_runtime.clinic.store.store import open_store
from edge_runtime.types import FieldResult
from tests.clinic_films import SETUP, field_of

fields = [field_of(n, ("neutrophil", "lymphocyte", "neutrophil")) for n in range(4)]
print("ready", flush=True)
for line in iter(sys.stdin.readline, ""):
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        print("gone", flush=True)
        continue
    # By the child itself: it may be at work before its parent is.
    print("pid", os.getpid(), flush=True)
    with open_store(Path(line.strip())) as store:
        sink = StoreSink(store, NewFilm("S-1"), SETUP)
        sink.start()
        print("film", sink.film, flush=True)
        for index in range(100_000):
            like = fields[index % 4]
            sink.append(FieldResult(index, *(getattr(like, x) for x in FieldResult.__slots__[1:])))
            print("field", index, flush=True)
"""


class Writers:
    """Starts writing processes and kills them."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", WRITERS],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[3],
        )
        assert self._read() == "ready"

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the process that forks the writers has ended"
        return line.strip()

    def kill_one(self, folder: Path, rng: random.Random) -> tuple[int | None, int]:
        """Kills a writer at a random instant; its film, and the fields it said it committed.

        The instant is within making the store and the film, or within one of the first fields,
        however slow the machine is.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(f"{folder}\n")
        self._process.stdin.flush()
        word, _, pid = self._read().partition(" ")
        assert word == "pid"
        lines: list[str] = []
        wanted = rng.randrange(6)
        while len(lines) < wanted:
            lines.append(self._read())
            assert lines[-1] != "gone", f"the writer ended by itself after {lines}"
        time.sleep(rng.uniform(0, 0.02))
        os.kill(int(pid), signal.SIGKILL)
        while (line := self._read()) != "gone":
            lines.append(line)
        return committed_fields(lines)

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(timeout=20)


@pytest.fixture
def memory_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one.

    A killed process takes nothing with it that a file system has, so no disk is needed to find out
    what is lost; and on one that others keep busy, hundreds of flushes take minutes.
    """
    memory = Path("/dev/shm")
    if not (memory.is_dir() and os.access(memory, os.W_OK)):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory, prefix="leukoscope-test-") as folder:
        yield Path(folder)


@pytest.fixture
def writers() -> Iterator[Writers]:
    made = Writers()
    yield made
    made.close()


def committed_fields(lines: list[str]) -> tuple[int | None, int]:
    film, fields = None, 0
    for line in lines:
        word, _, number = line.partition(" ")
        if word == "film":
            film = int(number)
        elif word == "field":
            assert int(number) == fields
            fields += 1
    return film, fields


def kill_writers(writers: Writers, folders: Sequence[Path], rng: random.Random) -> list[int]:
    """Kills one writer after the other, and looks each time at what it left; fields of each."""
    found = []
    for folder in folders:
        film, fields = writers.kill_one(folder, rng)
        with open_store(folder) as store:
            require_whole(store, film, fields)
        found.append(fields)
    return found


def require_whole(store: ClinicStore, film: int | None, fields: int) -> None:
    """Everything that was said to be committed is there, and what is there is whole."""
    assert store.check() == []
    if film is None:
        return
    kept = store.films.fields(film)
    # The field in flight may be there as well, but then with all its cells.
    assert fields <= len(kept) <= fields + 1
    assert [each.index for each in kept] == list(range(len(kept)))
    for each in kept:
        assert len(store.films.cells(film, each.index)) == len(CLASSES)
    assert store.films.get(film).state == "interrupted"
    assert store.reports.examined(film).totals.cells == len(CLASSES) * len(kept)


def test_ten_killed_writers_lose_no_committed_cell(memory_folder: Path, writers: Writers) -> None:
    folders = [memory_folder / f"store-{n % 3}" for n in range(10)]
    assert sum(kill_writers(writers, folders, random.Random(1))) > 0


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_hundred_killed_writers_lose_no_committed_cell(
    memory_folder: Path, writers: Writers
) -> None:
    # A new store now and then: making one is cut as well.
    folders = [memory_folder / f"store-{n % 20}" for n in range(200)]
    assert sum(kill_writers(writers, folders, random.Random(2))) > 200


def append_to(folder: Path, disk: PowerDisk) -> int:
    """One film of two fields; how many were appended before the power went."""
    done = 0
    with suppress(PowerCutError), open_store(folder, files=disk) as store:
        sink = StoreSink(store, NewFilm("S-1"), SETUP)
        sink.start()
        for index in range(2):
            sink.append(field_of(index, CLASSES[:1]))
            done += 1
    return done


def keep_database(folder: Path, elsewhere: Path) -> None:
    """What SQLite flushed is its own affair; the disk of these tests knows pictures only."""
    elsewhere.mkdir(exist_ok=True)
    for file in folder.glob(f"{DATABASE_FILE}*"):
        shutil.copy2(file, elsewhere)


@pytest.mark.parametrize("lost", ["all", 1])
def test_no_row_names_a_picture_that_the_power_cut_took(tmp_path: Path, lost: str | int) -> None:
    """Cut at every file operation; of pictures only what was flushed is left."""
    plain = tmp_path / "plain"
    plain.mkdir()
    operations = operations_of(lambda disk: append_to(plain, disk), plain)
    # Two fields of preview, crop and frame each.
    assert sum(name.startswith("fsync") for name in operations) == 6
    # Of many cuts alike every third, which meets each kind of operation.
    for number in range(0, len(operations) + 1, 1 if lost == "all" else 3):
        folder = tmp_path / f"store-{number}"
        folder.mkdir()
        disk = PowerDisk(folder, number)
        done = append_to(folder, disk)
        keep_database(folder, tmp_path / "database")
        disk.lose(None if lost == "all" else random.Random(f"{lost} {number}"))
        for file in (tmp_path / "database").iterdir():
            shutil.move(file, folder / file.name)
        with open_store(folder) as store:
            assert store.check() == []
            assert sum(each.fields for each in store.films.search()) == done
