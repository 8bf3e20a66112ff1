import {arcs} from "../arcs.js";
import {bars, barsTable} from "../bars.js";
import {colour, onColour, pixel} from "../colour.js";
import {announce, choice, h, number, percent, slider, toggle} from "../dom.js";
import {figure, matrixTable} from "../figure.js";
import {heatmap, legend} from "../heatmap.js";
import {memory} from "../memory.js";
import {fixedScale} from "../scale.js";
import {positionOf, promptBox, promptOf, quoted} from "../parts.js";
import {get, getJson, getNumber, listen, set} from "../state.js";
import {did} from "../tour.js";

const STAGES = {
  scores: ["1  Scores", "How well each token's question (query) fits each token's offer (key): their dot product, divided by √K. Hatched cells are below zero."],
  masked: ["2  Mask", "A token must not see what comes after it: those places are struck out (empty cells) before anything is weighed."],
  pattern: ["3  Softmax", "exp(score), divided by the sum of its row: weights from 0 to 1, and every row adds up to 1. This is what the head fetches by."],
};
const MOVED_FULL = 2; // nats that are drawn in full colour
const LABELS_AFTER = 250; // ms that a checkpoint must rest before its labels are asked

// --- what is changed in the model: a list of edits in the address, as the API takes them -----------------------------

const headName = (layer, head) => `${layer}.${head}`;
const chosen = (info) => ({layer: Math.min(getNumber("layer", 0), info.n_layers - 1), head: Math.min(getNumber("head", 0), info.n_heads - 1)});
const editsOf = () => { const edits = getJson("edits", []); return Array.isArray(edits) ? edits : []; };
const setEdits = (edits) => set({edits: edits.length ? edits : null});

/** The layer and head that a change of the scores is made in. */
function reach(info) {
  const {layer, head} = chosen(info);
  return {all: {}, layer: {layer}, head: {layer, index: head}}[get("reach", "all")] ?? {};
}

const samePlace = (edit, place) => (edit.layer ?? null) === (place.layer ?? null) && (edit.index ?? null) === (place.index ?? null);
const find = (op, place) => editsOf().find((edit) => edit.op === op && edit.part === "scores" && samePlace(edit, place));
const without = (op, place) => editsOf().filter((edit) => !(edit.op === op && edit.part === "scores" && samePlace(edit, place)));
const ofHead = ({layer, head}) => editsOf().find((edit) => edit.part === "head" && edit.layer === layer && edit.index === head);

function inWords(edit) {
  const where = edit.index !== undefined && edit.index !== null ? `head ${headName(edit.layer, edit.index)}` : edit.layer !== undefined && edit.layer !== null ? `all heads of layer ${edit.layer}` : "every head";
  return {
    zero: `head ${headName(edit.layer, edit.index)} silenced (zero)`, mean: `head ${headName(edit.layer, edit.index)} says its average`,
    mask_off: `no mask in ${where}`, scale_off: `no division by √K in ${where}`, temperature: `softmax temperature ${number(edit.value)} in ${where}`,
    freeze_pattern: `patterns of ${where} frozen at “${(edit.prompt ?? "").slice(-24)}”`,
  }[edit.op] ?? edit.op;
}

