"""The page as text: every number is in it, a stranger's names are text, and what is missing says why."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from math import comb

import pytest

from sca_deploy.report.figures import ROWS, percent
from sca_deploy.report.page import render, write_page
from sca_deploy.report.page.verdict import cards, sentence, wilson
from sca_deploy.report.tables import comparison_table

MIB = 1 << 20
VOID = {"meta", "img", "input", "br", "link", "hr"}


class Reader(HTMLParser):
    """What a browser would make of a page: a tree that closes, its data elements, and its texts."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open, self.values, self.texts, self.ids, self.tags, self.addresses = [], {}, [], [], [], []
        self._value = None
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.tags.append((tag, found))
        self.ids += [found["id"]] if "id" in found else []
        self.addresses += [found[key] for key in ("src", "href") if key in found]
        if tag == "data":
            self._value = found["value"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.texts.append(data)
        if self._value is not None:
            self.values.setdefault(self._value, []).append(data)
            self._value = None

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def numbers(value):
    """Every number of a document, at any depth."""
    if isinstance(value, dict):
        for item in value.values():
            yield from numbers(item)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value


def of_comparison(comparison):
    return [number for part in ("dense", "pruned", "ratio") for number in numbers(comparison[part])]


def script_data(html: str):
    """What the page hands to its script."""
    [found] = re.findall(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    return json.loads(found)


def test_every_number_of_the_comparison_is_in_the_page_exactly(document):
    page = Reader(render(document))
    wanted = of_comparison(document["comparison"])
    assert len(set(wanted)) > 60  # what the document promises: hardly two alike
    assert [number for number in wanted if repr(number) not in page.values] == []


def test_every_number_of_a_real_run_is_in_its_report_exactly(digits_run):
    page = Reader((digits_run / "report.html").read_text(encoding="utf-8"))
    wanted = of_comparison(json.loads((digits_run / "compare.json").read_text()))
    assert len(wanted) > 60
    assert [number for number in wanted if repr(number) not in page.values] == []


@pytest.mark.parametrize(
    ("part", "key", "end", "exact", "shown"),
    [
        ("dense", "accuracy_chip", None, 0.9833333333333333, "98.33\u00a0%"),
        ("pruned", "synops_per_sample", None, 77940.225, "77,940"),
        ("dense", "step_time_ns", "typical", 40086.51388888889, "40.1"),  # in microseconds
        ("pruned", "static_energy_nj_per_sample", "high", 51779.21940972222, "51,779"),
        ("ratio", "hops_per_sample", None, 0.06312520636743736, "0.063"),
    ],
)
def test_a_number_is_shown_rounded(document, part, key, end, exact, shown):
    figures = document["comparison"][part]
    if end is None:
        figures[key] = exact
    else:
        figures[key][end] = exact
    assert shown in Reader(render(document)).values[repr(exact)]


def test_every_figure_says_where_it_comes_from(document):
    labels = set(document["comparison"]["labels"].values())
    rows = re.findall(
        r'<tr><th scope="row"[^>]*>([^<]*)<.*?</th>.*?</tr>', render(document).split('id="figures"')[1], re.DOTALL
    )
    assert [title for title in ROWS.values() if title.strip() not in rows] == []
    table = render(document).split('class="figures"')[1].split("</table>")[0]
    kinds = re.findall(r'class="tag (\w+)"', table)
    assert kinds[::2] == kinds[1::2] == [document["comparison"]["labels"][key] for key in ROWS]  # narrow and wide
    assert labels == {"measured", "simulated", "estimated"}


def test_the_page_is_well_formed_and_names_no_id_twice(document):
    page = Reader(render(document))
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))


def test_the_page_points_at_nothing_but_itself(document):
    page = Reader(render(document))
    assert [address for address in page.addresses if not address.startswith(("#", "data:"))] == []
    assert {address[1:] for address in page.addresses if address.startswith("#")} <= set(page.ids)


