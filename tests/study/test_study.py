import csv
import json
import statistics

import pytest

from sca_deploy.checkpoint import load_network
from tests.conftest import sca_deploy

PLAN = """
[network]
name = "conv2"
neuron = { beta = 0.5 }
[train]
epochs = 2
[data]
train_samples = 300
test_samples = 60
[prune]
keep = 0.4
floor = 0.1
[study]
seeds = [0, 1]
analyses = ["noise", "shapley", "activity"]
noise = { input = [0.0, 0.3], parameter = [0.0, 0.3], draws = 2, samples = 30 }
shapley = { permutations = 2, samples = 20 }
[[study.arms]]
name = "dense"
prune = { method = "dense" }
[[study.arms]]
name = "sca"
[[study.arms]]
name = "weights"
prune = { method = "magnitude", interval = 1 }
"""


def table(path):
    return list(csv.DictReader(path.read_text().splitlines()))


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    (folder / "plan.toml").write_text(PLAN)
    places = ("-o", folder / "cells", "--results", folder / "results")
    ran = sca_deploy("study", folder / "plan.toml", *places, "--json", OMP_NUM_THREADS="1")
    if ran.returncode:
        pytest.fail(ran.stderr)
    (folder / "stdout.json").write_text(ran.stdout)
    return folder


def test_every_cell_is_a_row_with_the_figures_of_its_evaluation(done):
    rows = table(done / "results" / "cells.csv")
    assert [(row["arm"], row["seed"]) for row in rows] == [
        (arm, seed) for seed in "01" for arm in ("dense", "sca", "weights")
    ]
    for row in rows:
        arm = "dense" if row["arm"] == "dense" else "pruned"
        path = done / "cells" / row["arm"] / f"seed{row['seed']}" / arm / "evaluation.json"
        figures = json.loads(path.read_text())["figures"]
        for key in ("accuracy_float", "accuracy_chip", "channels", "parameters_nonzero", "synops_per_sample"):
            assert float(row[key]) == figures[key]


def test_structured_arms_lose_channels_and_unstructured_ones_weights(done):
    rows = {row["arm"]: row for row in table(done / "results" / "cells.csv") if row["seed"] == "0"}
    dense, sca, weights = (rows[arm] for arm in ("dense", "sca", "weights"))
    assert int(sca["channels"]) == round(0.4 * int(dense["channels"]))
    assert weights["channels"] == dense["channels"]
    network, _ = load_network(done / "cells" / "weights" / "seed0" / "pruned" / "train" / "checkpoint.pt")
    layers = [module.weight for name, module in network.layers.items() if name.startswith(("conv", "linear"))]
    on, total = (sum(int(count) for count in counts) for counts in zip(*map(_counts, layers), strict=True))
    assert on == round(0.4 * total)


def _counts(weight):
    return weight.count_nonzero(), weight.numel()


def test_the_summary_is_mean_and_sample_standard_deviation_over_the_seeds(done):
    cells = table(done / "results" / "cells.csv")
    summary = table(done / "results" / "summary.csv")
    assert {row["label"] for row in summary} == {"measured", "simulated", "estimated"}
    for row in summary:
        values = [float(cell[row["figure"]]) for cell in cells if cell["arm"] == row["arm"]]
        assert float(row["mean"]) == pytest.approx(statistics.mean(values), abs=1e-6)
        assert float(row["std"]) == pytest.approx(statistics.stdev(values), abs=1e-6)
    assert json.loads((done / "stdout.json").read_text())[0].keys() == summary[0].keys()


def test_noise_of_size_0_is_the_accuracy_without_noise(done):
    rows = table(done / "results" / "noise.csv")
    assert {(row["kind"], float(row["sigma"])) for row in rows} == {
        (kind, sigma) for kind in ("input", "parameter") for sigma in (0.0, 0.3)
    }
    clean = {}
    for row in rows:
        if float(row["sigma"]) == 0.0:
            clean.setdefault((row["arm"], row["seed"]), set()).add(row["accuracy"])
    assert len(clean) == 6
    assert all(len(values) == 1 for values in clean.values())


