// A user: search on the left; history, candidates and reasoning on the right.

import { get, post } from "./api.js";
import { candidates } from "./candidates.js";
import { debounced, empty, fill, h, loading, note, number, picture, select, sliceTitle } from "./dom.js";
import { history } from "./history.js";
import { rankChart } from "./ranks.js";
import { reasoning } from "./reasoning.js";

const AT_ONCE = 40;

export function usersView(app, content) {
  const list = h("div", { class: "list", id: "user-list" });
  const count = h("p", { class: "soft count", role: "status" });
  const main = h("div", { class: "user", id: "user" });
  const asked = { text: "", slice: "", moved: "", offset: 0 };
  let selected = {};
  let searching = null;

  async function search(more = false) {
    searching?.abort();
    searching = new AbortController();
    asked.offset = more ? asked.offset + AT_ONCE : 0;
    let found;
    try {
      found = await get("/api/runs/0/users", { ...asked, other: app.other, limit: AT_ONCE, sort: asked.text ? "user" : "" }, searching.signal);
    } catch (error) {
      app.failed(error, list);
      return;
    }
    const rest = found.total - asked.offset - found.rows.length;
    const links = found.rows.map(link);
    if (more) list.querySelector(".more")?.remove();
    else list.replaceChildren();
    list.append(...links);
    if (rest > 0) list.append(h("button", { type: "button", class: "more", onclick: () => search(true) }, `${number(rest)} more`));
    if (!found.total) list.append(empty("No user fits. Clear the search or the filters."));
    fill(count, `${number(found.total)} of ${number(app.runs[0].users)} users`);
    mark();
    if (!selected.user && found.rows.length) {
      const first = found.rows[0];
      history_.replaceState(null, "", app.address("users", { user: first.user, target: first.target, nth: first.nth || "" }));
      await show(new URLSearchParams(location.hash.split("?")[1]));
    }
  }
  const history_ = window.history;

  function link(row) {
    const phases = app.runs[0].stages.filter((stage) => stage.kind === "phase");
    const [from, to] = [phases.at(-2), phases.at(-1)].map((stage) => stage && (row.ranks[stage.name] ?? null));
    const moved = from && to ? (to < from ? "up" : to > from ? "down" : "same") : "same";
    return h("a", { href: app.address("users", { user: row.user, target: row.target, nth: row.nth || "" }), "data-key": keyOf(row) },
      h("b", {}, row.user), h("span", { class: "soft" }, row.target_title),
      h("span", { class: `moved ${moved}`, title: "rank of the true item after the last two phases" }, [from, to].filter((rank) => rank !== undefined).map((rank) => rank ?? "–").join(" → ")));
  }

  const keyOf = (row) => JSON.stringify([row.user, row.target, Number(row.nth ?? 0)]);

  function mark() {
    for (const one of list.querySelectorAll("a")) {
      if (one.dataset.key === keyOf(selected)) one.setAttribute("aria-current", "true");
      else one.removeAttribute("aria-current");
    }
  }

  function step(event) {
    if (event.key !== "ArrowDown" && event.key !== "ArrowUp") return;
    const links = [...list.querySelectorAll("a")];
    const place = links.indexOf(document.activeElement);
    const next = links[Math.max(0, place + (event.key === "ArrowDown" ? 1 : -1))];
    if (next) { next.focus(); event.preventDefault(); }
  }

  const again = debounced(() => search());
  const side = h("aside", { class: "side", "aria-label": "Choose a user", onkeydown: step },
    h("label", { class: "field" }, h("span", {}, "Search a user"),
      h("input", { type: "search", id: "user-search", placeholder: "id, or title of the true item", autocomplete: "off", oninput: (event) => { asked.text = event.target.value; again(); } })),
    h("div", { class: "pair" },
      select("Slice", [["", "all"], ...app.runs[0].slices.map((name) => [name, sliceTitle(name)])], "", (value) => { asked.slice = value; search(); }),
      select("True item", [["", "any"], ["up", "moved up"], ["down", "moved down"], ["same", "stayed"]], "", (value) => { asked.moved = value; search(); })),
    count, list);
  fill(content, h("div", { class: "split" }, side, main));

  async function show(query) {
    selected = { user: query.get("user"), target: query.get("target"), nth: query.get("nth") ?? 0 };
    mark();
    if (!selected.user) return;
    const wanted = keyOf(selected);
    if (!main.childElementCount) fill(main, loading("Reading the user …"));
    main.setAttribute("aria-busy", "true");
    const query_ = { user: selected.user, target: selected.target, nth: selected.nth, other: app.other };
    const views = await Promise.all(app.runs.map((_, run) => get(`/api/runs/${run}/user`, query_).catch((error) => ({ failed: error.message }))));
    main.removeAttribute("aria-busy");
    if (wanted === keyOf(selected)) fill(main, userPage(app, views, query_));
  }

  let first = true;
  return async (query) => {
    if (first) {
      first = false;
      selected = { user: query.get("user"), target: query.get("target"), nth: query.get("nth") ?? 0 };
      await Promise.all([search(), selected.user ? show(query) : null]);
    } else {
      if (!query.get("user")) { selected = {}; await search(); }
      await show(query);
    }
  };
}

