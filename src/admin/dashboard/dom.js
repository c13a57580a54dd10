// Elements without a framework: `h` builds them, `morph` brings what is on the page to a newly built state.

import { sentence } from "./format.js";

const SVG = "http://www.w3.org/2000/svg";

function build(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "value" && "value" in element) element.value = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  append(element, children);
  return element;
}

function append(element, children) {
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    element.append(child);
  }
}

/// An HTML element. Attributes that begin with `on` are listeners; null and false leave an attribute or a child out.
export const h = (tag, attributes, ...children) => build(document.createElement(tag), attributes, children);

/// The same in SVG.
export const s = (tag, attributes, ...children) => build(document.createElementNS(SVG, tag), attributes, children);

/// Replaces what an element contains.
export function fill(element, ...children) {
  element.replaceChildren();
  append(element, children);
}

/// Makes the children of `element` like `children`, and keeps those that are the same: focus, open details and text that is
/// being entered stay. Children with `data-key` are matched by it. Listeners of kept elements stay, so they must depend on
/// nothing but the key.
export function morph(element, ...children) {
  const wanted = document.createDocumentFragment();
  append(wanted, children);
  morphChildren(element, wanted);
}

function morphChildren(element, wanted) {
  const keyed = new Map();
  for (const child of element.children) {
    if (child.dataset?.key !== undefined) keyed.set(child.dataset.key, child);
  }
  let place = element.firstChild;
  for (const child of [...wanted.childNodes]) {
    const key = child.dataset?.key;
    let same = null;
    if (key !== undefined) same = keyed.get(key);
    else if (place && place.dataset?.key === undefined && isAlike(place, child)) same = place;
    if (same) {
      if (same === place) place = place.nextSibling;
      else element.insertBefore(same, place);
      morphNode(same, child);
    } else {
      element.insertBefore(child, place);
    }
  }
  while (place) {
    const next = place.nextSibling;
    place.remove();
    place = next;
  }
}

const isAlike = (one, other) => one.nodeType === other.nodeType && one.nodeName === other.nodeName;

function morphNode(node, wanted) {
  if (node.nodeType === Node.TEXT_NODE) {
    if (node.data !== wanted.data) node.data = wanted.data;
    return;
  }
  // What draws itself, and what the user enters, is left alone.
  if (node.dataset?.own !== undefined) return;
  for (const { name } of [...node.attributes]) {
    if (!wanted.hasAttribute(name) && !(name === "open" && node.nodeName === "DETAILS")) node.removeAttribute(name);
  }
  for (const { name, value } of wanted.attributes) {
    if (node.getAttribute(name) !== value) node.setAttribute(name, value);
  }
  if (node.nodeName === "PROGRESS") node.value = wanted.value;
  if (!/^(INPUT|SELECT|TEXTAREA)$/.test(node.nodeName)) morphChildren(node, wanted);
}

/// A section with a heading. `note` stands beside it.
export function panel(title, { note, actions, wide, id } = {}, ...content) {
  const heading = h("div", { class: "panel-head" },
    h("h2", {}, title), note && h("p", { class: "note" }, note), actions && h("div", { class: "actions" }, actions));
  return h("section", { class: wide ? "panel wide" : "panel", id, "aria-label": title }, heading, ...content);
}

/// What stands where there is nothing to show: what it means, and what to do.
export const empty = (title, ...text) => h("div", { class: "empty" }, h("strong", {}, title), h("p", {}, ...text));

/// A failed call: what happened and what to do.
export function fault(error) {
  return h("div", { class: "fault", role: "alert" },
    h("strong", {}, sentence(error.message)), error.remedy && h("p", {}, sentence(error.remedy)));
}

/// A table. `columns`: `{ name, number, hint }`; `rows`: `{ key, cells, more }`, where `more` stands in a row of its own below.
export function table(label, columns, rows) {
  const head = columns.map(({ name, number, hint }) =>
    h("th", { scope: "col", role: "columnheader", class: number && "number", title: hint }, name));
  const body = rows.flatMap(({ key, cells, more, kind }) => [
    h("tr", { role: "row", "data-key": key, class: kind }, cells.map((cell, index) => h("td",
      { role: "cell", "data-label": columns[index].name, class: columns[index].number && "number" }, cell))),
    more && h("tr", { role: "row", "data-key": `${key} more`, class: "more" },
      h("td", { role: "cell", colspan: columns.length }, more)),
  ]);
  return h("table", { role: "table", "aria-label": label, class: "cards" },
    h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, head)), h("tbody", { role: "rowgroup" }, body));
}

/// Terms with what they are.
export function terms(rows) {
  return h("dl", { class: "terms" }, rows.filter(Boolean).map(([term, ...what]) =>
    [h("dt", {}, term), h("dd", {}, ...what)]));
}

/// A short word with a colour of its own.
export const chip = (text, kind = "") => h("span", { class: `chip ${kind}` }, text);

/// Text as it is typed, with a button that copies it.
export function copyable(text) {
  const button = h("button", {
    type: "button", class: "quiet", "aria-label": `Copy ${text}`,
    onclick: async () => {
      await navigator.clipboard?.writeText(text).catch(() => {});
      say("Copied.");
    },
  }, "Copy");
  return h("div", { class: "copyable" }, h("code", {}, text), button);
}

/// A field of a form with its label.
export const field = (label, input, hint) =>
  h("label", { class: "field" }, h("span", {}, label), input, hint && h("small", {}, hint));

export function select(attributes, options, chosen) {
  return h("select", attributes, options.map(([value, text]) =>
    h("option", { value, selected: value === chosen }, text)));
}

let saying = 0;

/// Tells the user, for some seconds, what has been done.
export function say(text) {
  const status = document.getElementById("status");
  if (!status) return;
  status.textContent = text;
  status.classList.add("shown");
  clearTimeout(saying);
  saying = setTimeout(() => status.classList.remove("shown"), 5000);
}

/// Asks before something that cannot be taken back. Resolves to whether it was confirmed.
export function confirmed(title, text, action) {
  return new Promise((resolve) => {
    const dialog = h("dialog", { "aria-label": title },
      h("form", { method: "dialog" }, h("h2", {}, title), h("p", {}, text),
        h("div", { class: "actions" },
          h("button", { value: "", class: "quiet" }, "Cancel"),
          h("button", { value: "yes", class: "danger" }, action))));
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "yes");
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}

/// A panel that slides over the page. It closes with Escape, and gives the focus back.
export function drawer(title, ...content) {
  const body = h("div", { class: "drawer-body" }, ...content);
  const dialog = h("dialog", { class: "drawer", "aria-label": title },
    h("header", {}, h("h2", {}, title),
      h("button", { type: "button", class: "quiet", "aria-label": "Close", onclick: () => dialog.close() }, "Close")),
    body);
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
  return { body, close: () => dialog.close() };
}
