"""`sca-deploy data list|fetch|check`, on sets of the real formats served from this machine."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from sca_deploy.data.catalogue import CATALOGUE
from sca_deploy.data.cifar import CifarSet, load_cifar
from sca_deploy.data.dataset import Dataset
from sca_deploy.data.fetch import SOURCES, Archive
from sca_deploy.data_commands import data
from sca_deploy.errors import ScaDeployError
from tests.data.server import Site, serving

rng = np.random.default_rng(0)
FILES = {
    "train.bin": b"".join(bytes([label]) + rng.bytes(3072) for label in (0, 1, 1, 0)),
    "test.bin": b"".join(bytes([label]) + rng.bytes(3072) for label in (1, 0)),
}
TINY = CifarSet(
    name="cifar-10",
    train={"train.bin": 4},
    test={"test.bin": 2},
    classes=2,
    get="draw it",
    folders=("cifar-10-batches-bin",),
    python=(),
    md5={name: hashlib.md5(content).hexdigest() for name, content in FILES.items()},
)


@pytest.fixture(autouse=True)
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a user's data sets, with nothing in it."""
    monkeypatch.setenv("SCA_DEPLOY_DATA", str(tmp_path / "user"))
    return tmp_path / "user"


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A CIFAR of six images in the place of the real one, published on this machine."""

    def load(folder: Path | None, steps: int | None, size: int) -> Dataset:
        return load_cifar(TINY, folder)

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as packed:
        for name, content in FILES.items():
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            info.size = len(content)
            packed.addfile(info, io.BytesIO(content))
    with serving({"/cifar.tar.gz": buffer.getvalue()}) as site:
        md5 = hashlib.md5(buffer.getvalue()).hexdigest()
        archive = Archive(f"{site.url}/cifar.tar.gz", md5, "cifar.tar.gz", ("cifar-10-batches-bin",))
        monkeypatch.setitem(SOURCES, "cifar-10", (archive,))
        monkeypatch.setitem(
            CATALOGUE, "cifar-10", replace(CATALOGUE["cifar-10"], load=load, find=TINY.find, get="draw it")
        )
        yield site


def run(*arguments: object) -> Result:
    return CliRunner().invoke(data, [*map(str, arguments)])


def document(*arguments: object) -> Any:
    done = run(*arguments, "--json")
    assert done.exit_code == 0, done.exception
    return json.loads(done.stdout)


def refusal(*arguments: object) -> ScaDeployError:
    """The error, of one line and one line how to mend it, with the exit code 1."""
    error = run(*arguments).exception
    assert isinstance(error, ScaDeployError), error
    assert error.exit_code == 1
    assert "\n" not in error.problem + error.fix
    return error


def test_list_names_every_set_and_what_is_missing(user: Path) -> None:
    listed = {entry["name"]: entry for entry in document("list")}
    assert set(listed) == {
        *("digits", "mnist", "fashion-mnist", "cifar-10", "cifar-100", "tiny-imagenet", "image-folder", "npz"),
        *("n-mnist", "dvs-cifar10", "dvs128-gesture", "shd", "simulated-n-mnist"),
    }
    assert listed["digits"]["found"] == "inside scikit-learn"
    assert listed["cifar-100"]["found"] is None
    assert listed["cifar-100"]["frame"] == [3, 32, 32]
    assert (listed["cifar-100"]["classes"], listed["cifar-100"]["train"]) == (100, 50_000)
    row = next(line for line in run("list").stdout.splitlines() if line.startswith("cifar-100"))
    assert row.split() == ["cifar-100", "3", "x", "32", "x", "32", "100", "50,000", "10,000", "missing"]


def test_list_says_where_a_set_is(user: Path, site: Site) -> None:
    run("fetch", "cifar-10")
    [entry] = [entry for entry in document("list") if entry["name"] == "cifar-10"]
    assert entry["found"] == str(user / "cifar-10/cifar-10-batches-bin")


def test_fetch_puts_a_set_where_check_and_training_find_it(user: Path, site: Site) -> None:
    fetched = document("fetch", "cifar-10")
    assert fetched == {"name": "cifar-10", "found": str(user / "cifar-10/cifar-10-batches-bin"), "fetched": True}
    checked = document("check", "cifar-10")
    assert (checked["train"], checked["test"], checked["classes"]) == (4, 2, 2)
    assert sorted(path.name for path in (user / "cifar-10").rglob("*") if path.is_file()) == ["test.bin", "train.bin"]


def test_fetch_into_a_folder_of_the_users(tmp_path: Path, site: Site) -> None:
    assert run("fetch", "cifar-10", "--folder", tmp_path / "mine").exit_code == 0
    assert document("check", "cifar-10", "--folder", tmp_path / "mine")["found"].startswith(str(tmp_path / "mine"))


def test_fetch_of_a_sound_set_asks_for_nothing(site: Site) -> None:
    run("fetch", "cifar-10")
    assert not document("fetch", "cifar-10")["fetched"]
    assert len(site.asked) == 1


def test_fetch_shows_progress_on_stderr_and_the_next_command() -> None:
    content = b"\x1f\x8b" + bytes(3 << 20)
    with serving({"/train-images-idx3-ubyte.gz": content}) as site, pytest.MonkeyPatch.context() as patch:
        archive = Archive(
            f"{site.url}/train-images-idx3-ubyte.gz", hashlib.md5(content).hexdigest(), "train-images-idx3-ubyte.gz"
        )
        patch.setitem(SOURCES, "mnist", (archive,))
        done = run("fetch", "mnist")
    assert "train-images-idx3-ubyte.gz: 3/3  MiB" in done.stderr
    assert done.stderr.splitlines()[-1] == "next: sca-deploy data check mnist"
    assert "mnist" in done.stdout


def test_a_truncated_download_is_continued_by_the_same_command(site: Site) -> None:
    site.sends = 1000
    error = refusal("fetch", "cifar-10")
    assert "stopped after 1,000 of" in error.problem
    assert error.fix == "repeat the command, it continues from there"
    site.sends = None
    assert document("fetch", "cifar-10")["fetched"]
    assert site.asked[-1] == ("/cifar.tar.gz", "bytes=1000-")


def test_an_archive_of_the_wrong_hash_is_refused(user: Path, site: Site) -> None:
    site.files["/cifar.tar.gz"] += b"\0"
    assert "sent a file of MD5" in refusal("fetch", "cifar-10").problem
    assert not any(path.is_file() for path in user.rglob("*"))


def test_without_the_server_the_other_way_is_told(user: Path, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving({}) as gone:
        url = gone.url
    monkeypatch.setitem(SOURCES, "cifar-10", (replace(SOURCES["cifar-10"][0], url=f"{url}/cifar.tar.gz"),))
    error = refusal("fetch", "cifar-10")
    assert error.problem.startswith(f"cannot reach {url}/cifar.tar.gz")
    assert error.fix == f"get it another way: draw it to {user / 'cifar-10'}"
    assert not user.exists()


def test_fetch_leaves_a_damaged_set_to_the_user(user: Path, site: Site) -> None:
    run("fetch", "cifar-10")
    path = user / "cifar-10/cifar-10-batches-bin/test.bin"
    path.write_bytes(path.read_bytes()[:-1])
    error = refusal("fetch", "cifar-10")
    assert f"{path} is cut short" in error.problem
    assert error.fix == f"delete {path.parent} and repeat the command"


def test_check_names_the_first_bad_file(user: Path, site: Site) -> None:
    run("fetch", "cifar-10")
    path = user / "cifar-10/cifar-10-batches-bin/train.bin"
    content = bytearray(path.read_bytes())
    content[2000] ^= 1
    path.write_bytes(content)
    assert refusal("check", "cifar-10").problem.startswith(f"{path} has MD5")


def test_check_of_a_missing_set_says_how_to_get_it() -> None:
    assert refusal("check", "cifar-100").fix.startswith("run `sca-deploy data fetch cifar-100`")


def test_digits_are_there_already() -> None:
    assert document("check", "digits")["train"] == 1_437
    assert document("fetch", "digits") == {"name": "digits", "found": "inside scikit-learn", "fetched": False}


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for split in ("train", "val"):
        for name, grey in (("dark", 10), ("light", 200)):
            (tmp_path / "pictures" / split / name).mkdir(parents=True)
            Image.new("L", (6, 6), grey).save(tmp_path / "pictures" / split / name / "0.png")
    return tmp_path / "pictures"


def test_check_decodes_every_image_though_they_were_decoded_before(pictures: Path) -> None:
    assert document("check", "image-folder", "--folder", pictures)["frame"] == [1, 6, 6]
    path = pictures / "val/light/0.png"
    status, content = path.stat(), bytearray(path.read_bytes())
    content[40:60] = bytes(20)
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert f"{path} cannot be decoded" in refusal("check", "image-folder", "--folder", pictures).problem


def test_check_of_images_of_several_sizes_takes_a_size(pictures: Path) -> None:
    Image.new("L", (9, 6), 10).save(pictures / "train/dark/1.png")
    assert "--size" in refusal("check", "image-folder", "--folder", pictures).fix
    assert document("check", "image-folder", "--folder", pictures, "--size", 5)["frame"] == [1, 5, 5]


def test_what_is_made_from_another_set_is_got_and_checked_as_that_one(user: Path) -> None:
    with serving({}) as site, pytest.MonkeyPatch.context() as patch:
        site.files["/train-images-idx3-ubyte.gz"] = b"not gzipped"
        archive = Archive(
            f"{site.url}/train-images-idx3-ubyte.gz",
            hashlib.md5(b"not gzipped").hexdigest(),
            "train-images-idx3-ubyte.gz",
        )
        patch.setitem(SOURCES, "mnist", (archive,))
        assert document("fetch", "simulated-n-mnist")["found"] == str(user / "mnist")
    path = user / "mnist/train-images-idx3-ubyte.gz"
    assert refusal("check", "simulated-n-mnist").problem.startswith(f"{path} is not a sound gzip file")


def test_check_reads_every_recording(tmp_path: Path) -> None:
    pytest.importorskip("tonic")
    for split in ("Train", "Test"):
        for digit in range(10):
            (tmp_path / split / str(digit)).mkdir(parents=True)
            # x, y, then one bit of polarity and 23 of microseconds: two events, 100 us apart.
            (tmp_path / split / str(digit) / "00001.bin").write_bytes(bytes([3, 4, 0, 0, 0, 33, 33, 128, 0, 100]))
    found = document("check", "n-mnist", "--folder", tmp_path)
    assert (found["frame"], found["train"], found["test"]) == ([2, 34, 34], 10, 10)
    path = tmp_path / "Test/7/00001.bin"
    path.write_bytes(bytes([3, 34, 0, 0, 0, 33, 33, 128, 0, 100]))
    assert refusal("check", "n-mnist", "--folder", tmp_path).problem.startswith(f"{path} holds an event with y = 34")


@pytest.mark.parametrize("command", ["fetch", "check"])
def test_an_unknown_set_is_answered_with_the_nearest(command: str) -> None:
    error = run(command, "cifar10").exception
    assert isinstance(error, ScaDeployError)
    assert error.exit_code == 2
    assert "did you mean 'cifar-10'?" in error.fix
