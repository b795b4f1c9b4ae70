// Draws the curves, and makes the page's buttons work. All of the data is in the element "charts".
"use strict";
(() => {
  const root = document.documentElement;
  root.classList.add("js");
  const charts = JSON.parse(document.getElementById("charts").textContent);
  const colour = (name) => getComputedStyle(root).getPropertyValue(`--${name}`).trim();
  const DASHES = [[], [8, 4], [2, 3]];

  const grouped = new Intl.NumberFormat("en", { maximumFractionDigits: 2 });
  const number = (v) => {
    if (v == null) return "–";
    const size = Math.abs(v);
    if (v === 0) return "0";
    if (size >= 1000) return size < 1e7 ? grouped.format(v) : v.toExponential(2);
    return size >= 0.001 ? String(+v.toPrecision(4)) : v.toExponential(2);
  };
  const bytes = (v) => {
    if (v == null) return "";
    let unit = 0;
    while (Math.abs(v) >= 1000 && unit < 4) { v /= 1000; unit += 1; }
    return `${+v.toPrecision(4)} ${["B", "kB", "MB", "GB", "TB"][unit]}`;
  };
  const place = {
    round: (v) => `round ${v}`,
    time: (v) => `${number(v)} s`,
    simulated: (v) => `time ${number(v)}`,
    bytes,
  };

  // One chart: its figure, its data, and what the reader has chosen.
  class Chart {
    constructor(data) {
      this.data = data;
      this.figure = document.getElementById(data.id);
      this.box = this.figure.querySelector(".plot");
      this.said = this.figure.querySelector(".said");
      this.hidden = new Set();
      this.axis = Object.keys(data.axes)[0];
      this.log = false;
      this.plot = null;
      this.width = 0;
      this.figure.querySelectorAll(".axes input").forEach((input) =>
        input.addEventListener("change", () => { this.axis = input.value; this.draw(); }));
      this.figure.querySelector(".log")?.addEventListener("change", (event) => {
        this.log = event.target.checked;
        this.draw();
      });
      this.figure.querySelectorAll(".keys button").forEach((button, i) =>
        button.addEventListener("click", () => this.toggle(button, i)));
      this.box.addEventListener("keydown", (event) => this.key(event));
      this.box.addEventListener("blur", () => this.leave());
      new ResizeObserver(() => {
        if (this.box.clientWidth !== this.width) this.draw();
      }).observe(this.box);
    }

    // The last curve that is shown stays.
    toggle(button, i) {
      if (this.hidden.has(i)) this.hidden.delete(i);
      else if (this.hidden.size < this.data.series.length - 1) this.hidden.add(i);
      button.setAttribute("aria-pressed", String(!this.hidden.has(i)));
      this.draw();
    }

    // Curves have their own points on the axis; uPlot wants one list of all of them.
    table() {
      const tables = this.data.series.map((s) => [s.x[this.axis], s.y, s.low || s.y, s.high || s.y]);
      return uPlot.join(tables);
    }

    draw() {
      this.width = this.box.clientWidth;
      if (!this.width) return;
      this.plot?.destroy();
      this.box.querySelector(".tip")?.remove();
      this.points = this.table();
      const ink = colour("soft");
      const rule = colour("rule");
      const font = `11px ${getComputedStyle(document.body).fontFamily}`;
      const series = [{}];
      const bands = [];
      const banded = this.data.series.length - this.hidden.size <= this.data.bands;
      this.data.series.forEach((s, i) => {
        const stroke = colour(`c${s.index % 8}`);
        const few = s.y.length <= 15;
        const show = !this.hidden.has(i);
        series.push({
          show, stroke, width: 1.8, dash: DASHES[Math.floor(s.index / 8) % 3],
          points: { show: few, size: 5, fill: stroke },
        });
        const edge = { show, stroke: "transparent", width: 0, points: { show: false } };
        series.push({ ...edge }, { ...edge });
        if (s.low && show && banded) bands.push({ series: [3 * i + 3, 3 * i + 2], fill: `${stroke}29` });
      });
      const axis = {
        stroke: ink, font, labelFont: font, labelSize: 14, labelGap: 0,
        grid: { stroke: rule, width: 1 }, ticks: { stroke: rule, width: 1, size: 4 },
      };
      const low = this.data.key.endsWith("accuracy");
      this.plot = new uPlot({
        width: this.width,
        height: this.box.clientHeight,
        legend: { show: false },
        series,
        bands,
        scales: {
          x: { time: false, range: (_, min, max) => (min === max ? [min - 0.5, max + 0.5] : [min, max]) },
          y: this.log ? { distr: 3 } : {
            range: (_, min, max) => {
              if (min == null) return [0, 1];
              const [a, b] = uPlot.rangeNum(min, max, 0.08, true);
              return low && min >= 0 && max <= 1 ? [Math.max(0, a), Math.min(1, b)] : [a, b];
            },
          },
        },
        axes: [
          {
            ...axis, grid: { show: false }, label: this.data.axes[this.axis], size: 24, space: 60,
            values: this.axis === "bytes" ? (_, ticks) => ticks.map(bytes) : undefined,
            incrs: this.axis === "round" ? [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 1e5, 1e6] : undefined,
          },
          { ...axis, size: 52, values: (_, ticks) => ticks.map((v) => (v == null ? "" : number(v))) },
        ],
        cursor: {
          y: false,
          points: { size: 7, show: (_, i) => (i % 3 === 1 ? undefined : false) },
          dataIdx: (_, i, at) => this.nearest(i, at),
          drag: { x: true, y: false },
        },
        hooks: { setCursor: [() => this.tip()] },
      }, this.points, this.box);
      this.bubble = document.createElement("div");
      this.bubble.className = "tip";
      this.bubble.hidden = true;
      this.box.append(this.bubble);
    }

    // The point of curve i that is nearest to place `at` among all points.
    nearest(i, at) {
      const values = this.points[i];
      if (values[at] != null) return at;
      const xs = this.points[0];
      let left = at;
      let right = at;
      while (left >= 0 && values[left] == null) left -= 1;
      while (right < xs.length && values[right] == null) right += 1;
      if (left < 0) return right < xs.length ? right : at;
      if (right >= xs.length) return left;
      return xs[at] - xs[left] <= xs[right] - xs[at] ? left : right;
    }

    // What stands under the cursor: name and value of each curve, the highest first.
    values() {
      const { idx, idxs } = this.plot.cursor;
      if (idx == null || !idxs) return null;
      const rows = [];
      this.data.series.forEach((s, i) => {
        const at = idxs[3 * i + 1];
        if (this.hidden.has(i) || at == null || this.points[3 * i + 1][at] == null) return;
        const value = this.points[3 * i + 1][at];
        let text = number(value);
        if (s.low) text += ` (${number(this.points[3 * i + 2][at])} – ${number(this.points[3 * i + 3][at])})`;
        if (this.points[0][at] !== this.points[0][idx]) text += `, ${place[this.axis](this.points[0][at])}`;
        rows.push({ name: s.name, value, text, index: s.index });
      });
      return { title: place[this.axis](this.points[0][idx]), rows: rows.sort((a, b) => b.value - a.value) };
    }

    tip() {
      const { left, top } = this.plot.cursor;
      const found = left >= 0 ? this.values() : null;
      this.bubble.hidden = !found || !found.rows.length;
      if (this.bubble.hidden) return;
      const head = document.createElement("strong");
      head.textContent = found.title;
      const lines = found.rows.slice(0, 12).map((row) => {
        const line = document.createElement("div");
        const name = document.createElement("bdi");
        const value = document.createElement("span");
        name.textContent = row.name;
        name.className = `c${row.index % 8}`;
        value.textContent = row.text;
        line.append(name, value);
        return line;
      });
      this.bubble.replaceChildren(head, ...lines);
      const x = left + this.plot.over.offsetLeft;
      const flip = x + this.bubble.offsetWidth + 16 > this.width;
      this.bubble.style.left = `${Math.max(0, flip ? x - this.bubble.offsetWidth - 12 : x + 12)}px`;
      this.bubble.style.top = `${Math.min(Math.max(0, top), Math.max(0, this.box.clientHeight - this.bubble.offsetHeight))}px`;
    }

    key(event) {
      if (!this.plot) return;
      const last = this.points[0].length - 1;
      const now = this.plot.cursor.left >= 0 ? this.plot.cursor.idx : null;
      const to = {
        ArrowRight: now == null ? 0 : Math.min(last, now + 1),
        ArrowLeft: now == null ? last : Math.max(0, now - 1),
        Home: 0,
        End: last,
      }[event.key];
      if (event.key === "Escape") this.leave();
      if (to === undefined) return;
      event.preventDefault();
      this.plot.setCursor({ left: this.plot.valToPos(this.points[0][to], "x"), top: 8 });
      const found = this.values();
      this.said.textContent = found
        ? `${found.title}: ${found.rows.map((row) => `${row.name} ${row.text}`).join("; ")}` : "";
    }

    leave() {
      this.plot?.setCursor({ left: -10, top: -10 });
    }
  }

  const drawn = charts.map((data) => new Chart(data));
  const redraw = () => drawn.forEach((chart) => chart.draw());

  // The theme: the system's, until the reader chooses one (or the address says ?theme=dark).
  const themes = ["automatic", "light", "dark"];
  const button = document.getElementById("theme");
  let theme = "automatic";
  const set = (name) => {
    theme = themes.includes(name) ? name : "automatic";
    if (theme === "automatic") root.removeAttribute("data-theme");
    else root.setAttribute("data-theme", theme);
    button.textContent = `Theme: ${theme}`;
    redraw();
  };
  set(new URLSearchParams(location.search).get("theme"));
  button.addEventListener("click", () => set(themes[(themes.indexOf(theme) + 1) % themes.length]));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);

  let before = theme;
  addEventListener("beforeprint", () => { before = theme; set("light"); });
  addEventListener("afterprint", () => set(before));

  document.querySelectorAll(".copy").forEach((copy) => copy.addEventListener("click", async () => {
    const code = copy.parentElement.querySelector("code");
    try {
      await navigator.clipboard.writeText(code.textContent);
      copy.textContent = "Copied";
      setTimeout(() => { copy.textContent = "Copy"; }, 1500);
    } catch {
      getSelection().selectAllChildren(code);
    }
  }));
})();
