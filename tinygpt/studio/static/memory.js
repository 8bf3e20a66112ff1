// The last answer to each question of a pane, so that a choice that changes only the drawing asks nothing anew.

import {call} from "./api.js";

/** ask(model, name, given, as): as `call`, and the answer at hand if the last question under that name was the same. */
export function memory() {
  const kept = new Map();
  return (model, name, given = {}, as = name) => {
    const key = JSON.stringify([model.run, model.step, name, given]);
    if (kept.get(as)?.key !== key) {
      const answer = call(model, name, given);
      kept.set(as, {key, answer});
      answer.catch(() => { if (kept.get(as)?.answer === answer) kept.delete(as); });
    }
    return kept.get(as).answer;
  };
}

/** Run `work` at most every `ms`, the last wish for certain. */
export function atMost(ms, work) {
  let timer = null, last = 0, wish = null;
  return (...given) => {
    wish = given;
    timer ??= setTimeout(() => {
      timer = null;
      last = Date.now();
      work(...wish);
    }, Math.max(0, last + ms - Date.now()));
  };
}
