// What comes next: the model's probabilities, what the sliders make of them, and the text that drawing from them writes.

import {call} from "../api.js";
import {bars, barsTable} from "../bars.js";
import {colour, onColour} from "../colour.js";
import {announce, bytes, h, labelled, number, percent, s, slider, toggle} from "../dom.js";
import {figure} from "../figure.js";
import {legend} from "../heatmap.js";
import {lines, linesTable} from "../lines.js";
import {isSpecial, later, promptOf, quoted, textOf} from "../parts.js";
import {get, getNumber, listen, set} from "../state.js";
import {pieces} from "../tokens.js";
import {did} from "../tour.js";

const SHOWN = 12; // bars; the rest is "all others"
const MOST_ROWS = 2000; // of next_token
const MORE = 40; // tokens of one "Write on"
const REVEAL_MS = 30;
const USUAL = {temperature: 0.6, top_k: 0, top_p: 1, min_p: 0, seed: 0}; // of `tinygpt generate`
const NO_SLIDERS = {temperature: 1, top_k: 0, top_p: 1, min_p: 0};

const settings = () => Object.fromEntries(Object.entries(USUAL).map(([name, usual]) => [name, getNumber(name, usual)]));
const sliders = () => { const {seed, ...rest} = settings(); return rest; };
const given = (context) => promptOf(context) + get("branch");
const covered = () => get("predict") !== "off" && get("uncovered") !== "1";

/** Go on from another text: the prompt stays as far as it is the beginning of it. */
function goOnFrom(context, text, more = {}) {
  const prompt = promptOf(context);
  if (text.startsWith(prompt)) set({branch: text.slice(prompt.length) || null, at: null, ...more});
  else set({prompt: text, branch: null, at: null, guess: null, ...more});
}

