"""Times of networks on devices nobody here has: a roofline with fitted factors, and its error.

Owns the estimate, the fit and the error on networks that were left out of it. Does not own counts
(see ``roofline_graph``) nor peaks (see ``roofline_devices``).

A kernel takes at least the larger of operations by peak rate and bytes by peak bandwidth. The sum
over kernels is the ideal time. A device reaches a share of it, the efficiency, and pays for every
kernel; both are fitted to published times by least squares of the relative error:

    time = ideal / efficiency + kernels * seconds a kernel
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from benchmarks.roofline_devices import DEVICES, PUBLISHED, Device, Precision, PublishedTimes
from benchmarks.roofline_graph import Kernel
from edge_runtime.errors import DataError

_BYTES: Mapping[Precision, int] = {"float32": 4, "float16": 2, "int8": 1}
# With fewer networks than this, two factors would fit anything.
_ENOUGH_FOR_TWO = 3


@dataclass(frozen=True, slots=True)
class Ideal:
    """Lower bound of one network on one device.

    Attributes:
        memory_share: of the time, in kernels that wait for memory.
    """

    seconds: float
    kernels: int
    memory_share: float


@dataclass(frozen=True, slots=True)
class Fit:
    """Factors of a family of devices at one precision.

    Attributes:
        worst_error: largest relative error on a network that was left out of the fit.
        mean_error: mean of their absolute values.
        networks: how many it was fitted to.
        least_ideal_s: ideal time of the smallest of them.
        most_ideal_s: of the largest.
    """

    family: str
    precision: Precision
    runtime: str
    efficiency: float
    seconds_a_kernel: float
    worst_error: float
    mean_error: float
    networks: int
    least_ideal_s: float
    most_ideal_s: float

    def seconds(self, ideal: Ideal) -> float:
        """What the network takes."""
        return ideal.seconds / self.efficiency + ideal.kernels * self.seconds_a_kernel


def ideal_of(kernels: Sequence[Kernel], device: Device, *, all_int8: bool | None = None) -> Ideal:
    """The roofline itself.

    Args:
        kernels: of the network.
        device: with its peaks.
        all_int8: every kernel with multiplications runs in int8 (True) or none (False); None: as
            the graph's Q/DQ pairs say.
    """
    total = waiting = 0.0
    for kernel in kernels:
        int8 = kernel.int8 if all_int8 is None else all_int8 and kernel.macs > 0
        rate = device.operations["int8" if int8 else device.floats]
        wide, narrow = kernel.float_elements, kernel.int8_elements
        if all_int8 is not None:
            wide, narrow = (0, wide + narrow) if int8 else (wide + narrow, 0)
        moved = wide * _BYTES[device.floats] + narrow * _BYTES["int8"]
        computing, moving = 2 * kernel.macs / rate, moved / device.bytes_per_s
        total += max(computing, moving)
        waiting += moving if moving > computing else 0.0
    return Ideal(total, len(kernels), waiting / total if total else 0.0)


def fit_factors(networks: Mapping[str, Sequence[Kernel]], published: PublishedTimes) -> Fit:
    """Fits to all networks, and tells the error on each when it is left out.

    Raises:
        DataError: fewer than two of the published networks are given.
    """
    names = [name for name in published.milliseconds if name in networks]
    if len(names) < 2:
        raise DataError(
            f"published times of {published.device}: {len(names)} of its networks given, two needed"
        )
    device = DEVICES[published.device]
    ideals = {
        name: ideal_of(networks[name], device, all_int8=published.precision == "int8")
        for name in names
    }
    times = {name: published.milliseconds[name] / 1000 for name in names}
    efficiency, per_kernel = _least_squares(ideals, times)
    errors = left_out_errors(ideals, times)
    return Fit(
        family=device.family,
        precision=published.precision,
        runtime=published.runtime,
        efficiency=efficiency,
        seconds_a_kernel=per_kernel,
        worst_error=max(abs(error) for error in errors.values()),
        mean_error=float(np.mean([abs(error) for error in errors.values()])),
        networks=len(names),
        least_ideal_s=min(each.seconds for each in ideals.values()),
        most_ideal_s=max(each.seconds for each in ideals.values()),
    )


def left_out_errors(
    ideals: Mapping[str, Ideal], times: Mapping[str, float], *, two: bool | None = None
) -> dict[str, float]:
    """Relative error on each network, with factors fitted to the others.

    Args:
        ideals: by network.
        times: measured seconds by network.
        two: both factors (True) or the efficiency alone (False); None: both where there are enough.
    """
    found = {}
    for name in ideals:
        rest = {other: ideal for other, ideal in ideals.items() if other != name}
        efficiency, per_kernel = _least_squares(rest, times, two=two)
        ideal = ideals[name]
        estimate = ideal.seconds / efficiency + ideal.kernels * per_kernel
        found[name] = estimate / times[name] - 1
    return found


def _least_squares(
    ideals: Mapping[str, Ideal], times: Mapping[str, float], *, two: bool | None = None
) -> tuple[float, float]:
    """Efficiency and seconds a kernel with the least relative error."""
    measured = np.array([times[name] for name in ideals])
    ideal = np.array([each.seconds for each in ideals.values()]) / measured
    count = np.array([each.kernels for each in ideals.values()]) / measured
    ones = np.ones(len(measured))
    if len(measured) >= _ENOUGH_FOR_TWO if two is None else two:
        factors = np.linalg.lstsq(np.stack([ideal, count], axis=1), ones, rcond=None)[0]
        if factors.min() > 0:
            return float(1 / factors[0]), float(factors[1])
    return float((ideal @ ideal) / (ideal @ ones)), 0.0


def measure_roofline(networks: Mapping[str, Sequence[Kernel]]) -> dict[str, Any]:
    """Fits and checks against everything that is published.

    Args:
        networks: kernels of the published networks, by name.

    Returns:
        ``networks``, ``devices``, ``fits`` and ``checks``, as in the result file.
    """
    fits = [fit_factors(networks, each) for each in PUBLISHED if each.fits]
    return {
        "networks": {
            name: {
                "gflop": round(2 * sum(each.macs for each in kernels) / 1e9, 3),
                "million_values_moved": round(
                    sum(each.float_elements + each.int8_elements for each in kernels) / 1e6, 2
                ),
                "kernels": len(kernels),
            }
            for name, kernels in networks.items()
        },
        "devices": {
            device.name: {
                "title": device.title,
                "family": device.family,
                "tera_operations_per_s": {
                    name: round(rate / 1e12, 4) for name, rate in device.operations.items()
                },
                "gb_per_s": round(device.bytes_per_s / 1e9, 1),
                "sources": list(device.sources),
            }
            for device in DEVICES.values()
        },
        "fits": [{key: _short(value) for key, value in asdict(fit).items()} for fit in fits],
        "checks": [_check(networks, each, fits) for each in PUBLISHED],
    }


def _check(
    networks: Mapping[str, Sequence[Kernel]], published: PublishedTimes, fits: Sequence[Fit]
) -> dict[str, Any]:
    device = DEVICES[published.device]
    names = [name for name in published.milliseconds if name in networks]
    all_int8 = published.precision == "int8"
    ideals = {name: ideal_of(networks[name], device, all_int8=all_int8) for name in names}
    times = {name: published.milliseconds[name] / 1000 for name in names}
    fit = fit_for(fits, device, int8=all_int8)
    if published.fits:
        errors = left_out_errors(ideals, times)
    else:
        errors = {name: fit.seconds(ideals[name]) / times[name] - 1 for name in names}
    alone = left_out_errors(ideals, times, two=False)
    return {
        "device": device.name,
        "precision": published.precision,
        "runtime": published.runtime,
        "source": published.source,
        "estimated": "each network with factors fitted to the others"
        if published.fits
        else f"factors of another device ({fit.family}); none of these rows was used",
        "rows": [
            {
                "network": name,
                "published_ms": published.milliseconds[name],
                "ideal_ms": round(ideals[name].seconds * 1000, 3),
                "estimated_ms": round((1 + errors[name]) * times[name] * 1000, 3),
                "error": round(errors[name], 4),
                "error_of_efficiency_alone": round(alone[name], 4),
                "memory_share": round(ideals[name].memory_share, 3),
            }
            for name in names
        ],
        "worst_error": round(max(abs(error) for error in errors.values()), 4),
    }


def fit_for(fits: Sequence[Fit], device: Device, *, int8: bool) -> Fit:
    """The fit of the device's family: of int8 where that was published, else of its floats."""
    own = [fit for fit in fits if fit.family == device.family]
    if not own:
        raise DataError(f"device {device.name}: nothing was fitted for {device.family}")
    exact = [fit for fit in own if (fit.precision == "int8") == int8]
    return (exact or own)[0]


