// The selected channel or class: map, kernel, what makes it, what it does, and training images.

import { about, ask, looks } from "./api.js";
import { colourBar, drawOver, h, kernelCanvas, mapCanvas, percent, short, signed } from "./maps.js";
import { changed, channelTitle, factor, keepingFocus, state, title, words } from "./state.js";

const $ = (id) => document.getElementById(id);
const card = (heading, note, ...children) =>
  h("div", { class: "card" }, h("h3", {}, heading), note && h("p", { class: "note" }, note), ...children);
const largest = (values) => Math.max(...values.map(Math.abs), 1e-9);
let request = new AbortController();

export async function loadDetail(actions) {
  request.abort();
  request = new AbortController();
  const { selection } = state;
  if (!selection || !looks.A) {
    state.detail = null;
    $("announcement").textContent = "";
    return $("detail").replaceChildren();
  }
  const { signal } = request;
  try {
    const slots = ["A", "B"].filter((slot) => looks[slot]);
    const what = "class" in selection ? "class" : "channel";
    const found = await Promise.all(slots.map((slot) => about(slot, what, selection, { signal })));
    if (signal.aborted) return;
    state.detail = found;
    const inside = $("detail").contains(document.activeElement);
    keepingFocus(() => $("detail").replaceChildren(...(what === "class" ? classPanel(found, actions) : channelPanel(found, actions))));
    if (inside && !$("detail").contains(document.activeElement)) $("detail").focus({ preventScroll: true }); // a row that was pressed is gone
    if (what === "channel") loadAdded(signal, actions);
    $("announcement").textContent = what === "class" ? `class ${words(state.network.classes[selection.class])}: logit ${signed(found[0].logit, 2)}`
      : `${title(selection.column)}, channel ${selection.channel}: rank ${found[0].rank} of ${found[0].channels}`;
  } catch (error) {
    if (error.name !== "AbortError") throw error;
  }
}

// What a channel adds to logits comes a moment later: its gradients run through all layers that follow.
async function loadAdded(signal, actions) {
  const [first] = state.detail;
  try {
    Object.assign(first, await about("A", "added", state.selection, { signal }));
    if (!signal.aborted) $("added").replaceChildren(...addedRows(first, actions));
  } catch (error) {
    if (error.name !== "AbortError") $("added").textContent = error.message;
  }
}

function channelPanel(found, actions) {
  const { column, channel } = state.selection;
  const [first] = found;
  return [
    h("div", { class: "heading" },
      h("h2", {}, `${title(column)} · `, h("input", {
        type: "number", id: "number", min: 0, max: first.channels - 1, value: channel, required: true, "aria-label": "Channel",
        onchange: ({ target }) => target.reportValidity() && actions.select({ column, channel: Number(target.value) }),
      }), " ", h("small", {}, `rank ${first.rank} of ${first.channels} on this image`)),
      strength(column, channel, actions),
      h("button", { type: "button", id: "close", "aria-label": "Close", onclick: () => actions.select(null) }, "×")),
    h("div", { class: "cards" },
      ...found.map((one, place) => mapCard(one, ["A", "B"][place], found.length > 1)),
      makes(first, found.length > 1 ? " on A" : "", actions),
      kernelCard(first.kernel),
      found.length > 1 ? [...found.map((one, place) => histogramCard(one, ` on ${["A", "B"][place]}`)), added(" on A")]
        : h("div", { class: "stack" }, histogramCard(first, ""), added("")),
      excites(first.index, column, channel, actions)),
  ];
}

function strength(column, channel, actions) {
  const value = factor(column, channel);
  const set = (number) => actions.scale(column, channel, number);
  const output = h("output", {}, `× ${value}`);
  return h("div", { class: "strength" },
    h("label", {}, "strength ", h("input", {
      type: "range", id: "strength", min: 0, max: 2, step: 0.25, value,
      oninput: (event) => { output.value = `× ${event.target.value}`; },
      onchange: (event) => set(Number(event.target.value)),
    }), output),
    h("button", { type: "button", id: "switch", "aria-pressed": value === 0, onclick: () => set(value === 0 ? 1 : 0) },
      value === 0 ? "Switch on" : "Switch off"));
}

function mapCard(found, slot, both) {
  const canvas = h("canvas", { width: 320, height: 320, class: "large", role: "img", "aria-label": "The channel's map over the image" });
  drawOver(canvas, looks[slot].image, found.map);
  const { map, histogram } = found;
  const off = factor(state.selection.column, state.selection.channel) === 0;
  const note = histogram.max <= 0 ? "silent on this image" : off ? "switched off; as it was" : `${map.height} × ${map.width} positions, ${percent(1 - histogram.zeros, 0)} of them active`;
  return card(both ? `Map on ${slot}` : "Map", note, canvas, colourBar(map));
}

