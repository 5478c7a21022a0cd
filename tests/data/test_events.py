"""Sets of recordings: small files in the publishers' formats, binned, against a loop over the events.

Reading and binning need tonic (and AEDAT 4 needs aedat); without them those tests are skipped.
"""

from __future__ import annotations

import importlib.util
import os
import socket
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from sca_deploy.data import events as events_module
from sca_deploy.data.event_sets import CIFAR_CLASSES, PUBLISHED
from sca_deploy.data.events import EVENT_SETS, SIMULATED, load_events
from sca_deploy.data.idx import FILES, IdxSet
from sca_deploy.data.saccade import saccade_frames
from sca_deploy.errors import MissingExtra, ScaDeployError, UsageError
from tests.data.test_idx import idx, md5s

needs_tonic = pytest.mark.skipif(importlib.util.find_spec("tonic") is None, reason="tonic is not installed")
needs_aedat = pytest.mark.skipif(importlib.util.find_spec("aedat") is None, reason="aedat is not installed")

EVENT = np.dtype([("t", np.int64), ("x", np.int64), ("y", np.int64), ("p", np.int64)])
DV_STREAM = (
    '<dv version="2.0"><node name="outInfo" path="/mainloop/Recorder/outInfo/">'
    '<node name="0" path="/mainloop/Recorder/outInfo/0/"><attr key="compression" type="string">NONE</attr>'
    '<attr key="typeIdentifier" type="string">EVTS</attr><node name="info" path="/mainloop/Recorder/outInfo/0/info/">'
    '<attr key="sizeX" type="int">128</attr><attr key="sizeY" type="int">128</attr></node></node></node></dv>'
)


def recording(seed: int, side: int, height: int | None = None, length: int = 300_000, count: int = 400) -> np.ndarray:
    """Random events in the order of time; the first at 7 us, the last `length` later."""
    rng = np.random.default_rng(seed)
    events = np.zeros(count, EVENT)
    events["t"] = np.sort(rng.integers(0, length, count)) + 7
    events["t"][[0, -1]] = 7, length + 7
    events["x"] = rng.integers(0, side, count)
    events["y"] = rng.integers(0, side if height is None else height, count)
    events["p"] = rng.integers(0, 2, count)
    return events


