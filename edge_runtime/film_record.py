"""The record of a film while it grows, and the report it becomes.

Owns what is counted field by field and how counts become the report's parts. Does not own
the report's fields (see ``film_report``), the counting itself (see ``film``) nor the loop
(see ``pipeline``). For use by one thread.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_runtime.attributes import MISSING, AttributeSchema
from edge_runtime.bundle import UNCLASSIFIED, DomainSpec
from edge_runtime.domain_score import FieldDomain, judge_film
from edge_runtime.examiner import Examination
from edge_runtime.film.bank import BankRules, BankSummary, MorphologyBank, Vote
from edge_runtime.film.differential import Differential, count_differential
from edge_runtime.film_report import (
    AttributeHeadRecord,
    AttributeRecord,
    BackendRecord,
    BundleRecord,
    CellRecord,
    ClassifierRecord,
    ClassShareRecord,
    DescriptionRecord,
    DifferentialRecord,
    DomainRecord,
    FieldRecord,
    FilmReport,
    FilmState,
    LiveRecord,
    ModelCardSummary,
    MorphologyRecord,
    StageTiming,
    TotalsRecord,
    TypeCountsRecord,
    VoteRecord,
)
from edge_runtime.guided_record import Repeat, guided_records, on_film
from edge_runtime.settings import Settings
from edge_runtime.types import CellFinding, FieldResult, SkippedFrame

if TYPE_CHECKING:
    from edge_runtime.film.description import DescriptionTemplate
    from edge_runtime.film.guide import FilmGuided

_PERCENT_DECIMALS = 2
_DOMAIN_DECIMALS = 4


@dataclass(frozen=True, slots=True)
class FilmSetup:
    """What is known of a film before its first field.

    Attributes:
        class_names: the detector's.
        attribute_schema: the attribute head's.
        template: of the description; None takes the package's own.
        domain: which films the bundle was validated on; None when it does not say.
    """

    source: str
    bundle: BundleRecord
    backend: BackendRecord
    model_card: ModelCardSummary
    class_names: tuple[str, ...]
    settings: Settings
    version: str
    classifier: ClassifierRecord | None = None
    attribute_head: AttributeHeadRecord | None = None
    attribute_schema: AttributeSchema | None = None
    head_cards: Mapping[str, ModelCardSummary] = field(default_factory=dict)
    template: DescriptionTemplate | None = None
    domain: DomainSpec | None = None


class FilmRecord:
    """Everything a film's report will say, added field by field."""

    def __init__(self, setup: FilmSetup) -> None:
        self._setup = setup
        self._fields: list[FieldRecord] = []
        self._cells: list[CellRecord | Repeat] = []
        # Field and row of each.
        self._finds: list[tuple[int, int]] = []
        self._seconds: dict[str, list[float]] = {}
        self._examined = self._skipped = 0
        self._domains: list[FieldDomain] = []
        self._rules = BankRules()
        named = setup.classifier
        self._types = setup.class_names if named is None else tuple(named.classes)
        self._bank: MorphologyBank | None = None
        if named is not None or setup.attribute_schema is not None:
            self._bank = MorphologyBank(
                setup.attribute_schema,
                self._types,
                artefacts=[] if named is None else named.outside_differential,
                rules=self._rules,
            )

    @property
    def fields_done(self) -> int:
        """Examined fields."""
        return self._examined

    @property
    def fields_skipped(self) -> int:
        """Fields that could not be examined."""
        return self._skipped

    @property
    def stage_seconds(self) -> Mapping[str, Sequence[float]]:
        """Time of every stage in every examined field, of which the report has percentiles."""
        return self._seconds

    @property
    def ages_ms(self) -> list[float]:
        """Age of every examined field of a live camera, from capture to result."""
        return [each.age_ms for each in self._fields if each.age_ms is not None]

    @property
    def outside_domain(self) -> bool | None:
        """Whether the film so far is outside the bundle's domain; None where nobody can tell."""
        spec = self._setup.domain
        film = None if spec is None else judge_film(self._domains, spec.threshold)
        return None if film is None else film.outside

    @property
    def cells_found(self) -> int:
        """Cells of all fields, those seen twice as well."""
        return len(self._cells)

    def skip(self, skipped: SkippedFrame) -> None:
        """Takes note of a field that could not be examined."""
        self._skipped += skipped.frames
        self._fields.append(
            FieldRecord(
                index=skipped.index,
                name=skipped.name,
                width=None,
                height=None,
                skipped=True,
                reason=skipped.reason,
                cells=0,
                tiles=0,
                frames=skipped.frames,
            )
        )

    def add(
        self, result: FieldResult, examination: Examination, seconds: Mapping[str, float]
    ) -> None:
        """Takes one examined field.

        Args:
            result: as the sinks get it.
            examination: what it was made from.
            seconds: time of every stage, in the order of the report.
        """
        self._examined += 1
        for stage, value in seconds.items():
            self._seconds.setdefault(stage, []).append(value)
        judged = examination.domain
        if judged is not None:
            self._domains.append(judged)
        self._fields.append(
            FieldRecord(
                index=result.index,
                name=result.name,
                width=result.width,
                height=result.height,
                skipped=False,
                reason=None,
                cells=len(result.cells),
                tiles=result.tiles,
                domain_score=None if judged is None else round(judged.score, _DOMAIN_DECIMALS),
                age_ms=result.age_ms,
            )
        )
        self._cells += [_find(result.index, cell) for cell in result.cells]
        self._finds += [(result.index, row) for row in range(len(result.cells))]
        if self._bank is not None:
            found, classes = examination.detections, examination.classes
            types, values = found.class_ids, found.attribute_values
            if classes is not None:
                types = np.where(classes.unclassified, MISSING, classes.class_ids)
            if values is None:
                schema = self._setup.attribute_schema
                width = 0 if schema is None else len(schema.attributes)
                values = np.full((len(found), width), MISSING, np.int64)
            self._bank.add(types, found.scores, values)

    def report(
        self,
        state: FilmState,
        started_at: datetime,
        duration_s: float,
        live: LiveRecord | None = None,
        guided: FilmGuided | None = None,
    ) -> FilmReport:
        """The report of what was added so far.

        Args:
            state: whether the film came to its end.
            started_at: with a time zone.
            duration_s: of the film.
            live: what a live camera tells of itself.
            guided: what the film's guide leaves, if it had one.
        """
        setup = self._setup
        fields, bank, more = self._fields, self._bank, dict[str, Any]()
        together = None if guided is None else guided.together
        if guided is not None:
            more = guided_records(guided, setup.classifier)
        if together is None:
            cells = [each for each in self._cells if isinstance(each, CellRecord)]
        else:
            fields, cells, not_counted = on_film(together, fields, self._cells, self._finds)
            more["not_counted"] = not_counted
        names = [*self._types, *([] if setup.classifier is None else [UNCLASSIFIED])]
        by_class = Counter(dict.fromkeys(names, 0))
        by_class.update(cell.class_name for cell in cells)
        if bank is not None and together is not None:
            bank = bank_of(
                cells,
                setup.attribute_schema,
                self._types,
                artefacts=[] if setup.classifier is None else setup.classifier.outside_differential,
                rules=self._rules,
            )
        summary = None if bank is None else bank.summary()
        return FilmReport(
            state=state,
            source=setup.source,
            started_at=started_at.astimezone().isoformat(timespec="seconds"),
            duration_s=round(duration_s, 3),
            leukoscope_version=setup.version,
            bundle=setup.bundle,
            backend=setup.backend,
            model_card=setup.model_card,
            settings=setup.settings.model_dump(mode="json"),
            fields=fields,
            cells=cells,
            totals=TotalsRecord(
                fields=self.fields_done,
                fields_skipped=self._skipped,
                cells=len(cells),
                cells_by_class=dict(by_class),
            ),
            timings=[_timing(stage, values) for stage, values in self._seconds.items()],
            classifier=setup.classifier,
            attribute_head=setup.attribute_head,
            head_cards=dict(setup.head_cards),
            differential=_differential(setup.classifier, by_class),
            morphology=None
            if summary is None
            else morphology_record(summary, setup.attribute_schema, self._rules),
            description=None if summary is None else description_record(summary, setup.template),
            domain=None if setup.domain is None else _domain(setup.domain, self._domains),
            live=live,
            **more,
        )


