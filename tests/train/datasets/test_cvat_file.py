"""CVAT's XML, one fault at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge_runtime.errors import DataError
from tests.train.site_folders import cvat_text, drawn_fields, write_cvat
from train.datasets.cvat_file import read_cvat

BOX = '<box label="WBC" xtl="1" ytl="2" xbr="11" ybr="22"/>'


def write(
    root: Path, shapes: str, image: str = 'name="field_00.png" width="96" height="80"'
) -> Path:
    write_cvat(root, drawn_fields(1))
    (root / "annotations.xml").write_text(
        f"<annotations>\n<version>1.1</version>\n<image id='0' {image}>\n{shapes}\n</image>\n"
        "</annotations>\n"
    )
    return root


@pytest.mark.parametrize(
    ("shapes", "line"),
    [
        ('<box label="WBC" xtl="1" ytl="2" xbr="11"/>', "4: ybr is missing"),
        ('<box label="WBC" xtl="a" ytl="2" xbr="11" ybr="3"/>', "4: xtl is no number: 'a'"),
        ('<box label="WBC" xtl="nan" ytl="2" xbr="11" ybr="3"/>', "4: xtl is no usable number"),
        ('<box label="WBC" xtl="1e300" ytl="2" xbr="2e300" ybr="3"/>', "4: xtl is no usable"),
        ('<box label="WBC" xtl="11" ytl="2" xbr="1" ybr="3"/>', "4: box without area"),
        ('<box label="WBC" xtl="1" ytl="2" xbr="111" ybr="3"/>', "4: box leaves the image"),
        ('<box label="" xtl="1" ytl="2" xbr="11" ybr="3"/>', "4: a label without a name"),
        (BOX.replace("<box", '<box rotation="20"'), r"4: turned box \(rotation 20\)"),
        ('<polyline label="WBC" points="1,2;3,4"/>', "4: a polyline frames no cell; draw a box"),
        ('<points label="WBC" points="1,2"/>', "4: a points frames no cell"),
        ('<polygon label="WBC" points="1,2;3,4"/>', "4: a polygon of less than three points"),
    ],
)
def test_a_bad_shape_is_listed_with_its_line(tmp_path: Path, shapes: str, line: str) -> None:
    found = read_cvat(write(tmp_path, shapes))
    with pytest.raises(DataError, match=rf"annotations\.xml:{line}"):
        found.require_clean()


@pytest.mark.parametrize(
    ("image", "line"),
    [
        ('name="gone.png" width="96" height="80"', "3: picture 'gone.png': no such file"),
        ('name="../field_00.png" width="96" height="80"', "3: picture .* leaves the folder"),
        ('name="field_00.png" width="0" height="80"', "3: field_00.png: width 0 and height 80"),
        ('width="96" height="80"', "3: an image without a name"),
    ],
)
def test_a_bad_picture_is_listed_with_its_line(tmp_path: Path, image: str, line: str) -> None:
    found = read_cvat(write(tmp_path, BOX, image))
    with pytest.raises(DataError, match=rf"annotations\.xml:{line}"):
        found.require_clean()
    # Its shapes have no picture to be in, and say so.
    assert len(found.bad) == 2


def test_outlines_become_the_box_around_them_with_a_note(tmp_path: Path) -> None:
    shapes = (
        '<polygon label="WBC" points="10.0,20.0;30.0,25.0;15.0,40.0"><attribute name="a">x'
        "</attribute></polygon>"
        '<ellipse label="WBC" cx="50" cy="40" rx="10" ry="5"/>'
        '<mask label="WBC" left="1" top="2" width="9" height="8" rle="1, 2"/>'
        f'{BOX}<tag label="blurred"/>'
    )
    found = read_cvat(write(tmp_path, shapes)).require_clean()
    corners = [(10, 20, 20, 20), (40, 35, 20, 10), (1, 2, 9, 8), (1, 2, 10, 20)]
    wanted = [((x + w / 2) / 96, (y + h / 2) / 80, w / 96, h / 80) for x, y, w, h in corners]
    assert np.allclose(found.images[0].boxes_xywhn, wanted, atol=1e-6)
    assert found.classes == ("WBC",)
    assert len(found.notes) == 3
    assert "1 shapes of the kind 'polygon' taken as the box around them" in found.notes


BOMB = (
    '<?xml version="1.0"?>\n<!DOCTYPE a [<!ENTITY x "lol"><!ENTITY y "&x;&x;&x;">'
    '<!ENTITY f SYSTEM "file:///etc/passwd">]>\n<annotations><version>&y;&f;</version></annotations>'
)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (BOMB, r"annotations\.xml:2: has a DOCTYPE, which CVAT never writes"),
        ("<annotations><image", "no XML: "),
        ("no xml at all", "no XML: "),
        ("", "no XML: no element found"),
        ("<annotation><object/></annotation>", "begins with <annotation>; export it as 'CVAT"),
        ('<annotations><track id="0"/></annotations>', "tracks of a video; export it as 'CVAT"),
        ("<annotations>&x;</annotations>", "no XML: undefined entity"),
    ],
)
def test_what_is_no_export_of_images_is_refused(tmp_path: Path, text: str, line: str) -> None:
    (tmp_path / "annotations.xml").write_text(text)
    with pytest.raises(DataError, match=line):
        read_cvat(tmp_path)


def test_two_xml_files_are_one_too_many(tmp_path: Path) -> None:
    write_cvat(tmp_path, drawn_fields(1))
    (tmp_path / "b.xml").write_text(cvat_text(drawn_fields(1)))
    with pytest.raises(DataError, match=r"one XML file is wanted, there is annotations\.xml, b\.x"):
        read_cvat(tmp_path)


def test_of_many_xml_files_some_are_named(tmp_path: Path) -> None:
    for number in range(9):
        (tmp_path / f"{number}.xml").write_text("<annotation/>")
    with pytest.raises(DataError, match=r"there is 0\.xml.* 4\.xml and 4 more; keep annotations"):
        read_cvat(tmp_path)


def test_a_label_without_a_name_is_listed_with_its_line(tmp_path: Path) -> None:
    write_cvat(tmp_path, drawn_fields(1))
    file = tmp_path / "annotations.xml"
    file.write_text(file.read_text().replace("<name>platelet</name>", "<name> </name>"))
    assert any(
        "annotations.xml:6: a label without a name" in each for each in read_cvat(tmp_path).bad
    )


def test_a_subset_is_a_split(tmp_path: Path) -> None:
    write(tmp_path, BOX, 'name="field_00.png" subset="Test" width="96" height="80"')
    assert read_cvat(tmp_path).require_clean().images[0].split == "test"
