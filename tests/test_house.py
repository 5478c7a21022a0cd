"""The house stands as drawn: imports go one way, nothing heavy loads early, and the wheel holds the whole tree."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = {
    "sca_deploy": "sca_deploy",
    "hardware": "sca_deploy/hardware",
    "exporters": "sca_deploy/exporters",
    "configs": "sca_deploy/configs",
}
"""Each top-level folder and where it lies once installed."""

COMMON_GROUND = ("sca_deploy.__version__", "sca_deploy.errors", "sca_deploy.files")


def files_of_the_tree() -> dict[str, Path]:
    """Every file that an installation must hold, by its installed name; links between the folders are not followed."""
    found: dict[str, Path] = {}
    for folder, installed in FOLDERS.items():
        linked = [path for path in (ROOT / folder).iterdir() if path.is_symlink()]
        for path in (ROOT / folder).rglob("*"):
            left_by_python = "__pycache__" in path.parts or path.name.startswith(".")
            if path.is_file() and not left_by_python and not any(link in path.parents for link in linked):
                found[f"{installed}/{path.relative_to(ROOT / folder).as_posix()}"] = path
    return found


def module_name(installed: str) -> str:
    """sca_deploy/hardware/__init__.py -> sca_deploy.hardware"""
    return installed.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


MODULES = {module_name(name): path for name, path in files_of_the_tree().items() if name.endswith(".py")}


def imported_by(source: str, module: str, is_package: bool) -> Iterator[str]:
    """The absolute name of everything `source` imports, wherever it does so; `from a import b` counts as a.b."""
    parts = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = parts[: len(parts) - node.level + 1] if node.level else []
            stem = [*base, node.module] if node.module else base
            yield from (".".join([*stem, alias.name]) for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
            yield from (arg.value for arg in node.args[:1] if isinstance(arg, ast.Constant))


def imports(module: str) -> set[str]:
    path = MODULES[module]
    return set(imported_by(path.read_text(encoding="utf-8"), module, path.name == "__init__.py"))


def within(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


def modules_in(*packages: str) -> list[str]:
    found = [module for module in sorted(MODULES) if within(module, *packages)]
    assert found, f"no module in {packages}"
    return found


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import a.b as c", "a.b"),
        ("from a import b", "a.b"),
        ("from . import b", "top.sub.b"),
        ("from ..a import b", "top.a.b"),
        ("def f():\n    from a import b", "a.b"),
        ("import importlib\nimportlib.import_module('a.b')", "a.b"),
    ],
)
def test_every_way_to_import_is_seen(source, expected):
    assert expected in set(imported_by(source, "top.sub.module", is_package=False))


@pytest.mark.parametrize("module", modules_in("sca_deploy.hardware"))
def test_hardware_knows_nothing_of_training_or_exporting(module):
    ours = {name for name in imports(module) if within(name, "sca_deploy")}
    assert {name for name in ours if not within(name, "sca_deploy.hardware", *COMMON_GROUND)} == set()


@pytest.mark.parametrize("module", modules_in("sca_deploy.exporters"))
def test_exporters_know_hardware_and_nothing_of_training(module):
    ours = {name for name in imports(module) if within(name, "sca_deploy")}
    allowed = ("sca_deploy.exporters", "sca_deploy.hardware", *COMMON_GROUND)
    assert {name for name in ours if not within(name, *allowed)} == set()


@pytest.mark.parametrize("module", ["sca_deploy", "sca_deploy.errors", "sca_deploy.files"])
def test_the_common_ground_stands_on_nothing_of_ours(module):
    ours = {name for name in imports(module) if within(name, "sca_deploy")}
    # The package names its API, and imports it when a name of it is asked for.
    allowed = (*COMMON_GROUND, "sca_deploy.api") if module == "sca_deploy" else COMMON_GROUND
    assert {name for name in ours if not within(name, *allowed)} == set()


@pytest.mark.parametrize("module", [name for name in sorted(MODULES) if not within(name, "sca_deploy.hardware.lava")])
def test_only_hardware_lava_imports_lava(module):
    assert {name for name in imports(module) if within(name, "lava")} == set()


@pytest.mark.parametrize("module", sorted(MODULES))
def test_nothing_is_imported_by_its_top_level_folder(module):
    assert {name for name in imports(module) if within(name, "hardware", "exporters", "configs")} == set()


@pytest.mark.parametrize("folder", ["hardware", "exporters", "configs"])
def test_a_top_level_folder_refuses_to_be_a_second_package(folder):
    done = subprocess.run([sys.executable, "-c", f"import {folder}"], cwd=ROOT, capture_output=True, text=True)
    assert done.stderr.splitlines()[-1] == f"ImportError: import sca_deploy.{folder}, not {folder}"


def test_help_loads_neither_torch_nor_lava(bare_environment, installed_wheel, tmp_path):
    command = [installed_wheel, "-X", "importtime", installed_wheel.with_name("sca-deploy"), "--help"]
    done = subprocess.run(command, cwd=tmp_path, env=bare_environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Usage: sca-deploy" in done.stdout
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines() if "|" in line}
    assert "sca_deploy" in loaded
    assert {"torch", "lava"} & loaded == set()


def test_the_wheel_holds_every_file_of_the_tree_and_no_other(wheel):
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert held == set(files_of_the_tree()), "name new sub-packages and data in pyproject.toml, [tool.setuptools]"


def test_the_wheel_is_the_same_when_built_from_the_source_distribution(source_copy, wheel, tmp_path, bare_environment):
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(tmp_path), str(source_copy)]
    subprocess.run(build, cwd=tmp_path, env=bare_environment, check=True, capture_output=True)
    [again] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as first, zipfile.ZipFile(again) as second:
        assert {i.filename: i.CRC for i in first.infolist()} == {i.filename: i.CRC for i in second.infolist()}


def test_every_module_of_the_wheel_imports(installed_wheel, tmp_path, bare_environment):
    packages = {name for name, path in MODULES.items() if path.name == "__init__.py"}
    # A folder without __init__.py holds scripts that a worker process runs by their path.
    modules = [name for name in MODULES if name in packages or name.rpartition(".")[0] in packages]
    importable = sorted(name for name in modules if not name.endswith(".__main__"))
    ask = """
import importlib, json, sys
print(json.dumps({name: importlib.import_module(name).__file__ for name in json.loads(sys.argv[1])}))
"""
    done = subprocess.run(
        [installed_wheel, "-c", ask, json.dumps(importable)],
        cwd=tmp_path,
        env=bare_environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    origin = json.loads(done.stdout.splitlines()[-1])
    environment = installed_wheel.parents[1]
    assert {name for name, file in origin.items() if environment not in Path(file).parents} == set()


def test_recipes_and_chips_are_found_in_the_wheel(installed_wheel, tmp_path, bare_environment):
    ask = """
from importlib.resources import files
print(files("sca_deploy.configs").joinpath("digits.toml").is_file())
print(any(chip.name.endswith(".toml") for chip in files("sca_deploy.hardware").joinpath("chips").iterdir()))
"""
    done = subprocess.run(
        [installed_wheel, "-c", ask], cwd=tmp_path, env=bare_environment, capture_output=True, text=True
    )
    assert done.stdout.split() == ["True", "True"], done.stderr
