from __future__ import annotations

import pytest

from edge_runtime.film.blasts import blast_classes


@pytest.mark.parametrize(
    ("names", "blasts"),
    [
        (("lymphocyte", "blast"), ("blast",)),
        (("Myeloblast", "Lymphoblast", "Monoblast"), ("Myeloblast", "Lymphoblast", "Monoblast")),
        (("erythroblast", "Normoblast", "rubriblast", "neutrophil"), ()),
        (("Myeloid blasts", " monoblasts "), ("Myeloid blasts", " monoblasts ")),
        (("blast cell remnant", "oblasted"), ()),
    ],
)
def test_what_is_called_a_blast(names: tuple[str, ...], blasts: tuple[str, ...]) -> None:
    assert blast_classes(names) == blasts
