"""The one record that every reader of labelled cells gives, and a set of them.

Owns shapes, selection of what may be trained on, and mapping to another class list. Does not
own how a data set lies on disk (one module each, see ``catalog``).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from typing_extensions import Self

from calibration.fields import LabelledField
from edge_runtime.attributes import AttributeSchema
from edge_runtime.errors import DataError
from edge_runtime.types import Float32Array, Int64Array
from train.datasets.schemas import ClassMapping, DatasetSpec

# x1, y1, x2, y2 as fractions of the picture.
Patch = tuple[float, float, float, float]

_LISTED_BAD_ROWS = 20


@dataclass(frozen=True, slots=True)
class LabelledImage:
    """One picture with N labelled cells.

    Attributes:
        split: ``train``, ``val`` or ``test``; ``all`` where the source has no splits.
        domain: which microscope, camera or subset it comes from.
        boxes_xywhn: float32 ``(N, 4)``, centre x, centre y, width, height as fractions.
        class_ids: int64 ``(N,)``, index into the set's class list.
        attributes: int64 ``(N, A)``, value indices; -1 where nobody judged.
        group: pictures of one group (patient, slide, field) belong into one split;
            None when nothing is known.
        patch_xyxyn: the part of the picture in which every cell is labelled; None: all of it.
        mask: file with the cell's mask, if there is one.
        extents_known: False when only the centres are, and width and height are 0.
        size_px: width and height as the labels say, where they do.
        held_out: shown by another data set's test split, so never to be trained on.

    Raises:
        DataError: the patch is not inside the picture.
    """

    image: Path
    split: str
    domain: str
    boxes_xywhn: Float32Array
    class_ids: Int64Array
    attributes: Int64Array
    group: str | None = None
    patch_xyxyn: Patch | None = None
    mask: Path | None = None
    extents_known: bool = True
    size_px: tuple[int, int] | None = None
    held_out: bool = False

    def __post_init__(self) -> None:
        if self.patch_xyxyn is not None:
            x1, y1, x2, y2 = self.patch_xyxyn
            if not (0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1):
                shown = " ".join(f"{value:g}" for value in self.patch_xyxyn)
                raise DataError(
                    f"{self.image}: labelled patch {shown} is not inside the picture; give "
                    "x1 y1 x2 y2 as fractions of it"
                )
        n = len(self.class_ids)
        shapes = (self.boxes_xywhn.shape, self.class_ids.shape, self.attributes.shape[:1])
        if shapes != ((n, 4), (n,), (n,)) or self.attributes.ndim != 2:
            raise ValueError(
                f"{self.image}: boxes {self.boxes_xywhn.shape}, classes {self.class_ids.shape} "
                f"and attributes {self.attributes.shape} disagree"
            )

    def __len__(self) -> int:
        return len(self.class_ids)

    @property
    def field(self) -> LabelledField:
        """The same picture for code that knows boxes only."""
        return LabelledField(self.image, self.domain, self.boxes_xywhn)

    def select(self, mask: np.ndarray) -> LabelledImage:
        """The same picture with the cells that a boolean ``(N,)`` picks."""
        return replace(
            self,
            boxes_xywhn=self.boxes_xywhn[mask],
            class_ids=self.class_ids[mask],
            attributes=self.attributes[mask],
        )


@dataclass(frozen=True, slots=True)
class LabelledSet:
    """A data set as read, with everything that was wrong in it.

    Attributes:
        bad: ``file:line: why`` of every row that could not be read.
        warnings: what a person should look at before training.
        notes: what was decided while reading.
    """

    name: str
    root: Path
    classes: tuple[str, ...]
    attributes: AttributeSchema | None
    images: tuple[LabelledImage, ...]
    bad: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @classmethod
    def as_read(
        cls,
        spec: DatasetSpec,
        root: Path,
        images: Iterable[LabelledImage],
        bad: Iterable[str],
        *,
        warnings: Iterable[str] = (),
        notes: Iterable[str] = (),
    ) -> Self:
        """What a reader found, with the data set's own classes and attributes."""
        return cls(
            spec.name,
            root,
            spec.classes,
            spec.attributes,
            tuple(images),
            tuple(bad),
            tuple(warnings),
            tuple(notes),
        )

    @property
    def splits(self) -> tuple[str, ...]:
        """Splits that have a picture, in the usual order."""
        usual = ("train", "val", "test", "all")
        return tuple(name for name in usual if any(each.split == name for each in self.images))

    def of_split(self, split: str) -> tuple[LabelledImage, ...]:
        """All pictures of one split, held-out ones included."""
        return tuple(each for each in self.images if each.split == split)

    def usable(self, split: str) -> tuple[LabelledImage, ...]:
        """Pictures of one split that no other data set tests on.

        Ask for ``train`` to fit weights and for ``val`` to choose among them.
        """
        return tuple(each for each in self.of_split(split) if not each.held_out)

    def require_clean(self) -> Self:
        """Itself.

        Raises:
            DataError: a row is bad (all are counted, the first ones listed, none repaired).
        """
        if self.bad:
            shown = "\n  ".join(self.bad[:_LISTED_BAD_ROWS])
            left = len(self.bad) - _LISTED_BAD_ROWS
            more = f"\n  and {left} more" if left > 0 else ""
            raise DataError(
                f"{self.root}: {len(self.bad)} bad rows, mend or remove them:\n  {shown}{more}"
            )
        return self

    def with_images(self, images: tuple[LabelledImage, ...]) -> Self:
        """The same set with other pictures, for instance after another split."""
        return replace(self, images=images)

    def mapped(self, mapping: ClassMapping) -> Self:
        """The same pictures in another class list; cells that map to None are left out.

        A picture stays when its last cell goes: it is one without such cells.
        """
        targets = [mapping.of[name] for name in self.classes]
        table = np.array(
            [-1 if target is None else mapping.classes.index(target) for target in targets],
            np.int64,
        )

        def mapped_image(each: LabelledImage) -> LabelledImage:
            new_ids = table[each.class_ids]
            kept = new_ids >= 0
            return replace(each.select(kept), class_ids=new_ids[kept])

        return replace(
            self,
            classes=mapping.classes,
            images=tuple(mapped_image(each) for each in self.images),
        )


def no_cells(attribute_count: int) -> tuple[Float32Array, Int64Array, Int64Array]:
    """Boxes, class ids and attributes of a picture without cells."""
    return (
        np.zeros((0, 4), np.float32),
        np.zeros((0,), np.int64),
        np.zeros((0, attribute_count), np.int64),
    )


def one_cell(
    box_xywhn: tuple[float, float, float, float], class_id: int, attributes: tuple[int, ...] = ()
) -> tuple[Float32Array, Int64Array, Int64Array]:
    """Boxes, class ids and attributes of a picture with a single labelled cell."""
    return (
        np.array([box_xywhn], np.float32),
        np.array([class_id], np.int64),
        np.array([attributes], np.int64).reshape(1, len(attributes)),
    )
