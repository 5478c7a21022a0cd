"""The front of a sweep, its picture, and the published points that stand beside."""

from __future__ import annotations

import itertools
import sys

import matplotlib.pyplot as plt
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from sca_deploy.config import recipe_names
from sca_deploy.data import DATASETS
from sca_deploy.errors import UsageError
from sca_deploy.sweep import pareto
from sca_deploy.sweep.pareto import front, packaged, plot_pareto, read_published
from sca_deploy.sweep.published import COSTS, EVIDENCE, all_packaged

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FEW = st.integers(0, 5)
"""Few values, so that costs and accuracies are often equal."""


def beats(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return (one[0] < other[0] and one[1] >= other[1]) or (one[0] == other[0] and one[1] > other[1])


@given(st.lists(st.tuples(FEW, FEW), max_size=12))
def test_the_front_is_every_point_that_no_other_beats(points):
    unbeaten = {i for i, point in enumerate(points) if not any(beats(other, point) for other in points)}
    assert set(front(points)) == unbeaten


@given(st.lists(st.tuples(FEW, FEW), max_size=12))
def test_the_front_rises_in_cost_and_names_no_point_twice(points):
    found = front(points)
    assert len(set(found)) == len(found)
    assert [points[i][0] for i in found] == sorted(points[i][0] for i in found)


def row(cell: str, accuracy: float, cores: float, seed: int = 0, method: str = "sca", steps: int = 4, **more):
    """A cell with 1,000 synaptic operations and 30 nJ a core."""
    return {
        "cell": cell,
        "seed": seed,
        "status": "ok",
        "method": method,
        "keep": 0.5,
        "steps": steps,
        "accuracy_chip": accuracy,
        "cores_compiler_like": cores,
        "synops_per_sample": 1000 * cores,
        "energy_nj_per_sample_typical": 30 * cores,
        "energy_nj_per_sample_low": 20 * cores,
        "energy_nj_per_sample_high": 50 * cores,
        **more,
    }


def unfit(cell: str, seed: int = 0):
    return {"cell": cell, "seed": seed, "status": "does not fit", "method": "sca", "keep": 0.1, "steps": 4}


def point(**keys):
    table = {"name": "a network", "accuracy": 0.9, "source": "A. Author 2024", "data_set": "digits", **keys}
    return read_published([table], "sweep.published")[0]


@pytest.fixture
def draw(monkeypatch, tmp_path):
    """Draws the picture and hands out its figure, neither saved nor thrown away."""
    monkeypatch.setattr(plt, "close", lambda figure: None)
    monkeypatch.setattr(Figure, "savefig", lambda *given, **options: None)

    def drawn(rows, published=()):
        plot_pareto(tmp_path / "pareto.png", rows, published)
        return plt.gcf()

    yield drawn
    monkeypatch.undo()
    plt.close("all")


def marks(axes, marker: str) -> list[tuple[float, float]]:
    lines = [line for line in axes.lines if line.get_marker() == marker]
    return [(line.get_xdata()[0], line.get_ydata()[0]) for line in lines]


def hollow(axes) -> list[tuple[float, float]]:
    lines = [line for line in axes.lines if line.get_markeredgecolor() == "black" and line.get_color() == "none"]
    return [(line.get_xdata()[0], line.get_ydata()[0]) for line in lines]


def legend(figure) -> list[str]:
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def test_the_picture_is_a_png_and_leaves_nothing_behind(tmp_path):
    settings = dict(plt.rcParams)
    plot_pareto(tmp_path / "sub" / "pareto.png", [row("a", 0.9, 4)])
    assert [file.name for file in (tmp_path / "sub").iterdir()] == ["pareto.png"]
    assert (tmp_path / "sub" / "pareto.png").read_bytes().startswith(b"\x89PNG")
    assert plt.imread(tmp_path / "sub" / "pareto.png").shape[1] >= 1200
    assert plt.get_fignums() == []
    assert dict(plt.rcParams) == settings


def test_a_picture_that_fails_leaves_the_old_one(tmp_path):
    path = tmp_path / "pareto.png"
    path.write_bytes(b"old")
    broken = row("a", 0.9, 4)
    del broken["synops_per_sample"]
    with pytest.raises(KeyError):
        plot_pareto(path, [broken])
    assert path.read_bytes() == b"old"
    assert plt.get_fignums() == []


def test_each_panel_names_its_cost_and_where_the_figure_comes_from(draw):
    panels = draw([row("a", 0.9, 4)]).axes
    labels = [" ".join(panel.get_xlabel().split()) for panel in panels]
    assert [label.split(",")[0].split(" (")[0] for label in labels] == [
        "neurocores",
        "synaptic operations a sample",
        "dynamic energy a sample",
    ]
    assert ["estimated" in label for label in labels] == [True, False, True]
    assert ["simulated" in label for label in labels] == [False, True, False]
    assert "simulated" in panels[0].get_ylabel()


def test_a_cell_stands_at_the_mean_of_its_seeds_with_whiskers_from_end_to_end(draw):
    panels = draw([row("a", 0.90, 4, seed=0), row("a", 0.94, 6, seed=1)]).axes
    for panel, unit in zip(panels, (1, 1000, 30), strict=True):
        assert marks(panel, "o") == [pytest.approx((5 * unit, 92))]
        segments = [segment.tolist() for lines in panel.collections for segment in lines.get_segments()]
        assert [pytest.approx([4 * unit, 92]), pytest.approx([6 * unit, 92])] in segments
        assert [pytest.approx([5 * unit, 90]), pytest.approx([5 * unit, 94])] in segments


def test_the_energy_has_a_bar_from_low_to_high_prices(draw):
    *_, energy = draw([row("a", 0.9, 4)]).axes
    ends = [segment[:, 0].tolist() for lines in energy.collections for segment in lines.get_segments()]
    assert pytest.approx([80, 200]) in ends


def test_the_staircase_joins_the_cells_that_no_other_beats(draw):
    panel = draw([row("a", 0.80, 2), row("b", 0.90, 4), row("beaten", 0.85, 6), row("d", 0.95, 8)]).axes[0]
    [stairs] = [line for line in panel.lines if line.get_marker() == "None"]
    places = list(zip(stairs.get_xdata(), stairs.get_ydata(), strict=True))
    assert places[:-1] == [pytest.approx(place) for place in ((2, 80), (4, 90), (8, 95))]
    assert places[-1][1] == pytest.approx(95)
    assert stairs.get_drawstyle() == "steps-post"


def test_colours_are_methods_and_shapes_are_time_steps(draw):
    cells = [row(f"{m}{t}", 0.9, t, method=m, steps=t) for m in ("sca", "random") for t in (2, 4, 8)]
    figure = draw(cells)
    drawn = [line for line in figure.axes[0].lines if line.get_marker() != "None"]
    assert len({line.get_color() for line in drawn}) == 2
    assert len({line.get_marker() for line in drawn}) == 3
    assert {"sca", "random", "T = 2", "T = 4", "T = 8"} <= set(legend(figure))


@pytest.mark.parametrize(
    ("key", "values", "said"),
    [
        ("keep", (0.2, 0.4), "keep = 0.4"),
        ("prune.allocation", ("activity", "global"), "allocation = global"),
        ("budget_cores", (4, None), "budget cores = none"),
    ],
)
def test_where_time_steps_do_not_vary_shapes_are_another_axis(draw, key, values, said):
    figure = draw([row(str(value), 0.9, 2 + i, **{key: value}) for i, value in enumerate(values)])
    assert said in legend(figure)


def test_shapes_do_not_repeat_what_colours_say(draw):
    cells = [row(f"{m}{k}", 0.9, 4, method=m, keep=k, **{"prune.method": m}) for m in ("a", "b") for k in (0.2, 0.4)]
    assert {"keep = 0.2", "keep = 0.4"} <= set(legend(draw(cells)))


def test_every_method_has_its_look(draw):
    methods = [f"method {i}" for i in range(12)]
    figure = draw([row(method, 0.9, 4, method=method) for method in methods])
    drawn = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert len({(line.get_color(), line.get_fillstyle()) for line in drawn}) == 12


def test_dense_networks_are_black_stars_and_named(draw):
    cells = [row("a", 0.9, 4, steps=2), row("b", 0.9, 4, steps=4)]
    one = draw([*cells, row("dense", 0.95, 8, method="dense")])
    assert marks(one.axes[0], "*") == [pytest.approx((8, 95))]
    assert "dense" in legend(one)
    two = draw([*cells, *(row(f"dense{t}", 0.95, 8 + t, method="dense", steps=t) for t in (2, 4))])
    assert marks(two.axes[0], "*") == [pytest.approx((10, 95))]
    assert marks(two.axes[0], "D") == [pytest.approx((12, 95))]
    assert {"dense, T = 2", "dense, T = 4"} <= set(legend(two))


def test_cells_that_do_not_fit_are_counted_and_not_drawn(draw):
    figure = draw([row("a", 0.9, 4), unfit("b"), unfit("c"), unfit("c", seed=1)])
    assert "3 cells" in figure.get_suptitle()
    assert "does not fit: 2" in figure.get_suptitle()
    assert len(marks(figure.axes[0], "o")) == 1


def test_a_cell_that_fits_with_some_seeds_is_drawn_and_said(draw):
    figure = draw([row("a", 0.9, 4), unfit("a", seed=1)])
    assert "with some seeds only: 1" in figure.get_suptitle()
    assert "does not fit" not in figure.get_suptitle()
    assert marks(figure.axes[0], "o") == [pytest.approx((4, 90))]


@pytest.mark.parametrize("rows", [[], [unfit("a")]])
def test_without_a_figure_there_is_a_picture_all_the_same(draw, rows):
    assert len(draw(rows, [point(cores=5)]).axes) == 3


@pytest.mark.parametrize(("largest", "scale"), [(40, "log"), (8, "linear")])
def test_an_axis_is_logarithmic_where_the_range_asks_for_it(draw, largest, scale):
    panel = draw([row("a", 0.9, 2), row("b", 0.95, largest)]).axes[0]
    assert panel.get_xscale() == scale
    assert panel.get_xlim()[0] < 2
    assert panel.get_xlim()[1] > largest


def test_a_cost_of_nothing_stays_in_sight_on_a_logarithmic_axis(draw):
    silent = row("silent", 0.85, 2) | {"synops_per_sample": 0.0}
    panel = draw([silent, row("a", 0.9, 2), row("b", 0.95, 40)]).axes[1]
    assert panel.get_xscale() == "log"
    assert sorted(marks(panel, "o"))[0] == pytest.approx((panel.get_xlim()[0], 85))


def test_what_lies_far_below_is_an_arrow_on_the_edge(draw):
    figure = draw([row("a", 0.95, 4), row("b", 0.90, 3), row("lost", 0.10, 2)])
    panel = figure.axes[0]
    assert panel.get_ylim()[0] > 85
    assert marks(panel, "v") == [pytest.approx((2, panel.get_ylim()[0]))]
    assert "lower than shown" in legend(figure)


def test_published_points_are_hollow_and_only_where_their_cost_is_known(draw):
    figure = draw([row("a", 0.9, 4)], [point(name="theirs", cores=5, energy_nj=700, accuracy=0.8)])
    assert [hollow(panel) for panel in figure.axes] == [[pytest.approx((5, 80))], [], [pytest.approx((700, 80))]]
    assert [pareto.NO_POINT in panel.get_xlabel() for panel in figure.axes] == [False, True, False]
    assert "published A: theirs (A. Author 2024)" in legend(figure)


def test_a_published_point_says_what_is_known_of_its_costs(draw):
    figure = draw([row("a", 0.9, 4)], [point(energy_nj=7, energy="total", evidence="measured")])
    assert "published A: a network (A. Author 2024, measured, total energy)" in legend(figure)


def test_that_nothing_was_published_is_said(draw):
    assert "no published point with a cost was found" in legend(draw([row("a", 0.9, 4)]))


def test_letters_of_neighbours_do_not_lie_on_one_another(draw):
    close = [point(cores=20 + i / 100, accuracy=0.9) for i in range(4)]
    figure = draw([row("a", 0.9, 4)], close)
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert sorted(text.get_text() for text in figure.axes[0].texts) == ["A", "B", "C", "D"]
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))


