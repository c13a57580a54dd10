// The first view: alerts, what the cache saves, requests by outcome, latency, the fleet, and the latest invalidations.

import { get, poll } from "./api.js";
import { OUTCOMES, bar, buckets, sparkline, timeChart } from "./chart.js";
import { chip, empty, fault, h, morph, panel, terms } from "./dom.js";
import { feed, listen } from "./feed.js";
import { ago, count, duration, millis, percent, plural, rate, sentence, short } from "./format.js";
import { line } from "./log.js";

const RANGES = [[300, "5 min"], [900, "15 min"], [3600, "1 hour"]];

export function overview(root, signal) {
  const alerts = h("div", { class: "alerts" });
  const hero = h("section", { class: "hero", "aria-label": "What the cache saves" });
  const outcomes = timeChart({
    label: "Requests by outcome", unit: "requests per second", height: 240,
    series: OUTCOMES.map(([kind, name]) => ({ name, kind, value: (bucket) => bucket[kind] / bucket.seconds, isOver: kind === "errors" })),
    text: rate,
  });
  const latency = timeChart({
    label: "Latency of hits and misses", unit: "median, shaded to the 99th percentile", height: 240, scale: "log",
    series: [["hit_ms", "Hits", "hits"], ["miss_ms", "Misses", "misses"]].map(([field, name, kind]) =>
      ({ name, kind, value: (bucket) => bucket[field].p50, to: (bucket) => bucket[field].p99 })),
    text: millis,
  });
  const ranges = h("div", { class: "segments", role: "group", "aria-label": "Time range" }, RANGES.map(([seconds, name]) =>
    h("button", { type: "button", "aria-pressed": seconds === 3600 ? "true" : "false", onclick: () => { isChosen = true; choose(seconds); } }, name)));
  const charts = h("div", { class: "columns charts" },
    panel("Requests", { actions: ranges }, outcomes.node), panel("Latency", {}, latency.node));
  const fleet = h("div", {});
  const latest = h("div", {});
  const families = h("div", {});
  const lower = h("div", { class: "columns three" },
    panel("Latest invalidations", { actions: h("a", { href: "#/invalidations" }, "All") }, latest),
    panel("Families", { actions: h("a", { href: "#/families" }, "All") }, families),
    panel("Fleet", {}, fleet));
  root.append(alerts, hero, charts, lower);

  let range = 3600;
  let isChosen = false;
  let history = null;
  let stats = null;

  function choose(seconds) {
    range = seconds;
    RANGES.forEach(([it], index) => ranges.children[index].setAttribute("aria-pressed", it === seconds));
    draw();
  }

  function draw() {
    if (!history) return;
    outcomes.draw(history.points, history.step_s, range);
    latency.draw(history.points, history.step_s, range);
  }

  const failed = (error) => morph(alerts, error.isMissing ? null : fault(error));

  poll(signal, 5000, async () => {
    const [{ alerts: raised }, known, rules, ...all] = await Promise.all([
      get("/cache/alerts", {}, signal), get("/cache/fleet", {}, signal), get("/rules", {}, signal),
      get("/cache/stats", {}, signal).catch((error) => error),
      get("/cache/history", {}, signal).catch((error) => error),
    ]);
    [stats, history] = all.map((it) => (it instanceof Error ? null : it));
    charts.hidden = !history;
    morph(alerts, attention(raised, known, rules, all));
    morph(hero, figures(stats, history));
    morph(fleet, fleetTerms(known, stats));
    morph(families, familyList(stats, history));
    // After a start, an hour would be empty but for its end.
    if (history && !isChosen) choose((RANGES.find(([seconds]) => seconds >= covered(history)) ?? RANGES.at(-1))[0]);
    else draw();
  }, failed);

  listen(signal, () => morph(latest, feed.invalidations.length
    ? h("ol", { class: "log brief" }, feed.invalidations.slice(0, 5).map(line))
    : empty("No invalidations yet.", feed.error?.isMissing ? "This Larder keeps no log of invalidations." : "A write through the proxy that a rule names appears here at once.")));
}

const WATCHED = {
  hit_rate: "Hit rate is low", error_rate: "Many errors", hit_latency: "Hits are slow",
  memory: "Memory is nearly full", store_away: "Redis does not answer",
  mixed_rules: "Proxies follow different rules; these families are not cached",
};

/// Alerts, and the states that need somebody though no threshold is set for them.
function attention(raised, fleet, rules, answers) {
  const all = raised.map((alert) => item(
    `alert ${alert.alert} ${alert.family ?? ""}`,
    [WATCHED[alert.alert] ?? alert.alert, alert.family && [" in ", h("b", {}, alert.family)], `: ${alert.value}`],
    `threshold ${alert.threshold}, raised ${ago(alert.raised)}`,
    [sentence(alert.what_to_do), alert.alert === "hit_rate" && [" ", h("a", { href: `#/families${alert.family ? `?family=${encodeURIComponent(alert.family)}` : ""}` }, "Show the families")]]));
  if (rules.last_error) {
    const faults = rules.last_error.faults ?? [];
    all.push(item("rules", "The last edit of the rules was refused", faults.length ? plural(faults.length, "fault") : rules.last_error.message,
      ["The old rules stay in force. ", h("a", { href: "#/rules" }, "Show the faults")]));
  }
  if (fleet.proxy && !fleet.proxy.lease_held) {
    all.push(item("lease", "This proxy holds no lease", `for ${duration(fleet.proxy.since_seconds)}`, fleet.proxy.why));
  }
  if (fleet.undelivered > 0) {
    all.push(item("undelivered", `${plural(fleet.undelivered, "invalidation")} not delivered`, fleet.store, "Requests go upstream until Redis has them."));
  }
  const away = answers.find((it) => it instanceof Error && !it.isMissing);
  if (away) all.push(item("away", away.message, "", away.remedy));
  return all;
}

