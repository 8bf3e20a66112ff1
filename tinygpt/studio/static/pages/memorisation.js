// What of a text also stands in the training text, word for word: copying against composing.

import {call} from "../api.js";
import {choice, h, labelled, number, percent, slider} from "../dom.js";
import {figure} from "../figure.js";
import {lines, linesTable} from "../lines.js";
import {later, nearestStep, promptOf, recordsOf} from "../parts.js";
import {get, getNumber, set} from "../state.js";
import {did} from "../tour.js";

const USUAL = {tokens: 150, temperature: 0.6, seed: 0, shortest: 20};
const setting = (name) => getNumber(name, USUAL[name]);
const pasted = () => get("from") === "paste";

/** The arguments of `generate` for the model's own text. */
const writing = (context) => ({prompt: promptOf(context), max_new_tokens: setting("tokens"), temperature: setting("temperature"), seed: setting("seed")});

export default {
  about: "Every run of bytes that also stands in the training text is marked. Ordinary phrases stand there too, so the same measure is taken on text that the model has never seen: only what goes far beyond that is learnt by heart.",
  needs: "model",

  controls(root, context) {
    const prompt = h("input", {type: "text", spellcheck: "false", autocomplete: "off", value: promptOf(context), "data-prompt": "", oninput: () => set({prompt: prompt.value, span: null})});
    const own = h("textarea", {rows: 5, spellcheck: "false", value: get("text"), placeholder: "Paste a text, for example a sentence of the training text", oninput: () => set({text: own.value || null, span: null})});
    const seed = h("input", {type: "number", min: 0, max: 999999, step: 1, value: setting("seed"), oninput: () => seed.value !== "" && Number.isInteger(Number(seed.value)) && Number(seed.value) >= 0 && set({seed: Number(seed.value), span: null})});
    const write = h("button", {type: "button", onclick: () => { seed.value = Number(seed.value) + 1; set({seed: Number(seed.value), span: null}); }}, "Write another text");
    const byModel = h("div", {class: "row wide"},
      labelled("It begins with", prompt),
      slider("Tokens", {min: 20, max: 400, step: 10, value: setting("tokens"), change: (tokens) => set({tokens, span: null})}),
      slider("Temperature", {min: 0, max: 1.5, step: 0.1, value: setting("temperature"), show: (x) => x.toFixed(1), change: (temperature) => set({temperature, span: null})}),
      labelled("Seed", seed), write);
    const ownBox = labelled("Text", own);
    ownBox.classList.add("prompt");
    const arrange = () => { byModel.hidden = pasted(); ownBox.hidden = !pasted(); };
    const from = choice("The text", [["model", "the model writes it"], ["paste", "I paste it"]], get("from", "model"), (value) => { set({from: value === "model" ? null : value, span: null}); arrange(); });
    root.append(from, slider("Shortest copy", {min: 4, max: 200, value: setting("shortest"), show: (x) => `${x} bytes`, change: (shortest) => set({shortest, span: null})}), byModel, ownBox);
    arrange();
  },

  view(root, context) {
    const marked = figure(root, "Copied from the training text", "Underlined: this run of bytes also stands in the training text and cannot be made longer at either end.");
    const grown = figure(root, "Copies over the training", "Each checkpoint writes with the same prompt and seed. A longest copy far above that of unseen text, while the loss on unseen text rises, is learning by heart.");
    const facts = h("dl", {class: "facts"}), said = h("p", {class: "finding"}), text = h("p", {class: "text copied", tabindex: "0", role: "region", "aria-label": "The text with its copies marked"});
    const list = h("div", {}), key = h("p", {class: "legend"}, h("span", {class: "key"}, h("mark", {class: "copied-run"}, "copied"), "also stands in the training text"), h("span", {class: "key"}, h("mark", {class: "copied-run longest"}, "copied"), "the longest copy"), h("span", {class: "key"}, h("span", {class: "given-text"}, "given"), "the prompt, which is not counted"));
    const body = h("div", {}, said, facts, text, key, list);

    function draw(reply, whole, before) {
      const {spans, longest, share, held_out: heldOut} = reply.data, picked = getNumber("span", null), focus = body.contains(document.activeElement) ? document.activeElement.dataset.span : undefined;
      const characters = [...whole]; // places count characters, as in Python
      const parts = [];
      let at = 0;
      if (before) parts.push(h("span", {class: "given-text"}, before));
      const plain = (from, to) => to > from && parts.push(characters.slice(from, to).join(""));
      const most = spans.findIndex((span) => span.bytes === longest);
      spans.forEach((span, i) => {
        plain(at, span.start);
        parts.push(h("mark", {class: `copied-run${i === most ? " longest" : ""}${i === picked ? " picked" : ""}`, "data-span": i, title: where(span), onclick: () => set({span: i === getNumber("span", null) ? null : i})}, characters.slice(span.start, span.end).join("")));
        at = span.end;
      });
      plain(at, characters.length);
      text.replaceChildren(...parts);
      const fact = (words, value, note) => h("div", {}, h("dt", {}, words), h("dd", {}, value), h("dt", {}, note));
      facts.replaceChildren(
        fact("longest copy", `${number(longest)} bytes`, heldOut ? `unseen text: ${number(heldOut.longest)} bytes` : "no unseen text was kept"),
        fact("share copied", percent(share), heldOut ? `unseen text: ${percent(heldOut.share)}` : ""),
        fact("copies", number(spans.length), `of ${setting("shortest")} bytes or more`));
      said.textContent = verdict(reply.data);
      const order = spans.map((span, i) => [span, i]).sort((a, b) => b[0].bytes - a[0].bytes);
      list.replaceChildren(spans.length ? h("details", {open: list.querySelector("details")?.open ?? true}, h("summary", {}, "Where the copies stand"), h("ol", {class: "spans"}, order.slice(0, 12).map(([span, i]) => h("li", {}, h("button", {type: "button", class: "span-row", "aria-pressed": String(i === picked), "data-span": `row-${i}`, onclick: () => set({span: i === getNumber("span", null) ? null : i})},
        h("span", {class: "span-size"}, `${number(span.bytes)} bytes`), h("span", {class: "span-text"}, span.text), h("span", {class: "note"}, where(span)))))),
      spans.length > 12 && h("p", {class: "note"}, `The 12 longest of ${spans.length}; the table has all.`)) : h("p", {class: "note"}, `Nothing of ${setting("shortest")} bytes or more is copied. Make the shortest copy shorter to see what is.`));
      if (focus !== undefined) body.querySelector(`[data-span="${focus}"]`)?.focus({preventScroll: true});
      if (picked !== null) text.querySelector(".picked")?.scrollIntoView({block: "nearest"});
      marked.show(reply, body, {columns: ["bytes", "from character", "to", "document", "text"], rows: order.map(([span]) => [span.bytes, span.start, span.end, span.document, span.text])});
      if (spans.length) did("memorised", {longest, unseen: heldOut?.longest ?? 0});
    }

    // --- over the checkpoints ---
    const chart = lines({label: "Longest copy of each checkpoint's own writing", yName: "bytes", onpick: (point) => go(point.x)});
    const shares = lines({label: "Share copied of each checkpoint's own writing", yName: "share", onpick: (point) => go(point.x)});
    const losses = lines({label: "Loss on validation text", yName: "nats", onpick: (point) => go(point.x)});
    const progress = h("p", {class: "note", role: "status"}), drawing = h("div", {}, progress, h("h4", {}, "Longest copy"), chart, h("div", {class: "columns"}, h("div", {}, h("h4", {}, "Share copied"), shares), h("div", {}, h("h4", {}, "Loss on unseen text"), losses)));
    const found = new Map(); // what was asked -> reply of memorised
    let records = null;

    const go = (x) => set({step: nearestStep(context.run, x)});

    let turn = 0;
    const wantGrown = later(async (model) => {
      const mine = turn, asked = writing(context), shortest = setting("shortest");
      records ??= await recordsOf(model.run);
      const points = [];
      for (const {step} of model.info.steps) {
        const name = JSON.stringify([model.run, step, asked, shortest]);
        if (!found.has(name)) {
          const one = {run: model.run, step}, text = (await call(one, "generate", asked)).data.text;
          found.set(name, text ? await call(one, "memorised", {text, shortest}) : null);
        }
        if (turn !== mine) return; // something else is wanted: what was fetched is kept
        if (found.get(name)) points.push([step, found.get(name)]);
        progress.textContent = points.length < model.info.steps.length ? `Checkpoint ${points.length} of ${model.info.steps.length} has written …` : "";
        drawGrown(model, points);
      }
      progress.textContent = "";
    }, grown.fail);

    function drawGrown(model, points) {
      const of = (read) => points.map(([step, reply]) => [step, read(reply.data)]).filter(([, value]) => value !== null && value !== undefined);
      const own = [{name: "its own text", points: of((data) => data.longest)}, {name: "unseen text", points: of((data) => data.held_out?.longest)}];
      const share = [{name: "its own text", points: of((data) => data.share)}, {name: "unseen text", points: of((data) => data.held_out?.share)}];
      const loss = [{name: "validation", points: records.data.records.filter((r) => r.kind === "eval" && r.val_loss !== null).map((r) => [r.step, r.val_loss])}];
      chart.update({series: own.filter((line) => line.points.length), cursor: model.step});
      shares.update({series: share.filter((line) => line.points.length), cursor: model.step});
      losses.update({series: loss, cursor: model.step});
      const python = `# each checkpoint's own text (ti.generate), and what of it is copied\n${points.map(([, reply]) => reply.python).join("\n")}\n${records.python}`;
      grown.show({python}, drawing, linesTable("step", [...own.map((line) => ({...line, name: `longest, ${line.name}`})), ...share.map((line) => ({...line, name: `share, ${line.name}`})), ...loss]));
    }

    return async (model) => {
      turn += 1;
      if (pasted()) {
        const own = get("text");
        if (!own) marked.show(null, h("p", {class: "note"}, "Paste a text above."), null);
        else draw(await call(model, "memorised", {text: own, shortest: setting("shortest")}), own, "");
      } else {
        const asked = writing(context), {text: written} = (await call(model, "generate", asked)).data;
        if (!written) marked.show(null, h("p", {class: "note"}, "The model ended the text at once; another seed or beginning helps."), null);
        else draw(await call(model, "memorised", {text: written, shortest: setting("shortest")}), written, asked.prompt);
      }
      grown.hidden = pasted();
      if (!pasted()) wantGrown(model);
    };
  },
};

const where = (span) => `in training document ${number(span.document)}`;

/** What the two figures say beside each other. */
function verdict({longest, share, bytes, held_out: heldOut}) {
  if (!longest) return "No copy of that length: the model composed this text from shorter pieces.";
  if (!heldOut) return `The longest copy has ${number(longest)} bytes. There is no unseen text to hold it against.`;
  if (share > 0.999) return heldOut.share > 0.9 ? "All of it stands in the training text, and so does nearly all of the unseen text: these texts are much alike." : "All of it stands in the training text, word for word: it is recited.";
  if (longest > 1.5 * heldOut.longest && longest >= 40) return "The longest copy is far longer than any in unseen text: parts of this are recited.";
  if (longest > heldOut.longest) return "Its copies are longer than those in unseen text of the same length, but not by much.";
  return "Its copies are no longer than those in text that the model has never seen: ordinary phrases, not learnt by heart.";
}
