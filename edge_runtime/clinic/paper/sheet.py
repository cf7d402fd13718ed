"""A printed sheet: A4 pages with head and foot, and the pieces that are laid on them.

Owns fonts, colours, measures, page breaks and what makes a file the same byte for byte from the
same content. Does not own what a report says (see ``clinic.film_pdf``).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Literal

from fpdf import FPDF, ViewerPreferences, XPos, YPos
from fpdf.enums import MethodReturnValue
from typing_extensions import override

Tone = Literal["plain", "good", "warn"]
Align = Literal["L", "C", "R"]

MARGIN = 16.0
WIDTH = 210.0 - 2 * MARGIN
_BOTTOM = 17.0
_FAMILY = "sans"
_FONTS = Path(__file__).parent / "fonts"
# Points to millimetres, times what lines of this font need.
_LINE = 25.4 / 72 * 1.32
_BODY, _SMALL, _CAPTION = 9.0, 7.5, 6.0
_ABSENT = "□"
# A new line, and those that part or join Arabic letters.
_KEPT_CONTROLS = "\n\u200c\u200d"

Colour = tuple[int, int, int]
INK: Colour = (28, 26, 34)
SOFT: Colour = (96, 92, 104)
RULE: Colour = (214, 209, 222)
ACCENT: Colour = (92, 48, 150)
_TONES: dict[Tone, tuple[Colour, Colour]] = {
    "plain": ((243, 240, 247), ACCENT),
    "good": ((231, 244, 237), (0, 110, 78)),
    "warn": ((253, 240, 227), (163, 74, 0)),
}


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table; ``width`` in millimetres."""

    title: str
    width: float
    align: Align = "L"


class _Pages(FPDF):
    """Pages that draw their own head and foot."""

    def __init__(self, research: str, foot: str, page: Callable[[int, str], str]) -> None:
        super().__init__(format="A4")
        self._research = research
        self._foot = foot
        self._page_of = page

    @override
    def footer(self) -> None:
        self.set_y(-_BOTTOM + 4)
        self.set_draw_color(*RULE)
        self.line(MARGIN, self.get_y() - 1.5, MARGIN + WIDTH, self.get_y() - 1.5)
        self.set_font(_FAMILY, "B", _SMALL)
        self.set_text_color(*INK)
        self.cell(WIDTH, 4, self._research, align="L", new_x=XPos.LMARGIN, new_y=YPos.NEXT)
        self.set_font(_FAMILY, "", _SMALL)
        self.set_text_color(*SOFT)
        self.cell(WIDTH * 0.75, 4, self._foot)
        # The number of pages is put in at the end, so its place must not hang on its length.
        self.set_x(MARGIN + WIDTH - 26)
        self.cell(26, 4, self._page_of(self.page_no(), self.str_alias_nb_pages or ""))


