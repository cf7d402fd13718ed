"""What each block of a network costs when it alone is int8.

Owns the order of measuring and the ranking. The quantiser and the judge are given in: this
package knows neither graphs' surgery nor where labels are.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from time import monotonic

from pydantic import BaseModel, ConfigDict

from calibration.ledger import Ledger

# ONNX bytes to one figure per domain, 0..1.
Judge = Callable[[bytes], Mapping[str, float]]
# ONNX bytes to the SQNR of each output, dB.
OutputError = Callable[[bytes], Mapping[str, float]]


class BlockCost(BaseModel):
    """One block alone in int8.

    Attributes:
        block: its name.
        nodes: how many nodes it has.
        lost_points: of the figure, on the domain that loses most; None without labels.
        domain: that one.
        sqnr_db: of the output that suffers most.
        seconds: it took to measure.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    block: str
    nodes: int
    lost_points: float | None
    domain: str | None
    sqnr_db: float
    seconds: float


def rank_blocks(
    blocks: Mapping[str, Collection[str]],
    only_int8: Callable[[Collection[str]], bytes],
    output_error: OutputError,
    *,
    judge: Judge | None = None,
    float_figures: Mapping[str, float] | None = None,
    made_by: str = "",
    ledger: Ledger | None = None,
    clock: Callable[[], float] = monotonic,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[BlockCost]:
    """Measures every block and ranks them, the most costly first.

    Ranked by points lost, or by the outputs' SQNR when no labels are there.

    Args:
        blocks: nodes by block.
        only_int8: the graph in which only these nodes are int8.
        output_error: how far the outputs are from those of the float graph.
        judge: the figure of a graph per domain.
        float_figures: the same of the float graph.
        made_by: runtime family and method of ``only_int8``, for the ledger.
        ledger: keeps what was measured.
        clock: seconds.
        progress: told how many of how many blocks are done.
    """
    costs = []
    for done, (block, nodes) in enumerate(blocks.items(), start=1):

        def measure(block: str = block, nodes: Collection[str] = nodes) -> dict[str, object]:
            start = clock()
            model = only_int8(nodes)
            lost, domain = None, None
            if judge is not None and float_figures is not None:
                domain, lost = worst_loss(float_figures, judge(model))
            return BlockCost(
                block=block,
                nodes=len(nodes),
                lost_points=lost,
                domain=domain,
                sqnr_db=min(output_error(model).values()),
                seconds=round(clock() - start, 2),
            ).model_dump()

        if ledger is None:
            found = measure()
        else:
            found = ledger.remember(f"block {block} {made_by}", {"nodes": sorted(nodes)}, measure)
        costs.append(BlockCost.model_validate(found))
        progress(done, len(blocks))
    return ranked(costs)


def ranked(costs: Sequence[BlockCost]) -> list[BlockCost]:
    """Most costly first; equal losses by SQNR."""
    return sorted(costs, key=lambda cost: (-(cost.lost_points or 0.0), cost.sqnr_db, cost.block))


def worst_loss(
    float_figures: Mapping[str, float], int8_figures: Mapping[str, float]
) -> tuple[str, float]:
    """The domain that loses most, and how many points (1 point = 0.01)."""
    lost = {name: 100 * (value - int8_figures[name]) for name, value in float_figures.items()}
    worst = max(sorted(lost), key=lambda name: lost[name])
    return worst, lost[worst]
