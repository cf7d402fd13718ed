"""Labels in "CVAT for images 1.1", one ``annotations.xml`` for a set.

Owns reading that XML strictly and safely. Boxes are taken; polygons, masks and upright
ellipses become the box around them, with a note; everything else is a bad row. Does not own
what the classes mean to a model (see ``class_names``).
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from xml.parsers import expat

from edge_runtime.errors import DataError
from train.datasets.field_files import (
    LARGEST_NUMBER,
    AnnotatedPicture,
    find_picture,
    unmentioned,
)
from train.datasets.labelled import LabelledSet
from train.datasets.yolo_folders import SPLIT_NAMES

# Drawn shapes that frame no cell.
_NO_OUTLINE = frozenset({"polyline", "points", "cuboid", "skeleton"})
_AROUND = frozenset({"polygon", "mask", "ellipse"})
_LISTED = 5
_LABEL_NAME = ["labels", "label", "name"]

_Box = tuple[float, float, float, float]


def cvat_files(root: Path) -> list[Path]:
    """XML files directly in a folder; CVAT's is called ``annotations.xml``."""
    return sorted(root.glob("*.xml")) if root.is_dir() else []


def read_cvat(root: Path) -> LabelledSet:
    """Reads the one XML file of a folder; bad shapes are listed in the set with their line.

    Raises:
        DataError: no such file or several, no XML, an XML with a DOCTYPE (those can name other
            files or blow up memory), or another kind of export, such as a video's tracks.
    """
    files = cvat_files(root)
    if len(files) != 1:
        shown = ", ".join(each.name for each in files[:_LISTED]) or "none"
        shown += f" and {len(files) - _LISTED} more" if len(files) > _LISTED else ""
        raise DataError(f"{root}: one XML file is wanted, there is {shown}; keep annotations.xml")
    reader = _Reader(root, files[0])
    reader.parse()
    taken = tuple(
        f"{count} shapes of the kind {kind!r} taken as the box around them"
        for kind, count in sorted(reader.turned.items())
    )
    notes = (*taken, *unmentioned(root, reader.pictures))
    images = tuple(each.labelled(root.name) for each in reader.pictures.values())
    return LabelledSet(
        root.name, root, tuple(reader.classes), None, images, tuple(reader.bad), (), notes
    )


class _Reader:
    """One pass over the file, element by element."""

    def __init__(self, root: Path, file: Path) -> None:
        self.classes: list[str] = []
        self.pictures: dict[Path, AnnotatedPicture] = {}
        self.bad: list[str] = []
        self.turned: Counter[str] = Counter()
        self._root, self._file = root, file
        self._open: list[str] = []
        self._text = ""
        self._current: AnnotatedPicture | None = None
        self._parser = expat.ParserCreate()
        self._parser.StartDoctypeDeclHandler = self._doctype
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._characters

    def parse(self) -> None:
        """Reads everything."""
        try:
            with self._file.open("rb") as handle:
                self._parser.ParseFile(handle)
        except (expat.ExpatError, ValueError) as error:
            raise DataError(f"{self._file}: no XML: {error}; export it again") from error
        except OSError as error:
            raise DataError(f"{self._file}: cannot be read: {error.strerror}") from error

    def _doctype(self, *_: object) -> None:
        raise DataError(
            f"{self._where}: has a DOCTYPE, which CVAT never writes; it was not read further"
        )

    def _start(self, name: str, values: dict[str, str]) -> None:
        if not self._open and name != "annotations":
            raise DataError(
                f"{self._file}: begins with <{name}>; export it as 'CVAT for images 1.1'"
            )
        if name == "track":
            raise DataError(f"{self._where}: tracks of a video; export it as 'CVAT for images 1.1'")
        self._open.append(name)
        self._text = ""
        try:
            if name == "image" and len(self._open) == 2:
                self._current = None
                self._current = self._picture(values)
            elif self._open[:2] == ["annotations", "image"] and len(self._open) == 3:
                self._shape(name, values)
        except DataError as error:
            self.bad.append(f"{self._where}: {error}")

    def _end(self, name: str) -> None:
        if self._open[-3:] == _LABEL_NAME:
            try:
                self._class_id(self._text)
            except DataError as error:
                self.bad.append(f"{self._where}: {error}")
        self._open.pop()

    def _characters(self, text: str) -> None:
        if self._open[-3:] == _LABEL_NAME:
            self._text += text

    @property
    def _where(self) -> str:
        return f"{self._file}:{self._parser.CurrentLineNumber}"

    def _class_id(self, name: str) -> int:
        name = name.strip()
        if not name:
            raise DataError("a label without a name")
        if name not in self.classes:
            self.classes.append(name)
        return self.classes.index(name)

    def _picture(self, values: dict[str, str]) -> AnnotatedPicture:
        name = values.get("name", "")
        if not name:
            raise DataError("an image without a name")
        width, height = (_number(values, key) for key in ("width", "height"))
        if width < 1 or height < 1:
            raise DataError(f"{name}: width {width:g} and height {height:g} are no picture's")
        subset = values.get("subset")
        path = find_picture(name, self._root, self._file, subset)
        if path in self.pictures:
            raise DataError(f"{path} is described twice")
        split = SPLIT_NAMES.get((subset or "").lower(), "all")
        self.pictures[path] = AnnotatedPicture(path, split, (int(width), int(height)))
        return self.pictures[path]

    def _shape(self, kind: str, values: dict[str, str]) -> None:
        if kind in _NO_OUTLINE:
            raise DataError(f"a {kind} frames no cell; draw a box")
        # Tags of whole pictures and whatever later versions add say nothing of where a cell is.
        if kind != "box" and kind not in _AROUND:
            return
        if self._current is None:
            raise DataError(f"a {kind} in a picture that cannot be used")
        class_id = self._class_id(values.get("label", ""))
        if "rotation" in values and _number(values, "rotation") % 360:
            raise DataError(f"turned {kind} (rotation {values['rotation']}); draw it upright")
        self._current.add_box(class_id, *_box(kind, values))
        if kind in _AROUND:
            self.turned[kind] += 1


def _box(kind: str, values: dict[str, str]) -> _Box:
    """Left, top, width, height in pixels."""
    if kind == "box":
        x1, y1, x2, y2 = (_number(values, key) for key in ("xtl", "ytl", "xbr", "ybr"))
        return x1, y1, x2 - x1, y2 - y1
    if kind == "mask":
        x, y, width, height = (_number(values, key) for key in ("left", "top", "width", "height"))
        return x, y, width, height
    if kind == "ellipse":
        cx, cy, rx, ry = (_number(values, key) for key in ("cx", "cy", "rx", "ry"))
        return cx - rx, cy - ry, 2 * rx, 2 * ry
    points = [each.split(",") for each in values.get("points", "").split(";")]
    if len(points) < 3 or any(len(point) != 2 for point in points):
        raise DataError("a polygon of less than three points")
    xs = [_number({"points": x}, "points") for x, _ in points]
    ys = [_number({"points": y}, "points") for _, y in points]
    return min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)


def _number(values: dict[str, str], key: str) -> float:
    try:
        value = float(values[key])
    except KeyError as error:
        raise DataError(f"{key} is missing") from error
    except ValueError as error:
        raise DataError(f"{key} is no number: {values[key]!r}") from error
    if not abs(value) < LARGEST_NUMBER:
        raise DataError(f"{key} is no usable number: {values[key]!r}")
    return value
