// The state of a page is its address: run, step, pin, prompt and whatever the page adds. Reload, bookmark and share it.

const KEPT = ["run", "step", "pin", "prompt"]; // also on the next page
const listeners = new Set();
let parameters = new URLSearchParams(location.search);

/** The page that the path names; "" is Home. */
export const pageId = () => location.pathname.replace(/^\/|\/$/g, "") || "home";

/** A value of the address as text, or `otherwise`. */
export const get = (name, otherwise = "") => parameters.get(name) ?? otherwise;
export const getNumber = (name, otherwise) => (parameters.has(name) && parameters.get(name) !== "" && Number.isFinite(Number(parameters.get(name))) ? Number(parameters.get(name)) : otherwise);

/** A JSON value of the address, or `otherwise` where it is missing or damaged. */
export function getJson(name, otherwise) {
  try {
    return JSON.parse(parameters.get(name)) ?? otherwise;
  } catch {
    return otherwise;
  }
}

/** Change the address, and tell everybody; null or undefined removes a name. */
export function set(patch) {
  for (const [name, value] of Object.entries(patch)) {
    if (value === null || value === undefined) parameters.delete(name);
    else parameters.set(name, typeof value === "object" ? JSON.stringify(value) : value);
  }
  const query = parameters.toString();
  history.replaceState(null, "", location.pathname + (query ? `?${query}` : ""));
  for (const listener of [...listeners]) listener(patch);
}

/** The address of another page with what is kept, and `more`. */
export function address(page, more = {}) {
  const kept = new URLSearchParams();
  for (const name of KEPT) if (parameters.has(name)) kept.set(name, parameters.get(name));
  for (const [name, value] of Object.entries(more)) kept.set(name, typeof value === "object" ? JSON.stringify(value) : value);
  const query = kept.toString();
  return (page === "home" ? "/" : `/${page}`) + (query ? `?${query}` : "");
}

/** Go to another address of the studio without loading it anew. */
export function go(href) {
  history.pushState(null, "", href);
  parameters = new URLSearchParams(location.search);
  dispatchEvent(new Event("navigate"));
}

addEventListener("popstate", () => {
  parameters = new URLSearchParams(location.search);
  dispatchEvent(new Event("navigate"));
});

/** Hear of every change of the address; returns what ends it. */
export function listen(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}
