// Warming: what the rules warm, the run under way, the last runs.

import { get, poll, post } from "./api.js";
import { chip, empty, fault, field, h, morph, panel, say, select, fill } from "./dom.js";
import { clock, count, duration, plural } from "./format.js";
import { mayChange, VIEWER } from "./session.js";

const ROLES = {
  off: "Off: the rules have no [[warm]].", here: "This proxy warms for the fleet.", elsewhere: "Another proxy warms for the fleet, or none while Redis is away.",
};

export function warm(root, signal) {
  const family = select({}, [["", "everything"]], "");
  const start = h("button", { class: "primary", disabled: !mayChange(), title: mayChange() ? null : VIEWER }, "Warm");
  const problem = h("div", {});
  const run = h("div", {});
  const tables = h("div", {});
  const reports = h("div", {});
  root.append(
    panel("Warm now", {}, h("form", { class: "filters", onsubmit: begin }, field("What", family), start), problem, run),
    h("div", { class: "columns" }, panel("What the rules warm", {}, tables), panel("Last runs", {}, reports)));

  const refresh = poll(signal, 2000, async () => {
    const told = await get("/cache/warm", {}, signal);
    morph(run, told.run ? progress(told.run) : null);
    start.disabled = !mayChange() || Boolean(told.run) || told.tables.length === 0;
    morph(tables, h("p", { class: "note" }, ROLES[told.warming] ?? told.warming), told.tables.length
      ? h("ul", { class: "cardlist" }, told.tables.map(({ line, warms, when }) => h("li", { "data-key": line }, h("p", {}, h("b", {}, warms), h("span", { class: "faint" }, ` line ${line}`)), h("p", { class: "note" }, when))))
      : empty("The rules have no [[warm]].", "Add one with paths, file, openapi, sitemap or family, and entries are there before anybody asks."));
    morph(reports, told.reports.length ? h("ul", { class: "cardlist" }, told.reports.map(report)) : empty("No run yet.", "A run begins by its schedule, or by the button above."));
  }, (error) => morph(run, fault(error)));

  async function begin(event) {
    event.preventDefault();
    try {
      const { message } = await post(family.value ? `/cache/warm/${encodeURIComponent(family.value)}` : "/cache/warm");
      fill(problem);
      say(message.split(";")[0]);
    } catch (error) {
      fill(problem, fault(error));
    }
    refresh();
  }

  get("/cache/families", {}, signal).then(({ families }) =>
    fill(family, h("option", { value: "" }, "everything"), families.map(({ name }) => h("option", { value: name }, name))), () => {});
}

const sums = (run) => [[run.fetched, "fetched"], [run.already_fresh, "fresh already"], [run.not_stored, "not stored"], [run.failed, "failed"]]
  .filter(([number]) => number > 0).map(([number, what]) => `${count(number)} ${what}`).join(", ");

function progress(run) {
  return h("div", { class: "progress" },
    h("p", {}, h("b", {}, `Run ${run.run}`), ` of ${run.family ?? "everything"}: ${count(run.done)} of ${plural(run.paths, "path")}, ${duration(run.seconds)}`),
    h("progress", { max: Math.max(1, run.paths), value: run.done, "aria-label": "Progress" }), h("p", { class: "note" }, sums(run)));
}

function report(run) {
  return h("li", { "data-key": run.run },
    h("div", { class: "card-head" }, h("h3", {}, `Run ${run.run}`, h("span", { class: "faint" }, ` ${run.family ?? "everything"}, ${run.occasion}`)),
      run.failed > 0 ? chip(`${run.failed} failed`, "bad") : chip("done", "good")),
    h("p", { class: "note" }, `${clock(run.began)}, ${duration(run.seconds)}: ${sums(run) || "nothing to do"}`),
    run.problems.length > 0 && h("ul", { class: "plain" }, run.problems.map((it) => h("li", {}, it))),
    run.reasons.length > 0 && h("ul", { class: "plain" }, run.reasons.map(({ result, reason, count: times, example }) =>
      h("li", {}, `${count(times)} ${result}: ${reason}, first `, h("code", {}, example)))));
}
