// The rules in force, the faults of the last edit, and what a new file would change.

import { call, get, poll, post } from "./api.js";
import { chip, empty, fault, field, fill, h, morph, panel, say, table, terms } from "./dom.js";
import { clock, count, duration, percent, plural, sentence } from "./format.js";
import { mayChange, VIEWER } from "./session.js";

const COLUMNS = [{ name: "Writes" }, { name: "Invalidate" }, { name: "When" }, { name: "Line", number: true }];
const FILE_MOST = 4 << 20;

export function ruleView(root, signal) {
  const head = h("div", {});
  const list = h("div", {});
  const text = h("textarea", { rows: 8, spellcheck: "false", placeholder: "Paste a rules file here" });
  const file = h("input", { type: "file", accept: ".toml,text/plain", onchange: async () => {
    const [chosen] = file.files;
    if (!chosen) return;
    if (chosen.size > FILE_MOST) return say("This is no rules file: it is over 4 MiB.");
    text.value = await chosen.text();
    compare();
  } });
  const difference = h("div", { "aria-live": "polite" });
  const reload = h("button", { type: "button", class: "quiet", disabled: !mayChange(), title: mayChange() ? null : VIEWER, onclick: async () => {
    try {
      const { message, needs_restart: restart } = await post("/rules/reload");
      say(restart.length ? `${message}. A restart is needed for ${restart.join(", ")}.` : `${message}.`);
    } catch (error) {
      say(error.message);
    }
    refresh();
  } }, "Reload the file");
  root.append(panel("In force", { actions: reload }, head), panel("Invalidations", { note: "Every rule that matches a write applies." }, list),
    panel("What an edit would change", { note: "Nothing is put in force here." },
      h("form", { class: "filters", onsubmit: (event) => { event.preventDefault(); compare(); } },
        h("div", { class: "full" }, field("New rules", text)), field("or a file", file), h("button", { class: "primary", disabled: !mayChange(), title: mayChange() ? null : VIEWER }, "Compare")), difference));

  const refresh = poll(signal, 10000, async () => {
    const told = await get("/rules", {}, signal);
    morph(head,
      told.last_error && faults(told.last_error, "The last edit was refused. The old rules stay in force."),
      h("p", {}, told.file ? ["Read from ", h("code", {}, told.file)] : "Larder runs without a rules file: it caches what the API's Cache-Control and Expires allow.",
        h("span", { class: "faint" }, `, in force since ${clock(told.since)}`)),
      h("p", {}, plural(told.families.length, "family", "families"), ", ", plural(told.invalidations.length, "invalidation"), ". ", h("a", { href: "#/families" }, "Show the families")));
    morph(list, told.invalidations.length ? table("Invalidations", COLUMNS, told.invalidations.map(row))
      : empty("No write invalidates a family.", "Add lines under [invalidate]: '/stock/.*' = [\"order\"]"));
  }, (error) => morph(head, fault(error)));

  async function compare() {
    if (!text.value.trim()) return fill(difference, empty("There is nothing to compare.", "Paste the new rules, or choose their file."));
    try {
      fill(difference, diff(await call("POST", "/rules/diff", { text: text.value, signal })));
    } catch (error) {
      if (signal.aborted) return;
      if (error.isMissing) return fill(difference, empty("This Larder cannot compare rules.", "larder check FILE shows the faults of a file."));
      fill(difference, error.body?.faults ? faults(error.body, "These rules would be refused.") : fault(error));
    }
  }
}

function row(rule, index) {
  const { path, methods, on, families, line, mode } = rule;
  return { key: `${index} ${path}`, cells: [
    [methods.filter((method) => method !== "*").map((method) => [chip(method), " "]), h("code", {}, path)],
    families.map((family) => [chip(family, "family"), " "]),
    [mode === "soft" && [chip("soft"), " "], `status ${on.join(", ").replaceAll("-", "–")}`, rule.again && `, again after ${duration(rule.again)}`],
    line,
  ] };
}

function faults({ faults: all, message }, title) {
  return h("div", { class: "fault", role: "alert" }, h("strong", {}, title),
    all?.length ? h("ol", { class: "plain" }, all.map((it) => h("li", {},
      h("p", {}, it.line ? h("code", {}, `${it.file}:${it.line}:${it.column}`) : null, " ", sentence(it.message)), h("p", { class: "note" }, sentence(it.remedy)))))
      : h("p", {}, sentence(message)));
}

const CHANGES = { added: "good", removed: "bad", changed: "warm" };

function diff({ unchanged, families, rules_added: added, rules_removed: removed, invalidated, needs_restart: restart, warnings }) {
  if (unchanged) return empty("It changes nothing.", "These are the rules in force.");
  return h("div", { class: "preview" },
    invalidated.length > 0 && h("p", {}, "Putting it in force invalidates once: ", invalidated.map((name) => [chip(name, "family"), " "])),
    restart.length > 0 && h("p", {}, "After a restart only: ", restart.map((name) => [h("code", {}, name), " "])),
    families.map(family),
    rules("New rules", added), rules("Rules that go", removed),
    warnings.length > 0 && [h("h3", {}, "Warnings"), h("ul", { class: "plain" }, warnings.map((it) => h("li", {}, it.line ? h("span", { class: "faint" }, `line ${it.line} `) : null, sentence(it.message ?? String(it)), it.remedy && h("p", { class: "note" }, sentence(it.remedy)))))]);
}

function family({ name, change, settings, invalidated_too_by: more, not_invalidated_by: less, activity }) {
  const paths = (title, all) => all.length > 0 && [title, all.map((path) => h("div", {}, h("code", {}, path)))];
  return h("div", {},
    h("h3", {}, name, " ", change !== "same" && chip(change, CHANGES[change]),
      activity && h("span", { class: "faint" }, ` ${count(activity.keys)} entries, hit rate ${percent(activity.hit_rate)}`)),
    terms([
      ...settings.map((it) => [it.name, h("code", {}, written(it.before)), " → ", h("code", {}, written(it.after))]),
      paths("Invalidated by, too", more), paths("No longer by", less),
    ]));
}

const written = (value) => (typeof value === "string" ? value : JSON.stringify(value));

const rules = (title, all) => all.length > 0 && [h("h3", {}, title), h("ul", { class: "plain" }, all.map((rule) =>
  h("li", {}, h("code", {}, rule.path), " ", rule.families.map((family) => [chip(family, "family"), " "]))))];
