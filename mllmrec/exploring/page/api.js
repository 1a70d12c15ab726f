// What the server is asked. A refused request throws its sentence.

export class Refused extends Error {}

async function answered(response) {
  const type = response.headers.get("Content-Type") ?? "";
  const content = type.startsWith("application/json") ? await response.json() : null;
  if (response.ok) return content;
  throw new Refused(content?.detail ?? `the server answered with status ${response.status}`);
}

async function asked(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused("The server does not answer. Was the command ended? Start it again and reload this page.");
  }
  return answered(response);
}

export function get(path, query = {}, signal = undefined) {
  const given = Object.entries(query).filter(([, value]) => value !== undefined && value !== null && value !== "");
  const text = new URLSearchParams(given.map(([name, value]) => [name, String(value)])).toString();
  return asked(text ? `${path}?${text}` : path, { signal });
}

export function post(path, content, signal = undefined) {
  return asked(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(content),
    signal,
  });
}
