// The rank of the true item after every phase, as a line for each run: higher is better.

import { empty, h, s } from "./dom.js";

export function rankChart(app, views) {
  const lines = views.map((view, run) => (view.stages ?? []).filter((stage) => stage.kind === "phase").map((stage) => ({ run, stage })));
  const names = [...new Set(lines.flat().map((point) => point.stage.name))];
  const titles = new Map(lines.flat().map((point) => [point.stage.name, point.stage.title]));
  const most = Math.max(...views.map((view) => view.num_candidates ?? 1));
  if (!names.length) return empty("No phase ranked this user.");
  // Ranks of every other run stand below their points.
  const [step, top, bottom, left] = [176, 28, lines.length > 1 ? 56 : 38, 84];
  const height = 92;
  const width = left + step * names.length;
  const x = (name) => left + step * (names.indexOf(name) + 0.35);
  const y = (rank) => top + (most > 1 ? ((rank ?? most) - 1) / (most - 1) : 0) * height;
  const known = views.findIndex((view) => view.stages);
  const differ = new Set(views.map((view) => view.num_candidates).filter(Boolean)).size > 1;
  const among = (run) => (differ && views[run].num_candidates ? `, among ${views[run].num_candidates}` : "");
  const baselines = views[known].stages.filter((stage) => stage.kind === "baseline" && stage.rank);
  const spoken = views.map((view, run) => `${views.length > 1 ? `run ${app.letter(run)}: ` : ""}` +
    (view.stages ?? []).filter((stage) => stage.kind === "phase").map((stage) => `${stage.title} ${stage.rank ?? "not ranked"}`).join(", ")).join("; ");
  const drawn = s("svg", { class: "ranks", viewBox: `0 0 ${width} ${height + top + bottom}`, width, height: height + top + bottom, role: "img", "aria-label": `Rank of the true item. ${spoken}` },
    [1, most].map((rank) => [
      s("line", { class: "rule", x1: left - 12, x2: width - 10, y1: y(rank), y2: y(rank) }),
      s("text", { class: "axis end", x: left - 20, y: y(rank) + 4 }, rank === 1 ? "1 (best)" : String(rank)),
    ]),
    names.map((name) => s("text", { class: "axis middle", x: x(name), y: height + top + bottom - 12 }, titles.get(name))),
    lines.map((points, run) => {
      const placed = points.map(({ stage }) => [x(stage.name), y(stage.rank), stage.rank]);
      return s("g", { class: `line run-${run % 4}` },
        s("polyline", { points: placed.map(([a, b]) => `${a},${b}`).join(" ") }),
        placed.map(([a, b, rank], place) => {
          const shift = lines.length > 1 && run % 2 ? 21 : -10;
          return [s("circle", { cx: a, cy: b, r: place === placed.length - 1 ? 6 : 4.5 }),
            s("text", { class: `rank ${place === placed.length - 1 ? "last" : ""}`, x: a, y: b + shift }, rank === null ? "–" : String(rank))];
        }));
    }));
  const beside = baselines.length && h("p", { class: "soft" }, `For comparison${differ ? `, in ${app.letter(known)}` : ""}: `, baselines.map((stage) => `${stage.title.replaceAll("_", " ")} ${stage.rank}`).join(", "), ` of ${views[known].num_candidates}`);
  const legend = lines.length > 1 && h("p", { class: "legend" }, app.runs.map((run, place) => h("span", { class: `key run-${place % 4}` }, `${app.letter(place)} ${run.name}${among(place)}`)));
  return h("div", { class: "chart" }, legend, h("div", { class: "scroll" }, drawn), beside);
}
