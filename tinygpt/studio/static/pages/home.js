// Home: the model as a map. Every box can be opened; sliders show what other sizes would cost.

import {call, mayWork, startJob} from "../api.js";
import {bars} from "../bars.js";
import {announce, bytes, h, millions, number, percent, slider} from "../dom.js";
import {figure} from "../figure.js";
import {promptBox, promptOf} from "../parts.js";
import {address, get, getNumber, go, set} from "../state.js";
import {did} from "../tour.js";

const WIDTHS = [16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048];
const VOCABULARIES = [259, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536];
const MOST_DEPTH = 24;
const SHOWN_BLOCKS = 6; // of a deeper model the middle is folded
const narrow = matchMedia("(max-width: 1020px)");

const WORDS = { // by kind of box: what it does, and in one line
  embedding: ["one row of numbers for each token", "A table with a row of numbers for every token of the vocabulary. The rows of your tokens are picked out: here the stream begins, and everything later is added to it."],
  positions: ["so that order counts", "A token’s row does not say where in the text it stands. Positions tell the model the order."],
  norm: ["brings numbers to one size", "Brings the numbers of every position to one size before the next part reads them, so that the sums stay in hand however many parts have written to the stream."],
  attention: ["looks back at earlier tokens", "Every position looks back, weighs the earlier positions, and fetches something from them. This is the only kind of box in which tokens meet."],
  feed_forward: ["works on each token by itself", "Works on each position by itself: up to a wider layer, through a bend that lets some numbers pass and not others, and back down."],
  head: ["a score for every token", "Compares the end of the stream with every token of the vocabulary and gives each a score. Softmax turns the scores into probabilities."],
};

export default {
  about: "This is the whole of a language model. Your text is cut into tokens, each becomes a row of numbers, and block after block adds to it until the last row says which token comes next. Open any box.",
  controls(root, context) {
    if (!context.run?.steps.length) return;
    root.append(promptBox(context, "Your text"));
  },
  view(root, context) {
    if (!context.runs.length) return welcome(root, context);
    root.classList.add("home");
    const begun = h("p", {role: "status"});
    root.append(begun);
    const map = mapFigure(root, context), shares = sharesFigure(root);
    const list = h("section", {class: "run-list"});
    root.append(list);
    return async (model) => {
      runList(list, context, model);
      map.hidden = shares.hidden = model.step === null;
      begun.replaceChildren(...(model.step === null ? [`${model.run} has just begun, and its first checkpoint comes within seconds. `, context.link("training", "Watch it train"), "."] : []));
      if (model.step === null) return;
      const sizes = {n_embd: getNumber("width"), n_layers: getNumber("depth"), vocab_size: getNumber("vocab")};
      const own = Object.values(sizes).every((value) => value === undefined);
      const prompt = promptOf(context);
      const asked = own ? [call(model, "tokenize", {text: prompt}), call(model, "next_token", {prompt, most: 6})] : [];
      const live = Promise.all(asked).catch((error) => error);
      const reply = await call(model, "architecture", sizes);
      shares.draw(reply);
      map.draw(reply, model, own);
      const answer = await live;
      if (answer instanceof Error) throw answer;
      map.live(reply, ...answer);
    };
  },
};

// --- the first visit -------------------------------------------------------------------------------------------------

