import matplotlib.pyplot as plt
import numpy as np
import pytest

from sca_deploy.study import pictures
from sca_deploy.study.activity import ClassActivity, Similarity

RANDOM = np.random.default_rng(0)
RATES = RANDOM.uniform(size=(4, 6))
COSINE = np.eye(6)
ACCURACIES = {"dense": [0.98, 0.99], "SCA": [0.95, 0.97], "random": [0.90]}
NOISE = {
    arm: [
        {"kind": kind, "sigma": sigma, "seed": seed, "accuracy": top - sigma / 2 - 0.02 * seed}
        for kind in ("input", "parameter")
        for sigma in (0.0, 0.1, 0.4)
        for seed in (0, 1)
    ]
    for arm, top in (("dense", 0.98), ("SCA", 0.90))
}
CORRELATIONS = [
    {
        "layer": layer,
        "target": "Shapley value",
        "score": score,
        "spearman": rho,
        "spearman_low": None if rho is None else rho - 0.2,
        "spearman_high": None if rho is None else rho + 0.1,
    }
    for layer in ("all", "batch_norm1")
    for score, rho in (("potential", 0.5), ("rate", -0.25), ("random", None))
]
LAYERS = ["batch_norm1"] * 4 + ["batch_norm2"] * 6
WORTH = np.arange(10.0)
SCORES = {"potential": WORTH**2, "rate": -WORTH, "constant": np.ones(10), "random": RANDOM.uniform(size=10)}
KEPT = {"SCA": {"batch_norm1": [32, 20, 10], "batch_norm2": [64, 64, 16]}}

PICTURES = {
    "arms": lambda path: pictures.plot_arms(
        path, ACCURACIES, {"kept channels, %": {"dense": [100, 100], "SCA": [30, 31]}}
    ),
    "arms without cost": lambda path: pictures.plot_arms(path, ACCURACIES),
    "noise": lambda path: pictures.plot_noise(path, NOISE),
    "scores": lambda path: pictures.plot_scores(path, WORTH, SCORES, LAYERS),
    "correlations": lambda path: pictures.plot_correlations(path, CORRELATIONS),
    "activity": lambda path: pictures.plot_activity(path, {f"lif{n}": ClassActivity(RATES, RATES) for n in range(5)}),
    "similarity": lambda path: pictures.plot_similarity(
        path, {f"lif{n}": Similarity(COSINE, COSINE[0] > 0) for n in range(5)}
    ),
    "kept": lambda path: pictures.plot_kept(path, KEPT, {"batch_norm1": 32, "batch_norm2": 64}),
}


@pytest.fixture
def panels(monkeypatch, tmp_path):
    """Draws a picture and hands out the panels instead of throwing them away."""
    monkeypatch.setattr(plt, "close", lambda figure: None)

    def draw(name):
        PICTURES[name](tmp_path / "picture.png")
        return [axes for axes in plt.gcf().axes if axes.get_visible()]

    yield draw
    monkeypatch.undo()
    plt.close("all")


@pytest.mark.parametrize("name", PICTURES)
def test_every_picture_is_a_png_with_something_on_it_and_nothing_is_left_behind(tmp_path, name):
    settings = dict(plt.rcParams)
    PICTURES[name](tmp_path / "sub" / "picture.png")
    assert [file.name for file in (tmp_path / "sub").iterdir()] == ["picture.png"]
    pixels = plt.imread(tmp_path / "sub" / "picture.png")
    assert len(np.unique(pixels.reshape(-1, pixels.shape[2]), axis=0)) > 10
    assert plt.get_fignums() == []
    assert dict(plt.rcParams) == settings


def test_a_picture_that_fails_leaves_the_old_one(tmp_path):
    path = tmp_path / "kept.png"
    path.write_bytes(b"old")
    with pytest.raises(KeyError):
        pictures.plot_kept(path, KEPT, {"batch_norm1": 32, "batch_norm9": 64})
    assert path.read_bytes() == b"old"
    assert plt.get_fignums() == []


def test_every_seed_is_a_dot_and_the_mean_is_written(panels):
    seeds, cost = panels("arms")
    assert [sorted(line.get_ydata()) for line in seeds.lines] == [
        pytest.approx([98, 99]),
        pytest.approx([95, 97]),
        pytest.approx([90]),
    ]
    assert [text.get_text() for text in seeds.texts] == ["98.50", "96.00", "90.00"]
    assert [label.get_text() for label in seeds.get_xticklabels()] == ["dense", "SCA", "random"]
    assert cost.get_xlabel() == "kept channels, %"
    means = {line.get_label(): (line.get_xdata()[0], line.get_ydata()[0]) for line in cost.lines[1::2]}
    assert means == {"dense": pytest.approx((100, 98.5)), "SCA": pytest.approx((30.5, 96))}


def test_noise_curves_are_means_in_a_band_from_worst_to_best(panels):
    for panel in panels("noise"):
        line = panel.lines[0]
        assert line.get_xdata() == pytest.approx([0.0, 0.1, 0.4])
        assert line.get_ydata() == pytest.approx([97, 92, 77])
        edges = panel.collections[0].get_paths()[0].vertices[:, 1]
        assert (edges.min(), edges.max()) == pytest.approx((76, 98))


def test_the_scatter_says_spearmans_rho(panels):
    titles = {panel.get_xlabel(): panel.get_title() for panel in panels("scores")}
    assert titles["potential"] == "Spearman +1.00"
    assert titles["rate"] == "Spearman -1.00"
    assert titles["constant"] == "Spearman undefined"


def test_undefined_correlations_have_no_mark(panels):
    [panel] = panels("correlations")
    marks = [line for line in panel.lines if line.get_label() in ("all", "batch_norm1")]
    assert [list(mark.get_xdata()) for mark in marks] == [[0.5, -0.25]] * 2
    assert [segment[:, 0].tolist() for segment in panel.collections[0].get_segments()] == [
        pytest.approx([0.3, 0.6]),
        pytest.approx([-0.45, -0.15]),
    ]


def test_channels_stand_by_their_preferred_class(panels):
    panel = panels("activity")[0]
    drawn = np.asarray(panel.images[0].get_array())
    assert (np.diff(drawn.argmax(0)) >= 0).all()
    assert sorted(drawn.sum(0)) == pytest.approx(sorted(RATES.sum(0)))


def test_alike_channels_are_neighbours_and_silent_ones_come_last(tmp_path):
    cosine = np.eye(5)
    cosine[0, 3] = cosine[3, 0] = 0.9
    cosine[2, 4] = cosine[4, 2] = 0.8
    cosine[1, 1] = 0.0
    order = pictures._alike(Similarity(cosine, cosine.diagonal() == 0)).tolist()
    assert order[-1] == 1
    assert abs(order.index(0) - order.index(3)) == 1
    assert abs(order.index(2) - order.index(4)) == 1


def test_kept_channels_are_fractions_of_each_layer(panels):
    panel = panels("kept")[0]
    np.testing.assert_allclose(panel.images[0].get_array(), [[100, 62.5, 31.25], [100, 100, 25]])
    assert [text.get_text().strip() for text in panel.texts] == ["10 of 32", "16 of 64"]
