// Requests to the server, and the photographs (A, and B to compare with) that it keeps for this page.

export const looks = { A: null, B: null };

export async function ask(path, options = {}) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("the server does not answer; is explore.py still running?");
  }
  if (response.ok) return response.json();
  const answer = await response.json().catch(() => ({}));
  const error = new Error(answer.error ?? `the server could not answer (${response.status})`);
  error.status = response.status;
  throw error;
}

const post = (path, body, type) => ask(path, { method: "POST", body, headers: { "content-type": type } });

// Uploads an image file for a slot; B shows the channels that A shows.
export async function upload(slot, blob, name, maxBytes) {
  if (blob.size > maxBytes) throw new Error(`${name}: has more than ${maxBytes / 1e6} MB; give a smaller one`);
  const query = new URLSearchParams({ name });
  if (slot === "B") query.set("like", looks.A.id);
  const summary = await post(`/api/images?${query}`, blob, "application/octet-stream");
  const image = new Image();
  image.src = `/api/images/${summary.id}/input.png`;
  await image.decode();
  return { id: summary.id, blob, name, image, summary };
}

// Asks about a photograph; one that the server has forgotten meanwhile is uploaded again.
export async function about(slot, what, parameters = {}, options = {}) {
  const look = looks[slot];
  const path = () => `/api/images/${look.id}/${what}?${new URLSearchParams(parameters)}`;
  try {
    return await ask(path(), options);
  } catch (error) {
    if (error.status !== 410) throw error;
    const { scales, cover } = look.summary;
    const query = new URLSearchParams({ name: look.name });
    look.id = (await post(`/api/images?${query}`, look.blob, "application/octet-stream")).id;
    if (what !== "changes" && (Object.keys(scales).length || cover)) await post(`/api/images/${look.id}/changes`,
      JSON.stringify({ scales, cover }), "application/json");
    return ask(path(), options);
  }
}

export async function change(slot, scales, cover) {
  const options = { method: "POST", body: JSON.stringify({ scales, cover }), headers: { "content-type": "application/json" } };
  looks[slot].summary = { ...looks[slot].summary, ...(await about(slot, "changes", {}, options)) };
}
