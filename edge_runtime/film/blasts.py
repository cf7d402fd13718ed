"""Which of a classifier's classes are blasts.

Owns the rule for class lists that do not say so themselves. Does not own counting them nor
what their share means.
"""

from __future__ import annotations

from collections.abc import Sequence

# Precursors of red cells end in the same word and count as nothing of the kind.
_RED = ("erythro", "normo", "rubri")


def blast_classes(names: Sequence[str]) -> tuple[str, ...]:
    """Those of a class list that count as blasts, in its order.

    Names that end in "blast" or "blasts", as myeloblast, lymphoblast and monoblast do;
    erythroblasts, normoblasts and rubriblasts are red-cell precursors and left out.
    """
    return tuple(name for name in names if _is_blast(name.strip().lower()))


def _is_blast(name: str) -> bool:
    return name.removesuffix("s").endswith("blast") and not name.startswith(_RED)
