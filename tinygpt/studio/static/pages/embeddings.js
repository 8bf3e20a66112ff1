// Embeddings: the table of token vectors as a map, as neighbours, as lengths; and what a position looks like.

import {call} from "../api.js";
import {bars, barsTable} from "../bars.js";
import {announce, choice, h, labelled, number, percent, s, slider} from "../dom.js";
import {figure, matrixTable} from "../figure.js";
import {heatmap, legend} from "../heatmap.js";
import {get, getNumber, set} from "../state.js";
import {scatter} from "../scatter.js";
import {pieces} from "../tokens.js";
import {did} from "../tour.js";

const DIALS = 63; // last position that the dials can show

// What a mark may tell: the groups in the order of shapes, and the group of a point.
const BY = {
  case: ["upper or lower case", ["lower case", "Capital first", "CAPITALS", "mixed", "no letters"], (point) => ["lower", "title", "upper", "mixed", "none"].indexOf(point.case)],
  space: ["leading space", ["begins with a space", "no space before it"], (point) => (point.space ? 0 : 1)],
  vowel: ["vowel or consonant", ["begins with a vowel", "with a consonant", "no letters"], (point) => (point.vowel === null ? 2 : point.vowel ? 0 : 1)],
  digit: ["digits", ["no digit", "has a digit"], (point) => (point.digit ? 1 : 0)],
  count: ["frequency", ["10,000 times or more", "1,000 or more", "100 or more", "10 or more", "fewer than 10"], (point) => [10000, 1000, 100, 10, 0].findIndex((least) => point.count >= least)],
};

export default {
  about: "Every token has a row of numbers, its embedding. Training moves the rows until tokens that are used alike lie nearer to each other than to others. Move the checkpoint slider and watch.",
  needs: "model",
  controls(root, context) {
    const said = h("div", {class: "found", role: "status"});
    let turn = 0;
    const find = h("input", {type: "search", value: get("find"), placeholder: "a word or a letter", autocomplete: "off", spellcheck: "false", oninput: () => { set({find: find.value || null}); look(); }});
    async function look() {
      const asked = (turn += 1), text = find.value;
      if (!text.trim()) return void said.replaceChildren();
      const model = {run: context.run.name, step: context.run.steps.at(-1).step};
      const [plain, spaced] = await Promise.all([text, ` ${text.trimStart()}`].map((one) => call(model, "tokenize", {text: one}))).catch((error) => { said.textContent = error.message; return []; });
      if (asked !== turn || !plain) return;
      const whole = [spaced, plain].find((reply) => reply.data.pieces.length === 1);
      if (whole) pick(whole.data.pieces[0].id);
      const row = (words, reply) => h("div", {class: "row"}, h("span", {class: "note"}, words), pieces(reply.data.pieces, {label: words, onpick: (i) => pick(reply.data.pieces[i].id)}));
      said.replaceChildren(...(whole && spaced.data.pieces.length === 1 && plain.data.pieces.length > 1 ? [] : [row(whole ? "inside a text, after a space:" : "Not one token. Pick one of its pieces:", spaced), row("without a space before it:", plain)]));
    }
    root.append(labelled("Find a token", find),
      choice("Shape and colour by", Object.entries(BY).map(([key, [words]]) => [key, words]), get("by", "case"), (by) => set({by})),
      choice("Nearest by", [["cosine", "cosine: the angle alone"], ["dot", "dot product: angle and length"]], get("metric", "cosine"), (metric) => { set({metric}); did("metric", {metric}); }),
      h("button", {type: "button", class: "small", onclick: () => { const first = context.run.steps[0].step; set({pin: first}); announce(`Step ${first} stays beside the moving one.`); }}, "Put the first step beside it"),
      said);
    if (find.value) look();
  },
  view(root, context) {
    const left = h("div"), right = h("div");
    root.append(h("div", {class: "near-map"}, left, right));
    const map = mapFigure(left), near = nearFigure(right), norms = normFigure(left), places = positionsFigure(right);
    return async (model) => {
      const [token] = await Promise.all([chosen(model, context), places.draw(model), map.scale(model), norms.scale(model)]);
      const found = await call(model, "neighbours", {token, metric: get("metric", "cosine"), k: 12});
      const also = [token, ...found.data.neighbours.map((row) => row.id)];
      const [projected, lengths] = await Promise.all([call(model, "projection", {also, ...basis(model)}), call(model, "norms", {also: [token]})]);
      map.draw(projected, token, found);
      near.draw(found, model);
      norms.draw(lengths, token);
    };
  },
};

