// Runs side by side: what was set differently, and what came of it.

import {call, compare} from "../api.js";
import {bars} from "../bars.js";
import {announce, choice, h, number, percent, toggle} from "../dom.js";
import {figure} from "../figure.js";
import {lines, linesTable} from "../lines.js";
import {later, promptBox, promptOf} from "../parts.js";
import {get, getJson, set} from "../state.js";

const FEWEST = 2, MOST = 6, BARS = 6, WRITTEN = 40, REFRESH_MS = 5000;
const AXES = [["step", "steps"], ["tokens", "tokens read"], ["time_s", "seconds"], ["bytes", "bytes of text read"]];
const FIGURES = [
  ["best bits per byte", (run) => run.val_bpb], ["at step", (run) => run.best_step], ["steps", (run) => run.steps], ["tokens read", (run) => run.tokens],
  ["seconds", (run) => (run.time_s === null ? null : Math.round(run.time_s))], ["parameters", (run) => run.parameters],
];

/** The runs of the address that there are; else the shown one and the next. */
function chosen(context) {
  const known = context.runs.map((run) => run.name), asked = getJson("runs", null);
  if (Array.isArray(asked)) return asked.filter((name) => known.includes(name)).slice(0, MOST);
  return [context.run.name, ...known.filter((name) => name !== context.run.name)].slice(0, FEWEST);
}

