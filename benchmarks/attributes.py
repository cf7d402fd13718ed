"""Two questions about attributes: what does the head cost the detector, and is sharing worth it.

Owns the experiments' settings, their seeds and their documents. Does not own the trainings
(see ``train``) nor the table (see ``published``). Every seed leaves its own file, so an
interrupted experiment goes on with the next one.
"""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.folds import read_record
from benchmarks.machine import write_result
from calibration.attribute_metrics import AttributeMetrics, evaluate_on_labelled_boxes
from calibration.labelled_cells import LabelledCells
from edge_runtime.bundle import CropInputSpec, InputSpec
from edge_runtime.errors import DataError
from edge_runtime.preprocess import fit_window, tensor_of
from train.attridet_recipe import AttriDetRecipe, FieldsSpec
from train.attridet_run import train_attridet
from train.crop_attributes import judge_crop_attributes, train_crop_attributes
from train.datasets.cell_sources import CellSourceSpec, read_sources
from train.describe import DescribeRecipe, FrozenFeatures, train_attribute_head
from train.evaluate_attridet import judge_attridet
from train.models.attribute_head import AttriHead, chosen_values, logit_widths, pool_cells
from train.models.cell_classifier import NetworkSpec, load_weights
from train.own_checkpoint import load_own_checkpoint
from train.run_folder import RECIPE_NAME

Say = Callable[[str], None]
_DATASET = "pbc-attributes"
_CLASSES = (
    "neutrophil",
    "eosinophil",
    "basophil",
    "lymphocyte",
    "monocyte",
    "immature_granulocyte",
    "erythroblast",
)
_CROP = CropInputSpec(name="crops", width=96, height=96, scale=1 / 255, pad_value=114, margin=0.12)


@dataclass(frozen=True, slots=True)
class DetectionSettings:
    """Experiment (a): one detector with and one without the attribute head.

    Attributes:
        pictures: so many training pictures, drawn by seed.
        judged: so many test pictures at most, the same for every seed but for the draw.
        size: side of the input.
    """

    model: str = "yolo11n.yaml"
    pictures: int = 400
    judged: int = 400
    epochs: int = 8
    size: int = 192
    batch: int = 16

    def recipe(self, data: Path, seed: int, *, attributes: bool) -> AttriDetRecipe:
        """Of one training; the two of a seed differ in the head alone."""
        document = {
            "name": f"detection-{'with' if attributes else 'without'}-attributes",
            "purpose": "experiment: average precision with and without the attribute head",
            "data_root": str(data),
            "fields": FieldsSpec(
                dataset=_DATASET,
                path=_DATASET,
                most={"train": self.pictures, "val": 64, "test": self.judged},
            ),
            "model": self.model,
            "image_size": self.size,
            "batch": self.batch,
            # Few steps: the papers' rates need their hundreds of epochs.
            "hyp": {
                "optimizer": "AdamW",
                "lr0": 0.002,
                "momentum": 0.9,
                "warmup_epochs": 0.5,
                "mosaic": 0.5,
                "mixup": 0.0,
                "close_mosaic": 1,
            },
            "phases": [{"epochs": self.epochs}],
            "seed": seed,
        }
        return AttriDetRecipe.model_validate(
            document if attributes else {**document, "attributes": False}
        )


@dataclass(frozen=True, slots=True)
class HeadSettings:
    """Experiment (b): a head on the frozen detector's features, and a crop network.

    Attributes:
        cells: so many training cells, drawn by seed.
        judged: so many test cells at most.
        rounds: of the measurement of time.
    """

    cells: int = 1000
    judged: int = 500
    epochs: int = 8
    batch: int = 32
    architecture: str = "resnet10t"
    channels: tuple[int, ...] = (32, 64, 128, 256)
    rounds: int = 40

    def recipe(self, data: Path, detector: Path, seed: int) -> DescribeRecipe:
        """Of the head; the crop network takes its epochs, batch and rates."""
        return DescribeRecipe(
            name="shared-head",
            purpose="experiment: head on shared features against a crop network",
            data_root=str(data),
            sources=(CellSourceSpec(dataset=_DATASET, path=_DATASET),),
            classes=_CLASSES,
            detector=str(detector),
            convolutions=(64, 64, 64),
            epochs=self.epochs,
            batch=self.batch,
            # An average over 500 steps would hold the random start of a short run.
            ema=0.98,
            seed=seed,
        )

    @property
    def network(self) -> NetworkSpec:
        """The crop network."""
        return NetworkSpec(
            architecture=self.architecture, args={"channels": list(self.channels)}, dropout=0.1
        )


