// What the policy wrote before it ranked, phase by phase, and what the writing is worth for this user.

import { empty, h } from "./dom.js";

export function reasoning(state) {
  const several = state.views.length > 1;
  const reasons = state.app.runs.some((run) => run.ranking === "reasoned");
  const head = h("h2", {}, reasons ? "What the policy wrote first" : "What the policy wrote");
  const written = state.views.flatMap((view, run) => (view.stages ?? []).filter((stage) => stage.kind === "phase").map((stage) => {
    const now = state.filledIn.get(`${run}/${stage.name}`)?.reasoning ?? [];
    return { run, stage, all: view.stages, text: stage.text ?? (now.length ? now.join("\n\n") : null) };
  })).filter((one) => one.text !== null && !state.hidden.has(`${one.run}/${one.stage.name}`));
  const live = state.without?.reasoning.length ? state.without.reasoning.join("\n\n") : null;
  if (!written.length && !live) {
    return [head, empty(reasons
      ? "No text is shown: choose the columns of phases whose weights the run keeps. Runs of earlier versions stored no texts."
      : "This run ranks without writing anything: there is no reasoning to show.")];
  }
  return [head, h("div", { class: "texts" }, written.map(({ run, stage, all, text }) => {
    const changed = all.filter((one) => one.kind === "changed" && one.phase === stage.name);
    return h("article", { class: `text run-${run % 4}` },
      h("h3", {}, several ? `${state.app.letter(run)} · ` : "", stage.title, h("span", { class: "soft" }, ` true item on rank ${stage.rank ?? "–"}`)),
      text ? h("pre", { class: "words" }, text) : empty("It wrote nothing."),
      changed.length > 0 && h("table", { class: "small" }, h("caption", {}, "Rank of the true item if the text is changed"),
        h("tbody", {}, [["its own", stage.rank], ...changed.map((one) => [one.change, one.rank])].map(([how, rank]) =>
          h("tr", {}, h("th", { scope: "row" }, how), h("td", { class: "number" }, String(rank ?? "–")))))));
  }), live !== null && h("article", { class: `text run-${state.live.run % 4}` },
    h("h3", {}, `${state.live.title}, items left out`), h("pre", { class: "words" }, live || "(nothing)")))];
}