def bank_of(
    cells: Sequence[CellRecord],
    schema: AttributeSchema | None,
    types: Sequence[str],
    *,
    artefacts: Sequence[str],
    rules: BankRules,
) -> MorphologyBank:
    """The morphology bank of a report's cells.

    Args:
        cells: those that count; one of a class that is no type is unclassified.
        schema: the attributes; None when nobody judges any.
        types: of cells.
        artefacts: types beside the differential.
        rules: of the bank.
    """
    bank = MorphologyBank(schema, types, artefacts=artefacts, rules=rules)
    place = {name: number for number, name in enumerate(types)}
    attributes = () if schema is None else schema.attributes
    values = np.full((len(cells), len(attributes)), MISSING, np.int64)
    for row, cell in enumerate(cells):
        for column, attribute in enumerate(attributes):
            judged = (cell.attributes or {}).get(attribute.name)
            if judged is not None and judged.value in attribute.values:
                values[row, column] = attribute.values.index(judged.value)
    bank.add(
        np.array([place.get(cell.class_name, MISSING) for cell in cells], np.int64),
        np.array([cell.score for cell in cells], np.float32),
        values,
    )
    return bank


def morphology_record(
    summary: BankSummary, schema: AttributeSchema | None, rules: BankRules
) -> MorphologyRecord:
    """A bank's numbers and votes as the report has them.

    Args:
        summary: of the film's bank.
        schema: the attributes; None when nobody judged any.
        rules: the bank's.
    """
    attributes = () if schema is None else schema.attributes
    return MorphologyRecord(
        minimum_score=rules.minimum_score,
        cells=summary.cells,
        outside=summary.artefacts,
        unclassified=summary.unclassified,
        below_score=summary.below_score,
        types=[
            TypeCountsRecord(
                class_name=each.name,
                outside=each.artefact,
                cells=each.cells,
                attributes={
                    attribute.name: dict(zip(attribute.values, counts, strict=True))
                    for attribute, counts in zip(attributes, each.values, strict=True)
                },
            )
            for each in summary.types
        ],
        dominant=_vote(summary.dominant),
        attributes=[_vote(vote) for vote in summary.attributes],
    )


