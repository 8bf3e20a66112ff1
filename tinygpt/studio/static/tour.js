// The guided tour: a guess first, then a deed on the page; a stop is finished by doing it, not by pressing "next".

import {announce, h} from "./dom.js";
import {address, go, pageId, set} from "./state.js";

/**
 * The stops: page, title, question with choices [words, what to say to it], the deed in words, `done(deed, detail, seen)`
 * (seen: what this stop remembers), and what it showed. What is said to a choice may be a function of whether the first
 * weights of the run were counted from pairs.
 */
const STOPS = [
  {
    page: "tokenizer", title: "Your name in bytes", question: "How many bytes does the name Zoë take?",
    choices: [["3, one for each letter", "Plain Latin letters take one byte each, but ë is not one of those 128: UTF-8 writes it in two."], ["4", "Right: Z and o take one byte each, ë takes two."], ["12, four for each letter", "Four bytes a letter is UTF-32. UTF-8 spends one on the commonest letters and up to four on rare ones."]],
    deed: "Type your own name into the text field and look at the bytes of its pieces.", done: (deed, detail) => deed === "typed" && detail.text.trim().length > 1,
    shown: "The model never sees letters. It sees bytes, joined to tokens where the training text had them often.",
  },
  {
    page: "tokenizer", title: "The first merge", question: "Which pair of bytes is joined first?",
    choices: [["the one that stands most often in the text", "Right: byte-pair encoding counts neighbours inside words and joins the most frequent pair, again and again."], ["the one that comes first in the text", "The place does not matter; only how often a pair occurs."], ["the first two letters of the alphabet", "Nothing knows about alphabets here: only counts."]],
    deed: "Move the merge slider to 0, then up again until two bytes of your text join.", done: (deed, detail, seen) => { if (deed !== "replay") return false; if (detail.upto === 0) seen.zero = true; return Boolean(seen.zero) && detail.upto > 0 && detail.merged; },
    shown: "Every token longer than a byte has such a history. Frequent words end as one token; rare names stay in pieces.",
  },
  {
    page: "tokenizer", title: "How large a vocabulary?", question: "If the vocabulary doubles, how many tokens does the same text need?",
    choices: [["half as many", "That would need every new token to join two old ones everywhere. Later merges are rarer and rarer."], ["just as many", "Some pairs do get joined, so the text gets shorter."], ["somewhat fewer: each new merge is rarer than the last", "Right: the curve flattens, while the embedding table keeps growing."]],
    deed: "Move the vocabulary slider and watch the bytes per token.", done: (deed) => deed === "vocabulary",
    shown: "That is why loss per token misleads: with larger tokens each one carries more. Bits per byte compare.",
  },
  {
    page: "embeddings", title: "Neighbours", question: "Before the first step of training, which tokens lie near to a word?",
    choices: [["words of similar meaning", (counted) => (counted ? "Nobody has told it meanings. This run’s first vectors were counted: near are tokens after which the same tokens follow, which are often words of one kind." : "Random first vectors know no meanings.")], ["whatever chance put there", (counted) => (counted ? "So it is with random first weights. This run’s were counted from pairs of tokens: near are those after which the same tokens follow." : "Right: random first vectors have neighbours by chance.")], ["words of similar spelling", "The model does not see spelling: to it a token is a number."], ["those after which the same tokens follow", (counted) => (counted ? "Right: this run’s first weights were counted from pairs of tokens, so it begins with that." : "That has to be learnt: this run began with random numbers. With counted first weights (setting start) it would be so.")]],
    deed: "Pick a token, and look at its neighbours at step 0 and at the last step (the checkpoint slider is in the header).", done: (deed, detail, seen) => { if (deed !== "neighbours") return false; if (detail.first) seen.first = true; if (detail.last) seen.last = true; return Boolean(seen.first && seen.last); },
    shown: "Tokens that are used alike end nearer to each other than to others. What training does to a rare token depends on whether the head shares the table: the page says it for this run.",
  },
  {
    page: "generate", title: "Your guess against its guess", question: "Does the model know one next token, or something else?",
    choices: [["one token", "It gives every token of the vocabulary a probability; sampling then picks one."], ["a probability for every token", "Right: always a whole distribution. What is written depends on the draw, too."], ["a whole sentence", "Only one token at a time; sentences come from repeating it."]],
    deed: "Type a beginning of your own, write down your guess of the next token, then uncover the bars.", done: (deed) => deed === "guess",
    shown: "The surprise at what really follows, averaged, is the loss that training makes small.",
  },
  {
    page: "attention", title: "Without the mask", question: "The mask hides later tokens. What happens to the prediction at an early token if a later word changes?",
    choices: [["nothing, with the mask; it moves, without", "Right: that is what the mask is for. Without it, training would be copying the answer."], ["it moves in both cases", "With the mask it cannot: later tokens never enter the sum."], ["nothing in both cases", "Without the mask, later tokens are looked at like all others."]],
    deed: "Switch the mask off, then change a later word of the prompt.", done: (deed, _, seen) => { if (deed === "mask_off") seen.off = true; return deed === "edit_after_mask_off" && Boolean(seen.off); },
    shown: "With the mask, a later word changes nothing before it, by exactly 0. Without it this model reads what it has never learnt to use: measure the held-out loss.",
  },
  {
    page: "attention", title: "Take a head away", question: "What happens to the model if one head is set to zero?",
    choices: [["it writes nonsense", "Seldom for want of one: the other heads and the residual stream carry on. Without all of them it would."], ["nothing at all, ever", "Some heads cost far more than others. Only trying tells."], ["it depends on the head: measure it", "Right. A label says what a head looks at; ablation says whether it matters."]],
    deed: "Find the head with the highest previous-token score (the Table button lists them), pick it, and set it to zero.", done: (deed, detail) => deed === "ablate" && detail.best,
    shown: "What a head looks at and whether it matters are two questions. Here you see both.",
  },
  {
    page: "lens", title: "Reading the layers", question: "At which layer does the model know the answer?",
    choices: [["at the last one only", "The rows before it often have the same token first; how often, the page shows for each place."], ["it grows over the layers", "Right: each block adds to the stream, and on the whole the answer rises through the ranks, if not at every step."], ["at the embedding", "The embedding knows only which token stands there, and at most where: a table of pairs at best."]],
    deed: "Choose a cell as the target (click it, or walk there with the arrow keys and press Enter), and follow its rank over the layers.", done: (deed) => deed === "lens",
    shown: "The last row is the model's output; the rows above are what it would say if it stopped there.",
  },
  {
    page: "generate", title: "Hotter", question: "What does temperature 1.5 do to the bars?",
    choices: [["it makes them more alike", "Right: scores are divided by 1.5 before the softmax, so unlikely tokens get a larger chance."], ["it makes the tallest one taller", "That is a temperature below 1."], ["it changes their order", "The order stays; only the distances change."]],
    deed: "Raise the temperature to 1.5.", done: (deed, detail) => deed === "temperature" && detail.value >= 1.5,
    shown: "Temperature changes the draw, not the model: the probabilities it was trained for are those at 1.",
  },
  {
    page: "training", title: "Watch it grow", question: "With random first weights, what does a model learn first?",
    choices: [["grammar", "Grammar takes more than one token of context; that comes after frequencies and pairs."], ["how often each token occurs", (counted) => `Right: frequencies first, then pairs, then what pairs cannot say.${counted ? " This run was given its pairs by counting (setting start), so it begins behind both; fork it with random first weights to see them come." : ""}`], ["the first sentence of the text", "Only a text that it reads again and again is learnt by heart, and late."]],
    deed: "Drag the checkpoint slider in the header from step 0 to the last step.", done: (deed) => deed === "slider_moved",
    shown: "The same slider drives every page: watch a head begin to look at the token before, or words gather on the map.",
  },
  {
    page: "memorisation", title: "Learning by heart", question: "A small model reads 20 KB of text more than a hundred times. What will it write?",
    choices: [["sentences of that text, word for word", "Right: with so little text, reciting is the cheapest way to a low loss."], ["new sentences in that style", "For that it needs more text: what comes again and again is learnt word for word."], ["nothing sensible", "On the contrary: where it recites, it writes like the text itself."]],
    deed: "On the Training page, train 1,000 steps on 20 KB of text of your own. Then let its last step (the slider; its best one has hardly begun to recite) go on here from words of that text, and find what it recites: 40 bytes or more, and far more than is found of unseen text.", done: (deed, detail) => deed === "memorised" && detail.longest >= 40 && detail.longest > 1.5 * detail.unseen,
    shown: "The figure beside it, for text it has never seen, tells copying from ordinary phrases.",
  },
];

