"""The map of a film on paper: which part of it was seen, and where its cells lie, by class.

Owns the drawing. Does not own where anything lies nor what stands for which class (see
``film.mosaic_map``, which draws the same for the page).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from edge_runtime.clinic.film_view import say
from edge_runtime.clinic.paper import words
from edge_runtime.clinic.paper.sheet import INK, MARGIN, WIDTH, Colour, Sheet
from edge_runtime.clinic.paper.words import Translate
from edge_runtime.film.film_cells import Box
from edge_runtime.film.mosaic_map import COLOURS, SHAPES, FilmMap, MapCell, by_fragment

_MOST_HIGH = 105.0
_MOST_FRAGMENTS = 6
_SEEN: Colour = (233, 228, 240)
_WHITE: Colour = (255, 255, 255)
# Smaller marks cannot be told apart by colour, larger ones hide each other.
_LEAST_RADIUS, _MOST_RADIUS = 0.75, 1.8
_LEGEND_COLUMNS, _LEGEND_LINE = 4, 4.6
_CORNERS = {
    "square": ((-1, -1), (1, -1), (1, 1), (-1, 1)),
    "diamond": ((0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)),
    "triangle": ((0, -1.2), (1.15, 0.9), (-1.15, 0.9)),
}


def draw_film_map(sheet: Sheet, film: FilmMap, order: Sequence[str], t: Translate) -> None:
    """Draws every part of the film to one scale, with scale bar and legend.

    Args:
        sheet: what to draw on, where it is now.
        film: what to show.
        order: classes in the order in which they get their colours; others follow by name.
        t: says the words.
    """
    counts = Counter(cell.class_name for cell in film.cells)
    names = [name for name in order if name in counts]
    names += sorted(set(counts) - set(names))
    looks = {name: number for number, name in enumerate(names)}
    around = by_fragment(film)
    if around:
        scale = _scale(around)
        for number, (fragment, box) in enumerate(list(around.items())[:_MOST_FRAGMENTS]):
            if number:
                sheet.gap(1)
                sheet.room((box[3] - box[1]) * scale + 8)
                sheet.note(t(words.MAP_ANOTHER_PART))
            _fragment(sheet, film, fragment, box, scale, looks)
        if len(around) > _MOST_FRAGMENTS:
            sheet.note(t(words.MAP_MORE_PARTS, count=len(around) - _MOST_FRAGMENTS))
        if film.pixel_size_um:
            _scale_bar(sheet, scale / film.pixel_size_um)
    _legend(sheet, names, counts, t)
    if film.lost_fields:
        sheet.note(t(words.MAP_LOST, count=film.lost_fields))


def height_of_first(film: FilmMap) -> float:
    """What the first part, which stays with the heading, takes of a page in millimetres."""
    around = by_fragment(film)
    if not around:
        return 0.0
    _, y1, _, y2 = next(iter(around.values()))
    return (y2 - y1) * _scale(around) + 2


def _scale(around: Mapping[int, Box]) -> float:
    """Millimetres per frame pixel."""
    widest = max(x2 - x1 for x1, _, x2, _ in around.values())
    highest = max(y2 - y1 for _, y1, _, y2 in around.values())
    return min(WIDTH / widest, _MOST_HIGH / highest)


def _fragment(
    sheet: Sheet, film: FilmMap, fragment: int, box: Box, scale: float, looks: dict[str, int]
) -> None:
    height = (box[3] - box[1]) * scale
    sheet.room(height + 2)
    left, top = MARGIN - box[0] * scale, sheet.y - box[1] * scale
    for which, (x1, y1, x2, y2) in film.views:
        if which == fragment:
            width, high = (x2 - x1) * scale, (y2 - y1) * scale
            sheet.bar(left + x1 * scale, top + y1 * scale, width, high, _SEEN)
    for cell in sorted(film.cells, key=lambda each: each.id):
        if cell.fragment == fragment:
            _mark(sheet, cell, left, top, scale, looks[cell.class_name])
    sheet.y = sheet.y + height + 2


def _mark(sheet: Sheet, cell: MapCell, left: float, top: float, scale: float, look: int) -> None:
    x1, y1, x2, y2 = (side * scale for side in cell.box_xyxy)
    size = math.sqrt(max(0.0, (x2 - x1) * (y2 - y1))) / 2
    radius = min(_MOST_RADIUS, max(_LEAST_RADIUS, size))
    _shape(sheet, left + (x1 + x2) / 2, top + (y1 + y2) / 2, radius, look)


def _shape(sheet: Sheet, x: float, y: float, radius: float, look: int) -> None:
    """A mark; classes beyond the colours take the next shape."""
    pdf = sheet.pages
    colour = COLOURS[look % len(COLOURS)]
    kind = SHAPES[look // len(COLOURS) % len(SHAPES)]
    pdf.set_fill_color(*(int(colour[at : at + 2], 16) for at in (1, 3, 5)))
    pdf.set_draw_color(*_WHITE)
    pdf.set_line_width(0.15)
    if kind == "circle":
        pdf.circle(x, y, radius, style="DF")
    else:
        corners = [(x + dx * radius, y + dy * radius) for dx, dy in _CORNERS[kind]]
        pdf.polygon(corners, style="DF")


def _scale_bar(sheet: Sheet, mm_per_um: float) -> None:
    """A bar of a round length, at most a fifth of the sheet."""
    longest = WIDTH / 5 / mm_per_um
    power = 10 ** math.floor(math.log10(longest))
    length = next(step * power for step in (5, 2, 1) if step * power <= longest)
    sheet.room(5)
    end = MARGIN + length * mm_per_um
    sheet.bar(MARGIN, sheet.y + 1.2, end - MARGIN, 0.7, INK)
    said = f"{length / 1000:g} mm" if length >= 1000 else f"{length:g} µm"
    sheet.label(said, end + 2, sheet.y, width=30)
    sheet.gap(5)


def _legend(sheet: Sheet, names: Sequence[str], counts: Counter[str], t: Translate) -> None:
    column = WIDTH / _LEGEND_COLUMNS
    for at in range(0, len(names), _LEGEND_COLUMNS):
        sheet.room(_LEGEND_LINE)
        for place, name in enumerate(names[at : at + _LEGEND_COLUMNS]):
            x = MARGIN + place * column
            _shape(sheet, x + 1.5, sheet.y + 1.6, 1.3, at + place)
            said = f"{t(say(name))} {counts[name]:,}"
            sheet.label(said, x + 4.5, sheet.y, width=column - 5, ink=INK)
        sheet.gap(_LEGEND_LINE)
