// The frame of the page: sign-in, navigation by the hash of the address, theme and keys. Each view is a module of its own.

import { ApiError, call, get, poll, token } from "./api.js";
import { h, fill, fault, morph, drawer, terms } from "./dom.js";
import { feed, follow, forget, listen } from "./feed.js";
import { session } from "./session.js";
import { entries } from "./entries.js";
import { explain } from "./explain.js";
import { families } from "./families.js";
import { log } from "./log.js";
import { overview } from "./overview.js";
import { purge } from "./purge.js";
import { ruleView } from "./rules.js";
import { top } from "./top.js";
import { warm } from "./warm.js";
import { writes } from "./writes.js";

const VIEWS = [
  { id: "overview", title: "Overview", show: overview },
  { id: "families", title: "Families", show: families },
  { id: "invalidations", title: "Invalidations", show: log },
  { id: "writes", title: "Writes without rules", show: writes },
  { id: "top", title: "Top lists", show: top },
  { id: "entries", title: "Entries", show: entries },
  { id: "explain", title: "Explain", show: explain },
  { id: "purge", title: "Purge", show: purge },
  { id: "warm", title: "Warm", show: warm },
  { id: "rules", title: "Rules", show: ruleView },
];

const app = document.getElementById("app");
let stopSession = new AbortController();
let stopView = new AbortController();

// ------------------------------------------------------------------ theme

const THEMES = ["auto", "light", "dark"];
const theme = () => localStorage.getItem("larder-theme") ?? "auto";

