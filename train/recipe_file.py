"""Reading a recipe of any kind: one YAML file, one strict object.

Owns finding the file and its error lines. Does not own what a recipe may say.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from edge_runtime.errors import SettingsError

RECIPES = Path(__file__).parent / "recipes"

AnyRecipe = TypeVar("AnyRecipe", bound=BaseModel)


def read_recipe(
    kind: type[AnyRecipe], what: str, path: str | Path, data_root: str | Path | None = None
) -> AnyRecipe:
    """Reads a recipe, a file or a shipped one by its bare name.

    Args:
        kind: what it must be.
        what: the same in words, such as "a classifier's recipe".
        path: file or name.
        data_root: takes the place of the recipe's own.

    Raises:
        SettingsError: missing, no YAML, of another kind, or with unknown or bad keys.
    """
    file = Path(path)
    if not file.exists() and (RECIPES / f"{path}.yaml").exists():
        file = RECIPES / f"{path}.yaml"
    try:
        document = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        shipped = ", ".join(sorted(p.stem for p in RECIPES.glob("*.yaml")))
        raise SettingsError(
            f"recipe {path}: {reason}; give a YAML file or one of: {shipped}"
        ) from error
    except yaml.YAMLError as error:
        raise SettingsError(f"recipe {file}: not YAML: {' '.join(str(error).split())}") from error
    try:
        recipe = kind.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the document"
        raise SettingsError(f"recipe {file}: not {what}: {where}: {first['msg']}") from error
    if data_root is None:
        return recipe
    return recipe.model_copy(update={"data_root": str(data_root)})
