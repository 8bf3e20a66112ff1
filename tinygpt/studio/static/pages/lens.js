import {bars, barsTable} from "../bars.js";
import {call} from "../api.js";
import {h, labelled, number, percent, toggle} from "../dom.js";
import {figure, matrixTable} from "../figure.js";
import {heatmap, legend} from "../heatmap.js";
import {lines, linesTable} from "../lines.js";
import {memory} from "../memory.js";
import {fixedScale} from "../scale.js";
import {positionOf, promptBox, promptOf, quoted} from "../parts.js";
import {get, getJson, getNumber, set} from "../state.js";
import {did} from "../tour.js";

const GRID_AFTER = 350; // ms without a key before the patch grid is asked: it costs a pass for each cell
const MOST_BARS = 16;
const PARTS = {resid: ["the whole stream", "position"], mlp: ["what each feed-forward adds", "position"], head: ["each head, at all positions", "head"]};
const EXAMPLE = {prompt: "Once upon a time, there was", other: "Once upon a time, in an"};

const blocksPassed = (rows) => rows.map((_, i) => i); // 0: the embedding alone
const ordinal = (rank) => (rank === 0 ? "first" : `${(rank + 1).toLocaleString("en")}th`.replace(/(?<!1)2th$/, "2nd").replace(/(?<!1)3th$/, "3rd").replace(/(?<!1)1th$/, "1st"));

