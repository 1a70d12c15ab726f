"use strict";
// Sorting by buttons, a filter for long tables, and charts to point at. Without this script the page shows the same
// tables, and pictures in place of charts. All text goes through textContent, so none of it can become markup.
(() => {
  const LONG = 12; // rows of a table with a filter
  const REACH = 40; // pixels from the pointer to a point that it finds
  const MOST = 5; // lines through one point that it names
  const WHOLE = [0, 1, 2, 3, 4, 5, 6].flatMap((power) => [1, 2, 5].map((digit) => digit * 10 ** power)); // between steps
  const dark = matchMedia("(prefers-color-scheme: dark)");

  function make(kind, parent, properties = {}) {
    const element = Object.assign(document.createElement(kind), properties);
    parent.append(element);
    return element;
  }

  const shown = (number) => (number === null || number === undefined ? "–" : String(+number.toPrecision(4)));
  const theme = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const colourOf = (entry) => (entry.colour === "#000000" ? theme("--ink") : entry.colour);

  for (const table of document.querySelectorAll("table.sortable")) {
    for (const head of table.tHead.querySelectorAll("th")) {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
    }
    const rows = [...table.tBodies[0].rows];
    if (rows.length <= LONG) continue;
    const bar = document.createElement("div");
    bar.className = "filter";
    const label = make("label", bar, { textContent: "Filter rows: " });
    const input = make("input", label, { type: "search" });
    const count = make("output", bar, { textContent: `${rows.length} rows` });
    table.closest(".wide").before(bar);
    input.addEventListener("input", () => {
      const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      let kept = 0;
      for (const row of rows) {
        // Words, not digits of numbers.
        const said = [...row.cells].filter((cell) => !cell.dataset.sort || isNaN(cell.dataset.sort));
        const text = said.map((cell) => cell.textContent).join(" ").toLowerCase();
        row.hidden = !words.every((word) => text.includes(word));
        kept += !row.hidden;
      }
      count.textContent = kept === rows.length ? `${kept} rows` : `${kept} of ${rows.length} rows`;
    });
  }

  class Chart {
    constructor(figure, content) {
      this.content = content;
      this.hidden = new Set();
      this.plots = [];
      const live = figure.querySelector(".live");
      if (content.views.length > 1) {
        const choice = make("select", make("label", live, { textContent: "Shown: " }));
        content.views.forEach((view, number) => make("option", choice, { value: number, textContent: view.y_label }));
        choice.addEventListener("change", () => this.show(+choice.value));
      }
      this.place = make("div", live, { className: "panels" });
      this.legend(live);
      figure.classList.add("drawn");
      this.show(0);
    }

    legend(live) {
      const list = make("div", live, { className: "legend" });
      list.setAttribute("role", "group");
      list.setAttribute("aria-label", "Lines to show");
      const buttons = this.content.entries.map((entry, number) => {
        const button = make("button", list, { type: "button" });
        const sample = make("i", button);
        sample.style.borderTopColor = entry.colour === "#000000" ? "currentColor" : entry.colour;
        sample.style.borderTopStyle = { "-": "solid", "--": "dashed", ":": "dotted" }[entry.dash];
        button.append(entry.label);
        button.addEventListener("click", () => {
          if (!this.hidden.delete(number)) this.hidden.add(number);
          update();
        });
        return button;
      });
      const update = () => {
        buttons.forEach((button, number) => button.setAttribute("aria-pressed", !this.hidden.has(number)));
        this.refresh();
      };
      if (buttons.length > 2) {
        for (const [text, none] of [["show all", false], ["hide all", true]]) {
          make("button", list, { type: "button", className: "all", textContent: text }).addEventListener("click", () => {
            this.hidden = new Set(none ? buttons.keys() : []);
            update();
          });
        }
      }
      update();
    }

    show(number) {
      this.plots.forEach((plot) => plot.destroy());
      this.place.replaceChildren();
      this.view = this.content.views[number];
      this.plots = this.view.panels.map((panel) => this.panel(panel));
      this.refresh();
    }

    // The smallest and largest shown value of a vertical scale, the same in all panels.
    limits(right) {
      let low = Infinity;
      let high = -Infinity;
      for (const panel of this.view.panels) {
        for (const line of panel.lines) {
          if (line.right !== right || this.hidden.has(line.entry)) continue;
          for (const value of [...line.y, ...(line.low ?? []), ...(line.high ?? [])]) {
            if (value === null) continue;
            low = Math.min(low, value);
            high = Math.max(high, value);
          }
        }
      }
      if (low > high) return [0, 1];
      const margin = (high - low) * 0.06 || Math.abs(high) * 0.05 || 0.5;
      return [low - margin, high + margin];
    }

    refresh() {
      for (const plot of this.plots) {
        plot.panel.lines.forEach((line, number) => {
          const show = !this.hidden.has(line.entry);
          if (plot.series[number + 1].show !== show) plot.setSeries(number + 1, { show });
        });
        for (const scale of ["y", "right"]) {
          if (!plot.scales[scale]) continue;
          const [min, max] = this.limits(scale === "right");
          plot.setScale(scale, { min, max });
        }
        plot.point(null);
      }
    }

    panel(panel) {
      const box = make("div", this.place, { className: "panel" });
      if (panel.title) make("h4", box, { textContent: panel.title });
      const names = panel.x_names;
      const all = panel.lines.flatMap((line) => line.x);
      const [first, last] = names ? [-0.5, names.length - 0.5] : [Math.min(...all), Math.max(...all)];
      const padded = panel.logarithmic
        ? [first / 1.3, last * 1.3]
        : names ? [first, last] : [first - ((last - first) * 0.03 || 1), last + ((last - first) * 0.03 || 1)];
      const right = panel.lines.some((line) => line.right);
      const axis = { stroke: () => theme("--soft"), grid: { stroke: () => theme("--rule"), width: 1 }, ticks: { show: false },
        font: "12px system-ui, sans-serif", labelFont: "12px system-ui, sans-serif", labelSize: 18 };
      const width = Math.max(240, box.clientWidth);
      const sideways = names && names.some((name) => name.length * 7 > (width - 60) / names.length);
      const options = {
        width, height: sideways ? 300 : 260,
        legend: { show: false },
        cursor: { points: { show: false }, y: false, drag: { x: !names, y: false } },
        scales: {
          x: { time: false, distr: panel.logarithmic ? 3 : 1,
            range: (_, min, max) => (names || (min <= first && max >= last) ? padded : [min, max]) },
          y: { auto: false }, ...(right && { right: { auto: false } }),
        },
        axes: [
          { ...axis, size: 30, label: panel.x_label || undefined, ...(panel.steps && { incrs: WHOLE }), ...(names && { splits: () => names.map((_, at) => at),
            values: (_, at) => at.map((place) => names[place]), grid: { show: false },
            ...(sideways && { rotate: -35, size: 84 }) }) },
          { ...axis, label: this.view.y_label, size: 58 },
          ...(right ? [{ ...axis, scale: "right", side: 1, grid: { show: false }, size: 50 }] : []),
        ],
        series: [{}, ...panel.lines.map((line) => {
          const entry = this.content.entries[line.entry];
          return {
            label: line.name, scale: line.right ? "right" : "y", spanGaps: true, show: !this.hidden.has(line.entry),
            stroke: () => colourOf(entry), width: !line.joined ? 0 : line.faint ? 1 : 2, alpha: line.faint ? 0.4 : 1,
            dash: { "-": [], "--": [7, 4], ":": [2, 3] }[entry.dash],
            points: { show: !line.faint && line.x.length <= 20, size: line.joined ? 6 : 8, width: 1, fill: () => colourOf(entry),
              stroke: () => colourOf(entry) },
          };
        })],
        hooks: { draw: [(plot) => this.intervals(plot, panel)] },
      };
      const data = uPlot.join(panel.lines.map((line) => [line.x, line.y]));
      const plot = new uPlot(options, data, box);
      plot.panel = panel;
      this.pointing(plot, box);
      new ResizeObserver(() => {
        const width = Math.max(240, box.clientWidth);
        if (box.clientWidth && width !== plot.width) plot.setSize({ width, height: plot.height });
      }).observe(box);
      return plot;
    }

    intervals(plot, panel) {
      const context = plot.ctx;
      context.save();
      context.lineWidth = 1.3 * devicePixelRatio;
      for (const line of panel.lines) {
        if (!line.low || this.hidden.has(line.entry)) continue;
        context.strokeStyle = colourOf(this.content.entries[line.entry]);
        line.x.forEach((x, at) => {
          if (line.low[at] === null || line.high[at] === null) return;
          const left = plot.valToPos(x, "x", true);
          if (left < plot.bbox.left || left > plot.bbox.left + plot.bbox.width) return;
          context.beginPath();
          context.moveTo(left, plot.valToPos(line.low[at], "y", true));
          context.lineTo(left, plot.valToPos(line.high[at], "y", true));
          context.stroke();
        });
      }
      context.restore();
    }

    // The pointer finds the nearest point; arrow keys walk along a line and from line to line.
    pointing(plot, box) {
      const panel = plot.panel;
      const mark = make("div", plot.over, { className: "mark", hidden: true });
      const tip = make("div", box, { className: "tip", hidden: true });
      tip.setAttribute("role", "status");
      let current = null;
      const visible = () => panel.lines.filter((line) => !this.hidden.has(line.entry) && line.x.length);
      const position = (line, at) => [plot.valToPos(line.x[at], "x"), plot.valToPos(line.y[at], line.right ? "right" : "y")];
      plot.point = (found) => {
        current = found;
        mark.hidden = tip.hidden = !found;
        if (!found) return;
        const { line, at } = found;
        const [left, top] = position(line, at);
        const x = panel.x_names ? panel.x_names[Math.round(line.x[at])] : `${panel.x_label} ${shown(line.x[at])}`;
        const interval = line.low && line.low[at] !== null ? ` [${shown(line.low[at])}, ${shown(line.high[at])}]` : "";
        const measured = line.right ? "" : `${this.view.y_label} `;
        const same = visible().filter((other) => other.right === line.right && !other.faint === !line.faint
          && other.y[other.x.indexOf(line.x[at])] === line.y[at]);
        const names = same.slice(0, MOST).map((other) => other.name);
        if (same.length > MOST) names.push(`and ${same.length - MOST} more`);
        tip.textContent = `${names.join("\n")}\n${x}\n${measured}${shown(line.y[at])}${interval}`;
        mark.style.left = `${left}px`;
        mark.style.top = `${top}px`;
        const over = plot.over.getBoundingClientRect();
        const outer = box.getBoundingClientRect();
        const fromLeft = over.left - outer.left + left;
        const fromTop = over.top - outer.top + top;
        tip.style.left = `${Math.max(0, Math.min(fromLeft + 12, outer.width - tip.offsetWidth))}px`;
        tip.style.top = `${fromTop - tip.offsetHeight - 10 < 0 ? fromTop + 14 : fromTop - tip.offsetHeight - 10}px`;
      };
      plot.over.addEventListener("mousemove", (event) => {
        const over = plot.over.getBoundingClientRect();
        let nearest = null;
        let distance = REACH ** 2;
        for (const line of visible()) {
          line.x.forEach((_, at) => {
            const [left, top] = position(line, at);
            const apart = (left - event.clientX + over.left) ** 2 + (top - event.clientY + over.top) ** 2;
            if (line.y[at] !== null && apart < distance) [nearest, distance] = [{ line, at }, apart];
          });
        }
        plot.point(nearest);
      });
      plot.over.addEventListener("mouseleave", () => plot.point(null));
      plot.over.tabIndex = 0;
      plot.over.setAttribute("role", "group");
      plot.over.setAttribute("aria-label", `${panel.title} ${this.view.y_label}: arrow keys walk along the points`);
      plot.over.addEventListener("blur", () => plot.point(null));
      plot.over.addEventListener("keydown", (event) => {
        const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
        const lines = visible();
        if (event.key === "Escape") plot.point(null);
        if (!steps || !lines.length) return;
        event.preventDefault();
        if (!current) return plot.point({ line: lines[0], at: 0 });
        const next = lines[Math.max(0, Math.min(lines.length - 1, lines.indexOf(current.line) + steps[0]))];
        plot.point({ line: next, at: Math.max(0, Math.min(next.x.length - 1, current.at + steps[1])) });
      });
    }
  }

  const charts = [];
  const near = new IntersectionObserver((entries) => {
    for (const entry of entries.filter((one) => one.isIntersecting)) {
      near.unobserve(entry.target);
      charts.push(new Chart(entry.target, JSON.parse(entry.target.querySelector("script").textContent)));
    }
  }, { rootMargin: "600px" });
  for (const figure of document.querySelectorAll("figure")) {
    if (figure.querySelector("script")) near.observe(figure);
  }
  dark.addEventListener("change", () => charts.forEach((chart) => chart.plots.forEach((plot) => plot.redraw(false, true))));
})();