function changes(context) {
  const info = () => context.run;
  const score = (op, on, more = {}) => {
    const place = reach(info());
    setEdits([...without(op, place), ...(on ? [{part: "scores", op, ...place, ...more}] : [])]);
  };
  const where = choice("In", [["all", "every head"], ["layer", "all heads of the chosen layer"], ["head", "the chosen head only"]], get("reach", "all"), (value) => set({reach: value === "all" ? null : value}));
  const mask = toggle("Mask off", false, (on) => { score("mask_off", on); if (on) did("mask_off"); });
  const scale = toggle("No division by √K", false, (on) => score("scale_off", on));
  const heat = slider("Softmax temperature", {min: -3, max: 3, step: 0.25, value: 0, show: (x) => number(2 ** x, 2), change: (x) => score("temperature", x !== 0, {value: 2 ** x})});
  const freeze = toggle("Freeze patterns at this prompt", false, (on) => score("freeze_pattern", on, {prompt: promptOf(context)}));
  const name = h("span", {class: "control-name"}), ways = [["", "as computed"], ["zero", "zero"], ["mean", "its average"]];
  const buttons = ways.map(([op, words]) => h("button", {type: "button", class: "small", onclick: () => {
    const {layer, head} = chosen(info());
    setEdits([...editsOf().filter((edit) => !(edit.part === "head" && edit.layer === layer && edit.index === head)), ...(op ? [{part: "head", op, layer, index: head}] : [])]);
    if (op === "zero" && context.labels) {
      const previous = (entry) => entry.scores.previous, most = Math.max(...[...context.labels.values()].map(previous));
      did("ablate", {layer, head, best: previous(context.labels.get(headName(layer, head))) === most});
    }
  }}, words));
  const list = h("p", {class: "row edits"});
  const sync = () => {
    if (!info()) return;
    const place = reach(info()), at = chosen(info()), own = ofHead(at);
    mask.set(Boolean(find("mask_off", place)));
    scale.set(Boolean(find("scale_off", place)));
    freeze.set(Boolean(find("freeze_pattern", place)));
    heat.set(Math.log2(find("temperature", place)?.value ?? 1));
    name.textContent = `Head ${headName(at.layer, at.head)} says`;
    buttons.forEach((button, i) => button.setAttribute("aria-pressed", String((own?.op ?? "") === ways[i][0])));
    const edits = editsOf(), text = JSON.stringify(edits);
    if (list.dataset.edits === text) return;
    list.dataset.edits = text;
    list.replaceChildren(...edits.map((edit, i) => h("button", {type: "button", class: "small chip", title: "Take this change back", onclick: () => setEdits(editsOf().filter((_, j) => j !== i))}, inWords(edit), h("span", {"aria-hidden": "true"}, " ×"), h("span", {class: "unseen"}, ": take it back"))),
      ...(edits.length > 1 ? [h("button", {type: "button", class: "small", onclick: () => setEdits([])}, "Take all back")] : []));
    list.hidden = !edits.length;
  };
  context.ended.push(listen(sync));
  sync();
  return h("fieldset", {class: "wide changes"}, h("legend", {}, "Change the model while it reads"),
    h("div", {class: "row"}, where, mask, scale, heat, freeze), h("div", {class: "row"}, name, h("span", {class: "row tight", role: "group", "aria-label": "What the chosen head says"}, buttons), h("span", {class: "note"}, "Choose another head among the small pictures.")), list);
}

// --- the pictures ----------------------------------------------------------------------------------------------------

/** All heads as small pictures; arrow keys move the choice. */
function thumbnails() {
  const grid = h("div", {class: "thumbs", role: "group", "aria-label": "Heads: rows are layers. Arrow keys choose one."});
  let shape = "", cells = [];

  grid.update = ({layers, heads, pattern, at, edits, labels}) => {
    if (shape !== `${layers}x${heads}`) build(layers, heads);
    for (const cell of cells) {
      const {layer, head, canvas, button, name} = cell, rows = pattern[layer][head], picked = layer === at.layer && head === at.head;
      const edited = edits.find((edit) => edit.part === "head" && edit.layer === layer && edit.index === head);
      draw(canvas, rows);
      button.setAttribute("aria-pressed", String(picked));
      button.tabIndex = picked ? 0 : -1;
      button.classList.toggle("silenced", Boolean(edited));
      name.textContent = headName(layer, head) + (edited ? ` ${edited.op}` : "");
    }
    grid.label(labels);
  };

  grid.label = (labels) => {
    for (const {layer, head, label, button} of cells) {
      const known = labels?.get(headName(layer, head));
      const words = known ? `${known.label}\n${known.score.toFixed(2)}` : "…\n";
      if (label.textContent !== words) label.textContent = words;
      label.classList.toggle("mixed", !known || known.label === "mixed");
      button.title = known ? `${known.label}: ${number(known.score)} (at step 0: ${number(known.at_start)})` : "";
    }
  };

  function build(layers, heads) {
    shape = `${layers}x${heads}`;
    grid.style.setProperty("--heads", heads);
    cells = Array.from({length: layers * heads}, (_, i) => {
      const layer = Math.floor(i / heads), head = i % heads;
      const canvas = h("canvas", {width: 1, height: 1, "aria-hidden": "true"}), name = h("span", {class: "thumb-name"}), label = h("span", {class: "thumb-label"});
      const button = h("button", {type: "button", class: "thumb", onclick: () => pick(layer, head), onkeydown: (event) => {
        const way = {ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowUp: [-1, 0], ArrowDown: [1, 0]}[event.key];
        if (!way) return;
        event.preventDefault();
        const to = [layer + way[0], head + way[1]];
        if (to[0] < 0 || to[1] < 0 || to[0] >= layers || to[1] >= heads) return;
        pick(...to);
        cells[to[0] * heads + to[1]].button.focus();
      }}, canvas, name, label);
      return {layer, head, canvas, button, name, label};
    });
    grid.replaceChildren(...cells.map((cell) => cell.button));
  }

  const pick = (layer, head) => set({layer, head});

  function draw(canvas, rows) {
    const n = rows.length;
    if (canvas.width !== n) canvas.width = canvas.height = n;
    const pen = canvas.getContext("2d"), data = pen.createImageData(n, n), pixels = new Uint32Array(data.data.buffer);
    for (let i = 0; i < n; i += 1) for (let j = 0; j < n; j += 1) pixels[i * n + j] = pixel(rows[i][j]);
    pen.putImageData(data, 0, 0);
  }
  return grid;
}

