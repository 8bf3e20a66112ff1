// How a run came to be, live: its curves beside what it could be held against, its health, its samples; and starting,
// forking and stopping small runs.

import {call, callRun, connection, follow, mayWork, startJob, stopJob} from "../api.js";
import {announce, choice, h, labelled, millions, number, percent, toggle} from "../dom.js";
import {figure, matrixTable} from "../figure.js";
import {heatmap, legend} from "../heatmap.js";
import {lines, linesTable} from "../lines.js";
import {later, nearestStep, recordsOf} from "../parts.js";
import {get, getJson, getNumber, set} from "../state.js";
import {did} from "../tour.js";

const POLL_MS = 2000, REDRAW_MS = 400;
const MOST_OVER = 4; // other runs in the same picture
const LOW = -5, HIGH = -1; // powers of ten of the ratio of an update to the weights
const MARKS = {uniform: "uniform: every token alike", unigram: "unigram: token counts", bigram: "bigram: pair counts", xz: "xz, a compressor", floor: "floor: chance in the text"};

export default {
  about: "Training shows the model a piece of text, measures how surprised it is by each next token, and turns every weight a little so that the surprise would have been smaller; then again, hundreds or thousands of times. The slider in the header goes through the checkpoints that were kept on the way.",
  needs: "run",

  controls(root, context) {
    root.append(workPanel(context));
    const others = context.runs.filter((run) => run.name !== context.run.name);
    const over = () => getJson("over", []);
    root.append(toggle("Steps on a log scale", get("logx") === "1", (on) => set({logx: on ? "1" : null})), toggle("Loss on a log scale", get("logy") === "1", (on) => set({logy: on ? "1" : null})));
    if (others.length) root.append(h("fieldset", {class: "overlay"}, h("legend", {}, `Other runs in the same picture (${MOST_OVER} at most)`), others.slice(0, 20).map((run) => {
      const box = toggle(run.name, over().includes(run.name), (on) => {
        const names = on ? [...over(), run.name] : over().filter((name) => name !== run.name);
        if (names.length > MOST_OVER) { box.set(false); announce(`${MOST_OVER} runs at most.`); return; }
        set({over: names.length ? names : null});
      });
      return box;
    })));
  },

  view(root, context) {
    const state = h("div", {});
    root.append(state);
    const jump = (point) => { const step = nearestStep(context.run, point.x); if (step !== null) set({step}); };
    const curve = (parent, title, note, yName) => {
      const made = figure(parent, title, note), chart = lines({label: title, yName, onpick: jump});
      return {draw: (reply, data, table = data.series) => { chart.update(data); made.show(reply, chart, linesTable("step", table)); }, figure: made};
    };
    const loss = curve(root, "Loss: the surprise per token", "Lower is better. The dotted line ln V is the loss of knowing nothing. Round marks are spikes: click one, or any place, to go to the nearest checkpoint.", "nats per token");
    const bpb = curve(root, "Unseen text: bits per byte", "The only figure that compares across vocabularies. Dotted: what simple methods reach on the same text; below the floor no honest model can go.", "bits per byte");
    const spikeList = h("div", {class: "row spikes"});
    loss.figure.append(spikeList);
    const small = h("div", {class: "columns three"});
    root.append(small);
    const rate = curve(small, "Learning rate", "How far each update may go.", "");
    const gradient = curve(small, "Gradient norm", "How steep the loss is. Round marks are spikes here, too.", "");
    const speed = curve(small, "Speed", "Tokens read in a second.", "tokens/s");
    const samples = figure(root, "What it writes", "A sample at the step of the slider, or the last one before it. Drag the slider from step 0 to the end and read.");
    const tables = figure(root, "How near it is to plain counting", "Distance of each checkpoint's predictions from two tables counted in the training text: how often each token occurs, and how often after the token before it. Low: it predicts like that table. Then it leaves both behind.");
    const health = figure(root, "How far each update moves the weights", "Length of an update over length of the layer's weights. It rises while the learning rate warms up and falls with it: the last updates move almost nothing.");
    const weights = figure(root, "Length of the weights", "L2 norm over the matrices of each layer.");
    const quality = context.run.tales ? figure(root, "Its stories, judged", "The built-in stories come from a grammar, so it can be checked whether a story of the model's own follows it, keeps its facts, and is new.") : null;

    // --- the records, and what comes ---
    let run = null, spikes = null, healthReply = null, over = new Map(), model = null, closed = false, following = false, stop = () => {}, timer = null;
    context.ended.push(() => { closed = true; stop(); clearTimeout(timer); });

    function take(news) {
      if (news.first < run.data.next) { run.data.records = []; run.data.samples = []; } // the log has been cut: this is all of it
      for (const record of news.records) {
        if (Number.isInteger(record.back_to)) {
          run.data.records = run.data.records.filter((r) => r.kind === "event" || (r.step ?? 0) <= record.back_to);
          run.data.samples = run.data.samples.filter((sample) => sample.step <= record.back_to);
        }
        run.data.records.push(record);
      }
      const known = new Set(run.data.samples.map((sample) => sample.step));
      run.data.samples.push(...news.samples.filter((sample) => !known.has(sample.step)));
      const was = run.data.training;
      Object.assign(run.data, {next: news.next, training: news.training, finished: news.finished, left_s: news.left_s});
      if (news.records.some((r) => r.kind === "health" || r.kind === "event" || r.kind === "eval") || was !== news.training) spikes = null;
      if (was && !news.training) { stop(); following = false; announce(`${model.run} has ended.`); }
      if (was !== news.training || news.records.some((r) => r.kind === "health" || r.kind === "eval")) context.refreshRuns().then(() => closed || set({}), () => {}); // there may be another checkpoint
      timer ??= setTimeout(async () => { timer = null; if (!closed) await draw(); }, REDRAW_MS);
    }

    function live() {
      let heard = false;
      stop = follow(`/api/runs/${encodeURIComponent(model.run)}/events?since=${run.data.next}`, (news) => { heard = true; if (!closed) take(news); }, () => { if (!closed) poll(heard); });
    }

    /** Where there is no stream, or it has broken: look from time to time, for as long as the studio answers. */
    async function poll(again) {
      while (!closed && run.data.training && !connection.lost) {
        await new Promise((go) => setTimeout(go, POLL_MS));
        if (closed || connection.lost) return; // somebody else has noticed meanwhile
        try {
          take((await callRun(model.run, "records", {since: run.data.next})).data);
        } catch (error) {
          if (error.name !== "Refused") throw error;
          return; // the page says it already
        }
        if (again) return void (run.data.training && live());
      }
    }

    // --- drawing ---
    const train = (data, field) => data.records.filter((r) => r.kind === "train" && Number.isFinite(r[field])).map((r) => [r.step, r[field]]);
    const evals = (data, field) => data.records.filter((r) => r.kind === "eval" && Number.isFinite(r[field])).map((r) => [r.step, r[field]]);
    const filled = (series) => series.filter((line) => line.points.length);

    async function draw() {
      if (!spikes) {
        const reply = healthReply = await callRun(model.run, "health");
        spikes = reply.data.spikes;
      }
      const {data} = run, common = {logX: get("logx") === "1", cursor: model.step}, logY = get("logy") === "1";
      const others = [...over].slice(0, MOST_OVER);
      const python = {python: [run, ...others.map(([, other]) => other)].map((reply) => reply.python).join("\n")};
      const spikePoints = (what) => spikes.filter((spike) => spike.what === what && spike.value !== null).map((spike) => ({x: spike.step, y: spike.value, name: words(spike)}));

      drawState(data);
      loss.draw(python, {...common, logY, series: filled([{name: "training", points: train(data, "loss")}, {name: "unseen text", points: evals(data, "val_loss")}, ...others.map(([name, other]) => ({name, points: evals(other.data, "val_loss"), faint: true}))]), marks: [["ln V", data.ln_v]], points: spikePoints("loss")});
      spikeList.replaceChildren(...(spikes.length ? [h("span", {class: "note"}, `${spikes.length} spike${spikes.length === 1 ? "" : "s"}:`), ...spikes.slice(0, 12).map((spike) => h("button", {type: "button", class: "small", onclick: () => jump({x: spike.step})}, words(spike)))] : [h("span", {class: "note"}, "No spikes: no loss or gradient norm far above the ones before it.")]));
      const marks = Object.entries(data.marks).filter(([, y]) => Number.isFinite(y)).sort(([, a], [, b]) => b - a);
      const bits = filled([{name: "unseen text", points: evals(data, "val_bpb")}, {name: "training text", points: evals(data, "train_bpb")}, ...others.map(([name, other]) => ({name, points: evals(other.data, "val_bpb"), faint: true}))]);
      bpb.draw(python, {...common, logY, series: bits, marks}, [...bits, ...marks.map(([name, y]) => ({name: MARKS[name] ?? name, points: [[data.max_steps, y]]}))]);
      bpb.figure.querySelector(".mark-values")?.remove();
      if (marks.length) bpb.figure.querySelector(".drawing").append(h("p", {class: "note mark-values"}, marks.map(([name, y]) => `${MARKS[name] ?? name} ${number(y)}`).join(" · ")));
      const single = (field) => filled([{name: model.run, points: train(data, field)}, ...others.map(([name, other]) => ({name, points: train(other.data, field), faint: true}))]);
      rate.draw(python, {...common, series: single("lr")});
      gradient.draw(python, {...common, logY, series: single("grad_norm"), points: spikePoints("gradient norm")});
      speed.draw(python, {...common, series: single("tokens_per_s")});
      drawSamples(data);
      drawHealth();
    }

    function drawState(data) {
      const last = data.records.filter((r) => r.kind === "train").at(-1), best = context.run?.val_bpb;
      const steps = Math.max(last?.step ?? 0, data.training ? 0 : context.run?.step ?? 0); // a run that is stopped saves without a record
      const fact = (name, value) => h("div", {}, h("dt", {}, name), h("dd", {}, value));
      const facts = h("dl", {class: "facts"}, fact(data.training ? "step now" : "steps", `${number(steps)} of ${number(data.max_steps)}`), last && fact("last loss", `${number(last.loss)} nats per token`), best && fact("best on unseen text", `${number(best)} bits per byte`), last && fact("tokens read", millions(last.tokens)), context.run && fact("parameters", millions(context.run.parameters)), data.training && data.left_s !== null && data.left_s !== undefined && fact("time left", duration(data.left_s)));
      const bar = data.training ? h("progress", {max: data.max_steps, value: last?.step ?? 0, "aria-label": "Progress of the training", class: "wide-progress"}) : "";
      state.replaceChildren(h("p", {class: "run-status"}, data.training ? h("span", {class: "live-mark"}, "● live") : "", data.training ? ` ${model.run} is being trained.` : data.finished ? `${model.run} is finished.` : `${model.run} has stopped before its last step; \`tinygpt train --resume --run ${model.run}\` goes on.`), facts, bar);
    }

    // --- samples ---
    const sampleText = h("p", {class: "text run-sample"}), sampleHead = h("p", {class: "sample-head"}), sampleFlags = h("p", {class: "flags"}), sampleSteps = h("div", {class: "row", role: "group", "aria-label": "Steps with a sample"});
    const sampleBody = h("div", {}, sampleSteps, sampleHead, sampleText, sampleFlags);

    function drawSamples(data) {
      if (!data.samples.length) { samples.show(run, h("p", {class: "note"}, "It has written nothing yet."), null); return; }
      const picked = data.samples.find((sample) => sample.step === getNumber("sample") && nearestStep(context.run, sample.step) === model.step); // until the slider goes on
      const shown = picked ?? data.samples.filter((sample) => sample.step <= (model.step ?? 0)).at(-1) ?? data.samples[0];
      const focus = [...sampleSteps.children].indexOf(document.activeElement);
      const few = data.samples.length > 16 ? data.samples.filter((_, i) => i % Math.ceil(data.samples.length / 16) === 0 || i === data.samples.length - 1) : data.samples;
      sampleSteps.replaceChildren(...few.map((sample) => h("button", {type: "button", class: "small", "aria-pressed": String(sample === shown), onclick: () => set({step: nearestStep(context.run, sample.step), sample: sample.step})}, number(sample.step))));
      if (focus >= 0) sampleSteps.children[focus]?.focus({preventScroll: true});
      sampleHead.textContent = `Step ${number(shown.step)}, temperature ${number(shown.temperature)}`;
      sampleText.replaceChildren(shown.prompt ? h("span", {class: "given-text"}, shown.prompt) : "", shown.text || "(it ended the text at once)");
      sampleFlags.replaceChildren(...["grammatical", "consistent", "new"].filter((name) => name in shown).map((name) => h("span", {class: `flag ${shown[name] ? "yes" : "no"}`}, `${shown[name] ? "✓" : "✗"} ${shown[name] ? "" : "not "}${name}`)));
      samples.show(run, sampleBody, {columns: ["step", ...("new" in shown ? ["grammatical", "consistent", "new"] : []), "text"], rows: data.samples.map((sample) => [sample.step, ...("new" in shown ? ["grammatical", "consistent", "new"].map((name) => (sample[name] ? "yes" : "no")) : []), sample.text])});
    }

    // --- health ---
    const ratioMap = heatmap({label: "Update over weights", onpick: (_, j) => jump({x: healthReply.data.steps[j]})}), normMap = heatmap({label: "Length of the weights", onpick: (_, j) => jump({x: healthReply.data.steps[j]})});
    const ratioBody = h("div", {}, ratioMap, legend("0.00001", "0.1")), normScale = h("div", {}), normBody = h("div", {}, normMap, normScale);

    function drawHealth() {
      const {steps, layers, weight_norm: norms, update_ratio: ratios} = healthReply.data;
      if (!steps.length) {
        health.show(healthReply, h("p", {class: "note"}, "This run wrote down no figures about its layers."), null);
        weights.hidden = true;
        return;
      }
      weights.hidden = false;
      const turned = (rows) => layers.map((_, i) => rows.map((row) => row[i]));
      const columns = steps.map(String), common = {rows: layers.map((name) => name.replace(/^block /, "")), columns, rowName: "layer", columnName: "step", cell: 34};
      const [byLayer, normsByLayer] = [turned(ratios), turned(norms)];
      ratioMap.update({...common, max: HIGH - LOW, values: byLayer.map((row) => row.map((x) => (x === null ? null : x <= 0 ? 0 : Math.max(0, Math.min(HIGH - LOW, Math.log10(x) - LOW))))), say: (i, j) => `${layers[i]}, step ${columns[j]}: an update is ${number(byLayer[i][j])} of the weights`});
      const sizes = norms.flat().filter((x) => x > 0), [least, most] = [Math.min(...sizes), Math.max(...sizes)]; // colours by the logarithm: embeddings are far longer than the rest
      normMap.update({...common, max: 1, values: normsByLayer.map((row) => row.map((x) => (x > 0 ? Math.max(0.001, Math.log(x / least) / Math.log(most / least || 2)) : 0))), say: (i, j) => `${layers[i]}, step ${columns[j]}: length ${number(normsByLayer[i][j])}`});
      normScale.replaceChildren(legend(number(least), number(most)));
      health.show(healthReply, ratioBody, matrixTable("layer", layers, columns, byLayer));
      weights.show(healthReply, normBody, matrixTable("layer", layers, columns, normsByLayer));
    }

    // --- frequencies first, then pairs ---
    const tablesChart = lines({label: "Distance from counts", yName: "nats", onpick: jump}), tablesProgress = h("p", {class: "table-said", role: "status"}), tablesBody = h("div", {}, tablesChart, tablesProgress);
    const measured = new Map();
    let turn = 0;

    function drawTables() {
      const found = [...measured].sort(([a], [b]) => a - b);
      const series = ["unigram", "bigram"].map((name) => ({name: name === "unigram" ? "from token counts" : "from pair counts", points: found.map(([step, reply]) => [step, reply.data[name]])}));
      tablesChart.update({series, logX: true, cursor: model.step});
      tables.show({python: found.map(([, reply]) => reply.python).join("\n")}, tablesBody, linesTable("step", series));
    }

    const measure = h("button", {type: "button", onclick: () => { asked = true; wantTables(); }}, "Measure the checkpoints there are");
    let asked = false;

    const wantTables = later(async () => {
      const mine = turn, steps = context.run.steps.map((entry) => entry.step);
      if (run.data.training && !asked) {
        tables.show(null, h("div", {}, h("p", {class: "note"}, "Measured when the training has ended, so as not to slow it down."), measure), null);
        return;
      }
      if (!steps.length) { tables.show(null, h("p", {class: "note"}, "There is no checkpoint yet."), null); return; }
      for (const step of steps) {
        if (!measured.has(step)) {
          if (!measured.size) tables.show(null, tablesBody, null);
          tablesProgress.textContent = `Checkpoint ${measured.size + 1} of ${steps.length} …`;
          measured.set(step, await call({run: model.run, step}, "tables"));
          drawTables();
        }
        if (closed || turn !== mine) return;
      }
      drawTables();
      tablesProgress.textContent = order();
    }, tables.fail, 600);

    /** What was learnt first, by when each table was nearest. */
    function order() {
      const nearest = (name) => [...measured].reduce((best, [step, reply]) => (reply.data[name] < best.nats ? {step, nats: reply.data[name]} : best), {step: null, nats: Infinity});
      const [singles, pairs] = [nearest("unigram"), nearest("bigram")];
      const said = `Nearest to token counts (${number(singles.nats)} nats) at step ${number(singles.step)}, to pair counts (${number(pairs.nats)}) at step ${number(pairs.step)}`;
      if (context.run.start === "pairs") return `${said}: its first weights were counted from pairs (setting start), so training begins where others must get first. Fork it with random first weights to see frequencies, then pairs.`;
      return pairs.step > singles.step ? `${said}: frequencies first, then pairs.` : `${said}.`;
    }

    // --- its stories ---
    const judge = h("button", {type: "button", onclick: () => judgeNow()}, "Let it write 20 stories and judge them"), verdicts = h("div", {}), qualityBody = h("div", {}, judge, verdicts);
    const judged = new Map();

    async function judgeNow() {
      const step = model.step;
      judge.disabled = true;
      verdicts.replaceChildren(h("p", {class: "note", role: "status"}, "It writes; this can take half a minute …"));
      try {
        judged.set(step, await call(model, "tales_quality", {count: 20}));
      } catch (error) {
        verdicts.replaceChildren(h("p", {class: "error", role: "alert"}, error.message));
        return;
      } finally {
        judge.disabled = false;
      }
      drawQuality();
    }

    function drawQuality() {
      const reply = judged.get(model.step);
      judge.textContent = `Let step ${number(model.step)} write 20 stories and judge them`;
      judge.hidden = Boolean(reply);
      if (!reply) { verdicts.replaceChildren(); quality.show(null, qualityBody, null); return; }
      const data = reply.data, fact = (name, value) => h("div", {}, h("dt", {}, name), h("dd", {}, percent(value)));
      verdicts.replaceChildren(h("p", {class: "note"}, `Step ${number(model.step)}, ${data.n} stories:`), h("dl", {class: "facts"}, fact("grammatical", data.grammatical), fact("consistent", data.consistent), fact("new", data.new), fact("of a story, before its first slip", data.grammatical_to), fact("before its first changed fact", data.consistent_to)),
        data.reasons.length ? h("details", {}, h("summary", {}, "What went wrong"), h("ul", {}, data.reasons.slice(0, 8).map((reason) => h("li", {}, reason)))) : "");
      quality.show(reply, qualityBody, {columns: ["story", "grammatical", "consistent", "reason"], rows: (data.tales ?? []).map((tale) => [tale.text, tale.grammatical ? "yes" : "no", tale.consistent ? "yes" : "no", tale.reason])});
    }

    let first = false;
    return async (next) => {
      model = next;
      turn += 1;
      run ??= await recordsOf(model.run);
      const wanted = getJson("over", []).filter((name) => name !== model.run && context.runs.some((other) => other.name === name)).slice(0, MOST_OVER);
      over = new Map(await Promise.all(wanted.map(async (name) => [name, over.get(name) ?? await recordsOf(name)])));
      await draw();
      if (quality && model.step !== null) drawQuality();
      if (measured.size) drawTables();
      wantTables();
      if ((run.data.training || model.info?.training) && !following) { following = true; live(); }
      const steps = context.run.steps.map((entry) => entry.step);
      if (model.step === steps[0]) first = true;
      if (first && steps.length > 1 && model.step === steps.at(-1)) did("slider_moved");
    };
  },
};

