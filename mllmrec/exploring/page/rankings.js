// The table of all ranked users: filtered, sorted and cut by the server.

import { get } from "./api.js";
import { debounced, empty, fill, h, heads, number, select, sliceTitle } from "./dom.js";

const AT_ONCE = 50;

export function rankingsView(app, content) {
  let run = 0;
  const asked = { text: "", slice: "", moved: "", before: "", after: "", sort: "", descending: false, offset: 0 };
  const table = h("div", { id: "rankings" });
  const tools = h("div", { class: "tools" });
  fill(content, h("h1", {}, "Rankings"), h("p", { class: "soft lead" }, "The rank of the true item for every user, by every baseline and after every phase."), tools, table);

  const stages = () => app.runs[run].stages.filter((stage) => stage.kind === "baseline" || stage.kind === "phase");

  function drawTools() {
    const phases = stages().filter((stage) => stage.kind === "phase");
    if (!stages().some((stage) => stage.name === asked.before)) asked.before = (phases.at(-2) ?? phases[0]).name;
    if (!stages().some((stage) => stage.name === asked.after)) asked.after = phases.at(-1).name;
    const names = stages().map((stage) => [stage.name, stage.title.replaceAll("_", " ")]);
    fill(tools,
      app.runs.length > 1 && select("Run", app.runs.map((one, place) => [String(place), `${app.letter(place)} · ${one.name}`]), String(run), (value) => { run = Number(value); asked.offset = 0; drawTools(); load(); }),
      h("label", { class: "field" }, h("span", {}, "Search"), h("input", { type: "search", id: "rankings-search", value: asked.text, placeholder: "user, item or title", oninput: debounced((event) => change({ text: event.target.value })) })),
      select("Slice", [["", "all"], ...app.runs[run].slices.map((name) => [name, sliceTitle(name)])], asked.slice, (value) => change({ slice: value })),
      select("From", names, asked.before, (value) => change({ before: value })),
      select("To", names, asked.after, (value) => change({ after: value })),
      select("True item", [["", "any"], ["up", "moved up"], ["down", "moved down"], ["same", "stayed"]], asked.moved, (value) => change({ moved: value })));
  }

  function change(given) {
    Object.assign(asked, { offset: 0 }, given);
    load();
  }

  async function load() {
    const now = JSON.stringify([run, asked]);
    table.setAttribute("aria-busy", "true");
    let found;
    try {
      found = await get(`/api/runs/${run}/users`, { ...asked, other: app.other, limit: AT_ONCE });
    } catch (error) {
      app.failed(error, table);
      return;
    }
    if (now !== JSON.stringify([run, asked])) return;
    table.removeAttribute("aria-busy");
    const rank = (row, name) => row.ranks[name] ?? null;
    const gained = (row) => (rank(row, asked.before) ?? row.num_candidates + 1) - (rank(row, asked.after) ?? row.num_candidates + 1);
    const columns = [
      { key: "user", title: "User", cell: (row) => h("a", { href: app.address("users", { user: row.user, target: row.target, nth: row.nth || "" }) }, row.user) },
      { key: "target", title: "True item", cell: (row) => [row.target_title, h("span", { class: "soft id" }, ` ${row.target}`)] },
      { title: "Slices", cell: (row) => row.slices.map((name) => h("span", { class: "tag" }, sliceTitle(name))) },
      ...stages().map((stage) => ({ key: stage.name, title: stage.title.replaceAll("_", " "), number: true, cell: (row) => rankCell(rank(row, stage.name), row.num_candidates) })),
      { key: "change", title: "Gained", number: true, descends: true, cell: (row) => { const by = gained(row); return h("span", { class: by > 0 ? "up" : by < 0 ? "down" : "soft" }, by > 0 ? `+${by}` : by < 0 ? `−${-by}` : "0"); } },
    ];
    const turn = (offset) => { asked.offset = offset; load(); };
    const last = Math.min(found.total, asked.offset + AT_ONCE);
    fill(table,
      h("p", { class: "soft count", role: "status" }, found.total ? `${number(asked.offset + 1)} to ${number(last)} of ${number(found.total)}` : ""),
      found.total ? h("div", { class: "scroll" }, h("table", { class: "data" }, heads(columns, asked, (given) => change(given)),
        h("tbody", {}, found.rows.map((row) => h("tr", {}, columns.map((one) => h("td", { class: one.number ? "number" : null }, one.cell(row))))))))
        : empty("No row fits. Clear the search or the filters."),
      found.total > AT_ONCE && h("div", { class: "pages" },
        h("button", { type: "button", disabled: asked.offset === 0, onclick: () => turn(Math.max(0, asked.offset - AT_ONCE)) }, "Earlier"),
        h("button", { type: "button", disabled: last >= found.total, onclick: () => turn(asked.offset + AT_ONCE) }, "Later")));
  }

  return async () => {
    drawTools();
    await load();
  };
}

function rankCell(rank, count) {
  if (rank === null) return h("span", { class: "soft", title: "not ranked" }, "–");
  const share = count > 1 ? 1 - (rank - 1) / (count - 1) : 1;
  return h("span", { class: "rankcell", css: { "--share": `${Math.round(share * 55)}%` } }, String(rank));
}
