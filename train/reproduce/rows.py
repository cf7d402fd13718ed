"""What a table row of a paper says, and how it is run: one strict YAML file each.

Owns the form of these files and finding them. Does not own running them (see ``run``).
Published numbers are in percent, as printed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from typing_extensions import Self

from edge_runtime.errors import SettingsError
from train.attridet_recipe import AttriDetRecipe, FieldsSpec, first_fault, read_document
from train.classify import ClassifyRecipe
from train.reproduce.method_rows import AdaptRun, SparseRun

ROWS = Path(__file__).parents[1] / "recipes" / "rows"


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Column(_Strict):
    """One measurement that the row prints.

    Attributes:
        name: as the table calls it.
        path: folder of its data, relative to the data root; None takes the run's.
        published: figure by name, in percent.
        not_run: why it is not run here; the published figures are shown all the same.
    """

    name: str
    path: str | None = None
    published: dict[str, float] = Field(min_length=1)
    not_run: str | None = None


class DetectorRun(_Strict):
    """A detector, with or without the attribute head.

    Attributes:
        recipe: of ``leukoscope train attridet``, but for its name, purpose and data root.
    """

    kind: Literal["attridet"]
    recipe: dict[str, Any]

    def made(self, name: str, data_root: str, path: str | None = None) -> AttriDetRecipe:
        """The whole recipe."""
        document = {"name": name, "purpose": f"table row {name}", "data_root": data_root}
        recipe = AttriDetRecipe.model_validate({**document, **self.recipe})
        if path is None:
            return recipe
        return recipe.model_copy(update={"fields": recipe.fields.model_copy(update={"path": path})})

    def data(self, path: str | None = None) -> tuple[FieldsSpec, ...]:
        """The data that it needs."""
        return (self.made("row", ".", path).fields,)


class Target(_Strict):
    """Another site's cells that a finished classifier is judged on.

    Attributes:
        fields: which.
        adapt: share of them, drawn by seed, to go on training with before judging on the
            others; 0 judges on all, as they come.
        epochs: of that training.
        lr: of its last layer.
        backbone_lr: of everything else.
    """

    fields: FieldsSpec
    adapt: float = Field(default=0.0, ge=0, lt=1)
    epochs: int = Field(default=50, gt=0)
    lr: float = Field(default=1e-4, gt=0)
    backbone_lr: float = Field(default=1e-5, gt=0)


class ClassifyRun(_Strict):
    """A classifier of crops, judged where it was trained or at another site.

    Attributes:
        fields: cells to train on, with their test split.
        weights: what the file given with --weights must be; None starts from nothing.
        recipe: of ``leukoscope train classify``, but for name, purpose, data root, sources,
            classes and start.
        target: another site, if the row is about one.
    """

    kind: Literal["classify"]
    fields: FieldsSpec
    weights: str | None = None
    recipe: dict[str, Any]
    target: Target | None = None

    def made(self, name: str, data_root: str, classes: tuple[str, ...]) -> ClassifyRecipe:
        """The whole recipe, for the classes that the cells turn out to have."""
        source = {"dataset": self.fields.dataset, "path": self.fields.path}
        return ClassifyRecipe.model_validate(
            {
                "name": name,
                "purpose": f"table row {name}",
                "data_root": data_root,
                "sources": [{**source, "mapping": self.fields.mapping}],
                "classes": classes,
                **self.recipe,
            }
        )

    def data(self, path: str | None = None) -> tuple[FieldsSpec, ...]:
        """The data that it needs; columns have no paths here."""
        return (self.fields, *([self.target.fields] if self.target else []))


AnyRun = DetectorRun | ClassifyRun | AdaptRun | SparseRun
Run = Annotated[AnyRun, Field(discriminator="kind")]


class Row(_Strict):
    """One row of a published table.

    Attributes:
        id: the file's name.
        paper: short title.
        table: as the paper numbers it.
        method: the row's label.
        notes: what to know before comparing.
        needs: its data sets, by catalogue name; where users get them is in ``SOURCES``.
        columns: what it prints.
        run: how, at the paper's scale; None for rows shown for comparison only.
        smoke: the same code on the data at hand, in minutes on a CPU.
        smoke_note: how that differs beside the data.
        not_built: why there is no run.
    """

    id: str
    paper: str
    table: str
    method: str
    notes: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    columns: tuple[Column, ...] = Field(min_length=1)
    run: Run | None = None
    smoke: Run | None = None
    smoke_note: str | None = None
    not_built: str | None = None

    @model_validator(mode="after")
    def _runs_or_says_why(self) -> Self:
        if (self.run is None) != (self.smoke is None):
            raise ValueError("run and smoke: give both or none")
        if (self.run is None) != (self.not_built is not None):
            raise ValueError("not_built: needed where there is no run, and only there")
        # A row with a mistake should be known before hours of training.
        for each in (self.run, self.smoke):
            if isinstance(each, ClassifyRun):
                each.made(self.id, ".", ("one", "two"))
            elif each is not None:
                each.made(self.id, ".")
        return self


# Where users get a data set that cannot be shipped, and how its folder is called.
SOURCES = {
    "leukemia-attri": "https://tinyurl.com/586vaw3j, or from its authors (LLD and MICCAI papers)",
    "sparse-leukemia-attri": "its authors (LLD paper), as the 13th subset of LeukemiaAttri",
    "pcm-leukemia": "https://github.com/l-kuo/pcm-leukemia, or from its authors",
    "lmu": "The Cancer Imaging Archive, collection AML-Cytomorphology_LMU",
}


def load_row(name: str) -> Row:
    """One row, by its id or a file of one's own.

    Raises:
        SettingsError: no such row, or a bad file.
    """
    known = [each.stem for each in sorted(ROWS.glob("*.yaml"))]
    if name not in known and not Path(name).is_file():
        raise SettingsError(f"row {name!r}: unknown; leukoscope train reproduce --list shows them")
    file, document = read_document(ROWS / f"{name}.yaml" if name in known else name)
    try:
        row = Row.model_validate({"id": file.stem, **(document or {})})
    except SettingsError as error:
        raise SettingsError(f"row {file}: {error}") from error
    except (ValidationError, TypeError) as error:
        fault = first_fault(error) if isinstance(error, ValidationError) else "not a table"
        raise SettingsError(f"row {file}: {fault}") from error
    return row


def all_rows() -> list[Row]:
    """Every shipped row, by id."""
    return [load_row(each.stem) for each in sorted(ROWS.glob("*.yaml"))]
