// Results in parts of the users: a filterable table with intervals drawn on one scale.

import { get } from "./api.js";
import { debounced, empty, fill, h, note, number, select, sortable } from "./dom.js";

export function slicesView(app, content) {
  const state = { sort: "", descending: false, text: "", stage: "", metric: "" };
  const tools = h("div", { class: "tools" });
  const table = h("div", { id: "slices" });
  let rows = [];
  let metrics = [];
  fill(content, h("h1", {}, "Slices"), h("p", { class: "soft lead" }, "Mean results in parts of the users, with 95 % intervals. Baselines and phases rank the same candidates."), tools, table);

  function draw() {
    const text = state.text.casefold?.() ?? state.text.toLowerCase();
    const fits = rows.filter((row) => state.metric in row.means && (!state.stage || `${row.run}/${row.stage}` === state.stage)
      && (!text || `${row.slice} ${row.holds} ${row.title} ${app.runs[row.run].name}`.toLowerCase().includes(text)));
    const ends = fits.flatMap((row) => row.intervals[state.metric] ?? [row.means[state.metric]]);
    const [low, high] = [Math.min(0, ...ends), Math.max(...ends, 0.01)];
    const at = (value) => `${(100 * (value - low)) / (high - low)}%`;
    const columns = [
      { key: "slice", title: "Slice", value: (row) => row.slice, cell: (row) => [h("b", {}, row.slice), h("span", { class: "soft" }, ` ${row.holds}`)] },
      { key: "users", title: "Users", number: true, value: (row) => row.users, cell: (row) => [number(row.users), row.few && h("span", { class: "tag warn", title: "too few users to say much" }, "few")] },
      ...(app.runs.length > 1 ? [{ key: "run", title: "Run", value: (row) => row.run, cell: (row) => h("span", { class: `key run-${row.run % 4}` }, app.letter(row.run)) }] : []),
      { key: "stage", title: "Phase", value: (row) => row.title, cell: (row) => row.title.replaceAll("_", " ") },
      { key: "mean", title: state.metric, number: true, descends: true, value: (row) => row.means[state.metric], cell: (row) => row.means[state.metric].toFixed(3) },
      { title: "95 % interval", cell: (row) => {
        const interval = row.intervals[state.metric];
        return h("span", { class: `interval run-${row.run % 4}`, title: interval ? `${interval[0].toFixed(3)} to ${interval[1].toFixed(3)}` : "one user has no interval" },
          interval && h("i", { css: { left: at(interval[0]), width: `${(100 * (interval[1] - interval[0])) / (high - low)}%` } }), h("b", { css: { left: at(row.means[state.metric]) } }));
      } },
    ];
    fill(table, fits.length ? h("div", { class: "scroll" }, sortable(columns, fits, state, (given) => { Object.assign(state, given); draw(); })) : empty("No row fits. Clear the search or the filter."));
  }

  return async () => {
    const found = await Promise.all(app.runs.map((_, run) => get(`/api/runs/${run}/slices`, { other: app.other })));
    metrics = found[0].metrics;
    rows = found.flatMap((one, run) => one.rows.map((row) => ({ ...row, run })));
    state.metric ||= metrics.includes("NDCG@3") ? "NDCG@3" : metrics[0];
    const stages = [...new Map(rows.map((row) => [`${row.run}/${row.stage}`, `${app.runs.length > 1 ? `${app.letter(row.run)} · ` : ""}${row.title.replaceAll("_", " ")}`]))];
    const parts = rows.some((row) => row.slice !== "all");
    fill(tools,
      h("label", { class: "field" }, h("span", {}, "Search"), h("input", { type: "search", id: "slices-search", value: state.text, placeholder: "slice or phase", oninput: debounced((event) => { state.text = event.target.value; draw(); }) })),
      select("Metric", metrics.map((name) => [name, name]), state.metric, (value) => { state.metric = value; draw(); }, { id: "metric" }),
      select("Phase", [["", "all"], ...stages], state.stage, (value) => { state.stage = value; draw(); }),
      !parts && note("This run recorded no slices; the rows are of all users."));
    draw();
  };
}