def test_every_channel_of_the_dense_network_has_its_worth_and_every_score(done):
    rows = table(done / "results" / "channels.csv")
    dense = next(row for row in table(done / "results" / "cells.csv") if row["arm"] == "dense")
    assert len(rows) == int(dense["channels"])
    scores = {"potential", "relu_potential", "activity", "rate", "criticality", "criticality_primitive"}
    scores |= {"gamma", "weight_l1", "taylor", "random"}
    assert rows[0].keys() >= scores | {"accuracy_drop", "shapley"}
    ranked = table(done / "results" / "correlations.csv")
    assert {row["score"] for row in ranked} == scores


def test_pictures_are_png_files(done):
    pictures = {path.name for path in (done / "results").glob("*.png")}
    assert pictures >= {"arms.png", "noise.png", "correlations.png", "scores_ablation.png", "activity_sca.png"}
    for name in pictures:
        assert (done / "results" / name).read_bytes().startswith(b"\x89PNG")


def test_the_manifest_names_versions_plan_and_chip_but_no_place(done):
    text = (done / "results" / "manifest.json").read_text()
    manifest = json.loads(text)
    assert manifest.keys() == {"versions", "chip", "plan_sha256", "plan"}
    assert manifest["plan"]["arms"]["sca"]["prune"]["keep"] == 0.4
    assert str(done) not in text


def test_a_repeated_study_trains_nothing_again_and_gives_the_same_tables(done):
    before = {path: path.stat().st_mtime_ns for path in (done / "cells").rglob("checkpoint.pt")}
    tables = {path.name: path.read_bytes() for path in (done / "results").glob("*.csv")}
    again = sca_deploy("study", done / "plan.toml", "-o", done / "cells", "--results", done / "results")
    assert again.returncode == 0, again.stderr
    assert {path: path.stat().st_mtime_ns for path in (done / "cells").rglob("checkpoint.pt")} == before
    assert {path.name: path.read_bytes() for path in (done / "results").glob("*.csv")} == tables


def test_cells_trained_side_by_side_are_those_trained_one_after_another(done, tmp_path):
    plan = PLAN.replace('analyses = ["noise", "shapley", "activity"]', "analyses = []")
    (tmp_path / "plan.toml").write_text(plan.replace("seeds = [0, 1]", "seeds = [1]"))
    ran = sca_deploy("study", tmp_path / "plan.toml", "-o", tmp_path / "cells", "-j", 2, OMP_NUM_THREADS="1")
    assert ran.returncode == 0, ran.stderr
    one_by_one = [row for row in table(done / "results" / "cells.csv") if row["seed"] == "1"]
    assert len(one_by_one) == 3
    assert table(tmp_path / "cells" / "results" / "cells.csv") == one_by_one


def test_a_folder_of_another_study_is_refused(done):
    (done / "other.toml").write_text(PLAN.replace("keep = 0.4", "keep = 0.5"))
    refused = sca_deploy("study", done / "other.toml", "-o", done / "cells")
    assert refused.returncode == 2
    assert "holds another study" in refused.stderr


def test_a_failing_cell_is_named_and_the_others_remain(tmp_path):
    plan = PLAN.replace(
        'name = "weights"', 'name = "wild"\ntrain = { optimizer = "sgd", lr = 1e3, weight_decay = 1.0 }'
    )
    (tmp_path / "plan.toml").write_text(plan.replace("seeds = [0, 1]", "seeds = [0]"))
    failed = sca_deploy("study", tmp_path / "plan.toml", "-o", tmp_path / "cells")
    assert failed.returncode == 1
    assert "wild, seed 0" in failed.stderr
    assert (tmp_path / "cells" / "sca" / "seed0" / "pruned" / "evaluation.json").exists()
