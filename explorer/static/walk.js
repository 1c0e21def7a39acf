// The network as columns of heat maps, most active channels first, with edges and the classes.

import { about, looks } from "./api.js";
import { h, mapCanvas, percent, short } from "./maps.js";
import { factor, keepingFocus, state, title, words } from "./state.js";

const CLASSES = 16; // shown
const LEADING = 3; // classes with edges
export const STOPS = ".tile, .class"; // one of which the tab key reaches
const $ = (id) => document.getElementById(id);

export function drawWalk(select) {
  keepingFocus(() => $("columns").replaceChildren(...groups(select)));
  markSelection();
}

function groups(select) {
  const { columns, backbone } = state.network;
  const shown = columns.slice(1);
  const inside = shown.filter((column) => column.name.startsWith("base_model"));
  const head = shown.filter((column) => !column.name.startsWith("base_model"));
  const frozen = inside.every((column) => column.frozen) ? "frozen" : "fine-tuned";
  const group = (words, part) =>
    h("div", { class: "group", style: { "--columns": part.length } }, h("h2", {}, words),
      h("div", { class: "inside" }, part.map((column) => drawColumn(column, select))));
  return [
    group(`${backbone}, ${frozen}`, inside),
    group("head, trained", head),
    h("div", { class: "group classes" }, h("h2", {}, "classes"), drawClasses(select)),
  ];
}

function drawColumn(column, select) {
  const [first, second] = ["A", "B"].map((slot) => looks[slot]?.summary.columns.find(({ name }) => name === column.name));
  const { maps } = first;
  const tiles = first.channels.map((channel, place) => {
    const activity = second ? `${short(first.activity[place])} and ${short(second.activity[place])}` : short(first.activity[place]);
    const off = factor(column.name, channel);
    return h("button", {
      type: "button", class: `tile${off === 1 ? "" : off === 0 ? " off" : " scaled"}`, id: `tile-${column.name}-${channel}`,
      "data-column": column.name, "data-channel": channel,
      "aria-label": `${title(column.name)}, channel ${channel}, mean activation ${activity}${off === 0 ? ", switched off" : ""}`,
      title: `channel ${channel}: mean activation ${activity}`,
      onclick: () => select({ column: column.name, channel }),
    },
    h("span", { class: "maps" }, mapCanvas(maps, place), second && mapCanvas(second.maps, place)),
    h("span", { class: "number" }, channel, off === 1 ? "" : off === 0 ? " off" : ` ×${off}`));
  });
  const size = `${column.channels} × ${column.side}²`;
  return h("div", { class: "column", "data-column": column.name },
    h("h3", {}, title(column.name), h("small", {}, size)), tiles);
}

// Classes by the probability without changes, so that they keep their places.
export function classOrder() {
  const values = looks.A.summary.original;
  return values.map((_, index) => index).sort((a, b) => values[b] - values[a]);
}

// Makes one channel or class the only one that the tab key reaches; arrow keys reach the others.
export function keepOneStop(element) {
  for (const stop of element ? document.querySelectorAll(STOPS) : []) stop.tabIndex = stop === element ? 0 : -1;
}

const idOf = (selection) => selection && ("class" in selection ? `class-${selection.class}` : `tile-${selection.column}-${selection.channel}`);

export function focusOn(selection) {
  ($(idOf(selection)) ?? $("walk")).focus({ preventScroll: true });
}

// Arrow keys move between channels and classes: up and down in a column, left and right between columns.
export function moveByKeys(event) {
  const tile = event.target.closest(STOPS);
  const step = { ArrowUp: [0, -1], ArrowDown: [0, 1], ArrowLeft: [-1, 0], ArrowRight: [1, 0] }[event.key];
  if (!tile || !step) return;
  const columns = [...document.querySelectorAll(".column, .classes")].map((column) => [...column.querySelectorAll(STOPS)]);
  const x = columns.findIndex((column) => column.includes(tile));
  const y = columns[x].indexOf(tile);
  const next = columns[x + step[0]];
  (step[0] ? next?.[Math.min(y, next.length - 1)] : next[y + step[1]])?.focus();
  event.preventDefault();
}

function drawClasses(select) {
  const slots = ["A", "B"].filter((slot) => looks[slot]);
  return h("div", { class: "inside rows" }, classOrder().slice(0, CLASSES).map((index) => {
    const values = slots.map((slot) => looks[slot].summary.probabilities[index]);
    const bars = slots.map((slot, place) => h("span", { class: `bar ${slot}` },
      h("i", { style: { width: `${100 * values[place]}%` } }),
      h("b", { style: { left: `${100 * looks[slot].summary.original[index]}%` } })));
    return h("button", {
      type: "button", class: "class", id: `class-${index}`, "data-class": index,
      "aria-label": `class ${words(state.network.classes[index])}, ${values.map((value) => percent(value)).join(" and ")}`,
      onclick: () => select({ class: index }),
    }, h("span", { class: "name" }, words(state.network.classes[index])),
    h("span", { class: "value" }, values.map((value) => percent(value)).join(" · ")), ...bars);
  }));
}

