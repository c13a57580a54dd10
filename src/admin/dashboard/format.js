// Numbers, sizes and times as people read them.

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const compact = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const NONE = "–";

const isNumber = (value) => typeof value === "number" && Number.isFinite(value);

export const count = (value) => (isNumber(value) ? whole.format(value) : NONE);

/// `1.2M` from ten thousand on.
export const short = (value) => (!isNumber(value) ? NONE : value < 10000 ? whole.format(value) : compact.format(value));

/// `percent` is 0 to 100.
export function percent(percent) {
  if (!isNumber(percent)) return NONE;
  const digits = percent > 0 && percent < 100 ? 1 : 0;
  return `${percent.toFixed(digits)} %`;
}

export function rate(perSecond) {
  if (!isNumber(perSecond)) return NONE;
  if (perSecond === 0) return "0";
  return perSecond < 10 ? perSecond.toFixed(perSecond < 1 ? 2 : 1) : whole.format(perSecond);
}

export function bytes(value) {
  if (!isNumber(value)) return NONE;
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 || value >= 100 ? value.toFixed(0) : value.toFixed(1)} ${units[unit]}`;
}

export function millis(value) {
  if (!isNumber(value)) return NONE;
  if (value < 1) return `${Math.round(value * 1000)} µs`;
  if (value < 1000) return `${value < 10 ? value.toFixed(1) : value.toFixed(0)} ms`;
  return `${(value / 1000).toFixed(value < 10000 ? 1 : 0)} s`;
}

/// `3 h 12 min`; the two largest units.
export function duration(seconds) {
  if (!isNumber(seconds)) return NONE;
  if (seconds < 0) return `−${duration(-seconds)}`;
  if (seconds > 0 && seconds < 1) return millis(seconds * 1000);
  if (seconds < 10) return `${seconds.toFixed(seconds % 1 ? 1 : 0)} s`;
  const units = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
  const first = units.findIndex(([, length]) => seconds >= length);
  let left = Math.round(seconds);
  const parts = [];
  for (const [unit, length] of units.slice(first, first + 2)) {
    const amount = Math.floor(left / length);
    left -= amount * length;
    if (amount > 0) parts.push(`${amount} ${unit}`);
  }
  return parts.join(" ");
}

const clockFormat = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const minuteFormat = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit" });
const dayFormat = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });

/// Of an RFC 3339 time or milliseconds: `14:05:09`; with the day if it is not today's.
export function clock(time) {
  const date = new Date(time);
  if (Number.isNaN(date.getTime())) return NONE;
  return date.toDateString() === new Date().toDateString() ? clockFormat.format(date) : dayFormat.format(date);
}

export const minute = (time) => minuteFormat.format(new Date(time));

/// `12 s ago`
export function ago(time) {
  const seconds = Math.max(0, (Date.now() - new Date(time).getTime()) / 1000);
  return seconds < 1 ? "now" : `${duration(Math.round(seconds))} ago`;
}

/// With a capital letter and a full stop, as the admin writes neither.
export function sentence(text) {
  if (!text) return "";
  const begun = /^[a-z]+([ ,;:’']|$)/.test(text) ? text[0].toUpperCase() + text.slice(1) : text;
  return /[.!?:]$/.test(begun) ? begun : `${begun}.`;
}

/// One item, or several.
export const plural = (number, one, many = `${one}s`) => `${count(number)} ${number === 1 ? one : many}`;