const still = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

/** Let the present picture fade out over the one that is drawn next. */
function fade(map) {
  const canvas = map.querySelector("canvas");
  if (still() || !canvas.width) return;
  const ghost = h("canvas", {class: "ghost", "aria-hidden": "true", width: canvas.width, height: canvas.height, style: {width: canvas.style.width, height: canvas.style.height}});
  ghost.getContext("2d").drawImage(canvas, 0, 0);
  canvas.parentElement.append(ghost);
  requestAnimationFrame(() => requestAnimationFrame(() => ghost.classList.add("gone")));
  setTimeout(() => ghost.remove(), 600);
}

/** What the model expects after each token, with and without the changes. */
function predictions(reply, moved) {
  const {tokens, predicted_before: before, predicted_after: after, moved: nats} = reply.data;
  const line = (words, entry, kind) => h("span", {class: `expect ${kind}`}, h("span", {class: "unseen"}, `${words}: `), entry.shown, h("span", {class: "expect-share"}, ` ${percent(entry.probability)}`));
  return h("ol", {class: "expected", tabindex: "0", "aria-label": "What is expected after each token"}, tokens.map((token, i) => h("li", {class: moved.has(i) ? "shifted" : null},
    h("span", {class: "expect-token", style: {background: colour(nats[i] / MOVED_FULL), color: onColour(nats[i] / MOVED_FULL)}, title: `moved by ${number(nats[i])} nats`}, token.shown),
    line("as trained", before[i], "trained"), line("changed", after[i], "changed"), moved.has(i) && h("span", {class: "expect-was"}, `was ${moved.get(i).shown} ${percent(moved.get(i).probability)}`))));
}

/** Positions before the first token that differs, and those among them whose prediction differs, with what it was. */
function earlier(last, reply, field) {
  const a = last.data.tokens, b = reply.data.tokens;
  let same = 0;
  while (same < a.length && same < b.length && a[same].id === b[same].id) same += 1;
  const moved = new Map();
  for (let i = 0; i < same; i += 1) {
    const was = last.data[field][i], is = reply.data[field][i];
    if (was.id !== is.id || Math.abs(was.probability - is.probability) > 1e-5) moved.set(i, was); // beyond rounding
  }
  return {same, moved};
}