function welcome(root, context) {
  const trouble = h("div"), button = h("button", {type: "button", class: "primary large", onclick: begin}, "Train 60 seconds on built-in stories");
  async function begin() {
    button.disabled = true;
    button.textContent = "Starting …";
    try {
      const {job} = await startJob({kind: "train", minutes: 1, corpus: "tales"});
      await context.refreshRuns();
      go(address("training", job?.run ? {run: job.run} : {}));
    } catch (error) {
      trouble.replaceChildren(h("p", {class: "error", role: "alert"}, error.message));
      button.disabled = false;
      button.textContent = "Train 60 seconds on built-in stories";
    }
  }
  const stage = (n, title, text) => h("li", {}, h("span", {class: "stage-number", "aria-hidden": "true"}, n), h("div", {}, h("h3", {}, title), h("p", {}, text)));
  root.append(h("section", {class: "welcome"},
    h("div", {class: "welcome-words"},
      h("h2", {}, "Grow a language model, then look inside"),
      h("p", {}, "Nothing is trained yet. In one minute this machine can train a small model of its own that writes little stories, and every page here will show you how it works."),
      mayWork()
        ? h("p", {}, button)
        : h("p", {class: "hint-box"}, "To start work from this window, open the address that the terminal printed, with its ", h("code", {}, "#token=…"), " at the end. Or run ", h("code", {}, "tinygpt train tales --minutes 1"), " in another terminal."),
      trouble),
    h("ol", {class: "stages"},
      stage(1, "Watch it learn", "Its writing goes from a jumble of pieces to sentences while the curve falls."),
      stage(2, "Open it", "See your own text as tokens, follow it through every layer, read what each head looks at."),
      stage(3, "Touch it", "Switch parts off, turn the temperature up, drag the checkpoint back to its first step."))));
  return () => {};
}

// --- the map ---------------------------------------------------------------------------------------------------------

