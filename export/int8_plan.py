"""How an int8 graph is to be made: the method of its ranges and the blocks that stay in float.

Owns the plans an export tries and reading a sweep's choice. Does not own the sweep (see
``calibration.sweep``) nor the graphs (see ``qdq``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from calibration.ranges import METHODS, Method
from calibration.sweep import SweepResult, candidate_name
from edge_runtime.bundle import Runtime
from edge_runtime.errors import DataError
from export.blocks import blocks_of

BEST = "best"


@dataclass(frozen=True, slots=True)
class Int8Plan:
    """One way to make the int8 graph for one runtime family.

    Attributes:
        runtime: family it is for.
        method: of the ranges.
        blocks: that stay in float, as ``blocks.blocks_of`` names them.
    """

    runtime: Runtime
    method: Method
    blocks: tuple[str, ...] = ()

    def kept(self, model: bytes) -> frozenset[str]:
        """Names of the nodes that stay in float.

        Raises:
            DataError: the network has no such block.
        """
        if not self.blocks:
            return frozenset()
        known = blocks_of(model)
        for block in self.blocks:
            if block not in known:
                raise DataError(
                    f"block {block!r} of the sweep: the network has none of that name; "
                    "sweep this network again"
                )
        return frozenset(node for block in self.blocks for node in known[block])

    @property
    def left_out(self) -> str:
        """The end of a sentence on what is in float; empty when nothing is left out."""
        return f", {' and '.join(self.blocks)} in float" if self.blocks else ""


@dataclass(frozen=True, slots=True)
class SweepChoice:
    """What a sweep chose for one head.

    Attributes:
        source: file it is from.
        float_size: bytes of the float network that was swept.
        plans: by runtime family.
    """

    source: Path
    float_size: int
    plans: Mapping[Runtime, Int8Plan]

    def check(self, head: str, model: bytes) -> None:
        """Refuses another network than the one that was swept.

        Raises:
            DataError: its size differs.
        """
        if len(model) != self.float_size:
            raise DataError(
                f"{self.source}: its {head} is a network of {self.float_size} bytes, this one has "
                f"{len(model)}; sweep this network"
            )


def plans_to_try(
    method: str, runtimes: Sequence[Runtime], chosen: SweepChoice | None
) -> list[Int8Plan]:
    """A sweep's choice where there is one, else the method asked for, or all with ``best``.

    Raises:
        DataError: the sweep chose nothing for a runtime family.
    """
    if chosen is None:
        wanted = [each for each in METHODS if method in (each, BEST)]
        return [Int8Plan(runtime, each) for each in wanted for runtime in runtimes]
    for runtime in runtimes:
        if runtime not in chosen.plans:
            raise DataError(
                f"{chosen.source}: nothing was chosen for {runtime}: sweep it, with labels to "
                "judge by, and loosen no gate"
            )
    return [chosen.plans[runtime] for runtime in runtimes]


def load_sweep(path: Path) -> dict[str, SweepChoice]:
    """The choices in a ``sweep.json``, by head.

    Raises:
        DataError: it cannot be read, is none, or was a trial.
    """
    try:
        heads = json.loads(path.read_bytes())["heads"]
        results = [SweepResult.model_validate(each) for each in heads]
    except OSError as error:
        raise DataError(f"sweep {path}: {error.strerror}; check --sweep") from error
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        raise DataError(
            f"sweep {path}: not what `leukoscope calibrate sweep` writes; give its sweep.json"
        ) from error
    for each in results:
        if each.trial:
            raise DataError(
                f"sweep {path}: of the {each.head} it was a trial (--pictures, --fields), which "
                "chooses nothing; sweep without them"
            )
    return {each.head: SweepChoice(path, each.float_size, _plans(each)) for each in results}


def _plans(result: SweepResult) -> dict[Runtime, Int8Plan]:
    measured = {candidate_name(each): each for each in result.by_loss}
    plans: dict[Runtime, Int8Plan] = {}
    for runtime in _RUNTIMES:
        found = measured.get(result.chosen.get(runtime, ""))
        method = None if found is None else _METHOD_OF.get(found.method)
        if found is not None and method is not None:
            plans[runtime] = Int8Plan(runtime, method, found.blocks)
    return plans


_RUNTIMES: tuple[Runtime, ...] = ("cpu", "tensorrt")
_METHOD_OF: dict[str, Method] = {method: method for method in METHODS}
