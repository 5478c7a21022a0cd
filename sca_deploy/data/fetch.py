"""Getting published data sets from where they are published.

A download grows in NAME.part beside its final place and is continued there when the command is repeated. Only an
archive of the published hash is opened; of its members only plain files that belong to the set are written, and they
are put in place when all are whole. What is already in the place is left alone.
"""

from __future__ import annotations

import gzip
import hashlib
import http.client
import shutil
import tarfile
import tempfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from sca_deploy.errors import ScaDeployError

TIMEOUT = 30.0
BLOCK = 1 << 20
Progress = Callable[[int, int], None]
"""Called with the bytes that are there and the bytes there will be (0: the server does not say)."""


@dataclass(frozen=True)
class Archive:
    """A published file.

    Args:
        url: where it is published.
        md5: its published MD5.
        file: what to call it.
        holds: the folders or files at its top that make up the set; none if the file itself is part of the set.
    """

    url: str
    md5: str
    file: str
    holds: tuple[str, ...] = ()

    @property
    def products(self) -> tuple[str, ...]:
        """What is in place once this has been fetched."""
        return self.holds or (self.file,)


def _idx(base: str, md5: Mapping[str, str]) -> tuple[Archive, ...]:
    return tuple(Archive(f"{base}{file}", digest, file) for file, digest in md5.items())


SOURCES: dict[str, tuple[Archive, ...]] = {
    "mnist": _idx(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        {
            "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
            "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
            "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
        },
    ),
    "fashion-mnist": _idx(
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        {
            "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
            "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
            "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
        },
    ),
    "cifar-10": (
        Archive(
            "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
            "c32a1d4ab5d03f1284b67883e8d87530",
            "cifar-10-binary.tar.gz",
            ("cifar-10-batches-bin",),
        ),
    ),
    "cifar-100": (
        Archive(
            "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
            "03b5dce01913d631647c71ecec9e9cb8",
            "cifar-100-binary.tar.gz",
            ("cifar-100-binary",),
        ),
    ),
    "n-mnist": (
        Archive(
            "https://data.mendeley.com/public-files/datasets/468j46mzdv/files/"
            "39c25547-014b-4137-a934-9d29fa53c7a0/file_downloaded",
            "20959b8e626244a1b502305a9e6e2031",
            "Train.zip",
            ("Train",),
        ),
        Archive(
            "https://data.mendeley.com/public-files/datasets/468j46mzdv/files/"
            "05a4d654-7e03-4c15-bdfa-9bb2bcbea494/file_downloaded",
            "69ca8762b2fe404d9b9bad1103e97832",
            "Test.zip",
            ("Test",),
        ),
    ),
    "dvs-cifar10": tuple(
        Archive(f"https://ndownloader.figshare.com/files/{number}", md5, f"{name}.zip", (name,))
        for name, number, md5 in (
            ("airplane", 7712788, "0afd5c4bf9ae06af762a77b180354fdd"),
            ("automobile", 7712791, "8438dfeba3bc970c94962d995b1b9bdd"),
            ("bird", 7712794, "a9c207c91c55b9dc2002dc21c684d785"),
            ("cat", 7712812, "52c63c677c2b15fa5146a8daf4d56687"),
            ("deer", 7712815, "b6bf21f6c04d21ba4e23fc3e36c8a4a3"),
            ("dog", 7712818, "f379ebdf6703d16e0a690782e62639c3"),
            ("frog", 7712842, "cad6ed91214b1c7388a5f6ee56d08803"),
            ("horse", 7712851, "e7cbbf77bec584ffbf913f00e682782a"),
            ("ship", 7712836, "41c7bd7d6b251be82557c6cce9a7d5c9"),
            ("truck", 7712839, "89f3922fd147d9aeff89e76a2b0b70a7"),
        )
    ),
    # The publisher's own archive can only be got with a browser; this is the edition of the makers of tonic.
    "dvs128-gesture": tuple(
        Archive(f"https://ndownloader.figshare.com/files/{number}", md5, f"{name}.tar.gz", (name,))
        for name, number, md5 in (
            ("ibmGestureTrain", 38022171, "3a8f0d4120a166bac7591f77409cb105"),
            ("ibmGestureTest", 38020584, "56070e45dadaa85fff82e0fbfbc06de5"),
        )
    ),
    "shd": tuple(
        Archive(f"https://zenkelab.org/datasets/{name}.zip", md5, f"{name}.zip", (name,))
        for name, md5 in (
            ("shd_train.h5", "f3252aeb598ac776c1b526422d90eecb"),
            ("shd_test.h5", "1503a5064faa34311c398fb0a1ed0a6f"),
        )
    ),
    "tiny-imagenet": (
        Archive(
            "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
            "90528d7ca1a48142e341f4ef8d21d0de",
            "tiny-imagenet-200.zip",
            ("tiny-imagenet-200",),
        ),
    ),
}
"""Where each set is published; the hashes are those that its authors, torchvision or tonic give."""


