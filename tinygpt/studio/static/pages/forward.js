import {bars} from "../bars.js";
import {choice, h, number, s} from "../dom.js";
import {figure, matrixTable} from "../figure.js";
import {heatmap, legend} from "../heatmap.js";
import {atMost, memory} from "../memory.js";
import {fixedScale} from "../scale.js";
import {positionOf, promptBox, promptOf, quoted} from "../parts.js";
import {get, getJson, getNumber, set} from "../state.js";
import {pieces} from "../tokens.js";

const EXPLAIN_MS = 150; // between two questions while the cursor moves
const TERMS = 14; // bars of one cell; the table has all
const REASONS = {
  embedding: "The token's row of the embedding table: what is known of it before any context.",
  stream: "What enters the first block: the embedding, plus the position's vector where positions are learned. All later parts read this stream and add to it.",
  input_norm: "The stream brought to a common size, so that attention reads directions, not lengths.",
  query: "What each position asks for, one short vector a head.",
  key: "What each position offers to those that ask, one short vector a head.",
  value: "What a position hands over to those that look at it.",
  scores: "Query times key for every pair of positions, divided by √K: how well they fit.",
  masked: "The scores without the pairs that would look ahead.",
  pattern: "The weights of each look: softmax of the masked scores; every row adds up to 1.",
  heads: "What all heads fetched, side by side: values, weighted by the pattern.",
  attention: "The heads' findings, mixed by one matrix back to the stream's width: this is added to the stream.",
  hidden: "The feed-forward's inner channels, after the bend that lets some numbers pass and not others.",
  feed_forward: "What the feed-forward computed from this position alone: this is added to the stream.",
  block: "The stream after the block: what stood there, plus what attention and feed-forward added.",
  final_norm: "The stream brought to a common size one last time.",
  logits: "One score for each token of the vocabulary; softmax makes them the probabilities of the next token.",
};
const LETTERS = {query: "H·K", key: "G·K", value: "G·K", heads: "H·K", hidden: "F", logits: "V"};
const LOOKED = ["scores", "masked", "pattern"];

const kindOf = (name) => (name.startsWith("block.") ? name.split(".")[2] ?? "block" : name);
const groupOf = (name) => (name.startsWith("block.") ? Number(name.split(".")[1]) : name === "final_norm" || name === "logits" ? "output" : "input");

/** The stream as a river: what is added flows in from both banks, as wide as it is long (as a vector). */
function river(onpick) {
  const svg = s("svg", {class: "river", role: "img"}), holder = h("div", {class: "scroll", tabindex: "0", role: "region", "aria-label": "The stream as a river"}, svg);

  holder.update = ({added, total, parts, learned, picked, label, most}) => {
    const start = learned ? 2 : 1, blocks = (parts.length - start) / 2;
    const wide = (x) => Math.max(1, (x / most) * 64);
    const step = Math.max(46, 740 / (2 * blocks)), left = 96, middle = 128, width = left + 2 * blocks * step + 84;
    const children = [s("title", {}, label)];
    const at = (i) => left + i * step; // the place where part i has flowed in; 0: the start
    for (let i = 0; i < 2 * blocks; i += 1) { // the bed between two places
      const a = wide(total[i]), b = wide(total[i + 1]), x0 = at(i), x1 = at(i + 1), mid = (x0 + x1) / 2;
      children.push(s("path", {class: "water", d: `M${x0} ${middle - a / 2}C${mid} ${middle - a / 2} ${mid} ${middle - b / 2} ${x1} ${middle - b / 2}L${x1} ${middle + b / 2}C${mid} ${middle + b / 2} ${mid} ${middle + a / 2} ${x0} ${middle + a / 2}Z`}));
    }
    const first = wide(total[0]), last = wide(total[2 * blocks]);
    children.push(s("rect", {class: "water", x: 14, y: middle - first / 2, width: left - 14, height: first}), s("path", {class: "water", d: `M${at(2 * blocks)} ${middle - last / 2}h44l16 ${last / 2}l-16 ${last / 2}h-44Z`}));
    children.push(s("text", {class: "tick", x: 14, y: middle - first / 2 - 19}, learned ? "token + position" : "embedding"), s("text", {class: "tick name", x: 14, y: middle - first / 2 - 5}, number(total[0])));
    parts.slice(start).forEach((name, k) => {
      const i = Math.floor(k / 2), up = k % 2 === 0, size = wide(added[start + k]), x = at(k + 1) - 30, edge = up ? 30 : 226;
      const bank = middle + (up ? -1 : 1) * Math.min(wide(total[k]), wide(total[k + 1])) / 2 * 0.6;
      const id = up ? `block.${i}.attention` : `block.${i}.feed_forward`;
      const path = `M${x - 26} ${edge}C${x - 26} ${(edge + bank) / 2} ${x + 4} ${(edge + bank) / 2} ${x + 16} ${bank}`;
      children.push(s("g", {class: `inflow ${up ? "attention" : "feed"}${picked === id ? " picked" : ""}`, onclick: () => onpick(id)},
        s("path", {d: path, style: {"stroke-width": `${size}px`}}), s("title", {}, `${name} adds a vector of length ${number(added[start + k])}`),
        s("text", {class: "tick middle", x: x - 22, y: up ? edge - 15 : edge + 16}, up ? `attention ${i}` : `feed-fwd ${i}`), s("text", {class: "tick name middle", x: x - 22, y: up ? edge - 3 : edge + 29}, number(added[start + k]))));
    });
    children.push(s("text", {class: "tick name", x: at(2 * blocks) + 30, y: middle - last / 2 - 6}, number(total[2 * blocks])));
    svg.setAttribute("width", width);
    svg.setAttribute("height", 262);
    svg.setAttribute("viewBox", `0 0 ${width} 262`);
    svg.setAttribute("aria-label", label);
    svg.replaceChildren(...children);
  };
  return holder;
}

