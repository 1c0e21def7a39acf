// Wires the page: a photograph in, what is shown of it, what is clicked.

import { ask, change, looks, upload } from "./api.js";
import { drawChanges, loadAlike, loadDetail, makeIndex } from "./detail.js";
import { drawPhoto, drawView, forgetOverlay, listen, loadOverlay, setUp } from "./photo.js";
import { save } from "./save.js";
import { changed, state } from "./state.js";
import { drawEdges, drawWalk, focusOn, keepOneStop, loadEdges, markSelection, moveByKeys, STOPS } from "./walk.js";

const $ = (id) => document.getElementById(id);
let comparing = false;
let drops = 0; // photographs dropped so far: of several that are looked at, the last one stays
let applying = null; // promise of the changes that the server computes
let again = false; // whether there are newer ones

function fail(error) {
  $("error").textContent = error.message;
  $("error").hidden = false;
  $("status").textContent = "";
}

// Runs a step with a word in the header while it lasts; an error becomes one line. Returns whether it worked.
async function busy(word, step) {
  $("status").textContent = word;
  try {
    await step();
    $("error").hidden = true;
    return true;
  } catch (error) {
    fail(error);
    return false;
  } finally {
    $("status").textContent = "";
  }
}

// Notes the milliseconds since `start` when what was drawn has been painted.
function measure(name, start) {
  requestAnimationFrame(() => setTimeout(() => performance.measure(name, { start })));
}

async function take(blob, name) {
  const slot = comparing && looks.A ? "B" : "A";
  const begin = performance.now();
  const mine = ++drops;
  await busy("looking …", async () => {
    const look = await upload(slot, blob, name, state.network.max_bytes);
    if (mine !== drops) return;
    looks[slot] = look;
    if (slot === "A") {
      looks.B = null;
      [state.scales, state.cover] = [{}, null];
      if (state.selection && !("class" in state.selection)) state.selection = null;
    } else if (changed()) await change("B", state.scales, null);
    comparing = false;
    draw(true);
    measure(`answer ${slot}`, begin);
  });
  if (looks[slot] && mine === drops) await later();
}

// What is there at once; lines and overlay, which take another request, belong to what was shown before.
function draw(newImage = false) {
  state.edges = {};
  state.alike = null;
  forgetOverlay();
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
async function later() {
  try {
    await Promise.all([loadDetail(actions), loadOverlay()]);
    await loadEdges();
    await loadAlike(actions);
  } catch (error) {
    fail(error);
  }
}

const actions = {
  async select(selection) {
    const begin = performance.now();
    const last = state.selection;
    state.selection = selection;
    if (selection && "class" in selection) {
      $("overlay-class").value = selection.class;
      loadOverlay().catch(fail);
    }
    markSelection();
    drawEdges();
    state.pending = busy(selection ? "looking …" : "", () => loadDetail(actions));
    if (!(await state.pending) && state.selection === selection) {
      state.selection = last;
      return markSelection();
    }
    measure("click", begin);
    if (selection) $("detail").scrollIntoView({ block: "nearest" });
    else if (last) focusOn(last);
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

// Changes count at once, so that the next one builds on them; while the server computes, only the newest wait.
function apply(scales, cover) {
  [state.scales, state.cover] = [scales, cover];
  again = true;
  applying ??= applyAll().finally(() => { applying = null; }).then(() => later());
  return applying;
}

async function applyAll() {
  const begin = performance.now();
  await busy("computing …", async () => {
    while (again) {
      again = false;
      try {
        await change("A", state.scales, state.cover);
        if (looks.B) await change("B", state.scales, null);
      } catch (error) {
        if (!again) [state.scales, state.cover] = [looks.A.summary.scales, looks.A.summary.cover];
        throw error;
      }
    }
    draw();
    measure("change", begin);
  });
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
  $("columns").addEventListener("focusin", ({ target }) => keepOneStop(target.closest(STOPS)));
  let wait;
  new ResizeObserver(() => {
    clearTimeout(wait);
    wait = setTimeout(() => looks.A && (drawEdges(), drawView()), 60);
  }).observe($("columns"));
}

start().catch(fail);