def test_the_policy_of_the_page_lets_only_its_own_two_scripts_run(document):
    page = Reader(render(document))
    [policy] = [attrs["content"] for _, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert re.fullmatch(r"'sha256-[\w+/]+=*' 'sha256-[\w+/]+=*'", rules["script-src"])
    assert "http" not in policy


@pytest.mark.parametrize(
    "name",
    [
        "<script>alert(1)</script>",
        "</script><img src=x onerror=alert(1)>",
        '"><b onclick="alert(1)">',
        "a\u2028b\u2029c",
        "<!--",
        "{{ 7 * 7 }}",
        "%{x} $&",
        "<a href='https://example.org'>a</a>",
    ],
)
def test_a_hostile_name_of_a_layer_is_text_everywhere(make_document, name):
    plain, html = render(make_document(names=["innocent", "lif2"])), render(make_document(names=[name, "lif2"]))
    expected, page = Reader(plain), Reader(html)
    assert [tag for tag, _ in page.tags] == [tag for tag, _ in expected.tags]  # no element more, none less
    assert page.open == []
    assert " ".join(name.split()) in page.text
    data = script_data(html)
    assert data["traces"]["pruned"]["samples"]["0"]["layers"][0]["name"] == name
    # plotly reads tags in the texts of charts: there are none but the line breaks and bold type that we write
    texts = json.dumps(data["charts"], ensure_ascii=False)
    assert set(re.findall(r"<[^>]*>", texts)) <= {"<br>", "<b>", "</b>", "<extra>", "</extra>"}


def test_a_hostile_title_and_warning_are_text(document):
    document["title"] = "<script>alert(1)</script>"
    document["comparison"]["warnings"]["pruned"] = ["layer <b>x</b> stores zeros"]
    page = Reader(render(document))
    assert page.text.count("<script>alert(1)</script>") >= 2
    assert "pruned: layer <b>x</b> stores zeros" in page.text


@pytest.mark.parametrize(
    "part", ["evaluation", "log", "layers", "floor", "traces", "verification", "compaction", "calibration", "manifest"]
)
@pytest.mark.parametrize("arms", [("dense",), ("pruned",), ("dense", "pruned")])
def test_a_part_that_is_missing_says_why(document, part, arms):
    for arm in arms:
        document["arms"][arm][part] = [] if part in ("log", "layers") else None
        document["arms"][arm]["missing"][part] = f"no {part} because of `{arm}`"
    page = Reader(render(document))
    assert page.open == []
    said = page.text.replace("` ", "").replace("`", "")
    assert [arm for arm in arms if f"no {part} because of {arm}" not in said] == []


def test_parts_of_an_older_evaluation_say_why(document):
    for arm in document["arms"].values():
        for part in ("over_steps", "agreement"):
            del arm["evaluation"][part]
            arm["missing"][part] = f"{part} was not known"
    page = Reader(render(document))
    assert "over_steps was not known" in page.text
    assert "agreement was not known" in page.text


def test_networks_in_floats_have_a_page_too(floats_document):
    page = Reader(render(floats_document))
    assert page.open == []
    comparison = floats_document["comparison"]
    assert [number for number in of_comparison(comparison) if repr(number) not in page.values] == []
    assert "in floats" in page.text
    assert page.text.count("stays in floats: a Delay is on no chip") >= 7
    assert "neurocores ≥" not in page.text


def test_a_large_network_keeps_the_page_small(make_document, tmp_path):
    names = [f"block{place // 4}.branch{place % 4}.a_rather_long_name_of_a_layer" for place in range(40)]
    large = make_document(names=names, channels=1000, steps=100, cores=520, density=1.0)
    for arm in large["arms"].values():
        first = arm["traces"]["samples"][0]
        arm["traces"]["samples"] = [{**first, "index": index} for index in range(6)]
    write_page(large, tmp_path / "page.html")
    assert (tmp_path / "page.html").stat().st_size < 12 * MIB
    assert "8 cores on further chips are not drawn." in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_a_raster_reaches_the_script_bit_for_bit(document):
    import base64

    given = document["arms"]["pruned"]["traces"]["samples"][0]["layers"][1]
    data = script_data(render(document))["traces"]["pruned"]
    bits = "".join(f"{byte:08b}" for byte in base64.b64decode(data["samples"]["0"]["layers"][1]["bits"]))
    fired = [[bit // 4, bit % 4] for bit, value in enumerate(bits) if value == "1"]
    assert fired == given["spikes"]


def test_the_verdict_says_bounds_as_bounds(document):
    comparison = document["comparison"]
    comparison["dense"] |= {"channels": 224, "accuracy_chip": 0.9917, "cores": 19, "test_samples": 360}
    comparison["pruned"] |= {"channels": 67, "accuracy_chip": 0.9833, "cores": 4}
    comparison["ratio"] |= {"synops_per_sample": 0.0612}
    comparison["ratio"]["energy_nj_per_sample"]["typical"] = 0.17
    comparison["lower_bound"] = {"dense": True, "pruned": False}
    assert sentence(comparison) == (
        "Pruned to 67 of 224 channels: 98.33 % instead of 99.17 % on the simulated chip (360 test samples), "
        "6.1 % of the synaptic operations, estimated: 4 cores instead of at least 19, 17 % of the dynamic energy."
    )


def test_the_verdict_can_say_that_nothing_was_lost_and_one_core_is_left(document):
    comparison = document["comparison"]
    comparison["dense"] |= {"accuracy_chip": 0.98, "cores": 3, "test_samples": 1}
    comparison["pruned"] |= {"accuracy_chip": 0.98, "cores": 1}
    comparison["lower_bound"] = {"dense": False, "pruned": False}
    assert ": 98.00 %, as before, on the simulated chip (1 test sample), " in sentence(comparison)
    assert ", estimated: 1 core instead of 3, " in sentence(comparison)
    comparison["lower_bound"] = {"dense": False, "pruned": True}
    assert ", estimated: at least 1 core instead of 3, " in sentence(comparison)


@pytest.mark.parametrize(
    ("dense", "pruned", "said"),
    [
        (0.99, 0.98, "98.00 % instead of 99.00 % on"),
        (0.98764, 0.98756, "98.756 % instead of 98.764 % on"),
        (0.9999, 0.99991, "99.991 % instead of 99.990 % on"),
        (1.0, 0.99999, "99.999 % instead of 100.000 % on"),
        (1.0, 1.0, "100.00 %, as before, on"),
        (0.00001, 0.0, "0.000 % instead of 0.001 % on"),
    ],
)
def test_accuracies_are_said_in_as_many_digits_as_tell_them_apart(document, dense, pruned, said):
    comparison = document["comparison"]
    comparison["dense"]["accuracy_chip"], comparison["pruned"]["accuracy_chip"] = dense, pruned
    assert f": {said} the simulated chip" in sentence(comparison)


@pytest.mark.parametrize(("bound", "said"), [(True, "at least 19 cores, as before"), (False, "19 cores, as before")])
def test_what_weights_were_pruned_to_is_said_in_weights(document, bound, said):
    comparison = document["comparison"]
    comparison["dense"] |= {"channels": 224, "parameters_nonzero": 151306, "cores": 19}
    comparison["pruned"] |= {"channels": 224, "parameters_nonzero": 15341, "cores": 19}
    comparison["lower_bound"] = {"dense": bound, "pruned": bound}
    assert sentence(comparison).startswith("Pruned to 15,341 of 151,306 parameters that are not 0: ")
    assert f", estimated: {said}, " in sentence(comparison)


@pytest.mark.parametrize(
    ("part", "share", "said"),
    [
        ("synops_per_sample", 0.9996, ", 99.96 % of the synaptic operations"),
        ("synops_per_sample", 1.0, ", 100 % of the synaptic operations"),
        ("synops_per_sample", 0.0, ", 0 % of the synaptic operations"),
        ("synops_per_sample", 2e-7, ", < 0.0001 % of the synaptic operations"),
        ("synops_per_sample", None, ", no synaptic operations in the dense network"),
    ],
)
def test_a_share_of_a_cost_is_whole_only_if_it_is(document, part, share, said):
    document["comparison"]["ratio"][part] = share
    assert said in sentence(document["comparison"])


@pytest.mark.parametrize(
    ("share", "said"),
    [
        (0.99951, "99.95 %"),
        (0.9999997, "99.99997 %"),
        (1.0, "100 %"),
        (1.0005, "100.05 %"),
        (0.0, "0 %"),
        (1e-9, "< 0.0001 %"),
        (0.0000123, "0.00123 %"),
        (0.0625, "6.25 %"),
        (12.5, "1,250 %"),
    ],
)
def test_a_share_reads_0_or_100_percent_only_if_it_is(share, said):
    assert percent(share) == said


def test_an_accuracy_reads_100_percent_only_if_it_is(document):
    document["comparison"]["dense"]["accuracy_float"] = 0.99997
    document["comparison"]["pruned"]["accuracy_float"] = 1.0
    values = Reader(render(document)).values
    assert values["0.99997"] == ["99.997\u00a0%"]
    assert values["1.0"] == ["100.00\u00a0%"]


def test_answers_alike_are_counted(document):
    document["arms"]["dense"]["evaluation"]["agreement"] |= {"same_answer": 0.9997, "samples": 10000}
    document["arms"]["pruned"]["evaluation"]["agreement"] |= {"same_answer": 1.0, "samples": 1}
    said = Reader(render(document)).text
    assert "Same answer from float network and chip: 9,997 of 10,000 test samples (dense)." in said
    assert "Same answer from float network and chip: 1 of 1 test sample (pruned)." in said


def test_what_differs_is_named_after_what_was_counted(document):
    """`differ` is a share of all values, silent ones too: of the spikes it would be a larger one."""
    axis = script_data(render(document))["charts"]["differ"]["layout"]["xaxis"]["title"]["text"]
    assert axis == "% of (neuron, step) values that differ"
    assert "spikes that differ" not in Reader(render(document)).text


def test_the_card_of_an_accuracy_tells_the_ends_of_its_interval_only(document):
    comparison = document["comparison"]
    comparison["dense"] |= {"accuracy_chip": 1.0, "test_samples": 100000}
    comparison["pruned"]["accuracy_chip"] = 0.99999
    [card, *_] = cards(comparison)
    assert card.notes == (
        "dense 99.996 to 100.0 %",  # z^2 / (n + z^2) = 0.0000384 is missing
        "pruned 99.99 to 99.9998 %",
        "95 % Wilson intervals, 100,000 test samples",
    )


@pytest.mark.parametrize(("dense", "pruned", "bars"), [(0, 0, (0, 0)), (0, 5, (0, 100)), (5, 0, (100, 0))])
def test_a_bar_is_as_long_as_its_figure(document, dense, pruned, bars):
    comparison = document["comparison"]
    comparison["dense"]["synops_per_sample"], comparison["pruned"]["synops_per_sample"] = dense, pruned
    comparison["ratio"]["synops_per_sample"] = pruned / dense if dense else None
    assert cards(comparison)[2].bars == bars


def test_a_card_names_its_figure_in_full(floats_document):
    titles = [card.title for card in cards(floats_document["comparison"])]
    assert titles == ["accuracy, float", "channels", "parameters", "parameters that are not 0"]


def test_a_ratio_of_bounds_is_one(document):
    cards = {bounds: render_cards(document, *bounds) for bounds in ((1, 0), (0, 1), (1, 1), (0, 0))}
    assert "pruned / dense ≤" in cards[1, 0]
    assert "pruned / dense ≥" in cards[0, 1]
    assert "pruned / dense of the bounds:" in cards[1, 1]
    assert not any(sign in cards[0, 0] for sign in ("≤", "≥", "bounds"))


def test_the_table_says_of_the_ratio_of_cores_what_the_card_says(document):
    for bounds, sign in (((1, 0), "≤ "), ((0, 1), "≥ "), ((1, 1), "of the bounds: "), ((0, 0), "")):
        document["comparison"]["lower_bound"] = dict(zip(("dense", "pruned"), map(bool, bounds), strict=True))
        table = render(document).split('class="figures"')[1].split("</table>")[0]
        [row] = [row for row in table.split("<tr>") if ">neurocores<" in row]
        ratio = re.sub(r"<[^>]*>", "", re.findall(r"<td>(.*?)</td>", row, re.DOTALL)[2])
        assert re.fullmatch(rf"{sign}[\d.]+", ratio)
        assert table.count("≤") + table.count("≥") == sum(bounds) + (sign in ("≤ ", "≥ "))


def render_cards(document, dense, pruned):
    document["comparison"]["lower_bound"] = {"dense": bool(dense), "pruned": bool(pruned)}
    cards = render(document).split('<div class="cards">')[1].split('<ul class="verified">')[0]
    return " ".join(re.sub(r"<[^>]*>", " ", cards).split())


@pytest.mark.parametrize(("right", "samples"), [(354, 360), (87, 100), (0, 10), (10, 10), (9123, 10000)])
def test_the_interval_holds_the_shares_that_the_score_test_cannot_refuse(right, samples):
    """Wilson's interval is where |counted - expected| is within 1.96 standard deviations of the expected share."""
    low, high = wilson(right / samples, samples)

    def score(share):
        return abs(right / samples - share) / (share * (1 - share) / samples) ** 0.5

    for end, extreme in ((low, 0), (high, 1)):
        if right == samples * extreme:
            assert end == pytest.approx(extreme)
        else:
            assert score(end) == pytest.approx(1.959963984540054)


def test_the_interval_of_a_few_samples_covers_as_promised():
    """Averaged over shares, 95 % of the intervals hold the true one: counted outcome by outcome."""
    samples = 40
    covered = []
    for tenths in range(1, 100):
        share = tenths / 100
        chances = [comb(samples, k) * share**k * (1 - share) ** (samples - k) for k in range(samples + 1)]
        held = [wilson(k / samples, samples)[0] <= share <= wilson(k / samples, samples)[1] for k in range(samples + 1)]
        covered.append(sum(chance for chance, inside in zip(chances, held, strict=True) if inside))
    assert sum(covered) / len(covered) == pytest.approx(0.95, abs=0.01)


def test_what_was_verified_is_said(document):
    document["arms"]["dense"]["verification"] = None
    document["arms"]["dense"]["missing"]["verification"] = "it does not fit the chip"
    page = Reader(render(document))
    assert "dense: not verified: it does not fit the chip" in page.text
    assert "pruned: 0 mismatches against Lava in 12,288 values (32 samples)" in page.text


def test_a_comparison_with_lava_says_what_it_compared(document):
    text = Reader(render(document)).text
    assert "every spike of every layer and the read-out's potential compared with the simulator" in text
    assert "every value" not in text


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (
            {"drop_before": 1.5, "drop": 0.25, "epochs": 1},
            "dense: 1 epoch of fine-tuning in integers took what the chip loses on training samples from 1.50 to 0.25",
        ),
        ({"drop_before": 1.5, "drop": 0.25, "epochs": 3}, "dense: 3 epochs of fine-tuning in integers took what"),
        (
            {"drop_before": 0.1, "drop": 0.1, "epochs": 0},
            "dense: no fine-tuning in integers took place; on training samples the chip loses 0.10 points.",
        ),
    ],
)
def test_fine_tuning_says_what_it_did(document, found, said):
    document["arms"]["dense"]["calibration"] |= found
    assert said in Reader(render(document)).text


def chart_of(document, key):
    """What a chart says, its table, and its traces."""
    html = render(document)
    words = next(attrs["aria-label"] for _, attrs in Reader(html).tags if attrs.get("data-chart") == key)
    article = html.split(f'data-chart="{key}"')[1]
    rows = re.findall(r"<tr>(.*?)</tr>", article[: article.index("</table>")], re.DOTALL)
    cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in rows]
    return words, cells, script_data(html)["charts"][key]


