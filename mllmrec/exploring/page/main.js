// The frame: tabs, the runs at the top, and which view the address names.

import { get, Refused } from "./api.js";
import { fill, h, note, number } from "./dom.js";
import { ownView } from "./own.js";
import { rankingsView } from "./rankings.js";
import { rolloutsView } from "./rollouts.js";
import { slicesView } from "./slices.js";
import { usersView } from "./users.js";

const VIEWS = {
  users: ["Users", usersView],
  own: ["Your own history", ownView],
  rankings: ["Rankings", rankingsView],
  slices: ["Slices", slicesView],
  rollouts: ["Rollouts", rolloutsView],
};
const app = { runs: [], other: false, letter: (run) => String.fromCharCode(65 + run) };
const content = document.getElementById("content");
let shown = { name: null, update: null };

export function address(view, given) {
  const text = new URLSearchParams();
  for (const [name, value] of Object.entries(given)) {
    for (const one of Array.isArray(value) ? value : [value]) {
      if (one !== undefined && one !== null && one !== "") text.append(name, one);
    }
  }
  return `#${view}${text.size ? "?" + text : ""}`;
}
app.address = address;
app.go = (view, given) => { location.hash = address(view, given); };

function drawTop() {
  const now = current().name;
  fill(document.getElementById("tabs"), Object.entries(VIEWS).map(([name, [title]]) =>
    h("a", { href: `#${name}`, "aria-current": name === now ? "page" : null }, title)));
  const several = app.runs.length > 1;
  const chips = app.runs.map((run, place) => h("div", { class: `run run-${place % 4}`, title: `${run.folder}\n${run.method}, ${run.dataset}, ${number(run.users)} users, seed ${run.seed}` },
    several && h("b", { class: "letter" }, app.letter(place)),
    h("span", { class: "name" }, run.name),
    !several && h("span", { class: "soft" }, [run.method, run.dataset, `${number(run.users)} users`].filter(Boolean).join(" · ")),
    run.data_state === "waiting" && h("span", { class: "soft" }, "reading data …"),
    run.data_state === "closed" && h("span", { class: "warn", title: run.data_problem }, "without data")));
  const kinds = app.runs.every((run) => run.other_negatives) && ["users", "rankings", "slices"].includes(now);
  const turn = (event) => { app.other = event.target.value === "other"; shown.name = null; show(); };
  fill(document.getElementById("runs"), chips, kinds && h("label", { class: "field inline" },
    h("span", {}, "negatives"),
    h("select", { onchange: turn, id: "negatives" },
      h("option", { value: "own", selected: !app.other }, app.runs[0].negatives),
      h("option", { value: "other", selected: app.other }, app.runs[0].other_negatives))));
}

function current() {
  const [name, text] = location.hash.replace(/^#/, "").split("?", 2);
  return { name: name in VIEWS ? name : "users", query: new URLSearchParams(text ?? "") };
}

async function show() {
  const { name, query } = current();
  drawTop();
  document.title = `${VIEWS[name][0]} – mllmrec explorer`;
  try {
    if (shown.name !== name) {
      fill(content);
      shown = { name, update: VIEWS[name][1](app, content) };
    }
    await shown.update(query);
  } catch (error) {
    failed(error);
  }
}

export function failed(error, place = content) {
  if (error.name === "AbortError") return;
  if (!(error instanceof Refused)) console.error(error);
  fill(place, note(error instanceof Refused ? error.message : `The page failed: ${error.message}`, "bad"));
}
app.failed = failed;

async function begin() {
  try {
    app.runs = await get("/api/runs");
  } catch (error) {
    failed(error);
    return;
  }
  window.addEventListener("hashchange", show);
  await show();
  watchData();
}

// Titles and pictures come with the data, which takes a while to read.
async function watchData() {
  while (app.runs.some((run) => run.data_state === "waiting")) {
    await new Promise((wake) => setTimeout(wake, 700));
    try {
      const now = await get("/api/runs");
      const changed = now.some((run, place) => run.data_state !== app.runs[place].data_state);
      app.runs = now;
      if (changed) { shown.titles?.(); shown.name = current().name === "users" ? shown.name : null; await show(); }
    } catch {
      return;
    }
  }
}

begin();
