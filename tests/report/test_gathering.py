"""The document of a report: what the arms hold, and the reason for everything they do not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sca_deploy.cli import main
from sca_deploy.console import Console
from sca_deploy.data import load_dataset
from sca_deploy.errors import ScaDeployError
from sca_deploy.exporters.base import Deployable
from sca_deploy.exporters.nir import write_nir
from sca_deploy.hardware.chip import load_chip
from sca_deploy.pipeline import comparison
from sca_deploy.report.gathering import gather
from tests.graphs import DT, architecture, spikes_in

PARTS = ("evaluation", "log", "layers", "floor", "traces", "verification", "compaction", "calibration", "manifest")
QUIET = Console(quiet=True)


def gathered(run: Path) -> dict[str, Any]:
    """The document of a run, through JSON as a page gets it."""
    dense, pruned = run / "dense", run / "pruned"
    compared, evaluations = comparison(QUIET, dense, pruned)
    document = gather(QUIET, dense, pruned, compared, evaluations)
    plain: dict[str, Any] = json.loads(json.dumps(document, allow_nan=False))
    assert plain == document
    return plain


@pytest.fixture(scope="module")
def document(digits_run: Path) -> dict[str, Any]:
    return gathered(digits_run)


@pytest.fixture
def run(digits_run: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(digits_run, tmp_path / "digits"))


def test_a_whole_run_misses_nothing(document: dict[str, Any], digits_run: Path) -> None:
    assert document["title"] == "digits"
    assert document["comparison"] == json.loads((digits_run / "compare.json").read_text())
    for name, arm in document["arms"].items():
        assert arm["missing"] == {}
        assert (arm["name"], arm["title"]) == (name, f"digits-{name}")
        assert set(arm) == {"name", "title", *PARTS, "budget", "missing"}
        assert all(arm[part] for part in PARTS)
        assert arm["budget"] is None  # none was asked for


@pytest.mark.parametrize("arm", ["dense", "pruned"])
def test_files_of_an_arm_come_as_they_are(document: dict[str, Any], digits_run: Path, arm: str) -> None:
    files = {"evaluation": "evaluation", "verification": "verify", "compaction": "compaction",
             "calibration": "calibration", "manifest": "manifest"}  # fmt: skip
    for part, name in files.items():
        assert document["arms"][arm][part] == json.loads((digits_run / arm / f"{name}.json").read_text())


def test_the_log_of_training_comes_without_what_it_says_of_every_channel(
    document: dict[str, Any], digits_run: Path
) -> None:
    for arm in ("dense", "pruned"):
        lines = (digits_run / arm / "train" / "metrics.jsonl").read_text().splitlines()
        for found, entry in zip(document["arms"][arm]["log"], map(json.loads, lines), strict=True):
            pruning = entry.get("pruning")
            if pruning is not None:
                del pruning["masks"], pruning["scores"]
                pruning["of"] = {"batch_norm1": 32, "batch_norm2": 64, "batch_norm3": 128}  # what the config asks for
            assert found == entry
    assert document["arms"]["pruned"]["log"][-1]["pruning"]["kept"]


def test_a_log_of_masked_weights_says_nothing_of_channels(run: Path) -> None:
    path = run / "pruned" / "train" / "metrics.jsonl"
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    weights = {"updated": True, "regrown": 0, "kept": {"conv1": 261, "linear1": 20927}}
    path.write_text("".join(f"{json.dumps(entry | {'pruning': weights})}\n" for entry in entries))
    assert [entry["pruning"] for entry in gathered(run)["arms"]["pruned"]["log"]] == [weights] * len(entries)


def test_layers_and_floor_are_what_inspect_and_map_say(document: dict[str, Any]) -> None:
    for arm in document["arms"].values():
        assert [layer["name"] for layer in arm["layers"]] == ["lif1", "lif2", "lif3", "linear2"]
        mapped = {layer["name"]: layer["cores"] for layer in arm["evaluation"]["map"]["layers"]}
        placed = [core["layer"] for core in arm["floor"]["cores"]]
        assert {name: placed.count(name) for name in mapped} == mapped
        assert document["chip"]["name"] == arm["floor"]["chip"]


def test_both_arms_show_the_same_samples_of_six_classes(document: dict[str, Any]) -> None:
    dense, pruned = ([sample["index"] for sample in arm["traces"]["samples"]] for arm in document["arms"].values())
    assert dense == pruned
    labels = load_dataset("digits").test_y[dense]
    assert len(dense) == 6
    assert len(set(labels.tolist())) >= 5  # two that went wrong may be of one class


def test_a_sample_that_went_wrong_is_shown(document: dict[str, Any]) -> None:
    for arm in document["arms"].values():
        agreement = arm["evaluation"]["agreement"]
        remarkable = (agreement["disagreeing"] + agreement["wrong"])[:1]
        assert set(remarkable) <= {sample["index"] for sample in arm["traces"]["samples"]}


def test_two_runs_are_named_after_both(digits_run: Path, run: Path) -> None:
    other = Path(shutil.move(run, run.with_name("later")))
    compared, evaluations = comparison(QUIET, digits_run / "dense", other / "pruned")
    found = gather(QUIET, digits_run / "dense", other / "pruned", compared, evaluations)
    assert found["title"] == "digits and later"
    assert [arm["title"] for arm in found["arms"].values()] == ["digits-dense", "later-pruned"]


@pytest.mark.parametrize(
    ("files", "part", "empty", "reason"),
    [
        (["verify.json"], "verification", None, "not compared with Lava"),
        (["compaction.json"], "compaction", None, "nothing was compacted"),
        (["calibration.json"], "calibration", None, "no scales were searched"),
        (["train/metrics.jsonl"], "log", [], "not trained here"),
    ],
)
def test_what_is_not_there_is_named_and_the_rest_is_shown(
    run: Path, files: list[str], part: str, empty: Any, reason: str
) -> None:
    for file in files:
        (run / "pruned" / file).unlink()
    document = gathered(run)
    arm = document["arms"]["pruned"]
    assert arm[part] == empty
    assert set(arm["missing"]) == {part}
    assert reason in arm["missing"][part]
    assert document["arms"]["dense"]["missing"] == {}


def test_without_its_data_set_only_the_traces_are_missing(run: Path) -> None:
    config = json.loads((run / "config.json").read_text())
    config["data"]["set"], config["data"]["folder"] = "fashion-mnist", "gone"
    (run / "config.json").write_text(json.dumps(config))
    for arm in gathered(run)["arms"].values():
        assert set(arm["missing"]) == {"traces"}
        assert "gone" in arm["missing"]["traces"]
        assert arm["traces"] is None
        assert arm["floor"]
        assert arm["layers"]


def test_an_arm_without_its_network_still_shows_its_figures(run: Path) -> None:
    for file in ("network.pt", "program.npz", "train/checkpoint.pt"):
        (run / "pruned" / file).unlink()
    arm = gathered(run)["arms"]["pruned"]
    assert set(arm["missing"]) == {"layers", "floor", "traces"}
    assert set(arm["missing"].values()) == {"there is no network in the folder"}
    assert arm["evaluation"]["figures"]


def test_an_evaluation_of_an_older_version_lacks_its_new_parts_only(run: Path) -> None:
    path = run / "dense" / "evaluation.json"
    document = json.loads(path.read_text())
    del document["over_steps"], document["agreement"]
    path.write_text(json.dumps(document))
    arm = gathered(run)["arms"]["dense"]
    why = "made by an older version; delete evaluation.json and repeat the run"
    assert arm["missing"] == {"over_steps": why, "agreement": why}
    assert len(arm["traces"]["samples"]) == 6


def test_a_network_that_does_not_fit_says_so_in_place_of_its_verification(run: Path) -> None:
    text = load_chip("loihi2").path.read_text()
    before, _, after = text.partition("[limits.message_bits]")
    (run / "narrow.toml").write_text(f"{before}[limits.message_bits]{after.replace('value = 32', 'value = 4', 1)}")
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"chip": str(run / "narrow.toml")}))
    (run / "dense" / "verify.json").unlink()
    missing = gathered(run)["arms"]["dense"]["missing"]
    assert missing == {"verification": "the input sends graded spikes of 5 bits, loihi2 carries 4"}


def test_arms_that_were_only_trained_are_evaluated_for_it(run: Path) -> None:
    for arm in ("dense", "pruned"):
        for path in (run / arm).iterdir():
            if path.is_file():
                path.unlink()
        shutil.rmtree(run / arm / "loihi2")
    document = gathered(run)
    for arm, found in document["arms"].items():
        assert found["evaluation"]["figures"] == document["comparison"][arm]
        assert set(found["missing"]) == {"verification", "compaction", "calibration", "manifest"}
        assert found["traces"]["samples"]
    assert not (run / "dense" / "evaluation.json").exists()


def test_networks_that_stay_in_floats_say_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, dynamics = architecture("subtract", dtype=np.float32)
    write_nir(Deployable(graph, DT, dynamics=dynamics), tmp_path / "net.nir")
    x, y = spikes_in(graph, samples=60), np.arange(60) % 3
    sets = {"x_train": x[:40], "y_train": y[:40], "x_test": x[40:], "y_test": y[40:]}
    np.savez(tmp_path / "mine.npz", timed=1, **sets)
    run = tmp_path / "run"
    asked = ["--data", tmp_path / "mine.npz", "--keep", 0.5, "--score", "rate", "-q", "-o", run]
    monkeypatch.setattr("sys.argv", ["sca-deploy", "prune", str(tmp_path / "net.nir"), *map(str, asked)])
    main()
    assert (run / "report.html").is_file()
    document = gathered(run)
    assert set(document["comparison"]["labels"]) >= {"accuracy_float", "channels"}
    for arm in document["arms"].values():
        why = "stays in floats: the graph says reset 'subtract'"
        lowered = ("evaluation", "layers", "floor", "traces", "verification")
        assert all(arm["missing"][part].startswith(why) for part in lowered)
        assert set(arm["missing"]) == {*lowered, "manifest"}
        assert arm["log"]
        assert arm["compaction"]


def ask_for_a_budget(arm: Path) -> None:
    """Let an arm look as if it had been held to five cores."""
    evaluation = json.loads((arm / "evaluation.json").read_text())
    limit = {"name": "cores", "limit": 5, "value": 4, "kept": True, "label": "estimated"}
    (arm / "evaluation.json").write_text(json.dumps(evaluation | {"budget": [limit]}))


def test_what_training_was_held_to_comes_as_it_is(run: Path) -> None:
    ask_for_a_budget(run / "pruned")
    (run / "pruned" / "budget.json").write_text('{"chip": "loihi2", "resources": []}')
    arms = gathered(run)["arms"]
    assert arms["pruned"]["budget"] == {"chip": "loihi2", "resources": []}
    assert (arms["dense"]["budget"], arms["dense"]["missing"], arms["pruned"]["missing"]) == (None, {}, {})


def test_a_budget_without_its_file_says_so(run: Path) -> None:
    ask_for_a_budget(run / "pruned")
    arm = gathered(run)["arms"]["pruned"]
    assert (arm["budget"], arm["missing"]) == (None, {"budget": "what training was held to was not kept"})


@pytest.mark.parametrize(
    "file",
    ["verify.json", "compaction.json", "calibration.json", "manifest.json", "budget.json", "train/metrics.jsonl"],
)
@pytest.mark.parametrize("content", ["{", "[1]", "3"])
def test_a_damaged_file_is_an_error_that_names_it(run: Path, file: str, content: str) -> None:
    ask_for_a_budget(run / "pruned")
    path = run / "pruned" / file
    path.write_text(content)
    with pytest.raises(ScaDeployError) as caught:
        gathered(run)
    assert path.name in caught.value.problem
    assert "\n" not in caught.value.problem