export default {
  about: "One change, one effect: runs are only worth comparing where little else differs. The table says what was set differently; the curves and the words of each run say what came of it.",
  needs: "run",

  controls(root, context) {
    const boxes = context.runs.slice(0, 40).map((run) => {
      const box = toggle(run.name, chosen(context).includes(run.name), (on) => {
        const names = on ? [...chosen(context), run.name] : chosen(context).filter((name) => name !== run.name);
        if (names.length > MOST) { box.set(false); announce(`${MOST} runs at most.`); return; }
        set({runs: names});
      });
      return box;
    });
    root.append(h("fieldset", {class: "wide"}, h("legend", {}, `Runs (${FEWEST} to ${MOST})`), boxes),
      choice("Curves over", AXES, get("axis", "step"), (axis) => set({axis: axis === "step" ? null : axis})),
      choice("Figure", [["bpb", "bits per byte"], ["loss", "loss, nats per token"]], get("figure", "bpb"), (value) => set({figure: value === "bpb" ? null : value})),
      toggle("Horizontal log scale", get("logx") === "1", (on) => set({logx: on ? "1" : null})), toggle("Vertical log scale", get("logy") === "1", (on) => set({logy: on ? "1" : null})));
  },

  view(root, context) {
    const said = h("p", {class: "finding", role: "status"});
    root.append(said);
    const settings = figure(root, "What differs", "Settings that are not the same in all runs, and the figures that came of them.");
    const unseen = figure(root, "On unseen text", "The lower, the better. Bits per byte compare across vocabularies; nats per token only where the vocabulary is the same.");
    const seen = figure(root, "While training", "The same on the text that was just being read; noisy, since every step reads other pieces.");
    const unseenChart = lines({label: "On unseen text"}), seenChart = lines({label: "While training"});
    const tried = figure(root, "One prompt through all", "Each run's probabilities for the next token, and how it goes on when the likeliest token is taken each time.");
    const which = choice("Weights of each run", [["best", "its best checkpoint"], ["last", "its last checkpoint"]], get("weights", "best"), (value) => set({weights: value === "best" ? null : value}));
    const grid = h("div", {class: "columns three"}, []), triedSaid = h("p", {class: "finding", role: "status"}), triedBody = h("div", {}, promptBox(context), which, triedSaid, grid);
    let asked = "", reply = null;
    const timer = setInterval(() => { if (chosen(context).some((name) => context.runs.find((run) => run.name === name)?.training)) set({}); }, REFRESH_MS);
    context.ended.push(() => clearInterval(timer));

    const wantPrompt = later(async (names) => {
      const prompt = promptOf(context), weights = get("weights", "best");
      const answers = [];
      for (const name of names) {
        const model = {run: name, step: weights};
        try {
          const [next, text] = await Promise.all([call(model, "next_token", {prompt, most: BARS}), call(model, "generate", {prompt, max_new_tokens: WRITTEN, temperature: 0})]);
          answers.push({name, next, text});
        } catch (error) {
          if (error.name !== "Refused") throw error;
          answers.push({name, error});
        }
      }
      const good = answers.filter((answer) => !answer.error);
      grid.replaceChildren(...answers.map(({name, next, text, error}) => h("section", {class: "run-answer"}, h("h4", {}, name), error
        ? h("p", {class: "error"}, error.message)
        : [bars([...next.data.rows.map((row) => ({name: row.shown, value: row.probability})), {name: "all others", value: next.data.others.before}], {max: 1, format: percent}), h("p", {class: "text"}, h("span", {class: "given-text"}, prompt), text.data.text)])));
      const same = good.length === answers.length && new Set(good.map((answer) => JSON.stringify([answer.next.data, answer.text.data]))).size === 1;
      triedSaid.textContent = good.length > 1 && same ? "No difference: the same probabilities and the same text." : "";
      triedSaid.hidden = !triedSaid.textContent;
      const tokens = [...new Set(good.flatMap((answer) => answer.next.data.rows.map((row) => row.shown)))];
      tried.show(good.length ? {python: good.flatMap((answer) => [answer.next.python, answer.text.python]).join("\n")} : null, triedBody, {columns: ["token", ...good.map((answer) => answer.name)], rows: tokens.map((token) => [token, ...good.map((answer) => answer.next.data.rows.find((row) => row.shown === token)?.probability ?? null)])});
    }, (error) => { triedSaid.hidden = false; triedSaid.textContent = error.message; tried.show(null, triedBody, null); });

    return async () => {
      const names = chosen(context);
      for (const one of [settings, unseen, seen, tried]) one.hidden = names.length < FEWEST;
      if (names.length < FEWEST) {
        said.textContent = context.runs.length < FEWEST ? "There is only one run; fork it on the page Training, with one thing changed, and compare." : "Choose two runs or more.";
        return;
      }
      const wanted = JSON.stringify(names.map((name) => [name, context.runs.find((run) => run.name === name)?.step]));
      if (wanted !== asked) { reply = await compare(names); asked = wanted; }
      const {runs, settings: differing, same_validation_text: sameText, curves} = reply.data;
      drawTable(runs, differing);
      const axis = get("axis", "step"), figureName = get("figure", "bpb"), yName = figureName === "bpb" ? "bits per byte" : "nats per token", xName = AXES.find(([name]) => name === axis)?.[1] ?? "steps";
      const of = (part) => curves.map((curve) => ({name: curve.run, points: (curve[part][axis] ?? []).map((x, i) => [x, curve[part][figureName][i]]).filter(([x, y]) => Number.isFinite(x) && Number.isFinite(y))})).filter((line) => line.points.length);
      for (const [chart, one, part] of [[unseenChart, unseen, "val"], [seenChart, seen, "train"]]) {
        const series = of(part);
        chart.update({series, logX: get("logx") === "1", logY: get("logy") === "1", xName, yName});
        one.show(reply, chart, linesTable(xName, series));
      }
      said.textContent = verdict(runs, differing, sameText, curves);
      wantPrompt(names);
    };

    function drawTable(runs, differing) {
      const columns = ["setting or figure", ...runs.map((run) => run.run)];
      const rows = [...Object.entries(differing).map(([name, values]) => [name, ...values.map((value) => (typeof value === "number" ? value : String(value)))]), ...FIGURES.map(([name, read]) => [name, ...runs.map(read)])];
      const cell = (value) => h("td", {class: typeof value === "number" ? "number" : null}, typeof value === "number" ? number(value, 4) : value ?? "–");
      const body = (part) => part.map(([name, ...values]) => h("tr", {}, h("th", {scope: "row"}, name), values.map(cell)));
      const n = Object.keys(differing).length;
      const table = h("table", {class: "compared"}, h("thead", {}, h("tr", {}, columns.map((name) => h("th", {scope: "col"}, name)))),
        h("tbody", {}, h("tr", {}, h("th", {scope: "rowgroup", colspan: columns.length, class: "compared-part"}, n ? "settings that differ" : "settings: all the same")), body(rows.slice(0, n))),
        h("tbody", {}, h("tr", {}, h("th", {scope: "rowgroup", colspan: columns.length, class: "compared-part"}, "what came of it")), body(rows.slice(n))));
      settings.show(reply, h("div", {class: "scroll", tabindex: "0", role: "region", "aria-label": "What differs"}, table), {columns, rows});
    }
  },
};

/** What can be said at once: no difference, or which is best, and what to beware of. */
function verdict(runs, differing, sameText, curves) {
  const changed = Object.keys(differing), {length} = runs;
  const course = new Set(curves.map(({train, val}) => JSON.stringify([train.step, train.loss, val.step, val.loss])));
  if (!changed.length && course.size === 1) return "No difference: the same settings, and the same figures at every step.";
  if (!sameText) return "Beware: these runs were judged on different texts, so their figures do not compare.";
  const judged = runs.filter((run) => Number.isFinite(run.val_bpb));
  if (judged.length < length) return "Not every run has a figure on unseen text yet.";
  const [best, next] = [...judged].sort((a, b) => a.val_bpb - b.val_bpb);
  const same = best.val_bpb === next.val_bpb;
  const result = same ? `${best.run} and ${next.run} share the best figure, ${number(best.val_bpb)} bits per byte.` : `${best.run} is best on unseen text: ${number(best.val_bpb)} bits per byte, ${next.run} follows with ${number(next.val_bpb)}.`;
  return changed.length === 1 ? `One setting differs: ${changed[0]}. ${result}` : changed.length ? `${result} ${changed.length} settings differ, so the cause is not told apart.` : `${result} No setting differs; what is left is chance, or a run that is not finished.`;
}
