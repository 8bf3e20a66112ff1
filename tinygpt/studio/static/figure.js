// The frame around every picture: title, the Python line that gives the same numbers, and the numbers as a table.

import {announce, h, number} from "./dom.js";

/** A figure in `parent`. `show(reply, drawing, table)` fills it; table: {columns: [...], rows: [[...]]} or a function. */
export function figure(parent, title, note = "") {
  const body = h("div", {class: "drawing"}), below = h("div", {class: "below"});
  const caption = h("figcaption", {}, h("h2", {}, title));
  const python = button("Python", () => pythonOf(element.reply)), table = button("Table", () => tableOf(element.table));
  const tools = h("div", {class: "tools"}, python, table);
  const element = h("figure", {class: "figure"}, h("div", {class: "head"}, caption, tools), note && h("p", {class: "note"}, note), body, below);
  let open = null;

  function button(text, make) {
    return h("button", {type: "button", class: "small", "aria-expanded": "false", disabled: true, onclick: (event) => {
      open = open === text ? null : text;
      for (const other of tools.children) other.setAttribute("aria-expanded", String(other.textContent === open));
      below.replaceChildren(...(open ? [make()] : []));
      if (open) announce(`${text} of ${title} below the picture.`);
      event.stopPropagation();
    }}, text);
  }

  element.show = (reply, drawing, rows) => {
    element.reply = reply;
    element.table = rows;
    python.disabled = !reply?.python;
    table.disabled = !rows;
    if (drawing && body.firstChild !== drawing) body.replaceChildren(drawing);
    for (const note of element.querySelectorAll(".truncated")) note.remove();
    if (reply?.truncated) element.insertBefore(h("p", {class: "note truncated"}, reply.truncated), below);
    if (open) below.replaceChildren(open === "Python" ? pythonOf(reply) : tableOf(rows));
    element.classList.remove("failed");
  };
  element.fail = (error) => {
    body.replaceChildren(h("p", {class: "error"}, error.message));
    element.classList.add("failed");
    for (const tool of tools.children) tool.disabled = true;
  };
  element.rename = (text) => { caption.firstChild.textContent = text; }; // `title` is an attribute of every element
  parent?.append(element);
  return element;
}

function pythonOf(reply) {
  const line = `import tinygpt.inspect as ti\n${reply.python}`;
  const copied = h("span", {class: "note", role: "status"});
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(line);
      copied.textContent = "copied";
    } catch {
      copied.textContent = "select the text and copy it: the browser does not let this page do it";
    }
  };
  const shown = line.length > 3000 ? `${line.slice(0, 3000)} … (${line.length.toLocaleString("en")} characters; Copy takes all)` : line;
  const facts = reply.model && h("p", {class: "note"}, `Checkpoint ${reply.model.run}@${reply.model.step}, weights sha256 ${reply.model.sha256.slice(0, 12)}…, parts: ${reply.model.parts}.`);
  return h("div", {class: "python"}, h("pre", {tabindex: "0", "aria-label": "Python"}, shown), h("div", {class: "row"}, h("button", {type: "button", class: "small", onclick: copy}, "Copy"), copied), facts);
}

const MOST_ROWS = 400;

function tableOf(table) {
  const {columns, rows} = typeof table === "function" ? table() : table;
  const shown = rows.slice(0, MOST_ROWS);
  const cell = (value) => h("td", {class: typeof value === "number" ? "number" : null}, typeof value === "number" ? number(value, 4) : value ?? "–");
  return h("div", {class: "scroll table", tabindex: "0", role: "region", "aria-label": "Table"},
    h("table", {}, h("thead", {}, h("tr", {}, columns.map((name) => h("th", {scope: "col"}, name)))), h("tbody", {}, shown.map((row) => h("tr", {}, row.map(cell))))),
    rows.length > MOST_ROWS && h("p", {class: "note"}, `The first ${MOST_ROWS} of ${rows.length.toLocaleString("en")} rows; the Python line gives all.`));
}

/** A table for a matrix: one row a line. */
export const matrixTable = (corner, rows, columns, values) => () => ({columns: [corner, ...columns], rows: rows.map((name, i) => [name, ...values[i]])});