export default {
  about: "When the model reads a token, every head looks at the tokens so far and fetches something from those that fit. Here you see where each one looks, by what name the numbers call it, and what happens to the answer when you stop it. In small models most heads are mixed; the others mostly look at the token before.",
  needs: "model",

  controls(root, context) {
    root.append(promptBox(context), changes(context));
  },

  view(root, context) {
    const ask = memory(), side = h("div", {class: "beside"}), main = h("div");
    const looking = figure(root, "Where it looks", "Choose a token: the arcs go to the tokens it looks at, the thicker the more. Below each stands its share; a row adds up to 100 %.");
    const effect = figure(root, "What your changes do"), loss = figure(root, "Held-out loss", "Nats per token on 32 windows of text that was kept out of training; lower is better. This tells whether a change matters beyond your prompt.");
    root.append(h("div", {class: "attention-holder"}, h("div", {class: "attention"}, side, main)));
    const all = figure(side, "All heads", "One small picture a head, one row a layer; 1.2 is head 2 of layer 1. Rows look, columns are looked at. The word is what the head does most, by the number beside it. Choose one.");
    const steps = figure(main, "From scores to weights", "");

    const grid = thumbnails(), line = arcs({label: "Looks", onpick: (i) => set({position: i})});
    const map = heatmap({label: "Matrix of the head", onpick: (i) => set({position: i + first})});
    const stages = h("div", {class: "row tight", role: "group", "aria-label": "Stage"}, Object.entries(STAGES).map(([id, [words]]) => h("button", {type: "button", class: "small", "data-stage": id, onclick: () => set({stage: id === "pattern" ? null : id})}, words)));
    const reason = h("p", {class: "note"}), key = h("div"), arithmetic = h("p", {class: "note"}), drawing = h("div", {}, stages, reason, map, key, arithmetic);
    const measured = h("div");
    let first = 0, stage = "", labels = null, labelled = "", labelTimer = null, lastEffect = null, lastPrompt = null, note = "";

    function askLabels(model) {
      const wanted = `${model.run}@${model.step}`;
      if (labelled === wanted) return;
      labelled = wanted;
      clearTimeout(labelTimer);
      labelTimer = setTimeout(async () => {
        try {
          const reply = await ask(model, "head_labels");
          if (labelled !== wanted) return;
          labels = {reply, of: new Map(reply.data.labels.map((entry) => [headName(entry.layer, entry.head), entry]))};
          context.labels = labels.of;
          grid.label(labels.of);
          showAll(all.grid);
        } catch (error) {
          if (labelled === wanted) labelled = "";
          console.error(error);
        }
      }, labels ? LABELS_AFTER : 0);
    }

    /** The pictures and the labels are two answers: the Python button gives both lines. */
    function showAll(reply) {
      all.grid = reply;
      if (!reply) return;
      const both = labels && labels.reply.model.step === reply.model.step ? {...reply, python: `${reply.python}\n${labels.reply.python}`} : reply;
      const kinds = ["previous", "first", "current", "same", "induction"];
      all.show(both, all.holder ??= h("div", {class: "scroll"}, grid), labels && (() => ({columns: ["head", "label", "score", "at step 0", ...kinds], rows: labels.reply.data.labels.map((entry) => [headName(entry.layer, entry.head), entry.label, entry.score, entry.at_start, ...kinds.map((kind) => entry.scores[kind])])})));
    }

    async function measure(model, prompt, edits) {
      measured.replaceChildren(h("p", {class: "note"}, "Reading 32 windows twice …"));
      try {
        const reply = await ask(model, "intervene", {prompt, edits, held_out: true}, "loss");
        loss.for = `${model.run}@${model.step}${JSON.stringify(edits)}`;
        const rows = [{name: "as trained", value: reply.data.loss_before}, {name: "changed", value: reply.data.loss_after}];
        measured.replaceChildren(bars(rows, {format: (x) => number(x, 4)}));
        loss.show(reply, measured, barsTable("model", "nats per token", rows));
        announce(`Held-out loss ${number(reply.data.loss_before, 4)} as trained, ${number(reply.data.loss_after, 4)} changed.`);
      } catch (error) {
        measured.replaceChildren(h("p", {class: "error"}, error.message));
      }
    }

    return async (model) => {
      const {info} = model, at = chosen(info), edits = editsOf(), prompt = promptOf(context);
      const name = headName(at.layer, at.head);
      const [one, done] = await Promise.all([ // all heads come beside the chosen one: one pass, one answer
        ask(model, "attention", {prompt, layer: at.layer, head: at.head, ...(edits.length ? {edits} : {}), all_heads: true}),
        edits.length ? ask(model, "intervene", {prompt, edits}) : null,
      ]);
      grid.update({layers: info.n_layers, heads: info.n_heads, pattern: one.data.patterns, at, edits, labels: labels?.of});
      showAll(one);
      askLabels(model);

      const tokens = one.data.tokens, position = positionOf(tokens), names = tokens.map((token) => token.shown);
      first = one.data.first_query ?? 0;
      looking.rename(`Head ${name}: where ${quoted(tokens[position])} looks`);
      line.update({tokens, pattern: one.data.pattern, first, at: position});
      looking.show({...one, truncated: null}, line, () => ({columns: ["token", "looked at by " + tokens[position].shown], rows: names.map((shown, j) => [shown, one.data.pattern[position - first]?.[j] ?? null])}));

      const wanted = STAGES[get("stage")] ? get("stage") : "pattern", values = one.data[wanted], max = wanted === "pattern" ? 1 : fixedScale(`scores ${model.run} ${name} ${JSON.stringify(edits)}`, one.data.scores);
      if (stage && stage !== wanted) fade(map);
      stage = wanted;
      for (const button of stages.children) button.setAttribute("aria-pressed", String(button.dataset.stage === stage));
      reason.textContent = STAGES[stage][1];
      steps.rename(`Head ${name}: from scores to weights`);
      const maskOff = values === one.data.masked;
      map.update({rows: names.slice(first), columns: names, values, max, cell: 30, ring: position >= first ? [position - first, null] : null, rowName: "the token that looks", columnName: "the token looked at",
        say: (i, j) => `“${names[i + first]}” ${j > i + first ? "ahead to" : "at"} “${names[j]}”: ${values[i][j] === null ? (maskOff ? "hidden, it comes later" : "nothing") : stage === "pattern" ? percent(values[i][j]) : `score ${number(values[i][j])}`}`});
      const scale = `${stage}${max}`;
      if (key.dataset.scale !== scale) {
        key.dataset.scale = scale;
        key.replaceChildren(legend("0", number(max), stage !== "pattern"));
        key.lastChild.setAttribute("title", "The picture shows sizes; the Table button gives every number.");
      }
      arithmetic.replaceChildren(context.link("forward", "The arithmetic of each cell", {name: `block.${at.layer}.${stage}`, head: at.head, position}), " is on the page Forward pass.");
      steps.show(first ? one : {...one, truncated: null}, drawing, matrixTable("looks", names.slice(first), names, values));

      showEffect(model, done, edits, prompt);
    };

    function showEffect(model, reply, edits, prompt) {
      effect.hidden = loss.hidden = !reply;
      if (!reply) return void (lastEffect = null);
      const text = JSON.stringify(edits);
      let moved = new Map();
      if (lastEffect && lastEffect.text === text && lastPrompt !== prompt && lastEffect.step === model.step) {
        const now = earlier(lastEffect.reply, reply, "predicted_after"), trained = earlier(lastEffect.reply, reply, "predicted_before");
        moved = now.moved;
        note = now.same ? `You edited the text after token ${now.same}. Of the ${now.same} expectations before that place, ${now.moved.size} moved in the changed model, ${trained.moved.size} in the model as trained.${now.moved.size ? " Without its mask, the past knows the future." : " With the mask, what comes later cannot reach back."}` : "";
        if (now.moved.size && edits.some((edit) => edit.op === "mask_off")) did("edit_after_mask_off", {moved: now.moved.size});
      } else if (!lastEffect || lastEffect.text !== text || lastEffect.step !== model.step) note = edits.some((edit) => edit.op === "mask_off") ? "Now change a later word of the prompt, and watch the expectations before it." : "";
      else if (lastEffect.reply === reply) moved = lastEffect.moved;
      lastEffect = {reply, text, step: model.step, moved};
      lastPrompt = prompt;

      const {before, after, tokens} = reply.data, of = new Map(before.map((entry) => [entry.id, entry.probability]));
      const rows = after.slice(0, 8).map((entry) => ({name: entry.shown, value: entry.probability, second: of.get(entry.id) ?? null}));
      const left = before.filter((entry) => !after.slice(0, 8).some((other) => other.id === entry.id)).slice(0, 3).map((entry) => ({name: entry.shown, value: after.find((other) => other.id === entry.id)?.probability ?? null, second: entry.probability}));
      const shown = [...rows, ...left];
      effect.show(reply, h("div", {class: "columns"},
        h("div", {}, h("h4", {}, `Next after ${quoted(tokens.at(-1))}`), h("p", {class: "note"}, "Full bars: with your changes. Dashed outlines: as trained."), bars(shown, {max: 1, format: (x) => (x === null ? "–" : percent(x)), secondName: "as trained"})),
        h("div", {}, h("h4", {}, "Expected after each token"), h("p", {class: "note"}, `Upper line as trained, lower line with your changes; the stronger its colour, the more a token moved (full colour: ${MOVED_FULL} nats).`), predictions(reply, moved), note && h("p", {class: "finding", role: "status"}, note))),
      () => ({columns: ["token", "as trained", "probability", "changed", "probability", "moved (nats)"], rows: tokens.map((token, i) => [token.shown, reply.data.predicted_before[i].shown, reply.data.predicted_before[i].probability, reply.data.predicted_after[i].shown, reply.data.predicted_after[i].probability, reply.data.moved[i]])}));

      const needs = edits.find((edit) => edit.prompt), fresh = loss.for === `${model.run}@${model.step}${text}`;
      if (!fresh) {
        loss.for = null;
        measured.replaceChildren(needs ? h("p", {class: "note"}, "A frozen pattern belongs to one prompt; take it back to measure.") : h("button", {type: "button", onclick: () => measure(model, promptOf(context), editsOf())}, "Measure it"));
        loss.show(null, measured, null);
      }
    }
  },
};
