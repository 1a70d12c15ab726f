// Sampled rollouts over training: rewards and advantages on a timeline, and the completions of a step.

import { get } from "./api.js";
import { debounced, empty, fill, h, loading, picture, s, signed } from "./dom.js";

export function rolloutsView(app, content) {
  const columns = app.runs.map((run, place) => h("section", { class: `run-${place % 4}` }, loading("Reading the rollouts …")));
  fill(content, h("h1", {}, "Rollouts"),
    h("p", { class: "soft lead" }, "Some completions that the policy drew in training: each dot is one, the line is the mean reward of all rollouts of a step."),
    h("div", { class: "columns", id: "rollouts" }, columns));
  return async () => {
    await Promise.all(app.runs.map(async (run, place) => {
      try {
        const line = await get(`/api/runs/${place}/timeline`);
        fill(columns[place], app.runs.length > 1 && h("h2", {}, `${app.letter(place)} · ${run.name}`), line.rollouts.length ? oneRun(app, place, line)
          : empty(run.alone ? `${run.alone}.` : "This run has no sampled rollouts: none of its phases draws any, as GRPO does."));
      } catch (error) {
        app.failed(error, columns[place]);
      }
    }));
  };
}

function oneRun(app, run, line) {
  const state = { step: line.steps.at(-1), text: "" };
  const chart = h("div", { class: "chart" });
  const cards = h("div", { class: "rollouts" });
  const says = h("output", { class: "step" });
  const slider = h("input", { type: "range", min: 0, max: line.steps.length - 1, value: line.steps.indexOf(state.step), "aria-label": "Step", oninput: (event) => choose(line.steps[event.target.valueAsNumber]) });

  function choose(step) {
    state.step = step;
    slider.value = line.steps.indexOf(step);
    slider.setAttribute("aria-valuetext", `step ${step}`);
    draw();
    load();
  }

  function draw() {
    fill(chart, timeline(line, state, choose, app.runs.length === 1));
    fill(says, state.text ? "all steps" : `step ${state.step}`);
  }

  const load = debounced(async () => {
    const now = JSON.stringify(state);
    try {
      const found = await get(`/api/runs/${run}/rollouts`, state.text ? { text: state.text } : { step: state.step });
      if (now !== JSON.stringify(state)) return;
      fill(cards, found.length ? groups(app, run, found, line) : empty("No completion has this text."));
    } catch (error) {
      app.failed(error, cards);
    }
  }, 60);

  draw();
  load();
  return [chart,
    h("div", { class: "tools" }, h("label", { class: "field grow" }, h("span", {}, "Step"), slider), says,
      h("label", { class: "field" }, h("span", {}, "Search all steps"), h("input", { type: "search", placeholder: "text or prompt", oninput: debounced((event) => { state.text = event.target.value.trim(); draw(); load(); }) }))),
    cards];
}

