// Questions to the studio's server. At most three at once, so that a second window gets its turn too.

const AT_ONCE = 3;
const LONG = 1500; // characters of a query beyond which it goes as a body
let running = 0;
const waiting = [];

// The token of this start allows jobs. It comes in the fragment of the printed address, which no server and no
// history of visits sees, and stays in this window.
const fragment = new URLSearchParams(location.hash.slice(1));
if (fragment.has("token")) {
  sessionStorage.setItem("token", fragment.get("token"));
  history.replaceState(null, "", location.pathname + location.search);
}

/** Whether the studio has not answered the last question: then nothing asks by itself any more. */
export const connection = {lost: false};

function tell(lost) {
  if (connection.lost === lost) return;
  connection.lost = lost;
  dispatchEvent(new Event("connection"));
}

/** Whether this window may start and stop work. */
export const mayWork = () => Boolean(sessionStorage.getItem("token"));

/** The server said no, with a sentence for people. */
export class Refused extends Error {
  name = "Refused";
}

async function turn() {
  if (running >= AT_ONCE) await new Promise((go) => waiting.push(go));
  running += 1;
}

function done() {
  running -= 1;
  waiting.shift()?.();
}

/** The JSON of an answer; Refused with the server's sentence where it says no. */
export async function ask(path, options = {}) {
  await turn();
  try {
    for (let tries = 0; ; tries += 1) {
      let answer;
      try {
        answer = await fetch(path, options);
      } catch (error) {
        if (error.name === "AbortError") throw error;
        tell(true);
        throw new Refused("The studio does not answer. Is `tinygpt studio` still running? Start it again, then reload.");
      }
      tell(false);
      if (answer.status === 429 && tries < 20) { // others are being served: a moment later
        await new Promise((go) => setTimeout(go, 100 + 100 * tries));
        continue;
      }
      const body = await answer.json().catch(() => ({}));
      if (!answer.ok) throw new Refused(body.error?.message ?? `The studio answered with status ${answer.status}.`);
      return body;
    }
  } finally {
    done();
  }
}

const post = (path, body, headers = {}) => ask(path, {method: "POST", body: JSON.stringify(body), headers: {"Content-Type": "application/json", ...headers}});

function question(path, given) {
  const known = Object.entries(given).filter(([, value]) => value !== undefined && value !== null);
  const query = new URLSearchParams(known.map(([name, value]) => [name, typeof value === "string" ? value : JSON.stringify(value)]));
  return query.toString().length > LONG ? post(path, Object.fromEntries(known)) : ask(known.length ? `${path}?${query}` : path);
}

/** A function of a checkpoint: call({run, step}, "attention", {prompt, layer}). */
export const call = (model, name, given = {}) => question(`/api/models/${encodeURIComponent(model.run)}@${model.step}/${name}`, given);

/** A function of a whole run. */
export const callRun = (run, name, given = {}) => question(`/api/runs/${encodeURIComponent(run)}/${name}`, given);

export const compare = (runs) => question("/api/compare", {runs});
export const listRuns = () => ask("/api/runs");

/** Server-sent events: `each(data)` for every message until `stop()` is called; `ended()` if they end before. */
export function follow(path, each, ended = () => {}) {
  const source = new EventSource(path), end = () => { source.close(); ended(); };
  source.onmessage = (event) => each(JSON.parse(event.data));
  source.addEventListener("end", end);
  source.onerror = end; // and not again and again, as it would by itself
  return () => source.close();
}

const workHeaders = () => ({"X-Tinygpt-Token": sessionStorage.getItem("token") ?? "", "X-Tinygpt-Once": crypto.randomUUID()});

/** Start a run; Refused without the token. */
export const startJob = (job) => post("/api/jobs", job, workHeaders());
export const stopJob = (id) => ask(`/api/jobs/${encodeURIComponent(id)}`, {method: "DELETE", headers: workHeaders()});
