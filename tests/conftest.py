"""What every test shares: patience on a busy machine, and the package as a user would have installed it."""

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
from hypothesis import settings

from sca_deploy.hardware.lava.client import PYTHON_VARIABLE
from tests.consumers.frameworks import which_ran

ROOT = Path(__file__).resolve().parents[1]

settings.register_profile("patient", deadline=None)
settings.load_profile("patient")


needs_lava = pytest.mark.skipif(
    PYTHON_VARIABLE not in os.environ and importlib.util.find_spec("lava") is None, reason="Lava is not installed"
)


@pytest.fixture(scope="session")
def root() -> Path:
    """The folder of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def bare_environment() -> dict[str, str]:
    """The environment for a child Python that must not see the tree: no PYTHONPATH, no other PYTHON setting."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


@pytest.fixture(scope="session")
def source_copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tree as a fresh clone would hold it: a build left in the working tree could hide a missing file."""
    copy = tmp_path_factory.mktemp("source") / "sca-deploy"
    leftovers = shutil.ignore_patterns("__pycache__", "*.egg-info", "*.part")
    for folder in ("sca_deploy", "hardware", "exporters", "configs"):
        shutil.copytree(ROOT / folder, copy / folder, symlinks=True, ignore=leftovers)
    for file in ("pyproject.toml", "LICENSE", "README.md"):
        shutil.copy(ROOT / file, copy)
    return copy


@pytest.fixture(scope="session")
def wheel(source_copy: Path, tmp_path_factory: pytest.TempPathFactory, bare_environment: dict[str, str]) -> Path:
    """The wheel, built from the tree without network."""
    folder = tmp_path_factory.mktemp("wheel")
    build = ["-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(source_copy)]
    run_python(sys.executable, build, folder, bare_environment)
    [built] = folder.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def installed_wheel(wheel: Path, tmp_path_factory: pytest.TempPathFactory, bare_environment: dict[str, str]) -> Path:
    """The Python of a virtual environment holding the wheel, with `sca-deploy` beside it.

    The dependencies are those of the environment the tests run in; the tree itself is out of reach as
    long as the child is started with `env=bare_environment` and outside the repository.
    """
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder, symlinks=True, with_pip=True)
    python = folder / "bin" / "python"
    run_python(python, ["-m", "pip", "install", "--no-index", "--no-deps", str(wheel)], folder, bare_environment)
    ask = ["-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    site_packages = Path(run_python(python, ask, folder, bare_environment).strip())
    # Python reads no .pth file of a folder that is itself named by one, so the editable install stays behind.
    dependencies = {sysconfig.get_path(kind) for kind in ("purelib", "platlib")}
    (site_packages / "dependencies.pth").write_text("\n".join(sorted(dependencies)) + "\n")
    return python


def run_python(python: str | Path, arguments: list[str], cwd: Path, environment: dict[str, str]) -> str:
    """Run `python` with `arguments`, fail with its own words when it fails, and return what it printed."""
    done = subprocess.run(
        [str(python), *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=240
    )
    if done.returncode:
        pytest.fail(f"{python} {' '.join(arguments)} exited with {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout


def sca_deploy(*arguments: object, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command line as a user does, in a process of its own."""
    command = [sys.executable, "-m", "sca_deploy.cli", *map(str, arguments)]
    env = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=280)


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole `sca-deploy run` on the real digits, shortened to six epochs. Tests must not change it."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    done = sca_deploy("run", "digits", "--epochs", 6, "-o", folder)
    if done.returncode:
        pytest.fail(f"the run ended with {done.returncode}\n{done.stderr}")
    (folder.parent / "stdout").write_text(done.stdout)
    (folder.parent / "stderr").write_text(done.stderr)
    return folder


@pytest.fixture(scope="session")
def shared_data(root):
    """The folder of real files that are not part of the project."""
    folder = Path(os.environ.get("SCA_DEPLOY_SHARED_DATA", root.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there: set SCA_DEPLOY_SHARED_DATA to the folder of real NIR files and recordings")
    return folder


def pytest_terminal_summary(terminalreporter):
    """Say which other frameworks the tests were run with."""
    stats = terminalreporter.stats
    lines = which_ran([report for kind in ("passed", "failed", "skipped") for report in stats.get(kind, [])])
    if lines:
        terminalreporter.section("other frameworks")
        for line in lines:
            terminalreporter.write_line(line)
