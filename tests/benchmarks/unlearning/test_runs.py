"""Runs of the sequential, interactions and items protocols, and failed runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from benchmarks.unlearning.benchmark import Benchmark, Options
from benchmarks.unlearning.measures import sample_margins
from benchmarks.unlearning.plan import make_plan
from benchmarks.unlearning.report import failures, markdown_table
from benchmarks.unlearning.results import RETRAIN
from benchmarks.unlearning.runs import release
from benchmarks.unlearning.setting import Setting, load_root, read_json
from benchmarks.unlearning.units import Unit
from models.backbones.compact import CompactConfig
from models.training.step import DivergedError
from models.training.trainer import TrainConfig
from models.unlearning.base import Unlearned
from models.unlearning.registry import get_method
from tests.support.interaction_tables import planted_interactions

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

SMALL = TrainConfig(
    backbone=CompactConfig(hidden_size=16, layers=1, heads=2, intermediate_size=16),
    learning_rate=1e-2,
    epochs=1,
    validations=0,
)


def run_comparison(out: Path, protocol: str) -> tuple[Benchmark, list[Unit], dict[str, Any]]:
    """Compare e2urec-fast with Original in this process."""
    setting = Setting(
        data=planted_interactions(users=60),
        protocol=protocol,
        forget_seed=0,
        recipe=SMALL,
        out=out,
    )
    options = Options(
        data=out,
        out=out,
        protocol=protocol,
        methods=("original", "e2urec-fast"),
        seeds=1,
        shadows=1,
        retrain_runs=4,
    )
    benchmark = Benchmark(options=options, setting=setting, plan=make_plan(setting))
    units = benchmark.units()
    for unit in units:
        assert not unit.is_finished(setting)
        unit.make(setting, lambda _: None)
        assert unit.is_finished(setting)
    return benchmark, units, {**benchmark.description(), **benchmark.compare(units)}


def test_sequential_run_has_figures_per_batch(tmp_path: Path) -> None:
    _, _, results = run_comparison(tmp_path, "sequential")
    rows = results["data"]["rows"]
    assert 1 < rows["batches"] == rows["users_forgotten"]
    batches_by_method = {run["method"]: run.get("batches") for run in results["runs"]}
    assert batches_by_method[RETRAIN] is None  # Retrain is independent of earlier batches.
    for run in results["runs"]:
        if run["method"] != RETRAIN:
            batches = run["batches"]
            assert [batch["users"] for batch in batches] == [1] * rows["batches"]
            assert batches[-1]["rows"] == rows["forget"]
            assert batches[-1]["jsd"] == pytest.approx(run["jsd"])
            assert batches[-1]["forget_loss"] == pytest.approx(run["forget_loss"])
            assert run["seconds"] == pytest.approx(np.mean([batch["seconds"] for batch in batches]))
    assert f"Seconds are per batch, of {rows['batches']}." in markdown_table(results)


def test_single_users_are_measured_on_their_own_releases(tmp_path: Path) -> None:
    benchmark, _, results = run_comparison(tmp_path, "single-user")
    people = results["data"]["rows"]["batches"]
    assert people > 1
    rows = results["data"]["rows"]["forget"]
    for run in results["runs"]:
        assert len(run["per_user"]["jsd"]) == people
        assert run.get("batches") is None
        path = benchmark.setting.run_path(run["method"], run["seed"])
        with np.load(path.with_suffix(".npz")) as saved:
            assert np.isfinite(saved["forget_margins"]).all()
            assert np.isfinite(saved["test_margins"]).all()
            assert len(saved["forget_margins"]) == rows
        assert 0 <= run["exposure_person"] <= 1
    # Original is the same release for all people, so its answers are those of the first release.
    setting = benchmark.setting
    original, _ = load_root(setting, get_method("original"), 0)
    expected = sample_margins(original, setting.case.batch.forget, setting.case.data)
    assert benchmark.margins("original", 0).forget == pytest.approx(expected)
    retrained = benchmark.margins(RETRAIN, 0).forget
    assert not np.allclose(retrained, expected)


@pytest.mark.parametrize("protocol", ["interactions", "items"])
def test_runs_forget_single_ratings_and_items(protocol: str, tmp_path: Path) -> None:
    benchmark, _, results = run_comparison(tmp_path, protocol)
    assert results["data"]["rows"][f"{protocol}_forgotten"] >= 1
    # All methods have the same test rows, none of them about forgotten data.
    rows = len(benchmark.setting.case.batch.parts.test)
    for run in results["runs"]:
        path = benchmark.setting.run_path(run["method"], run["seed"])
        with np.load(path.with_suffix(".npz")) as saved:
            assert len(saved["test_margins"]) == rows
        assert run["jsd"] is not None
        assert 0 <= run["exposure_others"] <= 1
        assert (run["exposure_person"] is None) == (protocol == "items")


def test_failed_run_is_in_the_results_and_the_table(tmp_path: Path) -> None:
    benchmark, units, whole = run_comparison(tmp_path, "paper")
    units[-1].save_failure(benchmark.setting, "The loss became NaN or infinite.")
    results = {**benchmark.description(), **benchmark.compare(units)}
    assert len(results["runs"]) == len(whole["runs"])
    failed = results["runs"][-1]
    assert failed["error"] == "The loss became NaN or infinite."
    assert failed["data_sha256"] == whole["plan"]["data_sha256"]
    assert "e2urec-fast" not in results["summary"]
    assert results["noise_floor"] == whole["noise_floor"]
    table = markdown_table(results)
    assert "| e2urec-fast | – |" in table
    assert "| failed |" in table
    assert failures(results) == ["e2urec-fast seed 0 failed: The loss became NaN or infinite."]
    assert f"- {failures(results)[0]}" in table


def test_nan_margins_raise_diverged_error(tmp_path: Path) -> None:
    setting = Setting(
        data=planted_interactions(users=60),
        protocol="items",
        forget_seed=0,
        recipe=SMALL,
        out=tmp_path,
    )
    method, case = get_method("original"), setting.case
    Unit(kind="root", method="original", seed=0).make(setting, lambda _: None)
    original, seconds = load_root(setting, method, 0)
    assert seconds > 0
    with torch.no_grad():
        for parameter in original.model.parameters():
            parameter.fill_(torch.nan)
    with pytest.raises(DivergedError):
        sample_margins(original, case.batch.forget, case.data)


def test_rows_of_unrated_items_are_reset_in_a_release_but_not_in_its_parent(
    tmp_path: Path,
) -> None:
    setting = Setting(
        data=planted_interactions(users=60),
        protocol="items",
        forget_seed=0,
        recipe=SMALL,
        out=tmp_path,
    )
    Unit(kind="root", method="original", seed=0).make(setting, lambda _: None)
    original, _ = load_root(setting, get_method("original"), 0)
    again, _ = load_root(setting, get_method("original"), 0)
    (forgotten_item,) = setting.case.batches[0].items
    row = original.vocabulary.item(forgotten_item)

    def embedding_row(recommender: Any) -> torch.Tensor:
        return recommender.model.get_input_embeddings().weight[row].clone()

    before = embedding_row(original)
    assert release(original, Unlearned(recommender=original, adapter=None), setting.case.batch)
    assert torch.equal(embedding_row(original), before)
    released = release(original, Unlearned(recommender=again, adapter=None), setting.case.batch)
    assert not torch.equal(embedding_row(released), before)


def test_partly_written_first_release_is_made_again(
    tmp_path: Path,
) -> None:
    setting = Setting(
        data=planted_interactions(users=60),
        protocol="paper",
        forget_seed=0,
        recipe=SMALL,
        out=tmp_path,
    )
    unit = Unit(kind="root", method="original", seed=0)
    path = setting.root_path(get_method("original"), 0)
    partial = path.with_name(f"{path.name}.part")
    partial.mkdir(parents=True)
    (partial / "weights.safetensors").write_bytes(b"half")
    assert not unit.is_finished(setting)
    unit.make(setting, lambda _: None)
    assert unit.is_finished(setting)
    assert not partial.exists()
    assert read_json(path / "manifest.json")["method"] == "plain"
