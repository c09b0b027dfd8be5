"""A pretrained language model end to end: tune, serve, forget, swap, and serve again."""

from __future__ import annotations

import csv
import json
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import save_file

from models.backbones import packaged
from tests.support.processes import ROOT, processes_of, wait_until

#: The demo forgets the user with most ratings who is no holdout user. There are several, because
#: holdout users are random, with many ratings, so that some are among the few training rows.
HEAVY_USERS, HEAVY_RATINGS = 3, 60
#: With this seed each heavy user has one or two of the training rows.
SEED = 0
#: A user counts from the sixth rating on, and a data set needs 400 counted ratings.
LIGHT_USERS, LIGHT_RATINGS = 120, 8
#: The whole model takes seven minutes of a processor, its first layers take two.
LAYERS = 6
SETTINGS = {
    # Few rows, because each row takes a fraction of a second.
    "LETHE_TRAIN_ROWS": "20",
    "LETHE_EVALUATION_ROWS": "20",
    # The demo asks for five items: more would be a second tier, whose scores are ordered apart.
    "LETHE_CANDIDATES": "5",
    # `auto` would measure both precisions first; tests/models/runtime/test_devices.py covers that.
    "LETHE_DTYPE": "float32",
    "LETHE_HOLDOUT_SHARE": "0.05",
    # A renewal doubles the time; tests/worker/test_renewal_training.py renews a packaged model.
    "LETHE_EXACT": "off",
}


def write_short_prompts(source: Path, directory: Path) -> None:
    """Write a MovieLens data set of one-word titles and mostly short histories."""
    with (source / "movies.csv").open(newline="", encoding="utf-8") as stream:
        titles = [row["title"] for row in csv.DictReader(stream)]
    words = [
        found[1] for title in titles if (found := re.fullmatch(r"([A-Z][a-z]+) \(\d+\)", title))
    ]
    films = list(dict.fromkeys(words))[:HEAVY_RATINGS]
    chance = random.Random(SEED)
    ratings = []
    for user in range(HEAVY_USERS + LIGHT_USERS):
        count = HEAVY_RATINGS if user < HEAVY_USERS else LIGHT_RATINGS
        for place, item in enumerate(chance.sample(range(len(films)), count)):
            rating = chance.choice([1.0, 2.0, 4.0, 5.0])
            ratings.append((user, item, rating, 1_000_000_000 + 10_000 * user + place))
    directory.mkdir()
    tables = {
        "movies": [
            ("movieId", "title", "genres"),
            *((n, film, "Drama") for n, film in enumerate(films)),
        ],
        "ratings": [("userId", "movieId", "rating", "timestamp"), *ratings],
    }
    for name, rows in tables.items():
        with (directory / f"{name}.csv").open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows(rows)


def write_first_layers(source: Path, directory: Path) -> int:
    """Write a language model of the first layers of another; return its number of parameters."""
    directory.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(source / name, directory / name)
    config = json.loads((source / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"num_hidden_layers": LAYERS}))
    tensors = {}
    with safe_open(source / "model.safetensors", framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 -- not a dictionary
            layer = re.search(r"layers\.(\d+)\.", name)
            if layer is None or int(layer[1]) < LAYERS:
                tensors[name] = file.get_tensor(name)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return sum(tensor.numel() for tensor in tensors.values())


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_pretrained_model_is_tuned_and_forgets_a_user_while_serving(
    environment: dict[str, str], tmp_path: Path
) -> None:
    write_short_prompts(ROOT / "data" / "ml-latest-small", tmp_path / "data")
    model = tmp_path / "model"
    parameters = write_first_layers(packaged.convert_package("smollm2"), model)

    ended = subprocess.run(
        [
            *(sys.executable, "-m", "app.cli", "demo", "--exit", "--port", "0", "--json"),
            *("--data", str(tmp_path / "data")),
        ],
        cwd=ROOT,
        env={**environment, **SETTINGS, "LETHE_BACKBONE": f"hf:{model}"},
        capture_output=True,
        text=True,
        timeout=1180,
        check=False,
    )

    assert ended.returncode == 0, ended.stderr + ended.stdout
    document = json.loads(ended.stdout)
    training = document["train"]["metrics"]["tries"][-1]["training"]
    assert training["parameters"] >= parameters > 40_000_000
    assert training["trained_parameters"] < 0.02 * training["parameters"]
    assert 12 < training["rows"]["train"] < 36
    assert {"model", "untuned", "item_mean"} <= training["validation"].keys()
    job = document["job"]
    assert document["request"]["status"] == "completed"
    # So few people show nothing about fast unlearning, so that the job trains exactly.
    (attempt,) = job["metrics"]["tries"]
    assert (attempt["attempt"], attempt["unmeasured_kinds"]) == ("exact", ["user"])
    assert "merge" not in job["metrics"]["stage_seconds"]
    assert document["others"]["before"]["release"] == document["train"]["release"] != job["release"]
    assert document["others"]["after"]["release"] == job["release"]
    scores = [item["score"] for item in document["others"]["after"]["items"]]
    assert scores == sorted(scores, reverse=True)
    assert 0 < min(scores) < max(scores) < 1
    assert document["load"]["failed"] == 0
    (weights,) = Path(environment["LETHE_HOME"], "artifacts").rglob("weights.safetensors")
    # Only the weights of one adapter of a few megabytes remain on disk.
    assert weights.stat().st_size < 0.05 * training["parameters"] * 4
    wait_until(lambda: processes_of(environment["LETHE_HOME"]) == [], "a process is left")
