"""What four patch columns mean is told from the cells, or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.errors import DataError
from train.datasets.labelled import LabelledImage, Patch, no_cells
from train.datasets.patches import (
    PatchColumns,
    PatchLayout,
    PatchLayoutError,
    detect_layout,
    read_patches,
    write_patches,
)
from train.datasets.schemas import PatchOrder

FRAME = 640
CORNERS: PatchOrder = "x1,y1,x2,y2"
AXES: PatchOrder = "x1,x2,y1,y2"
# Read in the wrong order it would end above where it begins.
PATCH: Patch = (0.1, 0.2, 0.5, 0.4)


def columns(patch: Patch, order: PatchOrder, scale: float = 1.0, line: int = 1) -> PatchColumns:
    x1, y1, x2, y2 = (value * scale for value in patch)
    values = (x1, y1, x2, y2) if order == CORNERS else (x1, x2, y1, y2)
    centre = [[(patch[0] + patch[2]) / 2, (patch[1] + patch[3]) / 2]]
    return PatchColumns(f"a.txt:{line}", values, np.array(centre, np.float32))


@pytest.mark.parametrize("order", [CORNERS, AXES])
@pytest.mark.parametrize("scale", [1.0, 640.0])
def test_order_and_unit_are_told_from_the_cells(order: PatchOrder, scale: float) -> None:
    layout = detect_layout([columns(PATCH, order, scale)], frame_px=FRAME)
    assert layout == PatchLayout(order, scale)
    assert layout.patch(columns(PATCH, order, scale).values) == pytest.approx(PATCH)


@st.composite
def patches(draw: st.DrawFn) -> Patch:
    x1, y1 = draw(st.floats(0, 0.6)), draw(st.floats(0, 0.6))
    return x1, y1, x1 + draw(st.floats(0.1, 0.4)), y1 + draw(st.floats(0.1, 0.4))


@given(
    st.lists(patches(), min_size=1, max_size=20), st.sampled_from([CORNERS, AXES]), st.booleans()
)
def test_a_whole_set_is_read_as_written_or_refused(
    all_patches: list[Patch], order: PatchOrder, pixels: bool
) -> None:
    pictures = [columns(each, order, 640.0 if pixels else 1.0) for each in all_patches]
    named: PatchOrder | None = None
    try:
        detect_layout(pictures, frame_px=FRAME)
    except PatchLayoutError as error:
        if "ambiguous" not in str(error):
            raise
        named = order
    layout = detect_layout(pictures, frame_px=FRAME, order=named)
    assert layout.order == order
    for patch, picture in zip(all_patches, pictures, strict=True):
        assert layout.patch(picture.values) == pytest.approx(patch, abs=1e-6)


def test_pixels_count_as_pixels_of_the_network_picture() -> None:
    picture = PatchColumns("a.txt:1", (64, 128, 320, 256), np.array([[0.3, 0.3]], np.float32))
    layout = detect_layout([picture], frame_px=FRAME)
    assert layout.patch(picture.values) == (0.1, 0.2, 0.5, 0.4)


def test_both_orders_fit_so_neither_is_taken() -> None:
    both = PatchColumns("a.txt:1", (0.1, 0.3, 0.35, 0.9), np.zeros((0, 2), np.float32))
    assert detect_layout([columns(PATCH, AXES), both], frame_px=FRAME).order == AXES
    with pytest.raises(
        PatchLayoutError, match=r"ambiguous: both orders fit all 1 pictures"
    ) as told:
        detect_layout([both], frame_px=FRAME)
    assert "--patch-order x1,y1,x2,y2 or x1,x2,y1,y2" in str(told.value)
    assert detect_layout([both], frame_px=FRAME, order=CORNERS).order == CORNERS


def test_no_order_fits_and_the_odd_rows_are_named() -> None:
    good = [columns(PATCH, CORNERS, line=line) for line in range(1, 10)]
    outside = PatchColumns("b.txt:3", (0.1, 0.3, 0.5, 0.9), np.array([[0.8, 0.5]], np.float32))
    with pytest.raises(
        PatchLayoutError, match=r"fit no order: of 10 pictures x1,y1,x2,y2 fails in 1,"
    ) as told:
        detect_layout([*good, outside], frame_px=FRAME)
    assert len(told.value.offenders) == 1
    assert told.value.offenders[0].startswith("b.txt:3: cell centre (0.8000, 0.5000) outside")


@pytest.mark.parametrize(
    "values", [(0.5, 0.5, 0.5, 0.5), (0.9, 0.9, 0.1, 0.1), (-0.5, 0.1, 0.3, 0.4), (700, 1, 900, 2)]
)
def test_values_that_make_no_patch_are_refused(values: Patch) -> None:
    picture = PatchColumns("a.txt:1", values, np.zeros((0, 2), np.float32))
    with pytest.raises(PatchLayoutError, match="fit no order"):
        detect_layout([picture], frame_px=FRAME)


def test_a_named_order_is_checked_too() -> None:
    with pytest.raises(PatchLayoutError, match="fit no order"):
        detect_layout([columns(PATCH, CORNERS)], frame_px=FRAME, order=AXES)


def test_fractions_and_pixels_in_one_set_fit_nothing() -> None:
    mixed = [columns(PATCH, CORNERS), columns(PATCH, CORNERS, 640.0)]
    with pytest.raises(PatchLayoutError, match="pixels of 640"):
        detect_layout(mixed, frame_px=FRAME)


def test_patches_survive_their_file(tmp_path: Path) -> None:
    cells = no_cells(6)
    images = [
        LabelledImage(tmp_path / "a.png", "train", "d", *cells, patch_xyxyn=PATCH),
        LabelledImage(tmp_path / "b.png", "test", "d", *cells),
    ]
    write_patches(tmp_path / "patches.csv", images)
    known = {("train", "a.png")}
    assert read_patches(tmp_path / "patches.csv", known) == ({("train", "a.png"): PATCH}, [])


def test_bad_rows_of_the_patch_file_are_named(tmp_path: Path) -> None:
    file = tmp_path / "patches.csv"
    file.write_text(
        "split,image,x1,y1,x2,y2\ntrain,a.png,0,0,1,1\ntrain,a.png,0,0,1,1\n"
        "train,b.png,0,0,1\ntrain,c.png,0.5,0,0.4,1\ntrain,d.png,0,0,nan,1\n"
    )
    known = {("train", f"{name}.png") for name in "abcd"}
    patches_read, bad = read_patches(file, known)
    assert list(patches_read) == [("train", "a.png")]
    assert [line.split(": ")[0].rpartition(":")[2] for line in bad] == ["3", "4", "5", "6"]
    file.write_text("image,x1\n")
    with pytest.raises(DataError, match=r"patches\.csv:1: expected the columns split,image"):
        read_patches(file, known)