export default {
  about: "The model's last layer turns the stream into probabilities. The lens does the same after every earlier block: what would the model answer if it stopped there? Below that: which parts wrote the answer, and which places carry it.",
  needs: "model",

  controls(root, context) {
    root.append(promptBox(context));
  },

  view(root, context) {
    const ask = memory();
    const seen = figure(root, "The answer as each layer would give it", "Columns are tokens, rows go from the embedding down to the last block; the last row is what the model really answers. In each cell: the token that would come next, in a stronger colour where it is likelier. Click a cell to follow its token.");
    const candidates = h("div");
    root.append(candidates);
    const two = h("div", {class: "columns"});
    root.append(two);
    const chance = figure(two, "Its probability", "After each block, at the chosen position."), place = figure(two, "Its place among all tokens", "1 is the likeliest; the axis is logarithmic.");
    const wrote = figure(root, "Who wrote it", "");
    const patch = figure(root, "Which places carry it", "Take a second prompt with as many tokens and another answer. The model reads the second one, but one place gets its value from the first. A strong colour: this place alone brings the first answer back. Click a cell to see it happen.");
    const after = figure(root, "The second prompt, patched at one place", "Full bars: with the patch. Dashed outlines: without it.");

    let corner = null, followed = null;
    const map = heatmap({label: "Lens", onpick: (i, j) => {
      const {top, first} = corner;
      did("lens", {layer: i, position: j + first});
      set({position: j + first, target: top[i][j].id, foil: null});
    }});
    const probability = lines({label: "Probability of the token by layer", xName: "blocks passed"}), rank = lines({label: "Place of the token by layer", xName: "blocks passed"});
    const found = h("p", {class: "finding"}), chanceBody = h("div", {}, found, probability), held = h("div", {}, map, legend("0 %", "100 %"));
    const grid = heatmap({label: "Share of the first answer that comes back", onpick: (i, j) => set({patch: [i, j]})});
    const second = h("textarea", {rows: 2, spellcheck: "false", autocomplete: "off", value: get("other"), placeholder: "The same sentence with another word in it", oninput: () => set({other: second.value || null, patch: null})});
    const box = labelled("Second prompt", second), counts = h("p", {class: "note", role: "status"}), kinds = h("div", {class: "row tight", role: "group", "aria-label": "What is patched"},
      Object.entries(PARTS).map(([id, [words]]) => h("button", {type: "button", class: "small", "data-part": id, onclick: () => set({part: id === "resid" ? null : id, patch: null})}, words)));
    box.classList.add("prompt");
    const gridBody = h("div"), example = h("button", {type: "button", class: "small", onclick: () => {
      set({...EXAMPLE, target: null, position: null, patch: null});
      second.value = EXAMPLE.other;
      const prompt = document.querySelector("[data-prompt]");
      if (prompt) prompt.value = EXAMPLE.prompt;
    }}, "Try an example");
    patch.show(null, h("div", {}, box, h("div", {class: "row"}, counts, example), h("div", {class: "row"}, h("span", {class: "control-name"}, "Patch"), kinds), gridBody), null);
    const list = h("div"), sentence = h("p", {class: "note"});
    const pair = toggle("Against a second token (the difference of two)", true, (on) => set({difference: on ? null : 0})), order = toggle("In the model's order", false, (on) => set({order: on ? "model" : null})), rivals = h("div", {class: "row tight", role: "group", "aria-label": "The second token"});
    const wroteBody = h("div", {}, h("div", {class: "row"}, pair, order), rivals, sentence, h("p", {class: "note strong"}, "This is a direct effect, not the whole cause: what a part does through later parts counts as theirs."), list);
    let gridTimer = null, gridKey = "";

    return async (model) => {
      const prompt = promptOf(context), wanted = get("target") === "" ? null : getNumber("target", null);
      if (second !== document.activeElement && second.value !== get("other")) second.value = get("other");
      const others = get("difference") !== "0", foil = getNumber("foil", -1);
      const shares = (token, position) => ask(model, "attribution", {prompt, ...(token === null ? {} : {token}), position, ...(!others ? {difference: false} : foil >= 0 && foil !== token ? {other: foil} : {})});
      // Where the token to explain is known (chosen, or the model's own at the end), both questions go out at once.
      const early = wanted !== null || get("position") === "" ? shares(wanted, getNumber("position", -1)) : null;
      early?.catch(() => {});
      const reply = await ask(model, "lens", wanted === null ? {prompt} : {prompt, target: wanted});
      const {tokens, rows, top, targets, first_position: first} = reply.data, position = Math.max(first, positionOf(tokens)), p = position - first;
      const shown = tokens.slice(first).map((token) => token.shown), target = targets[p], last = position === tokens.length - 1;
      const [share, counted, patched] = await Promise.all([
        (early ?? shares(target.id, position)).then((reply) => (reply.data.token.id === target.id ? reply : shares(target.id, position))),
        get("other") ? ask(model, "tokenize", {text: get("other")}) : null,
        patchedReply(model, prompt, tokens),
      ]);

      corner = {top, first};
      map.update({rows, columns: shown, values: reply.data.probability, texts: top.map((row) => row.map((token) => token.shown)), max: 1, ring: [null, p], rowName: "the stream after", columnName: "token",
        say: (i, j) => `After ${rows[i]}, at “${shown[j]}”: “${top[i][j].shown}” ${percent(reply.data.probability[i][j])}. “${targets[j].shown}” has ${percent(reply.data.target_probability[i][j])}, ${ordinal(reply.data.rank[i][j])}.`});
      if (p !== followed) requestAnimationFrame(() => map.reveal(rows.length - 1, p));
      followed = p;
      seen.show(reply, held, matrixTable("layer", rows, shown, top.map((row, i) => row.map((token, j) => `${token.shown} ${percent(reply.data.probability[i][j])}`))));
      showCandidates(reply, p, target, last, wanted);

      const ranks = reply.data.rank.map((row) => row[p]), chances = reply.data.target_probability.map((row) => row[p]), passed = blocksPassed(rows);
      chance.rename(`Probability of ${quoted(target)} after ${quoted(tokens[position])}`);
      place.rename(`Place of ${quoted(target)} among ${number(model.info.vocab_size)} tokens`);
      const lead = ranks.findLastIndex((r) => r > 0) + 1;
      found.textContent = lead >= rows.length ? `“${target.shown}” is not the answer here: it ends in place ${number(ranks.at(-1) + 1)}.` : lead === 0 ? `“${target.shown}” is the likeliest already at the embedding, and stays it.` : `“${target.shown}” is the likeliest from ${rows[lead]} on, with ${passed[lead]} ${passed[lead] === 1 ? "block" : "blocks"} passed.`;
      const curve = [{name: target.shown, points: passed.map((x, i) => [x, chances[i]])}], stairs = [{name: target.shown, points: passed.map((x, i) => [x, ranks[i] + 1])}];
      probability.update({series: curve, marks: [["certain", 1], ["never", 0]]});
      rank.update({series: stairs, marks: [["first", 1], ["last", model.info.vocab_size]], logY: true});
      chance.show(reply, chanceBody, linesTable("blocks passed", curve));
      place.show(reply, rank, linesTable("blocks passed", stairs));

      showShares(model, share, others, top, p, target);
      showPatch(model, prompt, tokens, counted, target, patched, wanted);
    };

    /** The tokens that any layer puts first here, to follow one of them. */
    function showCandidates(reply, p, target, last, wanted) {
      const ids = new Map([[target.id, target]]);
      for (const row of [...reply.data.top].reverse()) ids.set(row[p].id, row[p]);
      const list = [...ids.values()].slice(0, 10), key = JSON.stringify([list, target.id, wanted, last]);
      if (candidates.dataset.key === key) return;
      candidates.dataset.key = key;
      const focused = candidates.contains(document.activeElement) ? document.activeElement.dataset.id : null;
      candidates.replaceChildren(h("p", {class: "row tight follow"}, h("span", {class: "control-name"}, "Follow the token"),
        list.map((token) => h("button", {type: "button", class: "small mono", "data-id": token.id, "aria-pressed": String(token.id === target.id), onclick: () => { did("lens", {target: token.id}); set({target: token.id, foil: null}); }}, token.shown)),
        wanted !== null && h("button", {type: "button", class: "small", "data-id": "own", onclick: () => set({target: null, foil: null})}, last ? "the model's answer" : "the one that stands next")));
      if (focused) candidates.querySelector(`[data-id="${focused}"]`)?.focus({preventScroll: true});
    }

    function showShares(model, reply, difference, top, p, target) {
      const {parts, share, token, other, logit, sum} = reply.data;
      pair.set(difference);
      order.set(get("order") === "model");
      const all = parts.map((part, i) => ({name: shortName(part), value: share[i]}));
      const sorted = get("order") === "model" ? all : [...all].sort((a, b) => Math.abs(b.value) - Math.abs(a.value)).slice(0, MOST_BARS);
      wrote.rename(difference ? `Who wrote ${quoted(token)} rather than ${quoted(other)}` : `Who wrote ${quoted(token)}`);
      sentence.textContent = (difference ? `Logit of ${quoted(token)} minus logit of ${quoted(other)}: ${number(token.logit)} − ${number(other.logit)} = ${number(logit)}. ` : `Logit of ${quoted(token)}: ${number(logit)}. `) + `The shares of all ${parts.length} parts add up to ${number(sum)}${sorted.length < all.length ? `; the ${sorted.length} largest are drawn` : ""}. Hatched bars to the left speak against it.`;
      const ids = new Map(difference ? [[other.id, other]] : []);
      for (const row of [...top].reverse()) if (row[p].id !== target.id) ids.set(row[p].id, row[p]);
      rivals.hidden = !difference;
      const rivalList = [...ids.values()].slice(0, 8), key = JSON.stringify([rivalList.map((one) => one.id), other?.id]);
      if (rivals.dataset.key !== key) {
        rivals.dataset.key = key;
        const focused = rivals.contains(document.activeElement) ? document.activeElement.dataset.id : null;
        rivals.replaceChildren(h("span", {class: "control-name"}, "rather than"), ...rivalList.map((one) => h("button", {type: "button", class: "small mono", "data-id": one.id, "aria-pressed": String(one.id === other?.id), onclick: () => set({foil: one.id})}, one.shown)));
        if (focused) rivals.querySelector(`[data-id="${focused}"]`)?.focus({preventScroll: true});
      }
      list.replaceChildren(bars(sorted, {max: fixedScale(`shares ${model.run} ${difference}`, [share]), format: (x) => number(x), wide: true}));
      wrote.show(reply, wroteBody, barsTable("part", "share of the logit", all));
    }

    /** What the chosen patch does: the second prompt, with one place taken from the first. */
    function patchedReply(model, prompt, tokens) {
      const at = getJson("patch", null), other = get("other");
      if (!other || !Array.isArray(at)) return null;
      const part = PARTS[get("part")] ? get("part") : "resid", [i, j] = at;
      const edit = {part, op: "patch_from", prompt, layer: part === "resid" ? i - 1 : i, ...(part === "head" ? {index: j} : {pos: j})};
      if (edit.layer >= model.info.n_layers || j >= (part === "head" ? model.info.n_heads : tokens.length)) return null;
      return ask(model, "intervene", {prompt: other, edits: [edit]}).catch((error) => ({error}));
    }

    function showPatch(model, prompt, tokens, counted, target, patched, wanted) {
      const part = PARTS[get("part")] ? get("part") : "resid", other = get("other");
      for (const button of kinds.children) button.setAttribute("aria-pressed", String(button.dataset.part === part));
      const n = counted ? Math.max(1, counted.data.pieces.length) : 0, equal = n === tokens.length, last = positionOf(tokens) === tokens.length - 1;
      counts.textContent = `First prompt: ${tokens.length} ${tokens.length === 1 ? "token" : "tokens"}${counted ? `; second: ${n} ${equal ? "— as many." : `— ${Math.abs(n - tokens.length)} too ${n > tokens.length ? "many" : "few"}.`}` : "."}`;
      counts.classList.toggle("unequal", Boolean(counted) && !equal);
      example.hidden = Boolean(other);
      const given = {clean: prompt, other, part, ...(wanted !== null && last ? {target: target.id} : {})}, key = JSON.stringify([model.run, model.step, given]);
      after.hidden = !patched || !equal;
      if (!counted || !equal) {
        clearTimeout(gridTimer);
        gridKey = "";
        gridBody.replaceChildren();
        patch.show(null, null, null);
        return;
      }
      if (gridKey !== key) {
        gridKey = key;
        clearTimeout(gridTimer);
        gridTimer = setTimeout(() => askGrid(model, given, key, part), GRID_AFTER);
      } else if (patch.reply) drawGrid(patch.reply, part);
      if (patched) showPatched(patched, part);
    }

    async function askGrid(model, given, key, part) {
      if (!grid.isConnected) gridBody.replaceChildren(h("p", {class: "note"}, "Patching every place …"));
      try {
        const reply = await call(model, "patch_grid", given);
        if (key === gridKey) drawGrid(reply, part);
      } catch (error) {
        if (key === gridKey) {
          gridBody.replaceChildren(h("p", {class: "error"}, error.message));
          patch.show(null, null, null);
        }
      }
    }

    function drawGrid(reply, part) {
      const {tokens_clean: clean, tokens_other: other, rows, effect, target, foil} = reply.data, at = getJson("patch", null);
      const columns = part === "head" ? effect[0].map((_, i) => `head ${i}`) : clean.map((token, i) => (token.id === other[i].id ? token.shown : `${other[i].shown}→${token.shown}`));
      grid.update({rows, columns, values: effect, max: 1, cell: 46, height: 26, ...(Array.isArray(at) && at[0] < rows.length && at[1] < columns.length ? {ring: at} : {}), rowName: part === "head" ? "layer" : "the stream after", columnName: PARTS[part][1],
        say: (i, j) => `${rows[i]}, ${columns[j]}: brings back ${number(100 * effect[i][j])} % of “${target.shown}” rather than “${foil.shown}”.`});
      if (!grid.isConnected) gridBody.replaceChildren(h("p", {class: "note goal"}), grid, legend("0 %", "100 %", true));
      gridBody.querySelector(".goal").textContent = `How much of the way from “${foil.shown}” (the second prompt's answer) to “${target.shown}” (the first one's) each place alone brings back.`;
      patch.show(reply, null, matrixTable("place", rows, columns, effect));
    }

    function showPatched(reply, part) {
      if (reply.error) return after.fail(reply.error);
      const [i, j] = getJson("patch"), {before, after: then, tokens} = reply.data;
      const rows = [...then.slice(0, 6), ...before.slice(0, 6).filter((entry) => !then.slice(0, 6).some((one) => one.id === entry.id))].slice(0, 10).map((entry) => ({name: entry.shown, value: then.find((one) => one.id === entry.id)?.probability ?? null, second: before.find((one) => one.id === entry.id)?.probability ?? null}));
      after.rename(`The second prompt, patched ${part === "head" ? `in head ${i}.${j}` : `after ${part === "resid" && i === 0 ? "the embedding" : `${part === "mlp" ? "feed-forward" : "block"} ${part === "resid" ? i - 1 : i}`}, at ${quoted(tokens[j])}`}`);
      after.show(reply, bars(rows, {max: 1, format: (x) => (x === null ? "–" : percent(x)), secondName: "without the patch"}), barsTable("next token", "with the patch", rows, "without it"));
    }
  },
};

const shortName = (part) => (part.kind === "head" ? `head ${part.layer}.${part.head}` : part.name);