class Sheet:
    """A document in the making.

    Args:
        title, subject: of the document.
        language: of its texts, e.g. ``en``.
        moment: that the file says it was made at.
        program: that made it.
        research: stands at the foot of every page.
        foot: stands beneath it; says which film it is.
        page: gives the words for a page's number and the number of pages.
    """

    def __init__(
        self,
        *,
        title: str,
        subject: str,
        language: str,
        moment: datetime,
        program: str,
        research: str,
        foot: str,
        page: Callable[[int, str], str],
    ) -> None:
        self.undrawn: set[str] = set()
        pdf = _Pages(self._drawable(research), self._drawable(foot), page)
        self._pdf = pdf
        pdf.set_title(title)
        pdf.set_subject(subject)
        pdf.set_lang(language)
        pdf.set_creation_date(moment)
        pdf.set_creator(program)
        pdf.set_producer(program)
        pdf.viewer_preferences = ViewerPreferences(display_doc_title=True)
        pdf.set_margins(MARGIN, MARGIN, MARGIN)
        pdf.set_auto_page_break(False)
        pdf.c_margin = 0
        pdf.add_font(_FAMILY, "", _FONTS / "DejaVuSansCondensed.ttf")
        pdf.add_font(_FAMILY, "B", _FONTS / "DejaVuSansCondensed-Bold.ttf")
        pdf.add_page()

    def document(self) -> bytes:
        """The file."""
        return bytes(self._pdf.output())

    @property
    def y(self) -> float:
        """How far down the page is written, in millimetres."""
        return float(self._pdf.get_y())

    @y.setter
    def y(self, down: float) -> None:
        self._pdf.set_xy(MARGIN, down)

    def room(self, height: float) -> bool:
        """Takes a new page when less than ``height`` is left; whether it did."""
        if self.y + height <= 297.0 - _BOTTOM:
            return False
        self._pdf.add_page()
        return True

    def gap(self, height: float) -> None:
        """Leaves ``height`` free."""
        self.y = self.y + height

    def masthead(self, title: str, badge: str, tone: Tone) -> None:
        """The report's name, and how far it is, large."""
        pdf = self._pdf
        top = self.y
        ground, ink = _TONES[tone]
        pdf.set_font(_FAMILY, "B", 10)
        badge_width = pdf.get_string_width(self._drawable(badge)) + 8
        pdf.set_fill_color(*ground)
        pdf.set_draw_color(*ink)
        pdf.rect(MARGIN + WIDTH - badge_width, top, badge_width, 8, style="DF")
        self._words(badge, MARGIN + WIDTH - badge_width + 4, top + 1.6, size=10, bold=True, ink=ink)
        self._words("Leukoscope", MARGIN, top - 0.5, size=8, bold=True, ink=ACCENT)
        self._words(title, MARGIN, top + 3, size=16, bold=True)
        self.y = top + 13

    def heading(self, words: str, *, keep: float = 16.0) -> None:
        """Opens a part; ``keep`` millimetres of it stay on its page."""
        self.gap(3.5)
        self.room(9 + keep)
        self._pdf.start_section(self._drawable(words))
        self._words(words, MARGIN, self.y, size=11.5, bold=True, ink=ACCENT)
        self.y = self.y + 6.2

    def text(
        self,
        words: str,
        *,
        size: float = _BODY,
        bold: bool = False,
        ink: Colour = INK,
        left: float = 0.0,
        width: float | None = None,
    ) -> None:
        """A paragraph, over pages when it is long."""
        for line in self._lines(words, WIDTH - left if width is None else width, size, bold):
            height = size * _LINE
            self.room(height)
            self._words(line, MARGIN + left, self.y, size=size, bold=bold, ink=ink)
            self.y = self.y + height

    def note(self, words: str) -> None:
        """A paragraph in small letters."""
        self.text(words, size=_SMALL, ink=SOFT)
        self.gap(1)

    def banner(self, words: str, tone: Tone) -> None:
        """A paragraph that must be seen."""
        ground, ink = _TONES[tone]
        lines = self._lines(words, WIDTH - 9, _BODY, True)
        height = len(lines) * _BODY * _LINE + 4
        self.room(height)
        top = self.y
        self._pdf.set_fill_color(*ground)
        self._pdf.rect(MARGIN, top, WIDTH, height, style="F")
        self._pdf.set_fill_color(*ink)
        self._pdf.rect(MARGIN, top, 1.4, height, style="F")
        self.y = top + 2
        for line in lines:
            self._words(line, MARGIN + 5, self.y, size=_BODY, bold=True, ink=ink)
            self.y = self.y + _BODY * _LINE
        self.y = top + height + 2

    def facts(self, rows: Sequence[tuple[str, str]], *, label_width: float = 38.0) -> None:
        """Names and values, one below the other."""
        for name, value in rows:
            names = self._lines(name, label_width - 3, _BODY, False)
            values = self._lines(value, WIDTH - label_width, _BODY, False)
            for number in range(max(len(names), len(values))):
                self.room(_BODY * _LINE)
                if number < len(names):
                    self._words(names[number], MARGIN, self.y, ink=SOFT)
                if number < len(values):
                    self._words(values[number], MARGIN + label_width, self.y)
                self.y = self.y + _BODY * _LINE
            self.gap(0.5)

    def table(
        self,
        columns: Sequence[Column],
        rows: Sequence[Sequence[str]],
        *,
        draw: Callable[[int, float, float, float], None] | None = None,
        strong_last: bool = False,
    ) -> None:
        """Rows below a head, which is repeated on every page they reach.

        Args:
            columns: from the left.
            rows: a text for every column.
            draw: called for each row with its number, the right end of the columns, its top and
                its height, to draw beside it.
            strong_last: the last row is a total.
        """
        self._table_head(columns)
        for number, row in enumerate(rows):
            bold = strong_last and number == len(rows) - 1
            lines = [
                self._lines(words, column.width - 2, _BODY, bold)
                for words, column in zip(row, columns, strict=True)
            ]
            height = max(map(len, lines)) * _BODY * _LINE + 1.4
            if self.room(height):
                self._table_head(columns)
            top, x = self.y, MARGIN
            for column, cell in zip(columns, lines, strict=True):
                for at, line in enumerate(cell):
                    y = top + 0.7 + at * _BODY * _LINE
                    self._words(line, x, y, bold=bold, align=column.align, width=column.width - 2)
                x += column.width
            if draw is not None:
                draw(number, x, top, height)
            self.y = top + height
            self._rule(self.y)

    def row_of_pictures(
        self,
        pictures: Sequence[tuple[bytes | None, str, str]],
        *,
        side: float,
        gap: float,
        absent: str,
    ) -> None:
        """Pictures side by side: JPEG, words for who cannot see it, a line beneath.

        Args:
            pictures: None, or what is no picture, leaves an empty square.
            side: of each, in millimetres.
            gap: between them.
            absent: stands in an empty square.

        Raises:
            ValueError: they do not fit the page's width.
        """
        if len(pictures) * (side + gap) - gap > WIDTH + 0.01:
            raise ValueError(f"{len(pictures)} pictures of {side} mm do not fit {WIDTH} mm")
        top = self.y
        for number, (jpeg, alternative, line) in enumerate(pictures):
            x = MARGIN + number * (side + gap)
            if jpeg is None or not self._picture(jpeg, alternative, x, top, side):
                self._pdf.set_draw_color(*RULE)
                self._pdf.rect(x, top, side, side)
                at = top + side / 2 - 1.5
                self._words(absent, x, at, size=_CAPTION, ink=SOFT, width=side, align="C")
            self._words(line, x, top + side + 0.4, size=_CAPTION, ink=SOFT, width=side)
        self.y = top + self.picture_row_height(side)

    @staticmethod
    def picture_row_height(side: float) -> float:
        """What a row of pictures with a line beneath takes."""
        return side + _CAPTION * _LINE + 1.8

    def sign_here(self, names: Sequence[str]) -> None:
        """Lines for a pen."""
        self.room(16)
        width = (WIDTH - 6 * (len(names) - 1)) / len(names)
        top = self.y + 9
        for number, name in enumerate(names):
            x = MARGIN + number * (width + 6)
            self._pdf.set_draw_color(*SOFT)
            self._pdf.line(x, top, x + width, top)
            self._words(name, x, top + 0.8, size=_SMALL, ink=SOFT)
        self.y = top + 6

    def bar(self, x: float, y: float, width: float, height: float, colour: Colour = ACCENT) -> None:
        """A filled bar."""
        if width > 0:
            self._pdf.set_fill_color(*colour)
            self._pdf.rect(x, y, width, height, style="F")

    def line(self, x1: float, y1: float, x2: float, y2: float, colour: Colour = INK) -> None:
        """A thin line."""
        self._pdf.set_draw_color(*colour)
        self._pdf.line(x1, y1, x2, y2)

    def label(
        self,
        words: str,
        x: float,
        y: float,
        *,
        align: Align = "L",
        width: float,
        ink: Colour = SOFT,
    ) -> None:
        """Small words at a place of the page."""
        self._words(words, x, y, size=6.5, ink=ink, align=align, width=width)

    @property
    def pages(self) -> FPDF:
        """The document itself, for drawings."""
        return self._pdf

    def _table_head(self, columns: Sequence[Column]) -> None:
        # A head must not stand alone at the foot of a page.
        self.room(2 * (_BODY * _LINE + 1.4))
        top, x = self.y, MARGIN
        for column in columns:
            self._words(
                column.title, x, top, size=_SMALL, ink=SOFT, bold=True,
                align=column.align, width=column.width - 2,
            )  # fmt: skip
            x += column.width
        self.y = top + _SMALL * _LINE + 0.8
        self._rule(self.y, SOFT)

    def _rule(self, y: float, colour: Colour = RULE) -> None:
        self._pdf.set_line_width(0.15)
        self.line(MARGIN, y, MARGIN + WIDTH, y, colour)

    def _picture(self, jpeg: bytes, words: str, x: float, y: float, side: float) -> bool:
        """Whether it could be drawn."""
        from PIL import UnidentifiedImageError

        try:
            self._pdf.image(
                BytesIO(jpeg),
                x,
                y,
                side,
                side,
                alt_text=self._drawable(words),
                keep_aspect_ratio=True,
            )
        except (UnidentifiedImageError, OSError, ValueError):
            return False
        return True

    def _words(
        self,
        words: str,
        x: float,
        y: float,
        *,
        size: float = _BODY,
        bold: bool = False,
        ink: Colour = INK,
        align: Align = "L",
        width: float | None = None,
    ) -> None:
        """One line of text, its top at ``y``."""
        words = self._drawable(words)
        pdf = self._pdf
        pdf.set_font(_FAMILY, "B" if bold else "", size)
        pdf.set_text_color(*ink)
        # Only where letters join or run from the right: it costs time, and the rest needs none.
        pdf.set_text_shaping(_needs_shaping(words))
        pdf.set_xy(x, y)
        space = MARGIN + WIDTH - x if width is None else width
        pdf.cell(space, size * _LINE, words, align=align, new_x=XPos.RIGHT, new_y=YPos.TOP)
        pdf.set_text_shaping(False)

    def _lines(self, words: str, width: float, size: float, bold: bool) -> list[str]:
        """Text as lines of at most ``width``."""
        pdf = self._pdf
        pdf.set_font(_FAMILY, "B" if bold else "", size)
        drawable = self._drawable(words)
        if "\n" not in drawable and pdf.get_string_width(drawable) <= width:
            return [drawable]
        found = pdf.multi_cell(
            width, text=drawable, align="L", dry_run=True, output=MethodReturnValue.LINES
        )
        return [str(line) for line in found] if isinstance(found, list) and found else [""]

    def _drawable(self, words: str) -> str:
        """Text without what the font cannot draw, which is kept in ``undrawn``."""
        plain = "".join(
            each
            for each in unicodedata.normalize("NFC", words.replace("\t", " "))
            # Marks that turn the direction would reorder what stands beside them.
            if unicodedata.category(each)[0] != "C" or each in _KEPT_CONTROLS
        )
        lacking = {each for each in plain if ord(each) not in _known_characters()} - {"\n"}
        self.undrawn |= lacking
        return "".join(_ABSENT if each in lacking else each for each in plain)


def _needs_shaping(words: str) -> bool:
    return any(
        unicodedata.bidirectional(each) in ("R", "AL", "NSM") for each in words if each > "\u02ff"
    )


@lru_cache(maxsize=1)
def _known_characters() -> frozenset[int]:
    """What both weights of the font can draw."""
    from fontTools.ttLib import TTFont

    found: set[int] | None = None
    for name in ("DejaVuSansCondensed.ttf", "DejaVuSansCondensed-Bold.ttf"):
        with TTFont(_FONTS / name, lazy=True) as font:
            covered = set(font.getBestCmap())
        found = covered if found is None else found & covered
    return frozenset(found or ())
