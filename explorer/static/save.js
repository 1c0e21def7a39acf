// Saves what is on screen: numbers as JSON, a self-contained report.html, and an image of that report.

import { looks, request } from "./api.js";
import { h, valuesOf } from "./maps.js";
import { state } from "./state.js";

export async function save(kind) {
  const name = looks.A.name.replace(/\.\w+$/, "").replace(/[^\w.-]+/g, "_");
  if (kind === "json") return download(new Blob([JSON.stringify(numbers(), null, 1)], { type: "application/json" }), `explore_${name}.json`);
  if (kind === "report") return download(new Blob([await report()], { type: "text/html" }), `explore_${name}.html`);
  return download(await image(), `explore_${name}.png`);
}

function download(blob, name) {
  const link = h("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

// Everything that is shown; of the maps, the overlay alone with its values.
function numbers() {
  const plain = (value) => JSON.parse(JSON.stringify(value, (key, part) => (part?.data ? { ...part, data: undefined } : part)));
  const { network, selection, threshold, edges, detail, alike } = state;
  const { kind, map, class: target, column } = state.overlay;
  const overlay = map && { kind, class: Number(target), column: kind === "cam" ? column : undefined, values: valuesOf(map) };
  const photographs = Object.entries(looks).filter(([, look]) => look).map(([slot, look]) => ({ slot, name: look.name, ...plain(look.summary), id: undefined }));
  return { run: network.run, classes: network.classes, threshold, photographs, edges, selection, detail: plain(detail ?? null), overlay, alike };
}

// A copy of the page whose images are data, without controls.
async function copyOfPage() {
  const copy = document.querySelector("main").cloneNode(true);
  const canvases = document.querySelectorAll("main canvas");
  [...copy.querySelectorAll("canvas")].forEach((canvas, place) => {
    const image = h("img", { src: canvases[place].toDataURL(), alt: canvas.getAttribute("aria-label") ?? "", class: canvas.className, id: canvas.id });
    canvas.replaceWith(image);
  });
  const sources = await Promise.all([...document.querySelectorAll("main img")].map((image) => asData(image)));
  [...copy.querySelectorAll("img")].filter((image) => !image.src.startsWith("data:")).forEach((image, place) => {
    image.src = sources[place];
    image.removeAttribute("loading");
  });
  if (!copy.querySelector("#overlay-note")?.textContent) copy.querySelector("fieldset")?.remove();
  for (const element of copy.querySelectorAll("#sources, #examples, fieldset .choices, fieldset .pair, .slider, #cover, #cover-note, #hint, #close, .strength, #reset, #make-index, #cover-box, [hidden]")) element.remove();
  for (const control of copy.querySelectorAll("button, input")) { // nothing answers a click there
    const chip = control.classList.contains("chip");
    const text = control.tagName === "INPUT" ? document.getElementById(control.id).value : chip && control.textContent.replace(/ ×$/, "");
    const plain = h(control.matches(".tile, .class, .row") ? "div" : "span", { class: control.className, title: control.title || null,
      "aria-current": control.getAttribute("aria-pressed") === "true" ? true : null });
    plain.append(...(text ? [text] : control.childNodes));
    control.replaceWith(plain);
  }
  return copy;
}

async function asData(image) {
  image.loading = "eager"; // those below the edge of the screen would be empty
  await image.decode();
  const canvas = h("canvas", { width: image.naturalWidth, height: image.naturalHeight });
  canvas.getContext("2d").drawImage(image, 0, 0);
  return canvas.toDataURL("image/jpeg", 0.9);
}

async function styles() {
  return (await request("/static/explore.css")).text();
}

async function report() {
  const copy = await copyOfPage();
  const heading = `${looks.A.name} · ${state.network.run}`;
  const head = h("head", {}, h("meta", { charset: "utf-8" }), h("title", {}, heading), h("style", {}, await styles()));
  const body = h("body", { class: `report ${document.body.className}` }, h("header", {}, h("h1", {}, "See Actions"), h("p", { id: "run" }, heading)), copy);
  return `<!doctype html>\n${h("html", { lang: "en" }, head, body).outerHTML}`;
}

// The browser itself draws the report, as an image in SVG.
async function image() {
  const [width, height] = [document.documentElement.clientWidth, document.documentElement.scrollHeight];
  const body = h("div", { class: `report page ${document.body.className}` }, h("style", {}, await styles()),
    h("header", {}, h("h1", {}, "See Actions"), h("p", { id: "run" }, state.network.run)), await copyOfPage());
  body.style.width = `${width}px`;
  const content = new XMLSerializer().serializeToString(body);
  const svg = `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}"><foreignObject width="100%" height="100%">${content}</foreignObject></svg>`;
  const drawn = new Image();
  drawn.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(svg)}`;
  await drawn.decode();
  const ratio = Math.min(2, 8000 / height);
  const canvas = h("canvas", { width: width * ratio, height: height * ratio });
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  context.drawImage(drawn, 0, 0);
  return new Promise((resolve) => canvas.toBlob(resolve));
}
