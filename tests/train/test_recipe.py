from __future__ import annotations

from pathlib import Path

import pytest

from edge_runtime.errors import SettingsError
from train.recipe import RECIPES, load_recipe


@pytest.mark.parametrize("name", sorted(p.stem for p in RECIPES.glob("wbc-detector*.yaml")))
def test_shipped_recipes_load_by_name(name: str) -> None:
    assert load_recipe(name).name == name


def test_a_recipe_of_another_kind_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"wbc-classifier\.yaml: not a detector's recipe"):
        load_recipe("wbc-classifier")


def test_a_fold_leaves_out_what_it_names() -> None:
    recipe = load_recipe("wbc-detector")
    assert recipe.without("bccd").leave_out == "bccd"
    assert recipe.without("virtual").leave_out == "virtual"
    with pytest.raises(SettingsError, match=r"'nowhere'.*bccd"):
        recipe.without("nowhere")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name: x\npurpose: y\ndomains: []\ncompose: {images: 5}\n", "train: Field required"),
        ("a: [1", "not YAML"),
        ("- 1\n", "the document"),
    ],
)
def test_bad_recipes_are_one_line(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(SettingsError) as caught:
        load_recipe(path)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_keys_and_names_are_refused(tmp_path: Path) -> None:
    text = (RECIPES / "wbc-detector.yaml").read_text() + "learning_rat: 0.1\n"
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(SettingsError, match="learning_rat"):
        load_recipe(tmp_path / "r.yaml")
    with pytest.raises(SettingsError, match=r"nowhere.*wbc-detector"):
        load_recipe("nowhere")