function timeline(line, state, choose, wide) {
  const [width, height, left, right, top, bottom] = [wide ? 1280 : 660, 210, 46, 16, 14, 34];
  const logged = Object.values(line.logged).flat();
  const rewards = [...line.rollouts.map((one) => one.reward), ...logged.map(([, value]) => value)].filter((value) => value !== null);
  const steps = [...line.steps, ...logged.map(([step]) => step)];
  const [first, last, low, high] = [Math.min(...steps), Math.max(...steps), Math.min(0, ...rewards), Math.max(...rewards, 0.01)];
  const x = (step) => left + ((step - first) / (last - first || 1)) * (width - left - right);
  const y = (reward) => top + (1 - (reward - low) / (high - low || 1)) * (height - top - bottom);
  const strongest = Math.max(1e-9, ...line.rollouts.map((one) => Math.abs(one.advantage ?? 0)));
  const ticks = [low, (low + high) / 2, high];
  return [s("svg", { class: "timeline", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `Rewards of ${line.rollouts.length} sampled rollouts from step ${first} to ${last}` },
    ticks.map((value) => [s("line", { class: "rule", x1: left, x2: width - right, y1: y(value), y2: y(value) }), s("text", { class: "axis end", x: left - 8, y: y(value) + 4 }, value.toFixed(2))]),
    s("rect", { class: "now", x: x(state.step) - 5, y: top - 6, width: 10, height: height - top - bottom + 12, rx: 4 }),
    Object.values(line.logged).map((points) => s("polyline", { class: "mean", points: points.map(([step, value]) => `${x(step)},${y(value)}`).join(" ") })),
    line.rollouts.filter((one) => one.reward !== null).map((one) => s("circle", {
      class: side(one.advantage), cx: x(one.step), cy: y(one.reward), r: 3.2 + 2.6 * (Math.abs(one.advantage ?? 0) / strongest), onclick: () => choose(one.step),
    }, s("title", {}, `step ${one.step}: reward ${one.reward.toFixed(3)}, advantage ${signed(one.advantage ?? 0)}`))),
    [first, last].map((step, place) => s("text", { class: `axis ${place ? "end" : ""}`, x: x(step), y: height - 12 }, `step ${step}`))),
    h("p", { class: "legend soft" }, h("span", { class: "dot up" }, "advantage above 0"), h("span", { class: "dot down" }, "below 0"), h("span", { class: "dot same" }, "0"), h("span", {}, "larger dots are stronger"), logged.length > 0 && h("span", { class: "dash" }, "mean reward"))];
}

const side = (advantage) => (advantage > 0 ? "up" : advantage < 0 ? "down" : "same");

function groups(app, run, found, line) {
  const byPrompt = new Map();
  for (const one of found) {
    const name = `${one.step} ${one.prompt_id}`;
    byPrompt.set(name, [...(byPrompt.get(name) ?? []), one]);
  }
  const strongest = Math.max(1e-9, ...line.rollouts.map((other) => Math.abs(other.advantage ?? 0)));
  const most = Math.max(1, ...found.flatMap((one) => [one.reward ?? 0, ...Object.values(one.parts)]));
  return [...byPrompt.values()].map((drawn) => {
    const first = drawn[0];
    const given = first.history.length > 0 && h("div", { class: "given" },
      first.history.map((item) => h("span", { title: `${item.title} ${item.caption}` }, picture(run, item))), h("span", { "aria-hidden": "true" }, "→"),
      first.target && [picture(run, first.target), h("span", { class: "text" }, h("span", { class: "eyebrow" }, "true item"), h("span", { class: "name" }, first.target.title))]);
    drawn.sort((a, b) => (b.advantage ?? 0) - (a.advantage ?? 0));
    return h("div", { class: "prompt" },
      h("div", { class: "head" }, h("h3", {}, `Step ${first.step}`), h("span", { class: "soft" }, `prompt ${first.prompt_id}, ${drawn.length} completions, the highest advantage first`)),
      given, h("div", { class: "drawn" }, drawn.map((one) => card(one, most, strongest))));
  });
}

function card(one, most, strongest) {
  const part = (name, value, kind = "") => value === null ? null : h("div", { class: `part ${kind}` }, h("span", {}, name),
    h("span", { class: "track" }, h("i", { css: { width: `${(100 * Math.max(0, value)) / most}%` } })), h("span", { class: "number" }, value.toFixed(3)));
  const advantage = one.advantage ?? 0;
  return h("article", { class: "rollout" },
    h("pre", { class: "words" }, one.completion || "(empty)"),
    h("div", { class: "parts" }, part("reward", one.reward, "whole"), Object.entries(one.parts).map(([name, value]) => part(name, value)),
      h("div", { class: `part effect ${side(advantage)}` }, h("span", {}, "advantage"),
        h("span", { class: "track" }, h("i", { css: { width: `${(50 * Math.abs(advantage)) / strongest}%`, [advantage < 0 ? "right" : "left"]: "50%" } })),
        h("span", { class: "number" }, signed(advantage)))));
}
