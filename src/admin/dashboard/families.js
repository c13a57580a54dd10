// The families: what each does for its API, and what its rules cost.

import { call, get, poll, post, remove } from "./api.js";
import { bar, sparkline } from "./chart.js";
import { chip, empty, fault, h, morph, panel, say, table, terms } from "./dom.js";
import { bytes, clock, count, percent, plural, short } from "./format.js";
import { mayChange, VIEWER } from "./session.js";

const COLUMNS = [
  { name: "Family" },
  { name: "Hit rate", hint: "in the last hour: of hits and misses, without what is not cached" },
  { name: "Last hour", hint: "hit rate over the last hour" },
  { name: "Requests", number: true, hint: "in the last hour" },
  { name: "Entries", number: true },
  { name: "Bytes", number: true },
  { name: "Invalidations", number: true, hint: "in the last hour" },
  { name: "Needless", number: true, hint: "share of refetches after an invalidation that brought the same response: what the rules cost" },
];

export function families(root, signal, parameters) {
  const list = h("div", {});
  const open = new Set(parameters.get("family") ? [parameters.get("family")] : []);
  root.append(panel("In the order of the rules", { note: "The first that matches a path has it." }, list));

  const refresh = poll(signal, 10000, async () => {
    const optional = (path) => get(path, {}, signal).catch((error) => {
      if (error.isMissing || error.status === 503) return null;
      throw error;
    });
    const [told, stats, history, bypass] = await Promise.all([
      get("/cache/families", {}, signal), optional("/cache/stats"), optional("/cache/history"), optional("/cache/bypass"),
    ]);
    const bypassed = (name) => bypass?.bypasses.find(({ family }) => name === family || name.startsWith(`${family}:`));
    const rows = told.families.map((family) => row(family, stats?.families[family.name]?.["1h"], history?.families?.[family.name], bypassed(family.name), { open, refresh, canBypass: bypass !== null }));
    rows.push(rest(told.without_family, stats?.families.none?.["1h"]));
    morph(list, told.families.length === 0 && empty("There are no families.",
      "Larder caches what the API's Cache-Control and Expires allow. Add a [[family]] to the rules file to cache more, and to let writes invalidate it."),
    table("Families", COLUMNS, rows),
    !told.complete && h("p", { class: "note" }, "Entries are lower bounds: not all keys were counted."));
  }, (error) => morph(list, fault(error)));
}

function row(family, hour, points, bypass, { open, refresh, canBypass }) {
  const { name } = family;
  const isOpen = open.has(name);
  const toggle = h("button", {
    type: "button", class: "toggle", "aria-expanded": isOpen ? "true" : "false",
    onclick: () => {
      if (!open.delete(name)) open.add(name);
      refresh();
    },
  }, name);
  const title = h("div", { class: "family" }, toggle, bypass && chip(`off until ${clock(bypass.until)}`, "bad"),
    family.cache === "never" && chip("never cached"), h("code", { class: "faint" }, family.path));
  return {
    key: name,
    cells: [
      title,
      h("div", { class: "with-meter" }, bar(hour?.hit_rate, 100), h("span", {}, percent(hour?.hit_rate))),
      points ? sparkline(trend(points)) : "–",
      short(hour?.requests), short(family.keys), bytes(family.bytes), count(hour?.invalidations), needless(family),
    ],
    more: isOpen && more(family, bypass, refresh, canBypass),
  };
}

/// Hit rates of pieces of the last hour.
function trend(points) {
  const size = Math.max(1, Math.ceil(points.length / 40));
  const all = [];
  for (let start = 0; start < points.length; start += size) {
    const piece = points.slice(start, start + size);
    const sum = (name) => piece.reduce((total, it) => total + (it[name] ?? 0), 0);
    const reads = sum("hits") + sum("misses");
    all.push(reads ? 100 * sum("hits") / reads : null);
  }
  return all;
}

function needless({ refetches }) {
  return percent(refetches?.identical_share);
}

function more(family, bypass, refresh, canBypass) {
  const { name, refetches } = family;
  const outcomes = Object.entries(family.requests).filter(([, number]) => number > 0);
  const act = (text, run) => h("button", {
    type: "button", class: "quiet", disabled: !mayChange(), title: mayChange() ? null : VIEWER,
    onclick: async () => {
      try {
        say((await run()) ?? "Done.");
      } catch (error) {
        say(`${error.message} ${error.remedy ?? ""}`);
      }
      refresh();
    },
  }, text);
  return [
    h("div", { class: "split" }, terms([
      ["Lifetime", family.ttl ? `${family.ttl}${family.ttl_policy === "default" ? ", if the response has none of its own" : ` (${family.ttl_policy})`}` : "what the response says"],
      ["Callers", family.authorize ? ["shared by all whom ", h("code", {}, family.authorize), " authorizes"] : family.identity === "none" ? "shared by all" : ["apart by ", h("code", {}, family.identity)]],
      Object.keys(family.instance ?? {}).length > 0 && ["Instances", Object.entries(family.instance).map(([it, source]) => h("div", {}, h("code", {}, it), ` from ${source}`))],
      ["Methods", family.methods.join(", ")],
      ["Defined", `line ${family.line}`],
    ]), terms([
      ["Since the start", outcomes.length ? outcomes.map(([outcome, number]) => `${count(number)} ${outcome}`).join(", ") : "no requests"],
      refetches?.after_invalidation > 0 && ["Refetched", `${plural(refetches.after_invalidation, "response")} after an invalidation, ${count(refetches.identical)} with the same content as before`],
      ["Invalidated by", family.invalidated_by.length
        ? h("ul", { class: "plain" }, family.invalidated_by.map((path) => h("li", {}, h("code", {}, path))))
        : family.invalidation === "none" ? "no write, as the rules say" : "no rule: add the writes that change it under [invalidate]"],
    ])),
    h("div", { class: "actions" },
      h("a", { class: "button", href: `#/purge?families=${encodeURIComponent(name)}` }, "Purge…"),
      h("a", { class: "button", href: `#/entries?family=${encodeURIComponent(name)}` }, "Entries"),
      h("a", { class: "button", href: `#/invalidations?family=${encodeURIComponent(name)}` }, "Invalidations"),
      canBypass && (bypass
        ? act("Cache again", () => remove(`/cache/bypass/${encodeURIComponent(bypass.family)}`).then(() => `${bypass.family} is cached again.`))
        : act("Do not cache for 10 minutes", () => call("POST", `/cache/bypass/${encodeURIComponent(name)}`, { query: { for: "10m" } }).then(() => `${name} is not cached for 10 minutes.`))),
      act("Warm", () => post(`/cache/warm/${encodeURIComponent(name)}`).then(({ message }) => message)))];
}

/// Requests without a family.
function rest(activity, hour) {
  return {
    key: "(none)",
    kind: "faint",
    cells: [h("div", { class: "family" }, "Without a family", h("span", { class: "faint" }, `${percent(activity.pass_rate)} not cached`)),
      h("div", { class: "with-meter" }, bar(hour?.hit_rate, 100), h("span", {}, percent(hour?.hit_rate))), "",
      short(hour?.requests), short(activity.keys), bytes(activity.bytes), "", ""],
  };
}