def frames_by_hand(events: np.ndarray, steps: int, side: int, size: int) -> np.ndarray:
    """One event after the other: bins of whole microseconds from the first event on, what is beyond them dropped."""
    frames = np.zeros((steps, 2, size, size), int)
    length = (int(events["t"].max()) - int(events["t"].min())) // steps
    for event in events:
        step = (int(event["t"]) - int(events["t"].min())) // length
        if step < steps:
            frames[step, event["p"], int(event["y"]) * size // side, int(event["x"]) * size // side] += 1
    return np.minimum(frames, 255)


def n_mnist(path: Path, events: np.ndarray) -> None:
    """x, y, and 24 bits of polarity and time, five bytes an event."""
    path.parent.mkdir(parents=True, exist_ok=True)
    words = (int(e["p"]) << 23 | int(e["t"]) for e in events)
    pixels = (bytes([e["x"], e["y"]]) for e in events)
    path.write_bytes(b"".join(a + w.to_bytes(3, "big") for a, w in zip(pixels, words, strict=True)))


def aedat2(path: Path, events: np.ndarray) -> None:
    """A jAER file of a DVS128, with an event of its synchronisation input in between."""
    path.parent.mkdir(parents=True, exist_ok=True)
    words = [(127 - e["y"] << 8 | 127 - e["x"] << 1 | 1 - e["p"], e["t"]) for e in events]
    words.insert(5, (0x8000, events["t"][5]))
    head = b"#!AER-DAT2.0\r\n# This is a raw AE data file - do not edit\r\n# Timestamps tick is 1 us\r\n"
    path.write_bytes(head + b"".join(struct.pack(">II", *map(int, word)) for word in words))


def aedat3(path: Path, events: np.ndarray) -> None:
    """A cAER file: packets of events, one of another kind, and an event that is not valid."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = [(int(e["x"]) << 17 | int(e["y"]) << 2 | int(e["p"]) << 1 | 1, int(e["t"])) for e in events]
    data.insert(3, (data[3][0] & ~1, data[3][1]))
    out = b"#!AER-DAT3.1\r\n#Format: RAW\r\n#Source 1: DVS128\r\n#!END-HEADER\r\n"
    out += struct.pack("<HHIIIIII", 0, 1, 8, 4, 0, 1, 1, 1) + struct.pack("<II", 3, 0)
    for at in range(0, len(data), 150):
        packet = data[at : at + 150]
        out += struct.pack("<HHIIIIII", 1, 1, 8, 4, 0, len(packet), len(packet), len(packet))
        out += b"".join(struct.pack("<II", *pair) for pair in packet)
    path.write_bytes(out)


def aedat4(path: Path, events: np.ndarray) -> None:
    """A DV file without compression: FlatBuffers of its header and of two packets, laid out by hand."""

    def sized(body: bytes) -> bytes:
        return struct.pack("<I", len(body)) + body

    def packet(part: np.ndarray) -> bytes:
        fields = {"names": ["t", "x", "y", "p"], "formats": ["<i8", "<i2", "<i2", "u1"], "offsets": [0, 8, 10, 12]}
        rows = np.zeros(len(part), np.dtype(fields | {"itemsize": 16}))
        for name in "txyp":
            rows[name] = part[name]
        body = sized(struct.pack("<I4sHHHxxiII", 16, b"EVTS", 6, 8, 4, 8, 4, len(rows)) + rows.tobytes())
        return struct.pack("<ii", 0, len(body)) + body

    path.parent.mkdir(parents=True, exist_ok=True)
    text = DV_STREAM.encode()
    head = struct.pack("<I4sHHHHHxxiI", 20, b"IOHE", 10, 8, 0, 0, 4, 12, 4) + struct.pack("<I", len(text)) + text
    half = len(events) // 2
    path.write_bytes(b"#!AER-DAT4.0\r\n" + sized(head + b"\0") + packet(events[:half]) + packet(events[half:]))


def shd(path: Path, labels: list[int], recordings: list[np.ndarray]) -> None:
    """Times in seconds and channels, one array of each a recording."""
    with h5py.File(path, "w") as file:
        file["labels"] = np.array(labels, np.uint16)
        for name, dtype, field, unit in (("times", np.float64, "t", 1e-6), ("units", np.uint16, "x", 1)):
            rows = file.create_dataset(f"spikes/{name}", (len(recordings),), h5py.vlen_dtype(dtype))
            for i, events in enumerate(recordings):
                rows[i] = (events[field] * unit).astype(dtype)


def write_n_mnist(folder: Path) -> dict[str, list[np.ndarray]]:
    splits = {"Train": [recording(100 + d, 34) for d in range(10)], "Test": [recording(d, 34) for d in range(10)]}
    for split, recordings in splits.items():
        for digit, events in enumerate(recordings):
            n_mnist(folder / split / str(digit) / f"0000{digit}.bin", events)
    return splits


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user without data sets, on a machine without network."""

    def refuse(*_: object) -> None:
        pytest.fail("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.delenv("SCA_DEPLOY_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "set"
    place.mkdir()
    return place


@needs_tonic
@pytest.mark.parametrize(("steps", "size"), [(10, 0), (7, 0), (1, 0), (4, 17), (3, 10), (2, 34)])
def test_n_mnist_is_binned_as_by_a_loop_over_its_events(folder: Path, steps: int, size: int) -> None:
    written = write_n_mnist(folder)
    found = load_events("n-mnist", folder, steps, size)
    for x, y, split in ((found.train_x, found.train_y, "Train"), (found.test_x, found.test_y, "Test")):
        assert y.tolist() == list(range(10))
        np.testing.assert_array_equal(x, [frames_by_hand(e, steps, 34, size or 34) for e in written[split]])
    assert (found.name, found.timed, found.classes, found.pixel_max, found.bits) == ("n-mnist", True, 10, 255, 8)
    assert found.train_x.dtype == np.uint8


@needs_tonic
def test_recordings_of_a_class_come_in_the_order_of_their_numbers(folder: Path) -> None:
    write_n_mnist(folder)
    for number in (10, 9, 100):
        n_mnist(folder / "Test" / "0" / f"{number}.bin", recording(number, 34))
    found = load_events("n-mnist", folder, 2)
    expected = [frames_by_hand(recording(seed, 34), 2, 34, 34) for seed in (0, 9, 10, 100, 1)]
    np.testing.assert_array_equal(found.test_x[:5], expected)
    assert found.test_y[:5].tolist() == [0, 0, 0, 0, 1]


@needs_tonic
@pytest.mark.parametrize("size", [0, 1])
def test_counts_above_255_become_255(folder: Path, size: int) -> None:
    write_n_mnist(folder)
    events = recording(0, 34, count=700)
    events["x"], events["y"], events["p"] = 3, 4, 1
    n_mnist(folder / "Test" / "0" / "00000.bin", events)
    frame = load_events("n-mnist", folder, 1, size).test_x[0, 0]
    assert frame.max() == frame.sum() == 255


@needs_tonic
def test_events_slightly_out_of_order_are_counted_all_the_same(folder: Path) -> None:
    events = recording(0, 34)
    write_n_mnist(folder)
    shuffled = events.copy()
    shuffled[100:300] = shuffled[100:300][::-1]
    n_mnist(folder / "Test" / "0" / "00000.bin", shuffled)
    np.testing.assert_array_equal(load_events("n-mnist", folder, 5).test_x[0], frames_by_hand(events, 5, 34, 34))


@needs_tonic
@pytest.mark.parametrize(
    ("suffix", "write"), [("aedat", aedat2), pytest.param("aedat4", aedat4, marks=needs_aedat)], ids=["2", "4"]
)
def test_dvs_cifar10_keeps_the_last_tenth_of_every_class_to_test(
    folder: Path, suffix: str, write: Callable[[Path, np.ndarray], None]
) -> None:
    for label, name in enumerate(CIFAR_CLASSES):
        for number in range(20 if label == 0 else 2):
            write(folder / name / f"cifar10_{name}_{number}.{suffix}", recording(100 * label + number, 128))
    found = load_events("dvs-cifar10", folder, 3, 32)
    tested = [18, 19, *(100 * label + 1 for label in range(1, 10))]
    trained = [*range(18), *(100 * label for label in range(1, 10))]
    for x, seeds in ((found.train_x, trained), (found.test_x, tested)):
        np.testing.assert_array_equal(x, [frames_by_hand(recording(seed, 128), 3, 128, 32) for seed in seeds])
    assert found.test_y.tolist() == [0, *range(10)]
    assert found.train_y.tolist() == [0] * 18 + list(range(1, 10))


@needs_tonic
def test_dvs128_gesture_is_cut_by_its_tables_and_split_by_its_lists(folder: Path) -> None:
    events = recording(1, 128, count=2000)
    for user, trials in (("user01_fluorescent", "train"), ("user24_led", "test")):
        aedat3(folder / f"{user}.aedat", events)
        rows = "1,1000,90000\n11,100000,200000\n4,200000,290000\n"
        (folder / f"{user}_labels.csv").write_text(f"class,startTime_usec,endTime_usec\n{rows}")
        (folder / f"trials_to_{trials}.txt").write_text(f"{user}.aedat\n\n")
    found = load_events("dvs128-gesture", folder, 5, 16)
    windows = [(1_000, 90_000), (100_000, 200_000), (200_000, 290_000)]
    cut = [events[(events["t"] >= start) & (events["t"] < end)] for start, end in windows]
    for x, y in ((found.train_x, found.train_y), (found.test_x, found.test_y)):
        np.testing.assert_array_equal(x, [frames_by_hand(part, 5, 128, 16) for part in cut])
        assert y.tolist() == [0, 10, 3]
    assert found.classes == 11


@needs_tonic
def test_dvs128_gesture_is_read_in_tonics_edition_too(folder: Path) -> None:
    for split in ("Train", "Test"):
        for label in range(11):
            events = recording(label, 128, length=300)
            place = folder / f"ibmGesture{split}" / "user02_lab"
            place.mkdir(parents=True, exist_ok=True)
            np.save(place / f"{label}.npy", np.stack([events[name] for name in "xypt"], 1).astype(np.float64))
    found = load_events("dvs128-gesture", folder, 4, 32)
    assert found.train_y.tolist() == found.test_y.tolist() == list(range(11))
    for label in range(11):
        events = recording(label, 128, length=300)
        events["t"] *= 1000
        np.testing.assert_array_equal(found.train_x[label], frames_by_hand(events, 4, 128, 32))


@needs_tonic
@pytest.mark.parametrize("size", [0, 140])
def test_shd_gives_counts_of_channels(folder: Path, size: int) -> None:
    recordings = [recording(label, 700, 1) for label in range(20)]
    shd(folder / "shd_train.h5", list(range(20)), recordings)
    shd(folder / "shd_test.h5", [7, 3], recordings[:2])
    found = load_events("shd", folder, 6, size)
    assert found.train_x.shape == (20, 6, size or 700)
    assert found.test_y.tolist() == [7, 3]
    for frames, events in zip(found.train_x, recordings, strict=True):
        expected, length = np.zeros((6, size or 700), int), 300_000 // 6
        for event in events:
            if (step := (event["t"] - 7) // length) < 6:
                expected[step, event["x"] * (size or 700) // 700] += 1
        np.testing.assert_array_equal(frames, expected)


def test_simulated_n_mnist_is_mnist_through_the_converter(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    images = {name: rng.integers(0, 256, (n, 28, 28), np.uint8) for name, n in ((FILES[0], 5), (FILES[2], 2))}
    for name, array in {**images, FILES[1]: np.array([4, 1, 2, 0, 4], np.uint8)}.items():
        (folder / name).write_bytes(idx(array))
    (folder / FILES[3]).write_bytes(idx(np.array([1, 3], np.uint8)))
    monkeypatch.setattr(events_module, "MNIST", IdxSet("mnist", md5s(folder), get=""))
    monkeypatch.setattr(events_module, "_BLOCK", 2)
    found = load_events(SIMULATED, folder, 3)
    assert (found.name, found.timed, found.pixel_max) == ("simulated-n-mnist", True, 255)
    assert found.train_y.tolist() == [4, 1, 2, 0, 4]
    np.testing.assert_array_equal(found.train_x, saccade_frames(images[FILES[0]], 3))
    halved = load_events(SIMULATED, folder, 3, 17)
    np.testing.assert_array_equal(
        halved.test_x, saccade_frames(images[FILES[2]], 3).reshape(2, 3, 2, 17, 2, 17, 2).sum((4, 6))
    )


@needs_tonic
def test_what_was_binned_is_kept_and_read_without_tonic(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_n_mnist(folder)
    first = load_events("n-mnist", folder, 4, 17)
    monkeypatch.setitem(sys.modules, "tonic.transforms", None)
    again = load_events("n-mnist", folder, 4, 17)
    np.testing.assert_array_equal(first.train_x, again.train_x)
    np.testing.assert_array_equal(first.test_x, again.test_x)
    for steps, size in ((5, 17), (4, 0)):
        with pytest.raises(MissingExtra):  # not what was kept
            load_events("n-mnist", folder, steps, size)


@needs_tonic
@pytest.mark.parametrize("damage", [lambda c: c[: len(c) // 2], lambda c: b"", lambda c: c[:99] + bytes(99) + c[198:]])
def test_changed_recordings_and_a_damaged_copy_are_binned_anew(
    folder: Path, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    write_n_mnist(folder)
    first = load_events("n-mnist", folder, 4)
    [kept] = (tmp_path / "cache").rglob("*.npz")
    kept.write_bytes(damage(kept.read_bytes()))
    np.testing.assert_array_equal(load_events("n-mnist", folder, 4).train_x, first.train_x)
    n_mnist(folder / "Test" / "3" / "00003.bin", recording(77, 34, count=500))
    changed = load_events("n-mnist", folder, 4).test_x[3]
    np.testing.assert_array_equal(changed, frames_by_hand(recording(77, 34, count=500), 4, 34, 34))
    assert [path.name for path in (tmp_path / "cache").rglob("*.npz")] == [kept.name]


@needs_tonic
def test_a_cache_that_cannot_be_written_is_no_reason_to_stop(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_n_mnist(folder)
    (tmp_path / "cache").write_text("a file, not a folder")
    assert len(load_events("n-mnist", folder, 2).train_x) == 10
    assert "not kept for the next time" in caplog.text


def test_without_tonic_the_line_that_installs_it_is_given(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_n_mnist(folder)
    for module in ("tonic", "tonic.io", "tonic.transforms"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtra, match="need the tonic package") as error:
        load_events("n-mnist", folder, 4)
    assert error.value.fix == "pip install 'sca-deploy[events]'"


@needs_tonic
def test_reading_imports_neither_torchvision_nor_torchaudio() -> None:
    from tests.conftest import run_python

    code = "import sys, tonic.io, tonic.transforms; print({'torchvision', 'torchaudio'} & set(sys.modules))"
    assert run_python(sys.executable, ["-c", code], Path.cwd(), dict(os.environ)).strip() == "set()"


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("named", [True, False], ids=["folder named", "usual place"])
def test_a_missing_set_is_answered_with_its_source_and_place(
    name: str, named: bool, folder: Path, tmp_path: Path
) -> None:
    place = folder if named else tmp_path / "cache/sca-deploy" / name
    with pytest.raises(ScaDeployError, match=f"data set '{name}' is not in {place}$") as error:
        load_events(name, folder if named else None, 4)
    assert error.value.fix.startswith("get it from https://")
    assert error.value.fix.endswith(f"into {place}")


def test_missing_mnist_is_said_for_the_simulated_set(folder: Path) -> None:
    with pytest.raises(ScaDeployError, match=f"data set 'mnist' is not in {folder}"):
        load_events(SIMULATED, folder, 4)


def test_every_set_is_told_in_one_line() -> None:
    assert set(EVENT_SETS) == {"n-mnist", "dvs-cifar10", "dvs128-gesture", "shd", "simulated-n-mnist"}
    assert all(summary and "\n" not in summary for summary in EVENT_SETS.values())


@pytest.mark.parametrize(
    ("name", "steps", "size", "message"),
    [
        ("n-mnits", 4, 0, "unknown data set 'n-mnits'"),
        ("n-mnist", 0, 0, "0 time bins, at least 1"),
        ("n-mnist", 4, 35, "data.size is 35, but the sensor of data set 'n-mnist' is 34 wide"),
        ("shd", 4, 701, "data.size is 701, but the sensor of data set 'shd' is 700 wide"),
        (SIMULATED, 4, 64, "data.size is 64, but the sensor of data set 'n-mnist' is 34 wide"),
    ],
)
def test_impossible_requests_are_refused(name: str, steps: int, size: int, message: str, folder: Path) -> None:
    with pytest.raises(UsageError, match=message):
        load_events(name, folder, steps, size)


ONE = recording(5, 34)


def changed(field: str, value: int) -> np.ndarray:
    events = ONE.copy()
    events[field][9] = value
    return events


@needs_tonic
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-2]), "is cut short: 1,998 bytes, not a multiple of 5"),
        (lambda path: path.write_bytes(b""), "holds a recording without events"),
        (lambda path: n_mnist(path, changed("x", 34)), "an event with x = 34, outside 0 to 33"),
        (lambda path: n_mnist(path, changed("y", 200)), "an event with y = 200, outside 0 to 33"),
        (lambda path: n_mnist(path, ONE[:1]), "a recording of 0 microseconds, too short for 4 time bins"),
    ],
    ids=["cut short", "empty", "x", "y", "too short"],
)
def test_a_damaged_recording_is_named_in_one_line(folder: Path, damage: Callable[[Path], None], message: str) -> None:
    write_n_mnist(folder)
    path = folder / "Train" / "6" / "00006.bin"
    damage(path)
    with pytest.raises(ScaDeployError, match=rf"{path} .*{message}"):
        load_events("n-mnist", folder, 4)


@pytest.mark.parametrize("empty", ["Test", "Train/4"])
def test_a_class_without_recordings_is_refused(folder: Path, empty: str) -> None:
    write_n_mnist(folder)
    for path in (folder / empty).rglob("*.bin"):
        path.unlink()
    with pytest.raises(ScaDeployError, match=rf"{folder}/{empty}.* holds no .bin files"):
        load_events("n-mnist", folder, 4)


def test_one_recording_a_class_cannot_be_split(folder: Path) -> None:
    aedat2(folder / "airplane" / "cifar10_airplane_0.aedat", ONE)
    with pytest.raises(ScaDeployError, match="airplane holds 1 recording, a split into train and test needs 2"):
        load_events("dvs-cifar10", folder, 4)


AEDAT = [
    (aedat2, "aedat", lambda c: c[:-3], "is cut short: 3,205 bytes of events, not a multiple of 8"),
    (aedat2, "aedat", lambda c: c[:20], "is cut short: it ends in its header"),
    (aedat2, "aedat", lambda c: c.replace(b"DAT2", b"DAT3"), "starts with b'#!AER-DAT3', not with b'#!AER-DAT2'"),
    pytest.param(aedat4, "aedat4", lambda c: c[:-9], "not a sound AEDAT 4 file", marks=needs_aedat),
    pytest.param(aedat4, "aedat4", lambda c: b"x" * len(c), "not a sound AEDAT 4 file: .*magic", marks=needs_aedat),
    pytest.param(aedat4, "aedat4", lambda c: b"", "not a sound AEDAT 4 file", marks=needs_aedat),
]


@needs_tonic
@pytest.mark.parametrize(("write", "suffix", "damage", "message"), AEDAT)
def test_a_damaged_aedat_file_is_named_in_one_line(
    folder: Path,
    write: Callable[[Path, np.ndarray], None],
    suffix: str,
    damage: Callable[[bytes], bytes],
    message: str,
) -> None:
    for name in CIFAR_CLASSES:
        for number in range(2):
            write(folder / name / f"{number}.{suffix}", ONE)
    path = folder / "airplane" / f"0.{suffix}"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ScaDeployError, match=rf"{path} .*{message}"):
        load_events("dvs-cifar10", folder, 4, 32)


def gestures(folder: Path) -> None:
    for split in ("train", "test"):
        aedat3(folder / f"{split}.aedat", ONE)
        (folder / f"{split}_labels.csv").write_text("class,startTime_usec,endTime_usec\n1,0,90000\n2,90000,290000\n")
        (folder / f"trials_to_{split}.txt").write_text(f"{split}.aedat\n")


@needs_tonic
@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        ("train.aedat", lambda c: c[:-3], "train.aedat is cut short: its last packet lacks events"),
        ("train.aedat", lambda c: c + bytes(9), "train.aedat is cut short: its last packet ends in its header"),
        ("train_labels.csv", lambda c: c + b"3,7\n", "train_labels.csv is not a table of class, start and end"),
        ("train_labels.csv", lambda c: c + b"3,400000,500000\n", "train.aedat holds a recording without events"),
        ("train_labels.csv", lambda c: c + b"12,0,90000\n", "train label 11 is outside 0 to 10"),
        ("trials_to_test.txt", lambda c: c + b"other.aedat\n", "cannot read .*other_labels.csv"),
        ("trials_to_test.txt", lambda c: b"\n", "trials_to_test.txt names no recordings"),
    ],
)
def test_damage_to_dvs128_gesture_is_named_in_one_line(
    folder: Path, file: str, damage: Callable[[bytes], bytes], message: str
) -> None:
    gestures(folder)
    (folder / file).write_bytes(damage((folder / file).read_bytes()))
    with pytest.raises(ScaDeployError, match=message):
        load_events("dvs128-gesture", folder, 4, 32)


@needs_tonic
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not a sound array"),
        (b"\x93NUMPY", "is not a sound array"),
        (np.zeros((4, 3)), r"is float64 of shape \(4, 3\), not numbers of \(events, 4\)"),
    ],
)
def test_a_damaged_array_of_gestures_is_named_in_one_line(
    folder: Path, content: bytes | np.ndarray, message: str
) -> None:
    for split in ("Train", "Test"):
        path = folder / f"ibmGesture{split}" / "user01_led" / "0.npy"
        path.parent.mkdir(parents=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            np.save(path, content)
    with pytest.raises(ScaDeployError, match=f"0.npy {message}"):
        load_events("dvs128-gesture", folder, 4)


def test_a_damaged_hdf5_file_is_named_in_one_line(folder: Path) -> None:
    path = folder / "shd_train.h5"
    shd(path, [0, 1, 2], [ONE, ONE, ONE])
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"no HDF5"):
        path.write_bytes(content)
        with pytest.raises(ScaDeployError, match="shd_train.h5 is not a sound HDF5 file"):
            load_events("shd", folder, 4)
    path.write_bytes(whole)
    with pytest.raises(ScaDeployError, match="no such file: .*shd_test.h5"):
        load_events("shd", folder, 4)
    with h5py.File(path, "a") as file:
        del file["labels"]
        file["labels"] = np.zeros(2, np.uint16)
    with pytest.raises(ScaDeployError, match="holds 2 labels, 3 spikes/times, 3 spikes/units"):
        load_events("shd", folder, 4)
    with h5py.File(path, "a") as file:
        del file["labels"]
    with pytest.raises(ScaDeployError, match="shd_train.h5 is not a sound HDF5 file.*labels"):
        load_events("shd", folder, 4)