def run_detection(
    settings: DetectionSettings,
    seeds: tuple[int, ...],
    data: Path,
    work: Path,
    *,
    facts: dict[str, Any],
    device: str = "cpu",
    say: Say = lambda line: None,
) -> dict[str, Any]:
    """Experiment (a): detection with and without the head, per seed and over seeds.

    Args:
        settings: of every training.
        seeds: one pair of trainings each; finished ones are read, not repeated.
        data: data root.
        work: a folder per seed.
        facts: machine and date, kept beside each seed's figures.
        device: as training takes it.
        say: told what is going on.

    Raises:
        DataError: missing or bad data.
    """
    rows = {}
    for seed in seeds:
        place = work / f"detection-seed{seed}"

        def one(seed: int = seed, place: Path = place) -> dict[str, Any]:
            row = {}
            for name, attributes in (("without", False), ("with", True)):
                say(f"seed {seed}: detector {name} the attribute head")
                recipe = settings.recipe(data, seed, attributes=attributes)
                started = time.monotonic()
                # An earlier start may have been stopped in the middle.
                begun = (place / name / RECIPE_NAME).is_file()
                best = train_attridet(recipe, place / name, device=device, workers=0, resume=begun)
                minutes = round((time.monotonic() - started) / 60, 2)
                judged = judge_attridet(recipe, best, "test", device=device)
                oracle = judged.rule("oracle")
                row[name] = {
                    "ap": round(judged.detection.ap, 4),
                    "ap50": round(judged.detection.ap50, 4),
                    "classes": {x.name: x.ap for x in judged.detection.classes},
                    "attribute_macro_f1": None if oracle is None else oracle.mean_macro_f1,
                    "minutes_of_training": minutes,
                }
            return row

        rows[str(seed)] = _once(place, asdict(settings), facts, one)
    return {
        "data_set": f"{_DATASET}, {len(_CLASSES)} classes, test split",
        "settings": asdict(settings),
        "seeds": rows,
        "summary": {
            name: {key: spread([row[name][key] for row in rows.values()]) for key in ("ap", "ap50")}
            for name in ("without", "with")
        }
        | {
            "difference": {
                key: spread([row["with"][key] - row["without"][key] for row in rows.values()])
                for key in ("ap", "ap50")
            }
        },
    }


def run_heads(
    settings: HeadSettings,
    seeds: tuple[int, ...],
    data: Path,
    detector: Path,
    work: Path,
    *,
    facts: dict[str, Any],
    say: Say = lambda line: None,
) -> dict[str, Any]:
    """Experiment (b): shared head against crop network, with what each cell costs.

    Args:
        settings: of every training.
        seeds: one pair of trainings each; finished ones are read, not repeated.
        data: data root.
        detector: own checkpoint whose features the head reads.
        work: a folder per seed.
        facts: machine and date, kept beside each seed's figures.
        say: told what is going on.

    Raises:
        DataError: missing or bad data, or no checkpoint.
    """
    rows = {}
    for seed in seeds:
        place = work / f"heads-seed{seed}"

        def one(seed: int = seed, place: Path = place) -> dict[str, Any]:
            return _heads_of_seed(settings, seed, data, detector, place, say)

        rows[str(seed)] = _once(place, asdict(settings), facts, one)
    names = ("shared_head", "crop_network")
    return {
        "data_set": f"{_DATASET}, labelled boxes of the test split",
        "settings": asdict(settings),
        "seeds": rows,
        "summary": {
            name: {"macro_f1": spread([row[name]["macro_f1"] for row in rows.values()])}
            for name in names
        }
        | {
            "difference": {
                "macro_f1": spread(
                    [row[names[0]]["macro_f1"] - row[names[1]]["macro_f1"] for row in rows.values()]
                )
            }
        },
        # Costs hang on no seed; the first one's are shown.
        "cost": {name: rows[str(seeds[0])][name]["cost"] for name in names}
        | {"time_ratio": rows[str(seeds[0])]["time_ratio"]},
    }