const pick = (token) => { set({token}); did("token", {id: token}); };

/** The token of the address, else a word that is neither among the very commonest nor rare. */
async function chosen(model, context) {
  const wanted = getNumber("token");
  if (wanted !== undefined && wanted >= 0 && wanted < context.run.vocab_size) return wanted;
  const {points} = (await call(model, "projection", basis(model))).data, word = (point) => point.space && point.case === "lower" && point.shown.length > 4;
  return (points.slice(100).find(word) ?? points.find(word) ?? points[0]).id;
}

const grouped = () => BY[get("by", "case")] ?? BY.case;
const times = (n) => `${number(n)} ${n === 1 ? "time" : "times"}`;

/** The ends of a run's checkpoints: what fixes the scales of all of them. */
const ends = (model) => [model.info.steps[0].step, model.info.steps.at(-1).step];

/** Its last checkpoint that this page knows of gives the axes, though a run that trains may have a later one by now. */
const basis = (model) => ({basis: `@${ends(model)[1]}`});

// --- the map ---------------------------------------------------------------------------------------------------------

function mapFigure(root) {
  const element = figure(root, "The embedding as a map", "The two directions in which the last checkpoint’s rows differ most. They stay fixed while the slider moves, so it is the tokens that move. Ringed: the nearest of the picked token in all directions, which a flat map cannot always show as near.");
  let shown = [];
  const map = scatter({label: "Tokens", onpick: (i) => pick(shown[i].id)}), told = h("p", {class: "note"});
  const drawing = h("div", {}, map, told);
  let box = null, scaled = null;
  element.scale = async (model) => {
    const key = `${model.run}${ends(model)}`;
    if (scaled === key) return;
    const replies = await Promise.all(ends(model).map((step) => call({...model, step}, "projection", basis(model))));
    const all = replies.flatMap((reply) => reply.data.xy);
    box = [0, 1].flatMap((axis) => margins(Math.min(...all.map((xy) => xy[axis])), Math.max(...all.map((xy) => xy[axis]))));
    scaled = key;
  };
  element.draw = (reply, token, found) => {
    const {points, xy, explained} = reply.data, [, groups, groupOf] = grouped();
    shown = points;
    const near = new Set(found.data.neighbours.map((row) => row.id));
    map.update({groups, box, named: 90, picked: index(points, token), marked: points.flatMap((point, i) => (near.has(point.id) ? [i] : [])), xName: "first direction", yName: "second direction",
      points: points.map((point, i) => ({x: xy[i][0], y: xy[i][1], name: point.shown, group: groupOf(point), say: `“${point.shown}”, ${groups[groupOf(point)]}, ${times(point.count)} in the training text`}))});
    told.textContent = `The two directions hold ${percent(explained[0] + explained[1])} of how much the rows of this checkpoint differ; the rest lies in directions that a flat map cannot show. It has the most frequent tokens, single letters, and those that are ringed.`;
    element.show(reply, drawing, {columns: ["token", "id", "first", "second", "case", "leading space", "digit", "times"], rows: points.map((point, i) => [point.shown, point.id, xy[i][0], xy[i][1], point.case, point.space ? "yes" : "no", point.digit ? "yes" : "no", point.count])});
  };
  return element;
}

const margins = (low, high) => [low - 0.06 * (high - low), high + 0.06 * (high - low)];
const index = (points, token) => { const i = points.findIndex((point) => point.id === token); return i < 0 ? null : i; };

// --- neighbours ------------------------------------------------------------------------------------------------------

