"""Writing files so that a kill or a full disk never leaves half a file under its final name."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sca_deploy.errors import ScaDeployError


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` that takes its place only when the block succeeds.

    Raises:
        ScaDeployError: if the file cannot be written (full disk, no permission).
    """
    final = Path(path)
    temporary: Path | None = None
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=final.parent, prefix=f".{final.name}.", suffix=".part")
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, final)
    except OSError as error:
        raise ScaDeployError(
            f"cannot write {final}: {error.strerror or error}", "free some space or choose another --output"
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield a temporary folder that replaces `path` as a whole when the block succeeds.

    Raises:
        ScaDeployError: if the folder cannot be written.
    """
    final = Path(path).resolve()  # "." must not end up inside itself
    temporary: Path | None = None
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=final.parent, prefix=f".{final.name}.", suffix=".part"))
        new, old = temporary / "new", temporary / "old"
        new.mkdir()
        yield new
        if final.exists():
            os.replace(final, old)
        os.replace(new, final)
    except OSError as error:
        raise ScaDeployError(
            f"cannot write {final}: {error.strerror or error}", "free some space or choose another --output"
        ) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` atomically, UTF-8."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, document: Any) -> None:
    """Write `document` atomically as indented JSON; NaN and infinities are refused."""
    write_text(path, json.dumps(document, indent=2, allow_nan=False) + "\n")


def write_table(path: str | Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows with equal keys as CSV, atomically; without rows the file is empty."""
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    write_text(path, text.getvalue())


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        ScaDeployError: if it is missing or not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ScaDeployError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise ScaDeployError(
            f"{path} is not valid JSON: {error}", "delete it and repeat the command that wrote it"
        ) from error


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()
