// What happens in the cache, as it happens: the invalidations of the fleet, and a sample of the requests of this proxy.

import { events, get } from "./api.js";

const MOST = 500;
const AGAIN_AFTER = 3000;

/// Newest first.
/// `older`: where the page of the log after the first one begins; null if there is none.
export const feed = { invalidations: [], older: null, outcomes: [], state: "starting", error: null };

const listeners = new Set();

/// Calls `changed` now and with each change, until the signal aborts.
export function listen(signal, changed) {
  listeners.add(changed);
  signal.addEventListener("abort", () => listeners.delete(changed));
  changed();
}

const tell = () => listeners.forEach((changed) => changed());

function add(invalidations) {
  const known = new Set(feed.invalidations.map(({ id }) => id));
  const added = invalidations.filter(({ id }) => !known.has(id));
  if (added.length === 0) return;
  const all = [...added, ...feed.invalidations];
  all.sort((one, other) => (one.time < other.time ? 1 : one.time > other.time ? -1 : 0));
  feed.invalidations = all.slice(0, MOST);
}

/// Follows the events until the signal aborts, and begins again when the connection ends.
export async function follow(signal) {
  while (!signal.aborted) {
    try {
      const page = await get("/cache/log", { limit: 100 }, signal);
      feed.older ??= page.older ?? null;
      add(page.invalidations);
      feed.error = null;
      tell();
      for await (const { event, data } of events("/cache/events", signal)) {
        if (event === "invalidation") add([data]);
        if (event === "wait") feed.invalidations = feed.invalidations.map((it) => (it.id === data.id ? { ...it, ...data } : it));
        if (event === "lost") add((await get("/cache/log", { limit: 100 }, signal)).invalidations);
        if (event === "outcome") feed.outcomes = [data, ...feed.outcomes].slice(0, 60);
        feed.state = "live";
        tell();
      }
      feed.state = "waiting";
    } catch (error) {
      if (signal.aborted) return;
      feed.state = error.isMissing ? "missing" : "waiting";
      feed.error = error;
    }
    tell();
    await new Promise((resolve) => setTimeout(resolve, AGAIN_AFTER));
  }
}

export function forget() {
  Object.assign(feed, { invalidations: [], older: null, outcomes: [], state: "starting", error: null });
}