function mapFigure(root, context) {
  const element = figure(root, "The model as a map", "The thick line is the residual stream: one row of numbers for every token, to which each box adds. The bar in a box is its share of the trained numbers, against the largest box. Click a box, or walk with Tab and press Enter.");
  const facts = h("dl", {class: "facts"}), sliders = h("div", {class: "sizes"}), says = h("p", {class: "note plan", role: "status"});
  const map = h("div", {class: "model-map"}), side = h("div", {class: "map-side"}), detail = h("section", {class: "box-detail", "aria-label": "The box that is open"});
  const tokens = h("div", {class: "map-tokens"}), next = h("div", {class: "map-next"});
  const drawing = h("div", {class: "map-frame"}, side, map);
  side.append(sliders, says, facts);
  let built = "", boxes = new Map(), state = null, sized = "";

  function draw(reply, model, own) {
    const {data} = reply;
    state = {reply, model, own, data};
    drawSliders(model);
    says.textContent = own ? "" : `A plan for ${model.run} in another size: nobody has trained it, so it has no probabilities.`;
    facts.replaceChildren(...[["Trained numbers", data.parameters.toLocaleString("en")], ["Share of the embedding table", percent(data.embedding_share)], ["Work for one token", `${millions(data.flops_per_token)} FLOPs`], ["Reads at most", `${number(data.config.block_size)} tokens`]].map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
    const plan = JSON.stringify([data.boxes.map((box) => box.name), get("unfolded")]);
    if (plan !== built) build(data);
    built = plan;
    const most = Math.max(...data.boxes.map((box) => box.parameters));
    for (const box of data.boxes) {
      const shown = boxes.get(box.name);
      if (!shown) continue;
      if (shown.count) shown.count.textContent = millions(box.parameters);
      shown.bar?.style.setProperty("width", `${(100 * box.parameters) / most}%`);
      shown.button.setAttribute("aria-label", `${box.label}: ${number(box.parameters)} trained numbers, ${WORDS[box.kind][0]}`);
    }
    next.classList.toggle("idle", !own);
    if (!own) {
      tokens.replaceChildren(h("span", {class: "soft"}, "your text, in tokens"));
      next.replaceChildren(h("span", {class: "soft"}, "a probability for every token"));
    }
    element.show(reply, drawing, () => ({columns: ["box", "trained numbers", "FLOPs per token", "memory (bytes)", "shape", "part"], rows: data.boxes.map((box) => [box.label, box.parameters, box.flops, box.memory_bytes, box.shape, box.part])}));
    pick(get("box", "block.0.attention"), false);
  }

  function live(reply, tokenized, chances) {
    if (!tokenized) return;
    const pieces = tokenized.data.pieces;
    tokens.replaceChildren(...(pieces.length ? pieces.slice(0, 60).map((piece, i) => h("span", {class: `piece shade-${i % 4}`}, piece.shown)) : [h("span", {class: "piece shade-0"}, "<bos>")]), pieces.length > 60 && h("span", {class: "soft"}, `… ${pieces.length - 60} more`) || "");
    const rows = chances.data.rows.slice(0, 6).map((row) => ({name: row.shown, value: row.probability}));
    next.replaceChildren(bars(rows, {max: 1, format: percent}));
    element.show({...reply, python: [reply, tokenized, chances].map((one) => one.python).join("\n")}, drawing, element.table);
  }

  // Sizes stay where the hand is: built once for a run, then only moved.
  function drawSliders(model) {
    const {config} = state.data;
    if (sized !== model.run) {
      sized = model.run;
      sliders.replaceChildren();
      const listed = (values, value) => [...new Set([...values, value])].sort((a, b) => a - b);
      const base = {width: config.n_embd, depth: config.n_layers, vocab: config.vocab_size}, own = model.info; // of the run, or of the address; and of the run
      const widths = listed([...WIDTHS, own.n_embd], base.width), words = listed([...VOCABULARIES, own.vocab_size], base.vocab);
      const across = (name, text, values) => {
        return slider(text, {min: 0, max: values.length - 1, value: values.indexOf(base[name]), show: (i) => number(values[i]), change: (i) => { set({[name]: values[i]}); did("size", {[name]: values[i]}); }});
      };
      const depth = slider("Depth", {min: 1, max: Math.max(MOST_DEPTH, base.depth, own.n_layers), value: base.depth, change: (value) => { set({depth: value}); did("size", {depth: value}); }});
      const width = across("width", "Width", widths), vocab = across("vocab", "Vocabulary", words);
      const back = h("button", {type: "button", class: "small", onclick: () => { set({width: null, depth: null, vocab: null}); announce("The run’s own sizes."); }}, "Back to this run’s size");
      sliders.append(width, depth, vocab, back);
      sliders.sync = (sizes, own) => {
        width.set(Math.max(0, widths.indexOf(sizes.n_embd)));
        depth.set(sizes.n_layers);
        vocab.set(Math.max(0, words.indexOf(sizes.vocab_size)));
        back.disabled = own;
      };
    }
    sliders.sync(config, state.own);
  }

  function build(data) {
    const focused = document.activeElement?.dataset?.box;
    boxes = new Map();
    const folded = data.config.n_layers > SHOWN_BLOCKS && !get("unfolded");
    const block = (i) => data.boxes.filter((box) => box.group === `block ${i}`);
    const by = (kind, group) => data.boxes.find((box) => box.kind === kind && box.group === group);
    const parts = [
      row("ends", h("div", {class: "map-io"}, h("span", {class: "io-name"}, "Text → tokens"), tokens, context.link("tokenizer", "Tokenizer"))),
      row("whole", button(by("embedding", "input"))),
      positions(by("positions", "input"), data.config),
    ];
    for (let i = 0; i < data.config.n_layers; i += 1) {
      if (folded && i >= 2 && i < data.config.n_layers - 1) {
        if (i === 2) parts.push(h("div", {class: "map-row fold"}, h("button", {type: "button", class: "small", onclick: () => set({unfolded: 1})}, `Blocks 2 to ${data.config.n_layers - 2}: ${data.config.n_layers - 3} more of the same kind. Show them all`)));
        continue;
      }
      parts.push(h("div", {class: "map-block"}, h("p", {class: "block-name"}, `Block ${i}`), rows(block(i))));
    }
    parts.push(row("whole", button(by("norm", "output"))), row("whole", button(by("head", "output"))),
      row("ends", h("div", {class: "map-io"}, h("span", {class: "io-name"}, "What comes next?"), next, context.link("generate", "Generate"))));
    map.replaceChildren(...parts);
    if (focused) boxes.get(focused)?.button.focus({preventScroll: true});
  }

  const row = (kind, ...inner) => h("div", {class: `map-row ${kind}`}, inner);
  const plus = () => h("span", {class: "plus", "aria-hidden": "true"}, "+");

  /** The rows of a block: norm before a part stands on the way into it, norm after it stands on the stream. */
  function rows(parts) {
    const before = parts[0].kind === "norm";
    return parts.map((box, i) => {
      if (box.kind !== "norm") return before ? null : row("adds bare", plus(), button(box));
      return before ? row("adds", plus(), button(box, true), button(parts[i + 1])) : row("on-stream", button(box, true));
    }).filter(Boolean);
  }

  const positions = (box, config) => (config.positions === "learned" ? row("adds bare gives", plus(), button(box)) : row("adds bare apart", button(box)));

  function button(box, small = false) {
    const count = h("span", {class: "box-count"}), bar = h("span", {class: "box-bar"});
    const inner = small ? [h("span", {class: "box-name"}, "norm")] : [h("span", {class: "box-name"}, box.label), h("span", {class: "box-does"}, box.kind === "positions" && box.formula.includes("turn") ? "turn queries and keys, inside attention" : WORDS[box.kind][0]), count, h("span", {class: "box-track", "aria-hidden": "true"}, bar)];
    const element = h("button", {type: "button", class: `box kind-${box.kind}${small ? " pill" : ""}`, "data-box": box.name, "aria-pressed": "false", onclick: () => { set({box: box.name}); did("box", {name: box.name}); }}, inner);
    boxes.set(box.name, small ? {button: element} : {button: element, count, bar});
    return element;
  }

  function pick(name) {
    const {data} = state, box = data.boxes.find((one) => one.name === name) ?? data.boxes.find((one) => one.kind === "attention");
    for (const [other, {button}] of boxes) {
      button.setAttribute("aria-pressed", String(other === box.name));
      button.classList.toggle("picked", other === box.name);
    }
    const layer = Number(/^block\.(\d+)/.exec(box.name)?.[1] ?? NaN);
    const turned = box.kind === "positions" && box.formula.includes("turn");
    const words = turned ? " Here nothing is added: inside each attention, queries and keys are turned by an angle that grows with the position, so that a score depends on the distance of two tokens." : box.kind === "positions" ? " Here each place has a learned row that is added." : box.kind === "head" && data.tied ? " It shares its numbers with the embedding table, so it counts none of its own." : "";
    const fact = (key, value) => [h("dt", {}, key), h("dd", {}, value)];
    const names = {embeddings: "Embeddings", attention: "Attention", forward: "Forward pass", lens: "Lens", generate: "Generate", tokenizer: "Tokenizer"};
    detail.replaceChildren(
      h("div", {class: "row detail-head"}, h("span", {class: `swatch kind-${box.kind}`, "aria-hidden": "true"}), h("h3", {}, box.label), h("span", {class: "badge"}, box.part)),
      h("p", {}, WORDS[box.kind][1] + words),
      h("pre", {class: "box-formula", "aria-label": "Formula"}, box.formula),
      h("dl", {class: "detail-facts"}, fact("Gives", box.shape), fact("Trained numbers", box.parameters ? `${number(box.parameters)}` : "none of its own"), fact("Work for one token", box.flops ? `${millions(box.flops)} FLOPs` : "next to none"), fact("Memory", `${bytes(box.memory_bytes)} for ${number(data.config.block_size)} tokens`)),
      box.weights.length ? h("div", {}, h("p", {class: "weights-title"}, "Weights"), h("ul", {class: "weights"}, box.weights.map((weight) => h("li", {}, h("span", {class: "mono"}, weight.name), h("span", {class: "mono soft"}, weight.shape.map((n) => number(n)).join(" × ")))))) : "",
      h("p", {class: "see"}, context.link(box.page, `See it work: ${names[box.page] ?? box.page} →`, Number.isFinite(layer) ? {layer} : {})));
    place(box.name);
  }

  function place(name) {
    const at = narrow.matches && boxes.get(name)?.button.closest(".map-row");
    if (at) at.after(detail);
    else side.append(detail);
  }
  const moved = () => state && pick(get("box", "block.0.attention"));
  narrow.addEventListener("change", moved);
  context.ended.push(() => narrow.removeEventListener("change", moved));

  return Object.assign(element, {draw, live});
}

// --- where the numbers and the work are ------------------------------------------------------------------------------

function sharesFigure(root) {
  const element = figure(root, "Where the numbers are, and where the work is", "Each strip is the whole model, cut into its boxes in the order in which a token passes them. An embedding table is large, yet looking up a row is no work; a wide vocabulary makes the head expensive.");
  const strips = {parameters: strip("Trained numbers"), flops: strip("Work for one token")};
  const keys = h("p", {class: "legend"}, ["embedding", "positions", "attention", "feed_forward", "norm", "head"].map((kind) => h("span", {class: "key"}, h("span", {class: `swatch kind-${kind}`}), {embedding: "embedding", positions: "positions", attention: "attention", feed_forward: "feed-forward", norm: "norm", head: "head"}[kind])));
  const drawing = h("div", {class: "strips"}, strips.parameters.element, strips.flops.element, keys);
  element.draw = (reply) => {
    const {boxes} = reply.data;
    strips.parameters.draw(boxes, "parameters", reply.data.parameters, (n) => millions(n));
    strips.flops.draw(boxes, "flops", reply.data.flops_per_token, (n) => `${millions(n)} FLOPs`);
    element.show(reply, drawing, () => ({columns: ["box", "trained numbers", "share", "FLOPs per token", "share"], rows: boxes.map((box) => [box.label, box.parameters, percent(box.parameters / reply.data.parameters), box.flops, percent(box.flops / reply.data.flops_per_token)])}));
  };
  return element;
}

function strip(name) {
  const value = h("span", {class: "strip-value"}), track = h("div", {class: "strip", role: "img"});
  const element = h("div", {class: "strip-row"}, h("div", {class: "strip-head"}, h("span", {}, name), value), track);
  return {element, draw(boxes, field, total, words) {
    value.textContent = words(total);
    const shown = boxes.filter((box) => box[field] > 0);
    while (track.children.length > shown.length) track.lastChild.remove();
    while (track.children.length < shown.length) track.append(h("span", {}, h("span", {class: "strip-name"})));
    shown.forEach((box, i) => {
      const part = track.children[i];
      part.className = `kind-${box.kind}`;
      part.style.setProperty("flex-grow", box[field] / total);
      part.title = `${box.label}: ${words(box[field])}, ${percent(box[field] / total)}`;
      part.firstChild.textContent = box[field] / total > 0.09 ? `${box.label} ${percent(box[field] / total)}` : "";
    });
    track.setAttribute("aria-label", `${name}: ${shown.map((box) => `${box.label} ${percent(box[field] / total)}`).join(", ")}`);
  }};
}

// --- runs ------------------------------------------------------------------------------------------------------------

function runList(element, context, model) {
  const state = (run) => (run.training ? "training" : run.finished ? "finished" : "stopped");
  const kept = h("tbody", {}, context.runs.map((run) => h("tr", {class: run.name === model.run ? "chosen" : null},
    h("th", {scope: "row"}, h("a", {href: address("home", {run: run.name}), "aria-current": run.name === model.run ? "true" : null, onclick: (event) => { event.preventDefault(); set({run: run.name, step: null, pin: null, width: null, depth: null, vocab: null}); }}, run.name)),
    h("td", {}, run.preset), h("td", {class: "number"}, millions(run.parameters)), h("td", {class: "number"}, number(run.n_layers)), h("td", {class: "number"}, number(run.n_heads)), h("td", {class: "number"}, number(run.vocab_size)),
    h("td", {class: "number"}, `${number(run.step ?? 0)} / ${number(run.max_steps)}`), h("td", {class: "number"}, run.val_bpb === null || run.val_bpb === undefined ? "–" : run.val_bpb.toFixed(3)), h("td", {}, state(run)))));
  element.replaceChildren(h("h2", {}, context.runs.length === 1 ? "Your run" : "Your runs"),
    h("p", {class: "note"}, "Bits per byte is what a run pays for a byte of text it has not read: lower is better, and it is the one figure that compares across vocabularies. ", context.link("training", "Train another"), "."),
    h("div", {class: "scroll", tabindex: "0", role: "region", "aria-label": "Runs"}, h("table", {class: "runs"}, h("thead", {}, h("tr", {}, ["Run", "Preset", "Numbers", "Blocks", "Heads", "Vocabulary", "Step", "Bits per byte", "State"].map((name) => h("th", {scope: "col"}, name)))), kept)));
}