// A list of channels with their maps and signed bars: of shares, or, up to `end`, of what they add to a logit.
function channelRows(list, actions, end) {
  const most = end ?? largest(list.shares);
  return list.channels.map((channel, place) => {
    const value = end ? list.values[place] : list.shares[place];
    const text = end ? signed(value, 3) : `${signed(100 * value, 1)} %`;
    const row = [
      list.column === "input" ? h("span", { class: "dot", style: { background: channelTitle("input", channel) } })
        : h("span", { class: "maps" }, mapCanvas(list.maps, place)),
      h("span", { class: "name" }, channelTitle(list.column, channel)),
      h("span", { class: `signed ${value < 0 ? "minus" : "plus"}` }, h("i", { style: { width: `${(100 * Math.abs(value)) / most}%` } })),
      h("span", { class: "value" }, text),
    ];
    if (list.column === "input") return h("div", { class: "row" }, row);
    const label = `${channelTitle(list.column, channel)}, ${text}`;
    return h("button", {
      type: "button", class: "row", "aria-label": label, onclick: () => actions.select({ column: list.column, channel }),
    }, row);
  });
}

function makes(found, on, actions) {
  const { before } = found;
  const from = before.column === "input" ? "The image's colours" : `Channels of ${title(before.column)}`;
  return card(`Made of${on}`, `${from} with the largest signed shares (gradient × activation)`,
    h("div", { class: "list" }, channelRows(before, actions)));
}

function kernelCard(kernel) {
  if (!kernel) return null;
  const flat = (values) => values.flat(Infinity).map(Math.abs);
  if (kernel.rgb) {
    const end = Math.max(...flat(kernel.rgb));
    return card("Kernel", `${kernel.layer}, on RGB; grey is 0`, h("div", { class: "kernel rgb" }, kernelCanvas(kernel.rgb, end, "Kernel on red, green and blue")));
  }
  const end = Math.max(...flat(kernel.slices), 1e-9);
  return card("Kernel", `${kernel.layer}: slices for its strongest inputs, red positive, blue negative, up to ±${short(end)}`,
    h("div", { class: "kernel" }, kernel.slices.map((slice, place) =>
      h("figure", {}, kernelCanvas(slice, end, `Slice for input ${kernel.inputs[place]}`), h("figcaption", {}, slice.length === 1 ? `${kernel.inputs[place]}: ${signed(slice[0][0], 3)}` : kernel.inputs[place])))));
}

function histogramCard({ histogram }, on) {
  const { counts, edges, mean, std, zeros } = histogram;
  const top = Math.log10(Math.max(...counts) + 1);
  const bars = counts.map((count, place) => {
    const height = (58 * Math.log10(count + 1)) / top;
    return h("rect", { x: place * 4, y: 60 - height, width: 3.4, height });
  });
  const chart = h("svg", { class: "histogram", viewBox: `0 0 ${4 * counts.length} 60`, preserveAspectRatio: "none", role: "img", "aria-label": "Histogram" }, ...bars);
  return card(`Activations${on}`, `mean ${short(mean)}, std ${short(std)}, ${percent(zeros, 0)} zeros; logarithmic counts`, chart,
    h("div", { class: "ends" }, h("span", {}, short(edges[0])), h("span", {}, short(edges.at(-1)))));
}

const added = (on) => card(`Adds to logits${on}`, "of the likeliest classes, on its way through all later layers",
  h("div", { class: "list", id: "added" }, "…"));

function addedRows(found, actions) {
  const most = largest(found.classes.map(({ logit }) => logit));
  return found.classes.map(({ class: index, logit }) => h("button", {
    type: "button", class: "row", onclick: () => actions.select({ class: index }),
  },
  h("span", { class: "name" }, words(state.network.classes[index])),
  h("span", { class: `signed ${logit < 0 ? "minus" : "plus"}` }, h("i", { style: { width: `${(100 * Math.abs(logit)) / most}%` } })),
  h("span", { class: "value" }, signed(logit, 3))));
}

