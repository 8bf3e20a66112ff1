// The frame of the studio: pages, the choice of a run, and one slider over its checkpoints that drives every page.

import {connection, listRuns} from "./api.js";
import {announce, h} from "./dom.js";
import {address, get, go, listen, pageId, set} from "./state.js";
import {tourBar} from "./tour.js";

const PAGES = [
  ["", [["home", "Home"]]],
  ["Text", [["data", "Data"], ["tokenizer", "Tokenizer"]]],
  ["Inside", [["embeddings", "Embeddings"], ["forward", "Forward pass"], ["attention", "Attention"], ["lens", "Lens"]]],
  ["Writing", [["generate", "Generate"], ["memorisation", "Memorisation"]]],
  ["Growing", [["training", "Training"], ["compare", "Compare"]]],
];
const NAMES = Object.fromEntries(PAGES.flatMap(([, pages]) => pages));
const PLAY_MS = 700; // between two checkpoints
const SILENT = "the studio does not answer. Start `tinygpt studio` again, and open the address that it prints.";

const header = document.getElementById("header"), nav = document.getElementById("pages"), main = document.getElementById("page");
let runs = [], job = null, leave = () => {}, playing = null, slider = null, pinnable = false, turn = 0;

/** The run that the address names, else the one worked on last (and `strayed` says so); null if there is none. */
const chosenRun = () => runs.find((run) => run.name === get("run")) ?? runs[0] ?? null;

/** The step whose weights are shown: the address's, else the best one's, else the last. */
function chosenStep(run) {
  const steps = run.steps.map((entry) => entry.step);
  const wanted = Number(get("step", "NaN"));
  if (steps.includes(wanted)) return wanted;
  return run.steps.find((entry) => entry.best)?.step ?? steps.at(-1) ?? null;
}

/** What the address names and is not there: a sentence for each, and a way out. */
function strayed(page) {
  const run = chosenRun(), name = get("run"), step = get("step"), found = [];
  if (!run) return found;
  const out = (words, patch) => h("button", {type: "button", class: "small", onclick: () => set(patch)}, words);
  if (name && name !== run.name) found.push(h("p", {class: "error", role: "alert"}, `There is no run “${name}” in this folder; what you see is ${run.name}. Choose another one above, or `, out(`stay with ${run.name}`, {run: run.name, step: null, pin: null})));
  else if (page.needs === "model" && step && !run.steps.some((entry) => String(entry.step) === step)) found.push(h("p", {class: "error", role: "alert"}, `No weights of step “${step}” were kept in ${run.name}; what you see is step ${chosenStep(run)}. The slider above goes through all that were, or `, out(`stay at step ${chosenStep(run)}`, {step: chosenStep(run)})));
  else if (page.needs === "model" && get("pin") && !pinnedStep(run)) found.push(h("p", {class: "error", role: "alert"}, `No weights of step “${get("pin")}” were kept in ${run.name}, so it does not stand beside this one. `, out("Unpin it", {pin: null})));
  return found;
}

/** The step that stands beside the moving one, as text; "" if there is none whose weights were kept. */
const pinnedStep = (run) => (run.steps.some((entry) => String(entry.step) === get("pin")) ? get("pin") : "");

async function refreshRuns() {
  const answer = await listRuns();
  runs = answer.runs;
  job = answer.job;
}

// --- header ----------------------------------------------------------------------------------------------------------

function drawHeader() {
  if (header.querySelector("input:active")) return void setTimeout(drawHeader, 300); // it would be torn out of the hand
  const run = chosenRun(), held = document.activeElement?.dataset?.held;
  const brand = h("a", {class: "brand", href: address("home"), onclick: follow}, h("img", {src: "/static/icon.svg", alt: "", width: 24, height: 24}), "tinygpt studio");
  const parts = [brand];
  slider = run?.steps.length ? checkpointSlider(run) : null;
  if (run) {
    const choose = h("select", {"aria-label": "Run", "data-held": "run", onchange: () => set({run: choose.value, step: null, pin: null})},
      runs.map((other) => h("option", {value: other.name, selected: other.name === run.name}, `${other.name}${other.training ? " (training)" : ""}`)));
    choose.value = run.name;
    parts.push(h("div", {class: "control"}, h("span", {class: "control-name", "aria-hidden": "true"}, "Run"), choose));
    if (slider) parts.push(slider);
  }
  header.replaceChildren(...parts);
  if (held) header.querySelector(`[data-held="${held}"]`)?.focus();
}

