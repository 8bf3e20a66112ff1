// One scale for every picture: perceptually even steps of lightness (OKLCH), from paper to ink, so that it also reads in
// grey, in print and without colour vision. Signs are told by hatching, not by a second colour.

const STOPS = { // lightness, chroma, hue
  light: [[0.985, 0.008, 95], [0.9, 0.075, 95], [0.76, 0.115, 160], [0.6, 0.105, 210], [0.44, 0.13, 265], [0.28, 0.11, 285]],
  dark: [[0.22, 0.012, 280], [0.34, 0.09, 285], [0.48, 0.12, 265], [0.62, 0.11, 215], [0.78, 0.12, 160], [0.95, 0.09, 100]],
};
const tables = {}, words = {}, letters = {};

const darkness = matchMedia("(prefers-color-scheme: dark)");
let name = darkness.matches ? "dark" : "light"; // kept here, because pictures ask for it at every cell
let ink = null;
darkness.addEventListener("change", () => { [name, ink] = [darkness.matches ? "dark" : "light", null]; });

/** The colours of lines and letters on a canvas: {ink, soft, accent}. */
export function inks() {
  if (ink) return ink;
  const css = getComputedStyle(document.documentElement);
  return (ink = Object.fromEntries(["ink", "soft", "accent"].map((one) => [one, css.getPropertyValue(`--${one}`)])));
}

/** "rgb(...)" for a share of the scale from 0 to 1. */
export function colour(share) {
  tables[name] ??= Array.from({length: 257}, (_, i) => rgb(between(STOPS[name], i / 256)));
  return tables[name][Math.round(256 * Math.min(1, Math.max(0, share || 0)))];
}

/** The same as four bytes in one number, for the pixels of an ImageData; the places of nothing are 0. */
export function pixel(share) {
  words[name] ??= Uint32Array.from({length: 257}, (_, i) => new Uint32Array(Uint8ClampedArray.of(...channels(between(STOPS[name], i / 256)), 255).buffer)[0]);
  return words[name][Math.round(256 * Math.min(1, Math.max(0, share || 0)))];
}

/** The text that stands on it: black or white, whichever is told from it better. */
export function onColour(share) {
  const stops = STOPS[name];
  letters[name] ??= Array.from({length: 257}, (_, i) => {
    const [r, g, b] = channels(between(stops, i / 256)).map((v) => (v <= 10 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.179 ? "#000000" : "#ffffff"; // at 0.179 both have a contrast of 4.6
  });
  return letters[name][Math.round(256 * Math.min(1, Math.max(0, share || 0)))];
}

function between(stops, share) {
  const place = share * (stops.length - 1), i = Math.min(stops.length - 2, Math.floor(place)), t = place - i;
  return stops[i].map((value, k) => value + t * (stops[i + 1][k] - value));
}

const rgb = (place) => `rgb(${channels(place).join(", ")})`;

function channels([l, c, hue]) {
  const a = c * Math.cos((hue * Math.PI) / 180), b = c * Math.sin((hue * Math.PI) / 180);
  const [x, y, z] = [l + 0.3963377774 * a + 0.2158037573 * b, l - 0.1055613458 * a - 0.0638541728 * b, l - 0.0894841775 * a - 1.291485548 * b].map((v) => v ** 3);
  const linear = [4.0767416621 * x - 3.3077115913 * y + 0.2309699292 * z, -1.2684380046 * x + 2.6097574011 * y - 0.3413193965 * z, -0.0041960863 * x - 0.7034186147 * y + 1.707614701 * z];
  return linear.map((v) => Math.round(255 * Math.min(1, Math.max(0, v <= 0.0031308 ? 12.92 * v : 1.055 * v ** (1 / 2.4) - 0.055))));
}

/** Colours and dashes of lines that stand beside each other; told apart by dash and end label as well. */
export const LINES = [["var(--line-1)", ""], ["var(--line-2)", "7 4"], ["var(--line-3)", "2 3"], ["var(--line-4)", "9 3 2 3"], ["var(--line-5)", "5 2"], ["var(--line-6)", "1 2"]];
