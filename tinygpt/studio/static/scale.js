// Scales that stay: the same colour means the same number at every checkpoint of a run, and in both panes.

import {set} from "./state.js";

const known = new Map();

/**
 * What full colour means for `rows` of numbers under that name: the largest size seen under it since the window was
 * opened, rounded up to 1, 2 or 5 times a power of ten. When it grows, everything on the page is drawn again.
 */
export function fixedScale(name, rows, rounded = true) {
  let most = 1e-9;
  for (const row of rows) for (const value of row) if (value !== null && Math.abs(value) > most) most = Math.abs(value);
  const power = 10 ** Math.floor(Math.log10(most)), before = known.get(name);
  const wanted = rounded ? [1, 2, 5, 10].find((step) => step * power >= most * 0.999999) * power : most;
  if (before !== undefined && before >= wanted) return before;
  known.set(name, wanted);
  if (before !== undefined) setTimeout(() => set({}), 0);
  return wanted;
}
