// Controls that several pages share: the prompt, and the position in it.

import {h, labelled} from "./dom.js";
import {get, getNumber, set} from "./state.js";

/** The prompt of the address, else an opening in the run's own style. */
export const promptOf = (context) => get("prompt", context.run?.opening ?? "Once upon a time");

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
