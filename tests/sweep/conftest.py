"""A sweep of tiny networks on few digits, whose cells take less than a second each."""

from pathlib import Path

import pytest

from tests.conftest import sca_deploy

TINY = """
[data]
set = "digits"
train_samples = 120
test_samples = 40
[network]
neuron = { beta = 0.5, threshold = 0.5 }
layers = [
  { type = "conv", channels = 4, kernel = 3, padding = 1, stride = 2 },
  { type = "batch_norm" },
  { type = "lif" },
  { type = "conv", channels = 4, kernel = 3, padding = 1, stride = 2 },
  { type = "batch_norm" },
  { type = "lif" },
  { type = "flatten" },
  { type = "linear", features = 10 },
]
[train]
epochs = 2
batch_size = 20
lr = 2e-2
[sweep]
"""

GRID = (
    TINY
    + """
seeds = [0, 1]
[sweep.axes]
"network.steps" = [1, 2]
"prune.method" = ["sca", "random"]
"prune.keep" = [0.25, 0.5, 0.75]
"""
)
"""28 cells: 12 points and 2 networks that are not pruned, with two seeds."""


@pytest.fixture(scope="session")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of the sweep of 28 cells."""
    path = tmp_path_factory.mktemp("plans") / "grid.toml"
    path.write_text(GRID)
    return path


@pytest.fixture(scope="session")
def in_turn(grid: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of that sweep, done in one process. Tests must not change it."""
    folder = tmp_path_factory.mktemp("sweeps") / "in-turn"
    done = sca_deploy("sweep", grid, "-o", folder, "--json")
    if done.returncode:
        pytest.fail(f"the sweep ended with {done.returncode}\n{done.stderr}")
    (folder.parent / "stdout.json").write_text(done.stdout)
    (folder.parent / "stderr").write_text(done.stderr)
    return folder