const words = (spike) => (spike.value === null ? `step ${number(spike.step)}: not finite, refused` : `step ${number(spike.step)}: ${spike.what} ${number(spike.value)}, usual ${number(spike.usual)}`);
const duration = (seconds) => (seconds < 90 ? `${Math.round(seconds)} s` : seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`);

// --- work ------------------------------------------------------------------------------------------------------------

const SETTINGS = [["lr", "Learning rate"], ["n_layers", "Layers"], ["n_embd", "Width"], ["batch_size", "Batch"]];

/** Start, fork, stop: what runs at this moment, and a form for another run. */
function workPanel(context) {
  const now = h("div", {class: "work-now"}), panel = h("section", {class: "work-panel wide", "aria-label": "Start, fork and stop"}, now);
  let timer = null, gone = false, awaited = null;
  context.ended.push(() => { gone = true; clearTimeout(timer); });

  async function look() {
    const {job} = context, busy = job && job.state !== "ended";
    if (awaited && job?.run === awaited && context.runs.some((run) => run.name === awaited)) {
      const name = awaited;
      awaited = null;
      set({run: name, step: null, pin: null});
      return;
    }
    drawNow(job, busy);
    if (busy && !gone && !connection.lost) timer = setTimeout(async () => { if (!connection.lost) await context.refreshRuns().catch(() => {}); if (!gone) look(); }, awaited ? 700 : POLL_MS);
  }

  function drawNow(job, busy) {
    const focus = now.contains(document.activeElement);
    if (busy) {
      const run = context.runs.find((other) => other.name === job.run);
      const halt = h("button", {type: "button", disabled: !mayWork() || job.state === "stopping", onclick: async () => {
        halt.disabled = true;
        try {
          await stopJob(job.id);
          announce("It saves and stops.");
          await context.refreshRuns();
        } catch (error) { trouble(error); }
      }}, job.state === "stopping" ? "Saving …" : "Stop and save");
      const watch = run && run.name !== context.run.name ? h("button", {type: "button", onclick: () => set({run: run.name, step: null, pin: null})}, "Watch it") : "";
      now.replaceChildren(h("div", {class: "row"}, h("strong", {}, run ? `${job.run} is being trained` : `${job.run} is being prepared: text, vocabulary, plan …`), run ? h("progress", {max: run.max_steps, value: run.step, "aria-label": `Progress of ${job.run}`}) : h("progress", {"aria-label": "Preparing"}), run ? h("span", {class: "note"}, `step ${number(run.step)} of ${number(run.max_steps)}`) : "", halt, watch));
      if (focus) (halt.disabled ? watch || halt : halt).focus?.();
    } else now.replaceChildren(...(job?.message ? [h("p", {class: "error"}, `${job.run}: ${job.message}`)] : []));
  }

  const problem = h("div", {});
  const trouble = (error) => problem.replaceChildren(h("p", {class: "error", role: "alert"}, error.message));
  panel.append(h("details", {class: "job-begin", open: get("begin") === "1", ontoggle: (event) => { if ((get("begin") === "1") !== event.target.open) set({begin: event.target.open ? "1" : null}); }}, h("summary", {}, "Train another run, or fork this one"), mayWork() ? form(context, problem, trouble, (job) => { awaited = job.run; look(); }) : h("p", {class: "note"}, "This window may look, but not start or stop work: open the address that `tinygpt studio` prints in the terminal, which carries the permission.")), problem);
  look();
  return panel;
}

function form(context, problem, trouble, started) {
  const parent = context.run.name, fields = {};
  const text = h("textarea", {rows: 5, spellcheck: "false", placeholder: "Paste a text: 20 kB can be learnt by heart, 1 MB is the most"});
  const file = h("input", {type: "file", accept: "text/plain,.txt,.md", onchange: async () => { if (file.files[0]) text.value = await file.files[0].text(); }});
  const textBox = h("div", {class: "wide"}, labelled("Text", text), labelled("or a text file", file));
  textBox.firstChild.classList.add("prompt");
  let source = "fork", unit = "same"; // one change, one effect
  const amount = h("input", {type: "number", min: 0.1, step: "any", value: 1});
  const preset = choice("Preset", [["modern", "modern"], ["gpt2", "gpt2"], ["tutorial", "tutorial"]], "modern", () => {});
  const units = choice("Length", [["minutes", "minutes"], ["steps", "steps"], ["same", `as ${parent}`]], unit, (value) => { unit = value; arrange(); });
  const name = h("input", {type: "text", autocomplete: "off", spellcheck: "false", placeholder: "by itself"});
  for (const [field, words] of SETTINGS) fields[field] = h("input", {type: "text", inputmode: "decimal", autocomplete: "off", placeholder: "by itself", "aria-label": words});
  const from = choice("Learn from", [["fork", `the text of ${parent} (fork it: same text, same settings)`], ["other", `another text, in the size of ${parent}`], ["text", "a text of my own"], ["tales", "the built-in stories"]], source, (value) => { source = value; arrange(); });
  const weights = choice("First weights", [["", "as usual"], ["random", "random"], ["pairs", "counted from pairs"]], "", () => {});
  const go = h("button", {class: "primary"}, "Start");

  function arrange() {
    textBox.hidden = source !== "text" && source !== "other";
    preset.hidden = source === "fork" || source === "other";
    for (const input of [...Object.values(fields), name]) input.placeholder = source === "fork" && input !== name ? "as it is" : "by itself";
    amount.hidden = unit === "same";
    if (source !== "fork" && unit === "same") { unit = "minutes"; units.set(unit); amount.hidden = false; }
    units.querySelector("option[value='same']").disabled = source !== "fork";
  }
  arrange();

  return h("form", {class: "job-form", onsubmit: async (event) => {
    event.preventDefault();
    problem.replaceChildren();
    const job = {kind: "train", settings: {}};
    for (const [field, input] of Object.entries(fields)) if (input.value.trim()) job.settings[field] = input.value.trim();
    if (weights.querySelector("select").value) job.settings.start = weights.querySelector("select").value;
    if (source === "fork") job.run = parent;
    else if (source === "tales") job.corpus = "tales";
    else if (!text.value) { trouble(new Error("There is no text yet: paste one, or choose a file.")); text.focus(); return; }
    else job.text = text.value;
    if (source === "other") {
      const {preset: style, n_layers, n_embd, n_heads, block_size} = context.run;
      job.preset = style;
      job.settings = {n_layers, n_embd, n_heads, block_size, ...job.settings};
    } else if (source !== "fork") job.preset = preset.querySelector("select").value;
    if (unit !== "same") job[unit] = Number(amount.value);
    if (name.value.trim()) job.name = name.value.trim();
    go.disabled = true;
    try {
      const {job: answer} = await startJob(job);
      did("job_started");
      announce(`${answer.run} begins.`);
      await context.refreshRuns();
      started(answer);
    } catch (error) { trouble(error); }
    go.disabled = false;
  }}, from, textBox, units, amount, preset, h("fieldset", {}, h("legend", {}, "Settings; empty ones are chosen by themselves"), SETTINGS.map(([field, words]) => h("div", {class: "control"}, h("span", {class: "control-name", "aria-hidden": "true"}, words), fields[field])), weights), labelled("Name", name), go);
}
