// Wires the page: a photograph in, what is shown of it, what is clicked.

import { ask, change, looks, upload } from "./api.js";
import { drawChanges, loadAlike, loadDetail, makeIndex } from "./detail.js";
import { drawPhoto, drawView, listen, loadOverlay, setUp } from "./photo.js";
import { save } from "./save.js";
import { changed, state } from "./state.js";
import { drawEdges, drawWalk, loadEdges, markSelection, moveByKeys } from "./walk.js";

const $ = (id) => document.getElementById(id);
let comparing = false;

function fail(error) {
  $("error").textContent = error.message;
  $("error").hidden = false;
  $("status").textContent = "";
}

// Runs a step with a word in the header while it lasts; an error becomes one line.
async function busy(word, step) {
  $("status").textContent = word;
  try {
    await step();
    $("error").hidden = true;
  } catch (error) {
    fail(error);
  }
  $("status").textContent = "";
}

async function take(blob, name) {
  const slot = comparing && looks.A ? "B" : "A";
  const begin = performance.now();
  await busy("looking …", async () => {
    await upload(slot, blob, name, state.network.max_bytes);
    if (slot === "A") {
      looks.B = null;
      [state.scales, state.cover] = [{}, null];
      if (state.selection && !("class" in state.selection)) state.selection = null;
    } else if (changed()) await change("B", state.scales, null);
    comparing = false;
    draw(true);
    performance.measure(`answer ${slot}`, { start: begin });
  });
  if (looks[slot]) await later(true);
}

// What is there at once.
function draw(newImage = false) {
  $("network").hidden = $("save").hidden = false;
  $("compare").textContent = looks.B ? "End comparison" : "Compare with…";
  $("compare").setAttribute("aria-pressed", comparing);
  document.body.classList.toggle("comparing", Boolean(looks.B));
  drawPhoto(newImage);
  drawWalk(actions.select);
  drawEdges();
  drawChanges(actions);
}

// What takes another request: first what was asked for, then the rest.
async function later(newImage = false) {
  try {
    await Promise.all([loadDetail(actions), loadOverlay()]);
    await loadEdges();
    if (newImage || changed()) await loadAlike(actions);
  } catch (error) {
    fail(error);
  }
}

const actions = {
  async select(selection) {
    const begin = performance.now();
    state.selection = selection;
    if (selection && "class" in selection) {
      $("overlay-class").value = selection.class;
      loadOverlay().catch(fail);
    }
    markSelection();
    drawEdges();
    state.pending = busy(selection ? "looking …" : "", () => loadDetail(actions));
    await state.pending;
    performance.measure("click", { start: begin });
    if (selection) $("detail").scrollIntoView({ block: "nearest" });
  },
  async scale(column, channel, factor) {
    const scales = structuredClone(state.scales);
    scales[column] ??= {};
    if (factor === 1) delete scales[column][channel];
    else scales[column][channel] = factor;
    if (!Object.keys(scales[column]).length) delete scales[column];
    await apply(scales, state.cover);
  },
  cover: (cover) => apply(state.scales, cover),
  reset: () => apply({}, null),
  makeIndex: () => busy("indexing …", () => makeIndex(actions, () => {
    loadAlike(actions).catch(fail);
    if (state.network.index.state !== "making" || state.network.index.done === 0) loadDetail(actions).catch(fail);
  })),
};

async function apply(scales, cover) {
  const begin = performance.now();
  await busy("computing …", async () => {
    await change("A", scales, cover);
    if (looks.B) await change("B", scales, null);
    [state.scales, state.cover] = [scales, cover];
    draw();
    performance.measure("change", { start: begin });
  });
  await later();
}

async function start() {
  state.network = await ask("/api/network");
  const { run, caution } = state.network;
  $("run").textContent = caution ? `${run}; ${caution}: its predictions of photographs mean nothing` : run;
  listen(take, fail);
  setUp(actions.cover, fail);
  $("compare").onclick = () => {
    if (looks.B) {
      looks.B = null;
      draw();
      return later();
    }
    comparing = !comparing;
    $("compare").setAttribute("aria-pressed", comparing);
    $("compare").textContent = comparing ? "Drop the second photograph" : "Compare with…";
    if (comparing && !state.network.examples.length) $("file").click();
    return null;
  };
  for (const button of document.querySelectorAll("[data-save]")) {
    button.onclick = () => busy("saving …", () => save(button.dataset.save));
  }
  $("columns").onkeydown = moveByKeys;
  let wait;
  new ResizeObserver(() => {
    clearTimeout(wait);
    wait = setTimeout(() => looks.A && (drawEdges(), drawView()), 60);
  }).observe($("columns"));
}

start().catch(fail);
