"""A chip file is data with provenance; anything wrong in one is named by file, line and key."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from sca_deploy.errors import ScaDeployError, UsageError
from sca_deploy.hardware.chip import EVIDENCE, chip_names, load_chip

LOIHI2 = load_chip("loihi2").path.read_text(encoding="utf-8")


def damaged(folder: Path, old: str, new: str) -> tuple[Path, int]:
    """A copy of the Loihi 2 file with one place changed, and the line of that place."""
    assert LOIHI2.count(old) == 1, old
    path = folder / "mine.toml"
    path.write_text(LOIHI2.replace(old, new), encoding="utf-8")
    return path, LOIHI2[: LOIHI2.index(old)].count("\n") + 1


def test_loihi2_is_packaged() -> None:
    assert "loihi2" in chip_names()


@pytest.mark.parametrize("name", chip_names())
def test_every_packaged_chip_loads_under_its_file_name(name: str) -> None:
    assert load_chip(name).name == name


@pytest.mark.parametrize("name", chip_names())
def test_every_value_has_unit_source_and_evidence(name: str) -> None:
    chip = load_chip(name)
    for table in (chip.limits, chip.budgets, chip.storage, chip.energy):
        for value in table.values():
            assert value.unit
            assert value.source
            assert value.evidence in EVIDENCE


def test_loihi2_has_128_cores() -> None:
    assert load_chip("loihi2").cores == 128  # Intel, Loihi 2 technology brief


def test_a_file_is_loaded_by_its_path(tmp_path: Path) -> None:
    path, _ = damaged(tmp_path, "value = 128", "value = 120")
    assert load_chip(path).cores == load_chip(str(path)).cores == 120


def test_the_hash_is_that_of_the_file() -> None:
    assert load_chip("loihi2").sha256 == hashlib.sha256(LOIHI2.encode()).hexdigest()


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(UsageError) as caught:
        load_chip("lohi2")
    assert caught.value.problem == "unknown chip 'lohi2'"
    assert "did you mean 'loihi2'?" in caught.value.fix


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ScaDeployError, match=r"cannot read chip file .*none\.toml"):
        load_chip(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        pytest.param("value = 128", 'value = "128"', "limits.cores.value is '128'", id="text for a number"),
        pytest.param("value = 128", "value = 128.0", "limits.cores.value is 128.0", id="float for a whole number"),
        pytest.param("value = 128", "value = true", "limits.cores.value is True", id="boolean for a number"),
        pytest.param("value = 128", "value = 0", "limits.cores.value is 0", id="no cores"),
        pytest.param("value = 4095", "value = -1", "budgets.neurons.value is -1", id="negative budget"),
        pytest.param("value = 4095", "valeu = 4095", "budgets.neurons.value is missing", id="missing key"),
        pytest.param(
            "value = 4095", "value = 4095\nmaximum = 1", "budgets.neurons.maximum is not known", id="unknown key"
        ),
        pytest.param("typical = 23.6", "typical = nan", "energy.synaptic_operation.typical is nan", id="not a number"),
        pytest.param("typical = 23.6", "typical = 40.0", "typical is 40.0, outside low 12.3", id="band out of order"),
        pytest.param('unit = "bits/list"', 'unit = ""', "storage.list_prefix_bits.unit is ''", id="empty unit"),
    ],
)
def test_a_wrong_value_is_named_by_file_line_and_key(tmp_path: Path, old: str, new: str, complaint: str) -> None:
    path, line = damaged(tmp_path, old, new)
    with pytest.raises(ScaDeployError) as caught:
        load_chip(path)
    assert str(path) in caught.value.problem
    assert complaint in caught.value.problem
    # A key that is not there is reported at its table, an added one where it stands.
    near = {"is missing": line - 1, "not known": line + 1}
    expected = next((at for words, at in near.items() if words in complaint), line)
    assert f"line {expected}:" in caught.value.problem


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    path, _ = damaged(tmp_path, "[budgets.total]", "[budgets.totals]")
    with pytest.raises(ScaDeployError, match=r"budgets\.total is missing"):
        load_chip(path)


def test_a_value_in_place_of_a_table_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "flat.toml"
    path.write_text('name = "x"\ntitle = "x"\nlimits = 3\nbudgets = 3\nstorage = 3\nenergy = 3\n')
    with pytest.raises(ScaDeployError, match=r"line 3: limits is 3, expected a table"):
        load_chip(path)


def test_evidence_is_one_of_four_words(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(LOIHI2.replace('evidence = "published"', 'evidence = "rumoured"', 1))
    with pytest.raises(ScaDeployError, match=r"limits\.cores\.evidence is 'rumoured', expected one of published"):
        load_chip(path)


@pytest.mark.parametrize("content", [b"name = ", b"\xff\xfe"], ids=["half a line", "not UTF-8"])
def test_a_file_that_is_not_toml_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.toml"
    path.write_bytes(content)
    with pytest.raises(ScaDeployError, match=r"broken\.toml is not valid TOML"):
        load_chip(path)
