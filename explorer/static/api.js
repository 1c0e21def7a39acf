// Requests to the server, and the photographs (A, and B to compare with) that it keeps for this page.

export const looks = { A: null, B: null };
const SILENT = "the server does not answer; is explore.py still running?";

export async function request(path, options = {}) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error(SILENT);
  }
  if (response.ok) return response;
  const answer = await response.json().catch(() => ({}));
  const error = new Error(answer.error ?? `the server could not answer (${response.status})`);
  error.status = response.status;
  throw error;
}

export const ask = async (path, options) => (await request(path, options)).json();
const post = (path, body, type) => ask(path, { method: "POST", body, headers: { "content-type": type } });

// Sends an image file for a slot; B shows the channels that A shows, which is sent again where the server forgot it.
async function send(slot, blob, name) {
  const once = () => {
    const query = new URLSearchParams(slot === "B" ? { name, like: looks.A.id } : { name });
    return post(`/api/images?${query}`, blob, "application/octet-stream");
  };
  const like = looks.A?.id;
  try {
    return await once();
  } catch (error) {
    if (error.status !== 410) throw error;
    await renew("A", looks.A, like);
    return once();
  }
}

// Uploads an image file for a slot.
export async function upload(slot, blob, name, maxBytes) {
  if (blob.size > maxBytes) throw new Error(`${name}: has more than ${maxBytes / 1e6} MB; give a smaller one`);
  await blob.slice(0, 1).arrayBuffer().catch(() => { throw new Error(`${name}: cannot be read; is it a folder? Drop an image file`); });
  const summary = await send(slot, blob, name);
  const image = new Image();
  image.src = `/api/images/${summary.id}/input.png`;
  await image.decode().catch(() => { throw new Error(SILENT); });
  return { id: summary.id, blob, name, image, summary };
}

// Asks about a photograph; one that the server has forgotten meanwhile is uploaded again.
export async function about(slot, what, parameters = {}, options = {}) {
  const look = looks[slot];
  const { id } = look;
  const path = () => `/api/images/${look.id}/${what}?${new URLSearchParams(parameters)}`;
  try {
    return await ask(path(), options);
  } catch (error) {
    if (error.status !== 410) throw error;
    await renew(slot, look, id);
    return ask(path(), options);
  }
}

// Uploads a photograph again, with its changes, unless somebody else does or did: `id` is the one that was forgotten.
async function renew(slot, look, id) {
  if (look.id !== id) return;
  look.renewal ??= (async () => {
    const { scales, cover } = look.summary;
    const renewed = (await send(slot, look.blob, look.name)).id;
    if (Object.keys(scales).length || cover) await post(`/api/images/${renewed}/changes`, JSON.stringify({ scales, cover }), "application/json");
    look.id = renewed;
  })().finally(() => { look.renewal = null; });
  await look.renewal;
}

export async function change(slot, scales, cover) {
  const options = { method: "POST", body: JSON.stringify({ scales, cover }), headers: { "content-type": "application/json" } };
  looks[slot].summary = { ...looks[slot].summary, ...(await about(slot, "changes", {}, options)) };
}
