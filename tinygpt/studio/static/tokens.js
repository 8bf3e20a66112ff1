// A text as its tokens: a row of pieces, each of which can be picked with the mouse or the arrow keys.

import {colour, onColour} from "./colour.js";
import {h} from "./dom.js";

/**
 * pieces(tokens, {picked, onpick, share, note, label}): tokens of {shown, id}. share(i) in 0..1 colours a piece;
 * note(i) stands below it. Arrow keys move the choice.
 */
export function pieces(tokens, {picked = null, onpick = null, share = null, note = null, label = "Tokens", limit = 600} = {}) {
  const choose = (i, focus) => {
    onpick(i);
    if (focus) requestAnimationFrame(() => list.isConnected && list.querySelectorAll("button")[i]?.focus());
  };
  const list = h("ol", {class: "pieces", "aria-label": label}, tokens.slice(0, limit).map((token, i) => {
    const style = share ? {background: colour(share(i)), color: onColour(share(i))} : {};
    const inner = [h("span", {class: "piece-text"}, token.shown), note && h("span", {class: "piece-note"}, note(i))];
    const kind = `piece${share ? "" : ` shade-${i % 4}`}${picked === i ? " picked" : ""}`;
    return h("li", {}, onpick
      ? h("button", {type: "button", class: kind, style, "aria-pressed": String(picked === i), tabindex: picked === i || (picked === null && i === 0) ? "0" : "-1", title: `token ${token.id}`,
        onclick: () => choose(i, true), onkeydown: (event) => {
          const to = {ArrowRight: i + 1, ArrowLeft: i - 1, Home: 0, End: tokens.length - 1}[event.key];
          if (to === undefined) return;
          event.preventDefault();
          if (to >= 0 && to < tokens.length) choose(to, true);
        }}, inner)
      : h("span", {class: kind, style, title: `token ${token.id}`}, inner));
  }));
  if (tokens.length > limit) list.append(h("li", {class: "note"}, `… ${tokens.length - limit} more`));
  return list;
}
