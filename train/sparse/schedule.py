"""When which of SLA-Det's losses is on.

Owns the schedule alone.
"""

from __future__ import annotations

from dataclasses import dataclass

# The paper: the first 40 of 50 epochs, with attributes the first 10 of 30.
TRIPLET_SHARE = 0.8
TRIPLET_SHARE_WITH_ATTRIBUTES = 1 / 3


@dataclass(frozen=True, slots=True)
class Schedule:
    """Which losses are on in an epoch; the first epoch is 0.

    Attributes:
        triplet_epochs: number of first epochs with the similarity loss; below 1 a share of
            all of them.
        start_epoch: first epoch with pseudo-labels.
        last_epoch_lr_only: the last epoch has the labelled-region loss alone.
    """

    triplet_epochs: float = TRIPLET_SHARE
    start_epoch: int = 0
    last_epoch_lr_only: bool = False

    def pseudo_labels(self, epoch: int, epochs: int) -> bool:
        """Whether pseudo-labels are learnt in this of so many epochs."""
        return epoch >= self.start_epoch and not self._closes(epoch, epochs)

    def similarity(self, epoch: int, epochs: int) -> bool:
        """Whether the similarity loss is on in this of so many epochs."""
        given = self.triplet_epochs
        first = round(given * epochs) if given < 1 else given
        return epoch < first and not self._closes(epoch, epochs)

    def _closes(self, epoch: int, epochs: int) -> bool:
        return self.last_epoch_lr_only and epoch == epochs - 1
