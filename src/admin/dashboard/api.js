// Calls of the admin API, with the token of this tab.

const TOKEN = "larder-token";

export const token = {
  get: () => sessionStorage.getItem(TOKEN),
  set: (value) => sessionStorage.setItem(TOKEN, value),
  forget: () => sessionStorage.removeItem(TOKEN),
};

/// A refusal of the admin, or that it does not answer (`status` 0).
export class ApiError extends Error {
  constructor(status, body) {
    super(body.error ?? `The admin answered ${status}.`);
    this.status = status;
    this.remedy = body.what_to_do;
    this.body = body;
  }

  /// Whether this Larder has no such route.
  get isMissing() {
    return this.status === 404 && /^there is no /.test(this.message);
  }
}

function target(path, query) {
  const pairs = Object.entries(query ?? {}).flatMap(([name, value]) =>
    [value].flat().filter((it) => it !== undefined && it !== null && it !== "").map((it) => [name, it]));
  const text = new URLSearchParams(pairs).toString();
  return path.replace(/^\//, "") + (text && `?${text}`);
}

async function send(method, path, { query, json, text, signal, accept } = {}) {
  const headers = { Accept: accept ?? "application/json" };
  const sent = token.get();
  if (sent) headers.Authorization = `Bearer ${sent}`;
  if (json !== undefined) headers["Content-Type"] = "application/json";
  if (text !== undefined) headers["Content-Type"] = "text/plain; charset=utf-8";
  const body = json === undefined ? text : JSON.stringify(json);
  let response;
  try {
    response = await fetch(target(path, query), { method, headers, body, signal, cache: "no-store", credentials: "omit" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, { error: "The admin does not answer.", what_to_do: "Check that Larder runs. This page tries again by itself." });
  }
  if (response.ok) return response;
  const refusal = await response.json().catch(() => ({}));
  if (response.status === 401) dispatchEvent(new CustomEvent("larder:unauthorized", { detail: { wasSent: Boolean(sent) } }));
  throw new ApiError(response.status, refusal);
}

/// The JSON of an answer.
export const call = async (method, path, options) => (await send(method, path, options)).json();

export const get = (path, query, signal) => call("GET", path, { query, signal });
export const post = (path, json) => call("POST", path, { json });
export const remove = (path) => call("DELETE", path);

/// The server-sent events of a route: `open`, then `{ event, data }`, until the connection ends.
export async function* events(path, signal) {
  const response = await send("GET", path, { signal, accept: "text/event-stream" });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  yield { event: "open" };
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (rest + value.replaceAll("\r\n", "\n")).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const lines = block.split("\n");
      const of = (name) => lines.filter((line) => line.startsWith(`${name}:`)).map((line) => line.slice(name.length + 1).trim());
      const data = of("data").join("\n");
      if (data) yield { event: of("event")[0] ?? "message", data: JSON.parse(data) };
    }
  }
}

/// Calls `refresh` now and every `every` milliseconds while the page is visible, until the signal aborts. `refresh` resolves or
/// throws; `failed` gets what it throws.
export function poll(signal, every, refresh, failed) {
  let timer = 0;
  let isRunning = false;
  const turn = async () => {
    clearTimeout(timer);
    if (signal.aborted || isRunning) return;
    if (!document.hidden) {
      isRunning = true;
      try {
        await refresh();
      } catch (error) {
        if (!signal.aborted && error.name !== "AbortError") failed(error);
      }
      isRunning = false;
    }
    if (!signal.aborted) timer = setTimeout(turn, every);
  };
  document.addEventListener("visibilitychange", turn, { signal });
  signal.addEventListener("abort", () => clearTimeout(timer));
  turn();
  return turn;
}
