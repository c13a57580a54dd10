// What becomes of a request, step by step, and what happened to its URL.

import { get } from "./api.js";
import { chip, empty, fault, field, fill, h, panel, select, terms } from "./dom.js";
import { bytes, duration, sentence } from "./format.js";
import { story } from "./story.js";

const DOES = {
  hit: ["Served from the cache, fresh", "good"],
  "stale-and-revalidated": ["Served from the cache, stale, and revalidated in the background", "warm"],
  stale: ["Served from the cache, stale", "warm"],
  validated: ["Validated with upstream first", "warm"],
  fetched: ["Fetched from upstream", "cool"],
  forwarded: ["Forwarded to upstream, not cached", "plain"],
  refused: ["Refused with 504", "bad"],
};
const FOUND = { current: "good", "soft-invalidated": "warm", invalidated: "bad" };

export function explain(root, signal, parameters) {
  const method = select({}, ["GET", "HEAD", "QUERY", "POST"].map((it) => [it, it]), parameters.get("method") ?? "GET");
  const url = h("input", { type: "text", required: true, placeholder: "/api/users?page=2", spellcheck: "false", autocapitalize: "off", value: parameters.get("url") ?? "" });
  const headers = h("textarea", { rows: 2, placeholder: "Authorization: Bearer …\nAccept-Language: de", spellcheck: "false" });
  const result = h("div", { "aria-live": "polite" });
  const form = h("form", { class: "filters", onsubmit: (event) => { event.preventDefault(); ask(); } },
    field("Method", method), h("div", { class: "grow" }, field("URL as clients send it, or a path", url)), h("div", { class: "full" }, field("Request fields, one a line", headers, "Without the credentials of a caller you see what an anonymous one gets. They go to Larder only, not to the API.")),
    h("button", { class: "primary" }, "Explain"));
  root.append(panel("A request", { note: "Decided as the proxy does. Nothing is changed, and the API is not asked." }, form), result);

  async function ask() {
    const lines = headers.value.split("\n").map((it) => it.trim()).filter(Boolean);
    try {
      const told = await get("/cache/explain", { url: url.value.trim(), method: method.value, header: lines }, signal);
      const [events, others] = [h("div", {}), h("div", {})];
      fill(result, verdict(told), others, h("div", { class: "columns" }, route(told), invalidations(told)),
        panel("Story of this URL", { note: "Of the entry of this request: what this proxy stored and served, and what the fleet invalidated." }, events));
      if (told.found === "nothing") elsewhere(others, told.path, signal);
      story(events, { url: url.value.trim(), method: method.value, header: lines });
    } catch (error) {
      if (!signal.aborted) fill(result, fault(error));
    }
  }

  if (url.value) ask();
  else {
    fill(result, empty("Enter a URL to see what happens to it.", "For example one that is always a miss: the answer says why, and which writes invalidate it."));
    url.focus();
  }
}

/// What is stored for the path with another host, query or caller: it has another key, and a path alone names no host.
async function elsewhere(place, path, signal) {
  const wanted = path.split("?")[0];
  const { entries } = await get("/cache/entries", { prefix: wanted, limit: 50 }, signal).catch(() => ({ entries: [] }));
  const urls = [...new Set(entries.filter(({ url }) => new URL(url, location.origin).pathname === wanted).map(({ url }) => url))];
  fill(place, urls.length > 0 && h("section", { class: "preview elsewhere", "aria-label": "Stored for this path" },
    h("p", {}, "Stored for this path, with another host, query or caller:"),
    h("ul", { class: "plain" }, urls.slice(0, 8).map((url) => h("li", {}, h("a", { href: `#/explain?url=${encodeURIComponent(url)}` }, url))))));
}

function verdict({ now, found, stored, invalidated_since: since, method, path, grace_left: grace }) {
  const [text, kind] = DOES[now.does] ?? [now.does, "plain"];
  return h("section", { class: `verdict ${kind}`, "aria-label": "What happens now" },
    h("p", { class: "label" }, `${method} ${path} now`),
    h("p", { class: "does" }, text),
    h("p", {}, sentence(now.because), typeof now.ttl === "number" && ` Fresh for ${duration(now.ttl)}.`),
    h("p", { class: "note" }, "Stored: ", chip(found, FOUND[found] ?? ""), " ",
      stored && `${stored.status}, ${bytes(stored.length)}, ${duration(stored.age)} old`, typeof grace === "number" && `, may be served for ${duration(grace)} more`),
    since.length > 0 && h("ul", { class: "plain since" }, since.map(({ tag, by }) =>
      h("li", {}, h("p", {}, "Invalidated by the tag ", h("code", {}, tag), ". The story below names the request."),
        h("details", {}, h("summary", {}, "What may invalidate this tag"), h("p", { class: "note" }, readable(by)))))));
}

const readable = (text) => text.split("; or ").flatMap((it, index) => (index ? [h("br"), "or ", it] : [it]));

function route(told) {
  const { family, rule, instance, key, key_text: text, store_key: store, tags, ttl, notes, varies_on: varies, variants, in_memory: memory, in_store: redis, authorization } = told;
  return panel("Route, key and tags", {}, terms([
    ["Family", family ? [chip(family, "family"), h("p", { class: "note" }, h("code", {}, rule))] : "none: no [[family]] has this path"],
    instance.length > 0 && ["Instance", instance.map((it) => h("code", {}, `${it} `))],
    ["Lifetime", sentence(ttl)],
    authorization && ["Authorization", `${authorization.verdict}: ${authorization.check}`],
    ["Key", [h("pre", { tabindex: 0 }, text), h("p", { class: "note" }, h("code", { class: "long" }, store || key))]],
    ["In memory", memory],
    ["In Redis", redis === "none" ? "there is none" : redis],
    varies.length > 0 && ["Varies on", [varies.join(", "), variants.length > 0 && h("p", { class: "note" }, variants.join("; "))]],
    ["Tags", h("ul", { class: "plain" }, tags.map((tag) => h("li", {}, h("code", {}, tag))))],
  ]), notes.length > 0 && h("details", {}, h("summary", {}, "Notes"), h("ul", {}, notes.map((note) => h("li", {}, sentence(note))))));
}

function invalidations({ invalidated_by: rules, stored }) {
  return panel("Writes that invalidate it", {},
    h("ul", { class: "rulelist" }, rules.map((text) => {
      // `METHODS pattern (line N): families`
      const [, methods, pattern, line, families] = /^(\S+) (.+) \(line (\d+)\): (.*)$/.exec(text) ?? [];
      if (!pattern) return h("li", {}, sentence(text));
      return h("li", {}, h("p", {}, methods !== "*" && [chip(methods), " "], h("code", {}, pattern), h("span", { class: "faint" }, ` line ${line}`)),
        h("p", {}, families.split(", ").map((it) => [chip(it, "family"), " "])));
    })),
    stored && h("details", {}, h("summary", {}, "How the stored response may be reused"), terms([
      ["Lifetime", `${duration(stored.terms.lifetime)}: ${stored.terms.lifetime_from}`],
      ["Credentials", stored.terms.credentials],
      ...["stale_while_revalidate", "stale_if_error", "stale_if_unreachable"].map((name) =>
        [name.replaceAll("_", "-"), `${stored.terms[name].seconds ? duration(stored.terms[name].seconds) : "no"}: ${stored.terms[name].because}`]),
      ["Validators", stored.terms.validated_with.join(", ") || "none"],
    ])));
}
