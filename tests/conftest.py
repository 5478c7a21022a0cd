"""What every test shares: patience on a busy machine, and the package as a user would have installed it."""

import fcntl
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

from sca_deploy.cli import main
from sca_deploy.hardware.lava.client import PYTHON_VARIABLE
from tests.consumers.frameworks import which_ran
from tests.docs.preloaded import command

ROOT = Path(__file__).resolve().parents[1]
FIRST_RUN = "sca-deploy run digits"
"""What a reader begins with."""

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


class Once:
    """Folders that are made once for a whole run of the tests, however many workers it has.

    Whoever needs a folder first makes it, while the others wait at its lock. One that could not be made is tried again
    by the next. What lies in it is shared, so tests must not change it.
    """

    def __init__(self, base: Path) -> None:
        self.base = base

    def __call__(self, name: str, make: Callable[[Path], object]) -> Path:
        """The folder of this name; `make` fills it if nobody did."""
        folder, made = self.base / name, self.base / f"{name}.made"
        self.base.mkdir(exist_ok=True)
        with open(self.base / f"{name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not made.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                make(folder)
                made.touch()
        return folder


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    """The folders that all workers of this run of the tests share."""
    base = tmp_path_factory.getbasetemp()
    # A worker's folder lies in that of the process that started all of them.
    return Once((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "once")


@pytest.fixture(scope="session")
def source_copy(once: Once) -> Path:
    """The tree as a fresh clone would hold it: a build left in the working tree could hide a missing file."""

    def make(folder: Path) -> None:
        copy = folder / "sca-deploy"
        leftovers = shutil.ignore_patterns("__pycache__", "*.egg-info", "*.part")
        for name in ("sca_deploy", "hardware", "exporters", "configs"):
            shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=leftovers)
        for file in ("pyproject.toml", "LICENSE", "README.md"):
            shutil.copy(ROOT / file, copy)

    return once("source", make) / "sca-deploy"


@pytest.fixture(scope="session")
def wheel(source_copy: Path, once: Once, bare_environment: dict[str, str]) -> Path:
    """The wheel, built from the tree without network."""

    def make(folder: Path) -> None:
        build = ["-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(source_copy)]
        run_python(sys.executable, build, folder, bare_environment)

    [built] = once("wheel", make).glob("*.whl")
    return built


@pytest.fixture(scope="session")
def installed_wheel(wheel: Path, once: Once, bare_environment: dict[str, str]) -> Path:
    """The Python of a virtual environment holding the wheel, with `sca-deploy` beside it.

    The dependencies are those of the environment the tests run in; the tree itself is out of reach as
    long as the child is started with `env=bare_environment` and outside the repository.
    """

    def make(folder: Path) -> None:
        venv.create(folder, symlinks=True, with_pip=True)
        python = folder / "bin" / "python"
        run_python(python, ["-m", "pip", "install", "--no-index", "--no-deps", str(wheel)], folder, bare_environment)
        ask = ["-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
        site_packages = Path(run_python(python, ask, folder, bare_environment).strip())
        # Python reads no .pth file of a folder that is itself named by one, so the editable install stays behind.
        dependencies = {sysconfig.get_path(kind) for kind in ("purelib", "platlib")}
        (site_packages / "dependencies.pth").write_text("\n".join(sorted(dependencies)) + "\n")

    return once("installed", make) / "bin" / "python"


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
    env = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    line = [command(), *map(str, arguments)]
    return subprocess.run(line, cwd=cwd, env=env, capture_output=True, text=True, timeout=280)


@pytest.fixture(scope="session")
def digits_run(once: Once) -> Path:
    """A whole `sca-deploy run` on the real digits, shortened to six epochs. Tests must not change it."""

    def make(folder: Path) -> None:
        done = sca_deploy("run", "digits", "--epochs", 6, "-o", folder / "digits")
        if done.returncode:
            pytest.fail(f"the run ended with {done.returncode}\n{done.stderr}")
        (folder / "stdout").write_text(done.stdout)
        (folder / "stderr").write_text(done.stderr)

    return once("six-epochs", make) / "digits"


@pytest.fixture(scope="session")
def shell_environment(root: Path) -> dict[str, str]:
    """One thread, 200 columns, no colours, and the `sca-deploy` and `python` that the tests run in."""
    path = os.pathsep.join(
        [str(Path(command()).parent), str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
    )
    fixed = {"PATH": path, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "COLUMNS": "200", "NO_COLOR": "1"}
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")} | fixed


@pytest.fixture(scope="session")
def first_run(once: Once, shell_environment: dict[str, str]) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """`sca-deploy run digits`, all its epochs: the folder, which is copied and not changed, and what was printed."""

    def make(folder: Path) -> None:
        done = subprocess.run(
            FIRST_RUN.split(), cwd=folder, env=shell_environment, capture_output=True, text=True, timeout=240
        )
        if done.returncode:
            pytest.fail(f"{FIRST_RUN} ended with {done.returncode}\n{done.stderr}")
        (folder / "stdout").write_text(done.stdout)
        (folder / "stderr").write_text(done.stderr)

    folder = once("all-epochs", make)
    said = ((folder / name).read_text() for name in ("stdout", "stderr"))
    return folder / "runs" / "digits", subprocess.CompletedProcess(FIRST_RUN, 0, *said)


@pytest.fixture(scope="session")
def shared_data(root):
    """The folder of real files that are not part of the project."""
    folder = Path(os.environ.get("SCA_DEPLOY_SHARED_DATA", root.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there: set SCA_DEPLOY_SHARED_DATA to the folder of real NIR files and recordings")
    return folder


LONG = (
    "tests/docs/test_commands.py",
    "tests/test_notebooks.py",
    "tests/hardware/test_lava.py",
    "tests/test_paper_recipes.py",
    "tests/report/test_browser.py",
    "tests/sweep/test_cluster_sweep.py",
    "tests/test_train.py",
    "tests/test_cli.py",
    "tests/test_budget_pipeline.py",
    "tests/test_benchmarks.py",
    "tests/sweep",
    "tests/test_wide.py",
    "tests/study/test_study.py",
    "tests/test_cluster.py",
    "tests/test_pipeline.py",
    "tests/hardware/test_lava_hazards.py",
    "tests/pruning/test_methods.py",
    "tests/test_api.py",
    "tests/test_residual_pipeline.py",
    "tests/exporters/test_netx_reading.py",
    "tests/test_prune_command.py",
    "tests/docs",
)
"""Files and folders that take long, the longest first: workers take whole files, and the last to end is waited for."""


def pytest_collection_modifyitems(items):
    """Put what takes long first; the rest stays in the order of its names."""

    def place(item):
        path = item.path.relative_to(ROOT).as_posix()
        return next((at for at, long in enumerate(LONG) if path == long or path.startswith(f"{long}/")), len(LONG))

    items.sort(key=place)


def pytest_terminal_summary(terminalreporter):
    """Say which other frameworks the tests were run with."""
    stats = terminalreporter.stats
    lines = which_ran([report for kind in ("passed", "failed", "skipped") for report in stats.get(kind, [])])
    if lines:
        terminalreporter.section("other frameworks")
        for line in lines:
            terminalreporter.write_line(line)


@pytest.fixture
def in_process(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str, str]]:
    """Runs the command line in this process; gives its exit code, stdout and stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["sca-deploy", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return run
