"""The page as text: every number is in it, a stranger's names are text, and what is missing says why."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from math import comb

import pytest

from sca_deploy.report.figures import ROWS
from sca_deploy.report.page import render, write_page
from sca_deploy.report.page.verdict import sentence, wilson

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
        ("dense", "accuracy_chip", None, 0.9833333333333333, "98.33 %"),
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
        r'<tr><th scope="row"[^>]*>([^<]*)</th>.*?</tr>', render(document).split('id="figures"')[1], re.DOTALL
    )
    assert [title for title in ROWS.values() if title.strip() not in rows] == []
    table = render(document).split('class="figures"')[1].split("</table>")[0]
    kinds = re.findall(r'class="tag (\w+)"', table)
    assert kinds == [document["comparison"]["labels"][key] for key in ROWS]
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
        "Pruned to 67 of 224 channels: 98.3 % instead of 99.2 % on the simulated chip (360 test samples), "
        "4 cores instead of at least 19, 6.1 % of the synaptic operations, 17 % of the dynamic energy."
    )


def test_the_verdict_can_say_that_nothing_was_lost_and_one_core_is_left(document):
    comparison = document["comparison"]
    comparison["dense"] |= {"accuracy_chip": 0.98, "cores": 3}
    comparison["pruned"] |= {"accuracy_chip": 0.98, "cores": 1}
    comparison["lower_bound"] = {"dense": False, "pruned": False}
    assert ": 98.0 %, as before, on the simulated chip" in sentence(comparison)
    assert ", 1 core instead of 3," in sentence(comparison)


def test_a_ratio_of_bounds_is_one(document):
    cards = {bounds: render_cards(document, *bounds) for bounds in ((1, 0), (0, 1), (1, 1), (0, 0))}
    assert "pruned / dense ≤" in cards[1, 0]
    assert "pruned / dense ≥" in cards[0, 1]
    assert "pruned / dense of the bounds:" in cards[1, 1]
    assert not any(sign in cards[0, 0] for sign in ("≤", "≥", "bounds"))


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