// Edges of all columns, from the classes backwards; each is drawn when it is there. Stops where something changes, or
// where they are asked for anew.
export async function loadEdges() {
  const { summary } = looks.A;
  const edges = {};
  state.edges = edges;
  const columns = state.network.columns.slice(2).map(({ name }) => name).reverse();
  for (const column of ["classes", ...columns]) {
    await state.pending; // a click goes first
    const answer = await (column === "classes" ? about("A", "class_edges") : about("A", "edges", { column }));
    if (state.edges !== edges || looks.A.summary !== summary) return;
    edges[column] = answer.shares;
    drawEdges();
  }
}

export function drawEdges() {
  const box = $("columns").getBoundingClientRect();
  const svg = $("edges");
  svg.setAttribute("width", $("columns").scrollWidth);
  svg.setAttribute("height", $("columns").scrollHeight);
  const names = state.network.columns.slice(1).map(({ name }) => name);
  const lines = Object.entries(state.edges).flatMap(([column, shares]) => {
    const left = [...document.querySelectorAll(`.tile[data-column="${column === "classes" ? names.at(-1) : names[names.indexOf(column) - 1]}"]`)];
    const right = column === "classes" ? leading() : [...document.querySelectorAll(`.tile[data-column="${column}"]`)];
    const rows = column === "classes" ? right.map((row) => shares[row.dataset.class]) : shares;
    const most = Math.max(...rows.flat().map(Math.abs), 1e-9);
    return right.flatMap((end, n) => left.map((start, m) => edge(start, end, rows[n][m], most, box)));
  });
  svg.replaceChildren(...lines.filter(Boolean));
  $("line-scale").textContent = lineScale();
  markSelection();
}

// What the lines' widths mean, and how much of each channel the channels shown account for.
function lineScale() {
  const parts = Object.entries(state.edges).reverse().map(([column, shares]) => {
    const sizes = shares.map((row) => row.map(Math.abs));
    const covered = sizes.map((row) => row.reduce((sum, share) => sum + share, 0));
    const mean = covered.reduce((sum, share) => sum + share, 0) / covered.length;
    return `${column === "classes" ? column : title(column)} ${percent(Math.max(...sizes.flat()))} (${percent(mean, 0)})`;
  });
  return parts.length ? `Widest line into each column, and in brackets the mean share of all contributions that the channels shown make${looks.B ? ", of A" : ""}: ${parts.join(", ")}.` : "";
}

function leading() {
  const chosen = state.selection?.class;
  const order = classOrder().slice(0, CLASSES);
  const shown = new Set([...order.slice(0, LEADING), ...(order.includes(chosen) ? [chosen] : [])]);
  return [...shown].map((index) => $(`class-${index}`));
}

function edge(start, end, share, most, box) {
  const strength = Math.abs(share) / most;
  if (strength < 0.03) return null;
  const from = start.querySelector?.(".maps").getBoundingClientRect();
  const to = (end.querySelector(".maps") ?? end).getBoundingClientRect();
  const [x, y] = [from.right - box.left, from.top + from.height / 2 - box.top];
  const [u, v] = [to.left - box.left, to.top + to.height / 2 - box.top];
  const bend = (u - x) / 2;
  return h("path", {
    d: `M${x} ${y}C${x + bend} ${y} ${u - bend} ${v} ${u} ${v}`, class: share < 0 ? "minus" : "plus",
    "stroke-width": (0.4 + 2.4 * strength).toFixed(2), "stroke-opacity": (0.08 + 0.7 * strength).toFixed(2),
    "data-from": start.id, "data-to": end.id,
  });
}

export function markSelection() {
  const id = idOf(state.selection);
  for (const element of document.querySelectorAll(STOPS)) {
    element.setAttribute("aria-pressed", element.id === id);
  }
  const focused = document.activeElement?.matches(STOPS) && document.activeElement;
  keepOneStop(focused || (id && $(id)) || document.querySelector(STOPS));
  $("walk").classList.toggle("chosen", Boolean(id && document.getElementById(id)));
  for (const line of document.querySelectorAll("#edges path")) {
    line.classList.toggle("near", line.dataset.from === id || line.dataset.to === id);
  }
}

