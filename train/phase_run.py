"""One phase of a training by ultralytics: its folder, its arguments, taking it up again.

Owns what every such phase is told. Does not own recipes nor the order of phases.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from edge_runtime.errors import DataError, SettingsError, StoreError
from train.attridet_recipe import Hyperparameters
from train.own_checkpoint import load_own_checkpoint, require_same_architecture
from train.run_folder import storing


class Scale(Protocol):
    """What a recipe says beside its hyperparameters."""

    @property
    def model(self) -> str:
        """Ultralytics' model file, or a local checkpoint."""
        ...

    @property
    def image_size(self) -> int:
        """Side of the network's input, pixels."""
        ...

    @property
    def batch(self) -> int:
        """Pictures per step."""
        ...

    @property
    def cache(self) -> Any:
        """Of ultralytics: where decoded pictures are kept."""
        ...

    @property
    def seed(self) -> int:
        """Of everything."""
        ...


@dataclass(frozen=True, slots=True)
class PhaseRun:
    """One phase's run of the trainer.

    Attributes:
        out: the run's folder.
        name: the phase's folder in it.
        device: as ultralytics takes it.
        workers: processes that load data.
        threads: of torch, on a processor.
        channels_last: convolutions in that order: the same numbers, less time on a processor.
    """

    out: Path
    name: str
    device: str
    workers: int
    threads: int
    channels_last: bool = False

    @property
    def weights(self) -> Path:
        """Folder of its checkpoints."""
        return self.out / self.name / "weights"

    @property
    def finished(self) -> bool:
        """Whether all its epochs are done."""
        return self._done.is_file()

    @property
    def last(self) -> Path:
        """The last checkpoint."""
        return self.weights / "last.pt"

    @property
    def best(self) -> Path:
        """The best checkpoint on validation pictures, or the last one."""
        best = self.weights / "best.pt"
        return best if best.is_file() else self.last

    @property
    def _done(self) -> Path:
        return self.out / self.name / "done"

    def beside(self, name: str) -> Path:
        """A file beside the phase's, by name; not in it, for multi-GPU runs empty that."""
        return self.out / f"{self.name}-{name}"

    def train(self, kind: Callable[..., Any], arguments: dict[str, Any], *, resume: bool) -> None:
        """All epochs, or those that are left.

        Args:
            kind: the trainer's class, or what makes one of ``overrides``.
            arguments: for a run from its beginning, see ``phase_arguments``.
            resume: take up an interrupted run.
        """
        if resume and self.last.is_file():
            # A disk that was full leaves half a file, of which ultralytics makes a traceback.
            load_own_checkpoint(self.last)
            arguments = {"resume": str(self.last)}
        else:
            arguments = {
                **arguments,
                "project": str(self.out.resolve()),
                "name": self.name,
                "exist_ok": True,
            }
        with self._in_one_line(arguments.get("batch")):
            trainer = kind(overrides={**arguments, "device": self.device, "workers": self.workers})
            # A multi-GPU run sends its callbacks to other processes: none there.
            if "," not in self.device:
                trainer.add_callback("on_pretrain_routine_end", self._tune)
            trainer.train()
            self._done.write_text("")

    @contextmanager
    def _in_one_line(self, batch: int | None) -> Iterator[None]:
        """Turns what a user can cause in the middle of a training into one line.

        Raises:
            DataError: files that went away.
            StoreError: a full disk.
            SettingsError: the device's memory is too small.
        """
        import torch

        place = self.out / self.name
        try:
            with storing(place):
                try:
                    yield
                except FileNotFoundError as error:
                    raise DataError(
                        f"{place}: a file went away while it was trained: {error}; put it back"
                    ) from error
        except DataError as error:
            raise DataError(f"{error}{self._kept()}") from error
        except StoreError as error:
            raise StoreError(f"{error}{self._kept()}") from error
        except torch.OutOfMemoryError as error:
            size = "" if batch is None else f" {batch}"
            raise SettingsError(
                f"{place}: device {self.device} has too little memory for batch{size}; "
                "take a smaller batch or image size"
            ) from error

    def _kept(self) -> str:
        try:
            load_own_checkpoint(self.last)
        except DataError:
            return ""
        return "; finished epochs are kept, go on with --resume"

    def _tune(self, running: Any) -> None:
        # Ultralytics leaves one core idle for loading data, and on a processor loads
        # in the same process.
        if running.device.type != "cpu":
            return
        import torch

        torch.set_num_threads(self.threads)
        if self.channels_last:
            running.model.to(memory_format=torch.channels_last)


def phase_arguments(
    recipe: Scale,
    hyp: Hyperparameters,
    *,
    data_yaml: Path,
    epochs: int,
    start: str | bool,
    overlap: float = 0.6,
) -> dict[str, Any]:
    """What goes to an ultralytics trainer for one phase.

    Args:
        recipe: the scale.
        hyp: of this phase.
        data_yaml: what is learnt from.
        epochs: so many.
        start: checkpoint whose weights to begin with; True: the model's own, False: none.
        overlap: in suppression while validating; the papers' authors use 0.6, ultralytics
            0.7.
    """
    return {
        **hyp.model_dump(),
        "model": recipe.model,
        "data": str(data_yaml),
        "epochs": epochs,
        "imgsz": recipe.image_size,
        "batch": recipe.batch,
        "cache": recipe.cache,
        "seed": recipe.seed,
        "deterministic": True,
        "pretrained": start,
        "plots": False,
        "iou": overlap,
    }


def check_start(model: str, start_from: str | None) -> None:
    """Refuses what ultralytics would try to download, and weights that fit badly.

    Args:
        model: an ultralytics model file, or a local checkpoint.
        start_from: local checkpoint of that very model whose weights to begin with.

    Raises:
        DataError: a missing or damaged checkpoint.
        SettingsError: no such model, or a checkpoint of another one.
    """
    from ultralytics.nn.tasks import DetectionModel, yaml_model_load

    wanted: Any = None
    if model.endswith(".pt"):
        wanted = load_own_checkpoint(Path(model))
    else:
        try:
            document = yaml_model_load(model)
        except (FileNotFoundError, OSError, ValueError, AttributeError) as error:
            raise SettingsError(f"model {model!r}: ultralytics has no such model") from error
    if start_from is not None:
        own = load_own_checkpoint(Path(start_from))
        wanted = wanted or DetectionModel(document, verbose=False)
        require_same_architecture(own, wanted, Path(start_from), model)
