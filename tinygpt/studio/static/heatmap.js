// A matrix as cells: darker is more. Arrow keys walk over the cells, and what is under the cursor is said below.

import {colour, inks, onColour, pixel} from "./colour.js";
import {announce, h, number} from "./dom.js";

const FONT = "12px ui-monospace, monospace";
const MOST_NAMED = 16; // rows that are given the height of their names
const SIGNED = 0.06; // share of full colour below which no hatching tells the sign: such cells look empty anyway

/**
 * heatmap({label, onpick, onmove}): an element; `update({rows, columns, values, ...})` draws.
 *
 * rows, columns: names. values: list of rows, null where there is none (a masked place). texts: words in the cells.
 * signed: values below zero are hatched. max: what full colour means (default: the largest). format(value) words one;
 * say(row, column) the whole sentence. cell: pixels at most; height: pixels of a row, where cells are not square.
 * rowName, columnName: what the axes are. cursor: [row, column] to stand on. ring: [row, column] of what was picked, row
 * null for a whole column and column null for a whole row.
 */
export function heatmap({label, onpick, onmove}) {
  const canvas = h("canvas", {tabindex: "0", role: "img"}), said = h("p", {class: "said", "aria-hidden": "true"});
  const names = h("canvas", {class: "row-names", "aria-hidden": "true"}); // of the rows: they stay in sight while the rest scrolls
  const frame = h("div", {class: "scroll"}, names, canvas), element = h("div", {class: "heatmap"}, frame, said);
  const base = document.createElement("canvas"); // the picture without cursor and ring
  let data = null, cursor = null, layout = null, room = 0;

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
    const context = base.getContext("2d"), ratio = devicePixelRatio || 1, {ink, soft, accent} = inks();
    context.font = FONT;
    const widest = (names) => Math.min(110, Math.max(0, ...names.map((name) => context.measureText(name).width)));
    const width = room || element.clientWidth || 600;
    const left = rows.length > 1 || rows[0] ? Math.ceil(widest(rows)) + 10 : 2;
    const smallest = data.texts ? 52 : 3, overhang = Math.min(80, Math.ceil(widest(columns.slice(-3)) * 0.7));
    const among = (room) => Math.floor((room - left - 4) / columns.length); // pixels of a column
    const slanting = widest(columns) > Math.min(data.texts ? 76 : data.cell, among(width)) - 4; // names will be slanted
    const share = among(slanting ? width - overhang : width), size = Math.max(smallest, Math.min(data.cell, share));
    const cellWidth = data.texts ? Math.max(size, Math.min(76, share)) : size;
    const height = data.height ?? (data.texts ? 26 : rows.length <= MOST_NAMED ? Math.max(11, size) : size);
    const named = cellWidth >= 13, rowsNamed = height >= 11;
    const slanted = named && widest(columns) > cellWidth - 4;
    const top = named && columns.some(Boolean) ? (slanted ? Math.ceil(widest(columns) * 0.75) + 14 : 20) : 4;
    const right = slanted ? overhang : 2;
    layout = {left, top, width: cellWidth, height, accent, ink, ratio, full: [left + columns.length * cellWidth + right, top + rows.length * height + 4]};
    const [full, tall] = layout.full;
    base.width = full * ratio;
    base.height = tall * ratio;
    context.scale(ratio, ratio);
    context.font = FONT;
    context.textBaseline = "middle";
    const most = data.max ?? Math.max(1e-12, ...values.map((row) => row.reduce((a, v) => Math.max(a, Math.abs(v ?? 0)), 0)));
    const gap = cellWidth > 8 ? 1 : 0, across = columns.length * cellWidth, down = rows.length * height;
    context.imageSmoothingEnabled = false;
    context.drawImage(image(values, columns.length, (v) => pixel(Math.abs(v) / most)), left, top, across, down);
    if (values.some((row) => row.some((v) => v < -SIGNED * most))) {
      const below = document.createElement("canvas"), pen = below.getContext("2d");
      [below.width, below.height] = [across, down];
      pen.imageSmoothingEnabled = false;
      pen.drawImage(image(values, columns.length, (v) => (v < -SIGNED * most ? 0xff000000 : 0)), 0, 0, across, down);
      pen.globalCompositeOperation = "source-in";
      pen.fillStyle = pattern(pen, ink);
      pen.fillRect(0, 0, across, down);
      context.globalAlpha = 0.55;
      context.drawImage(below, left, top);
      context.globalAlpha = 1;
    }
    if (gap) {
      for (let j = 1; j <= columns.length; j += 1) context.clearRect(left + j * cellWidth - 1, top, 1, down);
      for (let i = 1; i <= rows.length; i += 1) context.clearRect(left, top + i * height - 1, across, 1);
      context.strokeStyle = soft;
      context.globalAlpha = 0.25;
      context.beginPath();
      values.forEach((row, i) => row.forEach((v, j) => { if (v === null || v === undefined) context.rect(left + j * cellWidth + 1.5, top + i * height + 1.5, cellWidth - 4, height - 4); }));
      context.stroke();
      context.globalAlpha = 1;
    }
    if (data.texts) {
      context.textAlign = "center";
      values.forEach((row, i) => row.forEach((v, j) => {
        context.fillStyle = onColour(Math.abs(v ?? 0) / most);
        context.fillText(cut(context, data.texts[i][j] ?? "", cellWidth - 6), left + (j + 0.5) * cellWidth, top + (i + 0.5) * height);
      }));
    }
    context.fillStyle = ink;
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
    names.hidden = full <= width || !rowsNamed || left === 2;
    if (!names.hidden) {
      [names.width, names.height] = [left * ratio, base.height];
      names.style.setProperty("width", `${left}px`);
      names.style.setProperty("margin-right", `${-left}px`);
      names.getContext("2d").drawImage(base, 0, 0);
    }
    show();
  }

  /** The picture, what was picked, and the cursor. */
  function show() {
    const {left, top, width, height, accent, ink, ratio, full} = layout, context = canvas.getContext("2d");
    if (canvas.width !== base.width || canvas.height !== base.height) {
      [canvas.width, canvas.height] = [base.width, base.height];
      canvas.style.setProperty("width", `${full[0]}px`);
      canvas.style.setProperty("height", `${full[1]}px`);
    }
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.drawImage(base, 0, 0);
    context.scale(ratio, ratio);
    const frame = ([i, j], inset) => context.strokeRect(left + (j ?? 0) * width - inset, top + (i ?? 0) * height - inset, (j === null ? data.columns.length * width : width) - 1 + 2 * inset, (i === null ? data.rows.length * height : height) - 1 + 2 * inset);
    if (data.ring) {
      context.strokeStyle = ink;
      context.lineWidth = 1.5;
      frame(data.ring, 1);
    }
    if (cursor) {
      context.strokeStyle = accent;
      context.lineWidth = 2.5;
      frame(cursor, 0.5);
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
    show();
    if (aloud) reveal(...cursor);
    tell(aloud);
    onmove?.(...cursor);
  }

  /** Scroll the frame until the cell is seen. */
  function reveal(i, j) {
    const {left, top, width, height} = layout, x = left + j * width, y = top + i * height;
    if (x - frame.scrollLeft < (names.hidden ? 0 : left) || x + width - frame.scrollLeft > frame.clientWidth) frame.scrollLeft = x - frame.clientWidth / 2;
    if (y - frame.scrollTop < 0 || y + height - frame.scrollTop > frame.clientHeight) frame.scrollTop = y - frame.clientHeight / 2;
  }
  element.reveal = (i, j) => layout && reveal(i, j);

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
  new ResizeObserver(([entry]) => {
    const width = Math.floor(entry.contentRect.width);
    if (!width || width === room) return; // a picture that grows taller is no reason to draw it again
    room = width;
    element.redraw();
  }).observe(element);
  return element;
}

/** A canvas with one pixel for each value; `colourOf` gives its four bytes. */
function image(values, columns, colourOf) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [Math.max(1, columns), Math.max(1, values.length)];
  const context = canvas.getContext("2d"), data = context.createImageData(canvas.width, canvas.height), pixels = new Uint32Array(data.data.buffer);
  values.forEach((row, i) => {
    for (let j = 0; j < columns; j += 1) if (row[j] !== null && row[j] !== undefined) pixels[i * columns + j] = colourOf(row[j]);
  });
  context.putImageData(data, 0, 0);
  return canvas;
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