def texts_outside(figure):
    """Labels of the axes, numbers at the ticks that are in sight, and the legends."""
    for panel in figure.axes:
        left, right = panel.get_xlim()
        yield panel.xaxis.label
        yield from (t for x, t in zip(panel.get_xticks(), panel.get_xticklabels(), strict=True) if left <= x <= right)
    yield figure.axes[0].yaxis.label
    yield from (text for found in figure.legends for text in found.get_texts())


@pytest.mark.parametrize("count", [1, 60])
def test_no_text_lies_on_another_or_leaves_the_picture(draw, count):
    methods = list(DATASETS)[:8]
    cells = [row(str(i), 0.9 + i / 1e4, 2 + i, method=methods[i % 8], steps=2 ** (i % 3)) for i in range(count)]
    figure = draw([*cells, row("dense", 0.95, 400, method="dense")], packaged("mnist"))
    boxes = [text.get_window_extent() for text in texts_outside(figure) if text.get_text()]
    whole = figure.bbox
    assert all(whole.x0 <= box.x0 and box.x1 <= whole.x1 and whole.y0 <= box.y0 for box in boxes)
    assert not any(one.padded(-2).overlaps(other.padded(-2)) for one, other in itertools.combinations(boxes, 2))


GOOD = {"name": "x", "accuracy": 0.9, "source": "s", "data_set": "digits", "cores": 4}


