// Points on a map, told apart by shape and name. Arrow keys walk to the next point in that direction.

import {LINES} from "./colour.js";
import {announce, h, s} from "./dom.js";

const SIZE = 520, EDGE = 26;
const SHAPES = [
  (x, y) => s("circle", {cx: x, cy: y, r: 4}),
  (x, y) => s("path", {d: `M${x} ${y - 5}L${x + 5} ${y + 4}L${x - 5} ${y + 4}Z`}),
  (x, y) => s("rect", {x: x - 3.5, y: y - 3.5, width: 7, height: 7}),
  (x, y) => s("path", {d: `M${x} ${y - 5}L${x + 5} ${y}L${x} ${y + 5}L${x - 5} ${y}Z`}),
  (x, y) => s("path", {d: `M${x - 4} ${y - 4}L${x + 4} ${y + 4}M${x + 4} ${y - 4}L${x - 4} ${y + 4}`, class: "stroked"}),
  (x, y) => s("path", {d: `M${x} ${y - 5}V${y + 5}M${x - 5} ${y}H${x + 5}`, class: "stroked"}),
];

/**
 * scatter({label, onpick}): an element; `update({points, groups, picked, box, xName, yName})` draws.
 *
 * points: [{x, y, name, group, say}]; groups: names in the order of shapes; picked: index; box: [x0, x1, y0, y1], fixed
 * axes (so that points move between checkpoints and the axes do not).
 */
export function scatter({label, onpick}) {
  const element = h("div", {class: "scatter"}), said = h("p", {class: "said", "aria-hidden": "true"}), holder = h("div", {class: "scroll"}), keys = h("p", {class: "legend"});
  element.append(keys, holder, said);

  element.update = ({points, groups = [], picked = null, box = null, xName = "", yName = "", named = 40}) => {
    const xs = points.map((p) => p.x), ys = points.map((p) => p.y);
    const [x0, x1, y0, y1] = box ?? [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
    const px = (x) => EDGE + ((x - x0) / (x1 - x0 || 1)) * (SIZE - 2 * EDGE), py = (y) => SIZE - EDGE - ((y - y0) / (y1 - y0 || 1)) * (SIZE - 2 * EDGE);
    const svg = s("svg", {viewBox: `0 0 ${SIZE} ${SIZE}`, tabindex: "0", role: "img", "aria-label": `${label}: ${points.length} points. Arrow keys walk from point to point${onpick ? ", Enter picks one" : ""}.`});
    svg.append(s("rect", {x: EDGE / 2, y: EDGE / 2, width: SIZE - EDGE, height: SIZE - EDGE, class: "frame"}), s("text", {x: SIZE / 2, y: SIZE - 1, class: "tick middle"}, xName), s("text", {x: 0, y: 9, class: "tick"}, yName));
    let current = picked;
    points.forEach((point, i) => {
      const g = s("g", {class: "point", style: {color: LINES[(point.group ?? 0) % LINES.length][0]}, onclick: () => { walk(i, false); onpick?.(i); }, onpointerenter: () => walk(i, false)});
      g.append(SHAPES[(point.group ?? 0) % SHAPES.length](px(point.x), py(point.y)), s("title", {}, point.name));
      if (i < named || i === picked) g.append(s("text", {x: px(point.x) + 6, y: py(point.y) + 4, class: "tick"}, point.name));
      svg.append(g);
    });
    const ring = s("circle", {r: 9, class: "ring"}), tag = s("text", {class: "tag"});
    svg.append(ring, tag);
    const walk = (i, aloud) => {
      current = i;
      const point = points[i];
      ring.setAttribute("cx", px(point.x));
      ring.setAttribute("cy", py(point.y));
      tag.setAttribute("x", Math.min(px(point.x) + 12, SIZE - 90));
      tag.setAttribute("y", Math.max(14, py(point.y) - 10));
      tag.textContent = point.name;
      said.textContent = point.say ?? point.name;
      if (aloud) announce(said.textContent);
    };
    svg.addEventListener("keydown", (event) => {
      const way = {ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]}[event.key];
      if (event.key === "Enter" && current !== null) { event.preventDefault(); onpick?.(current); return; }
      if (!way) return;
      event.preventDefault();
      if (current === null) { walk(0, true); return; }
      const from = points[current];
      let best = null, least = Infinity;
      points.forEach((point, i) => {
        const dx = px(point.x) - px(from.x), dy = py(point.y) - py(from.y), along = dx * way[0] + dy * way[1], across = Math.abs(dx * way[1]) + Math.abs(dy * way[0]);
        if (i !== current && along > 0.5 && along + 2 * across < least) { least = along + 2 * across; best = i; }
      });
      if (best !== null) walk(best, true);
    });
    keys.replaceChildren(...groups.map((name, i) => h("span", {class: "key"}, keyShape(i), name)));
    const focused = holder.contains(document.activeElement);
    holder.replaceChildren(svg);
    if (focused) svg.focus({preventScroll: true});
    if (picked !== null && points[picked]) walk(picked, false);
    else said.textContent = "Point at a mark, or walk with the arrow keys.";
  };
  return element;
}

function keyShape(i) {
  const svg = s("svg", {viewBox: "0 0 14 14", width: 14, height: 14, "aria-hidden": "true", class: "point", style: {color: LINES[i % LINES.length][0]}});
  svg.append(SHAPES[i % SHAPES.length](7, 7));
  return svg;
}