def logged(kept, first=1, **more):
    return [
        {"epoch": first + place, "test_accuracy": 0.5, "pruning": {"kept": counts, **more}}
        for place, counts in enumerate(kept)
    ]


def test_channels_kept_begin_with_all_and_are_shares_of_all(document):
    kept = [{"a": 20, "b": 64}, {"a": 15, "b": 62}, {"a": 16, "b": 54}]
    document["arms"]["pruned"]["log"] = logged(kept, of={"a": 80, "b": 96})
    words, table, chart = chart_of(document, "kept-epochs")
    assert words == "From 176 channels to 70 after epoch 3 (84 after epoch 1)."
    assert table == [
        ["epoch", "a", "b", "all"],
        ["0", "80", "96", "176"],
        ["1", "20", "64", "84"],
        ["2", "15", "62", "77"],
        ["3", "16", "54", "70"],
    ]
    assert chart["title"] == "Channels kept, epoch by epoch"
    assert [trace["x"] for trace in chart["data"]] == [[0, 1, 2, 3]] * 2
    assert chart["data"][0]["y"] == [100, 25, 18.75, 20]
    assert chart["data"][1]["customdata"][1] == ["64 of 96"]


def test_a_map_of_channels_shows_shares_of_all(document):
    kept = {f"layer{place}": 10 for place in range(8)}
    document["arms"]["pruned"]["log"] = logged([kept], of=dict.fromkeys(kept, 40))
    _, _, chart = chart_of(document, "kept-epochs")
    assert chart["data"][0]["z"] == [[100, 25]] * 8


