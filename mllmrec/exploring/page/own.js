// A history of the reader's own: search items by title, put them in order, and see what follows.

import { get, post } from "./api.js";
import { debounced, empty, fill, h, loading, note, percent, picture, points, signed } from "./dom.js";
import { saved } from "./history.js";

export function ownView(app, content) {
  const choices = saved(app);
  const open = app.runs.findIndex((run) => run.data_state !== "closed");
  if (!choices.length || open < 0) {
    const why = open < 0 ? `it needs a run's data, which cannot be opened: ${app.runs[0].data_problem}` : `${app.runs.find((run) => run.alone)?.alone ?? "none of these runs keeps the weights of a phase"}.`;
    fill(content, h("h1", {}, "Your own history"), note(`Nothing can be ranked here: ${why}`));
    return async () => {};
  }
  const items = []; // the history, oldest first
  const phases = new Map(app.runs.map((_, run) => [run, choices.filter((one) => one.run === run).at(-1)]));
  const chosen = h("ol", { class: "chosen", id: "own-history" });
  const results = h("div", { id: "own-results" });
  const listbox = h("ul", { role: "listbox", id: "found", class: "found", hidden: true, "aria-label": "Items" });
  let found = [];
  let active = -1;
  let asked = 0;

  const input = h("input", {
    type: "search", id: "item-search", role: "combobox", "aria-expanded": "false", "aria-controls": "found", "aria-autocomplete": "list",
    placeholder: "title, caption or id", autocomplete: "off", oninput: debounced(() => look()), onkeydown: key,
    onblur: () => setTimeout(close, 150),
  });

  async function look() {
    const text = input.value;
    if (!text.trim()) return close();
    try {
      const answer = await get(`/api/runs/${open}/items`, { q: text });
      if (text !== input.value) return;
      found = answer;
    } catch (error) {
      fill(listbox, h("li", { class: "soft" }, error.message));
      listbox.hidden = false;
      return;
    }
    active = found.length ? 0 : -1;
    drawFound();
  }

  function drawFound() {
    fill(listbox, found.map((item, place) => h("li", { role: "option", id: `found-${place}`, "aria-selected": place === active ? "true" : "false", onmousedown: (event) => { event.preventDefault(); add(item); } },
      picture(open, item), h("span", {}, item.title, item.caption && h("span", { class: "soft" }, ` ${item.caption}`)), h("span", { class: "soft id" }, item.id))));
    if (!found.length) fill(listbox, h("li", { class: "soft" }, "No item has these words in its title or caption."));
    listbox.hidden = false;
    input.setAttribute("aria-expanded", "true");
    if (active >= 0) input.setAttribute("aria-activedescendant", `found-${active}`);
  }

  function close() {
    listbox.hidden = true;
    input.setAttribute("aria-expanded", "false");
    input.removeAttribute("aria-activedescendant");
  }

  function key(event) {
    if (event.key === "Escape") close();
    if (listbox.hidden || !found.length) return;
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      active = (active + (event.key === "ArrowDown" ? 1 : found.length - 1)) % found.length;
      drawFound();
      event.preventDefault();
    } else if (event.key === "Enter" && active >= 0) {
      add(found[active]);
      event.preventDefault();
    }
  }

  function add(item) {
    items.push(item);
    input.value = "";
    found = [];
    close();
    changed();
    input.focus();
  }

  function changed() {
    window.history.replaceState(null, "", app.address("own", { h: items.map((item) => item.id) }));
    fill(chosen, items.map((item, place) => h("li", {}, picture(open, item), h("span", { class: "text" }, h("span", { class: "name" }, item.title), item.caption && h("span", { class: "soft" }, item.caption)),
      h("button", { type: "button", class: "icon", "aria-label": `Move ${item.title} earlier`, disabled: place === 0, onclick: () => swap(place, place - 1) }, "↑"),
      h("button", { type: "button", class: "icon", "aria-label": `Move ${item.title} later`, disabled: place === items.length - 1, onclick: () => swap(place, place + 1) }, "↓"),
      h("button", { type: "button", class: "icon", "aria-label": `Remove ${item.title}`, onclick: () => { items.splice(place, 1); changed(); } }, "×"))));
    if (!items.length) fill(chosen, h("li", { class: "soft" }, "Nothing yet. Search an item above and press Enter; the oldest stands first."));
    rank();
  }

  function swap(a, b) {
    [items[a], items[b]] = [items[b], items[a]];
    changed();
  }

  async function rank() {
    const turn = ++asked;
    if (!items.length) return fill(results, empty("Add an item, and the best items of the catalogue appear here."));
    const history = items.map((item) => item.id);
    fill(results, [...phases.keys()].map((run) => column(run, history, () => turn === asked)));
  }

  function column(run, history, current) {
    const phase = phases.get(run);
    const place = h("div", {}, loading("Ranking the catalogue …"));
    const own = choices.filter((one) => one.run === run);
    const head = h("div", { class: "head" }, h("h2", {}, app.runs.length > 1 ? `${app.letter(run)} · ${app.runs[run].name}` : "What follows"),
      phase && h("label", { class: "field inline" }, h("span", {}, "after"), h("select", { onchange: (event) => { phases.set(run, own.find((one) => one.key === event.target.value)); rank(); } },
        own.map((one) => h("option", { value: one.key, selected: one.key === phase.key }, one.stage.title)))));
    if (!phase) fill(place, note(`Nothing can be ranked here: ${app.runs[run].alone ?? "this run keeps no weights"}.`));
    else {
      post(`/api/runs/${run}/rank`, { phase: phase.stage.name, history }).then(
        (answer) => current() && fill(place, ranking(run, phase, history, answer)),
        (error) => current() && app.failed(error, place));
    }
    return h("section", { class: `run-${run % 4}` }, head, place);
  }

  function ranking(run, phase, history, answer) {
    const probable = answer.measure === "probability";
    const values = answer.values.map((value) => value ?? 0);
    const [low, high] = [probable ? 0 : Math.min(...values), Math.max(...values)];
    let effects = null;
    const body = h("div");

    async function each(event) {
      const button = event.target;
      button.disabled = true;
      button.textContent = "Ranking …";
      try {
        effects = await post(`/api/runs/${run}/rank_without`, { phase: phase.stage.name, history, candidates: answer.items });
        draw();
      } catch (error) {
        fill(body, body.firstChild, note(error.message, "bad"));
      }
    }

    function draw() {
      const shown = effects ? items.slice(-effects.without.length) : [];
      const most = effects ? Math.max(1e-9, ...effects.without.flatMap((one) => one.values.map((value, place) => Math.abs(value - effects.whole.values[place])))) : 1;
      const rows = answer.items.map((id, place) => {
        const item = answer.named[id];
        const at = effects ? effects.whole.items.indexOf(id) : -1;
        return h("tr", { "data-item": id }, h("th", { scope: "row" }, h("div", { class: "item" }, picture(run, item), h("div", { class: "text" }, h("span", { class: "name" }, item.title), item.caption && h("span", { class: "soft" }, item.caption)))),
          h("td", { "data-value": answer.values[place] }, h("div", { class: `bar run-${run % 4}` }, h("span", { class: "track" }, h("i", { css: { width: `${(100 * (values[place] - low)) / (high - low || 1)}%` } })),
            h("span", { class: "number" }, probable ? percent(values[place]) : values[place].toFixed(2)))),
          effects && effects.without.map((one) => {
            const change = one.values[at] - effects.whole.values[at];
            const strength = Math.round((100 * Math.abs(change)) / most);
            return h("td", { class: `heat ${Math.abs(change) < 5e-5 ? "same" : change < 0 ? "down" : "up"}`, css: { "--strength": `${Math.max(4, strength * 0.75)}%` } }, Math.abs(change) < 5e-5 ? "–" : probable ? points(change) : signed(change));
          }));
      });
      fill(body, h("div", { class: "scroll" }, h("table", { class: "candidates" }, h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Item"), h("th", { scope: "col" }, probable ? "Probability among these" : "Score"),
        shown.map((item) => h("th", { scope: "col", class: "without" }, h("small", {}, "without"), item.title)))), h("tbody", {}, rows))),
        !effects && history.length > 1 && h("button", { type: "button", onclick: each }, "Leave out each item in turn"),
        answer.reasoning.length > 0 && h("div", {}, h("h3", {}, "What the policy wrote first"), answer.reasoning.map((text) => h("pre", { class: "words" }, text || "(nothing)"))));
    }
    draw();
    return body;
  }

  fill(content, h("h1", {}, "Your own history"), h("p", { class: "soft lead" }, "Type a history, oldest first, and see what the policy puts next out of the whole catalogue."),
    h("div", { class: "own" }, h("section", {}, h("label", { class: "field", for: "item-search" }, h("span", {}, "Add an item")), h("div", { class: "combo" }, input, listbox), chosen), results));

  let known = null;
  return async (query) => {
    const wanted = query.getAll("h");
    if (wanted.join("\n") === known) return;
    known = wanted.join("\n");
    if (wanted.length && wanted.join("\n") !== items.map((item) => item.id).join("\n")) {
      const named = await Promise.all(wanted.map((id) => get(`/api/runs/${open}/item`, { item: id })));
      items.splice(0, items.length, ...named);
    }
    changed();
  };
}
