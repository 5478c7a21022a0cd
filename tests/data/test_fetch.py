"""Downloads: continued, checked, unpacked without leaving their folder, and put in place whole or not at all."""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sca_deploy.data.catalogue import CATALOGUE
from sca_deploy.data.fetch import SOURCES, Archive, fetch
from sca_deploy.errors import ScaDeployError
from tests.data.server import Site, serving

CONTENT = {"set/a.bin": bytes(range(256)) * 20, "set/deep/b.bin": b"b" * 999, "readme.txt": b"not of the set"}


def tar(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


@pytest.fixture
def site() -> Iterator[Site]:
    with serving({}) as site:
        yield site


def published(site: Site, content: bytes, file: str = "set.tar.gz", holds: tuple[str, ...] = ("set",)) -> Archive:
    """The content as if published under that name, and served."""
    site.files[f"/{file}"] = content
    return Archive(f"{site.url}/{file}", hashlib.md5(content).hexdigest(), file, holds)


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


OF_THE_SET = {name: content for name, content in CONTENT.items() if name.startswith("set/")}


@pytest.mark.parametrize(("file", "pack"), [("set.tar.gz", tar), ("set.zip", zipped)], ids=["tar", "zip"])
def test_only_what_belongs_to_the_set_is_left(site: Site, tmp_path: Path, file: str, pack) -> None:
    assert fetch(published(site, pack(CONTENT), file), tmp_path / "place")
    assert tree(tmp_path / "place") == OF_THE_SET


def test_a_single_file_at_the_top_of_an_archive_can_be_the_set(site: Site, tmp_path: Path) -> None:
    fetch(published(site, zipped({"shd.h5": b"spikes"}), "shd.h5.zip", ("shd.h5",)), tmp_path)
    assert tree(tmp_path) == {"shd.h5": b"spikes"}


def test_a_file_that_is_part_of_the_set_stays_packed(site: Site, tmp_path: Path) -> None:
    fetch(published(site, b"as it is", "images.gz", ()), tmp_path)
    assert tree(tmp_path) == {"images.gz": b"as it is"}


def test_what_is_in_place_is_not_asked_for(site: Site, tmp_path: Path) -> None:
    archive = published(site, tar(CONTENT))
    assert fetch(archive, tmp_path)
    assert not fetch(archive, tmp_path)
    assert len(site.asked) == 1


def test_a_truncated_download_is_told_and_continued(site: Site, tmp_path: Path) -> None:
    archive = published(site, tar(CONTENT))
    size = len(site.files["/set.tar.gz"])
    site.sends = 100
    with pytest.raises(ScaDeployError, match=f"set.tar.gz stopped after 100 of {size} bytes") as error:
        fetch(archive, tmp_path)
    assert "repeat the command" in error.value.fix
    assert list(tree(tmp_path)) == ["set.tar.gz.part"]
    site.sends = None
    fetch(archive, tmp_path)
    assert [asked for _, asked in site.asked] == [None, "bytes=100-"]
    assert tree(tmp_path) == OF_THE_SET


def test_a_server_that_cannot_continue_sends_all_again(site: Site, tmp_path: Path) -> None:
    archive = published(site, tar(CONTENT))
    (tmp_path / "set.tar.gz.part").write_bytes(b"x" * 100)
    site.ranges = False
    fetch(archive, tmp_path)
    assert tree(tmp_path) == OF_THE_SET


def test_a_download_that_was_whole_before_it_was_unpacked_is_used(site: Site, tmp_path: Path) -> None:
    archive = published(site, tar(CONTENT))
    (tmp_path / "set.tar.gz.part").write_bytes(site.files["/set.tar.gz"])
    fetch(archive, tmp_path)
    assert tree(tmp_path) == OF_THE_SET


def test_a_file_of_another_hash_is_deleted(site: Site, tmp_path: Path) -> None:
    archive = published(site, tar(CONTENT))
    site.files["/set.tar.gz"] = tar({"set/a.bin": b"other"})
    sent = hashlib.md5(site.files["/set.tar.gz"]).hexdigest()
    with pytest.raises(ScaDeployError, match=f"sent a file of MD5 {sent}, the published one has {archive.md5}"):
        fetch(archive, tmp_path)
    assert tree(tmp_path) == {}


def test_without_a_server_the_other_way_is_told(site: Site, tmp_path: Path) -> None:
    archive = published(site, b"")
    with serving({}) as gone:
        url = gone.url
    archive = Archive(f"{url}/set.tar.gz", "", "set.tar.gz", ("set",))
    with pytest.raises(ScaDeployError, match=f"^cannot reach {url}/set.tar.gz: .*refused") as error:
        fetch(archive, tmp_path / "place", otherwise="draw it")
    assert error.value.fix == "draw it"
    assert "\n" not in str(error.value)
    assert not (tmp_path / "place").exists()


def test_a_file_that_is_gone_from_the_server_is_told(site: Site, tmp_path: Path) -> None:
    with pytest.raises(ScaDeployError, match=r"/set.zip answers 404 Not Found") as error:
        fetch(Archive(f"{site.url}/set.zip", "", "set.zip"), tmp_path, otherwise="draw it")
    assert error.value.fix == "draw it"


@pytest.mark.parametrize("name", ["../out", "set/../../out", "/tmp/out", "set/..", "..\\out", "C:/out"])
@pytest.mark.parametrize(("file", "pack"), [("set.tar.gz", tar), ("set.zip", zipped)], ids=["tar", "zip"])
def test_a_name_that_leads_out_of_the_folder_is_refused(site: Site, tmp_path: Path, name: str, file: str, pack) -> None:
    archive = published(site, pack({"set/a.bin": b"a", name: b"out"}), file)
    with pytest.raises(ScaDeployError, match=f"{file} holds a file of the unsafe name {re.escape(repr(name))}"):
        fetch(archive, tmp_path / "place")
    assert list(tree(tmp_path)) == [f"place/{file}.part"]


def test_links_are_not_followed_or_made(site: Site, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as packed:
        for name, kind in (("set/soft", tarfile.SYMTYPE), ("set/hard", tarfile.LNKTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, str(tmp_path / "secret")
            packed.addfile(info)
        info = tarfile.TarInfo("set/a.bin")
        info.size = 1
        packed.addfile(info, io.BytesIO(b"a"))
    fetch(published(site, buffer.getvalue()), tmp_path / "place")
    assert [p.name for p in (tmp_path / "place").rglob("*")] == ["set", "a.bin"]


UNSOUND = {
    "not a tar": ("set.tar.gz", b"plain text", "set.tar.gz is not a sound archive"),
    "not a zip": ("set.zip", b"plain text", "set.zip is not a sound archive"),
    "half a tar": ("set.tar.gz", tar(CONTENT)[:150], "set.tar.gz is not a sound archive"),
    "without the set": ("set.zip", zipped({"other/a.bin": b"a"}), "set.zip holds no set"),
}


@pytest.mark.parametrize("case", UNSOUND)
def test_an_unsound_archive_leaves_nothing_in_place(site: Site, tmp_path: Path, case: str) -> None:
    file, content, message = UNSOUND[case]
    with pytest.raises(ScaDeployError, match=message):
        fetch(published(site, content, file), tmp_path)
    assert list(tree(tmp_path)) == [f"{file}.part"]


def test_what_a_user_has_in_the_place_is_not_overwritten(site: Site, tmp_path: Path) -> None:
    archive = published(site, zipped({"one/a": b"a", "two/b": b"b"}), "set.zip", ("one", "two"))
    (tmp_path / "two").mkdir()
    (tmp_path / "two/mine").write_text("mine")
    with pytest.raises(ScaDeployError, match="two is there, but not all that set.zip holds") as error:
        fetch(archive, tmp_path)
    assert error.value.fix == "delete it"
    assert (tmp_path / "two/mine").read_text() == "mine"
    assert not (tmp_path / "one").exists()


def test_a_folder_that_cannot_be_written_is_told(site: Site, tmp_path: Path) -> None:
    (tmp_path / "place").write_text("a file")
    with pytest.raises(ScaDeployError, match=f"cannot write {tmp_path / 'place'}"):
        fetch(published(site, tar(CONTENT)), tmp_path / "place")


def test_progress_counts_the_bytes_that_were_there_before(site: Site, tmp_path: Path) -> None:
    archive = published(site, b"x" * 1000, "x.gz", ())
    (tmp_path / "x.gz.part").write_bytes(b"x" * 400)
    seen: list[tuple[int, int]] = []
    fetch(archive, tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (1000, 1000)
    assert all(total == 1000 and done > 400 for done, total in seen)


def test_every_source_is_of_a_set_and_has_an_md5() -> None:
    assert set(SOURCES) <= set(CATALOGUE)
    for name, archives in SOURCES.items():
        assert len({product for archive in archives for product in archive.products}) == len(archives), name
        for archive in archives:
            assert re.fullmatch("[0-9a-f]{32}", archive.md5)
            assert archive.url.startswith(("https://", "http://"))


def test_every_set_can_be_got_or_says_where_it_comes_from() -> None:
    for name, entry in CATALOGUE.items():
        assert (name in SOURCES) == bool(entry.get), name
        assert entry.get or entry.origin or CATALOGUE[entry.made_from].get, name
