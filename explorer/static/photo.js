// The photograph: where it comes from, its prediction, what lies over it, and a region that is covered.

import { about, looks, request } from "./api.js";
import { colourBar, drawOver, h, percent } from "./maps.js";
import { state, title, words } from "./state.js";

const $ = (id) => document.getElementById(id);
const { overlay } = state;
let box = [0.35, 0.35, 0.65, 0.65]; // being chosen

// Sends each image file that is dropped, pasted, chosen or taken to `take(blob, name)`.
export function listen(take, fail) {
  const first = (files) => files?.[0] && take(files[0], files[0].name || "pasted image");
  for (const name of ["dragover", "drop"]) document.addEventListener(name, (event) => event.preventDefault());
  document.addEventListener("dragover", () => document.body.classList.add("dropping"));
  for (const name of ["dragleave", "drop"]) document.addEventListener(name, () => document.body.classList.remove("dropping"));
  document.addEventListener("drop", (event) => {
    if (!event.dataTransfer.files.length) fail(new Error("drop an image file, not a link or text"));
    else first(event.dataTransfer.files);
  });
  document.addEventListener("paste", (event) => first(event.clipboardData.files));
  $("choose").onclick = $("hint").onclick = () => $("file").click();
  $("file").onchange = () => { first($("file").files); $("file").value = ""; };
  listenWebcam(take, fail);
  $("examples").replaceChildren(...state.network.examples.map((name, index) => h("button", {
    type: "button", title: name, "aria-label": `Example: ${name}`,
    onclick: () => request(`/api/examples/${index}`).then((response) => response.blob()).then((blob) => take(blob, name), fail),
  }, h("img", { src: `/api/examples/${index}`, alt: "", loading: "lazy" }))));
}

function listenWebcam(take, fail) {
  const video = $("camera").querySelector("video");
  const stop = () => { video.srcObject?.getTracks().forEach((track) => track.stop()); video.srcObject = null; };
  $("camera").onclose = stop;
  $("camera-close").onclick = () => $("camera").close();
  $("webcam").onclick = async () => {
    try {
      $("shoot").disabled = true; // until there is a frame
      video.onloadeddata = () => { $("shoot").disabled = false; };
      video.srcObject = await navigator.mediaDevices.getUserMedia({ video: { width: 1280 } });
      $("camera").showModal();
    } catch {
      fail(new Error("no webcam can be used; connect one and allow this page to use it, or drop a file"));
    }
  };
  $("shoot").onclick = () => {
    const canvas = h("canvas", { width: video.videoWidth, height: video.videoHeight });
    canvas.getContext("2d").drawImage(video, 0, 0);
    canvas.toBlob((blob) => take(blob, "webcam"), "image/jpeg", 0.92);
    $("camera").close();
  };
}

// Once: the controls below the photograph.
export function setUp(onCover, fail) {
  const { classes, columns } = state.network;
  $("overlay-class").replaceChildren(...classes.map((name, index) => h("option", { value: index }, words(name))));
  $("overlay-column").replaceChildren(...columns.slice(1).reverse().map(({ name }) => h("option", { value: name }, title(name))));
  $("overlay-column").value = columns.find(({ name }) => name === columns.filter((column) => column.frozen).at(-1)?.name)?.name;
  const ask = () => loadOverlay().catch(fail);
  for (const input of document.querySelectorAll("[name=overlay]")) {
    input.onchange = () => { overlay.kind = input.value; ask(); };
  }
  $("overlay-class").onchange = $("overlay-column").onchange = ask;
  $("threshold").oninput = () => {
    state.threshold = $("threshold").value / 100;
    $("threshold-value").value = `${$("threshold").value} %`;
    drawVerdict();
  };
  listenCover(onCover);
}

export function drawPhoto(newImage) {
  const { image, summary } = looks.A;
  $("hint").hidden = $("intro").hidden = true;
  $("prediction").hidden = $("compare").hidden = false;
  $("view").width = $("view").height = image.naturalWidth;
  $("view").setAttribute("aria-label", `The photograph as the network sees it: ${summary.name}`);
  if (newImage) $("overlay-class").value = best(summary.probabilities);
  drawVerdict();
  drawView();
}

const best = (values) => values.indexOf(Math.max(...values));

export function drawVerdict() {
  const slots = ["A", "B"].filter((slot) => looks[slot]);
  $("verdict").replaceChildren(...slots.map((slot) => {
    const { probabilities, original, name } = looks[slot].summary;
    const order = probabilities.map((_, index) => index).sort((a, b) => probabilities[b] - probabilities[a]);
    const sure = probabilities[order[0]] >= state.threshold;
    const other = best(original);
    const was = other !== order[0] || percent(original[other]) !== percent(probabilities[other])
      ? ` (was ${words(state.network.classes[other])}, ${percent(original[other])})` : "";
    return h("div", { class: slots.length > 1 && "second" },
      slots.length > 1 && h("img", { src: looks[slot].image.src, alt: `${slot}: ${name}`, title: name }), h("div", {},
      slots.length > 1 && h("p", { class: "note" }, `${slot}: ${name}`),
      h("p", { class: "answer" }, h("strong", { class: sure ? "" : "unsure" },
        sure ? words(state.network.classes[order[0]]) : "not sure"), ` ${percent(probabilities[order[0]])}`),
      h("p", { class: "note" }, sure ? "" : `perhaps ${words(state.network.classes[order[0]])}; `,
        `then ${order.slice(1, 3).map((index) => `${words(state.network.classes[index])} ${percent(probabilities[index])}`).join(", ")}${was}`)));
  }));
}