/** The slider with its buttons; `sync()` moves them to what the address says, and leaves them in the hand that drags. */
function checkpointSlider(run) {
  const steps = run.steps.map((entry) => entry.step);
  const words = ({step, best, val_bpb: bpb}) => `step ${step.toLocaleString("en")} of ${(run.max_steps ?? steps.at(-1)).toLocaleString("en")}${best ? ", the best" : ""}${bpb ? `, ${bpb.toFixed(3)} bits per byte` : ""}`;
  const shown = h("output", {class: "value step-value"});
  const range = h("input", {type: "range", min: 0, max: steps.length - 1, step: 1, "aria-label": "Checkpoint", "data-held": "step", oninput: () => set({step: steps[Number(range.value)]})});
  const play = h("button", {type: "button", class: "small", "data-held": "play", title: "Play the training from its start", onclick: () => (playing ? stopPlaying() : startPlaying(steps))});
  const pin = h("button", {type: "button", class: "small", "data-held": "pin", title: "Keep this checkpoint beside the moving one", onclick: () => {
    const step = chosenStep(run), pinned = pinnedStep(run);
    set({pin: pinned ? null : step});
    announce(pinned ? "Only one checkpoint is shown." : `Step ${step} stays beside the moving one.`);
  }});
  const element = h("div", {class: "control checkpoint"}, h("span", {class: "control-name", "aria-hidden": "true"}, "Checkpoint"), range, shown, play, pin);
  element.sync = () => {
    const at = steps.indexOf(chosenStep(run)), entry = run.steps[at], pinned = pinnedStep(run);
    range.value = at;
    range.setAttribute("aria-valuetext", words(entry));
    shown.textContent = `${entry.step.toLocaleString("en")}${entry.best ? " ★" : ""}`;
    play.textContent = playing ? "❚❚ Stop" : "▶ Play";
    play.setAttribute("aria-pressed", String(Boolean(playing)));
    pin.hidden = !pinnable;
    pin.textContent = pinned ? `Unpin ${Number(pinned).toLocaleString("en")}` : "Pin";
    pin.setAttribute("aria-pressed", String(Boolean(pinned)));
  };
  element.sync();
  return element;
}

function startPlaying(steps) {
  let i = steps.indexOf(chosenStep(chosenRun()));
  if (i === steps.length - 1) i = -1;
  const on = () => {
    i += 1;
    if (i >= steps.length || connection.lost) return stopPlaying();
    set({step: steps[i]});
    playing = setTimeout(on, PLAY_MS);
  };
  playing = setTimeout(on, 0);
}

function stopPlaying() {
  clearTimeout(playing);
  playing = null;
  slider?.sync();
}

// --- pages -----------------------------------------------------------------------------------------------------------

function follow(event) {
  if (event.metaKey || event.ctrlKey || event.shiftKey || event.button) return;
  event.preventDefault();
  go(event.currentTarget.getAttribute("href"));
}

/** A link to another page that keeps run, checkpoint and prompt. */
export const link = (page, text, more) => h("a", {href: address(page, more), onclick: follow}, text);

function drawNav() {
  const current = pageId();
  const entry = ([id, name]) => h("a", {href: address(id), onclick: follow, "aria-current": id === current ? "page" : null}, name);
  const small = h("select", {"aria-label": "Page", onchange: () => go(address(small.value))}, Object.entries(NAMES).map(([id, name]) => h("option", {value: id, selected: id === current}, name)));
  small.value = current;
  nav.replaceChildren(h("div", {class: "narrow-only"}, small), h("div", {class: "wide-only"}, PAGES.map(([group, pages]) => h("div", {class: "nav-group"}, group && h("p", {class: "nav-title"}, group), pages.map(entry)))));
}

async function open(known = false) {
  const mine = ++turn;
  leave();
  leave = () => {};
  stopIfPlaying();
  const id = pageId(), name = NAMES[id];
  drawHeader();
  drawNav();
  document.title = name ? `${name} · tinygpt studio` : "tinygpt studio";
  main.removeAttribute("aria-busy");
  if (!name) {
    main.replaceChildren(h("h1", {}, "No such page"), h("p", {}, `There is no page ${id} here.`), h("p", {}, link("home", "Go to Home")));
    return;
  }
  const [loaded] = await Promise.allSettled([import(`./pages/${id}.js`), known ? null : refreshRuns()]); // runs come and go elsewhere, too
  if (mine !== turn) return; // somebody has gone on meanwhile
  if (loaded.status === "rejected") {
    main.replaceChildren(h("h1", {}, name), h("p", {class: "error", role: "alert"}, `This page could not be loaded: ${SILENT}`));
    return;
  }
  const page = loaded.value.default;
  pinnable = page.needs === "model";
  drawHeader();
  leave = show(page, name);
  if (document.activeElement === document.body || nav.contains(document.activeElement)) main.focus({preventScroll: true});
  scrollTo(0, 0);
  dispatchEvent(new Event("opened"));
}

