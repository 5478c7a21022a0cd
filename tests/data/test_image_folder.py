"""Sets of image files: the layout, what is decoded, what is refused, and the copy kept for the next load."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sca_deploy.data import load_dataset
from sca_deploy.data.image_folder import load_image_folder
from sca_deploy.errors import ScaDeployError, UsageError

RED, BLUE, GREY = (250, 0, 0), (0, 0, 250), (90, 90, 90)


def draw(path: Path, colour: tuple[int, ...] | int, mode: str = "RGB", size: tuple[int, int] = (6, 4)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)


@pytest.fixture
def folder(tmp_path: Path, home: Path) -> Path:
    """Two classes of plain images, red and blue, 4 high and 6 wide."""
    root = tmp_path / "plain"
    for split, count in (("train", 3), ("test", 2)):
        for name, colour in (("berry", RED), ("sky", BLUE)):
            for number in range(count):
                draw(root / split / name / f"{number}.png", colour)
    return root


def test_classes_are_numbered_by_name_and_files_come_in_order(folder: Path) -> None:
    draw(folder / "train/berry/1.png", (7, 8, 9))
    found = load_image_folder(folder)
    assert found.shape == (3, 4, 6)
    np.testing.assert_array_equal(found.train_y, [0, 0, 0, 1, 1, 1])
    np.testing.assert_array_equal(found.test_y, [0, 0, 1, 1])
    np.testing.assert_array_equal(found.train_x[:, :, 2, 3], [RED, (7, 8, 9), RED, BLUE, BLUE, BLUE])
    assert (found.train_x[1] == np.array([7, 8, 9], np.uint8)[:, None, None]).all()


def test_every_pixel_is_pillows(folder: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "test/sky/0.png")
    np.testing.assert_array_equal(load_image_folder(folder).test_x[2], pixels.transpose(2, 0, 1))


def test_val_takes_the_place_of_test(folder: Path) -> None:
    (folder / "test").rename(folder / "val")
    assert len(load_image_folder(folder).test_y) == 4


@pytest.mark.parametrize("suffix", [".jpg", ".JPEG", ".bmp", ".webp", ".tiff"])
def test_other_formats_are_read(folder: Path, suffix: str) -> None:
    draw(folder / f"train/berry/9{suffix}", RED)
    found = load_image_folder(folder)
    assert len(found.train_y) == 7
    assert np.abs(found.train_x[3].astype(int) - found.train_x[0]).max() <= 8  # some formats lose a little


def test_what_is_no_image_by_its_name_is_left_out(folder: Path) -> None:
    (folder / "train/berry/notes.txt").write_text("ripe")
    (folder / "train/berry/.hidden.png").write_bytes(b"")
    (folder / "train/.cache").mkdir()
    assert len(load_image_folder(folder).train_y) == 6


def test_grey_images_have_one_channel_if_all_are_grey(tmp_path: Path, home: Path) -> None:
    for split in ("train", "test"):
        for name, grey in (("dark", 20), ("light", 220)):
            draw(tmp_path / split / name / "0.png", grey, "L")
    found = load_image_folder(tmp_path)
    assert found.shape == (1, 4, 6)
    np.testing.assert_array_equal(found.train_x[:, 0, 0, 0], [20, 220])


@pytest.mark.parametrize(("mode", "colour"), [("L", 90), ("LA", (90, 3)), ("RGBA", (*GREY, 3)), ("P", GREY)])
def test_among_coloured_images_every_other_kind_becomes_three_channels(
    folder: Path, mode: str, colour: tuple[int, ...] | int
) -> None:
    if mode == "P":
        image = Image.new("RGB", (6, 4), GREY).convert("P", palette=Image.Palette.ADAPTIVE)
        image.save(folder / "train/berry/0.png", transparency=b"\x00")
    else:
        draw(folder / "train/berry/0.png", colour, mode)
    found = load_image_folder(folder)
    assert found.shape == (3, 4, 6)
    np.testing.assert_array_equal(found.train_x[0, :, 0, 0], GREY)


def test_images_of_several_sizes_need_a_size(folder: Path) -> None:
    draw(folder / "train/sky/1.png", BLUE, size=(8, 4))
    with pytest.raises(ScaDeployError, match=r"sky/1\.png is of 4 x 8 pixels, .*berry/0\.png of 4 x 6") as error:
        load_image_folder(folder)
    assert "data.size" in error.value.fix
    found = load_image_folder(folder, size=5)
    assert found.shape == (3, 5, 5)
    np.testing.assert_array_equal(found.train_x[4, :, 4, 4], BLUE)


def test_a_truncated_file_is_named(folder: Path) -> None:
    path = folder / "train/sky/2.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ScaDeployError, match=rf"^{path} cannot be decoded") as error:
        load_image_folder(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n" + bytes(40)])
def test_a_file_that_is_no_image_is_named(folder: Path, content: bytes) -> None:
    (folder / "test/berry/1.png").write_bytes(content)
    with pytest.raises(ScaDeployError, match=r"test/berry/1\.png cannot be decoded"):
        load_image_folder(folder)


def test_pixels_of_16_bits_are_refused(folder: Path) -> None:
    Image.fromarray(np.full((4, 6), 40_000, np.uint16)).save(folder / "train/sky/0.png")
    with pytest.raises(ScaDeployError, match=r"sky/0\.png has pixels of mode I.*at most 8 bits"):
        load_image_folder(folder)


def remove(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    folder.rmdir()


ABSENT: dict[str, tuple[list[str], list[str], str]] = {
    "an empty folder": (["train", "test"], [], "has no folder test or val"),
    "no train": (["train"], [], "has no folder train"),
    "no test": (["test"], [], "has no folder test or val"),
    "an empty split": (["test"], ["test"], "test holds no classes"),
    "an empty class": (["train/sky"], ["train/sky"], "train/sky holds no images"),
    "one class": (["train/sky", "test/sky"], [], "all train labels are 0; at least 2 classes are needed"),
    "a class only to test": (["train/sky"], [], "test/sky is no class of .*train"),
}


@pytest.mark.parametrize("case", ABSENT)
def test_what_is_absent_is_named_in_one_line(folder: Path, case: str) -> None:
    gone, empty, message = ABSENT[case]
    for name in gone:
        remove(folder / name)
    for name in empty:
        (folder / name).mkdir()
    with pytest.raises(ScaDeployError, match=message) as error:
        load_image_folder(folder)
    assert "\n" not in str(error.value)


def test_a_folder_must_be_named() -> None:
    with pytest.raises(UsageError, match="data set 'image-folder' needs a folder"):
        load_dataset("image-folder")


@pytest.fixture
def kept(home: Path) -> Path:
    return home / ".cache/sca-deploy/decoded"


def no_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("decoded again")

    monkeypatch.setattr(Image, "open", refuse)


def test_what_was_decoded_is_not_decoded_again(folder: Path, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_image_folder(folder)
    assert len(list(kept.iterdir())) == 1
    no_decoding(monkeypatch)
    again = load_image_folder(folder)
    np.testing.assert_array_equal(again.train_x, first.train_x)
    np.testing.assert_array_equal(again.test_x, first.test_x)
    np.testing.assert_array_equal(again.train_y, first.train_y)


def test_a_changed_file_is_decoded_again_and_nothing_piles_up(folder: Path, kept: Path) -> None:
    load_image_folder(folder)
    before = (folder / "train/sky/0.png").stat()
    draw(folder / "train/sky/0.png", (1, 2, 3))
    assert (folder / "train/sky/0.png").stat().st_size == before.st_size
    os.utime(folder / "train/sky/0.png", ns=(0, before.st_mtime_ns + 1))
    np.testing.assert_array_equal(load_image_folder(folder).train_x[3, :, 0, 0], (1, 2, 3))
    assert len(list(kept.iterdir())) == 1


def test_a_moved_or_added_file_is_seen(folder: Path) -> None:
    load_image_folder(folder)
    (folder / "train/sky/0.png").rename(folder / "train/berry/5.png")
    np.testing.assert_array_equal(load_image_folder(folder).train_y, [0, 0, 0, 0, 1, 1])


def test_another_size_is_another_copy(folder: Path, kept: Path) -> None:
    assert load_image_folder(folder, 3).shape == (3, 3, 3)
    assert load_image_folder(folder, 4).shape == (3, 4, 4)
    assert load_image_folder(folder, 3).shape == (3, 3, 3)
    assert len(list(kept.iterdir())) == 2


@pytest.mark.parametrize("at", [0, 100, 1000, -1])
def test_a_damaged_copy_is_not_used(folder: Path, kept: Path, at: int) -> None:
    first = load_image_folder(folder)
    [copy] = kept.iterdir()
    content = bytearray(copy.read_bytes())
    content[at] ^= 0xFF
    copy.write_bytes(content if at >= 0 else content[: len(content) // 2])
    np.testing.assert_array_equal(load_image_folder(folder).train_x, first.train_x)


def test_a_cache_that_cannot_be_written_is_a_warning_and_no_more(
    folder: Path, home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    home.write_text("a file where the folder would go")
    with caplog.at_level(logging.WARNING):
        assert len(load_image_folder(folder).train_y) == 6
    [record] = caplog.records
    assert "are not kept for the next time: cannot write" in record.getMessage()
