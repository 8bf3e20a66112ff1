// Elements from plain values. Text always becomes a text node, never HTML.

/** h("p", {class: "note", onclick: f}, "text", child, ...): an element. `style` is an object of CSS properties. */
export function h(tag, properties = {}, ...children) {
  return fill(document.createElement(tag), properties, children);
}

/** The same for SVG. */
export function s(tag, properties = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), properties, children);
}

function fill(element, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [key, css] of Object.entries(value)) element.style.setProperty(key, css);
    else if (name === "value" || name === "checked" || name === "selected") element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Say it to people who hear the page. */
export function announce(text) {
  document.getElementById("live").textContent = text;
}

/** A number as a person reads it: 3 digits that count, thousands separated. */
export function number(x, digits = 3) {
  if (x === null || x === undefined || Number.isNaN(x)) return "–";
  if (!Number.isFinite(x)) return x > 0 ? "∞" : "−∞";
  if (x === 0) return "0"; // −0 too
  if (Number.isInteger(x)) return x.toLocaleString("en").replace("-", "−");
  const size = Math.abs(x);
  const shown = size >= 1000 ? Math.round(x).toLocaleString("en")
    : size >= 0.001 ? Number(x.toPrecision(digits)).toString() : x.toExponential(1);
  return shown.replace("-", "−");
}

export const percent = (p) => (p >= 0.1 ? `${(100 * p).toFixed(0)} %` : p >= 0.001 ? `${(100 * p).toFixed(1)} %` : p > 0 ? "< 0.1 %" : "0 %");
export const millions = (n) => (n >= 1e6 ? `${(n / 1e6).toFixed(2)} M` : n >= 1e3 ? `${(n / 1e3).toFixed(1)} k` : `${n}`);
export const bytes = (n) => (n >= 1e9 ? `${(n / 1e9).toFixed(1)} GB` : n >= 1e6 ? `${(n / 1e6).toFixed(1)} MB` : n >= 1e3 ? `${(n / 1e3).toFixed(1)} kB` : `${n} B`);

/** A labelled control; `input` gets an id. */
let labels = 0;
export function labelled(text, input, extra) {
  input.id = input.id || `control-${++labels}`;
  return h("div", {class: "control"}, h("label", {for: input.id}, text), input, extra);
}

/** A slider with its value beside it; `change(value)` at every movement. `show` words the value. */
export function slider(text, {min, max, step = 1, value, show = number, change}) {
  const shown = h("output", {class: "value"}, show(value));
  const input = h("input", {type: "range", min, max, step, value, oninput: () => {
    shown.textContent = show(Number(input.value));
    change(Number(input.value));
  }});
  const element = labelled(text, input, shown);
  element.set = (x) => { input.value = x; shown.textContent = show(Number(input.value)); };
  return element;
}

/** A choice among [value, words] pairs; `change(value)`. */
export function choice(text, options, value, change) {
  const input = h("select", {onchange: () => change(input.value)},
    options.map(([key, words]) => h("option", {value: key, selected: key === value}, words)));
  input.value = value;
  const element = labelled(text, input);
  element.set = (x) => { input.value = x; };
  return element;
}

/** A box to tick; `change(true or false)`. */
export function toggle(text, checked, change) {
  const input = h("input", {type: "checkbox", checked, onchange: () => change(input.checked)});
  const element = h("label", {class: "toggle"}, input, text);
  element.set = (x) => { input.checked = x; };
  return element;
}
