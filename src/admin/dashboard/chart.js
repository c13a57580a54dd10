// Charts over time in SVG: axes, a value under the pointer or the arrow keys, and the same numbers as a table.

import { h, s, fill } from "./dom.js";
import { clock, minute } from "./format.js";

const MARGIN = { top: 10, right: 10, bottom: 24, left: 52 };
/// Fewest pixels for one value.
const PIXELS = 5;

/// The outcomes of requests, from the bottom of a stack to its top. Errors are answers of any outcome with a status of 500 or more.
export const OUTCOMES = [
  ["hits", "Hits"], ["stale", "Stale"], ["revalidated", "Revalidated"], ["misses", "Misses"],
  ["passes", "Passes"], ["writes", "Writes"], ["errors", "Errors (5xx)"],
];

const COUNTS = [...OUTCOMES.map(([name]) => name), "upstream_requests", "saved_requests", "saved_s"];

/// The points between two times, which each have the time of their end, as at most `most` buckets of equal length. Counts are summed; latencies are the median of the
/// medians, and the highest of the 99th percentiles.
export function buckets(points, from, to, step, most) {
  const length = Math.max(step, Math.ceil((to - from) / most / step) * step);
  const first = Math.floor(from / length) * length;
  const all = [];
  for (let start = first; start < to; start += length) all.push({ time: start, length, points: [] });
  for (const point of points) {
    all[Math.floor((Date.parse(point.time) - step / 2 - first) / length)]?.points.push(point);
  }
  return all.map(({ time, length, points }) => {
    // The first and the last may be covered in part.
    const bucket = { time, length, seconds: (points.length * step || length) / 1000 };
    for (const name of COUNTS) bucket[name] = points.reduce((sum, point) => sum + (point[name] ?? 0), 0);
    for (const name of ["hit_ms", "miss_ms"]) {
      const of = (part) => points.map((point) => point[name]?.[part]).filter((it) => typeof it === "number");
      const p50 = of("p50").sort((one, other) => one - other);
      const p99 = of("p99");
      bucket[name] = { p50: p50[p50.length >> 1] ?? null, p99: p99.length ? Math.max(...p99) : null };
    }
    return bucket;
  });
}

function niceStep(most, ticks) {
  const rough = most / ticks;
  const power = 10 ** Math.floor(Math.log10(rough));
  return [1, 2, 5, 10].map((factor) => factor * power).find((step) => step >= rough);
}

/// From zero.
function linear(most, height) {
  const step = niceStep(most || 1, 3);
  const top = Math.max(step, Math.ceil(most / step) * step);
  const ticks = [];
  for (let value = 0; value <= top * 1.0001; value += step) ticks.push(value);
  return { y: (value) => height * (1 - value / top), ticks };
}

function logarithmic(least, most, height) {
  const low = Math.floor(Math.log10(least));
  const high = Math.max(low + 1, Math.ceil(Math.log10(most)));
  const ticks = [];
  for (let power = low; power <= high; power += 1) ticks.push(10 ** power);
  const part = (value) => (Math.log10(Math.max(value, 10 ** low)) - low) / (high - low);
  return { y: (value) => height * (1 - part(value)), ticks };
}

/// Every so many minutes a time on the axis, so that labels do not touch.
function timeTicks(from, to, width) {
  const minutes = [1, 2, 5, 10, 15, 30].find((it) => width / ((to - from) / 60000 / it) > 64) ?? 60;
  const step = minutes * 60000;
  const ticks = [];
  for (let time = Math.ceil(from / step) * step; time <= to; time += step) ticks.push(time);
  return ticks;
}