def spread(values: list[float]) -> dict[str, float | None]:
    """Mean and sample standard deviation; of one value the latter is None."""
    sd = statistics.stdev(values) if len(values) > 1 else None
    return {
        "mean": round(statistics.fmean(values), 4),
        "sd": None if sd is None else round(sd, 4),
    }


def _once(
    place: Path, settings: Mapping[str, Any], facts: dict[str, Any], run: Callable[[], Any]
) -> dict[str, Any]:
    """A seed's figures: those that lie there if they are of these very settings."""
    file = place / "seed.json"
    known = read_record(file)
    # Through JSON tuples become lists.
    wanted = {k: list(v) if isinstance(v, tuple) else v for k, v in settings.items()}
    if known.get("settings") == wanted:
        figures: dict[str, Any] = known["figures"]
        return figures
    found: dict[str, Any] = run()
    write_result(file, "one seed", facts, {"settings": wanted, "figures": found})
    return found


def _heads_of_seed(
    settings: HeadSettings, seed: int, data: Path, detector: Path, place: Path, say: Say
) -> dict[str, Any]:
    recipe = settings.recipe(data, detector, seed)
    every = read_sources(recipe.sources, data, recipe.classes, name=_DATASET, with_attributes=True)
    cells = fewer_cells(every, {"train": settings.cells, "test": settings.judged}, seed)
    say(f"seed {seed}: head on shared features")
    started = time.monotonic()
    folder = place / "head"
    # A half-finished head begins anew: its folder may be of other settings.
    shutil.rmtree(folder, ignore_errors=True)
    weights = load_weights(train_attribute_head(recipe, folder, cells=cells, say=say))
    head_minutes = (time.monotonic() - started) / 60
    features = FrozenFeatures(load_own_checkpoint(detector), tuple(weights["layers"]))
    widths = logit_widths(_schema_of(cells))
    head = AttriHead(
        sum(tap.channels for tap in features.taps), sum(widths), 0.0, recipe.convolutions
    )
    head.load_state_dict(weights["state"])
    head.eval()
    say(f"seed {seed}: network of its own on crops")
    started = time.monotonic()
    network = train_crop_attributes(recipe, cells, settings.network, _CROP, say=say)
    crop_minutes = (time.monotonic() - started) / 60
    shared = judge_shared_head(features, head, cells, data, recipe.input_size)
    own = judge_crop_attributes(network, cells, "test", data, _CROP)
    pooled, crop = _one_cell(features, recipe.input_size)
    times = _interleaved(
        {
            "shared_head": lambda: head(pooled()),
            "crop_network": lambda: network(crop),
        },
        settings.rounds,
    )
    return {
        "shared_head": {
            **_figures(shared),
            "minutes_of_training": round(head_minutes, 2),
            "cost": _cost(head, pooled(), times["shared_head"])
            | {"beside": "pooling is in the time; the feature maps are the detector's own"},
        },
        "crop_network": {
            **_figures(own),
            "minutes_of_training": round(crop_minutes, 2),
            "cost": _cost(network, crop, times["crop_network"])
            | {"beside": "cutting and resizing the crop is not in the time"},
        },
        "time_ratio": round(times["crop_network"] / times["shared_head"], 3),
    }


def fewer_cells(cells: LabelledCells, most: Mapping[str, int], seed: int) -> LabelledCells:
    """The same record with at most so many pictures of some splits, drawn by seed."""
    kept = []
    for split in ("train", "val", "test"):
        pictures = cells.of_split(split)
        limit = most.get(split, len(pictures))
        order = np.random.default_rng([seed, *split.encode()]).permutation(len(pictures))
        kept += [pictures[i] for i in sorted(order[:limit])]
    return cells.model_copy(update={"pictures": tuple(kept)})


