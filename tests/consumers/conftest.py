"""What the tests with other frameworks share: a way to run them, and a word at the end on which were run."""

from collections.abc import Callable, Iterator
from pathlib import Path

import nir
import numpy as np
import pytest

from tests.consumers.frameworks import FRAMEWORKS, Player

Play = Callable[..., dict[str, np.ndarray]]


@pytest.fixture(scope="session")
def players() -> Iterator[dict[str, Player]]:
    """The frameworks that were started, by name."""
    started: dict[str, Player] = {}
    yield started
    for player in started.values():
        player.close()


@pytest.fixture
def play(
    players: dict[str, Player],
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    record_property: Callable[[str, object], None],
) -> Play:
    """Runs a framework by name on a file or graph; skips the test where the framework is not there."""

    def run(name: str, graph: nir.NIRGraph | Path, x: np.ndarray, dt: float = 1e-4) -> dict[str, np.ndarray]:
        framework = FRAMEWORKS[name]
        if framework.missing:
            record_property("framework missing", name)
            pytest.skip(framework.missing)
        if name not in players:
            players[name] = Player(framework, tmp_path_factory.mktemp(name) / "log")
        played = players[name].play(graph, x, tmp_path, dt)
        record_property("framework", played.framework)
        return played.values

    return run
