// Data: what the run has read, how its text was split, and a copy of it to change.

import {callRun, mayWork, startJob} from "../api.js";
import {bars, barsTable} from "../bars.js";
import {announce, bytes, h, labelled, number, percent, slider} from "../dom.js";
import {figure} from "../figure.js";
import {lines, linesTable} from "../lines.js";
import {address, get, getNumber, go, set} from "../state.js";
import {did} from "../tour.js";

const MOST_BYTES = 1_000_000;
const SIZES = [[20_000, "20 kB"], [200_000, "200 kB"], [MOST_BYTES, "1 MB"]];
const BETWEEN = "\n\n\n"; // two empty lines end a document
const QUIET_MS = 400; // after the last key

const copies = new Map(); // run -> its edited text, while this window is open

export default {
  about: "A model knows only this text. It is cut into documents; most are learnt from, a few are held out, and how well the model does on those is the only honest mark. A held-out document that also stands in the training text is a leak: the model has seen the answer.",
  needs: "run",
  view(root, context) {
    const corpus = corpusFigure(root), split = splitFigure(root);
    const words = h("div", {class: "columns"});
    root.append(words);
    const top = figure(words, "The commonest words", "A few words make up a large part of a text. The rare ones cost a model more.");
    const kinds = figure(words, "Made of", "Bytes by kind of character. What is missing here, the model has never seen.");
    const copy = copyFigure(root, context);
    return async (model) => {
      const seed = getNumber("seed"), share = getNumber("share");
      const [own, other] = await Promise.all([callRun(model.run, "corpus_stats"), seed === undefined && share === undefined ? null : callRun(model.run, "corpus_stats", {split_seed: seed, val_fraction: share})]);
      const {data} = own;
      corpus.draw(own);
      split.draw(other ?? own, model);
      const common = data.top_words.map((row) => ({name: row.word, value: row.count}));
      top.show(own, bars(common), barsTable("word", "times", common));
      const made = data.kinds.map((row) => ({name: row.kind, value: row.share, note: bytes(row.bytes)}));
      kinds.show(own, bars(made, {max: 1, format: percent}), barsTable("kind", "share", made));
      await copy.draw(model);
    };
  },
};

const facts = (pairs) => h("dl", {class: "facts"}, pairs.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));

function corpusFigure(root) {
  const element = figure(root, "The text of this run", "Everything the run was given, training text and held-out text together. Below, how its first, middle and last document begin.");
  element.draw = (reply) => {
    const {data} = reply;
    const samples = h("div", {class: "samples"}, data.samples.map((text, i) => h("blockquote", {class: "text document-begins"}, text.trim() + (text.length >= 200 ? " …" : ""))));
    element.show(reply, h("div", {}, facts([["Documents", number(data.documents)], ["Words", number(data.words)], ["Different words", number(data.distinct_words)], ["Bytes", number(data.bytes)], ["Characters", number(data.characters)], ["Different characters", number(data.distinct_characters)], ["Longest document", bytes(data.longest_document)]]), samples),
      {columns: ["figure", "value"], rows: ["documents", "words", "distinct_words", "bytes", "characters", "distinct_characters", "longest_document", "duplicates", "leaks", "train_documents", "train_bytes", "val_documents", "val_bytes"].map((name) => [name.replaceAll("_", " "), data[name]])});
  };
  return element;
}

const documentsOf = (n) => `${number(n)} ${n === 1 ? "document" : "documents"}`;

/** Two lengths side by side: learnt from, and held out. */
function splitBar(data) {
  const said = (part) => (data.split === "tail" ? "" : `${documentsOf(data[`${part}_documents`])}, `) + bytes(data[`${part}_bytes`]); // a tail begins within a document
  return h("div", {class: "split", role: "img", "aria-label": `Learnt from: ${said("train")}. Held out: ${said("val")}.`},
    h("div", {class: "split-train", style: {"flex-grow": data.train_bytes}}, h("strong", {}, "learnt from"), h("span", {}, said("train"))),
    data.val_bytes > 0 && h("div", {class: "split-val", style: {"flex-grow": data.val_bytes}}, h("strong", {}, "held out"), h("span", {}, said("val"))));
}

const RULES = {"by document": "Whole documents are held out, chosen by a hash of their text and the seed: the same seed always holds out the same ones, in whatever order they come.", tail: "Held out is ", none: "Nothing is held out: ", given: "The held-out text was given as a file of its own."};
const ruleOf = (data) => (data.split === "tail" || data.split === "none" ? `${RULES[data.split]}${data.split_reason}.` : RULES[data.split] ?? "");

