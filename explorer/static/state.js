// What the page shows, apart from the photographs themselves, and names of columns.

export const state = {
  network: null, // of /api/network
  selection: null, // { column, channel } or { class }
  scales: {}, // factors by column and channel
  cover: null, // [left, top, right, bottom], 0..1
  threshold: 0.5,
  detail: null, // answers about the selection, of A and B
  pending: null, // promise of the detail that was asked for last
  edges: {}, // of A, by column: shares
  overlay: { kind: "none", map: null, asked: 0 }, // over A: class and column that it is of, map
  alike: null, // training images most like A
};

const TITLES = { input: "image", "base_model.relu": "stem", relu1: "head 1", relu2: "head 2" };
export const title = (column) => TITLES[column] ?? column.replace("base_model.", "").replace("network", "backbone");
export const channelTitle = (column, channel) =>
  column === "input" ? ["red", "green", "blue"][channel] : `${title(column)} · ${channel}`;

export const factor = (column, channel) => state.scales[column]?.[channel] ?? 1;
export const changed = () => Object.keys(state.scales).length > 0 || state.cover !== null;
export const words = (name) => name.replaceAll("_", " ");

// Runs `draw`, which may replace the focused element, and focuses the new one of the same id.
export function keepingFocus(draw) {
  const id = document.activeElement?.id;
  draw();
  if (id && document.activeElement?.id !== id) document.getElementById(id)?.focus({ preventScroll: true });
}
