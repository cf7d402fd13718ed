"""Attributes stay with their boxes through every augmentation, and sidecars are checked."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime.attributes import MISSING
from edge_runtime.errors import DataError, SettingsError

torch = pytest.importorskip("torch")
pytest.importorskip("ultralytics")

from ultralytics.cfg import get_cfg  # noqa: E402

from tests.train.attributed_fields import (  # noqa: E402
    CLASSES,
    SCHEMA,
    class_of,
    colour_at,
    warm,
    write_fields,
)
from train.attributed_dataset import (  # noqa: E402
    AttributedDataset,
    attribute_file,
    read_attributes,
    write_attributes,
)

pytestmark = pytest.mark.train

# Colours must survive, and nothing but the named augmentation may move a box.
PLAIN = {
    "hsv_h": 0.0,
    "hsv_s": 0.0,
    "hsv_v": 0.0,
    "mosaic": 0.0,
    "fliplr": 0.0,
    "translate": 0.0,
    "scale": 0.0,
    "erasing": 0.0,
}


def dataset(images: Path, *, augment: bool = True, **changes: Any) -> AttributedDataset:
    classes = changes.pop("classes", None)
    single_cls = changes.pop("single_cls", False)
    return AttributedDataset(
        schema=SCHEMA,
        img_path=str(images),
        imgsz=128,
        augment=augment,
        hyp=get_cfg(overrides={**PLAIN, **changes}),
        data={"names": dict(enumerate(CLASSES)), "nc": len(CLASSES), "channels": 3},
        classes=classes,
        single_cls=single_cls,
        batch_size=4,
    )


def seed() -> None:
    # Ultralytics draws from the global generators.
    random.seed(3)
    np.random.seed(3)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root: Path = tmp_path_factory.mktemp("fields")
    return write_fields(root, "train", 8)


def check_cells(sample: dict[str, Any]) -> int:
    """Every box must show the colour that its attributes and its class name."""
    pixels = sample["img"].numpy()
    height, width = pixels.shape[1:]
    for box, row, values in zip(
        sample["bboxes"].tolist(),
        sample["cls"].tolist(),
        sample["attributes"].tolist(),
        strict=True,
    ):
        colour = colour_at(pixels, box[0] * width, box[1] * height)
        assert values == [colour, warm(colour)]
        assert row == [class_of(colour)]
    return len(sample["bboxes"])


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"fliplr": 1.0},
        {"flipud": 1.0},
        {"mosaic": 1.0},
        {"mosaic": 1.0, "fliplr": 0.5, "flipud": 0.5, "scale": 0.5, "translate": 0.2},
        {"degrees": 30.0, "scale": 0.3},
        {"cutmix": 1.0},
        {"copy_paste": 1.0},
    ],
    ids=lambda changes: "+".join(changes) or "none",
)
def test_augmentations_keep_attributes_with_their_boxes(
    images: Path, changes: dict[str, Any]
) -> None:
    fields = dataset(images, **changes)
    seed()
    cells = [check_cells(fields[index]) for index in range(len(fields)) for _ in range(3)]
    assert sum(cells) > 30
    if "mosaic" in changes:
        # More than one field's cells in a picture.
        assert max(cells) > 6


def test_mixup_joins_the_rows_of_both_pictures(images: Path) -> None:
    fields = dataset(images, mixup=1.0)
    seed()
    sample = fields[0]
    assert len(sample["attributes"]) == len(sample["bboxes"])
    assert len(sample["attributes"]) > len(fields.labels[0]["cls"])
    for row, (colour, is_warm) in zip(
        sample["cls"].tolist(), sample["attributes"].tolist(), strict=True
    ):
        assert (row, is_warm) == ([class_of(colour)], warm(colour))


def test_closing_the_mosaic_keeps_attributes(images: Path) -> None:
    fields = dataset(images, mosaic=1.0)
    hyp: Any = get_cfg(overrides={**PLAIN, "mosaic": 1.0})
    fields.close_mosaic(hyp)
    assert check_cells(fields[0]) == len(fields.labels[0]["cls"])


def test_another_order_of_rows_is_the_same_data(images: Path, tmp_path: Path) -> None:
    shuffled = dataset(write_fields(tmp_path, "train", 8, shuffle=True), augment=False)
    plain = dataset(images, augment=False)
    moved = 0
    for index in range(len(plain)):
        rows = [
            torch.cat([each["bboxes"], each["cls"], each["attributes"]], dim=1).tolist()
            for each in (plain[index], shuffled[index])
        ]
        moved += rows[0] != rows[1]
        assert sorted(rows[0]) == sorted(rows[1])
    assert moved > 0


def test_batches_hold_one_row_per_box_in_the_order_of_the_boxes(images: Path) -> None:
    fields = dataset(images, augment=False)
    samples = [fields[index] for index in range(4)]
    together = AttributedDataset.collate_fn(samples)
    assert together["attributes"].dtype == torch.int64
    assert torch.equal(
        together["attributes"], torch.cat([sample["attributes"] for sample in samples])
    )
    assert together["cls"].shape == (len(together["bboxes"]), 1)
    assert len(together["batch_idx"]) == len(together["attributes"])


def test_leaving_out_classes_leaves_out_their_attributes(images: Path) -> None:
    fields = dataset(images, augment=False, classes=[1])
    assert sum(check_cells(fields[index]) for index in range(len(fields))) > 0
    assert all((label["cls"] == 1).all() for label in fields.labels)


def test_one_class_for_all_leaves_attributes_alone(images: Path) -> None:
    plain, single = (dataset(images, augment=False, single_cls=s) for s in (False, True))
    assert (single[0]["cls"] == 0).all()
    assert torch.equal(single[0]["attributes"], plain[0]["attributes"])


def test_field_without_cells_needs_no_sidecar(tmp_path: Path) -> None:
    images = write_fields(tmp_path, "train", 2)
    (tmp_path / "labels" / "train" / "0.txt").write_text("")
    attribute_file(images / "0.png").unlink()
    fields = dataset(images, augment=False)
    assert fields[0]["attributes"].shape == (0, 2)
    batch = AttributedDataset.collate_fn([fields[0], fields[1]])
    assert len(batch["attributes"]) == len(batch["bboxes"]) > 0


def test_missing_sidecar_is_an_error(tmp_path: Path) -> None:
    images = write_fields(tmp_path, "train", 2)
    attribute_file(images / "1.png").unlink()
    with pytest.raises(DataError, match=r"1\.npy: no such file"):
        dataset(images)


def test_rows_must_match_the_label_file(tmp_path: Path) -> None:
    images = write_fields(tmp_path, "train", 2)
    label = tmp_path / "labels" / "train" / "0.txt"
    first = label.read_text().splitlines()[0]
    label.write_text(label.read_text() + first + "\n")
    values = read_attributes(images / "0.png", SCHEMA)
    write_attributes(images / "0.png", np.concatenate([values, values[:1]]), SCHEMA)
    with pytest.raises(DataError, match="the same row twice"):
        dataset(images)


def test_own_albumentations_are_refused(images: Path) -> None:
    with pytest.raises(SettingsError, match="lose attributes"):
        dataset(images, augmentations=["anything"])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([[6, 0]], "cell 0 has colour = 6; schema 'drawn' knows 0 to 5"),
        ([[0, 0], [1, -2]], "cell 1 has warm = -2"),
        ([[0, 0, 0]], r"table of shape \(1, 3\)"),
        ([0, 0], r"table of shape \(2,\)"),
    ],
)
def test_bad_values_are_refused_in_writing_and_reading(
    tmp_path: Path, values: list[Any], message: str
) -> None:
    image = tmp_path / "images" / "a.png"
    with pytest.raises(DataError, match=message):
        write_attributes(image, np.array(values), SCHEMA)
    attribute_file(image).parent.mkdir()
    np.save(attribute_file(image), np.array(values))
    with pytest.raises(DataError, match=message):
        read_attributes(image, SCHEMA)


def test_files_that_are_no_tables_of_indices_are_refused(tmp_path: Path) -> None:
    image = tmp_path / "images" / "a.png"
    path = write_attributes(image, np.array([[0, MISSING]]), SCHEMA)
    assert path == tmp_path / "attributes" / "a.npy"
    assert read_attributes(image, SCHEMA).tolist() == [[0, MISSING]]
    np.save(path, np.array([[0.5, 1.0]]))
    with pytest.raises(DataError, match="holds float64"):
        read_attributes(image, SCHEMA)
    np.save(path, np.array([[{"a": 1}, None]], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="not an array"):
        read_attributes(image, SCHEMA)
    path.write_bytes(b"")
    with pytest.raises(DataError, match="not an array"):
        read_attributes(image, SCHEMA)


def test_sidecars_lie_where_ultralytics_would_look() -> None:
    from ultralytics.data.utils import img2label_paths

    for name in ("/d/images/train/a.jpg", "/images/d/images/a.b.png", "/d/pictures/a.jpg"):
        (theirs,) = img2label_paths([Path(name)], "attributes", ".npy")
        assert attribute_file(Path(name)) == Path(theirs)