export default {
  about: "A language model does one thing: it gives every token of its vocabulary a probability to come next. Writing is drawing one of them, adding it to the text, and asking again. The sliders change the draw, never the model.",
  needs: "model",

  controls(root, context) {
    const input = h("textarea", {rows: 2, spellcheck: "false", autocomplete: "off", value: promptOf(context), "data-prompt": "", oninput: () => set({prompt: input.value, branch: null, written: null, at: null, guess: null, uncovered: null})});
    const prompt = labelled("Prompt", input);
    prompt.classList.add("prompt");

    const guess = h("input", {type: "text", value: get("guess"), spellcheck: "false", autocomplete: "off", autocapitalize: "off", oninput: () => set({guess: guess.value})});
    const first = toggle("Guess first", get("predict") !== "off", (on) => set({predict: on ? null : "off", uncovered: null}));
    const asking = [labelled("Your guess of the next token", guess), h("button", {class: "primary"}, "Uncover the bars"), h("span", {class: "note"}, "A word, or a part of one. Write it down before you look.")];
    const again = h("button", {type: "button", class: "small", onclick: () => { set({uncovered: null, guess: null}); guess.focus(); }}, "Cover and guess again");
    const form = h("form", {class: "guess-form wide", onsubmit: (event) => {
      event.preventDefault();
      if (!covered()) return;
      set({uncovered: "1", guess: guess.value || null});
      again.focus({preventScroll: true});
      if (guess.value.trim()) did("guess");
    }}, first, asking, again);

    const range = (name, words, options) => slider(words, {value: getNumber(name, USUAL[name]), ...options, change: (value) => {
      set({[name]: value});
      if (name === "temperature") did("temperature", {value});
    }});
    const all = [
      range("temperature", "Temperature", {min: 0, max: 2, step: 0.05, show: (x) => (x === 0 ? "0: the likeliest" : x.toFixed(2))}),
      range("top_k", "Top-k", {min: 0, max: 50, show: (x) => (x === 0 ? "all" : `the first ${x}`)}),
      range("top_p", "Top-p", {min: 0.05, max: 1, step: 0.05, show: (x) => (x === 1 ? "all" : x.toFixed(2))}),
      range("min_p", "Min-p", {min: 0, max: 0.5, step: 0.01, show: (x) => (x === 0 ? "all" : x.toFixed(2))}),
    ];
    const seed = h("input", {type: "number", min: 0, max: 999999, step: 1, value: getNumber("seed", 0), oninput: () => Number.isInteger(Number(seed.value)) && seed.value !== "" && Number(seed.value) >= 0 && set({seed: Number(seed.value)})});
    root.append(prompt, form, h("fieldset", {class: "wide sampling"}, h("legend", {}, "How the next token is drawn"), all, labelled("Seed", seed)));

    const draw = () => {
      for (const part of asking) part.hidden = !covered();
      again.hidden = covered() || get("predict") === "off";
      form.classList.toggle("quiet", !covered());
      if (document.activeElement !== guess) guess.value = get("guess");
      if (document.activeElement !== input) input.value = promptOf(context);
    };
    draw();
    context.ended.push(listen(draw));
  },

  view(root, context) {
    const told = h("div", {class: "told"});
    const textFigure = figure(root, "The text", "Each token in the colour of the probability that the model gave it when it was written. Click one, or walk with the arrow keys, to see what else could have stood there.");
    const two = h("div", {class: "columns"});
    root.append(told, two);
    const barFigure = figure(two, "What comes next", "Full bar: the chance in the draw, after the sliders. Dashed outline: the model's own probability. Click a bar to take that token.");
    const treeFigure = figure(two, "Where it could go", "The likeliest ways on. A thicker line is a likelier step; click a token to go there.");
    const costFigure = figure(root, "What a text costs", "The stronger its colour, the more a token surprises the model. The bits of all of them, divided by the bytes of the text, are the figure that training makes small.");
    const cacheFigure = figure(root, "What the cache saves", "Work for each new token: with a cache of keys and values only the new position is computed, without one the whole text again.");

    const buttons = {
      one: h("button", {type: "button", class: "primary", onclick: () => write(1)}, "Draw the next token"),
      more: h("button", {type: "button", onclick: () => write(Math.min(MORE, context.run.block_size - front.length - getNumber("written", 0)))}, "Write on"),
      back: h("button", {type: "button", onclick: () => set({written: Math.max(0, getNumber("written", 0) - 1) || null, at: null})}, "One back"),
      again: h("button", {type: "button", onclick: () => set({written: null, branch: null, at: null})}, "From the prompt"),
      seed: h("button", {type: "button", onclick: () => set({seed: getNumber("seed", 0) + 1, at: null})}, "Another seed"),
    };
    const textRow = h("div", {class: "row"}, Object.values(buttons)), textHolder = h("div", {class: "written-text"}), textNote = h("p", {class: "note"});
    const textBody = h("div", {}, textHolder, textRow, textNote);
    let writing = false; // the next redraw shows new tokens one by one

    function write(n) {
      writing = n > 1;
      set({written: getNumber("written", 0) + n, at: null});
      did("generate");
    }

    // --- the text ---
    let front = [], last = null; // tokens of prompt and branch; the reply of generate

    function drawText(steps, running = false) {
      const tokens = [...front, ...steps], at = getNumber("at", null), focus = textHolder.contains(document.activeElement);
      const share = (i) => (i < front.length ? 0 : steps[i - front.length].probability);
      const list = pieces(tokens, {
        picked: at !== null && at < tokens.length ? at : null, label: "The text, token by token", limit: 1200,
        onpick: (i) => set({at: i === getNumber("at", null) ? null : i}),
        share, note: (i) => (i < front.length ? "" : percent(steps[i - front.length].probability)),
      });
      list.querySelectorAll("button.piece").forEach((button, i) => button.classList.toggle("given", i < front.length));
      textHolder.replaceChildren(list);
      if (focus && !running) (list.querySelector(".picked") ?? list.querySelector("button"))?.focus({preventScroll: true});
    }

    async function updateText(model) {
      const text = given(context), n = getNumber("written", 0);
      const asked = {prompt: text, max_new_tokens: n, ...settings()};
      const shown = last?.data.steps.length ?? 0;
      last = await call(model, "generate", asked);
      const {steps, tokens} = last.data;
      front = tokens;
      if (writing && steps.length > shown) await reveal(steps, shown);
      writing = false;
      drawText(steps);
      const full = front.length + steps.length >= (context.run?.block_size ?? Infinity);
      const ended = last.data.finish_reason === "stop";
      for (const name of ["one", "more"]) buttons[name].disabled = covered() || ended || full;
      buttons.back.disabled = !steps.length;
      buttons.again.disabled = !n && !get("branch");
      buttons.seed.disabled = !steps.length || settings().temperature === 0;
      textNote.textContent = covered() ? "Guess first: then uncover the bars, and draw."
        : ended ? "The model drew <eos>, the end of a text: here it would stop."
          : full ? `The model looks back at ${number(context.run.block_size)} tokens at most, and these are full.`
            : settings().temperature === 0 ? "At temperature 0 the likeliest token is taken each time: the seed does not matter."
              : "The same seed, prompt and sliders always give the same text, here and in `tinygpt generate`.";
      textFigure.show(last, textBody, steps.length ? {columns: ["token", "id", "model's probability", "chance in the draw", "rank"], rows: steps.map((step) => [step.shown, step.id, step.probability, step.drawn, step.rank + 1])} : null);
      return {text, steps};
    }

    /** Show tokens one by one, as they are written; all at once when something else is wanted. */
    async function reveal(steps, from) {
      let hurry = matchMedia("(prefers-reduced-motion: reduce)").matches;
      const deaf = listen(() => { hurry = true; });
      for (let n = from + 1; n < steps.length && !hurry; n += 1) {
        drawText(steps.slice(0, n), true);
        await new Promise((go) => setTimeout(go, REVEAL_MS));
      }
      deaf();
    }

    // --- the bars ---
    const barBody = h("div", {});

    const barsOf = (model, prompt) => call(model, "next_token", {prompt, ...sliders(), most: SHOWN});

    async function updateBars(model, steps, ahead) {
      const tokens = [...front, ...steps], at = getNumber("at", null), picked = at !== null && at < tokens.length ? tokens[at] : null;
      const before = picked ? textOf(tokens.slice(0, at)) : textOf(tokens);
      if (covered()) {
        barFigure.rename("What comes next: covered");
        barFigure.show(null, h("div", {class: "covered"}, Array.from({length: 6}, () => h("div", {class: "covered-bar", "aria-hidden": "true"})), h("p", {}, "What comes next? Write your guess above, then uncover.")), null);
        return;
      }
      barFigure.rename(picked ? `What could have stood in the place of ${quoted(picked)}` : "What comes next");
      if (before === null) {
        barFigure.fail(new Error("The text ends in the middle of a character here; choose the first token of that character."));
        return;
      }
      const reply = await (ahead ?? barsOf(model, before));
      const {rows, others, kept, entropy} = reply.data;
      const shown = rows.map((row) => ({name: row.shown, value: row.drawn, second: row.probability, token: row, picked: picked?.id === row.id}));
      shown.push({name: "all others", value: others.after, second: others.before, token: null});
      const focus = [...barBody.querySelectorAll("button.bar-row")].indexOf(document.activeElement);
      const list = bars(shown, {max: 1, format: percent, secondName: "the model's own", onpick: (row) => {
        if (!row.token) { announce("All other tokens together."); return; }
        if (isSpecial(row.token)) { announce("This token ends the text."); return; }
        const rest = picked ? Math.max(0, tokens.length - at - 1) : 0;
        const next = textOf([...tokens.slice(0, picked ? at : tokens.length), row.token]);
        if (next === null) barFigure.fail(new Error("This token is a part of a character; the text cannot go on from the middle of one."));
        else goOnFrom(context, next, {written: Math.min(rest, getNumber("written", 0)) || null});
      }});
      list.querySelector("li:last-child button").disabled = true;
      const saying = h("p", {class: "said"}, `${kept === 1 ? "One token is" : `${number(kept)} tokens are`} left to draw from. Uncertainty ${number(entropy.before)} nats by the model, ${number(entropy.after)} after the sliders.`);
      const written = tokens.slice(0, picked ? at : tokens.length), anew = written.length !== reply.data.tokens.length || written.some((token, i) => token.id !== reply.data.tokens[i].id);
      barBody.replaceChildren(list, saying, anew && written.length ? h("p", {class: "note"}, "The model wrote this text in other pieces than the tokenizer cuts it into, and the bars are for the latter, as for any prompt: they may differ from the text above.") : "", picked ? h("button", {type: "button", class: "small", onclick: () => set({at: null})}, "Back to the end of the text") : "");
      if (focus >= 0) barBody.querySelectorAll("button.bar-row")[focus]?.focus({preventScroll: true});
      barFigure.show(reply, barBody, barsTable("token", "after the sliders", shown, "the model's own"));
    }

    // --- the guess ---
    let judged = "";

    async function updateGuess(model) {
      const guess = get("guess"), prompt = promptOf(context), key = JSON.stringify([model.run, model.step, prompt, guess]);
      if (covered() || !guess || get("predict") === "off") { told.replaceChildren(); judged = ""; return; }
      if (key === judged) return;
      const spaced = /^[\p{L}\p{N}]/u.test(guess) && prompt && !/\s$/.test(prompt) ? ` ${guess}` : guess;
      const [parts, reply] = await Promise.all([call(model, "tokenize", {text: spaced}), call(model, "next_token", {prompt, ...NO_SLIDERS, most: Math.min(MOST_ROWS, context.run.vocab_size)})]);
      judged = key;
      told.replaceChildren(h("section", {class: "guess-told", "aria-label": "About your guess"}, explain(parts.data.pieces, reply.data, context.run.vocab_size, model).map((words) => h("p", {}, words))));
    }

    // --- the tree ---
    const treeControls = h("div", {class: "row"},
      slider("Ways at each token", {min: 1, max: 5, value: getNumber("width", 3), change: (width) => set({width})}),
      slider("Tokens ahead", {min: 1, max: 4, value: getNumber("depth", 2), change: (depth) => set({depth})}));
    const treeHolder = h("div", {class: "scroll"}), treeBody = h("div", {}, treeControls, treeHolder);

    const wantTree = later(async (model, text) => {
      if (covered()) {
        treeFigure.show(null, h("p", {class: "note"}, "Covered as well, until you have guessed."), null);
        return;
      }
      const reply = await call(model, "tree", {prompt: text, width: getNumber("width", 3), depth: getNumber("depth", 2)});
      const focus = treeHolder.contains(document.activeElement);
      const drawing = drawTree(reply.data, (path) => {
        const next = textOf(path);
        if (next !== null) goOnFrom(context, text + next, {written: null});
      });
      treeHolder.replaceChildren(drawing);
      if (focus) drawing.querySelector("[tabindex='0']")?.focus({preventScroll: true});
      const rows = [];
      const walk = (node, path) => { for (const child of node.children) { rows.push([[...path, child.shown].join(" "), child.probability]); walk(child, [...path, child.shown]); } };
      walk(reply.data, []);
      treeFigure.show(reply, treeBody, {columns: ["continuation", "probability of its last token"], rows});
    }, treeFigure.fail);

    // --- what a text costs ---
    const own = h("textarea", {rows: 2, spellcheck: "false", value: get("text"), placeholder: "Paste a text; empty: the text above", oninput: () => set({text: own.value || null, cell: null})});
    const ownBox = labelled("A text of your own", own), costHolder = h("div", {}), costSaid = h("p", {class: "said", role: "status"});
    ownBox.classList.add("prompt");
    const costBody = h("div", {}, ownBox, costHolder, legend("expected", "surprising"), costSaid);

    const wantCost = later(async (model, text) => {
      if (document.activeElement !== own) own.value = get("text");
      if (!text) { costFigure.show(null, h("div", {}, ownBox, h("p", {class: "note"}, "There is no text yet.")), null); return; }
      const reply = await call(model, "surprisal", {text});
      const {tokens, bits_per_byte: bpb} = reply.data, cell = getNumber("cell", null), focus = costHolder.contains(document.activeElement);
      const most = Math.log2(context.run.vocab_size); // the cost of knowing nothing: the same full colour at every checkpoint
      const say = (i) => {
        const token = tokens[i];
        return `${quoted(token)} costs ${number(token.bits)} bits (${number(token.nats)} nats); ${token.rank === 0 ? "it was the model's first choice" : `the model's ${nth(token.rank + 1)} choice; its first was ${quoted(token.top)}`}.`;
      };
      const picked = cell !== null && cell < tokens.length ? cell : null;
      const list = pieces(tokens, {picked, onpick: (i) => set({cell: i}), share: (i) => tokens[i].bits / most, note: (i) => tokens[i].bits.toFixed(1), label: "Cost of each token in bits"});
      costHolder.replaceChildren(h("dl", {class: "facts"}, h("div", {}, h("dt", {}, "bits per byte"), h("dd", {}, number(bpb))), h("div", {}, h("dt", {}, "tokens"), h("dd", {}, number(tokens.length)))), list);
      if (focus) list.querySelector(".picked, button")?.focus({preventScroll: true});
      costSaid.textContent = picked === null ? "Pick a token to hear what the model expected in its place." : say(picked);
      costFigure.show(reply, costBody, {columns: ["token", "bits", "nats", "rank", "the model's first choice"], rows: tokens.map((token) => [token.shown, token.bits, token.nats, token.rank + 1, token.top.shown])});
    }, (error) => { costHolder.replaceChildren(h("p", {class: "error"}, error.message)); costFigure.show(null, costBody, null); });

    // --- the cache ---
    const chart = lines({label: "Positions computed for each new token", xName: "new token", yName: "positions"});
    const cacheFacts = h("dl", {class: "facts"}), cacheBody = h("div", {}, cacheFacts, chart);

    const wantCache = later(async (model, text) => {
      const reply = await call(model, "cache_meter", {prompt: text, max_new_tokens: 60});
      const {cached, uncached: plain, cache_bytes: size, cached_total: sum, uncached_total: plainSum} = reply.data;
      const series = [{name: "without", points: plain.map((y, i) => [i + 1, y])}, {name: "with cache", points: cached.map((y, i) => [i + 1, y])}];
      const fact = (words, value) => h("div", {}, h("dt", {}, words), h("dd", {}, value));
      cacheFacts.replaceChildren(fact(`positions for ${plain.length} tokens, without`, number(plainSum)), fact("with the cache", number(sum)), fact("memory that it takes", bytes(size.at(-1))), fact("at most", bytes(reply.data.cache_bytes_full)));
      chart.update({series});
      cacheFigure.show(reply, cacheBody, linesTable("new token", series));
    }, cacheFigure.fail);

    return async (model) => {
      const atEnd = !getNumber("written", 0) && getNumber("at", null) === null && !covered();
      const ahead = atEnd ? barsOf(model, given(context)) : null; // need not wait for the text
      ahead?.catch(() => {});
      const {text, steps} = await updateText(model);
      const end = textOf([...front, ...steps]) ?? text;
      await Promise.all([updateBars(model, steps, ahead).catch(barFigure.fail), updateGuess(model)]);
      wantTree(model, end);
      wantCost(model, get("text") || end);
      wantCache(model, promptOf(context));
    };
  },
};

