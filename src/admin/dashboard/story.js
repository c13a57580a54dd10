// What happened to a URL: stored, served, invalidated by which request, refetched.

import { get } from "./api.js";
import { chip, empty, fault, fill, h } from "./dom.js";
import { bytes, clock, plural } from "./format.js";
import { line } from "./log.js";

const KINDS = { stored: "good", served: "", invalidated: "bad", refetched: "warm" };

/// Fills `place` with what happened to the entry of a request (`url`, `method`, `header`), the newest first.
export async function story(place, request) {
  try {
    const { events, complete } = await get("/cache/story", request);
    fill(place, events.length ? h("ol", { class: "story" }, events.toReversed().map(event))
      : empty("Nothing is remembered of it.", "What happens to it from now on is shown here."),
    complete === false && h("p", { class: "note" }, "Redis does not answer: invalidations by other proxies are missing."));
  } catch (error) {
    fill(place, error.isMissing ? empty("This Larder remembers no story.") : fault(error));
  }
}

function event(it) {
  return h("li", {}, h("time", { datetime: it.time, title: it.time }, clock(it.time)), chip(it.what, KINDS[it.what]), h("div", {}, told(it)));
}

function told({ what, status, bytes: size, variant, times, identical, after_invalidation: isAfter, by, matching }) {
  const of = variant && h("span", { class: "faint" }, ` for ${variant}`);
  if (what === "served") return [plural(times, "time"), " from memory", of];
  if (what === "invalidated") {
    return [h("ol", { class: "log inline" }, line(by)), h("p", { class: "faint" }, "by the tag ", matching.map((tag) => h("code", {}, `${tag} `)))];
  }
  return [h("p", {}, `${status}, ${bytes(size)}`, of),
    what === "refetched" && h("p", { class: "faint" }, identical
      ? isAfter ? "The same content as before: the invalidation was needless." : "The same content as before."
      : "The content had changed.")];
}