function copiesOf(data) {
  const leak = data.leaks > 0, words = data.leaks === 1 ? "held-out document also stands in the rest of the text" : "held-out documents also stand in the rest of the text";
  return h("div", {},
    h("div", {class: "counts"},
      h("p", {class: leak ? "count bad" : "count good"}, h("strong", {class: "big"}, number(data.leaks)), h("span", {}, `${leak ? "⚠ " : "✓ "}${words}${leak ? ": a leak" : ""}`)),
      h("p", {class: "count"}, h("strong", {class: "big"}, number(data.duplicates)), h("span", {}, data.duplicates === 1 ? "document stands there more than once" : "documents stand there more than once"))),
    data.duplicate_examples.length > 0 && h("details", {}, h("summary", {}, "Which ones?"), h("ul", {class: "doubles"}, data.duplicate_examples.map((example) => h("li", {}, h("span", {class: "badge"}, `${number(example.times)} times`), " ", h("span", {class: "text"}, example.text.trim()))))));
}

function splitFigure(root) {
  const element = figure(root, "The split, and what it leaks", "Try another seed or share: the same text, split as it would be. Training itself removes copies before it splits; the counts tell what would leak without that.");
  const holder = h("div"), drawing = h("div", {});
  let seed = null, share = null, back = null, built = "";
  element.draw = (reply, model) => {
    const {data} = reply;
    if (built !== model.run) {
      built = model.run;
      seed = slider("Seed", {min: 0, max: 20, value: getNumber("seed", 0), change: (value) => { set({seed: value}); did("split", {seed: value}); }});
      share = slider("Share held out", {min: 0.02, max: 0.5, step: 0.01, value: getNumber("share", 0.1), show: percent, change: (value) => { set({share: value}); did("split", {share: value}); }});
      back = h("button", {type: "button", class: "small", onclick: () => { set({seed: null, share: null}); seed.set(0); share.set(0.1); announce("The split of the run."); }}, "As this run was split");
      drawing.replaceChildren(h("div", {class: "controls"}, seed, share, back), holder);
    }
    back.disabled = getNumber("seed") === undefined && getNumber("share") === undefined;
    const removed = data.duplicates_removed;
    const capped = data.split !== "given" && data.val_bytes < 0.9 * getNumber("share", 0.1) * (data.train_bytes + data.val_bytes);
    holder.replaceChildren(splitBar(data), h("p", {class: "note"}, ruleOf(data), capped ? ` ${bytes(data.val_bytes)} are the most that is held out of this text (setting val_max_bytes), whatever the share.` : ""), copiesOf(data), removed ? h("p", {class: "note"}, `${number(removed)} ${removed === 1 ? "copy was" : "copies were"} removed before this run was trained.`) : "");
    element.show(reply, drawing, {columns: ["figure", "value"], rows: ["split", "train_documents", "train_bytes", "val_documents", "val_bytes", "duplicates", "leaks"].map((name) => [name.replaceAll("_", " "), data[name]])});
  };
  return element;
}

// --- a copy to change ------------------------------------------------------------------------------------------------

