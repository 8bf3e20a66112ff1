// Curves over training steps or positions. Lines differ by dash and by their name at the end, not by colour alone.

import {LINES} from "./colour.js";
import {announce, h, millions, number, s} from "./dom.js";

const NARROW = 400; // pixels
const HEIGHT = 260, TOP = 24, BOTTOM = 34;

/**
 * lines({label, xName, yName, onpick}): an element; `update({series, marks, points, logX, logY, cursor})` draws;
 * there xName and yName can be given anew.
 *
 * series: [{name, points: [[x, y], ...], faint}]; marks: [[name, y], ...] horizontal; points: [{x, y, name}] to click;
 * cursor: an x that is shown (the slider's step); ticksX: where the axis is written, else round numbers. Arrow keys walk
 * from point to point.
 */
export function lines({label, xName = "step", yName = "", onpick}) {
  const element = h("div", {class: "lines"}), said = h("p", {class: "said", "aria-hidden": "true"}), holder = h("div", {class: "scroll"});
  element.append(holder, said);
  const usual = {xName, yName};
  let data = null, at = null;

  element.update = (next) => {
    data = {marks: [], points: [], logX: false, logY: false, ...usual, ...next};
    ({xName, yName} = data);
    draw();
  };

  function draw() {
    const width = Math.max(240, element.clientWidth || 640);
    const usable = (x, log) => Number.isFinite(x) && (!log || x > 0);
    const all = data.series.flatMap((line) => line.points).filter(([x, y]) => usable(data.logX ? x + 1 : x, data.logX) && usable(y, data.logY));
    if (!all.length) {
      holder.replaceChildren(h("p", {class: "note"}, "Nothing recorded yet."));
      return;
    }
    const ends = data.series.map((line) => line.name).concat(data.marks.map(([name]) => name));
    const inside = width < NARROW; // there is no room for names beside the curves, so they stand above their ends
    const right = inside ? 12 : Math.min(150, 16 + 7.8 * Math.max(...ends.map((name) => name.length)));
    const left = 52;
    const fx = (x) => (data.logX ? Math.log10(x + 1) : x), fy = (y) => (data.logY ? Math.log10(y) : y);
    const xs = all.map(([x]) => fx(x)), ys = all.map(([, y]) => fy(y)).concat(data.marks.filter(([, y]) => usable(y, data.logY) && !data.zoom).map(([, y]) => fy(y)));
    const [x0, x1] = xs.every((x) => x === xs[0]) ? [xs[0], xs[0] + 1] : span(xs), [y0, y1] = span(ys, 0.04);
    const px = (x) => left + ((fx(x) - x0) / (x1 - x0)) * (width - left - right), py = (y) => HEIGHT - BOTTOM - ((fy(y) - y0) / (y1 - y0)) * (HEIGHT - TOP - BOTTOM);
    const svg = s("svg", {viewBox: `0 0 ${width} ${HEIGHT}`, width, height: HEIGHT, tabindex: "0", role: "img", "aria-label": `${label}. ${data.series.map((line) => `${line.name}: ${number(line.points.at(-1)?.[1])} at ${xName} ${number(line.points.at(-1)?.[0])}`).join("; ")}. Arrow keys walk along the curve.`});
    for (const tick of data.logY ? logTicks(10 ** y0, 10 ** y1) : ticks(y0, y1)) {
      svg.append(s("line", {x1: left, x2: width - right, y1: py(tick), y2: py(tick), class: "grid"}), s("text", {x: left - 6, y: py(tick) + 4, class: "tick end"}, short(tick)));
    }
    const most = Math.max(2, Math.min(6, Math.floor((width - left - right) / 80)));
    let written = -Infinity;
    for (const tick of data.ticksX ?? (data.logX ? logTicks(10 ** x0 - 1, 10 ** x1 - 1, most) : ticks(x0, x1, most))) {
      if (px(tick) - written < 34) continue;
      written = px(tick);
      svg.append(s("text", {x: px(tick), y: HEIGHT - BOTTOM + 16, class: "tick middle"}, short(tick)));
    }
    svg.append(s("text", {x: (left + width - right) / 2, y: HEIGHT - 3, class: "tick middle"}, xName + (data.logX ? " (log)" : "")), s("text", {x: 4, y: 11, class: "tick"}, yName + (data.logY ? " (log)" : "")));
    const labels = [];
    for (const [name, y] of data.marks) {
      if (!usable(y, data.logY) || py(y) < TOP - 4 || py(y) > HEIGHT - BOTTOM + 4) continue;
      svg.append(s("line", {x1: left, x2: width - right, y1: py(y), y2: py(y), class: "mark"}));
      labels.push({y: py(y), name, class: "tick soft"});
    }
    if (data.cursor !== undefined && data.cursor !== null && fx(data.cursor) >= x0 && fx(data.cursor) <= x1) svg.append(s("line", {x1: px(data.cursor), x2: px(data.cursor), y1: TOP, y2: HEIGHT - BOTTOM, class: "cursor"}));
    data.series.forEach((line, i) => {
      const [stroke, dash] = LINES[i % LINES.length];
      const points = line.points.filter(([x, y]) => usable(y, data.logY) && Number.isFinite(x));
      if (!points.length) return;
      svg.append(s("polyline", {points: points.map(([x, y]) => `${px(x).toFixed(1)},${py(y).toFixed(1)}`).join(" "), class: "curve", "stroke-dasharray": dash, opacity: line.faint ? 0.45 : 1, style: {stroke}}));
      if (points.length < 30 && !line.faint) for (const [x, y] of points) svg.append(s("circle", {cx: px(x), cy: py(y), r: 2.6, style: {fill: stroke}}));
      labels.push({y: py(points.at(-1)[1]), name: line.name, class: "tick name", fill: stroke});
    });
    if (inside) labels.sort((a, b) => b.y - a.y).forEach((item, i) => { item.y = Math.min(item.y - 7, i ? labels[i - 1].y - 13 : Infinity); });
    else labels.sort((a, b) => a.y - b.y).forEach((item, i) => { item.y = Math.max(item.y + 4, i ? labels[i - 1].y + 13 : TOP + 4); });
    for (const item of labels) svg.append(s("text", {x: inside ? width - right : width - right + 6, y: item.y, class: `${item.class}${inside ? " end inside" : ""}`, style: item.fill ? {fill: item.fill} : {}}, item.name));
    for (const point of data.points) {
      if (!usable(point.y, data.logY)) continue;
      svg.append(s("circle", {cx: px(point.x), cy: py(point.y), r: 6, class: "event", onclick: () => onpick?.(point)}, s("title", {}, point.name)));
    }
    const finger = s("g", {class: "finger"});
    svg.append(finger);
    const steps = [...new Set(all.map(([x]) => x))].sort((a, b) => a - b);

    const tell = (x, aloud) => {
      at = x;
      finger.replaceChildren(s("line", {x1: px(x), x2: px(x), y1: TOP, y2: HEIGHT - BOTTOM, class: "cross"}));
      const there = data.series.map((line, i) => [line, line.points.find((point) => point[0] === x), i]).filter(([, point]) => point && usable(point[1], data.logY));
      for (const [, [, y], i] of there) finger.append(s("circle", {cx: px(x), cy: py(y), r: 4, style: {fill: LINES[i % LINES.length][0]}}));
      const sentence = `${xName} ${number(x)}: ${there.map(([line, [, y]]) => `${line.name} ${number(y, 4)}`).join(", ")}`;
      said.textContent = sentence;
      if (aloud) announce(sentence);
    };
    svg.addEventListener("pointermove", (event) => {
      const x = event.clientX - svg.getBoundingClientRect().left;
      tell(steps.reduce((best, step) => (Math.abs(px(step) - x) < Math.abs(px(best) - x) ? step : best), steps[0]), false);
    });
    svg.addEventListener("click", () => { if (at !== null) onpick?.({x: at}); });
    svg.addEventListener("keydown", (event) => {
      const way = {ArrowRight: 1, ArrowLeft: -1, PageDown: 10, PageUp: -10}[event.key];
      if (event.key === "Enter" && at !== null) { event.preventDefault(); onpick?.({x: at}); return; }
      if (!way) return;
      event.preventDefault();
      const i = at === null ? (way > 0 ? 0 : steps.length - 1) : Math.min(steps.length - 1, Math.max(0, steps.indexOf(at) + way));
      tell(steps[Math.max(0, i)], true);
    });
    const focused = holder.contains(document.activeElement);
    holder.replaceChildren(svg);
    if (focused) svg.focus({preventScroll: true});
    if (at !== null && steps.includes(at)) tell(at, false);
    else { at = null; said.textContent = "Point at the curve, or walk with the arrow keys."; }
  }

  let seen = 0;
  new ResizeObserver(() => { if (data && element.clientWidth !== seen) { seen = element.clientWidth; draw(); } }).observe(element);
  return element;
}

