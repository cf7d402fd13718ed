"""What a finished training run tells the export: model, size, and its data by split.

Owns reading ``training.json`` and ``data/`` of a run folder, and finding the fields to
calibrate and to judge on. Does not own recipes: the run's own record says what was
really trained, and a recipe file may have changed since.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from calibration.fields import IMAGE_SUFFIXES, LabelledField, load_fields
from calibration.sampling import Pool
from edge_runtime.errors import DataError, FrameError
from edge_runtime.image_file import read_image

# Composed pictures are a domain of their own: small cells occur in them only.
COMPOSED = "composed"


class _Record(BaseModel):
    # The trainer notes more than is needed here.
    model_config = ConfigDict(frozen=True, extra="ignore")


class _DomainRecord(_Record):
    name: str
    path: str
    class_count: int
    white_cell_classes: tuple[int, ...]


class _ComposeRecord(_Record):
    size: int


class _RecipeRecord(_Record):
    name: str
    model: str
    activation: str
    data_root: str
    domains: tuple[_DomainRecord, ...]
    leave_out: str | None
    compose: _ComposeRecord


class _ComposedRecord(_Record):
    validation_pictures: dict[str, int]


class _TrainingRecord(_Record):
    recipe: _RecipeRecord
    compose: _ComposedRecord
    checkpoint: str


@dataclass(frozen=True, slots=True)
class TrainingRun:
    """A finished run folder. Obtain one through ``open_training_run``."""

    folder: Path
    data_root: Path
    record: _TrainingRecord

    @property
    def name(self) -> str:
        """The recipe's name."""
        return self.record.recipe.name

    @property
    def architecture(self) -> str:
        """Model and activation, e.g. ``yolo11n, ReLU``."""
        activation = {"relu": "ReLU", "silu": "SiLU"}.get(
            self.record.recipe.activation, self.record.recipe.activation
        )
        return f"{Path(self.record.recipe.model).stem}, {activation}"

    @property
    def image_size(self) -> int:
        """Side of the input in pixels."""
        return self.record.recipe.compose.size

    @property
    def checkpoint(self) -> Path:
        """The run's best weights."""
        return self.folder / "run" / "weights" / self.record.checkpoint

    def pools(self) -> list[Pool]:
        """Training pictures per domain, the composed ones last.

        Raises:
            DataError: a folder is missing.
        """
        root = self.folder / "data"
        return [
            *(self._pool(domain.name, self.data_root / domain.path) for domain in self._domains()),
            self._pool(COMPOSED, root),
        ]

    def validation_fields(self) -> dict[str, list[LabelledField]]:
        """Labelled validation fields per domain, composed ones included.

        Raises:
            DataError: a folder is missing or a label row is bad.
        """
        fields = self._fields("val")
        kinds = tuple(f"{kind}_" for kind in self.record.compose.validation_pictures)
        composed = load_fields(
            self.folder / "data", "val", domain=COMPOSED, keep_classes=(0,), class_count=1
        )
        # The trainer validates on the real fields too and keeps copies of them beside.
        fields[COMPOSED] = [
            item for item in composed if item.image.name.startswith(kinds) and _usable(item)
        ]
        return {name: group for name, group in fields.items() if group}

    def test_fields(self) -> dict[str, list[LabelledField]]:
        """Labelled test fields per real domain.

        Raises:
            DataError: a folder is missing or a label row is bad.
        """
        return self._fields("test")

    def _domains(self) -> list[_DomainRecord]:
        """Domains that training has seen; ranges must not come from one it has not."""
        recipe = self.record.recipe
        return [domain for domain in recipe.domains if domain.name != recipe.leave_out]

    def _pool(self, domain: str, root: Path) -> Pool:
        folder = root / "images" / "train"
        if not folder.is_dir():
            raise DataError(
                f"{folder}: no such folder; calibration needs the run's training data, "
                "give --data where it lies now"
            )
        files = tuple(
            sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
        )
        return Pool(domain, folder, files)

    def _fields(self, split: str) -> dict[str, list[LabelledField]]:
        return {
            domain.name: load_fields(
                self.data_root / domain.path,
                split,
                domain=domain.name,
                keep_classes=domain.white_cell_classes,
                class_count=domain.class_count,
            )
            for domain in self._domains()
        }


def open_training_run(folder: Path, *, data_root: Path | None = None) -> TrainingRun:
    """Reads a run folder.

    Args:
        folder: as ``leukoscope train detect --out`` left it.
        data_root: where the recipe's data lies now [default: where it lay in training].

    Raises:
        DataError: it is not a finished run.
    """
    file = folder / "training.json"
    try:
        record = _TrainingRecord.model_validate_json(file.read_bytes())
    except OSError as error:
        raise DataError(
            f"run {folder}: training.json: {error.strerror}; give the folder of a finished "
            "training (--resume continues an unfinished one)"
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        if first["loc"] == ("checkpoint",) and first["input"] is None:
            # So an adaptation to a site leaves what cost its source too much.
            raise DataError(
                f"run {folder}: its checkpoint was rejected, see its verdict in training.json; "
                "train again as that says"
            ) from error
        where = ".".join(str(part) for part in first["loc"]) or "the document"
        raise DataError(f"run {folder}: training.json: {where}: {first['msg']}") from error
    return TrainingRun(folder, data_root or Path(record.recipe.data_root), record)


def _usable(item: LabelledField) -> bool:
    """Whether the device would look at it; a composed stain can lose all colour."""
    try:
        read_image(item.image)
    except FrameError:
        return False
    return True
