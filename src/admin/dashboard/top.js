// Top lists: hottest, most missed, most invalidated, worst, largest, slowest.

import { get, poll } from "./api.js";
import { bar } from "./chart.js";
import { empty, fault, h, morph, panel } from "./dom.js";
import { bytes, clock, count, millis, percent } from "./format.js";

const LISTS = [
  ["hottest", "Most hits", "url", "hits", count, "No hits yet."],
  ["missed", "Most missed", "url", "count", count, "No misses yet."],
  ["invalidated", "Most invalidated tags", "tag", "count", count, "Nothing was invalidated yet."],
  ["worst", "Lowest hit rates", "family", "hit_rate", percent, "No family was asked for yet."],
  ["slowest", "Slowest upstream", "url", "ms", millis, "Nothing was fetched yet."],
  ["largest", "Largest entries", "url", "bytes", bytes, "Nothing is stored yet."],
];

export function top(root, signal) {
  const since = h("p", { class: "note" });
  const places = new Map(LISTS.map(([name]) => [name, h("div", {})]));
  root.append(since, h("div", { class: "grid" }, LISTS.map(([name, title]) => panel(title, {}, places.get(name)))));
  poll(signal, 10000, async () => {
    const told = await get("/cache/top", { limit: 10 }, signal);
    morph(since, told.since ? `Counted since ${clock(told.since)}. Counts of rare URLs are estimates.` : "");
    for (const [name, title, label, value, text, nothing] of LISTS) {
      const items = told[name] ?? [];
      const most = Math.max(...items.map((item) => item[value]), value === "hit_rate" ? 100 : 0) || 1;
      morph(places.get(name), items.length === 0 ? empty(nothing) : h("ol", { class: "ranks", "aria-label": title }, items.map((item) =>
        h("li", {}, h("div", {}, subject(item, label), h("span", { class: "number" }, text(item[value]))),
          bar(item[value], most)))));
    }
  }, (error) => morph(since, error.isMissing ? "This Larder keeps no top lists." : fault(error)));
}

function subject(item, label) {
  if (label === "url") return h("a", { href: `#/explain?url=${encodeURIComponent(item.url)}`, title: item.family ?? "" }, item.url);
  if (label === "family") return h("a", { href: `#/families?family=${encodeURIComponent(item.family)}` }, item.family);
  return h("code", {}, item[label]);
}