def test_channels_pruned_once_have_one_point(document):
    document["arms"]["pruned"]["log"] = logged([{"a": 20}], first=0, of={"a": 80})
    words, _, chart = chart_of(document, "kept-epochs")
    assert words == "From 80 channels to 20, pruned once without training."
    assert (chart["data"][0]["x"], chart["data"][0]["y"]) == ([0], [25])


@pytest.mark.parametrize("layers", [2, 8])
def test_weights_kept_are_called_weights(document, layers):
    kept = [{f"layer{place}": count for place in range(layers)} for count in (1000, 0, 250)]
    document["arms"]["pruned"]["log"] = logged(kept)
    words, _, chart = chart_of(document, "kept-epochs")
    assert chart["title"] == "Weights kept, epoch by epoch"
    assert words == f"{1000 * layers:,} weights on after epoch 1, {250 * layers:,} after epoch 3."
    assert "channels" not in json.dumps(chart)
    shares = chart["data"][0]["y" if layers == 2 else "z"]
    assert (shares if layers == 2 else shares[0]) == [100, 0, 25]


def test_a_layer_without_weights_has_no_share_and_no_error(document):
    document["arms"]["pruned"]["log"] = logged([{"a": 0, "b": 5}])
    words, _, chart = chart_of(document, "kept-epochs")
    assert words == "5 weights on after epoch 1."
    assert chart["data"][0]["y"] == [0]