const stopIfPlaying = () => playing && stopPlaying();

/**
 * Put a page up. A page is {about, needs, controls(root, context), view(root, context)}:
 * `about` two or three plain sentences; `needs` "model", "run" or nothing; `controls` builds what all panes share; `view`
 * builds one pane and returns update(model), which is called for every change of the address and draws in place.
 */
function show(page, name) {
  const run = chosenRun();
  const about = h("p", {class: "about"}, page.about), controls = h("div", {class: "controls"}), panes = h("div", {class: "panes"});
  const stray = h("div");
  main.replaceChildren(h("h1", {}, name), about, tourBar(run), stray, controls, panes);
  const context = {
    get run() { return chosenRun(); }, get runs() { return runs; }, get job() { return job; }, refreshRuns: async () => { await refreshRuns(); drawHeader(); }, link,
    ended: [], // functions to call when the page is left
  };
  if (page.needs && !run) {
    panes.append(h("p", {}, "There is no run yet. ", link("home", "Home"), " trains one on built-in stories in a minute."));
    return () => {};
  }
  if (page.needs === "model" && !run.steps.length) {
    panes.append(h("p", {}, `${run.name} has no checkpoint yet. `, link("training", "Watch it train"), "; the first comes within seconds."));
    return () => {};
  }
  page.controls?.(controls, context);
  let shown = [];

  function arrange() {
    stray.replaceChildren(...strayed(page));
    const run = chosenRun(), pin = page.needs === "model" && pinnedStep(run);
    const wanted = pin ? 2 : 1;
    if (shown.length !== wanted) {
      panes.replaceChildren();
      shown = Array.from({length: wanted}, () => pane(page, panes, context));
      panes.classList.toggle("two", wanted === 2);
    }
    const moving = {run: run?.name, step: run ? chosenStep(run) : null, info: run};
    shown[0].want(moving, wanted === 2 ? `Step ${moving.step}` : "");
    shown[1]?.want({run: run.name, step: Number(pin), info: run}, `Step ${pin} (pinned)`);
  }

  arrange();
  const deaf = listen((patch) => {
    if ("run" in patch) return void open(true);
    if ("pin" in patch || "step" in patch) { slider?.sync(); drawNav(); }
    arrange();
  });
  return () => {
    deaf();
    for (const end of context.ended) end();
    for (const one of shown) one.close();
  };
}

/** One pane: draws the newest wish, one at a time, so that fast typing never piles up questions. */
function pane(page, parent, context) {
  const title = h("h2", {class: "pane-title"}), trouble = h("div"), body = h("div", {class: "pane-body"});
  const element = h("section", {class: "pane"}, title, trouble, body);
  parent.append(element);
  const update = page.view(body, context);
  let wish = null, busy = false, closed = false;

  async function work() {
    busy = true;
    while (wish && !closed) {
      const model = wish;
      wish = null;
      const slow = setTimeout(() => element.setAttribute("aria-busy", "true"), 150);
      try {
        await update(model);
        trouble.replaceChildren();
        body.classList.remove("stale");
      } catch (error) {
        if (error.name !== "Refused") console.error(error);
        trouble.replaceChildren(h("p", {class: "error", role: "alert"}, error.message));
        body.classList.add("stale"); // what stands below answers an earlier question
      }
      clearTimeout(slow);
      element.removeAttribute("aria-busy");
    }
    busy = false;
    if (!closed) dispatchEvent(new CustomEvent("drawn", {detail: "pane"}));
  }

  return {
    want(model, name) {
      title.textContent = name;
      title.hidden = !name;
      wish = model;
      if (!busy) work();
    },
    close() { closed = true; },
  };
}

// --- begin -----------------------------------------------------------------------------------------------------------

addEventListener("navigate", () => open());
addEventListener("connection", () => {
  document.querySelector(".lost")?.remove();
  if (!connection.lost) return;
  document.body.append(h("div", {class: "error lost", role: "alert"}, `T${SILENT.slice(1)}`, h("button", {type: "button", class: "small", onclick: () => location.reload()}, "Reload")));
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => open(true));
setInterval(async () => { // a run that trains gets new checkpoints
  if (connection.lost || (!runs.some((run) => run.training) && (!job || job.state === "ended"))) return;
  const before = JSON.stringify(runs.map((run) => [run.name, run.steps.length, run.training]));
  await refreshRuns().catch(() => {});
  if (JSON.stringify(runs.map((run) => [run.name, run.steps.length, run.training])) !== before) drawHeader();
}, 5000);

try {
  await refreshRuns();
  await open(true);
} catch (error) {
  main.replaceChildren(h("h1", {}, "The studio cannot start"), h("p", {class: "error"}, error.message));
}
