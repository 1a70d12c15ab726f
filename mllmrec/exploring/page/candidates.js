// The candidates as rows, and every phase as a column of bars. Several runs stand side by side.

import { fill, h, note, percent, picture, points, signed } from "./dom.js";

const MANY = 20;

export function candidates(state) {
  const { app, views } = state;
  const columns = columnsOf(state);
  const rows = rowsOf(state, columns);
  const shown = state.all ? rows : cut(rows, state);
  const several = views.length > 1;
  const missing = columns.filter((column) => !column.values.size && !column.waits);
  const table = h("table", { class: "candidates", id: "candidates" },
    h("thead", {},
      several && h("tr", {}, h("th", { class: "corner" }), groups(columns).map(([run, count]) =>
        h("th", { scope: "colgroup", colspan: count, class: `group run-${run % 4}` }, `${app.letter(run)} · ${app.runs[run].name}`))),
      h("tr", {}, h("th", { scope: "col", class: "corner" }, "Candidate"), columns.map((column) =>
        h("th", { scope: "col", class: column.live ? "live" : null }, column.title, h("small", {}, column.says))))),
    h("tbody", {}, shown.map((item) => row(state, item, columns))));
  return [
    h("div", { class: "head" }, h("h2", {}, "Candidates before and after each phase"), picker(state)),
    columns.length ? h("div", { class: "scroll" }, table) : note("Choose at least one phase."),
    rows.length > shown.length && h("button", { type: "button", class: "plain", onclick: () => { state.all = true; state.draw(); } }, `All ${rows.length} candidates`),
    missing.length > 0 && h("p", { class: "soft" }, missing.map((column) => column.title).join(", "),
      missing.length > 1 ? " have ranks alone: their scores were not stored, or their way to rank has none." : " has ranks alone: its scores were not stored, or its way to rank has none."),
  ];
}

function columnsOf(state) {
  const found = [];
  state.views.forEach((view, run) => {
    for (const stage of view.stages ?? []) {
      const key = `${run}/${stage.name}`;
      if (stage.kind === "changed" || state.hidden.has(key)) continue;
      const now = state.filledIn.get(key);
      const source = stage.values ? stage : now?.values ? now : null;
      const waits = !source && stage.saved && view.history && !now;
      found.push({
        run, key, title: stage.title.replaceAll("_", " "), live: false, waits,
        measure: (source ?? stage).measure,
        says: waits ? "computing …" : now?.failed ? now.failed : source ? said(source.measure, stage.complete, state.app.runs[run].lists) : "rank",
        values: new Map(source ? source.items.map((item, place) => [item, source.values[place]]) : []),
        ranks: new Map(stage.items.map((item, place) => [item, place + 1])),
      });
    }
    if (state.without && state.live?.run === run) {
      const ordered = [...state.without.items.keys()].sort((a, b) => (state.without.values[b] ?? -Infinity) - (state.without.values[a] ?? -Infinity));
      const count = state.out.size;
      found.push({
        run, key: "live", title: `${state.live.stage.title} without ${count} item${count > 1 ? "s" : ""}`, live: true,
        measure: state.without.measure, says: "the mark is the whole history",
        values: new Map(state.without.items.map((item, place) => [item, state.without.values[place]])),
        before: new Map(state.whole.items.map((item, place) => [item, state.whole.values[place]])),
        ranks: new Map(ordered.map((place, rank) => [state.without.items[place], rank + 1])),
      });
    }
  });
  for (const column of found) {
    const values = [...column.values.values(), ...(column.before?.values() ?? [])].filter((value) => value !== null);
    [column.low, column.high] = column.measure === "probability" ? [0, Math.max(...values, 0.01)] : [Math.min(...values), Math.max(...values)];
  }
  // One scale for all probabilities, so that bars of different phases can be compared.
  const highest = Math.max(0.01, ...found.filter((one) => one.measure === "probability" && one.values.size).map((one) => one.high));
  for (const column of found) if (column.measure === "probability") column.high = highest;
  return found;
}

