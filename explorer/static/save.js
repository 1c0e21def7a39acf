// Saves what is on screen: numbers as JSON, a self-contained report.html, and a picture of that report.

import { looks } from "./api.js";
import { h } from "./maps.js";
import { state } from "./state.js";

export async function save(kind) {
  const name = looks.A.name.replace(/\.\w+$/, "").replace(/[^\w.-]+/g, "_");
  if (kind === "json") return download(new Blob([JSON.stringify(numbers(), null, 1)], { type: "application/json" }), `explore_${name}.json`);
  if (kind === "report") return download(new Blob([await report()], { type: "text/html" }), `explore_${name}.html`);
  return download(await picture(), `explore_${name}.png`);
}

function download(blob, name) {
  const link = h("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

// Everything that is shown, without the bytes of the maps.
function numbers() {
  const plain = (value) => JSON.parse(JSON.stringify(value, (key, part) => (part?.data ? { ...part, data: undefined } : part)));
  const { network, selection, threshold, edges, detail } = state;
  const photographs = Object.entries(looks).filter(([, look]) => look).map(([slot, look]) => ({ slot, name: look.name, ...plain(look.summary), id: undefined }));
  return { run: network.run, classes: network.classes, threshold, photographs, edges, selection, detail: plain(detail ?? null) };
}

// A copy of the page whose images are data, without controls.
async function copyOfPage() {
  const copy = document.querySelector("main").cloneNode(true);
  const canvases = document.querySelectorAll("main canvas");
  [...copy.querySelectorAll("canvas")].forEach((canvas, place) => {
    const image = h("img", { src: canvases[place].toDataURL(), alt: canvas.getAttribute("aria-label") ?? "", class: canvas.className, id: canvas.id });
    canvas.replaceWith(image);
  });
  const pictures = document.querySelectorAll("main img");
  const sources = await Promise.all([...pictures].map((image) => asData(image)));
  [...copy.querySelectorAll("img")].filter((image) => !image.src.startsWith("data:")).forEach((image, place) => {
    image.src = sources[place];
    image.removeAttribute("loading");
  });
  if (!copy.querySelector("#overlay-note")?.textContent) copy.querySelector("fieldset")?.remove();
  for (const element of copy.querySelectorAll("#sources, #examples, fieldset .choices, fieldset .pair, .slider, #cover, #cover-note, #hint, #close, .strength, #reset, #make-index, [hidden]")) element.remove();
  return copy;
}

async function asData(image) {
  const canvas = h("canvas", { width: image.naturalWidth, height: image.naturalHeight });
  canvas.getContext("2d").drawImage(image, 0, 0);
  return canvas.toDataURL("image/jpeg", 0.9);
}

async function styles() {
  return (await fetch("/static/explore.css")).text();
}

async function report() {
  const copy = await copyOfPage();
  const heading = `${looks.A.name} · ${state.network.run}`;
  const head = h("head", {}, h("meta", { charset: "utf-8" }), h("title", {}, heading), h("style", {}, await styles()));
  const body = h("body", { class: "report" }, h("header", {}, h("h1", {}, "See Actions"), h("p", { id: "run" }, heading)), copy);
  return `<!doctype html>\n${h("html", { lang: "en" }, head, body).outerHTML}`;
}

// The browser itself draws the report, as an image in SVG.
async function picture() {
  const [width, height] = [document.documentElement.clientWidth, document.documentElement.scrollHeight];
  const body = h("div", { class: "report page" }, h("style", {}, await styles()),
    h("header", {}, h("h1", {}, "See Actions"), h("p", { id: "run" }, state.network.run)), await copyOfPage());
  body.style.width = `${width}px`;
  const content = new XMLSerializer().serializeToString(body);
  const svg = `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}"><foreignObject width="100%" height="100%">${content}</foreignObject></svg>`;
  const image = new Image();
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(svg)}`;
  await image.decode();
  const ratio = Math.min(2, 8000 / height);
  const canvas = h("canvas", { width: width * ratio, height: height * ratio });
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  context.drawImage(image, 0, 0);
  return new Promise((resolve) => canvas.toBlob(resolve));
}
