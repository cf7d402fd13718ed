"""What the lists of the data sets mean is frozen, and a bad list is told in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_runtime.attributes import MISSING, Attribute
from edge_runtime.errors import DataError, SettingsError
from train.datasets.catalog import DATASETS
from train.datasets.schemas import SCHEMAS, index_of_code, index_of_word, load_spec, load_specs

LEUKEMIA_CLASSES = (
    "None,Myeloblast,Lymphoblast,Neutrophil,Atypical lymphocyte,Promonocyte,Monoblast,Lymphocyte,"
    "Myelocyte,Abnormal promyelocyte,Monocyte,Metamyelocyte,Eosinophil,Basophil"
)
PCM_CLASSES = (
    "Lymphocyte,Neutrophil,Basophil,Eosinophil,Lymphoblast,Monocyte,Myeloblast_AML,"
    "Myeloblast_APL,Other"
)
SHAPE = Attribute(name="shape", values=("round", "odd"))


@pytest.mark.parametrize(
    ("name", "classes"),
    [
        ("leukemia-attri", LEUKEMIA_CLASSES),
        ("sparse-leukemia-attri", LEUKEMIA_CLASSES),
        ("pcm-leukemia", PCM_CLASSES),
    ],
)
def test_the_class_order_is_frozen(name: str, classes: str) -> None:
    assert ",".join(load_spec(name).classes) == classes


def test_leukemia_attri_has_six_binary_attributes_in_the_order_of_its_columns() -> None:
    schema = load_spec("leukemia-attri").attributes
    assert schema is not None
    assert {each.name: each.values for each in schema.attributes} == {
        "nuclear_chromatin": ("open", "coarse"),
        "nuclear_shape": ("regular", "irregular"),
        "nucleolus": ("inconspicuous", "prominent"),
        "cytoplasm": ("scanty", "abundant"),
        "cytoplasmic_basophilia": ("slight", "moderate"),
        "cytoplasmic_vacuoles": ("absent", "prominent"),
    }
    assert load_spec("leukemia-attri").missing_code == 2
    assert [len(columns) for columns in load_spec("leukemia-attri").layouts] == [11, 12]


def test_wbcatt_has_eleven_attributes_of_several_values() -> None:
    schema = load_spec("pbc-attributes").attributes
    assert schema is not None
    assert schema.widths == (2, 2, 6, 2, 2, 2, 2, 3, 4, 4, 2)


def test_every_row_of_the_table_is_described_and_the_other_way_round() -> None:
    assert [row.name for row in DATASETS] == list(load_specs())


def test_munich_maps_all_fifteen_codes() -> None:
    spec = load_spec("lmu")
    assert len(spec.classes) == 15
    a, b = spec.mapping("A"), spec.mapping("B")
    assert set(a.of) == set(b.of) == set(spec.classes)
    assert a.classes == b.classes == tuple(PCM_CLASSES.split(",")[:-1])
    assert {code for code, target in a.of.items() if target is None} == {
        "EBO", "KSC", "MMZ", "MYB", "LYA", "MOB",
    }  # fmt: skip
    assert (a.of["PMO"], a.of["PMB"], a.of["NGB"]) == ("Myeloblast_APL",) * 2 + ("Neutrophil",)
    changed = {code: b.of[code] for code in a.of if a.of[code] != b.of[code]}
    assert changed == {"MOB": "Myeloblast_AML", "LYA": "Lymphocyte"}


def test_binary_conversion_keeps_other_apart() -> None:
    binary = load_spec("pcm-leukemia").mapping("binary")
    assert [name for name, target in binary.of.items() if target == "Other"] == ["Other"]
    assert sum(target == "WBC" for target in binary.of.values()) == 8


def test_codes_and_words_become_indices() -> None:
    assert [index_of_code(SHAPE, text, 2) for text in ("0", "1", "1.0", "2")] == [0, 1, 1, MISSING]
    assert [index_of_word(SHAPE, text) for text in ("odd", "")] == [1, MISSING]


@pytest.mark.parametrize("text", ["3", "-1", "0.5", "nan", "inf", "open", ""])
def test_an_unknown_code_names_what_is_known(text: str) -> None:
    with pytest.raises(DataError, match=r"^shape '.*': unknown value; known: 0 \(round\), 1 \(odd"):
        index_of_code(SHAPE, text, 2)


def test_without_a_missing_code_two_is_unknown() -> None:
    with pytest.raises(DataError, match="unknown value"):
        index_of_code(SHAPE, "2", None)


def test_an_unknown_word_names_what_is_known() -> None:
    with pytest.raises(DataError, match="shape 'flat': unknown value; known: round, odd"):
        index_of_word(SHAPE, "flat")


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(SettingsError, match="data set 'x': unknown; choose one of leukemia-attri"):
        load_spec("x")
    with pytest.raises(SettingsError, match="mapping 'C': not one of lmu; it has: A, B"):
        load_spec("lmu").mapping("C")
    with pytest.raises(SettingsError, match="it has: none"):
        load_spec("wbc-masks").mapping("A")


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("    missing_code: 2\n", "    missing: 2\n", "Extra inputs"),
        ("          KSC: null\n", "", "not total over the classes"),
        ("          KSC: null\n", "          KSC: Smudge\n", "unknown classes"),
        ("    nucleolus: [inconspicuous, prominent]", "    nucleolus: [one, one]", "listed twice"),
        ('w, h, "-",\n', "w, h,\n", "cannot be told apart"),
        ("         nuclear_chromatin, nuclear_shape,", "         nuclear_shape,", "layout of 10"),
        ("      - [class, cx, cy, w, h]\n", "      - [class, cx, cy, w]\n", "layout of 4 columns"),
        ("    attributes: wbcatt\n", "    attributes: wbc\n", "attribute_schemas"),
        ("attribute_schemas:", "attribute_schemas", "not YAML"),
    ],
)
def test_a_bad_list_is_one_line(tmp_path: Path, old: str, new: str, why: str) -> None:
    text = SCHEMAS.read_text(encoding="utf-8")
    assert old in text
    (tmp_path / "bad.yaml").write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(SettingsError, match=why) as caught:
        load_specs(tmp_path / "bad.yaml")
    assert "\n" not in str(caught.value)
    assert "bad.yaml" in str(caught.value)


def test_a_missing_list_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="No such file"):
        load_specs(tmp_path / "none.yaml")
