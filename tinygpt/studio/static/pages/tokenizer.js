// Tokenizer: how a text becomes tokens, merge by merge, and what the size of the vocabulary does.

import {call, callRun} from "../api.js";
import {bars} from "../bars.js";
import {choice, h, number, s, slider} from "../dom.js";
import {figure} from "../figure.js";
import {lines} from "../lines.js";
import {promptBox, promptOf} from "../parts.js";
import {get, getNumber, set} from "../state.js";
import {pieces} from "../tokens.js";
import {did} from "../tour.js";

const MARKS = "· space   ¶ new line   \\t tab   \\xNN one byte of a longer character, or a control character";

export default {
  about: "A model does not read letters. A tokenizer cuts the text into tokens: runs of bytes that were frequent in the training text became one piece, step by step, and everything else stays in small pieces. Try a rare name, a number, an emoji.",
  needs: "run",
  controls(root, context) {
    const box = promptBox(context, "Your text");
    box.addEventListener("input", () => did("typed", {text: promptOf(context)}));
    root.append(box);
  },
  view(root, context) {
    const own = piecesFigure(root), columns = h("div", {class: "columns"});
    root.append(columns);
    const built = treeFigure(columns), replay = replayFigure(columns), sweep = sweepFigure(root), beside = besideFigure(root, context);
    return async (model) => {
      if (model.step === null) throw new Error(`${model.run} has no checkpoint yet; the first comes within seconds of training.`);
      const text = promptOf(context);
      const reply = await call(model, "tokenize", {text});
      const at = Math.min(getNumber("piece", 0), reply.data.pieces.length - 1);
      own.draw(reply, at);
      await Promise.all([built.draw(model, reply.data.pieces[at]), replay.draw(model, text), beside.draw(model, text, reply), sweep.draw(model)]);
    };
  },
};

const facts = (pairs) => h("dl", {class: "facts"}, pairs.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));

// --- the pieces ------------------------------------------------------------------------------------------------------

function piecesFigure(root) {
  const element = figure(root, "Your text in pieces", "Each box is a token; the number below it is its id, all that the model is given. Pick one to see how it was built.");
  const list = h("div"), told = h("div"), drawing = h("div", {}, told, list, h("p", {class: "note marks"}, MARKS));
  element.draw = (reply, at) => {
    const {pieces: tokens, summary} = reply.data;
    told.replaceChildren(facts([["Characters", number(summary.characters)], ["Bytes", number(summary.bytes)], ["Tokens", number(summary.tokens)], ["Bytes per token", number(summary.bytes_per_token)]]));
    const focused = list.contains(document.activeElement);
    list.replaceChildren(tokens.length ? pieces(tokens, {picked: at, note: (i) => tokens[i].id, onpick: (i) => { set({piece: i}); did("piece", {index: i}); }}) : h("p", {class: "note"}, "No text, no tokens."));
    if (focused) list.querySelectorAll("button")[at]?.focus();
    element.show(reply, drawing, {columns: ["#", "piece", "id", "bytes (hex)", "from byte", "to byte", "part of", "merges"], rows: tokens.map((token, i) => [i, token.shown, token.id, token.bytes, token.start, token.end, token.part_of, token.merges.map((merge) => `${merge.rank}: ${merge.left} + ${merge.right}`).join(", ")])});
  };
  return element;
}

// --- one piece, as the tree of its merges ----------------------------------------------------------------------------

function treeFigure(root) {
  const element = figure(root, "How it was built", "Read it from below: bytes that stood beside each other most often became one. The number at a fork is the rank of that merge: 0 was learnt first.");
  const drawing = h("div");
  element.draw = async (model, piece) => {
    if (!piece) {
      element.rename("How it was built");
      element.show(null, drawing);
      drawing.replaceChildren(h("p", {class: "note"}, "Type something, then pick a piece."));
      return;
    }
    const reply = await call(model, "merge_tree", {token: piece.id});
    element.rename(`How “${piece.shown}” was built`);
    const cells = piece.bytes.match(/../g) ?? [];
    const facts = h("dl", {class: "detail-facts"}, h("dt", {}, "Id"), h("dd", {}, number(piece.id)), h("dt", {}, "Bytes"), h("dd", {}, cells.map((byte) => h("code", {class: "byte"}, byte))), h("dt", {}, "Stands at"), h("dd", {}, `bytes ${number(piece.start)} to ${number(piece.end)} of the text`), piece.part_of ? [h("dt", {}, "Part of"), h("dd", {}, `${piece.part_of}, which needs several tokens`)] : []);
    drawing.replaceChildren(facts, cells.length > 1 ? h("div", {class: "scroll", tabindex: "0", role: "region", "aria-label": "Tree of merges"}, tree(reply.data)) : h("p", {class: "note"}, "A single byte: no merge was needed. All 256 bytes are tokens, so no text is impossible."));
    element.show(reply, drawing, () => ({columns: ["rank", "left", "right", "gives", "id"], rows: merges(reply.data)}));
  };
  return element;
}