/// A chart of `series`: `{ name, kind, value(bucket), to(bucket), isOver }`. They are stacked areas, and a line over them for what
/// `isOver`; or, with `scale: "log"`, lines, each with a band up to `to`. `text` writes a value. Gives the node and `draw(points, step, seconds)`.
export function timeChart({ label, unit, series, scale, text, height = 220 }) {
  const tip = h("div", { class: "tip", hidden: true });
  const spoken = h("p", { class: "hidden", role: "status" });
  const svg = s("svg", { role: "img", tabindex: 0, "aria-label": label });
  const legend = h("ul", { class: "legend" }, series.map(({ name, kind }) =>
    h("li", {}, h("span", { class: `swatch is-${kind}` }), name)));
  const rows = h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": `${label}, as a table` });
  const details = h("details", { class: "numbers" }, h("summary", {}, "Show as a table"), rows);
  const frame = h("div", { class: "frame" }, svg, tip);
  const node = h("figure", { class: "chart", "data-own": "" },
    h("figcaption", {}, legend, h("span", { class: "unit" }, unit)), frame, spoken, details);
  let drawn = null;
  let latest = null;
  let marked = null;

  function draw(points, step, seconds) {
    latest = [points, step, seconds];
    const width = Math.max(240, frame.clientWidth || 600);
    const inner = { width: width - MARGIN.left - MARGIN.right, height: height - MARGIN.top - MARGIN.bottom };
    const last = points.length ? Date.parse(points[points.length - 1].time) : Date.now();
    const [from, to] = [last - seconds * 1000, last];
    const values = buckets(points, from, to, step * 1000, Math.floor(inner.width / PIXELS));
    const x = (time) => inner.width * (time - from) / (to - from);
    const middle = (bucket) => x(bucket.time + bucket.length / 2);
    const axis = scale === "log" ? logAxis(values, inner.height) : linear(highest(values), inner.height);
    const marks = scale === "log" ? lines(values, middle, axis) : areas(values, middle, axis, inner.height);
    const grid = axis.ticks.map((tick) => s("g", { transform: `translate(0 ${axis.y(tick).toFixed(1)})` },
      s("line", { x2: inner.width, class: "grid" }),
      s("text", { x: -8, dy: "0.32em", class: "tick", "text-anchor": "end" }, text(tick).replace(/\.0(?= |$)/, ""))));
    const times = timeTicks(from, to, inner.width).map((time) =>
      s("text", { x: x(time).toFixed(1), y: inner.height + 17, class: "tick", "text-anchor": inner.width - x(time) < 16 ? "end" : "middle" }, minute(time)));
    const cross = s("line", { y2: inner.height, class: "cross", visibility: "hidden" });
    const clip = s("clipPath", { id: `clip-${scale ?? "stack"}` }, s("rect", { width: inner.width, height: inner.height }));
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.setAttribute("width", width);
    svg.setAttribute("height", height);
    fill(svg, s("g", { transform: `translate(${MARGIN.left} ${MARGIN.top})` },
      clip, grid, s("g", { "clip-path": `url(#clip-${scale ?? "stack"})` }, marks), cross, times));
    drawn = { values, middle, cross, width };
    if (details.open) writeTable();
    if (marked !== null) mark(Math.min(marked, values.length - 1));
  }

  const highest = (values) => Math.max(0, ...values.map((bucket) => Math.max(
    series.reduce((sum, { value, isOver }) => sum + (isOver ? 0 : value(bucket)), 0),
    ...series.filter(({ isOver }) => isOver).map(({ value }) => value(bucket)))));

  function logAxis(values, height) {
    const all = values.flatMap((bucket) => series.flatMap(({ value, to }) => [value(bucket), to(bucket)]))
      .filter((value) => value > 0);
    return all.length ? logarithmic(Math.min(...all), Math.max(...all), height) : logarithmic(0.1, 100, height);
  }

  function areas(values, middle, axis, height) {
    const below = values.map(() => 0);
    return series.map(({ kind, value, isOver }) => {
      if (isOver) {
        return values.some((bucket) => value(bucket) > 0)
          && s("path", { class: `line is-${kind}`, d: path(values.map((bucket) => [middle(bucket), axis.y(value(bucket))])) });
      }
      const lower = values.map((bucket, index) => [middle(bucket), axis.y(below[index])]);
      values.forEach((bucket, index) => (below[index] += value(bucket)));
      const upper = values.map((bucket, index) => [middle(bucket), axis.y(below[index])]);
      if (upper.every(([, y], index) => y === lower[index][1]) || height <= 0) return false;
      return s("path", { class: `area is-${kind}`, d: `${path(upper)}L${path(lower.reverse()).slice(1)}Z` });
    });
  }

  function lines(values, middle, axis) {
    return series.flatMap(({ kind, value, to }) => runs(values, value).flatMap((run) => {
      const line = run.map((bucket) => [middle(bucket), axis.y(value(bucket))]);
      const upper = run.map((bucket) => [middle(bucket), axis.y(to(bucket) ?? value(bucket))]);
      if (line.length === 1) {
        const [[cx, cy]] = line;
        return [s("circle", { class: `dot is-${kind}`, cx, cy, r: 2.5 })];
      }
      return [
        s("path", { class: `band is-${kind}`, d: `${path(upper)}L${path(line.toReversed()).slice(1)}Z` }),
        s("path", { class: `line is-${kind}`, d: path(line) }),
      ];
    }));
  }

  function mark(index) {
    if (!drawn || index < 0 || !drawn.values[index]) return unmark();
    marked = index;
    const bucket = drawn.values[index];
    const at = drawn.middle(bucket);
    drawn.cross.setAttribute("x1", at);
    drawn.cross.setAttribute("x2", at);
    drawn.cross.setAttribute("visibility", "visible");
    const told = series.map(({ name, kind, value, to }) => ({ name, kind, now: value(bucket), up: to?.(bucket) }))
      .filter(({ now }) => now !== null && (scale === "log" || now > 0));
    fill(tip, h("strong", {}, clock(bucket.time)), told.length === 0 && h("p", {}, "no requests"),
      h("ul", {}, told.toReversed().map(({ name, kind, now, up }) => h("li", {}, h("span", { class: `swatch is-${kind}` }),
        h("span", {}, name), h("b", {}, up === undefined || up === null ? text(now) : `${text(now)} · ${text(up)}`)))));
    tip.hidden = false;
    const left = MARGIN.left + at;
    const isRight = left > drawn.width / 2;
    tip.style.transform = `translateX(${isRight ? `calc(${left - 12}px - 100%)` : `${left + 12}px`})`;
    return told.map(({ name, now }) => `${name} ${text(now)}`).join(", ") || "no requests";
  }

  function unmark() {
    marked = null;
    tip.hidden = true;
    drawn?.cross.setAttribute("visibility", "hidden");
  }

  function writeTable() {
    const { values } = drawn;
    const size = Math.ceil(values.length / 12);
    const chosen = values.filter((_, index) => index % size === values.length % size);
    fill(rows, h("table", {},
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Time"), series.map(({ name }) => h("th", { scope: "col", class: "number" }, name)))),
      h("tbody", {}, chosen.map((bucket) => h("tr", {}, h("th", { scope: "row" }, clock(bucket.time)),
        series.map(({ value }) => h("td", { class: "number" }, value(bucket) === null ? "–" : text(value(bucket)))))))));
  }

  svg.addEventListener("pointermove", (event) => {
    if (!drawn) return;
    const at = event.clientX - svg.getBoundingClientRect().left - MARGIN.left;
    const distances = drawn.values.map((bucket) => Math.abs(drawn.middle(bucket) - at));
    mark(distances.indexOf(Math.min(...distances)));
  });
  svg.addEventListener("pointerleave", unmark);
  svg.addEventListener("blur", unmark);
  svg.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
    if (event.key === "Escape") unmark();
    if (step === undefined || !drawn) return;
    event.preventDefault();
    const last = drawn.values.length - 1;
    const index = Math.min(last, Math.max(0, (marked ?? last) + (marked === null ? 0 : step)));
    spoken.textContent = `${clock(drawn.values[index].time)}: ${mark(index)}`;
  });
  details.addEventListener("toggle", () => details.open && drawn && writeTable());
  new ResizeObserver(() => latest && draw(...latest)).observe(frame);
  return { node, draw };
}