def test_a_network_that_was_not_trained_here_is_said_to_be_as_it_was_brought(document):
    document["arms"]["dense"]["log"] = [{"epoch": 0, "test_accuracy": 0.9}]
    words, _, _ = chart_of(document, "accuracy-epochs")
    assert words == "Test accuracy: dense 90.00 % as it was brought and pruned 90.00 % after epoch 10."
    document["arms"]["pruned"]["log"] = [{"epoch": 0, "test_accuracy": 0.8, "pruning": {"kept": {"a": 1}}}]
    words, _, _ = chart_of(document, "accuracy-epochs")
    assert words == "Test accuracy: dense 90.00 % as it was brought and pruned 80.00 % pruned once, without training."


def test_the_mean_firing_rate_is_that_of_the_layers_that_fire(document):
    """A read-out is updated like the others and never fires: with it the mean would be lower."""
    for arm in document["arms"].values():
        arm["evaluation"]["counts"]["layers"] = [
            {**arm["evaluation"]["counts"]["layers"][0], "name": name, "spikes": spikes, "updates": updates}
            for name, spikes, updates in (("a", 30, 100), ("b", 10, 300), ("out", 0, 600))
        ]
        arm["layers"] = [{**arm["layers"][0], "name": "out", "readout": True}]
    words, table, _ = chart_of(document, "rates")
    assert words == "Over all layers that fire 10 % in the dense network and 10 % in the pruned network."
    assert [row[0] for row in table] == ["layer", "a", "b"]


