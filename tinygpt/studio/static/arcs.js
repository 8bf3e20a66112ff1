// A line of tokens with arcs from one of them to those it looks at: the thicker, the more. Arrow keys choose the one.

import {colour, onColour} from "./colour.js";
import {announce, h, percent, s} from "./dom.js";

const HEIGHT = 196, LINE = 148, GAP = 5, THICK = 13, LEAST = 0.005; // weights below LEAST are not drawn
let pen = null;

/**
 * arcs({label, onpick}): an element; `update({tokens, pattern, first, at})` draws. pattern: rows of weights, the first one
 * that of token `first`; at: the token that looks.
 */
export function arcs({label, onpick}) {
  const links = s("g", {class: "links"}), places = s("g"), svg = s("svg", {tabindex: "0", role: "img", height: HEIGHT, class: "arcs"}, links, places);
  const said = h("p", {class: "said", "aria-hidden": "true"}), holder = h("div", {class: "scroll"}, svg), element = h("div", {}, holder, said);
  let data = null, shown = null, parts = [], middles = [], width = 0, seen = "";

  element.update = (next) => {
    data = next;
    measure();
    draw(data.at);
    svg.setAttribute("aria-label", `${label}: ${data.tokens.length} tokens. Left and right arrows choose the one that looks. ${sentence(data.at)}`);
    const moved = seen !== `${data.at} ${data.tokens.length}`;
    seen = `${data.at} ${data.tokens.length}`;
    if (moved) requestAnimationFrame(() => { holder.scrollLeft = middles[data.at] - 0.7 * holder.clientWidth; });
  };

  function measure() {
    pen ??= document.createElement("canvas").getContext("2d");
    pen.font = "14px ui-monospace, monospace";
    while (parts.length < data.tokens.length) parts.push(part(parts.length));
    parts.slice(data.tokens.length).forEach((one) => one.g.remove());
    let x = 4;
    middles = data.tokens.map((token, i) => {
      const {g, box, text, share} = parts[i], wide = Math.max(30, pen.measureText(token.shown).width + 14);
      if (!g.isConnected) places.append(g);
      text.textContent = token.shown;
      const middle = x + wide / 2;
      box.setAttribute("x", x);
      box.setAttribute("width", wide);
      text.setAttribute("x", middle);
      share.setAttribute("x", middle);
      x += wide + GAP;
      return middle;
    });
    width = x;
    svg.setAttribute("width", width);
    svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
  }

  function part(i) {
    const box = s("rect", {y: LINE, height: 26, rx: 5}), text = s("text", {y: LINE + 18, class: "arc-token"}), share = s("text", {y: LINE + 41, class: "tick middle"});
    const g = s("g", {class: "arc-place", onclick: () => onpick(i), onpointerenter: () => draw(i)}, box, text, share);
    return {g, box, text, share};
  }

  /** The look of token i, which may be another than the chosen one while the pointer is over it. */
  function draw(i) {
    shown = i;
    const row = data.pattern[i - data.first] ?? [];
    data.tokens.forEach((_, j) => {
      const weight = row[j] ?? 0, {g, box, text, share} = parts[j];
      box.style.fill = colour(weight);
      text.style.fill = onColour(weight);
      share.textContent = weight >= LEAST ? percent(weight) : "";
      g.classList.toggle("looks", j === i);
    });
    links.replaceChildren(...row.flatMap((weight, j) => (weight >= LEAST ? [link(i, j, weight)] : [])));
    said.textContent = sentence(i);
  }

  function link(i, j, weight) {
    const a = middles[i], b = middles[j], y = LINE - 2;
    const high = i === j ? 30 : Math.min(LINE - 10, 24 + 0.42 * Math.abs(a - b)) * 1.3;
    const path = i === j ? `M${a - 8} ${y}C${a - 20} ${y - high} ${a + 20} ${y - high} ${a + 8} ${y}` : `M${a} ${y}C${a} ${y - high} ${b} ${y - high} ${b} ${y}`;
    return s("path", {d: path, class: j > i ? "arc ahead" : "arc", style: {"stroke-width": `${Math.max(0.6, THICK * weight)}px`, opacity: 0.3 + 0.6 * weight}});
  }

  function sentence(i) {
    const row = data.pattern[i - data.first];
    if (!row) return "This row was left out of the reply.";
    const most = row.map((weight, j) => [weight, j]).sort((a, b) => b[0] - a[0]).slice(0, 3).filter(([weight]) => weight >= LEAST);
    return `“${data.tokens[i].shown}” looks at ${most.map(([weight, j]) => `${j === i ? "itself" : `“${data.tokens[j].shown}”`}${j > i ? " (ahead!)" : ""} ${percent(weight)}`).join(", ") || "nothing much"}.`;
  }

  svg.addEventListener("pointerleave", () => data && shown !== data.at && draw(data.at));
  svg.addEventListener("keydown", (event) => {
    const to = data && {ArrowRight: data.at + 1, ArrowLeft: data.at - 1, Home: 0, End: data.tokens.length - 1}[event.key];
    if (to === undefined || to === null) return;
    event.preventDefault();
    if (to < 0 || to >= data.tokens.length) return;
    onpick(to);
    announce(sentence(to));
  });
  return element;
}
