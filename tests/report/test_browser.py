"""Reports in a real browser: silent, self-contained, usable with the keyboard, readable for all, printable."""

from __future__ import annotations

import json
import re
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from sca_deploy.data.idx import FASHION_MNIST
from sca_deploy.report.page import write_page
from tests.conftest import sca_deploy

DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
PAPER = {"width": 96 * (210 - 26) / 25.4, "height": 96 * (297 - 28) / 25.4}
"""Pixels of A4 within the margins that the style sheet names."""
WCAG = {"runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]}}


@pytest.fixture(scope="module")
def fashion_run(tmp_path_factory):
    """A short run on a part of the real Fashion-MNIST."""
    if FASHION_MNIST.find(None) is None:
        pytest.skip(f"Fashion-MNIST is not here: {FASHION_MNIST.get}, or name its folder's parent in SCA_DEPLOY_DATA")
    folder = tmp_path_factory.mktemp("runs") / "fashion"
    size = ("--train-samples", 400, "--test-samples", 100, "--epochs", 1)
    done = sca_deploy("run", "fashion", *size, "-o", folder)
    if not (folder / "report.html").exists():
        pytest.fail(f"the run ended with {done.returncode}\n{done.stderr}")
    return folder


@pytest.fixture(scope="module", params=["digits", "fashion"])
def run(request):
    """The folder of a real run."""
    return request.getfixturevalue(f"{request.param}_run")


@pytest.fixture(scope="module")
def looked_at(browser, run):
    """The report of a real run, open and all its charts drawn; for tests that change nothing."""
    with opened(browser, run / "report.html") as page:
        draw_all(page)
        yield page


@pytest.fixture
def digits_report(digits_run):
    return digits_run / "report.html"


@contextmanager
def opened(browser, path: Path, viewport=DESKTOP, **context):
    """A page of its own, in which whatever goes wrong or leaves the page is an error."""
    wrong, asked = [], []
    with browser.new_context(viewport=viewport, **context) as around:
        around.set_default_timeout(20_000)
        page = around.new_page()
        page.on("console", lambda message: wrong.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
        page.on("dialog", lambda dialog: (wrong.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda request: asked.append(request.url))
        page.route("**/*", lambda route: route.continue_() if route.request.url == path.as_uri() else route.abort())
        page.goto(path.as_uri())
        yield page
    assert wrong == []
    outside = [url[:200] for url in asked if url != path.as_uri() and not url.startswith(("data:", "blob:"))]
    assert outside == []


def draw_all(page) -> None:
    """Walk over the page, so that every chart comes near and is drawn."""
    for plot in page.locator(".plot:visible").all():
        plot.scroll_into_view_if_needed()
        plot.locator("svg.main-svg").first.wait_for()


def until(page, expression: str) -> None:
    """Wait for what JavaScript says; the page's policy forbids the text that `wait_for_function` would evaluate."""
    deadline = time.monotonic() + 20
    while not page.evaluate(expression):
        assert time.monotonic() < deadline, f"never: {expression}"
        page.wait_for_timeout(30)


def box_of(key: str) -> str:
    """The element of a chart, in JavaScript."""
    return f"document.querySelector('[data-chart=\"{key}\"]')"


def numbers(value):
    if isinstance(value, dict):
        return [number for item in value.values() for number in numbers(item)]
    return [value] if isinstance(value, int | float) and not isinstance(value, bool) else []


def raster(page) -> list:
    return page.evaluate("document.getElementById('inside').data[0].z")


def test_every_figure_of_the_comparison_is_seen_and_nothing_goes_wrong(looked_at, run):
    comparison = json.loads((run / "compare.json").read_text())
    wanted = [number for part in ("dense", "pruned", "ratio") for number in numbers(comparison[part])]
    seen = looked_at.evaluate(
        "[...document.querySelectorAll('data')].filter(one => one.checkVisibility()).map(one => one.value)"
    )
    assert len(wanted) > 60
    assert [number for number in wanted if repr(number) not in seen] == []


def test_every_chart_is_drawn_from_the_figures_of_the_run(looked_at, run):
    assert looked_at.locator(".plot").count() == looked_at.locator(".plot.js-plotly-plot").count() >= 13
    for place, arm in enumerate(("dense", "pruned")):
        evaluation = json.loads((run / arm / "evaluation.json").read_text())
        counts, cores = evaluation["counts"], evaluation["map"]["cores"]
        bars = looked_at.evaluate(f"{box_of('synops')}.data[{place}].x")
        assert bars == pytest.approx([layer["synops"] / counts["samples"] for layer in counts["layers"]])
        paths = looked_at.locator(f"[data-chart=synops] .barlayer > .trace >> nth={place} >> path")
        assert paths.count() == len(bars)
        assert looked_at.evaluate(f"{box_of(f'floor-{arm}-0')}.data[2].x.length") == min(128, cores)


def test_another_sample_network_layer_or_neuron_is_another_picture(browser, run):
    with opened(browser, run / "report.html") as page:
        draw_all(page)
        words = page.locator("#sample-words")
        seen = [raster(page)]
        said = [words.inner_text()]
        page.locator("#chooser [name=sample]").nth(3).check()
        seen.append(raster(page))
        said.append(words.inner_text())
        assert page.locator("#input").get_attribute("src") == page.locator("#chooser img").nth(3).get_attribute("src")
        page.locator("#chooser [name=arm][value=dense]").check()
        seen.append(raster(page))
        said.append(words.inner_text())
        page.locator("#chooser [name=layer]").select_option("lif3")
        seen.append(raster(page))
        said.append(words.inner_text())
        assert len({json.dumps(picture) for picture in seen}) == 4
        assert len(set(said)) == 4
        assert "layer lif3" in said[-1]
        assert "to the least busy that fires, and silent ones where these are fewer." in said[0]
        page.locator("#chooser [name=layer]").select_option("lif1")
        potential = "document.getElementById('inside').data[1].y"
        before = page.evaluate(potential), page.locator("#inside .y2title").text_content()
        page.locator("#chooser [name=neuron]").select_option(index=2)
        after = page.evaluate(potential), page.locator("#inside .y2title").text_content()
        assert before[0] != after[0]
        assert before[1] != after[1]


def test_pointing_at_a_core_shows_its_numbers(browser, digits_report, digits_run):
    mapped = json.loads((digits_run / "pruned" / "evaluation.json").read_text())["map"]["layers"]
    with opened(browser, digits_report) as page:
        draw_all(page)
        for place, layer in enumerate(mapped):
            page.locator("[data-chart=floor-pruned-0]").scroll_into_view_if_needed()
            x, y = page.evaluate(
                f"""(() => {{
                const box = {box_of("floor-pruned-0")}, cells = box.data[2], at = box.getBoundingClientRect();
                const {{ xaxis, yaxis }} = box._fullLayout;
                const middle = cells.base[{place}] + cells.y[{place}] / 2;
                return [at.x + xaxis._offset + xaxis.c2p(cells.x[{place}]), at.y + yaxis._offset + yaxis.c2p(middle)];
                }})()"""
            )
            page.mouse.move(x, y)
            hover = page.locator("[data-chart=floor-pruned-0] .hovertext")
            hover.wait_for()
            text = hover.text_content()
            assert f"{layer['name']}, core 0" in text
            assert f"{layer['neurons_per_core']:,} neurons" in text
            used = layer["core"][layer["binding"]]
            assert f"{layer['binding'].replace('_', ' ')} {used['used']:,} of {used['max']:,}, binding" in text
            page.mouse.move(2, 2)
            hover.wait_for(state="detached")


def colours(page) -> dict:
    return page.evaluate(
        f"""({{
        page: getComputedStyle(document.body).backgroundColor,
        letters: getComputedStyle({box_of("rates")}.querySelector('.xtick text')).fill,
        bar: getComputedStyle({box_of("rates")}.querySelector('.bars path')).fill,
        }})"""
    )


def test_the_button_turns_page_and_charts_to_the_other_colours(browser, digits_report):
    with opened(browser, digits_report, color_scheme="dark") as page:
        draw_all(page)
        before = colours(page)
        page.get_by_role("button", name="Light colours").click()
        after = colours(page)
        assert [part for part in before if before[part] == after[part]] == []
        page.locator("#theme").click()
        assert colours(page) == before


def test_the_page_follows_the_system_when_it_turns_dark(browser, digits_report):
    with opened(browser, digits_report, color_scheme="light") as page:
        draw_all(page)
        before = colours(page)
        page.emulate_media(color_scheme="dark")
        until(page, f"getComputedStyle({box_of('rates')}.querySelector('.xtick text')).fill !== '{before['letters']}'")
        after = colours(page)
    assert [part for part in before if before[part] == after[part]] == []


def test_the_keyboard_reaches_every_control(browser, digits_report):
    name = """(() => {
        const one = document.activeElement;
        if (one === document.body) return "";
        const all = [...document.querySelectorAll("a[href], button, select, input, summary, [tabindex='0']")];
        return `${all.indexOf(one)}`;
    })()"""
    with opened(browser, digits_report) as page:
        expected = page.evaluate(
            """[...document.querySelectorAll("a[href], button, select, input, summary, [tabindex='0']")]
            .map((one, place) => [one, `${place}`])
            .filter(([one]) => one.checkVisibility() && !one.disabled && (one.type !== "radio" || one.checked))
            .map(([, place]) => place)"""
        )
        reached = []
        for _ in range(2 * len(expected)):
            page.keyboard.press("Tab")
            place = page.evaluate(name)
            if not place or place in reached:
                break
            reached.append(place)
    assert len(expected) > 50
    assert [place for place in expected if place not in reached] == []


def test_the_keyboard_operates_every_kind_of_control(browser, digits_report):
    with opened(browser, digits_report) as page:
        draw_all(page)
        first = raster(page)
        page.locator("#chooser [name=sample]").first.focus()
        page.keyboard.press("ArrowRight")
        second = raster(page)
        assert second != first
        page.locator("#chooser [name=layer]").focus()
        page.keyboard.press("ArrowDown")
        third = raster(page)
        assert third != second
        page.locator("#chooser [name=arm]:checked").focus()
        page.keyboard.press("ArrowLeft")
        assert raster(page) != third
        page.locator("#theme").focus()
        before = colours(page)
        page.keyboard.press("Enter")
        assert colours(page) != before
        numbers_of = page.locator("[data-chart=rates] ~ .below details")
        numbers_of.locator("summary").focus()
        page.keyboard.press("Enter")
        assert numbers_of.locator("td").first.is_visible()


def test_a_zoomed_chart_is_reset_by_its_button(browser, digits_report):
    reach = f"{box_of('accuracy-epochs')}._fullLayout.xaxis.range"
    with opened(browser, digits_report) as page:
        draw_all(page)
        before = page.evaluate(reach)
        chart = page.locator("[data-chart=accuracy-epochs]")
        chart.scroll_into_view_if_needed()
        at = chart.locator(".nsewdrag").first.bounding_box()
        page.mouse.move(at["x"] + 100, at["y"] + 60)
        page.mouse.down()
        page.mouse.move(at["x"] + 250, at["y"] + 160, steps=4)
        page.mouse.up()
        until(page, f"{reach}[0] !== {before[0]}")
        page.get_by_role("button", name="Reset zoom: Accuracy, epoch by epoch").click()
        assert page.evaluate(reach) == before


def test_a_chart_is_saved_as_a_picture(browser, digits_report, tmp_path):
    with opened(browser, digits_report, accept_downloads=True) as page:
        draw_all(page)
        with page.expect_download() as download:
            page.get_by_role("button", name="Save as PNG: Firing rates").click()
        assert download.value.suggested_filename == "digits-rates.png"
        download.value.save_as(tmp_path / "rates.png")
    from PIL import Image

    with Image.open(tmp_path / "rates.png") as picture:
        assert picture.width > 800
        assert len(picture.convert("RGB").getcolors(1 << 24)) > 10


def test_the_page_never_scrolls_sideways_and_charts_follow_the_window(browser, digits_report):
    with opened(browser, digits_report) as page:
        draw_all(page)
        page.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
        for width in (1280, 768, 390, 320):
            page.set_viewport_size({"width": width, "height": 844})
            until(
                page, "[...document.querySelectorAll('.plot')].every(one => one._fullLayout.width <= one.clientWidth)"
            )
            assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.locator(".scroll").first.evaluate("one => one.scrollWidth > one.clientWidth")


@pytest.mark.parametrize(("scheme", "viewport"), [("light", DESKTOP), ("dark", PHONE)], ids=["light", "dark"])
def test_no_rule_of_wcag_2_aa_is_broken(browser, digits_report, scheme, viewport):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    with opened(browser, digits_report, viewport, color_scheme=scheme) as page:
        draw_all(page)
        page.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
        found = axe.Axe().run(page, options=WCAG).response
    broken = [(rule["id"], [node["html"][:160] for node in rule["nodes"][:3]]) for rule in found["violations"]]
    assert broken == []
    assert len(found["passes"]) > 15


def test_marks_and_letters_of_charts_stand_out_in_both_colours(browser, digits_report):
    """3 : 1 for marks, 4.5 : 1 for letters, by WCAG's relative luminances; axe does not look into charts."""
    names = ["--dense", "--pruned", "--on-chip", "--in-floats", *(f"--c{place}" for place in range(1, 7)), "--ink-soft"]
    fills = [f"--f{place}" for place in range(1, 9)]
    read = """names => { const probe = document.body.appendChild(document.createElement("i"));
        return names.map(name => { probe.style.color = `var(${name})`; return getComputedStyle(probe).color; }); }"""
    with opened(browser, digits_report) as page:
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            ground, ink = page.evaluate(read, ["--surface", "--ink"])
            marks, letters = page.evaluate(read, names), page.evaluate(read, fills)
            assert [name for name, mark in zip(names, marks, strict=True) if contrast(mark, ground) < 3] == [], scheme
            assert [name for name, fill in zip(fills, letters, strict=True) if contrast(fill, ink) < 4.5] == [], scheme
            assert contrast(ink, ground) >= 7


def contrast(a: str, b: str) -> float:
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def luminance(colour: str) -> float:
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_print_is_light_with_short_tables_open_and_no_chart_cut(browser, digits_report):
    with opened(browser, digits_report, color_scheme="dark") as page:
        page.emulate_media(media="print")
        until(page, "[...document.querySelectorAll('.plot')].every(one => one.querySelector('svg.main-svg'))")
        tables = page.evaluate(
            """[...document.querySelectorAll('details')].map(one => [
            one.open, one.closest('#manifest') !== null, one.querySelectorAll('tbody tr').length,
            one.closest('.pair') === null ? 0 : one.querySelectorAll('thead th').length])"""
        )
        short = [not manifest and rows <= 8 and columns <= 7 for _, manifest, rows, columns in tables]
        assert [is_open for is_open, *_ in tables] == short
        assert set(short) == {True, False}
        page.set_viewport_size({side: int(length) for side, length in PAPER.items()})
        assert page.evaluate("document.documentElement.scrollWidth") <= PAPER["width"]
        assert luminance(page.evaluate("getComputedStyle(document.body).backgroundColor")) == pytest.approx(1)
        sizes = page.evaluate(
            "[...document.querySelectorAll('svg.main-svg')].map(one => [one.clientWidth, one.clientHeight])"
        )
        assert len(sizes) >= 13
        assert [size for size in sizes if size[0] > PAPER["width"] or size[1] > PAPER["height"]] == []
        page.emulate_media(media="screen", color_scheme="dark")
        until(page, "document.querySelectorAll('details[open]').length === 0")
        assert luminance(page.evaluate("getComputedStyle(document.body).backgroundColor")) < 0.05


def test_a_pdf_is_made_with_every_chart_in_it(browser, digits_report):
    with opened(browser, digits_report) as page:
        pdf = page.pdf(prefer_css_page_size=True)
        drawn = page.evaluate("[...document.querySelectorAll('.plot')].filter(one => one.data).length")
        assert drawn == page.locator(".plot").count()
    assert pdf.startswith(b"%PDF")
    assert len(re.findall(rb"/Type\s*/Page\b", pdf)) in range(6, 13)
    assert re.search(rb"/MediaBox\s*\[0 0 59\d(\.\d+)? 84\d", pdf)  # A4 in points


def test_without_javascript_the_verdict_and_all_tables_are_there(browser, digits_report, digits_run):
    comparison = json.loads((digits_run / "compare.json").read_text())
    with opened(browser, digits_report, java_script_enabled=False) as page:
        assert page.locator(".sentence").inner_text().startswith("Pruned to ")
        assert "JavaScript" in page.locator("noscript .warning").inner_text()
        cells = page.locator("table.figures data").all_inner_texts()
        assert f"{comparison['pruned']['parameters']:,}" in cells
        assert page.locator("#chooser").is_hidden()
        details = page.locator("[data-chart=synops] ~ .below details")
        details.locator("summary").click()
        assert details.locator("td").first.is_visible()
        assert page.locator(".tools").first.is_hidden()


HOSTILE = ["<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "<a href='https://example.org'>b</a>&amp;"]


def test_hostile_names_are_drawn_as_they_are_and_do_nothing(browser, make_document, tmp_path):
    write_page(make_document(names=HOSTILE), tmp_path / "page.html")
    with opened(browser, tmp_path / "page.html") as page:
        draw_all(page)
        ticks = page.locator("[data-chart=rates] .ytick text").all_text_contents()
        # a line may be broken at a space, and a long name lacks its middle
        drawn = ["".join(tick.split())[:7] for tick in ticks]
        assert drawn == ["".join(name.split())[:7] for name in HOSTILE]
        assert page.locator(".plot a, .plot img, .plot script").count() == 0
        options = page.locator("#chooser [name=layer] option").all_inner_texts()
        assert options == HOSTILE
        for name in HOSTILE:
            page.locator("#chooser [name=layer]").select_option(name)
            assert name in page.locator("#sample-words").inner_text()


def test_networks_in_floats_have_a_silent_page(browser, floats_document, tmp_path):
    write_page(floats_document, tmp_path / "page.html")
    with opened(browser, tmp_path / "page.html", PHONE) as page:
        draw_all(page)
        assert page.locator(".plot.js-plotly-plot").count() == 3  # kept channels, those over epochs, accuracy
        assert page.locator(".missing").count() >= 10
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


def test_a_large_network_stays_readable(browser, make_document, tmp_path):
    names = [f"block{place // 4}.branch{place % 4}.a_rather_long_name_of_a_layer" for place in range(40)]
    write_page(make_document(names=names, channels=1000, steps=100, cores=520), tmp_path / "page.html")
    with opened(browser, tmp_path / "page.html", PHONE) as page:
        draw_all(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        assert page.locator("[data-chart^=floor-dense]").count() == 4
        ticks = page.locator("[data-chart=rates] .ytick text").all_text_contents()
        assert len(ticks) == len(set(ticks)) >= 20
        heights = page.evaluate("[...document.querySelectorAll('svg.main-svg')].map(one => one.clientHeight)")
        assert max(heights) <= PAPER["height"]
