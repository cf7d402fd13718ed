"""The map of a film: where its cells lie, by class, on the part of the film that was seen.

Owns the drawing, one SVG without scripts and styles, so that a page with a strict content policy
can show it. Does not own where cells and fields lie (see ``mosaic``) nor how cells are named.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from edge_runtime.film.film_cells import Box
from edge_runtime.film.mosaic import FilmMosaic
from edge_runtime.film_report import RESEARCH_USE

# Okabe and Ito's colours, which colour-blind people tell apart, dark enough for a white ground.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#a6457f", "#56b4e9", "#b58900", "#333333")
SHAPES = ("circle", "square", "diamond", "triangle")
_WIDTH, _MARGIN, _LINE = 900.0, 24.0, 22.0
_GAP = 26.0  # between fragments
_LEAST_RADIUS = 3.0
# Share of a field that another one shows, from which on it is not drawn.
_SAME_VIEW = 0.9
_FIELD, _SEEN, _INK, _SOFT = "#e9e4f0", "#ffffff", "#1c1a22", "#57535f"


@dataclass(frozen=True, slots=True)
class MapCell:
    """One cell to be drawn.

    Attributes:
        id: of the film's cell; the mark's id is ``cell-ID``, for a page to point at.
        fragment: whose coordinates these are.
        box_xyxy: frame pixels.
        class_name: what it is counted as.
    """

    id: int
    fragment: int
    box_xyxy: Box
    class_name: str


@dataclass(frozen=True, slots=True)
class FilmMap:
    """What a map shows.

    Attributes:
        cells: in any order.
        views: fragment and corners of fields that together show all that was seen.
        pixel_size_um: µm per frame pixel, for the scale; None when unknown.
        lost_fields: fields that lie nobody knows where, to be said beside the map.
    """

    cells: tuple[MapCell, ...]
    views: tuple[tuple[int, Box], ...]
    pixel_size_um: float | None = None
    lost_fields: int = 0


def _plain(name: str) -> str:
    return name.replace("_", " ")


def _title(cells: int, parts: int) -> str:
    said = "part" if parts == 1 else "parts"
    return f"Map of the film: {cells:,} cells on {parts or 'no'} {said} of the film"


def _lost(fields: int) -> str:
    said = "field is" if fields == 1 else "fields are"
    return f"{fields:,} {said} not on the map: their place is not known."


@dataclass(frozen=True, slots=True)
class MapWords:
    """What a map says, in English unless it is told otherwise; plain text, not markup.

    Attributes:
        class_name: a class as people write it.
        count: a number of cells.
        title: of so many cells on so many parts.
        cell: a mark's own words, from its class as people write it and its number.
        another_part: above every part but the first.
        lost: of so many fields.
        nowhere: in place of a map.
        research: what it is not for.
    """

    class_name: Callable[[str], str] = _plain
    count: Callable[[int], str] = "{:,}".format
    title: Callable[[int, int], str] = _title
    cell: Callable[[str, int], str] = "{}, cell {}".format
    another_part: str = "Another part of the film; where it lies to the one above is not known."
    lost: Callable[[int], str] = _lost
    nowhere: str = "No field has a place yet."
    research: str = RESEARCH_USE


_ENGLISH = MapWords()


def film_map(mosaic: FilmMosaic, class_names: Mapping[int, str], *, unnamed: str) -> FilmMap:
    """The map of a mosaic.

    Args:
        mosaic: at any moment of the film.
        class_names: by cell id.
        unnamed: for cells without a name there.
    """
    state = mosaic.state()
    return FilmMap(
        tuple(
            MapCell(cell.id, cell.fragment, cell.box_xyxy, class_names.get(cell.id, unnamed))
            for cell in mosaic.cells
        ),
        tuple(mosaic.views()),
        mosaic.pixel_size_um,
        sum(state.lost.values()),
    )


def map_of_places(
    cells: Iterable[tuple[int, int, Box, str]],
    places: Mapping[int, tuple[int, float, float]],
    sizes: Mapping[int, tuple[int, int]],
    *,
    pixel_size_um: float | None,
    lost_fields: int,
) -> FilmMap:
    """The map of a film that is over, from the places of its fields.

    Args:
        cells: number on the film, field, box in it (frame pixels), and class of each.
        places: by field, fragment and upper left corner, frame pixels.
        sizes: by field, width and height, frame pixels.
        pixel_size_um: µm per frame pixel; None when unknown.
        lost_fields: fields without a place.
    """
    placed = []
    for number, field, (x1, y1, x2, y2), class_name in cells:
        fragment, x, y = places[field]
        placed.append(MapCell(number, fragment, (x1 + x, y1 + y, x2 + x, y2 + y), class_name))
    views = [
        (fragment, (x, y, x + sizes[field][0], y + sizes[field][1]))
        for field, (fragment, x, y) in sorted(places.items())
    ]
    return FilmMap(tuple(placed), tuple(_apart(views)), pixel_size_um, lost_fields)


def _apart(views: Sequence[tuple[int, Box]]) -> Iterator[tuple[int, Box]]:
    """Those that show something new: a hand that rests leaves a thousand fields on one spot."""
    squares: dict[tuple[int, int, int], list[Box]] = {}
    for fragment, box in views:
        wide, high = max(1.0, _width(box)), max(1.0, _height(box))
        column, row = math.floor(box[0] / wide), math.floor(box[1] / high)
        around = (
            other
            for c in (column - 1, column, column + 1)
            for r in (row - 1, row, row + 1)
            for other in squares.get((fragment, c, r), ())
        )
        if all(_overlap(box, other) < _SAME_VIEW * wide * high for other in around):
            squares.setdefault((fragment, column, row), []).append(box)
            yield fragment, box


def _overlap(one: Box, other: Box) -> float:
    wide = min(one[2], other[2]) - max(one[0], other[0])
    high = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, wide) * max(0.0, high)


def draw_map(film: FilmMap, *, order: Sequence[str] = (), words: MapWords = _ENGLISH) -> str:
    """The map as an SVG document.

    Args:
        film: what to show.
        order: classes in the order in which they get colours; others follow by name.
        words: in the reader's language.
    """
    counts = Counter(cell.class_name for cell in film.cells)
    names = [name for name in order if name in counts]
    names += sorted(set(counts) - set(names))
    looks = {name: at for at, name in enumerate(names)}
    parts, height = _fragments(film, looks, words)
    height += _LINE
    legend, height = _legend(film, counts, names, height, words)
    title = escape(words.title(len(film.cells), len(by_fragment(film))))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH:.0f} {height:.0f}" '
        f'role="img" aria-label="{title}" '
        f'font-family="system-ui, sans-serif" font-size="13">'
        f"<title>{title}</title>"
        f'<rect width="{_WIDTH:.0f}" height="{height:.0f}" fill="{_SEEN}"/>'
        + "".join(parts)
        + "".join(legend)
        + "</svg>\n"
    )


def by_fragment(film: FilmMap) -> dict[int, Box]:
    """What was seen of each fragment, as one rectangle; the largest first."""
    around: dict[int, Box] = {}
    for fragment, box in film.views:
        known = around.get(fragment, box)
        around[fragment] = (
            min(known[0], box[0]),
            min(known[1], box[1]),
            max(known[2], box[2]),
            max(known[3], box[3]),
        )
    return dict(sorted(around.items(), key=lambda each: -_width(each[1]) * _height(each[1])))


def _fragments(film: FilmMap, looks: Mapping[str, int], words: MapWords) -> tuple[list[str], float]:
    """Every fragment below the last one, all to one scale."""
    around = by_fragment(film)
    if not around:
        return [_text(_MARGIN, _MARGIN + 13, words.nowhere, _SOFT)], 2 * _MARGIN
    scale = (_WIDTH - 2 * _MARGIN) / max(_width(box) for box in around.values())
    parts: list[str] = []
    top = _MARGIN
    for number, (fragment, box) in enumerate(around.items()):
        if number:
            parts.append(_text(_MARGIN, top + 13, words.another_part, _SOFT))
            top += _LINE
        left = _MARGIN - box[0] * scale
        over = top - box[1] * scale
        parts.append(f'<g transform="translate({left:.2f} {over:.2f})">')
        # Fields first, in one colour without lines, so that they run together.
        parts += [
            f'<rect x="{x1 * scale:.2f}" y="{y1 * scale:.2f}" width="{(x2 - x1) * scale:.2f}" '
            f'height="{(y2 - y1) * scale:.2f}" fill="{_FIELD}"/>'
            for which, (x1, y1, x2, y2) in film.views
            if which == fragment
        ]
        parts += [
            _mark(cell, scale, looks[cell.class_name], words)
            for cell in sorted(film.cells, key=lambda each: each.id)
            if cell.fragment == fragment
        ]
        parts.append("</g>")
        top += _height(box) * scale + _GAP
    if film.pixel_size_um is not None:
        parts += _scale_bar(scale / film.pixel_size_um, top)
        top += _LINE
    return parts, top


def _mark(cell: MapCell, scale: float, look: int, words: MapWords) -> str:
    x1, y1, x2, y2 = (side * scale for side in cell.box_xyxy)
    radius = max(_LEAST_RADIUS, math.sqrt(max(0.0, (x2 - x1) * (y2 - y1))) / 2)
    said = words.cell(words.class_name(cell.class_name), cell.id)
    title = f"<title>{escape(said)}</title>"
    return _shape((x1 + x2) / 2, (y1 + y2) / 2, radius, look, f' id="cell-{cell.id}"', title)


def _shape(x: float, y: float, r: float, look: int, more: str = "", inside: str = "") -> str:
    """A mark; classes beyond the colours take the next shape."""
    colour = COLOURS[look % len(COLOURS)]
    kind = SHAPES[look // len(COLOURS) % len(SHAPES)]
    paint = f'fill="{colour}" fill-opacity="0.85" stroke="#ffffff" stroke-width="0.8"{more}'
    if kind == "circle":
        return f'<circle cx="{x:.2f}" cy="{y:.2f}" r="{r:.2f}" {paint}>{inside}</circle>'
    corners = {
        "square": ((-1, -1), (1, -1), (1, 1), (-1, 1)),
        "diamond": ((0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)),
        "triangle": ((0, -1.2), (1.15, 0.9), (-1.15, 0.9)),
    }[kind]
    points = " ".join(f"{x + dx * r:.2f},{y + dy * r:.2f}" for dx, dy in corners)
    return f'<polygon points="{points}" {paint}>{inside}</polygon>'


def _scale_bar(px_per_um: float, top: float) -> list[str]:
    """A bar of a round length, at most a fifth of the map."""
    longest = _WIDTH / 5 / px_per_um
    power = 10 ** math.floor(math.log10(longest))
    length = next(step * power for step in (5, 2, 1) if step * power <= longest)
    end, y = _MARGIN + length * px_per_um, top + 4
    said = f"{length / 1000:g} mm" if length >= 1000 else f"{length:g} µm"
    bar = f'<path d="M{_MARGIN:.2f} {y:.2f}H{end:.2f}" stroke="{_INK}" stroke-width="3"/>'
    return [bar, _text(end + 8, y + 4, said, _INK)]


def _legend(
    film: FilmMap, counts: Mapping[str, int], names: Sequence[str], top: float, words: MapWords
) -> tuple[list[str], float]:
    parts: list[str] = []
    columns = 4
    for at, name in enumerate(names):
        x = _MARGIN + (at % columns) * (_WIDTH - 2 * _MARGIN) / columns
        y = top + (at // columns) * _LINE
        parts.append(_shape(x + 6, y - 4.5, 5.5, at))
        said = f"{words.class_name(name)}: {words.count(counts[name])}"
        parts.append(_text(x + 18, y, said, _INK))
    top += math.ceil(len(names) / columns) * _LINE
    if film.lost_fields:
        parts.append(_text(_MARGIN, top, words.lost(film.lost_fields), "#7a3e00"))
        top += _LINE
    parts.append(_text(_MARGIN, top, words.research, _SOFT))
    return parts, top + _LINE / 2


def _text(x: float, y: float, words: str, colour: str) -> str:
    return f'<text x="{x:.2f}" y="{y:.2f}" fill="{colour}">{escape(words)}</text>'


def _width(box: Box) -> float:
    return box[2] - box[0]


def _height(box: Box) -> float:
    return box[3] - box[1]
