// Writes that no rule names: perhaps one is missing.

import { get, poll } from "./api.js";
import { chip, copyable, empty, fault, h, morph, panel } from "./dom.js";
import { ago, clock, count, plural } from "./format.js";

export function writes(root, signal) {
  const list = h("div", {});
  root.append(panel("Writes that no rule names", {
    note: "Each invalidates its own path only. If it changes what a family shows, that family is served as it was before, until its lifetime ends.",
  }, list));
  poll(signal, 10000, async () => {
    const { writes, others } = await get("/cache/writes", {}, signal);
    morph(list, writes.length
      ? h("ul", { class: "cardlist" }, writes.map(write))
      : empty("Every write so far is named by a rule.", "A write that is not appears here, with the line to add."),
    others > 0 && h("p", { class: "note" }, `${plural(others, "write")} of further routes are counted together.`));
  }, (error) => morph(list, error.isMissing ? empty("This Larder does not report them here.", "See writes_unmatched in GET /cache/stats.") : fault(error)));
}

function write({ method, shape, count: times, last, families, suggestion }) {
  return h("li", { "data-key": `${method} ${shape}` },
    h("div", { class: "card-head" }, h("h3", {}, chip(method), " ", h("code", {}, shape)), h("span", { class: "number" }, `${count(times)} ×`)),
    last && h("p", { class: "note" }, `last ${ago(last.time)}, at ${clock(last.time)}: `, h("code", {}, last.path), ` → ${last.status ?? "no response"}`),
    families?.length > 0 && h("p", {}, "It may change: ",
      families.map(({ family, reads }) => [chip(family, "family"), h("span", { class: "faint" }, reads ? ` read ${count(reads)} × shortly after  ` : " has a similar path  ")])),
    suggestion && h("div", {}, h("p", { class: "label" }, "If it does, add under [invalidate]"), copyable(suggestion)));
}