function excites(index, column, channel, actions) {
  if (!index) {
    return state.network.index.state !== "impossible" && card("Training images that excite it most", null, indexOffer(actions));
  }
  const { side: length } = state.network.columns.find(({ name }) => name === column);
  const images = index.top.map(({ image, label, peak, place }) => {
    const position = Math.round(place * length * length);
    const [x, y] = [position % length, Math.floor(position / length)].map((at) => (100 * (at + 0.5)) / length);
    return h("figure", { title: `${words(label)}, maximum ${short(peak)}` },
      h("span", { class: "ringed" }, h("img", { src: `/api/index/${image}.jpg`, alt: words(label), loading: "lazy" }),
        h("i", { style: { left: `${x}%`, top: `${y}%` } })),
      h("figcaption", {}, words(label)));
  });
  return h("div", { class: "card wide" }, h("h3", {}, "Training images that excite it most"),
    h("p", { class: "note" }, `active in ${index.active} of ${index.images} images; circles: where its maximum lies`),
    h("div", { class: "thumbs" }, images));
}

export function indexOffer(actions) {
  const { state: how, done, images, error } = state.network.index;
  if (how === "making") return h("p", {}, h("progress", { max: images, value: done, "aria-label": "Index" }), ` ${done} of ${images} images`);
  return h("div", {}, h("button", { type: "button", id: "make-index", onclick: actions.makeIndex }, `Index ${images} training images`),
    h("p", { class: "note" }, error || "Runs the network once on training images of this run; takes minutes."));
}

function classPanel(found, actions) {
  const name = words(state.network.classes[state.selection.class]);
  const sums = found.map(({ logit, sums: [plus, minus], bias }, place) => `${found.length > 1 ? `${"AB"[place]}: ` : ""}logit ${signed(logit, 2)} = ${signed(plus, 2)} for, ${signed(minus, 2)} against, ${signed(bias, 2)} bias`).join("; ");
  const end = largest(found.flatMap((one) => [...(one.for.values ?? []), ...(one.against.values ?? [])])); // one scale
  const side = (heading, list) => card(heading, list.maps ? null : "none", list.maps && h("div", { class: "list" }, channelRows(list, actions, end)));
  return [
    h("div", { class: "heading" }, h("h2", {}, name, " ", h("small", {}, sums)),
      h("button", { type: "button", id: "close", "aria-label": "Close", onclick: () => actions.select(null) }, "×")),
    h("div", { class: found.length > 1 ? "cards pairs" : "cards" },
      ...found.flatMap((one, place) => {
        const on = found.length > 1 ? ` on ${["A", "B"][place]}` : "";
        return [side(`Channels for it${on}`, one.for), side(`Channels against it${on}`, one.against)];
      })),
  ];
}

// Chips of what was changed, each with a button that takes it back.
export function drawChanges(actions) {
  const chips = Object.entries(state.scales).flatMap(([column, factors]) => Object.entries(factors).map(([channel, value]) => ({
    text: `${channelTitle(column, channel)} ${value === 0 ? "off" : `× ${value}`}`,
    undo: () => actions.scale(column, Number(channel), 1),
  })));
  if (state.cover) chips.push({ text: "region covered", undo: () => actions.cover(null) });
  $("changes").hidden = !changed();
  const { original, probabilities, logits, original_logits: before } = looks.A.summary;
  const top = original.indexOf(Math.max(...original));
  const effect = `${words(state.network.classes[top])}: logit ${signed(before[top], 2)} → ${signed(logits[top], 2)}, ${percent(original[top])} → ${percent(probabilities[top])}`;
  $("changes").replaceChildren("What if: ",
    ...chips.map(({ text, undo }) => h("button", { type: "button", class: "chip", "aria-label": `Take back: ${text}`, onclick: undo }, `${text} ×`)),
    h("button", { type: "button", id: "reset", onclick: actions.reset }, "Reset"),
    h("span", { class: "effect" }, effect));
}

// Training images that are nearest in feature space.
export async function loadAlike(actions) {
  const { index } = state.network;
  $("alike").hidden = index.state === "impossible";
  if (index.state === "impossible") return null;
  const heading = h("h2", {}, looks.B ? "Like A" : "Like this one");
  if (index.state !== "ready") return $("alike").replaceChildren(heading, indexOffer(actions));
  const { images } = await about("A", "nearest");
  state.alike = images;
  $("alike").replaceChildren(heading,
    h("p", { class: "note" }, `Nearest of ${index.images} training images by cosine distance of the pooled features before the classifier`),
    h("div", { class: "thumbs" }, images.map(({ image, label, distance }) => h("figure", {},
      h("img", { src: `/api/index/${image}.jpg`, alt: words(label), loading: "lazy" }),
      h("figcaption", {}, words(label), h("small", {}, distance.toFixed(3)))))));
}

export async function makeIndex(actions, redraw) {
  state.network.index = await ask("/api/index", { method: "POST" });
  while (state.network.index.state === "making") {
    redraw();
    await new Promise((resolve) => setTimeout(resolve, 1000));
    state.network.index = await ask("/api/index");
  }
  redraw();
}
