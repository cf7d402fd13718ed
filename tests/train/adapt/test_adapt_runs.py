"""Both methods through ultralytics' trainer, and that no label of the target reaches it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("ultralytics")

from tests.train.adapt.adapt_support import train_tiny, write_domain  # noqa: E402
from tests.train.attributed_fields import CLASSES, SCHEMA, write_fields  # noqa: E402
from train.method_trainer import MethodAttriDetTrainer  # noqa: E402
from train.models.attridet import AttriDetModel  # noqa: E402
from train.step_loss import read_counts  # noqa: E402

pytestmark = [pytest.mark.train, pytest.mark.filterwarnings("ignore")]

TERM = {"confmix": "mixed_loss", "daca": "composite_loss"}
# An untrained network is sure of nothing; this lets its boxes through.
ANYTHING = {
    "confmix": {"confidence": 0.0, "gamma_confidence": 0.0},
    "daca": {"confidence": 0.0},
}


def weights(trainer: Any) -> dict[str, Any]:
    return {
        f"{kind}.{name}": value
        for kind, model in (("trained", trainer.model), ("averaged", trainer.ema.ema))
        for name, value in model.state_dict().items()
    }


@pytest.mark.parametrize("method", ["confmix", "daca"])
def test_label_files_of_the_target_change_nothing(tmp_path: Path, method: str) -> None:
    source = write_domain(tmp_path, "source", 4, None)
    ended = []
    # Real labels, and files that no reader of labels would survive.
    kinds = {
        "real": None,
        "broken": lambda number: "9 0.5 0.5 7 seven\n",
    }
    for kind, labels in kinds.items():
        target = write_domain(tmp_path / kind, "target", 4, labels, shade=180)
        run = train_tiny(
            source.parents[1], tmp_path / "out" / kind, method, target, options=ANYTHING[method]
        )
        dataset = run._stream._loader.dataset
        assert all(len(label["cls"]) == len(label["bboxes"]) == 0 for label in dataset.labels)
        assert all(len(dataset[index]["cls"]) == 0 for index in range(len(dataset)))
        counts = read_counts(Path(run.save_dir) / "method")
        assert counts[0].pop("seconds") > 0
        ended.append((weights(run), counts))
        assert counts[0]["timed_steps"] == 2
        assert counts[0]["target_boxes"] > 0
    (first, first_counts), (second, second_counts) = ended
    assert first_counts == second_counts
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("method", ["confmix", "daca"])
def test_pictures_and_counts_are_written_and_the_term_is_trained(
    tmp_path: Path, method: str
) -> None:
    source = write_domain(tmp_path, "source", 5, None).parents[1]
    target = write_domain(tmp_path, "target", 3, lambda number: "", shade=180)
    run = train_tiny(source, tmp_path / "with", method, target, options=ANYTHING[method])
    # That it has a gradient is shown step by step in test_adapt_steps.
    assert run.tloss[TERM[method]] > 0
    folder = Path(run.save_dir) / "method"
    assert [each["epoch"] for each in read_counts(folder)] == [0]
    assert read_counts(folder)[0]["pseudo_cell"] == read_counts(folder)[0]["target_boxes"]
    assert len(list(folder.glob("*.jpg"))) >= 2
    header = (Path(run.save_dir) / "results.csv").read_text().splitlines()[0]
    assert TERM[method] in header


@pytest.mark.parametrize("method", ["confmix", pytest.param("daca", marks=pytest.mark.slow)])
def test_the_attribute_head_learns_beside_both(tmp_path: Path, method: str) -> None:
    write_fields(tmp_path, "train", 3, size=64)
    target = write_domain(tmp_path / "other", "target", 3, None, shade=180)
    run = train_tiny(
        tmp_path,
        tmp_path / "out",
        method,
        target,
        options=ANYTHING[method],
        names=CLASSES,
        trainer=MethodAttriDetTrainer,
        extra={"attridet": {"attributes": SCHEMA.model_dump(mode="json")}},
    )
    assert isinstance(run.model, AttriDetModel)
    assert list(run.tloss)[-2:] == [TERM[method], "attr_loss"]
    assert all(value.isfinite() for value in run.tloss.values())
    assert run.tloss["attr_loss"] > 0
    assert read_counts(Path(run.save_dir) / "method")[0]["target_boxes"] > 0
