"use strict";
/* Draws the charts whose data the page holds: when they come near, in the colours of the theme, for print. */
(() => {
  const page = document.documentElement;
  const data = JSON.parse(document.getElementById("data").textContent);
  /* Pixels: A4 less its margins and those of a panel; the style sheet prints the narrow ones at 0.66. */
  const PRINT_WIDTHS = { ".pair .plot": 460, "#inside": 560, "#readout": 370, ".plot": 660 };
  const PRINT_ROWS = 8, PRINT_COLUMNS = 7; // longer tables, and wider ones in half a page, stay closed on paper
  const SETTINGS = { displayModeBar: false, responsive: false };
  const touch = matchMedia("(pointer: coarse)").matches;
  const specs = new Map(); // box -> what gives its figure
  const drawn = new Map(); // box -> width it was drawn with
  let printing = null; // what to put back after printing

  page.classList.add("js");

  // Colours: figures name those of the style sheet, which says what they are in light and in dark.
  const probe = document.createElement("span");
  probe.hidden = true;
  document.body.append(probe);

  function colour(name) {
    probe.style.color = name;
    return getComputedStyle(probe).color;
  }

  function coloured(value, isColour) {
    if (typeof value === "string") return isColour && value.startsWith("var(") ? colour(value) : value;
    if (Array.isArray(value)) return value.map((item) => coloured(item, isColour));
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(
      Object.entries(value).map(([key, item]) => [key, coloured(item, isColour || /color/.test(key))])
    );
  }

  function draw(box) {
    const width = printing ? printWidth(box) : box.clientWidth;
    if (!width) return Promise.resolve();
    drawn.set(box, width);
    const spec = coloured(specs.get(box)(), false);
    const layout = { ...spec.layout, template: coloured(data.template, false), width, dragmode: touch ? false : "zoom" };
    if (layout.meta) fitFloor(layout, spec.data);
    return Plotly.react(box, spec.data, layout, SETTINGS);
  }

  function printWidth(box) {
    return Object.entries(PRINT_WIDTHS).find(([which]) => box.matches(which))[1];
  }

  /* Cells of a chip are squares, and letters as large as they allow. */
  function fitFloor(layout, traces) {
    const cell = layout.width / (layout.meta.width + 0.2);
    layout.height = Math.round(cell * (layout.meta.height + 0.2)) + 4;
    const letters = traces[traces.length - 1];
    const longest = Math.max(1, ...letters.text.map((text) => text.length));
    letters.textfont.size = Math.min(18, Math.max(8, (0.75 * cell) / Math.max(1, 0.7 * longest)));
  }

  function redraw() {
    for (const box of drawn.keys()) draw(box);
  }

  const near = new IntersectionObserver(
    (entries) => {
      for (const { target, isIntersecting } of entries) {
        if (!isIntersecting) continue;
        near.unobserve(target);
        if (!drawn.has(target)) draw(target);
      }
    },
    { rootMargin: "800px" }
  );
  const sizes = new ResizeObserver((entries) => {
    if (printing) return;
    for (const { target } of entries) {
      if (drawn.has(target) && Math.abs(drawn.get(target) - target.clientWidth) > 1) draw(target);
    }
  });

  function watch(box, figure) {
    specs.set(box, figure);
    near.observe(box);
    sizes.observe(box);
  }

  for (const box of document.querySelectorAll("[data-chart]")) watch(box, () => data.charts[box.dataset.chart]);

  document.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-does]");
    if (!button) return;
    const chart = button.closest(".chart");
    const box = chart.querySelector(".plot");
    if (button.dataset.does === "reset") draw(box);
    else save(box, chart.querySelector("h3"));
  });

  /* A picture goes without its page: its title says of what kind its figures are, and of which run. */
  function save(box, heading) {
    const labels = [...heading.querySelectorAll(".tag")].map((tag) => tag.textContent).join(", ");
    const parts = [heading.firstChild.textContent.trim(), `(${labels}) - ${data.title}`];
    const fits = 10 * parts.join(" ").length < box.layout.width; // pixels of a letter
    const text = parts.map((part) => part.replace(/&/g, "&amp;").replace(/</g, "&lt;")).join(fits ? " " : "<br>");
    const layout = { ...box.layout, paper_bgcolor: colour("var(--surface)"), title: { text, font: { size: 18 } } };
    layout.margin = { ...layout.margin, t: 90 };
    layout.height = (layout.height || box.clientHeight) + 80;
    Plotly.downloadImage(
      { data: box.data, layout },
      { format: "png", scale: 2, width: layout.width, height: layout.height, filename: fileName(box) }
    );
  }

  function fileName(box) {
    return `${data.title}-${box.dataset.chart || box.id}`.replace(/[^\p{L}\p{N}.-]+/gu, "_");
  }

  // Light and dark.
  const theme = document.getElementById("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (page.dataset.theme || (system.matches ? "dark" : "light")) === "dark";

  function showTheme() {
    theme.textContent = isDark() ? "Light colours" : "Dark colours";
    redraw();
  }

  theme.hidden = false;
  theme.addEventListener("click", () => {
    page.dataset.theme = isDark() ? "light" : "dark";
    showTheme();
  });
  system.addEventListener("change", showTheme);
  showTheme();

  // Print: light, short tables open, every chart drawn as wide as its place on the paper.
  function prepare() {
    if (printing) return;
    const closed = [...document.querySelectorAll("details:not([open])")].filter(
      (part) =>
        !part.closest("#manifest") &&
        part.querySelectorAll("tbody tr").length <= PRINT_ROWS &&
        !(part.closest(".pair") && part.querySelectorAll("thead th").length > PRINT_COLUMNS)
    );
    printing = { closed, theme: page.dataset.theme };
    page.dataset.theme = "light";
    for (const part of closed) part.open = true;
    for (const box of specs.keys()) draw(box);
  }

  function restore() {
    if (!printing) return;
    const before = printing;
    printing = null;
    for (const part of before.closed) part.open = false;
    if (before.theme) page.dataset.theme = before.theme;
    else delete page.dataset.theme;
    redraw();
  }

  addEventListener("beforeprint", prepare);
  addEventListener("afterprint", restore);
  matchMedia("print").addEventListener("change", (media) => (media.matches ? prepare() : restore()));

  // Inside a sample.
  const chooser = document.getElementById("chooser");
  if (chooser) inside(chooser);

  function counted(count, one) {
    return `${count.toLocaleString("en")} ${one}${count === 1 ? "" : "s"}`;
  }

  function inside(form) {
    const boxes = { inside: document.getElementById("inside"), readout: document.getElementById("readout") };
    const words = document.getElementById("sample-words");
    const fields = form.elements;
    let chosen;

    function choose() {
      const traces = data.traces[fields.arm.value];
      const sample = traces.samples[fields.sample.value];
      for (const option of fields.layer.options) {
        option.disabled = !sample || !sample.layers.some((layer) => layer.name === option.value);
      }
      if (sample && fields.layer.selectedOptions[0]?.disabled) fields.layer.value = sample.layers[0]?.name;
      const layer = sample?.layers.find((one) => one.name === fields.layer.value);
      const place = Math.max(0, fields.neuron.selectedIndex);
      const neurons = layer ? layer.membrane.map((trace) => trace.neuron) : [];
      fields.neuron.replaceChildren(...neurons.map((neuron) => new Option(neuron, neuron)));
      fields.neuron.selectedIndex = Math.min(place, neurons.length - 1);
      fields.neuron.disabled = !neurons.length;
      chosen = { steps: traces.steps, sample, layer, membrane: layer?.membrane[fields.neuron.selectedIndex] };
      document.getElementById("input").src = form.querySelector("[name=sample]:checked + img").src;
      tell();
      for (const box of Object.values(boxes)) if (drawn.has(box)) draw(box);
    }

    function tell() {
      const { steps, sample, layer } = chosen;
      if (!sample) {
        words.textContent = `The ${fields.arm.value} network holds no traces of this sample.`;
        return;
      }
      const answer = `Test sample ${fields.sample.value} shows class ${sample.label}: the chip answers ${sample.answer_chip}, the float network ${sample.answer_float}.`;
      const all = layer && layer.shown.length < layer.neurons ? ` Drawn are ${layer.shown.length} of its neurons, from the busiest to the least busy that fires, and silent ones where these are fewer.` : "";
      words.textContent = layer
        ? `${answer} Spikes of layer ${layer.name} (${counted(layer.neurons, "neuron")}) in ${counted(steps, "step")}: ${layer.spikes.toLocaleString("en")}.${all}`
        : answer;
      boxes.inside.setAttribute("aria-label", `Spike raster and membrane trace. ${words.textContent}`);
      boxes.readout.setAttribute("aria-label", readoutWords());
      document.getElementById("readout-part").hidden = !sample.readout;
      tabulate();
    }

    function readoutWords() {
      const { sample } = chosen;
      if (!sample.readout) return "No read-out to show";
      const best = (values) => `class ${values.indexOf(Math.max(...values))} with ${Math.max(...values).toPrecision(3)}`;
      return `Read-out after the last step: on the chip highest for ${best(sample.readout.chip.at(-1))}, in floats for ${best(sample.readout.float.at(-1))}.`;
    }

    function tabulate() {
      const table = document.getElementById("inside-numbers");
      table.replaceChildren();
      const trace = chosen.membrane;
      if (!trace) return;
      const fires = (kind, step) => (trace.fires?.[kind].includes(step) ? "fires" : "");
      const rows = trace.chip.map((v, step) => [
        step + 1, v.toPrecision(4), fires("chip", step), trace.float[step].toPrecision(4), fires("float", step),
      ]);
      const head = ["step", "v, chip", "chip", "v, float", "float"];
      const section = table.createTHead().insertRow();
      for (const text of head) section.append(Object.assign(document.createElement("th"), { textContent: text, scope: "col" }));
      const body = table.createTBody();
      for (const row of rows) {
        const line = body.insertRow();
        row.forEach((text, column) => {
          const cell = document.createElement(column ? "td" : "th");
          if (!column) cell.scope = "row";
          cell.textContent = text;
          line.append(cell);
        });
      }
    }

    function spikes(layer, steps) {
      const bytes = Uint8Array.from(atob(layer.bits), (character) => character.charCodeAt(0));
      const times = Array.from({ length: steps }, (_, step) => step);
      const z = layer.shown.map((_, row) =>
        times.map((step) => (bytes[(row * steps + step) >> 3] >> (7 - ((row * steps + step) & 7))) & 1)
      );
      return {
        x: times.map((step) => step + 1),
        y: layer.shown.map((_, row) => row),
        z,
        customdata: layer.shown.map((neuron) => times.map(() => neuron)),
        text: z.map((row) => row.map((spike) => (spike ? "spike" : "silent"))),
      };
    }

    function insideFigure() {
      const figure = structuredClone(data.forms.inside);
      const { steps, layer, membrane } = chosen;
      if (!layer) return figure;
      const [raster, chip, float, threshold, chipFires, floatFires] = figure.data;
      Object.assign(raster, spikes(layer, steps));
      raster.xgap = steps > 50 ? 0 : 2;
      const rows = layer.shown.length;
      const every = Math.ceil(rows / 8);
      const ticks = layer.shown.map((_, row) => row).filter((row) => row % every === 0);
      Object.assign(figure.layout.yaxis, {
        range: [rows - 0.5, -0.5], tickvals: ticks, ticktext: ticks.map((row) => layer.shown[row]),
      });
      for (const axis of [figure.layout.xaxis, figure.layout.xaxis2]) {
        Object.assign(axis, { range: [0.5, steps + 0.5], ...(steps <= 12 ? { dtick: 1 } : {}) });
      }
      if (!membrane) return figure;
      const times = membrane.chip.map((_, step) => step + 1);
      Object.assign(chip, { x: times, y: membrane.chip });
      Object.assign(float, { x: times, y: membrane.float });
      Object.assign(threshold, { x: [0.5, steps + 0.5], y: [membrane.threshold, membrane.threshold] });
      const top = Math.max(membrane.threshold, ...membrane.chip, ...membrane.float);
      const lift = 0.12 * (top - Math.min(0, ...membrane.chip, ...membrane.float));
      const marks = (kind, height) => {
        const at = membrane.fires ? membrane.fires[kind] : [];
        return { x: at.map((step) => step + 1), y: at.map(() => top + height * lift) };
      };
      Object.assign(chipFires, marks("chip", 2));
      Object.assign(floatFires, marks("float", 1));
      figure.layout.yaxis2.title.text = `v of neuron ${membrane.neuron}`;
      return figure;
    }

    function readoutFigure() {
      const figure = structuredClone(data.forms.readout);
      const { sample } = chosen;
      if (!sample?.readout) return figure;
      ["chip", "float"].forEach((kind, place) => {
        const values = sample.readout[kind].at(-1);
        Object.assign(figure.data[place], { x: values.map((_, one) => `${one}`), y: values });
      });
      figure.layout.xaxis.title.text = `class (${sample.label} is right)`;
      return figure;
    }

    form.addEventListener("change", choose);
    form.addEventListener("submit", (event) => event.preventDefault());
    choose();
    watch(boxes.inside, insideFigure);
    watch(boxes.readout, readoutFigure);
  }
})();