const path = (points) => `M${points.map(([x, y]) => `${x.toFixed(1)} ${y.toFixed(1)}`).join("L")}`;

/// The stretches without gaps.
function runs(values, value) {
  const all = [[]];
  for (const bucket of values) {
    if (value(bucket) === null) all.push([]);
    else all[all.length - 1].push(bucket);
  }
  return all.filter((run) => run.length > 0);
}

/// A bar: `value` of `most`. It repeats what stands beside it in figures.
export function bar(value, most) {
  const part = Math.max(0, Math.min(100, 100 * (value ?? 0) / most));
  return s("svg", { class: "bar", "aria-hidden": "true" }, s("rect", { width: "100%", height: "100%", rx: 3 }),
    part > 0 && s("rect", { class: "part", width: `${part.toFixed(1)}%`, height: "100%", rx: 3 }));
}

/// A line without axes, from 0 to 100. It repeats what stands beside it in figures.
export function sparkline(values, { width = 120, height = 28, kind = "hits" } = {}) {
  const x = (index) => 1 + (width - 2) * index / Math.max(1, values.length - 1);
  const y = (value) => 1 + (height - 2) * (1 - value / 100);
  const lines = runs(values.map((value, index) => ({ value, index })), ({ value }) => value ?? null)
    .map((run) => run.map(({ value, index }) => [x(index), y(value)]));
  return s("svg", { class: "sparkline", viewBox: `0 0 ${width} ${height}`, width, height, preserveAspectRatio: "none", "aria-hidden": "true" },
    lines.map((line) => [
      s("path", { class: `band is-${kind}`, d: `${path(line)}L${line[line.length - 1][0]} ${height}L${line[0][0]} ${height}Z` }),
      s("path", { class: `line is-${kind}`, d: path(line) }),
    ]));
}