@pytest.mark.parametrize(
    ("tables", "problem"),
    [
        ({"name": "x"}, "sweep.published is {'name': 'x'}, it must be a list of tables"),
        (["x"], "sweep.published[0] is 'x', it must be a table"),
        ([GOOD, {**GOOD, "core": 5}], "unknown key of sweep.published[1] 'core'"),
        ([{**GOOD, "source": " "}], "sweep.published[0] has no source"),
        ([{k: v for k, v in GOOD.items() if k != "name"}], "sweep.published[0] has no name"),
        ([{**GOOD, "name": 5}], "sweep.published[0]: name is 5, it must be text"),
        ([{k: v for k, v in GOOD.items() if k != "accuracy"}], "sweep.published[0] (x) has no accuracy"),
        ([{**GOOD, "accuracy": 98.3}], "sweep.published[0] (x): accuracy is 98.3, it lies in 0 to 1"),
        ([{**GOOD, "accuracy": "high"}], "sweep.published[0] (x): accuracy is 'high', it must be a number"),
        ([{**GOOD, "accuracy": float("nan")}], "sweep.published[0] (x): accuracy is nan, it lies in 0 to 1"),
        ([{k: v for k, v in GOOD.items() if k != "cores"}], "sweep.published[0] (x) has no cost"),
        ([{**GOOD, "cores": 0}], "sweep.published[0] (x): cores is 0, it must be positive and finite"),
        ([{**GOOD, "cores": True}], "sweep.published[0] (x): cores is True, it must be a number"),
        ([{**GOOD, "synops": float("inf")}], "sweep.published[0] (x): synops is inf, it must be positive and finite"),
        ([{**GOOD, "steps": 2.5}], "sweep.published[0] (x): steps is 2.5, it must be a whole number"),
        ([{**GOOD, "evidence": "guessed"}], "unknown evidence of sweep.published[0] (x) 'guessed'"),
        ([{**GOOD, "energy": "net"}], "unknown energy of sweep.published[0] (x) 'net'"),
        ([{**GOOD, "note": 1}], "sweep.published[0] (x): note is 1, it must be text"),
    ],
)
def test_a_table_that_cannot_be_meant_is_refused_in_one_line(tables, problem):
    with pytest.raises(UsageError) as refused:
        read_published(tables, "sweep.published")
    assert refused.value.problem == problem


