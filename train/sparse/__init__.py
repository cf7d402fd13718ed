"""Training on pictures of which one patch is labelled.

One row per method; a new method is one module and one row.
"""

from __future__ import annotations

from train.step_loss import MethodRow

METHODS: tuple[MethodRow, ...] = (
    MethodRow("full", "every label, for reference", every_label=True),
    MethodRow("naive", "what is unlabelled counts as background"),
    MethodRow("masked", "outside the patch painted over", pictures="masked"),
    MethodRow("crops", "patches alone, tested through windows", pictures="crops"),
    MethodRow("co-mining", "Co-mining", "train.sparse.co_mining", wants_patches=True),
    MethodRow("sparsedet", "SparseDet, adapted", "train.sparse.sparse_det", wants_patches=True),
    MethodRow("sla-det", "SLA-Det", "train.sparse.sla_det", wants_patches=True),
)
