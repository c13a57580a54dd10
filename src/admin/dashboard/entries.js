// The stored entries, page by page, and one of them in detail.

import { call, get, remove } from "./api.js";
import { chip, confirmed, drawer, empty, fault, field, fill, h, panel, say, select, table, terms } from "./dom.js";
import { bytes, clock, duration, plural, sentence } from "./format.js";
import { mayChange } from "./session.js";
import { story } from "./story.js";

const COLUMNS = [
  { name: "URL" }, { name: "State" }, { name: "Fresh for", number: true }, { name: "Age", number: true },
  { name: "Size", number: true }, { name: "Status", number: true }, { name: "Where" },
];
const PAGE = 100;
export const STATES = { fresh: "good", stale: "warm", invalidated: "bad" };

export function entries(root, signal, parameters) {
  let all = [];
  let cursor = null;
  const family = select({}, [["", "any"]], "");
  const instance = h("input", { type: "text", placeholder: "user_id:42", spellcheck: "false", value: parameters.get("instance") ?? "" });
  const prefix = h("input", { type: "text", placeholder: "/api/users", spellcheck: "false", value: parameters.get("prefix") ?? "" });
  const state = select({}, [["", "any"], ["fresh", "fresh"], ["stale", "stale"], ["invalidated", "invalidated"]], parameters.get("state") ?? "");
  const list = h("div", {});
  const form = h("form", { class: "filters", onsubmit: (event) => { event.preventDefault(); load(true); }, onchange: () => load(true) },
    field("Family", family), field("Instance", instance), field("Path begins with", prefix), field("State", state),
    h("button", { class: "primary" }, "Show"));
  root.append(panel("Stored responses", {}, form, list));

  async function load(isNew) {
    if (isNew) [all, cursor] = [[], null];
    const query = { family: family.value, instance: instance.value.trim(), prefix: prefix.value.trim(), state: state.value, limit: PAGE, cursor };
    try {
      // A page may be empty though more follow: the work for one is bounded.
      let page;
      do {
        page = await get("/cache/entries", { ...query, cursor }, signal);
        cursor = page.cursor;
        all = [...all, ...page.entries];
      } while (cursor && page.entries.length === 0 && !signal.aborted);
      show(page.complete);
    } catch (error) {
      if (signal.aborted) return;
      fill(list, error.isMissing ? empty("This Larder does not list entries.") : fault(error));
    }
  }

  function show(isComplete) {
    const rows = all.map((entry) => ({ key: entry.key, cells: [
      h("button", { type: "button", class: "toggle url", onclick: () => detail(entry, () => load(true)) }, `${entry.method === "GET" ? "" : `${entry.method} `}${path(entry.url)}`),
      chip(entry.state, STATES[entry.state]), entry.state === "fresh" ? duration(entry.fresh_for_s) : "–", duration(entry.age_s), bytes(entry.bytes),
      entry.status, entry.tier,
    ] }));
    fill(list, all.length === 0
      ? empty("Nothing is stored that fits.", "Clear the filters, or read something through the proxy. ", h("a", { href: "#/explain" }, "Explain"), " says why a response is not stored.")
      : table("Entries", COLUMNS, rows),
    h("div", { class: "actions" }, h("span", { class: "note" }, plural(all.length, "entry", "entries"), !cursor && isComplete === false && ", not all could be read"),
      cursor && h("button", { type: "button", class: "quiet", onclick: () => load(false) }, "More")));
  }

  get("/cache/families", {}, signal).then(({ families }) => {
    const chosen = parameters.get("family") ?? "";
    fill(family, h("option", { value: "" }, "any"), families.map(({ name }) => h("option", { value: name, selected: name === chosen }, name)));
    load(true);
  }, () => load(true));
}

/// Without the origin, which is the same for most.
const path = (url) => url.replace(/^https?:\/\/[^/]+/, "");

async function detail(entry, changed) {
  const { body, close } = drawer("Entry", h("p", { class: "note" }, "Loading…"));
  let told;
  try {
    told = (await get(`/cache/entries/${encodeURIComponent(entry.key)}`)).entry;
  } catch (error) {
    fill(body, fault(error));
    return;
  }
  const content = h("pre", { hidden: true, tabindex: 0 });
  const show = h("button", { type: "button", class: "quiet", onclick: async () => {
    try {
      const { entry: answer } = await call("GET", `/cache/entries/${encodeURIComponent(entry.key)}`, { query: { body: true } });
      const { text, is_whole: isWhole } = answer.body;
      content.textContent = isWhole ? text : `${text}\n… and more`;
      content.hidden = false;
    } catch (error) {
      say(error.message);
    }
  } }, "Show the body");
  const drop = h("button", { type: "button", class: "danger", onclick: async () => {
    if (!await confirmed("Remove this entry?", `${told.url}: all its variants, queries and callers are invalidated in the whole fleet.`, "Remove")) return;
    try {
      await remove(`/cache/entries/${encodeURIComponent(entry.key)}`);
      say("Removed.");
      close();
      changed();
    } catch (error) {
      say(error.message);
    }
  } }, "Remove");
  const events = h("div", {});
  fill(body,
    h("p", {}, h("code", { class: "long" }, told.url)),
    h("p", {}, chip(told.state, STATES[told.state]), " ", sentence(told.state_reason)),
    terms([
      ["Family", told.family ?? "none"],
      told.instance && ["Instance", Object.entries(told.instance).map(([name, value]) => h("code", {}, `${name}: ${value} `))],
      ["Stored", `${clock(told.stored_at)}, ${duration(told.age_s)} ago`],
      told.fresh_for_s < 0 ? ["Stale for", duration(-told.fresh_for_s)] : ["Fresh for", duration(told.fresh_for_s)],
      ["Status", told.status],
      ["Size", bytes(told.bytes)],
      ["Where", told.tier],
      told.identity && ["Caller", h("code", { class: "long" }, told.identity)],
      told.vary.length > 0 && ["Varies on", told.vary.join(", ")],
      ["Stamp", h("code", {}, `${told.stamp.sequence} in epoch ${told.stamp.epoch}`)],
      ["Tags", h("ul", { class: "plain" }, told.tags.map((tag) => h("li", {}, h("code", {}, tag))))],
      ["Key", h("code", { class: "long" }, told.key)],
    ]),
    h("details", {}, h("summary", {}, "Response fields"), terms(Object.entries(told.fields).flatMap(([name, values]) => values.map((value) => [name, value])).map(([name, value]) => [name, h("code", { class: "long" }, value)]))),
    h("div", { class: "actions" }, h("a", { class: "button", href: `#/explain?url=${encodeURIComponent(told.url)}`, onclick: close }, "Explain"),
      mayChange() && show, mayChange() && drop),
    content, h("h3", {}, "Story"), events);
  if (told.identity) fill(events, empty("Of one caller.", "Explain shows its story, with the request fields of that caller."));
  else story(events, { url: told.url, method: told.method });
}
