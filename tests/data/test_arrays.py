"""Labelled sets that people bring in one .npz file."""

import io
import zipfile

import numpy as np
import pytest

from sca_deploy.data.arrays import load_arrays, recorded_steps
from sca_deploy.errors import ScaDeployError, UsageError

IMAGES = {
    "x_train": np.arange(2 * 4 * 4).reshape(2, 1, 4, 4).astype(np.uint8), "y_train": np.array([0, 2]),
    "x_test": np.full((3, 1, 4, 4), 7, np.uint8), "y_test": np.array([1, 0, 1]),
}  # fmt: skip
RECORDINGS = {
    "train": np.ones((4, 6, 2, 3, 3), np.uint8), "ytr": np.array([0, 1, 0, 1], np.uint8),
    "test": np.full((2, 6, 2, 3, 3), 3, np.uint8), "yte": np.array([1, 1], np.uint8),
}  # fmt: skip


def saved(folder, arrays, **changes):
    path = folder / "mine.npz"
    np.savez(path, **{key: value for key, value in (arrays | changes).items() if value is not None})
    return path


def test_images_are_taken_as_they_are(tmp_path):
    data = load_arrays(saved(tmp_path, IMAGES), None, 0)
    np.testing.assert_array_equal(data.train_x, IMAGES["x_train"])
    np.testing.assert_array_equal(data.test_x, IMAGES["x_test"])
    assert data.train_y.tolist() == [0, 2]
    assert data.test_y.tolist() == [1, 0, 1]
    assert (data.name, data.classes, data.pixel_max, data.timed, data.shape) == ("mine", 3, 31, False, (1, 4, 4))


def test_recordings_have_five_axes_and_say_their_steps(tmp_path):
    path = saved(tmp_path, RECORDINGS)
    data = load_arrays(path, 6, 0)
    assert (data.timed, data.shape, data.classes, data.pixel_max) == (True, (2, 3, 3), 2, 3)
    assert data.train_x.shape == (4, 6, 2, 3, 3)
    assert recorded_steps(path) == 6
    assert recorded_steps(saved(tmp_path, IMAGES)) is None


def test_vectors_over_time_are_recordings_where_the_file_says_so(tmp_path):
    series = {"x_train": np.ones((4, 6, 9), int), "x_test": np.ones((2, 6, 9), int), "y_train": np.array([0, 1, 0, 1]),
              "y_test": np.array([1, 0])}  # fmt: skip
    data = load_arrays(saved(tmp_path, series, timed=np.array(1)), 6, 0)
    assert (data.timed, data.shape, data.train_x.shape) == (True, (9,), (4, 6, 9))
    assert recorded_steps(tmp_path / "mine.npz") == 6
    grey = load_arrays(saved(tmp_path, series), None, 0)
    assert (grey.timed, grey.shape) == (False, (1, 6, 9))


@pytest.mark.parametrize("names", [("x_train", "y_train", "x_test", "y_test"), ("train", "ytr", "test", "yte"),
                                   ("train_x", "train_y", "test_x", "test_y")])  # fmt: skip
def test_the_usual_names_are_known_and_others_beside_them_do_not_matter(tmp_path, names):
    arrays = dict(zip(names, IMAGES.values(), strict=True)) | {"remark": np.array("hello")}
    assert load_arrays(saved(tmp_path, arrays), None, 0).test_y.tolist() == [1, 0, 1]


@pytest.mark.parametrize("dtype", [np.int64, np.float32, np.uint16, np.bool_])
def test_whole_numbers_of_any_type_are_the_same_values(tmp_path, dtype):
    x = (np.arange(32).reshape(2, 1, 4, 4) % 2).astype(dtype)
    data = load_arrays(saved(tmp_path, IMAGES, x_train=x), None, 0)
    assert data.train_x.dtype == np.uint8
    np.testing.assert_array_equal(data.train_x, x.astype(int))


def test_grey_images_without_an_axis_for_channels_get_one_and_vectors_stay_vectors(tmp_path):
    grey = {"x_train": IMAGES["x_train"][:, 0], "x_test": IMAGES["x_test"][:, 0]}
    assert load_arrays(saved(tmp_path, IMAGES, **grey), None, 0).shape == (1, 4, 4)
    vectors = {"x_train": np.ones((2, 9), int), "x_test": np.ones((3, 9), int)}
    assert load_arrays(saved(tmp_path, IMAGES, **vectors), None, 0).shape == (9,)


