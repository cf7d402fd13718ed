"""What guides a person over a film: good fields only, each cell once, and when it is enough.

Owns the order of gate, mosaic, tally and screening rule, and what of them is told after every
field. Does not own any of the four (see ``gate``, ``mosaic``, ``tally``, ``screening``), which find
stands for which cell (see ``counted_cells``), nor the loop that calls it (see ``pipeline``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from edge_runtime.errors import SettingsError
from edge_runtime.film.camera_profile import CameraProfile
from edge_runtime.film.counted_cells import CountedCells, FieldPlaces
from edge_runtime.film.film_cells import FilmCell
from edge_runtime.film.gate import FieldGate, GateVerdict
from edge_runtime.film.mosaic import FilmMosaic, MosaicState, MosaicUpdate
from edge_runtime.film.screening import ScreeningPlan, ScreeningRule, ScreeningVerdict
from edge_runtime.film.tally import RunningTally, TallyState
from edge_runtime.film.track import Lost
from edge_runtime.types import Detections, Frame


@dataclass(frozen=True, slots=True)
class Guidance:
    """What a person at the microscope is to know now.

    Attributes:
        gate: on the newest frame of the camera, examined or not; None without a gate, and before
            the first frame.
        lost: why the newest examined field has no place on the film; None while it has one.
        mosaic: None where fields are not put together.
        tally: None without a classifier.
        screening: None without a classifier, and while its bounds are being computed.
        cells_counted: cells of the film so far; with a mosaic each once.
        refused: fields refused so far, by what was wrong with them.
    """

    gate: GateVerdict | None
    lost: str | None
    mosaic: MosaicState | None
    tally: TallyState | None
    screening: ScreeningVerdict | None
    cells_counted: int
    refused: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class PutTogether:
    """What a mosaic leaves of a film.

    Attributes:
        counted: which find stands for which cell.
        cells: by id.
        places: of the fields.
        pixel_size_um: µm per pixel of the fields; None when unknown.
    """

    counted: CountedCells
    cells: Mapping[int, FilmCell]
    places: FieldPlaces
    pixel_size_um: float | None


@dataclass(frozen=True, slots=True)
class FilmGuided:
    """What a guide leaves for the film's record.

    Attributes:
        guidance: the last.
        frames_judged: by the gate.
        profile: of the camera; None when the gate had none.
        gate: None without one.
        together: None without a mosaic.
        plan: what the screening rule was asked; None without one.
        blasts: classes that count as blasts.
    """

    guidance: Guidance
    frames_judged: int
    profile: CameraProfile | None
    gate: FieldGate | None
    together: PutTogether | None
    plan: ScreeningPlan | None
    blasts: tuple[str, ...]


class FilmGuide:
    """Guides one film. Use an instance once.

    ``judge`` belongs to the thread that reads the camera, everything else to the one that takes
    results; ``guidance`` may be asked by any.

    Args:
        gate: None lets every field pass.
        mosaic: None counts every find as a cell.
        tally: None without a classifier.
        rule: gives the screening rule, or None while it is not ready.
        profile: of the camera, also for the size of its pixels.
        blasts: classes that count as blasts.
    """

    def __init__(
        self,
        *,
        gate: FieldGate | None = None,
        mosaic: FilmMosaic | None = None,
        tally: RunningTally | None = None,
        rule: Callable[[bool], ScreeningRule | None] = lambda wait: None,
        profile: CameraProfile | None = None,
        blasts: Sequence[str] = (),
    ) -> None:
        self._gate = gate
        self._mosaic = mosaic
        self._tally = tally
        self._rule = rule
        self._profile = profile
        self._blasts = tuple(blasts)
        self._verdict: GateVerdict | None = None
        self._judged = 0
        self._refused: Counter[str] = Counter()
        self._counted = CountedCells()
        self._places = FieldPlaces()
        self._lost: str | None = None
        self._cells = 0
        self._state: MosaicState | None = None if mosaic is None else mosaic.state()
        self._screened: tuple[tuple[int, int, int, bool | None], ScreeningVerdict] | None = None
        self._outside: bool | None = None

    @property
    def puts_together(self) -> bool:
        """Whether fields get places on the film, and each cell counts once."""
        return self._mosaic is not None

    def judge(self, frame: Frame) -> GateVerdict | None:
        """The gate's verdict on the next frame of the camera; None without a gate.

        Raises:
            SettingsError: the frame has another size than the camera's profile was made for.
        """
        profile = self._profile
        if profile is not None and (frame.width, frame.height) != (profile.width, profile.height):
            raise SettingsError(
                f"camera profile {profile.name}: made for {profile.width} x {profile.height} "
                f"pixels, the camera gives {frame.width} x {frame.height}; set the camera up anew "
                "with `leukoscope setup camera`, or give another --camera-profile"
            )
        if self._gate is None:
            return None
        verdict = self._gate.judge(frame)
        self._judged += 1
        if verdict.refusal is not None:
            self._refused[verdict.refusal] += 1
        self._verdict = verdict
        return verdict

    def scaled(self, frame: Frame) -> Frame:
        """The frame with the size of its pixels, where only the profile knows it."""
        size = None if self._profile is None else self._profile.pixel_size_um
        if size is None or frame.pixel_size_um is not None:
            return frame
        return replace(frame, pixel_size_um=size)

    def take(
        self, frame: Frame, detections: Detections, class_names: Sequence[str]
    ) -> MosaicUpdate | None:
        """Takes one examined field in; fields come in the order in which they were captured.

        Args:
            frame: the field.
            detections: its finds.
            class_names: of the finds, as they are counted.

        Returns:
            What it changed on the film; None without a mosaic.
        """
        if self._mosaic is None:
            self._cells += len(detections)
            if self._tally is not None:
                self._tally.add(class_names)
            return None
        update = self._mosaic.add(frame, detections)
        self._counted.name(frame.index, class_names)
        self._apply(update)
        place = update.place
        self._lost = place.reason if isinstance(place, Lost) else None
        return update

    def finish(self) -> MosaicUpdate | None:
        """Compares what was left over; to be called once, when the film ends.

        Returns:
            What turned out to be the same, as an update without a field of its own (its place is
            None); None when nothing did.
        """
        if self._mosaic is None:
            return None
        ties, merges = self._mosaic.finish()
        if not ties:
            return None
        update = MosaicUpdate(None, ties=ties, merges=merges)
        self._apply(update)
        return update

    def film_cell(self, field: int, row: int) -> int | None:
        """The cell of the film that a find shows; None where nobody knows."""
        return self._counted.cell_of((field, row)) if self.puts_together else None

    def counts(self, field: int, row: int) -> bool:
        """Whether a find stands for its cell; without a mosaic each does."""
        return not self.puts_together or self._counted.counts((field, row))

    def place(self, field: int) -> tuple[int, float, float] | None:
        """Fragment and upper left corner of a field, frame pixels; None where nobody knows."""
        return self._places.place(field)

    def note_domain(self, outside: bool | None) -> None:
        """Whether the film is outside the bundle's domain, as far as can be told by now."""
        self._outside = outside

    def guidance(self, *, wait: bool = False) -> Guidance:
        """What is known now.

        Args:
            wait: for the screening rule, should it not be ready.
        """
        return Guidance(
            gate=self._verdict,
            lost=self._lost,
            mosaic=self._state,
            tally=None if self._tally is None else self._tally.state(),
            screening=self._screening(wait),
            cells_counted=self._cells,
            refused=dict(self._refused),
        )

    def guided(self) -> FilmGuided:
        """Everything for the film's record, once it has ended."""
        mosaic, rule = self._mosaic, self._rule(True)
        return FilmGuided(
            guidance=self.guidance(wait=True),
            frames_judged=self._judged,
            profile=self._profile,
            gate=self._gate,
            together=None
            if mosaic is None
            else PutTogether(
                self._counted,
                {cell.id: cell for cell in mosaic.cells},
                self._places,
                mosaic.pixel_size_um,
            ),
            plan=None if rule is None else rule.plan,
            blasts=self._blasts,
        )

    def _apply(self, update: MosaicUpdate) -> None:
        self._places.apply(update)
        for before, after in self._counted.apply(update):
            self._count(before, after)
        assert self._mosaic is not None
        self._state = self._mosaic.state()
        self._cells = self._state.cells

    def _count(self, before: str | None, after: str | None) -> None:
        if self._tally is None:
            return
        if before is None and after is not None:
            self._tally.add([after])
        elif before is not None and after is None:
            self._tally.remove(before)
        elif before is not None and after is not None and before != after:
            self._tally.correct(before, after)

    def _screening(self, wait: bool) -> ScreeningVerdict | None:
        tally = self._tally
        rule = self._rule(wait)
        if tally is None or rule is None:
            return None
        asked = (tally.blasts, tally.cells, tally.unclassified, self._outside)
        known = self._screened
        if known is not None and known[0] == asked:
            return known[1]
        verdict = rule.judge(
            named=asked[0], cells=asked[1], unclassified=asked[2], outside_domain=asked[3]
        )
        self._screened = (asked, verdict)
        return verdict
