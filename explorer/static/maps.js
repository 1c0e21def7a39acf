// Maps as the server sends them, drawn on canvases; and the small helper that makes elements.

const MAGMA = ["000004", "180f3d", "440f76", "721f81", "9e2f7f", "cd4071", "f1605d", "fd9668", "feca8d", "fcfdbf"];
const DIVERGING = ["053061", "2166ac", "4393c3", "92c5de", "d1e5f0", "f7f7f7", "fddbc7", "f4a582", "d6604d", "b2182b", "67001f"];
const parts = (hex) => [0, 2, 4].map((at) => parseInt(hex.slice(at, at + 2), 16));

function table(stops) {
  const colours = stops.map(parts);
  return Array.from({ length: 256 }, (_, level) => {
    const place = (level / 255) * (colours.length - 1);
    const at = Math.min(Math.floor(place), colours.length - 2);
    return colours[at].map((low, part) => low + (colours[at + 1][part] - low) * (place - at));
  });
}

const TABLES = { magma: table(MAGMA), diverging: table(DIVERGING) };

// An element: h("button", { class: "tile", onclick }, children …). Attributes that are false or null are left out, but
// for false ones of ARIA, which has a word for it.
export function h(tag, attributes = {}, ...children) {
  const svg = ["svg", "path", "rect"].includes(tag);
  const element = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element[name] = value;
    else if (name === "style") for (const [key, word] of Object.entries(value)) element.style.setProperty(key, word);
    else if (value != null && (value !== false || name.startsWith("aria-"))) element.setAttribute(name, value === true && !name.startsWith("aria-") ? "" : value);
  }
  element.append(...children.flat().filter((child) => child != null && child !== false));
  return element;
}

export const percent = (value, digits = 1) => {
  const share = 100 * value;
  const least = 10 ** -digits;
  if (share > 0 && share < least / 2) return `<${least} %`;
  return `${share >= 99.95 || share === 0 ? share.toFixed(0) : share.toFixed(digits)} %`;
};
export const signed = (value, digits) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(digits)}`;
export const short = (value) => (value === 0 ? "0" : Math.abs(value) < 0.001 ? value.toExponential(1) : value.toPrecision(3));

// Map number `index` as a canvas of its own size; scaled up by CSS. alpha: from transparent at 0, to lay it over an image.
export function mapCanvas(maps, index = 0, alpha = false) {
  const { width, height } = maps;
  const canvas = h("canvas", { width, height, class: width > 20 ? "smooth" : "coarse" });
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(width, height);
  const levels = bytes(maps);
  const colours = TABLES[maps.signed ? "diverging" : "magma"];
  for (let at = 0; at < width * height; at++) {
    const level = levels[index * width * height + at];
    const strength = maps.signed ? Math.abs(level - 127.5) / 127.5 : level / 255;
    pixels.data.set([...colours[level], alpha ? 255 * Math.min(1, strength * 1.25) : 255], 4 * at);
  }
  context.putImageData(pixels, 0, 0);
  return canvas;
}

const decoded = new WeakMap();
function bytes(maps) {
  if (!decoded.has(maps)) decoded.set(maps, Uint8Array.from(atob(maps.data), (letter) => letter.charCodeAt(0)));
  return decoded.get(maps);
}

// Draws a photograph in grey and a map over it. gain: strength of the map, 0..1.
export function drawOver(canvas, image, map, gain = 0.85) {
  const context = canvas.getContext("2d");
  const { width, height } = canvas;
  context.filter = map ? "grayscale(1) brightness(0.75)" : "none";
  context.drawImage(image, 0, 0, width, height);
  context.filter = "none";
  if (!map) return;
  context.globalAlpha = gain;
  context.imageSmoothingEnabled = true;
  context.imageSmoothingQuality = "high";
  context.drawImage(mapCanvas(map, 0, true), 0, 0, width, height);
  context.globalAlpha = 1;
}

// The values of map number `index` (h, w), to a 255th of its scale.
export function valuesOf(maps, index = 0) {
  const { width, height, high } = maps;
  const levels = bytes(maps).subarray(index * width * height, (index + 1) * width * height);
  const value = (level) => Number((high * (maps.signed ? level / 127.5 - 1 : level / 255)).toPrecision(4));
  return Array.from({ length: height }, (_, y) => Array.from(levels.subarray(y * width, (y + 1) * width), value));
}

// Small values as squares: rgb (3, kh, kw) about mid-grey, or one signed slice (kh, kw). end: value at full colour.
export function kernelCanvas(values, end, label) {
  const rgb = Array.isArray(values[0][0]);
  const plane = rgb ? values[0] : values;
  const canvas = h("canvas", { width: plane[0].length, height: plane.length, class: "coarse", role: "img", "aria-label": label });
  const context = canvas.getContext("2d");
  const share = (value) => Math.round((Math.max(-1, Math.min(1, value / end)) + 1) * 127.5);
  plane.forEach((row, y) => row.forEach((value, x) => {
    const colour = rgb ? values.map((part) => share(part[y][x])) : TABLES.diverging[share(value)];
    context.fillStyle = `rgb(${colour.map(Math.round).join(",")})`;
    context.fillRect(x, y, 1, 1);
  }));
  return canvas;
}

export function colourBar(maps) {
  const canvas = h("canvas", { width: 256, height: 1 });
  const context = canvas.getContext("2d");
  TABLES[maps.signed ? "diverging" : "magma"].forEach((colour, level) => {
    context.fillStyle = `rgb(${colour.map(Math.round).join(",")})`;
    context.fillRect(level, 0, 1, 1);
  });
  const low = maps.signed ? `−${short(maps.high)}` : "0";
  return h("div", { class: "bar-scale" }, h("span", {}, low), canvas, h("span", {}, short(maps.high)));
}