def estimate(kernels: Sequence[Kernel], device: Device, fits: Sequence[Fit]) -> dict[str, Any]:
    """One network, quantised as its graph says, on one device.

    Returns:
        Ideal and estimated milliseconds with a range, and in ``checked`` in words what it rests on.
        The range is the fit's worst error. Of a network smaller than all that were fitted to, most
        of the time is the cost of kernels, which nobody measured there: its range begins where
        kernels cost nothing.
    """
    int8 = 2 * sum(each.macs for each in kernels if each.int8) > sum(each.macs for each in kernels)
    ideal, fit = ideal_of(kernels, device), fit_for(fits, device, int8=int8)
    seconds = fit.seconds(ideal)
    own = any(
        each.device == device.name and (each.precision == "int8") == int8 for each in PUBLISHED
    )
    if own:
        checked = "published times of this device at this precision"
    elif (fit.precision == "int8") == int8:
        checked = f"published times of a relative ({fit.family}) at this precision; not of this one"
    else:
        checked = f"published times at {fit.precision} only; nothing at this precision"
    inside = fit.least_ideal_s <= ideal.seconds <= fit.most_ideal_s
    least = seconds if inside else ideal.seconds / fit.efficiency
    if not inside:
        size = "smaller" if ideal.seconds < fit.least_ideal_s else "larger"
        checked += f"; {size} than any network there"
    return {
        "device": device.name,
        "precision": "int8" if int8 else device.floats,
        "ideal_ms": round(ideal.seconds * 1000, 4),
        "estimated_ms": round(seconds * 1000, 3),
        "low_ms": round(least * 1000 * (1 - min(fit.worst_error, 0.95)), 3),
        "high_ms": round(seconds * 1000 * (1 + fit.worst_error), 3),
        "memory_share": round(ideal.memory_share, 3),
        "kernels": ideal.kernels,
        "checked": checked,
    }


def fits_of(document: Mapping[str, Any]) -> list[Fit]:
    """The fits of a result file.

    Raises:
        DataError: it is none of ``bench roofline``.
    """
    try:
        return [Fit(**each) for each in document["fits"]]
    except (KeyError, TypeError) as error:
        raise DataError(
            "factors: no result of bench roofline; run it without --model first"
        ) from error


def _short(value: Any) -> Any:
    return float(f"{value:.6g}") if isinstance(value, float) else value