const nth = (n) => `${number(n)}${n % 100 >= 11 && n % 100 <= 13 ? "th" : ["th", "st", "nd", "rd"][n % 10] ?? "th"}`;

/** What there is to say to a guess: how likely the model holds it, and why it thinks otherwise. Never right or wrong. */
function explain(parts, {rows}, vocabulary, {step, info}) {
  const [first] = parts, place = rows.findIndex((row) => row.id === first.id), found = rows[place], [top, ...next] = rows, said = [];
  if (parts.length > 1) said.push(`Your guess takes ${parts.length} tokens in this vocabulary: ${parts.map((part) => part.shown).join(" | ")}. A model writes one token at a time, so the first of them is what counts here.`);
  if (!found) {
    said.push(`${quoted(first)} is not among the model's first ${number(rows.length)} choices; its first is ${quoted(top)} with ${percent(top.probability)}. It knows only the text that it was trained on, and how that goes on after words like these.`);
    return said;
  }
  if (step === 0 && info.start === "pairs") said.push(`You guessed ${quoted(first)}; the model gives it ${percent(found.probability)}, and its first choice ${quoted(top)} ${percent(top.probability)}. At step 0 this run knows only which token follows which, counted in its training text: it sees nothing before the last token. Move the checkpoint slider to see it use the rest.`);
  else if (step === 0 && info.start === "random") said.push(`You guessed ${quoted(first)}. At step 0 nothing is learnt yet: the model gives it ${percent(found.probability)}, and its first choice ${quoted(top)} no more than ${percent(top.probability)}. Your guess knows English; these bars do not. Move the checkpoint slider to see them learn.`);
  else if (place === 0) said.push(`You and the model agree: ${quoted(first)} is its first choice, with ${percent(found.probability)}. Even so it is one choice of many: the rest of the probability lies on other tokens, and a draw may take one of them.`);
  else if (place < 10) said.push(`${quoted(first)} is the model's ${nth(place + 1)} choice of ${number(vocabulary)}, with ${percent(found.probability)}; its first is ${quoted(top)} with ${percent(top.probability)}. Both can follow. A model does not settle for one answer: it spreads its probability over all that its training text made likely.`);
  else said.push(`The model gives ${quoted(first)} ${percent(found.probability)}, its ${nth(place + 1)} choice of ${number(vocabulary)}. It expects ${quoted(top)} (${percent(top.probability)}), ${next.slice(0, 2).map((row) => `${quoted(row)} (${percent(row.probability)})`).join(", ")}. You know the world; it knows only the text that it was trained on, and how that goes on after words like these.`);
  return said;
}