def test_labels_may_be_a_column(tmp_path):
    data = load_arrays(saved(tmp_path, IMAGES, y_train=np.array([[0], [2]])), None, 0)
    assert data.train_y.tolist() == [0, 2]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"y_test": None}, "has no array 'y_test', it holds x_train, y_train, x_test"),
        ({"x_train": IMAGES["x_train"] / 255.0}, "'x_train' holds values from 0 to 0.121569, whole numbers"),
        ({"x_train": IMAGES["x_train"].astype(int) + 250}, "'x_train' holds values from 250 to 281"),
        ({"x_test": -IMAGES["x_test"].astype(int)}, "'x_test' holds values from -7 to -7"),
        ({"x_train": np.full((2, 1, 4, 4), np.nan)}, "'x_train' holds values from nan"),
        ({"x_train": np.array(["a", "b"])}, "'x_train' is <U1 of shape"),
        ({"x_train": np.arange(2)}, r"'x_train' is int64 of shape \(2,\)"),
        ({"y_train": np.array([0.0, 1.0])}, "'y_train' is float64, whole numbers are needed"),
        ({"y_train": np.array([0, -1])}, "train label -1 is outside 0 to 1"),
        ({"y_train": np.array([0, 1, 2])}, "train has 2 images but 3 labels"),
        ({"x_test": np.ones((3, 1, 5, 5), int)}, r"train images are \(1, 4, 4\), test images \(1, 5, 5\)"),
        ({"x_train": np.ones((0, 1, 4, 4), int), "y_train": np.zeros(0, int)}, "train is empty"),
    ],
)  # fmt: skip
def test_what_no_set_can_hold_is_refused_in_one_line_that_names_it(tmp_path, changes, problem):
    path = saved(tmp_path, IMAGES, **changes)
    with pytest.raises(ScaDeployError, match=problem) as error:
        load_arrays(path, None, 0)
    assert path.stem in error.value.problem
    assert "\n" not in error.value.problem


def test_recordings_of_another_length_than_the_network_are_refused(tmp_path):
    with pytest.raises(UsageError, match="holds recordings of 6 steps, the network lasts 4"):
        load_arrays(saved(tmp_path, RECORDINGS), 4, 0)


def test_recordings_whose_test_samples_last_longer_are_refused(tmp_path):
    with pytest.raises(ScaDeployError, match="6.*5"):
        load_arrays(saved(tmp_path, RECORDINGS, test=np.ones((2, 5, 2, 3, 3), np.uint8)), 6, 0)


def test_a_file_is_asked_for_and_is_not_resized(tmp_path):
    with pytest.raises(UsageError, match="no file of arrays is given") as error:
        load_arrays(None, None, 0)
    assert "--data FILE.npz" in error.value.fix
    with pytest.raises(UsageError, match="cannot be brought to 8 pixels"):
        load_arrays(saved(tmp_path, IMAGES), None, 8)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ScaDeployError, match="no such file: .*gone.npz"):
        load_arrays(tmp_path / "gone.npz", None, 0)


def npy(array):
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()


def test_damage_is_one_line(tmp_path):
    whole = saved(tmp_path, IMAGES).read_bytes()
    with zipfile.ZipFile(tmp_path / "odd.npz", "w") as file:
        for name in ("x_train", "y_train", "x_test", "y_test"):
            file.writestr(f"{name}.npy", b"no array at all")
    cases = {"cut.npz": whole[: len(whole) // 2], "text.npz": b"hello", "empty.npz": b"", "lone.npz": npy(np.ones(3)),
             "odd.npz": (tmp_path / "odd.npz").read_bytes()}  # fmt: skip
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ScaDeployError, match=f"{name} is not a readable .npz file") as error:
            load_arrays(tmp_path / name, None, 0)
        assert "\n" not in error.value.problem
        assert "numpy.savez" in error.value.fix
    with pytest.raises(ScaDeployError, match="is not a readable .npz file"):
        load_arrays(tmp_path, None, 0)


class Surprise:
    """Would be made, and say so, if a pickle were opened."""

    def __reduce__(self):
        return (pytest.fail, ("unpickled",))


def test_nothing_is_ever_unpickled(tmp_path):
    x = np.array([Surprise(), Surprise()], dtype=object)
    with pytest.raises(ScaDeployError, match="is not a readable .npz file"):
        load_arrays(saved(tmp_path, IMAGES, x_train=x), None, 0)