def fetch(archive: Archive, place: Path, otherwise: str = "", progress: Progress | None = None) -> bool:
    """Download an archive and unpack its part of the set, unless that is in place.

    Args:
        archive: what to get.
        place: the folder for its products.
        otherwise: how to get the set when the server cannot be reached.
        progress: called while bytes arrive.

    Returns:
        Whether anything had to be fetched.

    Raises:
        ScaDeployError: if the server cannot be reached or stops early, what it sent is not the published file, the
            archive is not sound, or the disk is full.
    """
    if all((place / product).exists() for product in archive.products):
        return False
    unfinished = place / f"{archive.file}.part"
    try:
        _download(archive, unfinished, otherwise, progress)
        _check_md5(archive, unfinished)
        if archive.holds:
            _unpack(archive, unfinished, place)
            unfinished.unlink()
        else:
            unfinished.replace(place / archive.file)
    except OSError as error:
        raise ScaDeployError(
            f"cannot write {place}: {error.strerror or error}", "free some space, or name another --folder"
        ) from error
    return True


def _download(archive: Archive, unfinished: Path, otherwise: str, progress: Progress | None) -> None:
    """Fetch into `unfinished` what it lacks."""
    there = unfinished.stat().st_size if unfinished.exists() else 0
    with _response(archive.url, there, otherwise) as response:
        if response is None:
            return
        continued = response.status == http.client.PARTIAL_CONTENT
        there = there if continued else 0
        length = int(response.headers.get("Content-Length") or 0)
        total = there + length if length else 0
        unfinished.parent.mkdir(parents=True, exist_ok=True)
        with unfinished.open("ab" if continued else "wb") as file:
            for block in _blocks(response, archive.url):
                file.write(block)
                there += len(block)
                if progress is not None:
                    progress(there, total)
    if there < total:
        raise ScaDeployError(
            f"{archive.url} stopped after {there:,} of {total:,} bytes", "repeat the command, it continues from there"
        )


@contextmanager
def _response(url: str, start: int, otherwise: str) -> Iterator[http.client.HTTPResponse | None]:
    """The answer to a request for a file from byte `start` on; None if the server says that there is nothing more."""
    headers = {"User-Agent": "sca-deploy", **({"Range": f"bytes={start}-"} if start else {})}
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if start and error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            yield None
            return
        raise ScaDeployError(f"{url} answers {error.code} {error.reason}", otherwise) from error
    except (urllib.error.URLError, OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise ScaDeployError(f"cannot reach {url}: {reason}", otherwise) from error
    with response:
        yield response


def _blocks(response: http.client.HTTPResponse, url: str) -> Iterator[bytes]:
    """What arrives, until nothing does; the caller knows from the number of bytes whether that was all."""
    while True:
        try:
            block = response.read(BLOCK)
        except http.client.IncompleteRead as error:
            block = error.partial
        except (OSError, http.client.HTTPException) as error:
            raise ScaDeployError(f"{url} broke off: {error}", "repeat the command, it continues from there") from error
        if not block:
            return
        yield block


def _check_md5(archive: Archive, path: Path) -> None:
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        for block in iter(lambda: file.read(BLOCK), b""):
            digest.update(block)
    if digest.hexdigest() != archive.md5:
        path.unlink()
        raise ScaDeployError(
            f"{archive.url} sent a file of MD5 {digest.hexdigest()}, the published one has {archive.md5}",
            "repeat the command; what was sent is deleted",
        )


def _unpack(archive: Archive, path: Path, place: Path) -> None:
    """Write what belongs to the set out of an archive, and put it in place when all is whole."""
    temporary = Path(tempfile.mkdtemp(dir=place, prefix=f".{archive.file}."))
    try:
        with _members(path, archive.file) as members:
            for name, opened in members:
                parts = _safe_parts(archive, name)
                if parts[0] in archive.holds:
                    target = temporary.joinpath(*parts)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with opened() as stream, target.open("wb") as file:
                        shutil.copyfileobj(stream, file, BLOCK)
        for product in archive.holds:
            if not (temporary / product).exists():
                raise ScaDeployError(f"{archive.file} holds no {product}")
            if (place / product).exists():
                raise ScaDeployError(f"{place / product} is there, but not all that {archive.file} holds", "delete it")
        for product in archive.holds:
            (temporary / product).replace(place / product)
    except (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, EOFError, ValueError) as error:
        raise ScaDeployError(f"{archive.file} is not a sound archive: {error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _members(path: Path, name: str) -> Iterator[Iterator[tuple[str, Callable[[], IO[bytes]]]]]:
    """The plain files of a .zip or .tar archive: their names and what opens them. Links and devices are left out."""
    if name.endswith(".zip"):
        with zipfile.ZipFile(path) as zipped:
            yield ((info.filename, partial(zipped.open, info)) for info in zipped.infolist() if not info.is_dir())
    else:
        with tarfile.open(path) as tarred:
            yield ((member.name, partial(_tarred, tarred, member)) for member in tarred if member.isfile())


def _tarred(archive: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    stream = archive.extractfile(member)
    if stream is None:
        raise tarfile.TarError(f"{member.name} has no content")
    return stream


def _safe_parts(archive: Archive, name: str) -> tuple[str, ...]:
    """The parts of a member's path, none of which leads out of the folder it is written to."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name or not path.parts:
        raise ScaDeployError(f"{archive.file} holds a file of the unsafe name {name!r}", "do not use this archive")
    return path.parts