const merges = (node) => (node.left ? [...merges(node.left), ...merges(node.right), [node.rank, node.left.shown, node.right.shown, node.shown, node.id]] : []).sort((a, b) => a[0] - b[0]);
const depth = (node) => (node.left ? 1 + Math.max(depth(node.left), depth(node.right)) : 0);

function tree(root) {
  const STEP = 44, LEVEL = 52, TOP = 16, levels = depth(root);
  const svg = s("svg", {class: "merge-tree", role: "img", "aria-label": merges(root).map(([rank, left, right, gives]) => `merge ${rank}: ${left} and ${right} give ${gives}`).join("; ")});
  const edges = s("g"), nodes = s("g");
  let x = 0;
  const place = (node, level) => {
    const y = TOP + (node.left ? levels - depth(node) : levels) * LEVEL;
    let at;
    if (!node.left) at = (x += STEP) - STEP / 2;
    else {
      const ends = [place(node.left, level + 1), place(node.right, level + 1)];
      at = (ends[0].at + ends[1].at) / 2;
      for (const end of ends) edges.append(s("path", {class: "edge", d: `M${at} ${y + 13}C${at} ${y + 32} ${end.at} ${end.y - 32} ${end.at} ${end.y - 13}`}));
    }
    const width = Math.max(26, 9 * [...node.shown].length + 12);
    nodes.append(s("g", {}, s("rect", {x: at - width / 2, y: y - 13, width, height: 26, rx: 6, class: node.left ? "node" : "node leaf"}), s("text", {x: at, y: y + 4.5, class: "node-name"}, node.shown), node.left && s("text", {x: at + width / 2 + 5, y: y + 4, class: "tick"}, number(node.rank))));
    return {at, y};
  };
  place(root, 0);
  const width = Math.max(x + 90, 200), height = TOP + levels * LEVEL + 18;
  svg.setAttribute("viewBox", `-40 0 ${width} ${height}`);
  svg.setAttribute("width", width);
  svg.setAttribute("height", height);
  svg.append(edges, nodes);
  return svg;
}

// --- replay ----------------------------------------------------------------------------------------------------------

function replayFigure(root) {
  const element = figure(root, "Replay the merges", "Start from single bytes and apply what the tokenizer learnt, in its order. Two pieces that the next merge will join are framed.");
  const list = h("p", {class: "pieces replayed"}), told = h("p", {class: "next-merge", role: "status"}), drawing = h("div");
  let control = null, built = null, coming = null, steps = 0, came = null;
  const go = (upto) => { control?.set(upto); set({upto}); };
  const first = h("button", {type: "button", class: "small", onclick: () => go(0)}, "Bytes");
  const next = h("button", {type: "button", class: "small primary", onclick: () => coming && go(coming.rank + 1)}, "Next merge ▸");
  const last = h("button", {type: "button", class: "small", onclick: () => go(steps)}, "All merges");
  element.draw = async (model, text) => {
    const wanted = Math.max(0, Math.round(getNumber("upto", 0)));
    const ask = (upto) => call(model, "replay", {text, upto});
    let reply;
    if (built !== model.run) {
      reply = await ask(0);
      ({steps} = reply.data);
      control = slider("Merges applied", {min: 0, max: steps, value: Math.min(wanted, steps), change: (value) => set({upto: value})});
      control.classList.add("stretch");
      drawing.replaceChildren(control, h("div", {class: "row"}, first, next, last), told, list);
      built = model.run;
    }
    const upto = Math.min(wanted, steps);
    if (upto || !reply) reply = await ask(upto);
    const {pieces: now, count, next: after} = reply.data;
    coming = after;
    control.set(upto);
    next.disabled = !after;
    first.disabled = upto === 0;
    last.disabled = upto === steps;
    told.replaceChildren(...(after ? [`${number(count)} pieces. Next in this text: `, h("span", {class: "piece shade-0"}, after.left), " + ", h("span", {class: "piece shade-1"}, after.right), `, merge ${number(after.rank)} of ${number(steps)}.`] : [count ? `${number(count)} pieces, and no later merge changes this text: these are the tokenizer’s own tokens.` : "No text, no merges."]));
    const joins = new Set();
    for (let i = 0; after && i + 1 < now.length; i += 1) if (now[i].shown === after.left && now[i + 1].shown === after.right && !joins.has(i)) { joins.add(i); joins.add(i + 1); }
    list.replaceChildren(...now.slice(0, 400).map((piece, i) => h("span", {class: `piece shade-${i % 4}${joins.has(i) ? " joins" : ""}`, title: `id ${piece.id}, bytes ${piece.start} to ${piece.end}`}, piece.shown)), now.length > 400 ? h("span", {class: "note"}, `… ${now.length - 400} more`) : "");
    element.show(reply, drawing, {columns: ["piece", "id", "bytes (hex)", "from byte", "to byte"], rows: now.map((piece) => [piece.shown, piece.id, piece.bytes, piece.start, piece.end])});
    const deed = {upto, merged: now.some((piece) => piece.bytes.length > 2)};
    if (came && came.upto !== upto) did("replay", came); // from where the slider comes
    did("replay", deed);
    came = deed;
  };
  return element;
}