function span(values, margin = 0) {
  let low = Math.min(...values), high = Math.max(...values);
  if (low === high) { low -= 0.5 * (Math.abs(low) || 1); high += 0.5 * (Math.abs(high) || 1); }
  return [low - margin * (high - low), high + margin * (high - low)];
}

/** About `count` round numbers from low to high. */
function ticks(low, high, count = 5) {
  const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough)), step = [1, 2, 5, 10].find((m) => m * power >= rough) * power;
  const found = [];
  for (let x = Math.ceil(low / step) * step; x <= high + 1e-9; x += step) found.push(Math.abs(x) < step / 1e6 ? 0 : x);
  return found;
}

/** Round numbers for a logarithmic axis: 1, 2, 5 of each power of ten if there is room, else powers alone; 0 if it is there. */
function logTicks(low, high, count = 6) {
  const found = low <= 0 ? [0] : [], from = Math.floor(Math.log10(Math.max(low, high / 1e9, 1e-12)));
  const powers = Array.from({length: Math.ceil(Math.log10(high)) - from + 1}, (_, i) => from + i);
  const inside = (digits) => powers.flatMap((power) => digits.map((digit) => digit * 10 ** power)).filter((x) => x >= Math.max(low * 0.999, low <= 0 ? 1 : 0) && x <= high * 1.001);
  const [fine, coarse] = [inside([1, 2, 5]), inside([1])];
  return found.concat(fine.length <= count + 2 || coarse.length < 2 ? fine : coarse);
}

const short = (x) => (Math.abs(x) >= 10000 ? millions(x).replace(/\.0+(?= )/, "") : number(x));

/** The series as a table. */
export const linesTable = (xName, series) => () => {
  const xs = [...new Set(series.flatMap((line) => line.points.map(([x]) => x)))].sort((a, b) => a - b);
  const columns = series.map((line) => new Map(line.points.map(([x, y]) => [x, y])));
  return {columns: [xName, ...series.map((line) => line.name)], rows: xs.map((x) => [x, ...columns.map((values) => values.get(x) ?? null)])};
};
