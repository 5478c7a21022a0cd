"""compare.png shows what is left of each cost, and nothing of what the dense network does not have."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pytest

from sca_deploy.report.plots import plot_run


@pytest.fixture
def drawn(digits_run, tmp_path, monkeypatch):
    """The axes of the costs of a run whose ratios are changed as asked, and their names from the top down."""
    import json
    import shutil

    def draw(**ratios):
        run = shutil.copytree(digits_run, tmp_path / "run")
        document = json.loads((run / "compare.json").read_text())
        document["ratio"] |= ratios
        (run / "compare.json").write_text(json.dumps(document))
        monkeypatch.setattr(plt, "close", lambda figure: None)
        plot_run(run)
        return plt.gcf().axes[2]

    yield draw
    monkeypatch.undo()
    plt.close("all")


def bars(axes):
    """Width of the bar of every row that has one, and the text beside every row."""
    names = [text.get_text().partition(" (")[0] for text in axes.get_yticklabels()]
    widths = {names[round(bar.get_y() + bar.get_height() / 2)]: bar.get_width() for bar in axes.patches}
    texts = {names[round(text.xy[1])]: text.get_text() for text in axes.texts}
    return widths, texts


def test_a_bar_is_what_is_left(drawn):
    widths, texts = bars(drawn(cores=0.25, synops_per_sample=0.9996, spikes_per_sample=0.0))
    assert len(widths) == len(texts) == 7
    assert widths["cores"] == pytest.approx(25)
    assert (texts["cores"], texts["synaptic\noperations"], texts["spikes"]) == ("25 %", "99.96 %", "0 %")


def test_what_the_dense_network_has_none_of_has_no_bar(drawn):
    nothing = {"low": None, "typical": None, "high": None}
    widths, texts = bars(drawn(synops_per_sample=None, energy_nj_per_sample=nothing))
    assert set(texts) - set(widths) == {"synaptic\noperations", "energy"}
    assert texts["synaptic\noperations"] == texts["energy"] == "-"
