"""What every activation of a float graph did on the calibration set, kept as histograms.

Owns running the float graph with its inner tensors put out, and counting. Does not own which
pictures (see ``sampling``) nor the range made of a histogram (see ``ranges``).

Statistics are kept per tensor, never the activations themselves, so memory does not grow with
the number of pictures: extremes in a first pass, counts between them in a second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import DataError
from edge_runtime.types import Float32Array

# Input tensors of one call: of a model with one input, or by name.
Feed = Float32Array | Mapping[str, Float32Array]
# Called once per pass; each time all calibration tensors.
Feeds = Callable[[], Iterable[Feed]]
# Fine enough that 256 levels can be laid into it with a tenth of a level's error.
BINS = 2048


@dataclass(frozen=True, slots=True)
class TensorHistogram:
    """Values of one activation over all pictures.

    Attributes:
        low, high: extremes.
        counts: int64 ``(BINS,)`` over equal parts of low to high; all 0 for a constant
            activation, or when only extremes were asked for.
    """

    low: float
    high: float
    counts: NDArray[np.int64]

    @property
    def centres(self) -> NDArray[np.float64]:
        """Middle of every bin, ``(BINS,)``."""
        width = (self.high - self.low) / BINS
        return np.asarray(self.low + width * (np.arange(BINS) + 0.5), np.float64)


def observe(
    model: bytes, tensor_names: Sequence[str], tensors: Feeds, *, count: bool = True
) -> dict[str, TensorHistogram]:
    """Runs the float graph over the calibration tensors.

    Args:
        model: float ONNX bytes.
        tensor_names: activations wanted.
        tensors: called once for the extremes, and again to count.
        count: False leaves the second pass out.

    Raises:
        DataError: no tensor was given, or an activation is not finite.
    """
    run = open_activations(model, tensor_names)
    lowest = np.full(len(tensor_names), np.inf)
    highest = np.full(len(tensor_names), -np.inf)
    seen = 0
    for feed in tensors():
        seen += 1
        for index, values in enumerate(run(feed)):
            lowest[index] = np.minimum(lowest[index], values.min(initial=np.inf))
            highest[index] = np.maximum(highest[index], values.max(initial=-np.inf))
    if seen == 0:
        raise DataError("no calibration data: int8 ranges are measured and never assumed")
    for name, low, high in zip(tensor_names, lowest, highest, strict=True):
        if not (np.isfinite(low) and np.isfinite(high)):
            raise DataError(
                f"calibration: activation {name!r} has no finite range ({low} to {high}); "
                "the checkpoint is damaged, train again"
            )
    histograms = [
        TensorHistogram(low, high, np.zeros(BINS, np.int64))
        for low, high in zip(lowest.tolist(), highest.tolist(), strict=True)
    ]
    if count:
        for feed in tensors():
            for histogram, values in zip(histograms, run(feed), strict=True):
                _count(histogram, values)
    return dict(zip(tensor_names, histograms, strict=True))


def open_activations(
    model: bytes, tensor_names: Sequence[str]
) -> Callable[[Feed], list[Float32Array]]:
    """A function from input tensors to the named tensors of a graph, in that order.

    Both raise DataError where ONNX Runtime refuses the graph or the input.
    """
    import onnx
    import onnxruntime

    graph = onnx.load_from_string(model)
    inputs = [each.name for each in graph.graph.input]
    # A name may stand twice; the graph puts each tensor out once.
    inner = [name for name in dict.fromkeys(tensor_names) if name not in inputs]
    del graph.graph.output[:]
    graph.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in inner
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    # Of inputs alone there is nothing to run, and a graph without outputs is none.
    session = None
    if inner:
        with _said_as_one_line():
            session = onnxruntime.InferenceSession(
                graph.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )

    def run(feed: Feed) -> list[Float32Array]:
        values = dict(feed) if isinstance(feed, Mapping) else {inputs[0]: feed}
        if session is not None:
            with _said_as_one_line():
                found = session.run(inner, dict(values))
            values |= dict(zip(inner, found, strict=True))
        return [values[name] for name in tensor_names]

    return run


@contextmanager
def _said_as_one_line() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # ONNX Runtime raises its own unrelated classes
        reason = " ".join(str(error).split())
        raise DataError(
            f"calibration: the model does not run on these pictures ({reason}); give the float "
            "model that they were drawn for"
        ) from error


def _count(histogram: TensorHistogram, values: Float32Array) -> None:
    if histogram.high <= histogram.low:
        return
    # Scaling by hand: a third of the time of numpy.histogram on millions of values.
    factor = (BINS - 1e-3) / (histogram.high - histogram.low)
    bins = ((values.ravel() - np.float32(histogram.low)) * np.float32(factor)).astype(np.int32)
    np.clip(bins, 0, BINS - 1, out=bins)
    counts = histogram.counts
    counts += np.bincount(bins, minlength=BINS)