const KEY = "tinygpt-tour";
let progress = read(), bar = null, shownRun = null;

function read() {
  try {
    return {stop: 0, open: false, guess: null, finished: false, seen: {}, ...JSON.parse(localStorage.getItem(KEY))};
  } catch {
    return {stop: 0, open: false, guess: null, finished: false, seen: {}};
  }
}

function change(patch) {
  progress = {...progress, ...patch};
  localStorage.setItem(KEY, JSON.stringify(progress));
  if (!bar?.isConnected) return;
  const held = bar.contains(document.activeElement);
  bar.replaceWith(tourBar());
  if (held) toTour();
}

/** Put the focus where the tour goes on: on the guess that was made, on the first choice, or on what leads further. */
export function toTour() {
  const next = ["button.go", ".answers [aria-pressed='true']", ".answers button", "button"].map((one) => bar?.querySelector(one)).find(Boolean);
  next?.focus();
  next?.scrollIntoView({block: "nearest"});
}

/** Go to a page of the tour, and on with it there. */
function lead(page) {
  addEventListener("opened", toTour, {once: true});
  go(address(page));
}

addEventListener("keydown", (event) => { // from anywhere on a page back to what the tour asks
  if (event.code !== "KeyT" || !event.altKey || event.ctrlKey || event.metaKey || !progress.open) return;
  event.preventDefault();
  toTour();
});

