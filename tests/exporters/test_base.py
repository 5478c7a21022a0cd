"""Where exporters are found, and what they hand back."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sca_deploy.errors import UsageError
from sca_deploy.exporters.base import Check, Exporter, exporter, exporters


def test_the_targets_of_this_package_are_listed_sorted() -> None:
    assert exporters() == ("lava", "loihi2", "nir", "onnx")


@pytest.mark.parametrize("name", exporters())
def test_every_target_loads_under_its_own_name(name: str) -> None:
    found = exporter(name)
    assert isinstance(found, Exporter)
    assert found.name == name
    assert found.summary
    assert "\n" not in found.summary
    assert found.suffix == "" or found.suffix.startswith(".")


def test_listing_imports_no_format_and_no_torch() -> None:
    code = (
        "import sys; from sca_deploy.exporters.base import exporters; exporters(); "
        "print(sorted({'torch', 'onnx', 'onnxruntime', 'nir', 'h5py', 'lava'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_asking_for_onnx_does_not_import_torch_or_onnx() -> None:
    code = (
        "import sys; from sca_deploy.exporters.base import exporter; exporter('onnx'); "
        "print(sorted({'torch', 'onnx', 'onnxruntime'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_an_unknown_target_is_a_usage_error_that_suggests_the_nearest() -> None:
    with pytest.raises(UsageError, match="unknown target 'onx'") as error:
        exporter("onx")
    assert error.value.exit_code == 2
    assert "did you mean 'onnx'?" in error.value.fix


def install(folder: Path, target: str, source: str) -> None:
    """What a package manager leaves behind of a plug-in with one target."""
    (folder / "plugin_of_test.py").write_text(source)
    info = folder / "plugin_of_test-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin-of-test\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[sca_deploy.exporters]\n{target} = plugin_of_test:Plugin\n")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of installed packages."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "plugin_of_test", raising=False)
    return tmp_path


PLUGIN = """
class Plugin:
    name, summary, suffix = "text", "a text file", ".txt"
    integers, probes = False, False
    def export(self, deployable, output):
        raise NotImplementedError
"""


def test_an_installed_plug_in_is_a_target(site: Path) -> None:
    install(site, "text", PLUGIN)
    assert "text" in exporters()
    assert exporter("text").summary == "a text file"


def test_a_plug_in_cannot_take_the_name_of_a_built_in_target(site: Path) -> None:
    install(site, "nir", PLUGIN)
    assert exporter("nir").suffix == ".nir"


def test_a_plug_in_that_does_not_import_is_named_with_its_reason(site: Path) -> None:
    install(site, "text", "import no_such_module_anywhere")
    assert "text" in exporters()
    with pytest.raises(UsageError, match=r"target 'text' .*plugin_of_test.*no_such_module_anywhere"):
        exporter("text")


def test_a_plug_in_that_cannot_export_is_refused(site: Path) -> None:
    install(site, "text", "class Plugin:\n    name = 'text'")
    with pytest.raises(UsageError, match="is not an Exporter"):
        exporter("text")


@pytest.mark.parametrize(
    ("check", "line"),
    [
        (Check("re-read network.nir", 0.0), "re-read network.nir: maximum difference 0"),
        (Check("8 samples", 1.5e-6, "no spike differs"), "8 samples: maximum difference 1.5e-06, no spike differs"),
        (Check("onnxruntime", None, "not run"), "onnxruntime: not run"),
    ],
)
def test_a_check_reads_as_one_line(check: Check, line: str) -> None:
    assert str(check) == line