def judge_shared_head(
    features: FrozenFeatures, head: nn.Module, cells: LabelledCells, root: Path, size: int
) -> AttributeMetrics:
    """Agreement on the labelled boxes of the test split, pictures fitted as on a device.

    Raises:
        DataError: no test cell with an attribute.
    """
    spec = InputSpec(name="images", width=size, height=size, scale=1 / 255, pad_value=114)
    strides = [tap.stride for tap in features.taps]
    schema = _schema_of(cells)
    truth, predicted = [], []
    for picture, number in cells.attributed("test"):
        pixels = picture.read(root)
        height, width = pixels.shape[:2]
        window = fit_window(width, height, spec)
        box = window.to_input(picture.boxes_xyxy(width, height)[number : number + 1])
        with torch.no_grad():
            maps = features(torch.from_numpy(tensor_of(pixels, window, spec)))
            logits = head(pool_cells(maps, strides, torch.from_numpy(box), torch.zeros(1)))
        predicted.append(chosen_values(logits, logit_widths(schema))[0].numpy())
        truth.append(picture.cells[number].attributes)
    if not truth:
        raise DataError(f"{cells.name}: no test cell with an attribute; check the data")
    return evaluate_on_labelled_boxes(schema, np.array(truth, np.int64), np.concatenate(predicted))


def multiplications(network: nn.Module, tensor: Tensor) -> int:
    """Multiply-accumulates of convolutions and linear layers in one forward pass."""
    total = 0

    def count(module: nn.Module, _inputs: Any, output: Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Conv2d):
            kernel = module.weight.shape[2] * module.weight.shape[3]
            total += output.numel() * module.weight.shape[1] * kernel
        elif isinstance(module, nn.Linear):
            total += output.numel() * module.in_features

    handles = [
        module.register_forward_hook(count)
        for module in network.modules()
        if isinstance(module, (nn.Conv2d, nn.Linear))
    ]
    try:
        with torch.no_grad():
            network(tensor)
    finally:
        for handle in handles:
            handle.remove()
    return total


def _cost(network: nn.Module, tensor: Tensor, ms: float) -> dict[str, Any]:
    return {
        "macs_per_cell": multiplications(network, tensor),
        "parameters": sum(each.numel() for each in network.parameters()),
        "median_ms_per_cell": round(ms, 3),
    }


def _one_cell(features: FrozenFeatures, size: int) -> tuple[Callable[[], Tensor], Tensor]:
    """Pooling of one cell from maps that are already there, and one crop."""
    rng = np.random.default_rng(0)
    with torch.no_grad():
        picture = torch.from_numpy(rng.random((1, 3, size, size), np.float32))
        maps = features(picture)
    strides = [tap.stride for tap in features.taps]
    box = torch.tensor([[size / 4, size / 4, size / 2, size / 2]])

    def pooled() -> Tensor:
        return pool_cells(maps, strides, box, torch.zeros(1))

    crop = torch.from_numpy(rng.random((1, 3, _CROP.height, _CROP.width), np.float32))
    return pooled, crop


def _interleaved(calls: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median milliseconds of each call, all of them in turn in every round."""
    spent: dict[str, list[float]] = {name: [] for name in calls}
    with torch.no_grad():
        for number in range(rounds + 3):
            for name, call in calls.items():
                started = time.perf_counter()
                call()
                # The first ones pay for what is set up once.
                if number >= 3:
                    spent[name].append(1000 * (time.perf_counter() - started))
    return {name: statistics.median(each) for name, each in spent.items()}


def _figures(metrics: AttributeMetrics) -> dict[str, Any]:
    return {
        "macro_f1": round(metrics.mean_macro_f1 or 0.0, 4),
        "attributes": {each.name: each.macro_f1 for each in metrics.attributes},
        "majority": {each.name: each.majority_macro_f1 for each in metrics.attributes},
    }


def _schema_of(cells: LabelledCells) -> Any:
    if cells.attributes is None:
        raise DataError(f"{cells.name}: its cells have no attributes")
    return cells.attributes