// --- the size of the vocabulary --------------------------------------------------------------------------------------

function sweepFigure(root) {
  const element = figure(root, "A larger vocabulary", "Tokenizers of several sizes, learnt from this run’s training text and measured on its held-out text. More tokens make each worth more bytes, so that the same context holds more text; but every token needs its own rows in the model, and gains shrink.");
  const curve = lines({label: "Bytes per token by size of the vocabulary", xName: "vocabulary", yName: "bytes per token", onpick: ({x}) => choose(x)}), told = h("p", {role: "status"}), list = h("p", {class: "pieces replayed"});
  const drawing = h("div");
  let built = null, reply = null, control = null, rows = [], own = null;
  const choose = (size) => { const i = rows.findIndex((row) => row.vocab_size === size); if (i >= 0) { control.set(i); set({size}); did("vocabulary", {size}); } };
  element.draw = async (model) => {
    own = model.info.vocab_size;
    if (built !== model.run) {
      if (!reply) element.show(null, h("p", {class: "loading"}, "Learning six tokenizers …"));
      reply = await callRun(model.run, "vocab_sweep");
      rows = reply.data.rows.filter((row, i, all) => !i || row.vocab_size !== all[i - 1].vocab_size);
      control = slider("Vocabulary", {min: 0, max: rows.length - 1, value: place(), show: (i) => number(rows[i].vocab_size), change: (i) => { set({size: rows[i].vocab_size}); did("vocabulary", {size: rows[i].vocab_size}); }});
      control.classList.add("stretch");
      drawing.replaceChildren(control, told, list, curve);
      built = model.run;
    }
    const row = rows[place()];
    told.textContent = `With ${number(row.vocab_size)} tokens: ${number(row.bytes_per_token)} bytes per token, so the held-out text has ${number(row.tokens)} tokens. ${row.vocab_size === 259 ? "That is no merge at all: 256 bytes and 3 marks." : ""} It begins:`;
    list.replaceChildren(...row.pieces_example.map((piece, i) => h("span", {class: `piece shade-${i % 4}`}, piece)));
    const series = [{name: "this text", points: rows.map((one) => [one.vocab_size, one.bytes_per_token])}];
    element.show(reply, drawing, {columns: ["vocabulary", "bytes per token", "tokens of the held-out text"], rows: rows.map((one) => [one.vocab_size, one.bytes_per_token, one.tokens])});
    curve.update({series, logX: true, ticksX: rows.map((one) => one.vocab_size), cursor: row.vocab_size});
    element.rename(`A larger vocabulary (this run has ${number(own)})`);
  };
  const place = () => { const i = rows.findIndex((row) => row.vocab_size === getNumber("size")); return i >= 0 ? i : Math.max(0, rows.findIndex((row) => row.vocab_size === own)); };
  return element;
}

// --- two tokenizers --------------------------------------------------------------------------------------------------