function nearFigure(root) {
  const element = figure(root, "Nearest tokens");
  const note = h("p", {class: "note"}), list = h("div"), drawing = h("div", {}, note, list);
  let most = {};
  element.draw = (reply, model) => {
    const {token, count, neighbours, metric} = reply.data;
    element.rename(`Nearest to “${token.shown}”`);
    const [first, last] = ends(model), {start} = model.info, random = start === "random";
    const begun = model.step !== first || first !== 0 ? "" : random ? " At this step all rows are random numbers: these are neighbours by chance." : start === "another model" ? " At this step the rows are those of the model that this run began with (--from)." : " At this step the rows are counted from pairs of tokens (setting start): near are tokens after which the same tokens follow.";
    note.textContent = `${times(count)} in the training text.${count === 0 ? " So it has no use that its neighbours could tell of." : count < 10 ? " That is too rare to learn much about it." : ""} The number is the ${metric === "dot" ? "dot product" : "cosine: 1 is the same direction, 0 at right angles"}. Pick one to go there.${begun}`;
    if (metric === "dot") most[model.run] = Math.max(most[model.run] ?? 0, ...neighbours.map((row) => Math.abs(row.value)));
    const rows = neighbours.map((row) => ({name: row.shown, id: row.id, value: row.value, note: `× ${number(row.count)}`}));
    const focused = list.contains(document.activeElement);
    list.replaceChildren(bars(rows, {max: metric === "cosine" ? 1 : most[model.run], format: (value) => value.toFixed(3).replace("-", "−"), onpick: (row) => pick(row.id)}));
    if (focused) list.querySelector("button")?.focus({preventScroll: true});
    element.show(reply, drawing, barsTable("token", metric, rows));
    did("neighbours", {token: token.id, step: model.step, first: model.step === first, last: model.step === last});
  };
  return element;
}

// --- what use does to a token ----------------------------------------------------------------------------------------

const MEASURES = {
  start: ["What is left of the start, against frequency", "cosine with its row at the first step", "Height: the cosine of a token’s row with its own row at the first step; 1 means that it still points where it pointed then. To the right: how often the token stands in the training text."],
  norm: ["Length against frequency", "length of the row", "Height: how long each token’s row is. To the right: how often the token stands in the training text."],
};

function normFigure(root) {
  const element = figure(root, "");
  let shown = [];
  const map = scatter({label: "Tokens by frequency", onpick: (i) => pick(shown[i].id)});
  const which = choice("Height", [["start", "what is left of the start"], ["norm", "length of the row"]], get("height", "start"), (height) => set({height}));
  const note = h("p", {class: "note"}), told = h("p", {class: "note"}), drawing = h("div", {}, which, note, map, told);
  const place = (count) => Math.log10(count + 1);
  let boxes = null, scaled = null, ticks = null;
  element.scale = async (model) => {
    if (scaled === model.run) return;
    const replies = await Promise.all(ends(model).map((step) => call({...model, step}, "norms")));
    const high = 1.06 * Math.max(...replies.flatMap((reply) => reply.data.norm)), low = Math.min(-0.1, ...replies.flatMap((reply) => reply.data.start)) - 0.05, wide = Math.max(...replies[0].data.points.map((point) => place(point.count)));
    boxes = {norm: [-0.15, wide + 0.25, 0, high], start: [-0.15, wide + 0.25, low, 1.06]};
    ticks = {across: [0, 10, 100, 1000, 10000, 100000, 1000000].filter((n) => place(n) <= wide).map((n) => [place(n), number(n)]), norm: round(high), start: [[0, "0"], [0.5, "0.5"], [1, "1"]]};
    scaled = model.run;
  };
  element.draw = (reply, token) => {
    const {points, tied} = reply.data, [, groups, groupOf] = grouped(), height = get("height", "start") in MEASURES ? get("height", "start") : "start";
    const values = reply.data[height], [title, yName, words] = MEASURES[height];
    shown = points;
    element.rename(title);
    note.textContent = words;
    told.textContent = tied
      ? "Here the head shares this table. So a token that the text does not have is moved as well: every step pushes it away, because it never comes next. Rare tokens do not stay at their start either."
      : "Here the head has a table of its own. So a token that the text does not have is never moved by learning: it keeps its first direction, at 1.";
    map.update({groups, box: boxes[height], xTicks: ticks.across, yTicks: ticks[height], picked: index(points, token), named: 60, xName: "times in the training text (log)", yName,
      points: points.map((point, i) => ({x: place(point.count), y: values[i], name: point.shown, group: groupOf(point), say: `“${point.shown}”: ${yName} ${number(values[i])}, ${times(point.count)}`}))});
    element.show(reply, drawing, {columns: ["token", "id", "length", "cosine with its start", "times"], rows: points.map((point, i) => [point.shown, point.id, reply.data.norm[i], reply.data.start[i], point.count])});
  };
  return element;
}