function userPage(app, views, query) {
  const known = views.findIndex((view) => !view.failed);
  if (known < 0) return note(views[0].failed, "bad");
  const view = views[known];
  const state = {
    app, views, query, known,
    hidden: new Set(), // columns that are not shown: "run/stage"
    focus: view.target.id, // the item whose change is shown at the history
    out: new Set(), // places in the shown history that are left out
    live: null, // the run and phase that rank again
    whole: null, without: null, // rankings behind the whole history and without the chosen items
    effects: null, // for each place of the shown history: the ranking without it
    filledIn: new Map(), // "run/stage" -> values computed now, where none are stored
  };
  const many = views.length > 1;
  app.runs.forEach((run, place) => {
    const phases = run.stages.filter((stage) => stage.kind === "phase");
    const few = many ? phases.slice(-2) : phases.slice(-4);
    for (const stage of run.stages) if (!few.includes(stage)) state.hidden.add(`${place}/${stage.name}`);
  });
  const places = { history: h("section"), candidates: h("section"), reasoning: h("section") };
  state.draw = () => {
    fill(places.history, history(state));
    fill(places.candidates, candidates(state));
    fill(places.reasoning, reasoning(state));
  };
  state.draw();
  state.fillIn = () => fillIn(state);
  state.fillIn();
  const facts = [...view.slices.map(sliceTitle), `${[...new Set(views.map((one) => one.num_candidates).filter(Boolean))].join(" or ")} candidates`];
  return [
    h("div", { class: "title" },
      h("div", {}, h("h1", {}, `User ${view.user}`), h("p", { class: "tags" }, facts.map((fact) => h("span", { class: "tag" }, fact)))),
      h("div", { class: "truth" }, picture(known, view.target, "large"),
        h("div", {}, h("span", { class: "eyebrow" }, "true item"), h("strong", {}, view.target.title),
          view.target.caption && h("span", { class: "soft" }, view.target.caption), h("span", { class: "soft id" }, `item ${view.target.id}`)))),
    views.map((one, run) => one.failed && note(`${app.letter(run)}: ${one.failed}`)),
    h("section", {}, h("h2", {}, "Rank of the true item"), rankChart(app, views)),
    places.history, places.candidates, places.reasoning,
  ];
}

// Runs of earlier versions store no scores: where the weights are kept, they are computed now.
async function fillIn(state) {
  for (const [run, view] of state.views.entries()) {
    for (const stage of view.stages ?? []) {
      const name = `${run}/${stage.name}`;
      if (stage.values || !stage.saved || state.hidden.has(name) || !view.history) continue;
      try {
        state.filledIn.set(name, await post(`/api/runs/${run}/weigh`, { ...asUser(state.query), phase: stage.name }));
      } catch (error) {
        state.filledIn.set(name, { failed: error.message });
      }
      state.draw();
    }
  }
}

export const asUser = (query) => ({ user: query.user, target: query.target, nth: Number(query.nth || 0), other: query.other });