function copyFigure(root, context) {
  const section = h("section", {class: "corpus-copy"});
  root.append(h("h2", {}, "A copy to change"), h("p", {class: "about"}, "Edit it, or paste a text of your own: nothing happens to the run. Two empty lines end a document. Then train a tokenizer or a whole model on it, and see what the text does to them."), section);
  const area = h("textarea", {rows: 12, spellcheck: "false", autocomplete: "off", class: "copy-text", oninput: changed});
  const size = h("output", {class: "note size"});
  const take = SIZES.map(([most, words]) => h("button", {type: "button", class: "small", onclick: () => fetchCopy(most)}, words));
  const twice = h("button", {type: "button", class: "small", title: "Puts a copy of the first document at the end", onclick: () => { put(area.value.trimEnd() + BETWEEN + area.value.split(BETWEEN)[0]); did("double", {what: "one"}); }}, "Repeat the first document");
  const all = h("button", {type: "button", class: "small", onclick: () => { put(area.value.trimEnd() + BETWEEN + area.value.trimEnd()); did("double", {what: "all"}); }}, "Repeat everything");
  const field = labelled("Text", area);
  field.classList.add("prompt");
  section.append(h("div", {class: "controls"}, h("span", {class: "control-name"}, "Take the first"), take, twice, all), field, size);
  const trouble = h("div"), columns = h("div", {class: "columns"});
  section.append(trouble, columns);
  const stats = figure(columns, "Your copy, split as the run is", "The same figures for the text above, as you type.");
  const sweep = figure(columns, "Tokenizers learnt from your copy", "Bytes per token on a part of the copy that was held out, by size of the vocabulary. A small text cannot fill a large vocabulary: pairs seen once are no use.");
  const curve = lines({label: "Bytes per token by vocabulary", xName: "vocabulary", yName: "bytes per token"}), pieces = h("p", {class: "note"});
  const learn = h("button", {type: "button", onclick: learnTokenizer}, "Retrain the tokenizer on this copy");
  const train = h("button", {type: "button", class: "primary", onclick: trainModel}, "Train a minute on this copy");
  const started = h("span", {class: "note", role: "status"});
  section.append(h("div", {class: "row"}, learn, train, started), mayWork() ? "" : h("p", {class: "note"}, "To train from this window, open the address that the terminal printed, with its token at the end."));
  train.disabled = !mayWork();
  sweep.hidden = true;
  let run = null, asked = 0, timer = null, loading = null;

  const sized = () => new TextEncoder().encode(area.value).length;
  function put(text) {
    area.value = text;
    changed();
  }
  function changed() {
    copies.set(run, area.value);
    const n = sized();
    size.textContent = `${bytes(n)} of at most ${bytes(MOST_BYTES)}`;
    size.classList.toggle("over", n > MOST_BYTES);
    learn.disabled = !area.value.trim() || n > MOST_BYTES;
    train.disabled = learn.disabled || !mayWork();
    clearTimeout(timer);
    timer = setTimeout(describe, QUIET_MS);
  }
  async function fetchCopy(most) {
    const of = run;
    const reply = await guarded(() => callRun(of, "corpus_text", {most}));
    if (reply && of === run) put(reply.data.text);
  }
  async function guarded(work) {
    try {
      const answer = await work();
      trouble.replaceChildren();
      return answer;
    } catch (error) {
      trouble.replaceChildren(h("p", {class: "error", role: "alert"}, error.message));
      return null;
    }
  }
  async function describe() {
    const turn = (asked += 1);
    if (!area.value.trim()) return void stats.fail(new Error("There is no text; take a part of the run’s, or paste one."));
    const reply = await guarded(() => callRun(run, "corpus_stats", {text: area.value, split_seed: getNumber("seed"), val_fraction: getNumber("share")}));
    if (!reply || turn !== asked) return;
    const {data} = reply;
    stats.show(reply, h("div", {}, facts([["Documents", number(data.documents)], ["Words", number(data.words)], ["Different words", number(data.distinct_words)]]), splitBar(data), h("p", {class: "note"}, ruleOf(data)), copiesOf(data)),
      {columns: ["figure", "value"], rows: ["documents", "words", "distinct_words", "bytes", "duplicates", "leaks", "train_bytes", "val_bytes"].map((name) => [name.replaceAll("_", " "), data[name]])});
  }
  async function learnTokenizer() {
    learn.disabled = true;
    sweep.hidden = false;
    const reply = await guarded(() => callRun(run, "vocab_sweep", {text: area.value}));
    learn.disabled = false;
    if (!reply) return;
    const rows = reply.data.rows.filter((row, i, every) => !i || row.vocab_size !== every[i - 1].vocab_size);
    const series = [{name: "this copy", points: rows.map((row) => [row.vocab_size, row.bytes_per_token])}];
    sweep.show(reply, h("div", {}, curve, pieces), linesTable("vocabulary", series));
    curve.update({series, logX: true, ticksX: rows.map((row) => row.vocab_size)});
    const last = rows.at(-1);
    pieces.replaceChildren(`With ${number(last.vocab_size)} tokens, its held-out part begins: `, ...last.pieces_example.map((piece, i) => h("span", {class: `piece shade-${i % 4}`}, piece)));
    announce(`Tokenizers learnt: ${number(last.vocab_size)} tokens, ${number(last.bytes_per_token)} bytes per token.`);
    did("retrain", {});
  }
  async function trainModel() {
    train.disabled = true;
    started.textContent = "Starting …";
    const answer = await guarded(() => startJob({kind: "train", minutes: 1, text: area.value}));
    started.textContent = "";
    train.disabled = false;
    if (!answer) return;
    did("train", {text: true});
    await context.refreshRuns();
    set({step: null, pin: null});
    go(address("training", {run: answer.job.run}));
  }
  context.ended.push(() => clearTimeout(timer));

  return {async draw(model) {
    if (run !== model.run) {
      run = model.run;
      sweep.hidden = true;
      if (copies.has(run)) put(copies.get(run));
      else await fetchCopy(SIZES[0][0]);
    } else changed(); // another seed or share
  }};
}
