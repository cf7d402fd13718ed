"""Checkpoints of ultralytics: looked through before they are loaded.

Owns which programs a checkpoint may name, and whether it is the network that is wanted. An
ultralytics checkpoint is a pickle of whole objects, so it cannot be read as plain weights;
what it would import is listed without running any of it, and anything else than network
classes is refused. That is a fence, not a proof: load your own checkpoints only.
"""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edge_runtime.errors import DataError, SettingsError

# Modules whose classes an ultralytics checkpoint is made of.
_CLASSES_OF = (
    "torch.nn.modules.",
    "torchvision.ops.",
    "ultralytics.nn.",
    "ultralytics.utils.loss.",
    "ultralytics.utils.tal.",
    "train.models.",
    "train.losses.",
    "edge_runtime.attributes.",
)
_NAMED = frozenset(
    {
        "ultralytics.utils.IterableSimpleNamespace",
        "torch.Size",
        "torch.device",
        "torch.serialization._get_layout",
        "collections.OrderedDict",
        "collections.defaultdict",
        "builtins.set",
        "builtins.dict",
        "builtins.slice",
        "types.SimpleNamespace",
        "datetime.datetime",
        "pathlib.Path",
        "pathlib.PosixPath",
        "pathlib.WindowsPath",
        "pathlib.PurePosixPath",
        "pathlib.PureWindowsPath",
        "pathlib._local.Path",
        "pathlib._local.PosixPath",
        "pathlib._local.WindowsPath",
        "copyreg._reconstructor",
        "builtins.object",
        "numpy.dtype",
        "numpy.ndarray",
        "numpy._core.multiarray.scalar",
        "numpy.core.multiarray.scalar",
        "numpy._core.multiarray._reconstruct",
        "numpy.core.multiarray._reconstruct",
    }
)


def load_own_checkpoint(file: Path) -> nn.Module:
    """A detector of ultralytics out of its checkpoint, float32, in eval mode.

    Raises:
        DataError: missing, damaged, no detector, or it would run something else than network
            classes.
    """
    if not file.is_file():
        raise DataError(f"checkpoint {file}: no such file; train one or mend the path")
    _look_through(file)
    from ultralytics.nn.tasks import DetectionModel, load_checkpoint

    try:
        loaded: Any = load_checkpoint(str(file))[0]
    except Exception as error:  # unpickling can fail in any way
        reason = " ".join(str(error).split())
        raise DataError(f"checkpoint {file}: not one of ultralytics ({reason})") from error
    head = type(loaded.model[-1]).__name__ if hasattr(loaded, "model") else "nothing"
    if not isinstance(loaded, DetectionModel) or head != "Detect":
        raise DataError(
            f"checkpoint {file}: {type(loaded).__name__} that ends in {head}, not a detector"
        )
    found: nn.Module = loaded.float().eval()
    return found


def _look_through(file: Path) -> None:
    try:
        named = torch.serialization.get_unsafe_globals_in_checkpoint(str(file))
    except (
        OSError,
        RuntimeError,
        ValueError,
        KeyError,
        EOFError,
        pickle.UnpicklingError,
        zipfile.BadZipFile,
    ) as error:
        raise DataError(f"checkpoint {file}: damaged, or not one of ultralytics") from error
    for name in named:
        if name not in _NAMED and not name.startswith(_CLASSES_OF):
            raise DataError(
                f"checkpoint {file}: would run {name}, which no network needs; it was not loaded"
            )


def require_same_architecture(
    theirs: nn.Module, wanted: nn.Module, file: Path, model_name: str
) -> None:
    """Refuses a checkpoint whose layers before the last are not those of a model.

    The last layer may differ: it depends on the number of classes.

    Raises:
        SettingsError: another architecture or size.
    """
    own, other = _body(wanted), _body(theirs)
    for name, shape in own.items():
        if other.get(name) != shape:
            has = "is missing" if name not in other else f"is {tuple(other[name])}"
            raise SettingsError(
                f"checkpoint {file}: another architecture than {model_name}: {name} {has}, "
                f"wanted {tuple(shape)}"
            )
    extra = sorted(set(other) - set(own))
    if extra:
        raise SettingsError(
            f"checkpoint {file}: another architecture than {model_name}: {extra[0]} is unknown"
        )


def _body(model: nn.Module) -> dict[str, torch.Size]:
    layers: Any = model.model
    return {
        f"model.{name}": tensor.shape
        for name, tensor in layers.state_dict().items()
        if int(name.split(".")[0]) < len(layers) - 1
    }
