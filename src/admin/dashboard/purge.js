// Purging with a preview: what is chosen is counted first, and only what was counted can be purged.

import { get, post } from "./api.js";
import { chip, confirmed, empty, fault, field, fill, h, panel, say, select, terms } from "./dom.js";
import { bytes, clock, millis, plural, sentence } from "./format.js";
import { mayChange, VIEWER } from "./session.js";

const KINDS = [
  ["families", "Family", "user_list", "A family and those below it, a glob of families, or an instance of one: user_details:42."],
  ["instances", "Instance", "user:42", "The instance user, or user_id, with this value, in every family that has it."],
  ["urls", "URL", "/api/users/42", "All its variants, queries and callers."],
  ["prefixes", "Path prefix", "/api/users/", "Everything stored now whose path begins so."],
  ["globs", "Glob", "/api/*/photo", "Everything stored now whose path fits; * is any text."],
  ["tags", "Tag", "uri:/api/users", "As an entry has it; see Entries."],
  ["groups", "Cache group", "product-7", "As responses name it in Cache-Groups, Surrogate-Key, Cache-Tag or xkey."],
];

const receipts = [];

export function purge(root, signal, parameters) {
  const chosen = KINDS.flatMap(([kind]) => parameters.getAll(kind).map((value) => ({ kind, value })));
  let previewed = null;
  const kind = select({ onchange: () => hint() }, KINDS.map(([value, text]) => [value, text]), "families");
  const value = h("input", { type: "text", spellcheck: "false", autocapitalize: "off", list: "purge-families" });
  const families = h("datalist", { id: "purge-families" });
  const small = h("p", { class: "note full" });
  const list = h("ul", { class: "chosen" });
  const mode = select({ onchange: () => changed() }, [["hard", "hard: never served again"], ["soft", "soft: served stale for 30 s while it is fetched again"]], "hard");
  const deploy = h("input", { type: "text", placeholder: "commit of the release", spellcheck: "false", onchange: () => changed() });
  const result = h("div", { "aria-live": "polite" });
  const preview = h("button", { type: "button", class: "primary", onclick: () => run(true) }, "Preview");
  const done = h("div", {});

  root.append(
    panel("What to purge", { note: "A preview counts it first. Nothing is purged by a preview." },
      h("form", { class: "filters", onsubmit: (event) => { event.preventDefault(); add(); } },
        field("By", kind), h("div", { class: "grow" }, field("Value", value)), families,
        h("button", { class: "quiet" }, "Add"), small),
      list,
      h("div", { class: "filters" }, field("Mode", mode), field("Once per release (optional)", deploy), preview),
      result),
    panel("Receipts", { note: "Of this tab." }, done),
    panel("Everything", {}, h("p", { class: "note" }, "Purges all entries of the whole fleet. The API gets every request again until they are stored anew."),
      h("button", { type: "button", class: "danger", disabled: !mayChange(), title: mayChange() ? null : VIEWER, onclick: everything }, "Purge everything…")));

  function hint() {
    const [, , example, text] = KINDS.find(([it]) => it === kind.value);
    value.placeholder = example;
    small.textContent = text;
    if (kind.value === "families") value.setAttribute("list", "purge-families");
    else value.removeAttribute("list");
  }

  function add() {
    const text = value.value.trim();
    if (text && !chosen.some((it) => it.kind === kind.value && it.value === text)) chosen.push({ kind: kind.value, value: text });
    value.value = "";
    changed();
    value.focus();
  }

  function changed() {
    previewed = null;
    fill(result);
    fill(list, chosen.map((it) => h("li", {}, h("span", { class: "faint" }, KINDS.find(([known]) => known === it.kind)[1]), " ", h("code", {}, it.value),
      h("button", { type: "button", class: "quiet", "aria-label": `Remove ${it.value}`, onclick: () => { chosen.splice(chosen.indexOf(it), 1); changed(); } }, "×"))));
    list.hidden = chosen.length === 0;
  }

  function selection() {
    const all = { mode: mode.value };
    for (const { kind, value } of chosen) (all[kind] ??= []).push(value);
    if (deploy.value.trim()) all.deploy = deploy.value.trim();
    return all;
  }

  async function run(isDry) {
    if (value.value.trim()) add();
    if (chosen.length === 0) return fill(result, empty("Nothing is chosen.", "Enter a family, an instance or a URL, and press Add."));
    const wanted = selection();
    preview.disabled = true;
    try {
      const { receipt } = await post("/cache/invalidate", { ...wanted, dry_run: isDry });
      if (isDry) {
        previewed = receipt;
        fill(result, previewOf(receipt));
      } else {
        receipts.unshift({ ...receipt, counted: previewed, time: Date.now() });
        say("Purged.");
        chosen.length = 0;
        changed();
        showReceipts();
      }
    } catch (error) {
      if (!signal.aborted) fill(result, fault(error));
    }
    preview.disabled = false;
  }

  function previewOf(receipt) {
    const { entries, bytes: size, samples, entries_complete: isComplete, tags, left_out: left } = receipt;
    return h("div", { class: "preview" },
      h("p", { class: "value" }, typeof entries === "number" ? [plural(entries, "entry", "entries"), h("span", {}, ` ${bytes(size)}`)] : "Not counted"),
      h("p", { class: "note" }, `would be invalidated in the whole fleet${isComplete === false ? "; the count is a lower bound" : ""}. Responses that are being fetched now are covered too.`),
      samples?.length > 0 && h("ul", { class: "plain samples" }, samples.map((url) => h("li", {}, h("code", {}, url)))),
      left?.length > 0 && h("ul", { class: "plain" }, left.map(({ family, why }) => h("li", {}, "Not in ", chip(family, "family"), ` ${sentence(why)}`))),
      tags?.length > 0 && h("details", {}, h("summary", {}, plural(tags.length, "tag")), h("ul", { class: "plain" }, tags.map((tag) => h("li", {}, h("code", {}, tag))))),
      h("button", { type: "button", class: "danger", disabled: !mayChange(), title: mayChange() ? null : VIEWER, onclick: () => previewed && run(false) },
        entries ? `Purge ${plural(entries, "entry", "entries")}` : "Purge anyway"));
  }

  async function everything() {
    if (!await confirmed("Purge everything?", "All entries of the whole fleet become unusable at once.", "Purge everything")) return;
    try {
      const { message, delivered } = await post("/cache/clear");
      receipts.unshift({ families: ["everything"], message, delivered, time: Date.now() });
      say("Purged everything.");
    } catch (error) {
      say(`${error.message} ${error.remedy ?? ""}`);
    }
    showReceipts();
  }

  function showReceipts() {
    fill(done, receipts.length === 0 ? empty("Nothing was purged from this tab.", "Purges by others stand in ", h("a", { href: "#/invalidations?cause=purge" }, "the log"), ".")
      : h("ol", { class: "plain" }, receipts.map((it) => h("li", { class: "receipt" },
        h("p", {}, h("time", {}, clock(it.time)), " ", it.repeated ? chip("already done for this release", "warm") : chip(it.delivered === false ? "not delivered yet" : "delivered", it.delivered === false ? "bad" : "good"), " ",
          (it.families ?? []).map((family) => [chip(family, "family"), " "])),
        terms([
          it.id && ["Receipt", h("code", {}, it.id)],
          typeof it.counted?.entries === "number" && ["In the preview", `${plural(it.counted.entries, "entry", "entries")}, ${bytes(it.counted.bytes)}`],
          typeof it.wait_ms === "number" && ["The fleet took", millis(it.wait_ms)],
          it.deploy && ["Release", it.deploy],
          it.complete === false && ["Not complete", it.what_to_do],
          it.tags?.length > 0 && ["Tags", it.tags.slice(0, 8).map((tag) => h("code", {}, `${tag} `))],
        ])))));
  }

  get("/cache/families", {}, signal).then((told) => fill(families, told.families.map(({ name }) => h("option", { value: name }))), () => {});
  hint();
  changed();
  showReceipts();
}
