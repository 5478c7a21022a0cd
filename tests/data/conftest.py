"""What the tests of data sets share: a user who has none."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user who has no data sets and no settings."""
    home = tmp_path / "home"
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("SCA_DEPLOY_DATA", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    return home