// --- the tree --------------------------------------------------------------------------------------------------------

const STEP = 158, ROW = 32, BOX = 116;

/** Continuations from left to right. Arrow keys walk: right to a child, left to the parent, up and down to the next. */
function drawTree(root, onpick) {
  const nodes = [], columns = [];
  let leaves = 0;
  const place = (node, depth, parent, path) => {
    const item = {node, depth, parent, path, children: []};
    nodes.push(item);
    (columns[depth] ??= []).push(item);
    item.children = node.children.map((child) => place(child, depth + 1, item, [...path, child]));
    item.y = item.children.length ? (item.children[0].y + item.children.at(-1).y) / 2 : (leaves++ + 0.5) * ROW;
    return item;
  };
  const top = place(root, 0, null, []), width = (columns.length - 1) * STEP + BOX + 8, height = leaves * ROW + 4;
  const svg = s("svg", {viewBox: `0 0 ${width} ${height}`, width, height, class: "paths", role: "group", "aria-label": "Tree of continuations. Arrow keys walk, Enter goes there."});
  const x = (item) => item.depth * STEP + 3;
  for (const item of nodes) {
    if (!item.parent) continue;
    const from = x(item.parent) + BOX, to = x(item), middle = (from + to) / 2;
    svg.append(s("path", {d: `M${from} ${item.parent.y}C${middle} ${item.parent.y} ${middle} ${item.y} ${to} ${item.y}`, class: "path-line", "stroke-width": 1 + 8 * item.node.probability}));
  }
  const walk = (item) => {
    if (!item) return;
    for (const other of nodes) other.element?.setAttribute("tabindex", other === item ? "0" : "-1");
    item.element.focus();
  };
  const cut = (text) => (text.length > 8 ? `${text.slice(0, 7)}…` : text);
  for (const item of nodes) {
    const share = item.parent ? item.node.probability : 0, words = item.parent ? `${item.path.map((node) => node.shown).join(" ")}, ${percent(share)}` : `from ${item.node.shown}`;
    const style = item.parent ? {fill: onColour(share)} : {};
    item.element = s("g", {class: item.parent ? "path" : "path root", tabindex: item === top ? "0" : "-1", role: item.parent ? "button" : "img", "aria-label": words,
      onclick: () => item.parent && onpick(item.path),
      onkeydown: (event) => {
        const column = columns[item.depth], at = column.indexOf(item);
        const to = {ArrowRight: item.children[0], ArrowLeft: item.parent, ArrowDown: column[at + 1], ArrowUp: column[at - 1]};
        if ((event.key === "Enter" || event.key === " ") && item.parent) { event.preventDefault(); onpick(item.path); }
        if (!(event.key in to)) return;
        event.preventDefault();
        walk(to[event.key]);
      }},
    s("title", {}, words),
    s("rect", {x: x(item), y: item.y - 13, width: BOX, height: 26, rx: 6, style: item.parent ? {fill: colour(share)} : {}}),
    s("text", {x: x(item) + 8, y: item.y + 4, class: "path-name", style}, cut(item.node.shown)),
    item.parent && s("text", {x: x(item) + BOX - 7, y: item.y + 4, class: "path-share", style}, percent(share)));
    svg.append(item.element);
  }
  return svg;
}