def test_a_network_of_a_read_out_alone_has_no_firing_rate(document):
    for arm in document["arms"].values():
        arm["layers"] = [{**layer, "readout": True} for layer in arm["layers"]]
    page = Reader(render(document))
    assert "no layer of these networks fires" in page.text
    assert not any(attrs.get("data-chart") == "rates" for _, attrs in page.tags)


@pytest.mark.parametrize(("cores", "said"), [(1, "1 core holds"), (5, "5 cores hold")])
def test_one_chip_is_called_by_its_title(make_document, cores, said):
    document = make_document(1, cores=cores)
    words, _, chart = chart_of(document, "floor-dense-0")
    assert words.startswith(f"Intel Loihi 2, one chip: {said} the dense network, {128 - cores} are free. The fullest ")
    assert chart["title"] == f"dense: {cores} core{'s' if cores > 1 else ''}"
    assert "dense against pruned, on Intel Loihi 2, one chip" in Reader(render(document)).text


def test_several_chips_are_not_called_one(make_document):
    document = make_document(2, cores=300)
    assert "one chip" not in Reader(render(document)).text
    for chip, used in enumerate((128, 128, 44)):
        words, _, chart = chart_of(document, f"floor-dense-{chip}")
        said = f"Chip {chip + 1} of 3: {used} of the dense network's cores are on this chip, {128 - used} are free. "
        assert words.startswith(said)
        assert chart["title"] == f"dense: 300 cores, chip {chip + 1} of 3"
    assert "dense against pruned, on chips of type loihi2" in Reader(render(document)).text


def test_networks_in_floats_are_on_no_chip(floats_document, make_document):
    page = Reader(render(floats_document))
    assert "Loihi" not in page.text
    assert "dense against pruned" in page.text
    floats_document["arms"]["pruned"]["floor"] = make_document()["arms"]["pruned"]["floor"]  # one of them could be
    page = Reader(render(floats_document))
    assert "dense against pruned, on" not in page.text
    assert "The mesh of Intel Loihi 2, one chip: " in page.text


def test_the_threshold_that_is_drawn_is_called_the_chips(document):
    traces = script_data(render(document))["forms"]["inside"]["data"]
    assert [trace["name"] for trace in traces if "threshold" in trace.get("name", "")] == ["chip's threshold"]