function applyTheme(button) {
  const chosen = theme();
  if (chosen === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = chosen;
  if (button) button.textContent = `Theme: ${chosen}`;
}

function nextTheme(button) {
  localStorage.setItem("larder-theme", THEMES[(THEMES.indexOf(theme()) + 1) % THEMES.length]);
  applyTheme(button);
}

// ------------------------------------------------------------------ sign-in

function signIn(message) {
  end();
  const input = h("input", {
    type: "password", name: "token", autocomplete: "current-password", required: true, spellcheck: "false",
    "aria-describedby": "sign-in-hint",
  });
  const problem = h("div", {}, message && h("p", { class: "fault", role: "alert" }, message));
  const form = h("form", {
    class: "sign-in",
    onsubmit: async (event) => {
      event.preventDefault();
      token.set(input.value.trim());
      try {
        await begin();
      } catch (error) {
        token.forget();
        fill(problem, error.status === 401 ? fault(new ApiError(401, { error: "This token is not known.", what_to_do: "Check it against [admin] tokens." })) : fault(error));
        input.select();
      }
    },
  }, h("img", { src: "dashboard/icon.svg", alt: "", width: 48, height: 48 }), h("h1", {}, "Larder"),
  h("label", { class: "field" }, h("span", {}, "Token"), input),
  h("p", { id: "sign-in-hint", class: "note" }, "A token of [admin] tokens or LARDER_ADMIN_TOKEN. It is kept in this tab only."),
  problem, h("button", { class: "primary" }, "Sign in"));
  fill(app, h("main", { class: "alone" }, form));
  input.focus();
}

function end() {
  stopView.abort();
  stopSession.abort();
  forget();
}

addEventListener("larder:unauthorized", ({ detail }) => {
  // At the sign-in form the form itself tells of it.
  if (!document.querySelector(".sign-in")) {
    token.forget();
    signIn(detail.wasSent && "The token is no longer known. Sign in again.");
  }
});

// ------------------------------------------------------------------ frame

/// Reads who is signed in, and shows the page. Throws what the admin refuses.
async function begin() {
  const known = await get("/cache/token").catch((error) => {
    if (error.isMissing) return get("/cache/fleet").then(() => ({ token: null }));
    throw error;
  });
  session.token = known.token;
  stopSession = new AbortController();
  const { signal } = stopSession;
  frame(signal);
  follow(signal);
  poll(signal, 10000, watch, () => {});
  show();
}

function frame(signal) {
  const link = ({ id, title }, index) => h("li", {}, h("a", { href: `#/${id}`, "data-view": id },
    h("span", {}, title), h("kbd", { "aria-hidden": "true" }, (index + 1) % 10)));
  const themeButton = h("button", { type: "button", class: "quiet", onclick: () => nextTheme(themeButton) });
  const menu = h("button", {
    type: "button", class: "menu quiet", "aria-expanded": "false", "aria-controls": "nav",
    onclick: () => openMenu(menu.getAttribute("aria-expanded") !== "true"),
  }, "Menu");
  const live = h("p", { class: "live" }, h("span", { class: "lamp" }), h("span", {}, "Connecting"));
  const who = session.token?.name && h("p", { class: "who" }, `${session.token.name} · ${session.token.role}${session.token.families ? ` of ${session.token.families.join(", ")}` : ""}`);
  const out = token.get() && h("button", { type: "button", class: "quiet", onclick: () => { token.forget(); signIn(); } }, "Sign out");
  const main = h("main", { id: "main", tabindex: -1 });
  fill(app,
    h("a", { class: "skip", href: "#main", onclick: (event) => { event.preventDefault(); main.focus(); } }, "Skip to content"),
    h("div", { class: "shell" },
      h("header", { class: "side" },
        h("div", { class: "brand" }, h("img", { src: "dashboard/icon.svg", alt: "", width: 26, height: 26 }),
          h("a", { href: "#/overview" }, "Larder"), menu),
        h("nav", { id: "nav", "aria-label": "Views" }, h("ul", {}, VIEWS.map(link))),
        h("div", { class: "foot" }, live, who, themeButton, out,
          h("a", { href: "docs", class: "quiet-link" }, "API"),
          h("button", { type: "button", class: "quiet", onclick: showKeys }, "Keys"))),
      main),
    h("p", { id: "status", role: "status" }));
  applyTheme(themeButton);
  const states = { live: "Live", waiting: "Connection lost, trying again", missing: "No live events", starting: "Connecting" };
  listen(signal, () => {
    live.dataset.state = feed.state;
    live.lastChild.textContent = states[feed.state];
  });
}

function openMenu(isOpen) {
  const menu = app.querySelector(".menu");
  menu?.setAttribute("aria-expanded", isOpen);
  app.querySelector(".side")?.classList.toggle("open", isOpen);
}

/// What is on every view: alerts in the navigation and the title.
async function watch() {
  const { alerts } = await get("/cache/alerts");
  document.title = alerts.length ? `(${alerts.length}) Larder` : "Larder";
  const badge = alerts.length ? h("span", { class: "badge" }, `${alerts.length} ${alerts.length === 1 ? "alert" : "alerts"}`) : "";
  const first = app.querySelector('[data-view="overview"] span');
  if (first) fill(first, "Overview ", badge);
}

function show() {
  const main = document.getElementById("main");
  if (!main) return;
  const [id, ...rest] = location.hash.replace(/^#\//, "").split("?");
  const view = VIEWS.find((view) => view.id === id) ?? VIEWS[0];
  stopView.abort();
  stopView = new AbortController();
  for (const link of app.querySelectorAll("nav a")) {
    if (link.dataset.view === view.id) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const body = h("div", { class: `view ${view.id}` });
  fill(main, h("h1", {}, view.title), body);
  openMenu(false);
  scrollTo(0, 0);
  view.show(body, stopView.signal, new URLSearchParams(rest.join("?")));
}

// ------------------------------------------------------------------ keys

const hasKeys = () => localStorage.getItem("larder-keys") !== "off";

function showKeys() {
  const toggle = h("input", { type: "checkbox", checked: hasKeys(), onchange: () => localStorage.setItem("larder-keys", toggle.checked ? "on" : "off") });
  drawer("Keys", h("label", { class: "check" }, toggle, "Single keys do this"), terms([
    ...VIEWS.map(({ title }, index) => [h("kbd", {}, (index + 1) % 10), title]),
    [h("kbd", {}, "/"), "Explain a request"],
    [h("kbd", {}, "t"), "Light, dark, or as the system has it"],
    [h("kbd", {}, "w"), "Hide the navigation, for a screen on the wall"],
    [h("kbd", {}, "?"), "This list"],
    [h("kbd", {}, "← →"), "Values of a chart that has the focus"],
    [h("kbd", {}, "Esc"), "Close"],
  ]));
}

addEventListener("keydown", (event) => {
  const isTyping = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.nodeName);
  if (!hasKeys() || isTyping || event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]") || !document.getElementById("main")) return;
  const number = "1234567890".indexOf(event.key);
  if (number >= 0 && VIEWS[number]) location.hash = `#/${VIEWS[number].id}`;
  else if (event.key === "/") location.hash = "#/explain";
  else if (event.key === "t") nextTheme(app.querySelector(".foot button"));
  else if (event.key === "w") document.body.classList.toggle("wall");
  else if (event.key === "?") showKeys();
  else return;
  event.preventDefault();
});

addEventListener("hashchange", () => {
  show();
  document.getElementById("main")?.focus({ preventScroll: true });
});

function start() {
  begin().catch((error) => {
    if (error.status === 401) signIn();
    else {
      fill(app, h("main", { class: "alone" }, h("div", {}, h("h1", {}, "Larder"), fault(error))));
      setTimeout(start, 5000);
    }
  });
}

applyTheme();
start();
