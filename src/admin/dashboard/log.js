// The log of invalidations: when, by what, which rule, what it reached.

import { get } from "./api.js";
import { chip, empty, fault, field, h, morph, panel, select } from "./dom.js";
import { feed, listen } from "./feed.js";
import { clock, count, millis, plural } from "./format.js";

const KINDS = {
  write: "Write", purge: "Purge", deploy: "Deploy", again: "Repeated", recovered: "Recovered", rules: "New rules", safety: "Safety",
};
const WHY = {
  again: "a rule with again", recovered: "for a proxy that left a write unfinished", rules: "what was stored under the old ones",
  safety: "what was stored may be wrong after a fault",
};

/// What caused an invalidation, in one line.
function cause({ kind, method, path, status, token, peer, deploy }) {
  if (path) return [h("b", {}, method ?? ""), " ", h("code", {}, path), kind === "write" && (status ? ` → ${status}` : " → no response")];
  return [h("b", {}, KINDS[kind] ?? kind), deploy && [" ", h("code", {}, deploy)], token || peer ? ` by ${token ?? peer}` : "", WHY[kind] ? `: ${WHY[kind]}` : ""];
}

/// One invalidation of the log.
export function line(entry) {
  const { id, time, rule, further_rules: further, families, tags, tags_left_out: more, wait_ms: wait, entries, mode, proxy } = entry;
  const named = (families ?? []).filter(Boolean);
  return h("li", { "data-key": id, class: `entry ${entry.cause.kind}` },
    h("time", { datetime: time, title: time }, clock(time)),
    h("div", {},
      h("p", { class: "cause" }, cause(entry.cause), entry.cause.path && entry.cause.kind !== "write" && [" ", chip(KINDS[entry.cause.kind] ?? entry.cause.kind)]),
      [rule, ...(further ?? [])].filter(Boolean).map(({ pattern, line: at }) => h("p", { class: "rule" }, h("code", {}, pattern), h("span", { class: "faint" }, ` line ${at}`))),
      !rule && noRule(entry) && h("p", { class: "faint" }, noRule(entry)),
      h("p", { class: "reach" }, named.map((family) => [chip(family, "family"), " "]), mode === "soft" && [chip("soft"), " "],
        h("span", { class: "faint more" }, [
          typeof entries === "number" && plural(entries, "entry", "entries"), wait > 0 && `waited ${millis(wait)}`,
          tags?.length && plural(tags.length + (more ?? 0), "tag"), entry.cause.request_id && `request ${entry.cause.request_id}`, proxy !== "embedded" && `proxy ${proxy}`,
        ].filter(Boolean).join(" · ")))));
}

function noRule({ cause, tags, families }) {
  if (cause.kind === "write") return "No rule: a write invalidates its own path.";
  if (cause.kind === "deploy" || cause.kind === "purge") return (tags ?? []).filter((tag) => !families?.includes(tag)).slice(0, 3).join(", ");
  return "";
}

export function log(root, signal, parameters) {
  let isPaused = false;
  let older = [];
  let most = 30;
  let next = null;
  const family = h("input", { type: "search", placeholder: "any", value: parameters.get("family") ?? "", list: "log-families", oninput: () => show() });
  const kind = select({ onchange: () => show() }, [["", "any"], ...Object.entries(KINDS)], parameters.get("cause") ?? "");
  const options = h("datalist", { id: "log-families" });
  const pause = h("button", { type: "button", class: "quiet", "aria-pressed": "false", onclick: () => {
    isPaused = !isPaused;
    pause.setAttribute("aria-pressed", isPaused);
    pause.textContent = isPaused ? "Continue" : "Pause";
    if (!isPaused) show();
  } }, "Pause");
  const list = h("ol", { class: "log" });
  const below = h("div", { class: "actions" });
  const outcomes = h("ol", { class: "ticker" });
  root.append(h("div", { class: "columns wide-left" },
    panel("Log", { actions: pause, note: "Of the whole fleet." },
      h("form", { class: "filters", onsubmit: (event) => event.preventDefault() }, field("Family", family), options, field("Cause", kind)),
      list, below),
    panel("Requests now", { note: "A sample, at most 10 a second." }, outcomes)));

  function show() {
    const all = [...feed.invalidations, ...older];
    morph(options, [...new Set(all.flatMap(({ families }) => families ?? []))].sort().map((name) => h("option", { value: name })));
    const fits = all.filter((entry) => (!family.value || (entry.families ?? []).some((name) => name.startsWith(family.value)))
      && (!kind.value || entry.cause.kind === kind.value));
    morph(list, fits.slice(0, most).map(line));
    list.hidden = fits.length === 0;
    const why = feed.error && !feed.error.isMissing ? fault(feed.error) : nothing(all.length);
    morph(below, fits.length === 0 ? why : [(fits.length > most || (next ?? feed.older))
      && h("button", { type: "button", class: "quiet", onclick: more }, "Older")]);
  }

  function nothing(known) {
    if (feed.error?.isMissing) return empty("This Larder keeps no log of invalidations.", "A newer version has one.");
    if (known > 0) return empty("None fits.", "Clear the filters to see all.");
    return empty("No invalidations yet.", "Send a write through the proxy, for example a POST to a path that a rule of [invalidate] names. It appears here at once.");
  }

  async function more() {
    most += 100;
    if (feed.invalidations.length + older.length > most) return show();
    const page = await get("/cache/log", { limit: 100, before: next ?? feed.older }, signal);
    older = [...older, ...page.invalidations.filter(({ id }) => !older.some((known) => known.id === id))];
    next = page.older ?? false;
    show();
  }

  listen(signal, () => {
    if (isPaused) return;
    show();
    morph(outcomes, feed.outcomes.length ? feed.outcomes.slice(0, 24).map(outcome) : h("li", { class: "faint" }, "No requests at the moment."));
  });
}

const outcome = ({ time, method, path, outcome, status, micros }) => h("li", {},
  h("span", { class: `swatch is-${KIND_OF[outcome]}` }), h("span", { class: "word" }, outcome),
  h("code", { title: `${clock(time)} ${method} ${path} ${status}` }, path), h("span", { class: "number" }, millis(micros / 1000)));

const KIND_OF = { hit: "hits", stale: "stale", miss: "misses", revalidated: "revalidated", pass: "passes", write: "writes", error: "errors" };