def test_one_of_something_is_not_said_in_the_plural(make_document):
    document = make_document(1, cores=1)
    comparison = document["comparison"]
    for arm in ("dense", "pruned"):
        comparison[arm] |= {"test_samples": 1, "cores": 1, "channels": 1}
        document["arms"][arm]["verification"] |= {"samples": 1, "steps": 1, "mismatches": 1}
        document["arms"][arm]["evaluation"]["agreement"] |= {"samples": 1, "compared": 1}
    found = f"{Reader(render(document)).text} {comparison_table(comparison)}"
    several = r"\b1 (?:test samples|samples|steps|cores|mismatches|epochs|neurons|chips)\b"
    assert re.findall(several, found) == []
    assert len(re.findall(r"\b1 test sample\b", found)) >= 5


def test_no_more_free_cores_are_drawn_than_there_are_to_use(document):
    """Some chips keep cores of their mesh to themselves: here the last 8 of 128, at the end of the serpentine."""
    document["arms"]["dense"]["floor"]["cores_per_chip"] = 120
    words, _, chart = chart_of(document, "floor-dense-0")
    assert "5 cores hold the dense network, 115 are free" in words
    free = chart["data"][0]
    assert len(free["x"]) == 115
    lowest = [x for x, base in zip(free["x"], free["base"], strict=True) if base == max(free["base"])]
    assert min(lowest) > 4, "the fourth row runs from right to left and ends before its last two tiles"


def test_every_chart_is_told_in_words_and_in_a_table(document):
    html = render(document)
    page, data = Reader(html), script_data(html)
    drawn = {attrs["data-chart"]: attrs for _, attrs in page.tags if "data-chart" in attrs}
    assert set(drawn) == set(data["charts"])
    assert [key for key, attrs in drawn.items() if attrs["role"] != "img" or len(attrs["aria-label"]) < 30] == []
    for key in drawn:
        article = html.split(f'data-chart="{key}"')[1]
        assert "<table>" in article[: article.index("</details>")], key


def test_no_chart_relies_on_colour_alone(document):
    charts = script_data(render(document))["charts"]
    for key, chart in charts.items():
        ways = set()
        for trace in chart["data"]:
            marker, line = trace.get("marker", {}), trace.get("line", {})
            ways.add(
                (
                    marker.get("pattern", {}).get("shape"),
                    marker.get("symbol"),
                    line.get("dash"),
                    trace.get("text") is None,
                )
            )
        named = [trace for trace in chart["data"] if trace.get("name")]
        assert len(ways) >= len(named), key


@pytest.mark.parametrize(("layers", "kind"), [(3, "scatter"), (12, "heatmap")])
def test_many_layers_over_epochs_are_a_map_not_a_tangle(make_document, layers, kind):
    chart = script_data(render(make_document(layers)))["charts"]["kept-epochs"]
    assert {trace["type"] for trace in chart["data"]} == {kind}


def test_a_core_is_drawn_where_it_lies_and_as_full_as_it_is(make_document):
    chart = script_data(render(make_document(2, cores=7)))["charts"]["floor-dense-0"]
    free, fills, cells, letters = chart["data"]
    assert len(free["x"]) == 121
    assert len(cells["x"]) == 7
    full = abs(cells["y"][0])
    assert [-height / full for height in fills["y"]] == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    assert letters["text"] == ["A", "A", "A", "A", "B", "B", "B"]
    spots = list(zip(cells["x"], cells["base"], strict=True))
    assert spots[1][0] - spots[0][0] == pytest.approx(1)  # slot 1 is to the right of slot 0
    assert spots[2][1] - spots[0][1] == pytest.approx(1)  # slot 2 is below it
    assert spots[4][1] > spots[2][1] + 1  # the next tile lies apart
    assert len({tuple(spot) for spot in [*spots, *zip(free["x"], free["base"], strict=True)]}) == 128


def test_the_page_of_a_document_is_the_same_every_time(document):
    assert render(document) == render(document)


# The budget

CORES = {"name": "cores", "limit": 6, "value": 5, "kept": True, "label": "estimated"}
OPERATIONS = {"name": "synops", "limit": 80000, "value": 77940.225, "kept": True, "label": "simulated"}