function besideFigure(root, context) {
  const title = h("h2", {}, "Two tokenizers side by side"), pick = h("div", {class: "controls"}), columns = h("div", {class: "columns"});
  const section = h("section", {}, title, pick, columns);
  root.append(section);
  const sides = [figure(columns, ""), figure(columns, "")];
  const cost = figure(section, "What the text costs, per token and per byte", "Nats per token depend on how long the tokens are; bits per byte do not. Only the second compares two tokenizers.");
  let built = null;

  const otherOf = (model) => {
    const others = context.runs.filter((run) => run.name !== model.run && run.steps.length);
    return others.find((run) => run.name === get("beside")) ?? others.find((run) => run.vocab_size !== model.info.vocab_size) ?? others[0] ?? null;
  };
  const stepOf = (run) => run.steps.find((entry) => entry.best)?.step ?? run.steps.at(-1).step;

  return {async draw(model, text, tokenized) {
    const other = otherOf(model);
    title.hidden = pick.hidden = columns.hidden = !other || !text;
    if (other && built !== model.run + other.name) {
      built = model.run + other.name;
      if (!pick.contains(document.activeElement)) pick.replaceChildren(choice("Beside this run", context.runs.filter((run) => run.name !== model.run && run.steps.length).map((run) => [run.name, `${run.name} (${number(run.vocab_size)} tokens)`]), other.name, (name) => set({beside: name})));
    }
    const models = [model, other && {run: other.name, step: stepOf(other)}].filter(Boolean);
    const [second, ...prices] = await Promise.all([other && call(models[1], "tokenize", {text}), ...(text ? models.map((one) => call(one, "surprisal", {text})) : [])]);
    [tokenized, second].forEach((reply, i) => {
      if (!reply) return;
      const {pieces: tokens, summary, vocab_size: size} = reply.data;
      sides[i].rename(`${models[i].run}: ${number(summary.tokens)} tokens`);
      sides[i].show(reply, h("div", {}, h("p", {class: "note"}, `Vocabulary ${number(size)}, ${number(summary.bytes_per_token)} bytes per token.`), pieces(tokens, {label: `Tokens of ${models[i].run}`, limit: 300})), {columns: ["piece", "id"], rows: tokens.map((token) => [token.shown, token.id])});
    });
    cost.hidden = !prices.length;
    if (!prices.length) return;
    const names = models.map((one) => `${one.run}@${one.step}`);
    const told = (i) => prices[i].data;
    const group = (words, field, digits) => h("div", {}, h("h4", {}, words), bars(names.map((name, i) => ({name, value: told(i)[field]})), {format: (value) => number(value, digits)}));
    cost.show({...prices[0], truncated: prices.find((reply) => reply.truncated)?.truncated, python: prices.map((reply) => reply.python).join("\n")}, h("div", {}, h("p", {}, sentence(names, prices.map((reply) => reply.data))), h("div", {class: "columns"}, group("Nats per token: misleads", "nats_per_token", 3), group("Bits per byte: compares", "bits_per_byte", 3))),
      {columns: ["model", "tokens", "bytes", "nats in all", "nats per token", "bits per byte"], rows: names.map((name, i) => [name, told(i).scored, told(i).bytes, told(i).nats, told(i).nats_per_token, told(i).bits_per_byte])});
  }};
}

/** Why loss per token misleads, with the numbers of this text. */
function sentence(names, [one, two]) {
  const pays = (name, data) => `${name} pays ${number(data.nats_per_token)} nats for each of ${number(data.scored)} tokens`;
  if (!two) return `${pays(names[0], one)}: ${number(one.nats)} nats for ${number(one.bytes)} bytes, which is ${number(one.bits_per_byte)} bits per byte. A tokenizer with shorter pieces would pay less for each, but for more of them; the bytes stay the same.`;
  const [token, byte] = [one.nats_per_token < two.nats_per_token ? 0 : 1, one.bits_per_byte < two.bits_per_byte ? 0 : 1];
  const verdict = token === byte
    ? `${names[byte]} is the better one for this text by both, but only the second figure can say by how much: the tokens are not of the same length.`
    : `By loss per token ${names[token]} looks better, only because it cuts the text into more and shorter pieces. For the same ${number(one.bytes)} bytes ${names[byte]} pays less.`;
  return `${pays(names[0], one)}, ${pays(names[1], two)}. In all that is ${number(one.nats)} and ${number(two.nats)} nats, or ${number(one.bits_per_byte)} and ${number(two.bits_per_byte)} bits per byte. ${verdict}`;
}