// Where answers are ranked lists, the rank is the place in the list that was written.
const said = (measure, complete, lists) => (measure !== "probability" ? "score" : lists ? "probability of being first" : complete ? "probability" : "probability among these");

function rowsOf(state, columns) {
  const main = [...columns].reverse().find((column) => !column.live && column.run === state.known) ?? columns.at(-1);
  const all = new Set(columns.flatMap((column) => [...column.ranks.keys(), ...column.values.keys()]));
  const rank = (item) => main?.ranks.get(item) ?? Infinity;
  const target = state.views[state.known].target.id;
  all.add(target);
  return [...all].sort((a, b) => rank(a) - rank(b) || 0);
}

function cut(rows, state) {
  if (rows.length <= MANY) return rows;
  const target = state.views[state.known].target.id;
  const best = rows.slice(0, MANY);
  return best.includes(target) ? best : [...best, target];
}

function groups(columns) {
  const counts = new Map();
  for (const column of columns) counts.set(column.run, (counts.get(column.run) ?? 0) + 1);
  return [...counts];
}

function row(state, id, columns) {
  const targets = state.views.map((view) => view.target?.id);
  const item = state.views.map((view) => view.items?.[id]).find(Boolean) ?? { id, title: id, caption: "", pictured: false };
  const truth = targets.includes(id);
  const focus = state.effects && state.focus === id;
  const name = [truth && h("span", { class: "eyebrow" }, "true item"), h("span", { class: "name" }, item.title), item.caption && h("span", { class: "soft" }, item.caption)];
  const choose = () => { state.focus = id; state.draw(); };
  return h("tr", { class: [truth && "truth", focus && "focus"].filter(Boolean).join(" ") || null, "data-item": id },
    h("th", { scope: "row" }, h("div", { class: "item" }, picture(state.known, item),
      state.effects ? h("button", { type: "button", class: "text", onclick: choose, "aria-pressed": focus ? "true" : "false" }, name) : h("div", { class: "text" }, name))),
    columns.map((column) => cell(column, id)));
}

function cell(column, id) {
  const rank = column.ranks.get(id);
  const value = column.values.get(id);
  const place = h("span", { class: "rank" }, rank === undefined ? "–" : `#${rank}`);
  if (value === undefined || value === null) return h("td", { class: "plain" }, place, column.waits && h("span", { class: "shimmer" }));
  const share = (given) => `${(100 * (given - column.low)) / (column.high - column.low || 1)}%`;
  const before = column.before?.get(id);
  const text = column.measure === "probability" ? percent(value) : value.toFixed(2);
  const change = before === undefined || before === null ? null : value - before;
  const moved = change === null ? null : h("span", { class: `change ${change < 0 ? "down" : "up"}` }, column.measure === "probability" ? points(change) : signed(change));
  return h("td", { "data-value": value, "data-stage": column.key },
    h("div", { class: `bar run-${column.run % 4}` },
      h("span", { class: "track" }, h("i", { css: { width: share(value) } }), before !== undefined && before !== null && h("b", { css: { left: share(before) } })),
      h("span", { class: "number" }, text, moved), place));
}

function picker(state) {
  const boxes = state.views.flatMap((view, run) => (view.stages ?? []).filter((stage) => stage.kind !== "changed").map((stage) => {
    const key = `${run}/${stage.name}`;
    const turn = (event) => {
      if (event.target.checked) state.hidden.delete(key);
      else state.hidden.add(key);
      state.draw();
      if (event.target.checked) state.fillIn?.();
    };
    const label = state.views.length > 1 ? `${state.app.letter(run)} ${stage.title}` : stage.title;
    return h("label", { class: "check" }, h("input", { type: "checkbox", checked: !state.hidden.has(key), onchange: turn }), label.replaceAll("_", " "));
  }));
  return fill(h("fieldset", { class: "picker" }), h("legend", {}, "Columns"), boxes);
}