def with_budget(document, *limits, arm="pruned", **held):
    """The document of a network that was held to limits; "held" changes what budget.json says."""
    document["arms"][arm]["evaluation"]["budget"] = list(limits)
    taken = {limit["name"]: limit | {"upper": limit["value"] * 1.01, "layer": "lif2", "why": "-"} for limit in limits}
    edges = [
        {"name": "lif1", "channels": 14, "fewer": None, "more": None},
        {"name": "lif2", "channels": 31, "fewer": {"channels": 20, "cores": -1}, "more": {"channels": 32, "cores": 4}},
    ]
    report = {"chip": "loihi2", "samples": 512, "fits": True, "resources": list(taken.values()), "trimmed": {}}
    document["arms"][arm]["budget"] = report | {"edges": edges} | held
    return document


def table_of(html, label):
    """The texts of a table's cells, row by row."""
    table = html.split(f'aria-label="Table: {label}"')[1].split("</table>")[0]
    rows = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL) for row in table.split("<tr>")[1:]]
    return [[" ".join(re.sub(r"<[^>]*>", " ", cell).split()) for cell in row] for row in rows]


def verdict_of(html):
    return Reader(html.split('<section id="verdict"')[1].split("</section>")[0]).text


def test_a_run_without_a_budget_says_nothing_of_one(document):
    page = Reader(render(document))
    assert "budget" not in page.ids
    assert "inside its budget" not in page.text
    assert "where the cores change" not in page.text


def test_a_budget_that_is_kept_is_said_in_the_verdict(document):
    html = render(with_budget(document, CORES, OPERATIONS))
    said = (
        "pruned: inside its budget: 5 of 6 cores (estimated), 77,940 of 80,000 synaptic operations a sample (simulated)"
    )
    assert said in verdict_of(html)
    assert "dense: inside" not in html
    assert "above its budget" not in html


def test_every_limit_is_a_row_with_its_share_and_its_label(document):
    html = render(with_budget(document, CORES, OPERATIONS))
    assert table_of(html, "budget of the pruned network") == [
        ["resource", "limit", "taken", "of the limit", "in training", "most of it in", "where it comes from"],
        ["cores estimated", "6", "5", "83.3 %", "84.2 %", "lif2", "estimated"],
        [
            "synaptic operations a sample simulated",
            "80,000",
            "77,940",
            "97.4 %",
            "98.4 %",
            "lif2",
            "simulated",
        ],
    ]
    assert Reader(html).values["77940.225"][0] == "77,940"
    assert re.findall(r'<i style="width: ([\d.]+)%">', html.split('id="budget"')[1].split("</table>")[0]) == [
        "83.33",
        "97.43",
    ]


def test_a_budget_that_is_broken_is_a_warning_in_digits_that_show_it(document):
    over = OPERATIONS | {"value": 80000.04, "kept": False}
    html = render(with_budget(document, CORES, over))
    said = "pruned: above its budget on test samples: 80,000.04 of 80,000.00 synaptic operations a sample (simulated)"
    assert said in Reader(html.split('aria-label="Warnings"')[1].split("</div>")[0]).text
    assert "inside its budget" not in html
    assert table_of(html, "budget of the pruned network")[2][1:4] == [
        "80,000.00",
        "80,000.04",
        "100.00005 %, exceeded",
    ]


def test_where_the_cores_change_is_told_layer_by_layer(document):
    html = render(with_budget(document, CORES))
    assert table_of(html, "pruned: where the cores change") == [
        ["layer", "channels", "with fewer", "with more"],
        ["lif1", "14", "-", "-"],
        ["lif2", "31", "20: 1 core less", "32: 4 cores more"],
    ]


def test_channels_that_had_to_go_after_the_training_are_named(document):
    text = Reader(render(with_budget(document, CORES, trimmed={"lif2": 3, "lif3": 1}))).text
    assert "Measured above its budget once lowered, so channels went: 3 of lif2, 1 of lif3." in text


def test_a_budget_whose_training_is_not_known_is_shown_with_the_reason(document):
    with_budget(document, CORES)["arms"]["pruned"] |= {"budget": None, "missing": {"budget": "not kept"}}
    html = render(document)
    assert table_of(html, "budget of the pruned network")[1][4:6] == ["-", "-"]
    assert Reader(html).text.count("pruned: not kept") == 2  # beside the limits, and where the cores change


def test_two_networks_that_were_both_held_to_a_budget_have_one_each(document):
    with_budget(with_budget(document, CORES), CORES | {"value": 6}, arm="dense")
    html = render(document)
    assert "dense: inside its budget: 6 of 6 cores (estimated)" in html
    assert table_of(html, "budget of the dense network")[1][2] == "6"
    assert table_of(html, "budget of the pruned network")[1][2] == "5"