// Before another photograph, or the same with changes, is drawn.
export function forgetOverlay() {
  overlay.asked += 1;
  overlay.map = null;
}

// Grad-CAM or occlusion of the class and layer chosen.
export async function loadOverlay() {
  const mine = ++overlay.asked;
  const { kind } = overlay;
  $("overlay-column").disabled = kind === "occlusion";
  const note = $("overlay-note");
  if (kind === "none" || !looks.A) {
    overlay.map = null;
    note.replaceChildren();
    return drawView();
  }
  const target = $("overlay-class").value;
  if (kind === "occlusion") note.textContent = "covers square after square; some seconds …";
  const parameters = kind === "cam" ? { class: target, column: $("overlay-column").value } : { class: target };
  const answer = await about("A", kind, parameters);
  if (mine !== overlay.asked) return;
  Object.assign(overlay, parameters, { map: answer.map });
  const name = words(state.network.classes[target]);
  const meaning = kind === "cam" ? `Grad-CAM of ${name} at ${title(parameters.column)}: gradient × activation`
    : `Drop of the logit of ${name} where a square is covered`;
  note.replaceChildren(looks.B ? `${meaning}, on A` : meaning, colourBar(answer.map));
  drawView();
}

export function drawView() {
  if (!looks.A) return;
  drawOver($("view"), looks.A.image, overlay.map);
  const context = $("view").getContext("2d");
  const side = $("view").width;
  const rectangle = ([left, top, right, bottom]) => [left * side, top * side, (right - left) * side, (bottom - top) * side];
  if (state.cover) {
    context.fillStyle = "rgb(124 116 104)"; // ImageNet's mean, which the network sees there
    context.fillRect(...rectangle(state.cover));
  }
  if ($("cover").getAttribute("aria-pressed") !== "true") return;
  for (const [colour, dash] of [["black", []], ["white", [4, 4]]]) {
    context.strokeStyle = colour;
    context.setLineDash(dash);
    context.strokeRect(...rectangle(box));
  }
  context.setLineDash([]);
}

const STEP = 0.05;
const KEYS = { // steps to the right, down, and in size
  ArrowLeft: [-STEP, 0, 0], ArrowRight: [STEP, 0, 0], ArrowUp: [0, -STEP, 0], ArrowDown: [0, STEP, 0], "+": [0, 0, STEP], "-": [0, 0, -STEP],
};

// A region moved and resized, within the image.
function moved([left, top, right, bottom], x, y, larger) {
  const [width, height] = [right - left, bottom - top].map((length) => Math.min(1, Math.max(STEP, length + larger)));
  const [u, v] = [Math.min(1 - width, Math.max(0, left + x)), Math.min(1 - height, Math.max(0, top + y))];
  return [u, v, u + width, v + height];
}

function listenCover(onCover) {
  const button = $("cover");
  const view = $("view");
  const on = () => button.getAttribute("aria-pressed") === "true";
  button.onclick = () => {
    button.setAttribute("aria-pressed", !on());
    $("cover-note").hidden = !on();
    view.tabIndex = on() ? 0 : -1;
    view.classList.toggle("covering", on());
    if (on()) view.focus();
    drawView();
  };
  const place = (event) => {
    const { left, top, width, height } = view.getBoundingClientRect();
    return [(event.clientX - left) / width, (event.clientY - top) / height].map((value) => Math.min(1, Math.max(0, value)));
  };
  let start = null;
  view.onpointerdown = (event) => {
    if (!on()) return;
    start = place(event);
    view.setPointerCapture(event.pointerId);
  };
  view.onpointermove = (event) => {
    if (!start) return;
    const end = place(event);
    box = [0, 1].map((axis) => Math.min(start[axis], end[axis])).concat([0, 1].map((axis) => Math.max(start[axis], end[axis])));
    drawView();
  };
  view.onpointerup = () => {
    if (start && box[2] - box[0] > 0.01 && box[3] - box[1] > 0.01) onCover(box);
    start = null;
  };
  view.onkeydown = (event) => {
    if (!on()) return;
    if (event.key === "Enter") return onCover(box);
    if (event.key === "Escape") return button.click();
    if (!KEYS[event.key]) return;
    box = moved(box, ...KEYS[event.key]);
    const [left, top, right, bottom] = box.map((value) => percent(value, 0));
    $("cover-box").textContent = `From ${left} to ${right} of the width, ${top} to ${bottom} of the height.`;
    event.preventDefault();
    drawView();
  };
}
