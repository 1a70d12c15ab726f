// The history as a row of cards. A card can be left out; what each one does to an item is drawn below it.

import { post } from "./api.js";
import { empty, fill, h, note, picture, points, select, signed } from "./dom.js";
import { asUser } from "./users.js";

// Runs and phases whose weights can rank again.
export function saved(app) {
  return app.runs.flatMap((run, place) => run.stages.filter((stage) => stage.saved).map((stage) => ({
    key: `${place}/${stage.name}`, run: place, stage,
    title: app.runs.length > 1 ? `${app.letter(place)} · ${stage.title}` : stage.title,
  })));
}

export function history(state) {
  const { app, views, known } = state;
  const view = views[known];
  if (!view.history) {
    const why = view.problem || "The data is not open.";
    return [h("h2", {}, "History"), note(`The history, titles and pictures need the run's data: ${why}`)];
  }
  const choices = saved(app).filter((one) => !views[one.run].failed && views[one.run].history);
  state.live ??= choices.at(-1) ?? null;
  const hidden = view.history.filter((item) => !item.shown).length;
  const status = h("span", { class: "soft", role: "status" });
  const own = app.address("own", { h: view.history.filter((item) => item.shown).map((item) => item.id) });

  async function work(what, path, content) {
    fill(status, what);
    try {
      return await post(`/api/runs/${state.live.run}/${path}`, { ...asUser(state.query), phase: state.live.stage.name, ...content });
    } catch (error) {
      fill(status, error.message);
      return null;
    }
  }

  async function leaveOut() {
    const asked = [...state.out].sort((a, b) => a - b);
    const live = state.live.key;
    state.without = null;
    if (asked.length) {
      state.whole ??= await work("Ranking …", "weigh", {});
      const found = state.whole && await work("Ranking …", "weigh", { without: asked });
      if (!found || live !== state.live.key || asked.join() !== [...state.out].sort((a, b) => a - b).join()) return;
      state.without = found;
    }
    state.draw();
  }

  async function each() {
    const found = await work("Ranking without each item …", "leave_one_out", {});
    if (!found) return;
    [state.whole, state.effects] = [found.whole, found.without];
    state.draw();
  }

  function turn(place) {
    if (state.out.has(place)) state.out.delete(place);
    else state.out.add(place);
    state.draw();
    leaveOut();
  }

  const tools = choices.length
    ? h("div", { class: "tools" },
        select("Rank again with", choices.map((one) => [one.key, one.title]), state.live.key, (key) => {
          state.live = choices.find((one) => one.key === key);
          state.whole = state.without = state.effects = null;
          state.draw();
          if (state.out.size) leaveOut();
        }, { id: "live" }),
        h("button", { type: "button", id: "each", onclick: each, disabled: view.history.filter((item) => item.shown).length < 2 }, "Leave out each item in turn"),
        state.out.size > 0 && h("button", { type: "button", class: "plain", onclick: () => { state.out.clear(); state.without = null; state.draw(); } }, "Whole history again"),
        h("a", { class: "plain", href: own }, "Change this history"),
        status)
    : note(`Nothing can be ranked again here: ${app.runs.find((run) => run.alone)?.alone ?? "this run keeps no weights"}.`);
  return [
    h("div", { class: "head" }, h("h2", {}, "History"),
      h("p", { class: "soft" }, `oldest first${hidden ? `; the prompt shows the last ${view.history.length - hidden}` : ""}`,
        choices.length > 0 && ". Leave out an item to see what moves.")),
    tools,
    view.history.length ? h("ol", { class: "cards", id: "history" }, cards(state, view, turn, choices.length > 0)) : empty("This user has no history."),
    effectsLine(state),
  ];
}

function cards(state, view, turn, works) {
  const first = view.history.findIndex((item) => item.shown);
  const effects = effectOf(state);
  const most = Math.max(1e-9, ...(effects ?? []).map((one) => Math.abs(one)));
  return view.history.map((item, index) => {
    const place = index - first;
    const out = item.shown && state.out.has(place);
    const effect = item.shown && effects ? effects[place] : null;
    return h("li", { class: `card ${item.shown ? "" : "unseen"} ${out ? "out" : ""}` },
      picture(state.known, item, "large"),
      h("strong", {}, item.title),
      item.caption && h("span", { class: "soft" }, item.caption),
      item.shown ? works && h("button", { type: "button", class: "plain", "aria-pressed": out ? "true" : "false", "aria-label": `${out ? "Put back" : "Leave out"} ${item.title}`, onclick: () => turn(place) }, out ? "Put back" : "Leave out")
        : h("span", { class: "soft" }, "not in the prompt"),
      effect !== null && h("div", { class: `effect ${Math.abs(effect) < 5e-5 ? "same" : effect < 0 ? "down" : "up"}` },
        h("span", { class: "track" }, h("i", { css: { width: `${(50 * Math.abs(effect)) / most}%`, [effect < 0 ? "right" : "left"]: "50%" } })),
        h("span", { class: "number" }, Math.abs(effect) < 5e-5 ? "no change" : state.whole.measure === "probability" ? points(effect) : signed(effect)),
        state.effects[place].reasoning.length > 0 && h("q", { class: "said", title: state.effects[place].reasoning.join("\n\n") }, state.effects[place].reasoning[0])));
  });
}

// For each shown place: how much the item in focus gains when it is left out; null before it was asked for.
function effectOf(state) {
  if (!state.effects) return null;
  const column = state.whole.items.indexOf(state.focus);
  if (column < 0) return null;
  return state.effects.map((one) => (one.values[column] ?? 0) - (state.whole.values[column] ?? 0));
}

function effectsLine(state) {
  if (!state.effects) return null;
  const item = state.views[state.known].items[state.focus] ?? state.views[state.live.run].items[state.focus];
  const reasons = state.whole.reasoning.length > 0;
  return h("p", { class: "soft", id: "effects" }, "Bars below the cards: how ", state.whole.measure === "probability" ? "the probability" : "the score", " of ",
    h("b", {}, item?.title ?? state.focus), ` changes in ${state.live.title} when that item is left out`,
    reasons ? ". Below them: what the policy wrote without the item." : ".", " Choose another candidate in the table below to see its bars.");
}