/** What there is to say to a choice, about the run that is shown. */
const answerTo = ([, words]) => (typeof words === "function" ? words(shownRun?.start === "pairs") : words);

/** A page tells of a deed; if it is what the stop asks for, the stop is finished. */
export function did(deed, detail = {}) {
  const stop = STOPS[progress.stop];
  if (!progress.open || !stop || progress.finished || progress.guess === null) return;
  const seen = {...progress.seen};
  if (stop.done(deed, detail, seen)) {
    change({finished: true, seen});
    announce(`Done. ${stop.shown} Alt and T lead back to the tour.`);
  } else if (JSON.stringify(seen) !== JSON.stringify(progress.seen)) change({seen});
}

/** The tour as it stands, for the top of a page that shows `run`. */
export function tourBar(run = shownRun) {
  shownRun = run;
  bar = build();
  return bar;
}

function build() {
  const stop = STOPS[progress.stop];
  const closed = h("div", {class: "row tour-closed"});
  if (!progress.open) {
    if (pageId() === "home" || progress.stop > 0) closed.append(h("button", {type: "button", class: progress.stop ? "small" : "", onclick: () => change({open: true})}, progress.stop >= STOPS.length ? "The tour again" : progress.stop ? `Go on with the tour (stop ${progress.stop + 1} of ${STOPS.length})` : `Take the guided tour (${STOPS.length} stops, about 40 minutes)`));
    return closed;
  }
  const hide = h("button", {type: "button", class: "small", onclick: () => change({open: false})}, "Hide the tour");
  if (!stop) {
    return h("section", {class: "tour", "aria-label": "Tour"}, h("h2", {}, "The tour is over"), h("p", {}, "You have seen how text becomes tokens, tokens become vectors, vectors look at each other, and how all of that grew. What next? Change a setting, fork a run, and compare."), h("div", {class: "row"}, h("button", {type: "button", class: "small", onclick: () => change({stop: 0, guess: null, finished: false, seen: {}})}, "From the beginning"), hide));
  }
  const head = h("div", {class: "row"}, h("h2", {}, `Stop ${progress.stop + 1} of ${STOPS.length}: ${stop.title}`), h("progress", {max: STOPS.length, value: progress.stop + (progress.finished ? 1 : 0), "aria-label": "Tour"}), hide);
  const guessed = progress.guess !== null;
  const answers = h("div", {class: "answers", role: "group", "aria-label": "Your guess"}, stop.choices.map(([words], i) => h("button", {type: "button", "aria-pressed": String(progress.guess === i), disabled: guessed && progress.guess !== i, onclick: () => {
    change({guess: i});
    announce(answerTo(stop.choices[i]));
  }}, words)));
  const here = pageId() === stop.page;
  const way = h("a", {href: address(stop.page), onclick: (event) => { event.preventDefault(); lead(stop.page); }}, "Go to the page.");
  const parts = [head];
  if (!progress.finished) parts.push(h("p", {}, h("strong", {}, "Guess first. "), stop.question), answers);
  if (guessed && !progress.finished) parts.push(h("p", {}, answerTo(stop.choices[progress.guess])), h("p", {}, h("strong", {}, "Now do it. "), stop.deed, " ", !here && way), h("p", {class: "note"}, "Alt+T leads back here from anywhere on the page."));
  if (progress.finished) parts.push(h("p", {}, h("strong", {}, "✓ Done. "), stop.shown), h("div", {class: "row"}, h("button", {type: "button", class: "primary go", onclick: () => {
    const next = STOPS[progress.stop + 1];
    change({stop: progress.stop + 1, guess: null, finished: false, seen: {}});
    set({step: null, pin: null, edits: null}); // the next stop begins with the trained model, unchanged
    scrollTo(0, 0);
    if (next && next.page !== pageId()) lead(next.page);
  }}, progress.stop + 1 < STOPS.length ? "To the next stop" : "Finish")));
  return h("section", {class: `tour${progress.finished ? " finished" : ""}`, "aria-label": "Tour"}, parts);
}