export default {
  about: "A prompt goes through the model as one vector per token, the residual stream. Each block adds two things to it: what attention fetched from earlier tokens, and what the feed-forward computed. Nothing is hidden: choose any tensor below, point at a number, and see the sum that made it.",
  needs: "model",

  controls(root, context) {
    root.append(promptBox(context));
  },

  view(root, context) {
    const ask = memory(), row = h("div", {class: "positions"});
    root.append(row);
    const flow = figure(root, "The stream is a sum", "From left to right, at the chosen token. Width is the length of the vector: inflows from above are attention, from below feed-forward. Vectors may point in different directions, so lengths do not simply add up. Click an inflow to see its numbers.");
    const sum = figure(root, "The same sum, number by number", "One row for each thing that is added, one column for each channel. Walk down a column: its cells add up to the last one.");
    const tensors = figure(root, "Every tensor has a shape and a reason", "Choose a place in the model, then one of its tensors.");
    const picture = figure(root, "", "");
    const cell = figure(root, "One number, and the sum behind it", "Point at a cell of the picture above, or walk with the arrow keys: here is how it was computed.");

    const stream = river((name) => set({name, cell: null})), parts = heatmap({label: "What was added to the stream"}), partsKey = h("div");
    const places = h("div", {class: "row tight", role: "group", "aria-label": "Place in the model"}), list = h("ul", {class: "tensors"});
    let at = null;
    const map = heatmap({label: "Values", onmove: (i, j) => point(i, j), onpick: (i, j) => { point(i, j); set({cell: at.index(i, j)}); }}), mapKey = h("div"), heads = h("div", {class: "row"});

    const explain = atMost(EXPLAIN_MS, async (model, prompt, name, index) => {
      try {
        const reply = await ask(model, "explain", {prompt, name, index});
        if (at && (at.name !== name || at.prompt !== prompt)) return; // another picture stands there
        showCell(reply);
      } catch (error) {
        cell.fail(error);
      }
    });

    function point(i, j) {
      explain(at.model, at.prompt, at.name, at.index(i, j));
    }

    function showCell(reply) {
      const {name, index, value, formula, terms, bias, sum: total} = reply.data;
      const shown = terms.slice(0, TERMS), single = terms.length === 1;
      const rows = shown.map((term) => ({name: term.label.replace(/^block\.\d+\./, ""), value: term.product, note: term.a === null ? "" : `${number(term.a)} × ${number(term.b)}`}));
      cell.rename(`${name}[${index.join(", ")}] = ${value === null ? "hidden" : number(value, 5)}`);
      cell.show(reply, h("div", {class: "cell-sum"}, h("p", {class: "formula"}, formula),
        h("p", {class: "note"}, single ? "One product." : `${terms.length} products${bias ? ` and the bias ${number(bias)}` : ""} add up to ${number(total, 5)}${terms.length > TERMS ? `; the ${TERMS} largest are drawn, the table has the others` : ""}. Each bar: a × b.`), bars(rows, {format: (x) => number(x)})),
      () => ({columns: ["term", "a", "b", "a × b"], rows: terms.map((term) => [term.label, term.a, term.b, term.product])}));
    }

    return async (model) => {
      const {info} = model, prompt = promptOf(context), L = info.n_layers;
      const known = (name) => /^(embedding|stream|final_norm|logits)$/.test(name) || (/^block\.\d+(\.\w+)?$/.test(name) && groupOf(name) < L);
      const name = known(get("name")) ? get("name") : "block.0.attention", looked = LOOKED.includes(kindOf(name)), head = Math.min(getNumber("head", 0), info.n_heads - 1);
      const given = {prompt, names: [name]}, whole = await ask(model, "forward", {...given, stream_at: getNumber("position", -1)}).catch((error) => {
        if (get("position") === "") throw error;
        return ask(model, "forward", {...given, stream_at: -1}); // the prompt became shorter than the position
      });
      const {tokens, added, total, stream_parts: labels, stages, names} = whole.data, position = positionOf(tokens), shown = tokens.map((token) => token.shown);
      const learned = labels.includes("positions"), after = whole.data.norm_place === "after";
      row.replaceChildren(pieces(tokens, {picked: position, onpick: (i) => set({position: i}), label: "Choose a token"}));

      const column = (matrix) => matrix.map((line) => line[position]);
      flow.rename(`The stream at ${quoted(tokens[position])} is a sum`);
      stream.update({most: fixedScale(`river ${model.run}`, [column(added), column(total)], false), added: column(added), total: column(total), parts: labels, learned, picked: name, label: `Stream at ${tokens[position].shown}: ${labels.map((part, i) => `${part} ${number(added[i][position])}`).join(", ")}; in the end ${number(total.at(-1)[position])}.`});
      flow.show({...whole, truncated: null}, stream, () => ({columns: ["added", "length of the vector"], rows: [...labels.map((part, i) => [part, added[i][position]]), ...stages.map((stage, i) => [`stream after ${stage}`, total[i][position]])]}));

      const lines = [...whole.data.added_at, whole.data.stream_at];
      const lineNames = [...labels.map((label, i) => (i ? "+ " : "") + label.replace(/^block (\d+) (attention|feed-)(forward)?$/, (_, block, part) => `${part === "feed-" ? "feed-fwd" : part} ${block}`)), "= the stream"];
      const channels = lines[0].map((_, j) => String(j)), most = fixedScale(`sum ${model.run}`, lines);
      parts.update({rows: lineNames, columns: channels, values: lines, max: most, height: 20, cell: 14, rowName: "what is added", columnName: "channel",
        say: (i, j) => `Channel ${j}: ${lines.map((line, k) => `${k === lines.length - 1 ? (after ? "; in the end " : " = ") : k && line[j] >= 0 ? " + " : k ? " − " : ""}${k === i ? "[" : ""}${number(k && k < lines.length - 1 ? Math.abs(line[j]) : line[j])}${k === i ? "]" : ""}`).join("")}`});
      if (partsKey.dataset.most !== String(most)) { partsKey.dataset.most = most; partsKey.replaceChildren(legend("0", number(most), true)); }
      sum.show({...whole, truncated: null}, sum.holder ??= h("div", {}, parts, partsKey, h("p", {class: "note"})), matrixTable("added", lineNames, channels, lines));
      sum.holder.lastChild.textContent = after ? "This model normalises the stream after each addition, so the last row is not the plain sum: every stage was brought to a common size." : "";

      showTensors(whole, names, name);

      const values = looked ? whole.data[name][head] : whole.data[name], first = looked ? 0 : whole.data.first_position ?? 0, entry = names.find((one) => one.name === name);
      const columns = looked ? shown : values[0].map((_, j) => String(j)), max = kindOf(name) === "pattern" ? 1 : fixedScale(`${name} ${model.run}`, values);
      at = {model, prompt, name, index: (i, j) => (looked ? [head, i, j] : [i + first, j])};
      const chosen = getJson("cell", null), valid = Array.isArray(chosen) && chosen.length === (looked ? 3 : 2);
      const cursor = valid ? [chosen.at(-2) - first, chosen.at(-1)] : null;
      const inside = cursor && cursor[0] >= 0 && cursor[0] < values.length && cursor[1] >= 0 && cursor[1] < columns.length;
      picture.rename(`${name}${looked ? `, head ${head}` : ""}: ${entry.shape.join(" × ")}`);
      heads.replaceChildren(...(looked ? [choice("Head", Array.from({length: info.n_heads}, (_, i) => [String(i), String(i)]), String(head), (value) => set({head: value, cell: null}))] : []));
      map.update({rows: shown.slice(first), columns, values, max, height: looked ? null : values.length > 40 ? 12 : 18, cell: looked ? 26 : 12, ring: looked ? null : [position - first, null], rowName: looked ? "the token that looks" : "token", columnName: looked ? "the token looked at" : "channel",
        ...(inside ? {cursor} : {}), say: (i, j) => `${looked ? `“${shown[i]}” at “${shown[j]}”` : `“${shown[i + first]}”, channel ${j}`}: ${values[i][j] === null ? "hidden, it comes later" : number(values[i][j], 4)}`});
      if (mapKey.dataset.max !== `${max}${name}`) { mapKey.dataset.max = `${max}${name}`; mapKey.replaceChildren(legend("0", number(max), kindOf(name) !== "pattern")); }
      picture.show(whole, picture.holder ??= h("div", {class: "tall"}, heads, map, mapKey), matrixTable("token", shown.slice(first), columns, values));
      const seen = `${name} ${position} ${tokens.length}`; // the chosen token's row, where the picture is taller than its frame
      if (map.dataset.seen !== seen) {
        map.dataset.seen = seen;
        requestAnimationFrame(() => map.reveal(inside ? cursor[0] : position - first, inside ? cursor[1] : 0));
      }
      const index = inside ? chosen : looked ? [head, position, Math.max(0, position - 1)] : [position, 0];
      explain(model, prompt, name, index);
    };

    function showTensors(whole, names, name) {
      const group = get("place") === "" ? String(groupOf(name)) : get("place"), layers = Math.max(...names.map((entry) => (typeof groupOf(entry.name) === "number" ? groupOf(entry.name) + 1 : 0)));
      const groups = ["input", ...Array.from({length: layers}, (_, i) => String(i)), "output"], open = groups.includes(group) ? group : String(groupOf(name));
      const order = Object.keys(REASONS), shown = names.filter((entry) => String(groupOf(entry.name)) === open).sort((a, b) => order.indexOf(kindOf(a.name)) - order.indexOf(kindOf(b.name)));
      const key = JSON.stringify([open, name, shown.map((entry) => [entry.shape, entry.norm])]);
      if (list.dataset.key !== key) {
        list.dataset.key = key;
        const held = document.activeElement?.dataset?.tensor, heldPlace = document.activeElement?.dataset?.place;
        places.replaceChildren(...groups.map((id) => h("button", {type: "button", class: "small", "data-place": id, "aria-pressed": String(id === open), onclick: () => set({place: id})}, /\d/.test(id) ? `Block ${id}` : id === "input" ? "Input" : "Output")));
        list.replaceChildren(...shown.map((entry) => h("li", {}, h("button", {type: "button", class: `tensor${entry.name === name ? " picked" : ""}`, "data-tensor": entry.name, "aria-pressed": String(entry.name === name), onclick: () => set({name: entry.name, cell: null, place: open})},
          h("span", {class: "tensor-name"}, entry.name), h("span", {class: "tensor-shape"}, `${LOOKED.includes(kindOf(entry.name)) ? "H × T × T" : `T × ${LETTERS[kindOf(entry.name)] ?? "C"}`} = ${entry.shape.join(" × ")}`), h("span", {class: "tensor-reason"}, REASONS[kindOf(entry.name)] ?? "")))));
        if (held && list.isConnected) list.querySelector(`[data-tensor="${held}"]`)?.focus({preventScroll: true});
        if (heldPlace && places.isConnected) places.querySelector(`[data-place="${heldPlace}"]`)?.focus({preventScroll: true});
      }
      tensors.show({...whole, truncated: null}, tensors.holder ??= h("div", {}, places, list, h("p", {class: "note"}, "T positions, C channels of the stream, H heads of K channels (G of them with own keys and values), F inner channels of the feed-forward, V tokens of the vocabulary.")), () => ({columns: ["tensor", "shape", "mean length of a position's vector"], rows: names.map((entry) => [entry.name, entry.shape.join(" × "), entry.norm])}));
    }
  },
};