def test_a_point_of_a_config_is_of_the_sweeps_data_set_unless_it_says_another():
    tables = [{k: v for k, v in GOOD.items() if k != "data_set"}, {**GOOD, "data_set": "mnist"}]
    assert [point.data_set for point in read_published(tables, "sweep.published", "digits")] == ["digits", "mnist"]


@pytest.mark.parametrize("published", all_packaged(), ids=lambda point: f"{point.data_set}: {point.name}")
def test_every_packaged_point_says_where_it_was_read(published):
    assert published.source
    assert published.read_at.startswith("https://")
    assert published.note
    assert published.network
    assert published.evidence in EVIDENCE
    assert published.data_set in DATASETS
    assert any(getattr(published, cost) is not None for cost in COSTS)


def test_packaged_points_are_found_by_their_data_set():
    assert {point.data_set for point in packaged("mnist")} == {"mnist"}
    assert sum(len(packaged(name)) for name in DATASETS) == len(all_packaged())
    assert packaged("digits") == []


def test_the_page_shows_every_packaged_point(root):
    page = (root / "docs" / "explanation" / "published-points.md").read_text(encoding="utf-8")
    table = [line for line in page.splitlines() if line.startswith("|")][2:]
    shown = [cell.strip() for line in table for cell in line.split("|")[3:4]]
    assert [float(accuracy.removesuffix(" %")) for accuracy in shown] == [
        pytest.approx(100 * point.accuracy) for point in all_packaged()
    ]
    for line, published in zip(table, all_packaged(), strict=True):
        costs = [f"{getattr(published, key):,}" for key in COSTS if getattr(published, key) is not None]
        assert all(cost in line for cost in costs)


def test_the_example_of_the_page_is_a_point(root):
    page = (root / "docs" / "explanation" / "published-points.md").read_text(encoding="utf-8")
    example = page.partition("```toml\n")[2].partition("```")[0]
    [published] = read_published(tomllib.loads(example)["sweep"]["published"], "sweep.published", "digits")
    assert (published.name, published.cores, published.data_set) == ("our chip, 2025", 12, "digits")


def test_names_of_a_data_set_are_all_different():
    names = [(point.data_set, point.name) for point in all_packaged()]
    assert len(set(names)) == len(names)


def test_the_points_are_no_recipe():
    assert not [name for name in recipe_names() if "point" in name or "published" in name]


def test_no_two_colours_of_methods_are_alike():
    rgb = np.array([[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in (*pareto.COLOURS, "#000000")])
    assert min(np.abs(one - other).max() for one, other in itertools.combinations(rgb, 2)) > 40
