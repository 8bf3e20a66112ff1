// A matrix as cells: darker is more. Arrow keys walk over the cells, and what is under the cursor is said below.

import {colour, onColour} from "./colour.js";
import {announce, h, number} from "./dom.js";

/**
 * heatmap({label, onpick, onmove}): an element; `update({rows, columns, values, ...})` draws.
 *
 * rows, columns: names. values: list of rows, null where there is none (a masked place). texts: words in the cells.
 * signed: values below zero are hatched. max: what full colour means (default: the largest). format(value) words one;
 * say(row, column) the whole sentence. cell: pixels at most. rowName, columnName: what the axes are.
 */
export function heatmap({label, onpick, onmove}) {
  const canvas = h("canvas", {tabindex: "0", role: "img"}), said = h("p", {class: "said", "aria-hidden": "true"});
  const frame = h("div", {class: "scroll"}, canvas), element = h("div", {class: "heatmap"}, frame, said);
  let data = null, cursor = null, layout = null;

  element.update = (next) => {
    data = {format: number, cell: 44, rowName: "row", columnName: "column", max: null, ...next};
    if (cursor) cursor = [Math.min(cursor[0], data.rows.length - 1), Math.min(cursor[1], data.columns.length - 1)];
    if (data.cursor) cursor = data.cursor;
    canvas.setAttribute("aria-label", `${label}: ${data.rows.length} rows (${data.rowName}), ${data.columns.length} columns (${data.columnName}). Arrow keys walk over the cells${onpick ? ", Enter picks one" : ""}.`);
    draw();
    tell(false);
  };
  element.redraw = () => data && draw();

  function draw() {
    if (!element.isConnected && !data) return;
    const {rows, columns, values} = data;
    const context = canvas.getContext("2d"), ratio = devicePixelRatio || 1, css = getComputedStyle(document.documentElement);
    const ink = css.getPropertyValue("--ink"), soft = css.getPropertyValue("--soft"), accent = css.getPropertyValue("--accent");
    context.font = "12px ui-monospace, monospace";
    const widest = (names) => Math.min(110, Math.max(0, ...names.map((name) => context.measureText(name).width)));
    const width = element.clientWidth || 600;
    const left = rows.length > 1 || rows[0] ? Math.ceil(widest(rows)) + 10 : 2;
    const smallest = data.texts ? 34 : 3;
    const size = Math.max(smallest, Math.min(data.cell, Math.floor((width - left - 4) / columns.length)));
    const cellWidth = data.texts ? Math.max(size, Math.min(76, Math.floor((width - left - 4) / columns.length))) : size;
    const height = data.texts ? 26 : size;
    const named = cellWidth >= 13, rowsNamed = height >= 11;
    const slanted = named && widest(columns) > cellWidth - 4;
    const top = named && columns.some(Boolean) ? (slanted ? Math.ceil(widest(columns) * 0.75) + 14 : 20) : 4;
    const right = slanted ? Math.min(80, Math.ceil(widest(columns.slice(-3)) * 0.7)) : 2;
    layout = {left, top, width: cellWidth, height};
    const full = [left + columns.length * cellWidth + right, top + rows.length * height + 4];
    canvas.width = full[0] * ratio;
    canvas.height = full[1] * ratio;
    canvas.style.setProperty("width", `${full[0]}px`);
    canvas.style.setProperty("height", `${full[1]}px`);
    context.scale(ratio, ratio);
    context.textBaseline = "middle";
    const most = data.max ?? Math.max(1e-12, ...values.map((row) => row.reduce((a, v) => Math.max(a, Math.abs(v ?? 0)), 0)));
    const gap = cellWidth > 8 ? 1 : 0;
    const hatch = pattern(context, ink);
    for (let i = 0; i < rows.length; i += 1) {
      for (let j = 0; j < columns.length; j += 1) {
        const value = values[i]?.[j], x = left + j * cellWidth, y = top + i * height;
        if (value === null || value === undefined) {
          if (gap) { context.strokeStyle = soft; context.globalAlpha = 0.25; context.strokeRect(x + 1.5, y + 1.5, cellWidth - 4, height - 4); context.globalAlpha = 1; }
          continue;
        }
        const share = Math.abs(value) / most;
        context.fillStyle = colour(share);
        context.fillRect(x, y, cellWidth - gap, height - gap);
        if (value < 0 && share > 0.02) { context.fillStyle = hatch; context.globalAlpha = 0.55; context.fillRect(x, y, cellWidth - gap, height - gap); context.globalAlpha = 1; }
        if (data.texts) {
          context.fillStyle = onColour(share);
          context.textAlign = "center";
          context.font = "12px ui-monospace, monospace";
          context.fillText(cut(context, data.texts[i][j] ?? "", cellWidth - 6), x + cellWidth / 2, y + height / 2);
        }
      }
    }
    context.fillStyle = ink;
    context.font = "12px ui-monospace, monospace";
    context.textAlign = "right";
    if (rowsNamed) rows.forEach((name, i) => context.fillText(cut(context, name, 110), left - 6, top + (i + 0.5) * height));
    if (named) columns.forEach((name, j) => {
      context.save();
      context.translate(left + (j + 0.5) * cellWidth, top - 8);
      context.textAlign = slanted ? "left" : "center";
      if (slanted) context.rotate(-Math.PI / 4);
      context.fillText(cut(context, name, 110), 0, 0);
      context.restore();
    });
    if (cursor) {
      context.strokeStyle = accent;
      context.lineWidth = 2.5;
      context.strokeRect(left + cursor[1] * cellWidth - 0.5, top + cursor[0] * height - 0.5, cellWidth, height);
    }
  }

  function tell(aloud) {
    if (!cursor) {
      said.textContent = "Point at a cell, or walk with the arrow keys.";
      return;
    }
    const [i, j] = cursor, value = data.values[i]?.[j];
    const sentence = data.say ? data.say(i, j) : `${data.rows[i]}, ${data.columns[j]}: ${value === null || value === undefined ? "nothing" : data.format(value)}`;
    said.textContent = sentence;
    if (aloud) announce(sentence);
  }

  function move(to, aloud) {
    if (cursor && to[0] === cursor[0] && to[1] === cursor[1]) return;
    cursor = to;
    draw();
    tell(aloud);
    onmove?.(...cursor);
  }

  function cellAt(event) {
    const box = canvas.getBoundingClientRect();
    const i = Math.floor((event.clientY - box.top - layout.top) / layout.height), j = Math.floor((event.clientX - box.left - layout.left) / layout.width);
    return i >= 0 && j >= 0 && i < data.rows.length && j < data.columns.length ? [i, j] : null;
  }

  canvas.addEventListener("pointermove", (event) => { const at = data && cellAt(event); if (at) move(at, false); });
  canvas.addEventListener("click", (event) => { const at = data && cellAt(event); if (at) { move(at, false); onpick?.(...at); } });
  canvas.addEventListener("keydown", (event) => {
    const steps = {ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1]};
    if (!data) return;
    if (event.key === "Enter" || event.key === " ") { if (cursor) onpick?.(...cursor); event.preventDefault(); return; }
    let to = cursor ? [...cursor] : null;
    if (event.key === "Home") to = [to?.[0] ?? 0, 0];
    else if (event.key === "End") to = [to?.[0] ?? 0, data.columns.length - 1];
    else if (!steps[event.key]) return;
    else to = to ? [to[0] + steps[event.key][0], to[1] + steps[event.key][1]] : [0, 0];
    event.preventDefault();
    move([Math.min(data.rows.length - 1, Math.max(0, to[0])), Math.min(data.columns.length - 1, Math.max(0, to[1]))], true);
  });
  new ResizeObserver(() => element.redraw()).observe(element);
  return element;
}

function pattern(context, ink) {
  const tile = document.createElement("canvas");
  tile.width = tile.height = 6;
  const pen = tile.getContext("2d");
  pen.strokeStyle = ink;
  pen.lineWidth = 1.2;
  pen.beginPath();
  for (const shift of [-6, 0, 6]) { pen.moveTo(shift, 6); pen.lineTo(shift + 6, 0); }
  pen.stroke();
  return context.createPattern(tile, "repeat");
}

function cut(context, text, width) {
  if (context.measureText(text).width <= width) return text;
  let n = text.length;
  while (n > 1 && context.measureText(`${text.slice(0, n)}…`).width > width) n -= 1;
  return `${text.slice(0, n)}…`;
}

/** What the colours mean. */
export function legend(low, high, signed = false) {
  const steps = Array.from({length: 24}, (_, i) => h("span", {style: {background: colour(i / 23)}}));
  return h("p", {class: "legend"}, low, h("span", {class: "ramp", "aria-hidden": "true"}, steps), high, signed && h("span", {class: "note"}, " hatched: below zero"));
}
