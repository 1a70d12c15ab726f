// Elements from plain values. Texts become text nodes and never markup: titles and completions may hold anything.

const SVG = "http://www.w3.org/2000/svg";

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "css") for (const [key, to] of Object.entries(value)) element.style.setProperty(key, to);
    else if (name === "value" || name === "checked" || name === "selected" || name === "indeterminate") element[name] = value;
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export const h = (tag, attributes, ...children) => filled(document.createElement(tag), attributes, children);
export const s = (tag, attributes, ...children) => filled(document.createElementNS(SVG, tag), attributes, children);

export function fill(element, ...children) {
  element.replaceChildren(...children.flat(Infinity).filter(Boolean));
  return element;
}

export const loading = (text) => h("p", { class: "loading", role: "status" }, text);
export const note = (text, kind = "") => h("p", { class: `note ${kind}`, role: kind === "bad" ? "alert" : "note" }, text);
export const empty = (text) => h("p", { class: "empty" }, text);

export const percent = (value) => (value >= 0.9995 ? "100" : (100 * value).toFixed(1)) + " %";
export const points = (value) => `${value >= 0 ? "+" : "−"}${Math.abs(100 * value).toFixed(1)} pp`;
export const signed = (value, digits = 2) => `${value >= 0 ? "+" : "−"}${Math.abs(value).toFixed(digits)}`;
const OF_SLICE = { cold: "cold target", tail: "tail target", middle: "middle target", head: "head target", short: "short history", long: "long history", image: "target with image", "no image": "target without image" };
export const sliceTitle = (name) => OF_SLICE[name] ?? name;
export const number = (value) => value.toLocaleString("en");

export function picture(run, item, size = "small") {
  const sized = { class: `picture ${size}`, "aria-hidden": "true" };
  if (!item.pictured) return h("span", { ...sized, class: `picture ${size} none`, title: "no image" });
  const source = `/api/runs/${run}/picture?item=${encodeURIComponent(item.id)}`;
  return h("span", sized, h("img", { src: source, alt: "", loading: "lazy", decoding: "async" }));
}

export function select(label, options, value, changed, extra = {}) {
  const box = h("select", { onchange: (event) => changed(event.target.value), ...extra },
    options.map(([name, text]) => h("option", { value: name, selected: name === value }, text)));
  return h("label", { class: "field" }, h("span", {}, label), box);
}

export function debounced(work, wait = 180) {
  let timer = 0;
  return (...given) => {
    clearTimeout(timer);
    timer = setTimeout(() => work(...given), wait);
  };
}

// A table whose heads sort it. Columns: {key, title, value(row), cell(row), number}.
export function sortable(columns, rows, state, again) {
  const column = columns.find((one) => one.key === state.sort);
  const ordered = [...rows];
  if (column?.value) {
    const direction = state.descending ? -1 : 1;
    ordered.sort((a, b) => {
      const [x, y] = [column.value(a), column.value(b)];
      return direction * (typeof x === "string" ? x.localeCompare(y, "en", { numeric: true }) : x - y);
    });
  }
  return h("table", { class: "data" }, heads(columns, state, again),
    h("tbody", {}, ordered.map((row) => h("tr", {}, columns.map((one) => h("td", { class: one.number ? "number" : null }, one.cell(row)))))));
}

export function heads(columns, state, again) {
  return h("thead", {}, h("tr", {}, columns.map((one) => {
    const sorted = state.sort === one.key;
    const arrow = sorted ? (state.descending ? " ↓" : " ↑") : "";
    const turn = () => again({ sort: one.key, descending: sorted ? !state.descending : Boolean(one.descends) });
    const head = one.key ? h("button", { type: "button", class: "sort", onclick: turn }, one.title, h("span", { "aria-hidden": "true" }, arrow)) : one.title;
    const order = sorted ? (state.descending ? "descending" : "ascending") : null;
    return h("th", { scope: "col", class: one.number ? "number" : null, "aria-sort": order }, head);
  })));
}
