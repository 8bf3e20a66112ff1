// Controls that several pages share: the prompt, and the position in it.

import {callRun} from "./api.js";
import {h, labelled} from "./dom.js";
import {get, getNumber, set} from "./state.js";

/** The prompt of the address, else an opening in the run's own style. */
export const promptOf = (context) => get("prompt", context.run?.opening || "Once upon a time");

/** A field for the prompt that redraws at every key. */
export function promptBox(context, words = "Prompt") {
  const input = h("textarea", {rows: 2, spellcheck: "false", autocomplete: "off", value: promptOf(context), "data-prompt": "", oninput: () => set({prompt: input.value, position: null})});
  const element = labelled(words, input);
  element.classList.add("prompt");
  return element;
}

/** The chosen position of `tokens`: the address's if there is such a one, else the last. */
export function positionOf(tokens, name = "position") {
  const at = getNumber(name, tokens.length - 1);
  return at >= 0 && at < tokens.length ? at : tokens.length - 1;
}

/** Words for a token in a sentence. */
export const quoted = (token) => `“${token.shown}”`;

/**
 * What stands lower on a page is asked for a moment later, one question at a time and only for the newest wish, so that
 * it never holds up the figure under the reader's hands. Returns want(...arguments) for `work(...arguments)`.
 */
export function later(work, failed, wait = 350) {
  let wish = null, timer = null, busy = false;
  async function go() {
    timer = null;
    if (busy) return;
    busy = true;
    while (wish) {
      const given = wish;
      wish = null;
      try {
        await work(...given);
      } catch (error) {
        if (error.name !== "Refused") console.error(error);
        failed(error);
      }
    }
    busy = false;
    dispatchEvent(new CustomEvent("drawn", {detail: "later"}));
  }
  return (...given) => {
    wish = given;
    if (busy) return;
    clearTimeout(timer); // not while somebody still types or drags
    timer = setTimeout(go, wait);
  };
}

const SIGNS = {"\u00b7": " ", "\u00b6": "\n", "\\t": "\t", "\\r": "\r", "\\\\": "\\"};
const WRITTEN = /\\x[0-9a-f]{2}|\\u[0-9a-f]{4}|\\U[0-9a-f]{8}|\\[tr\\]|[^]/gu;

/** The text of tokens from what is shown of them (`visible` of tokens.py); null if it ends inside a character. */
export function textOf(tokens) {
  const bytes = [], encoder = new TextEncoder();
  for (const {shown, id} of tokens) {
    if (isSpecial({shown, id})) continue;
    for (const [sign] of shown.matchAll(WRITTEN)) {
      const code = /^\\[xuU]/.test(sign) ? parseInt(sign.slice(2), 16) : null;
      if (sign.startsWith("\\x") && code !== null) bytes.push(code);
      else bytes.push(...encoder.encode(code === null ? SIGNS[sign] ?? sign : String.fromCodePoint(code)));
    }
  }
  try {
    return new TextDecoder("utf-8", {fatal: true, ignoreBOM: true}).decode(new Uint8Array(bytes));
  } catch {
    return null;
  }
}

/** Whether a token is no text: <bos>, <eos>. */
export const isSpecial = (token) => token.id < 3 && /^<(bos|eos|unk|pad)>$/.test(token.shown);

/** All records of a run, however many replies they take: {data, python}, as of `records`. */
export async function recordsOf(run) {
  let reply = await callRun(run, "records");
  const {data, python} = reply;
  while (reply.truncated) {
    reply = await callRun(run, "records", {since: reply.data.next});
    data.records.push(...reply.data.records);
    data.samples.push(...reply.data.samples);
    data.next = reply.data.next;
  }
  return {data, python};
}

/** The step of `run` whose weights were kept nearest to `x`. */
export const nearestStep = (run, x) => run.steps.map((entry) => entry.step).reduce((best, step) => (best === null || Math.abs(step - x) < Math.abs(best - x) ? step : best), null);
