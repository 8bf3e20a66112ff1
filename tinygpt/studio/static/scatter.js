// Points on a map, told apart by shape and name. Arrow keys walk to the next point in that direction.

import {LINES} from "./colour.js";
import {announce, h, s} from "./dom.js";

const SIZE = 520, EDGE = 26;
const LETTER = 7, LINE = 13; // a name's size, about, to keep names apart
const SHAPES = [ // around 0, 0
  () => s("circle", {r: 4}),
  () => s("path", {d: "M0 -5L5 4L-5 4Z"}),
  () => s("rect", {x: -3.5, y: -3.5, width: 7, height: 7}),
  () => s("path", {d: "M0 -5L5 0L0 5L-5 0Z"}),
  () => s("path", {d: "M-4 -4L4 4M4 -4L-4 4", class: "stroked"}),
  () => s("path", {d: "M0 -5V5M-5 0H5", class: "stroked"}),
];

/**
 * scatter({label, onpick}): an element; `update({points, groups, picked, box, xName, yName})` draws.
 *
 * points: [{x, y, name, group, say}]; groups: names in the order of shapes; picked: index; box: [x0, x1, y0, y1], fixed
 * axes (so that points move between checkpoints and the axes do not); marked: indices with a ring; named: how many of the
 * first points may show their names, where there is room; xTicks, yTicks: [[value, words], ...]. A point is known by its
 * name: one that is drawn already moves to its place.
 */