def _find(index: int, cell: CellFinding) -> CellRecord | Repeat:
    if cell.repeats:
        return Repeat(index, cell.box_xyxy, cell.score, cell.class_name)
    return _cell_record(index, cell)


def _cell_record(index: int, cell: CellFinding) -> CellRecord:
    attributes = cell.attributes
    return CellRecord(
        field=index,
        box_xyxy=cell.box_xyxy,
        score=cell.score,
        class_name=cell.class_name,
        best_class=cell.best_class,
        class_probability=cell.class_probability,
        class_probabilities=None
        if cell.class_probabilities is None
        else dict(cell.class_probabilities),
        attributes=None
        if attributes is None
        else {
            name: None
            if judged is None
            else AttributeRecord(value=judged.value, probability=judged.probability)
            for name, judged in attributes.items()
        },
    )


def _differential(
    named: ClassifierRecord | None, by_class: Mapping[str, int]
) -> DifferentialRecord | None:
    if named is None:
        return None
    return differential_record(
        count_differential(
            {name: by_class[name] for name in named.classes},
            outside=named.outside_differential,
            unclassified=by_class[UNCLASSIFIED],
        )
    )


def differential_record(counted: Differential) -> DifferentialRecord:
    """A differential as the report has it."""
    return DifferentialRecord(
        total=counted.total,
        confidence=counted.confidence,
        classes=[
            ClassShareRecord(
                class_name=each.name,
                count=each.count,
                percent=None if each.share is None else _percent(each.share),
                low_percent=_percent(each.low),
                high_percent=_percent(each.high),
            )
            for each in counted.classes
        ],
        outside=dict(counted.outside),
        unclassified=counted.unclassified,
    )


def _domain(spec: DomainSpec, fields: Sequence[FieldDomain]) -> DomainRecord:
    film = judge_film(fields, spec.threshold)
    names = [each.name for each in spec.domains]
    return DomainRecord(
        score=None if film is None else round(film.score, _DOMAIN_DECIMALS),
        threshold=spec.threshold,
        outside=None if film is None else film.outside,
        nearest=None if film is None else names[film.nearest],
        fields_outside=0 if film is None else film.fields_outside,
        distance=spec.distance,
        quantile=spec.quantile,
        domains=names,
    )


def _percent(share: float) -> float:
    return round(100 * share, _PERCENT_DECIMALS)


def _vote(vote: Vote) -> VoteRecord:
    parts = asdict(vote)
    return VoteRecord(not_assessable=parts.pop("why_not"), **parts)


def description_record(
    summary: BankSummary, template: DescriptionTemplate | None
) -> DescriptionRecord:
    """A bank's votes as sentences; ``template`` None takes the package's own."""
    # Sentences are made once, at the end; a film's first result should not wait for them.
    from edge_runtime.film.description import describe_film

    made = describe_film(summary, template)
    return DescriptionRecord(template=made.template, sentences=list(made.sentences), text=made.text)


def _timing(stage: str, seconds: list[float]) -> StageTiming:
    p50, p95, p99 = np.percentile(np.array(seconds) * 1000, [50, 95, 99])
    return StageTiming(
        stage=stage,
        count=len(seconds),
        p50_ms=round(float(p50), 3),
        p95_ms=round(float(p95), 3),
        p99_ms=round(float(p99), 3),
    )
