import json
import os
import signal
import subprocess
import sys
import time

import pytest

from sca_deploy.errors import ScaDeployError
from sca_deploy.files import atomic_folder, atomic_path, read_json, write_json, write_text


def test_a_failing_writer_leaves_what_was_there(tmp_path):
    write_text(tmp_path / "a", "old")

    def fail():
        with atomic_path(tmp_path / "a") as path:
            path.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "old"


def test_a_failing_folder_leaves_what_was_there(tmp_path):
    with atomic_folder(tmp_path / "f") as folder:
        (folder / "x").write_text("old")

    def fail():
        with atomic_folder(tmp_path / "f") as folder:
            (folder / "y").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [p.name for p in tmp_path.iterdir()] == ["f"]
    assert [p.name for p in (tmp_path / "f").iterdir()] == ["x"]


def test_a_kill_in_mid_write_leaves_the_old_file_under_its_name(tmp_path):
    write_text(tmp_path / "a", "old")
    script = (
        "import sys, time; from sca_deploy.files import atomic_path\n"
        "with atomic_path(sys.argv[1]) as path:\n"
        "    path.write_text('half'); print('writing', flush=True); time.sleep(60)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "a")], stdout=subprocess.PIPE, text=True, env=os.environ
    )
    with child:
        assert child.stdout.readline() == "writing\n"
        child.send_signal(signal.SIGKILL)
    assert (tmp_path / "a").read_text() == "old"


def test_a_place_that_cannot_be_written_is_one_clear_error():
    started = time.monotonic()
    with pytest.raises(ScaDeployError, match="cannot write /proc/nothing/a"):
        write_text("/proc/nothing/a", "text")
    assert time.monotonic() - started < 5


def test_a_write_that_fails_for_lack_of_space_names_the_file(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ScaDeployError, match="No space left on device"):
        write_text(tmp_path / "a", "text")
    assert not list(tmp_path.iterdir())


def test_nan_never_reaches_a_json_file(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert not list(tmp_path.iterdir())


def test_damaged_json_is_named(tmp_path):
    (tmp_path / "a.json").write_text('{"x": ')
    with pytest.raises(ScaDeployError, match=r"a\.json is not valid JSON"):
        read_json(tmp_path / "a.json")
    write_json(tmp_path / "a.json", {"x": 1})
    assert read_json(tmp_path / "a.json") == json.loads('{"x": 1}')