const item = (key, title, note, remedy) => h("div", { class: "alert", role: "alert", "data-key": key },
  h("p", { class: "what" }, h("strong", {}, title), " ", h("span", {}, note)), h("p", { class: "remedy" }, typeof remedy === "string" ? sentence(remedy) : remedy));

/// How many seconds the history goes back.
const covered = ({ points, step_s: step }) => (points.length ? (Date.now() - Date.parse(points[0].time)) / 1000 : 0) + step;

/// Hits, of hits and misses, percent.
const hitRate = ({ hits = 0, stale = 0, misses = 0, revalidated = 0 }) => {
  const all = hits + stale + misses + revalidated;
  return all ? 100 * (hits + stale) / all : null;
};

function figures(stats, history) {
  const points = history?.points ?? [];
  const sum = (name) => points.reduce((total, point) => total + (point[name] ?? 0), 0);
  const now = stats?.rates["1m"];
  const hour = stats?.rates["1h"];
  const rateNow = now?.hit_rate ?? null;
  const hasReads = (hour?.hits ?? 0) + (hour?.misses ?? 0) > 0;
  const last = points.length ? Date.parse(points[points.length - 1].time) : 0;
  const trend = history && buckets(points, last - Math.min(3600, covered(history)) * 1000, last, history.step_s * 1000, 90).map(hitRate);
  const [number, unit] = percent(rateNow).split(" ");
  const saved = (hour?.hits ?? 0);
  return [
    h("div", { class: "lead" },
      h("p", { class: "label" }, "Answered from the cache"),
      rateNow === null ? h("p", { class: "giant none" }, "No reads") : h("p", { class: "giant" }, number, h("span", {}, unit)),
      h("p", { class: "note" }, hasReads
        ? [rateNow === null ? "In the last minute." : "Of reads in the last minute.", h("br"), h("b", {}, percent(hour.hit_rate)), " in the last hour."]
        : ["Send requests through the proxy, and this shows", h("br"), "how many of them the cache answers."])),
    h("div", { class: "trend" }, trend && hasReads && sparkline(trend, { width: 320, height: 72 }),
      trend && hasReads && h("p", { class: "note" }, covered(history) < 3300 ? `Hit rate, last ${duration(covered(history))}` : "Hit rate, last hour")),
    figure("Upstream requests saved", short(history ? sum("saved_requests") : saved), `In the last hour; ${short(history ? sum("upstream_requests") : hour?.misses)} were made.`),
    figure("Upstream time saved", history ? duration(sum("saved_s")) : "–", "In the last hour, by what misses took."),
    figure("Requests", `${rate(now?.requests_per_second)}`, `A second; ${short(hour?.requests)} in the last hour.`),
  ];
}

const figure = (label, value, note) => h("div", { class: "figure" },
  h("p", { class: "label" }, label), h("p", { class: "value" }, value), h("p", { class: "note" }, note));

function familyList(stats, history) {
  const all = Object.entries(stats?.families ?? {}).map(([name, windows]) => ({ name, ...windows["1h"] }))
    .filter(({ requests, name }) => requests > 0 && name !== "none")
    .sort((one, other) => other.requests - one.requests).slice(0, 7);
  if (all.length === 0) return empty("No family was asked for yet.", "What is cached is said by ", h("a", { href: "#/rules" }, "the rules"), ".");
  return h("ul", { class: "bars" }, all.map(({ name, requests, hit_rate }) => h("li", { "data-key": name },
    h("span", { class: "name" }, h("a", { href: `#/families?family=${encodeURIComponent(name)}` }, name)),
    bar(hit_rate, 100), h("span", { class: "number" }, percent(hit_rate)), h("span", { class: "number faint" }, short(requests)))));
}

function fleetTerms(fleet, stats) {
  const { proxy, epoch, members, intents } = fleet;
  const memory = stats?.larder;
  const rows = [
    ["Store", fleet.mode === "embedded" ? "none: entries are in memory" : [chip(fleet.store.split(":")[0], fleet.store === "up" ? "good" : "bad"), fleet.store.includes(":") && fleet.store.slice(fleet.store.indexOf(":") + 1)]],
    proxy && ["Lease", [chip(proxy.lease_held ? "held" : "not held", proxy.lease_held ? "good" : "bad"), ` ${proxy.coherence}, ${proxy.lease}`, !proxy.lease_held && h("br"), !proxy.lease_held && proxy.why]],
    members && ["Members", `${members.length}`, h("ul", { class: "members" }, members.map((member) => h("li", { "data-key": member.id },
      h("code", {}, member.id), member.is_this && " (this)", h("span", { class: "faint" }, ` synced ${duration(member.synced_seconds_ago)} ago`))))],
    epoch && ["Epoch", `${epoch.cause}, ${duration(epoch.age_seconds)} ago`],
    epoch && ["Marks", `${count(epoch.marks)}, floor ${duration(epoch.floor_age_seconds)} old`],
    intents && ["Writes under way", `${count(intents.pending)}${intents.due ? `, ${count(intents.due)} abandoned` : ""}`],
    memory && ["Memory", `${plural(memory.memory_entries, "entry", "entries")}, ${percent(100 * memory.memory_bytes / memory.memory_capacity)} of ${Math.round(memory.memory_capacity / 1048576)} MiB`],
    memory && ["Larder", `${memory.version}, up ${duration(memory.uptime_in_seconds)}`],
  ];
  return terms(rows);
}