export function scatter({label, onpick}) {
  const element = h("div", {class: "scatter"}), said = h("p", {class: "said", "aria-hidden": "true"}), holder = h("div", {class: "scroll"}), keys = h("p", {class: "legend"});
  const frame = s("g"), rings = s("g"), marks = s("g"), ring = s("circle", {r: 9, class: "ring", visibility: "hidden"}), tag = s("text", {class: "tag"});
  const svg = s("svg", {viewBox: `0 0 ${SIZE} ${SIZE + 6}`, tabindex: "0", role: "img"}, frame, rings, marks, ring, tag);
  holder.append(svg);
  element.append(keys, holder, said);
  let points = [], places = [], drawn = new Map(), current = null, walked = null, before = null;

  function draw(point) {
    const shape = s("g", {}), name = s("text", {x: 6, y: 4, class: "tick"}, point.name), one = {shape, name, group: null, place: 0};
    one.mark = s("g", {class: "point", onclick: () => { walk(one.place, false); onpick?.(one.place); }, onpointerenter: () => walk(one.place, false)}, shape, name, s("title", {}, point.name));
    return one;
  }

  const walk = (i, aloud) => {
    current = i;
    const point = points[i], [x, y] = places[i];
    walked = point.name;
    for (const [name, value] of [["cx", x], ["cy", y], ["visibility", "visible"]]) ring.setAttribute(name, value);
    tag.setAttribute("x", Math.min(x + 12, SIZE - 9 * point.name.length - 14));
    tag.setAttribute("y", Math.max(14, y - 10));
    tag.textContent = point.name;
    said.textContent = point.say ?? point.name;
    if (aloud) announce(said.textContent);
  };

  svg.addEventListener("keydown", (event) => {
    const way = {ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]}[event.key];
    if (event.key === "Enter" && current !== null) { event.preventDefault(); onpick?.(current); return; }
    if (!way || !points.length) return;
    event.preventDefault();
    if (current === null) { walk(0, true); return; }
    let best = null, least = Infinity;
    places.forEach(([x, y], i) => {
      const dx = x - places[current][0], dy = y - places[current][1], along = dx * way[0] + dy * way[1], across = Math.abs(dx * way[1]) + Math.abs(dy * way[0]);
      if (i !== current && along > 0.5 && along + 2 * across < least) { least = along + 2 * across; best = i; }
    });
    if (best !== null) walk(best, true);
  });

  element.update = ({points: next, groups = [], picked = null, box = null, xName = "", yName = "", named = 40, marked = [], xTicks = [], yTicks = []}) => {
    points = next;
    const xs = points.map((p) => p.x), ys = points.map((p) => p.y);
    const [x0, x1, y0, y1] = box ?? [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
    const px = (x) => EDGE + ((x - x0) / (x1 - x0 || 1)) * (SIZE - 2 * EDGE), py = (y) => SIZE - EDGE - ((y - y0) / (y1 - y0 || 1)) * (SIZE - 2 * EDGE);
    const inside = (at) => Math.min(SIZE - EDGE / 2, Math.max(EDGE / 2, at));
    places = points.map((point) => [inside(px(point.x)), inside(py(point.y))]);
    svg.setAttribute("aria-label", `${label}: ${points.length} points. Arrow keys walk from point to point${onpick ? ", Enter picks one" : ""}.`);
    frame.replaceChildren(s("rect", {x: EDGE / 2, y: EDGE / 2, width: SIZE - EDGE, height: SIZE - EDGE, class: "frame"}),
      ...xTicks.flatMap(([value, words]) => [s("line", {x1: px(value), x2: px(value), y1: EDGE / 2, y2: SIZE - EDGE / 2, class: "grid"}), s("text", {x: px(value), y: SIZE - EDGE / 2 - 4, class: "tick middle"}, words)]),
      ...yTicks.flatMap(([value, words]) => [s("line", {x1: EDGE / 2, x2: SIZE - EDGE / 2, y1: py(value), y2: py(value), class: "grid"}), s("text", {x: EDGE / 2 + 4, y: py(value) - 3, class: "tick"}, words)]),
      s("text", {x: SIZE / 2, y: SIZE + 2, class: "tick middle"}, xName), s("text", {x: EDGE / 2, y: 9, class: "tick"}, yName));
    if (picked !== before) current = null;
    before = picked;
    if (current !== null && points[current]?.name !== walked) current = null;
    const kept = drawn;
    drawn = new Map(points.map((point, i) => {
      const one = kept.get(point.name) ?? draw(point);
      one.place = i;
      return [point.name, one];
    }));
    for (const [name, one] of kept) if (!drawn.has(name)) one.mark.remove();
    for (const one of drawn.values()) if (!one.mark.isConnected || !kept.size) marks.append(one.mark);
    points.forEach((point, i) => {
      const one = drawn.get(point.name), [x, y] = places[i], group = point.group ?? 0;
      one.mark.style.setProperty("transform", `translate(${x.toFixed(1)}px, ${y.toFixed(1)}px)`);
      one.name.style.setProperty("display", "none");
      if (group === one.group) return;
      one.group = group;
      one.mark.style.setProperty("color", LINES[group % LINES.length][0]);
      one.shape.replaceChildren(SHAPES[group % SHAPES.length]());
    });
    // Names stand where no other name does: the picked one's first, then of the marked, then of the first points.
    const taken = [];
    for (const i of [...(picked === null ? [] : [picked]), ...marked, ...points.slice(0, named).keys()]) {
      if (!points[i]) continue;
      const [x, y] = places[i], width = LETTER * [...points[i].name].length;
      const area = i === picked ? [x + 8, y - 24, x + 14 + 1.2 * width, y - 6] : [x + 6, y - 7, x + 6 + width, y - 7 + LINE];
      if (taken.some(([left, top, right, bottom]) => area[0] < right && left < area[2] && area[1] < bottom && top < area[3])) continue;
      taken.push(area);
      if (i !== picked) drawn.get(points[i].name).name.style.setProperty("display", "");
    }
    rings.replaceChildren(...marked.filter((i) => places[i]).map((i) => s("circle", {cx: places[i][0], cy: places[i][1], r: 8, class: "near"})));
    keys.replaceChildren(...groups.map((name, i) => h("span", {class: "key"}, keyShape(i), name)));
    if (picked !== null && points[picked]) walk(picked, false);
    else if (current !== null && points[current]) walk(current, false);
    else {
      ring.setAttribute("visibility", "hidden");
      tag.textContent = "";
      said.textContent = "Point at a mark, or walk with the arrow keys.";
    }
  };
  return element;
}

function keyShape(i) {
  const svg = s("svg", {viewBox: "-7 -7 14 14", width: 14, height: 14, "aria-hidden": "true"}, s("g", {class: "point", style: {color: LINES[i % LINES.length][0]}}));
  svg.firstChild.append(SHAPES[i % SHAPES.length]());
  return svg;
}
