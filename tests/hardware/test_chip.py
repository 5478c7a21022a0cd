"""A chip file is data with provenance; anything wrong in one is named by file, line and key."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from sca_deploy.errors import ScaDeployError, UsageError
from sca_deploy.hardware.chip import EVIDENCE, chip_names, load_chip

LOIHI2 = load_chip("loihi2").path.read_text(encoding="utf-8")
CORES = 'value = 128\nunit = "cores/chip"'
CHIPS = 'value = 8\nunit = "chips"'


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
    sizes = (system.sizes for system in chip.systems.values())
    for table in (chip.limits, chip.budgets, chip.storage, chip.energy, chip.power, chip.time, *sizes):
        for value in table.values():
            assert value.unit
            assert value.source
            assert value.evidence in EVIDENCE


def test_loihi2_has_128_cores() -> None:
    assert load_chip("loihi2").cores == 128  # Intel, Loihi 2 technology brief


def test_a_file_is_loaded_by_its_path(tmp_path: Path) -> None:
    path, _ = damaged(tmp_path, "value = 4095", "value = 2048")
    assert load_chip(path).budgets["neurons"].value == load_chip(str(path)).budgets["neurons"].value == 2048


def test_the_chips_are_the_two_generations_and_the_compiler_of_2023() -> None:
    assert {"loihi1", "loihi2", "loihi2-2023"} <= set(chip_names())


def test_the_compiler_of_2023_left_12000_synapse_words() -> None:
    """The PilotNet tables of 2023 fill up to 12,000 words, those of 2024 up to 16,000; no other budget changed."""
    chips = load_chip("loihi2-2023"), load_chip("loihi2")
    earlier, later = ({name: budget.value for name, budget in chip.budgets.items()} for chip in chips)
    assert earlier.pop("synapse_words") == 12000
    assert later.pop("synapse_words") == 16000
    assert earlier == later


def test_loihi1_is_as_published() -> None:
    """Davies et al., IEEE Micro 38(1), 2018: text and table 2."""
    chip = load_chip("loihi1")
    limits = {name: limit.value for name, limit in chip.limits.items()}
    assert (limits["cores"], limits["weight_bits"], limits["message_bits"]) == (128, 9, 0)
    assert limits["axon_out"] == chip.budgets["axon_in"].value == 4096
    assert (chip.budgets["neurons"].value, chip.budgets["synapse_words"].value) == (1024, 128 * 1024 * 8 // 64)
    prices = ("synaptic_operation", "neuron_update_active", "neuron_update_idle", "hop_east_west", "hop_north_south")
    assert [chip.energy[price].typical for price in prices] == [23.6, 81.0, 52.0, 3.0, 4.0]
    times = ("synaptic_operation", "neuron_update_active", "neuron_update_idle")
    assert [chip.time[time].typical for time in times] == [3.5, 8.4, 5.3]
    assert (chip.time["barrier"].low, chip.time["barrier"].high) == (113.0, 465.0)


@pytest.mark.parametrize("name", chip_names())
def test_the_mesh_of_every_packaged_chip_is_its_cores(name: str) -> None:
    chip = load_chip(name)
    tiles = chip.limits["mesh_columns"].value * chip.limits["mesh_rows"].value
    assert tiles * chip.limits["cores_per_tile"].value == chip.cores


@pytest.mark.parametrize(
    ("name", "system", "chips", "cores"),
    [
        ("loihi2", "oheo-gulch", 1, 128),
        ("loihi2", "kapoho-point", 8, 1024),
        ("loihi2", "hala-point", 1152, 140544),  # Intel newsroom, 17 April 2024
        ("loihi2-2023", "hala-point", 1152, 140544),
        ("loihi1", "kapoho-bay", 2, 256),
        ("loihi1", "nahuku-8", 8, 1024),
        ("loihi1", "nahuku-32", 32, 4096),
        ("loihi1", "pohoiki-springs", 768, 98304),  # Intel newsroom, 18 March 2020
    ],
)
def test_systems_are_the_boards_and_racks_intel_named(name: str, system: str, chips: int, cores: int) -> None:
    found = load_chip(name).systems[system]
    assert (found.chips, found.cores) == (chips, cores)


@pytest.mark.parametrize("name", ["loihi2", "loihi2-2023"])
def test_no_cost_of_loihi_2_is_passed_off_as_known(name: str) -> None:
    chip = load_chip(name)
    for prices in (chip.energy, chip.power, chip.time):
        assert {price.evidence for price in prices.values()} == {"inferred"}


def test_what_is_not_known_of_every_chip_may_be_left_out() -> None:
    assert "axon_out" in load_chip("loihi1").limits
    assert "axon_out" not in load_chip("loihi2").limits


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
        pytest.param(CORES, CORES.replace("128", '"128"'), "limits.cores.value is '128'", id="text for a number"),
        pytest.param(
            CORES, CORES.replace("128", "128.0"), "limits.cores.value is 128.0", id="float for a whole number"
        ),
        pytest.param(CORES, CORES.replace("128", "true"), "limits.cores.value is True", id="boolean for a number"),
        pytest.param(CORES, CORES.replace("128", "0"), "limits.cores.value is 0", id="no cores"),
        pytest.param("value = 4095", "value = -1", "budgets.neurons.value is -1", id="negative budget"),
        pytest.param("value = 4095", "valeu = 4095", "budgets.neurons.value is missing", id="missing key"),
        pytest.param(
            "value = 4095", "value = 4095\nmaximum = 1", "budgets.neurons.maximum is not known", id="unknown key"
        ),
        pytest.param("typical = 23.6", "typical = nan", "energy.synaptic_operation.typical is nan", id="not a number"),
        pytest.param("typical = 23.6", "typical = 40.0", "typical is 40.0, outside low 12.3", id="band out of order"),
        pytest.param(CORES, CORES.replace("128", "129"), "more than a mesh of 8 x 4 tiles of 4 cores", id="small mesh"),
        pytest.param(CHIPS, CHIPS.replace("8", "8.5"), "systems.kapoho-point.chips.value is 8.5", id="half a chip"),
        pytest.param("value = 1024", "value = 1025", "more than 8 chips of 128 cores have", id="cores of no chip"),
        pytest.param("typical = 299.0", "typical = 'x'", "time.barrier.typical is 'x'", id="text for a time"),
        pytest.param("low = 113.0", "low = -1", "low is -1, expected a finite number of ns", id="negative time"),
        pytest.param('unit = "mW"', 'unit = "W"', "power.static.unit is 'W', expected 'mW'", id="another unit"),
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


def test_a_system_without_its_cores_is_named_at_its_first_line(tmp_path: Path) -> None:
    path, line = damaged(tmp_path, "[systems.hala-point.cores]", "[systems.hala-point.core]")
    chips = LOIHI2[: LOIHI2.index("[systems.hala-point.chips]")].count("\n") + 1
    assert chips < line
    with pytest.raises(ScaDeployError, match=rf"line {chips}: systems\.hala-point\.cores is missing"):
        load_chip(path)


def test_a_chip_that_no_system_holds_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    head = LOIHI2[: LOIHI2.index("[systems.")]
    path.write_text(f"{head}[systems]\n", encoding="utf-8")
    with pytest.raises(ScaDeployError, match=r"systems is empty, expected one system at least"):
        load_chip(path)


def test_a_value_in_place_of_a_table_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "flat.toml"
    tables = ["limits", "budgets", "storage", "energy", "power", "time", "systems"]
    path.write_text('name = "x"\ntitle = "x"\n' + "".join(f"{table} = 3\n" for table in tables))
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
