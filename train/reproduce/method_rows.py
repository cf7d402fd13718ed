"""Rows about a training method: domain adaptation, and training on sparse labels.

Owns what such a row says of its run, and training and measuring it. Does not own the methods
nor their training (see ``method_run``).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from train import adapt, sparse
from train.attridet_recipe import FieldsSpec, read_document
from train.method_recipe import AdaptRecipe, SparseRecipe
from train.reproduce.figures import detection_figures
from train.step_loss import find_row


class _MethodRun(BaseModel):
    """What rows of both kinds say.

    Attributes:
        method: its name in the table of methods.
        options: that differ from the method's own.
        base: shipped recipe of this kind that ``recipe`` changes; None: it is all there.
        recipe: keys of the recipe, each taking the place of the base's whole entry; without
            name, purpose and data root.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: str
    options: dict[str, Any] = {}
    base: str | None = None
    recipe: dict[str, Any] = {}

    def _document(self, name: str, data_root: str) -> dict[str, Any]:
        begun = {} if self.base is None else read_document(self.base)[1]
        return {
            **begun,
            **self.recipe,
            "name": name,
            "purpose": f"table row {name}",
            "data_root": data_root,
            "options": {self.method: self.options},
        }


class AdaptRun(_MethodRun):
    """Domain adaptation, measured on the target; a column's path is that of the target."""

    kind: Literal["adapt"]

    def made(self, name: str, data_root: str, path: str | None = None) -> AdaptRecipe:
        """The whole recipe.

        Raises:
            SettingsError: no such method or base.
            ValueError: a bad recipe.
        """
        find_row(adapt.METHODS, self.method)
        recipe = AdaptRecipe.model_validate(self._document(name, data_root))
        if path is None:
            return recipe
        target = recipe.target.model_copy(update={"path": path})
        return recipe.model_copy(update={"target": target})

    def data(self, path: str | None = None) -> tuple[FieldsSpec, ...]:
        """The data that it needs."""
        recipe = self.made("row", ".", path)
        return (recipe.source, recipe.target)


class SparseRun(_MethodRun):
    """Training on sparse labels, measured on whole fields of all its sets together."""

    kind: Literal["sparse"]

    def made(self, name: str, data_root: str, path: str | None = None) -> SparseRecipe:
        """The whole recipe; a path takes the place of all sets but the first, and of its own.

        Raises:
            SettingsError: no such method or base.
            ValueError: a bad recipe.
        """
        find_row(sparse.METHODS, self.method)
        recipe = SparseRecipe.model_validate(self._document(name, data_root))
        if path is None:
            return recipe
        only = recipe.fields[0].model_copy(update={"path": path})
        return recipe.model_copy(update={"fields": (only,)})

    def data(self, path: str | None = None) -> tuple[FieldsSpec, ...]:
        """The data that it needs."""
        return self.made("row", ".", path).fields


def method_figures(
    recipe: AdaptRecipe | SparseRecipe,
    method: str,
    out: Path,
    *,
    how: Any,
    weights: Path | None,
    judged_on: str,
) -> dict[str, float | None]:
    """Trains a method and measures it on test pictures; ``figures.json`` has everything.

    Args:
        recipe: what to train.
        method: of the table that the recipe is for.
        out: folder of the run.
        how: ``method_run.How``.
        weights: checkpoint in place of the first phase, which the rows of a table share.
        judged_on: device of torch for measuring.

    Returns:
        Figures in percent: of the target, those of the source begin with ``source_``; or of
        all sets together.

    Raises:
        DataError: missing or bad data.
        SettingsError: a bad option, or weights of another network.
    """
    from train.judge_method import judge_method
    from train.method_run import train_adapted, train_sparse

    if isinstance(recipe, AdaptRecipe):
        train_adapted(recipe, method, out, how, source_checkpoint=weights)
    else:
        if weights is not None:
            recipe = recipe.model_copy(update={"start_from": str(weights)})
        train_sparse(recipe, method, out, how)
    document = judge_method(out, "test", device=judged_on)
    (out / "figures.json").write_text(json.dumps(document, indent=1) + "\n")
    fields = document["fields"]
    if not isinstance(recipe, AdaptRecipe):
        return detection_figures(fields["all"] if len(fields) > 1 else next(iter(fields.values())))
    source = detection_figures(fields["source"])
    before = {f"source_{name}": source[name] for name in ("map50_95", "map50")}
    return {**detection_figures(fields["target"]), **before}