/** Two or three round numbers below `high`, for an axis. */
function round(high) {
  const rough = high / 3, power = 10 ** Math.floor(Math.log10(rough)), step = [1, 2, 5, 10].find((m) => m * power >= rough) * power;
  return [step, 2 * step, 3 * step].filter((value) => value < high).map((value) => [value, number(value)]);
}

// --- positions -------------------------------------------------------------------------------------------------------

function positionsFigure(root) {
  const element = figure(root, "What a position looks like");
  const map = heatmap({label: "Cosine of two positions"}), note = h("p", {class: "note"}), key = legend("0", "1", true);
  const matrix = h("div", {}, h("p", {class: "note"}, "Each position of the text has a learned row. A cell is the cosine of two of them: where training has made neighbours alike, there is a strong band along the diagonal."), map, key, note);
  const dials = h("div", {class: "dials"}), told = h("p", {class: "said", role: "status"});
  const turn = slider("Position", {min: 0, max: DIALS, value: getNumber("at", 8), change: (at) => { set({at}); did("position", {at}); }});
  turn.classList.add("stretch");
  const clock = h("div", {}, h("p", {class: "note"}, "Nothing is added for a position: inside each attention, pairs of numbers are turned, like the hands of clocks. The first pairs turn fast and tell neighbours apart, the last hardly move and tell near from far. These angles are not learnt: they are the same at every step."), turn, dials, told);
  let hands = [];
  element.draw = async (model) => {
    const reply = await call(model, "positions");
    const {data} = reply;
    if (data.kind === "learned") {
      const names = data.similarity.map((_, i) => String(i * data.pooled));
      map.update({rows: names, columns: names, values: data.similarity, max: 1, cell: 9, rowName: "position", columnName: "position", say: (i, j) => `positions ${names[i]} and ${names[j]}${data.pooled > 1 ? ` (means of ${data.pooled})` : ""}: ${number(data.similarity[i][j])}`});
      element.show(reply, matrix, matrixTable("position", names, names, data.similarity));
      return;
    }
    const last = data.angle.length - 1, at = Math.min(getNumber("at", 8), last);
    if (hands.length !== data.wavelength.length) {
      hands = data.wavelength.map(() => s("line", {x1: 0, y1: 0, x2: 0, y2: -15, class: "hand"}));
      dials.replaceChildren(...data.wavelength.map((length, i) => h("div", {class: "dial"}, s("svg", {viewBox: "-20 -20 40 40", "aria-hidden": "true"}, s("circle", {r: 18, class: "face"}), s("line", {x1: 0, y1: -18, x2: 0, y2: -14, class: "zero"}), hands[i]), h("span", {}, number(length, 2)))));
    }
    turn.querySelector("input").max = last;
    hands.forEach((hand, i) => hand.style.setProperty("transform", `rotate(${data.angle[at][i]}rad)`));
    told.textContent = `At position ${at} the first pair has turned ${number(data.angle[at][0])} radians, the last ${number(data.angle[at].at(-1))}. Below each dial: the positions after which it is back.`;
    element.show(reply, clock, () => ({columns: ["pair", "back after", `angle at position ${at}`], rows: data.wavelength.map((length, i) => [i, length, data.angle[at][i]])}));
  };
  return element;
}
