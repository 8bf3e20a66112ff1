// Rows with a name, a bar and a number: readable without the bar, too.

import {h, number} from "./dom.js";

/**
 * bars(rows, {max, format, onpick}): rows of {name, value, second, note, picked, label}. `second` is drawn behind as an
 * outline: the value before a change. Values below zero are hatched and grow to the left of the middle.
 */
export function bars(rows, {max = null, format = number, onpick = null, secondName = "before", wide = false} = {}) {
  const most = max ?? Math.max(1e-12, ...rows.flatMap((row) => [Math.abs(row.value ?? 0), Math.abs(row.second ?? 0)]));
  const signed = rows.some((row) => row.value < 0 || row.second < 0);
  const bar = (value, kind) => {
    const share = Math.min(1, Math.abs(value ?? 0) / most) * (signed ? 50 : 100);
    const style = signed ? {width: `${share}%`, left: `${value < 0 ? 50 - share : 50}%`} : {width: `${share}%`, left: "0"};
    return h("span", {class: `bar ${kind}${value < 0 ? " below" : ""}`, style});
  };
  const row = (item, i) => {
    const told = `${item.name}: ${format(item.value)}${item.second !== undefined && item.second !== null ? `, ${secondName} ${format(item.second)}` : ""}${item.note ? `, ${item.note}` : ""}`;
    const inner = [
      h("span", {class: "bar-name"}, item.name),
      h("span", {class: `track${signed ? " signed" : ""}`, "aria-hidden": "true"}, item.second !== undefined && item.second !== null && bar(item.second, "second"), bar(item.value, "first")),
      h("span", {class: "bar-value"}, format(item.value)),
      item.note !== undefined && h("span", {class: "bar-note"}, item.note),
    ];
    return onpick
      ? h("li", {}, h("button", {type: "button", class: `bar-row${item.picked ? " picked" : ""}`, "aria-label": told, "aria-pressed": String(Boolean(item.picked)), onclick: () => onpick(item, i)}, inner))
      : h("li", {class: `bar-row${item.picked ? " picked" : ""}`}, inner);
  };
  return h("ol", {class: `bars${wide ? " wide" : ""}${rows.some((r) => r.note !== undefined) ? " noted" : ""}`}, rows.map(row));
}

/** The same rows as a table. */
export const barsTable = (name, value, rows, second = null) => () => ({
  columns: [name, value, ...(second ? [second] : []), ...(rows.some((row) => row.note !== undefined) ? ["note"] : [])],
  rows: rows.map((row) => [row.name, row.value, ...(second ? [row.second] : []), ...(rows.some((r) => r.note !== undefined) ? [row.note ?? ""] : [])]),
});
