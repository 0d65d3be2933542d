// What the page knows, and pure answers about it. Flags, times and order come from the server; none is made here.
import * as time from "./time.js";

export const state = {
  rooms: new Map(), alarms: new Map(), policy: {}, metrics: {}, cells: [], sys: { band: null, notices: [] }, uv: 1,
};

export const RANK = { normal: 0, notice: 1, abnormal: 2, critical: 3 };
const DOWN = new Set(["lost", "off", "unreachable"]);
const PRIORITY = { high: 0, med: 1, low: 2 };
const MARKS = { HH: "▲▲", H: "▲", L: "▼", LL: "▼▼", A: "" };

export function take(snap) {
  Object.assign(state, { policy: snap.policy, metrics: snap.metrics, cells: snap.cells, sys: snap.sys, uv: snap.uv });
  state.rooms = new Map(snap.rooms.map((room) => [room.id, room]));
  state.alarms = new Map(snap.alarms.map((alarm) => [alarm.id, alarm]));
}

// Age and freshness of a reading: fresh, stale or gone, by the server's policy and the server's clock.
export function aged(reading, now) {
  const age = Math.max(0, now - reading.ts);
  const { stale, gone } = state.policy[reading.k] ?? { stale: 0, gone: 0 };
  if (gone > 0 && age > gone * 1000) return { age, is: "gone" };
  return { age, is: age > stale * 1000 ? "stale" : "fresh" };
}

export const continuous = (key) => state.metrics[key]?.pace === "continuous";

// The reading a cell shows: fresh before stale, continuous before episodic, the worse flag first, then the server's
// order of keys; among old ones the youngest.
export function choose(keys, obs, now) {
  let best = null;
  for (let i = 0; i < keys.length; i += 1) {
    const reading = obs[keys[i]];
    if (!reading) continue;
    const { age, is } = aged(reading, now);
    const fresh = is === "fresh";
    const score = [fresh ? 1 : 0, fresh && continuous(reading.k) ? 1 : 0, fresh ? RANK[reading.lv ?? "normal"] : 0,
      fresh ? -i : -age];
    if (!best || score.some((x, n) => x > best.score[n] && score.slice(0, n).every((y, m) => y === best.score[m]))) {
      best = { reading, age, is, score };
    }
  }
  return best;
}

export function number(key, value) {
  return value === null || value === undefined ? "–" : value.toFixed(state.metrics[key]?.d ?? 0);
}

export function text(reading) {
  if (Array.isArray(reading.v)) return reading.v.map((part) => number(reading.k, part)).join("/");
  return (reading.cmp ?? "") + number(reading.k, reading.v);
}

export const mark = (flag) => MARKS[flag] ?? "";
export const down = (device) => DOWN.has(device.state);
export const unchecked = (reading) => !reading.f && reading.q !== "artefact";
export const levelClass = (level) => ({ critical: "crit", abnormal: "med", notice: "notice" })[level] ?? "";

const STATES = { lost: "link lost", off: "off", unreachable: "gateway offline", connecting: "connecting" };
export const deviceWord = (device) => STATES[device.state] ?? device.state;

export function ekgDevice(room) {
  return room.dev.find((device) => device.id === room.ekg?.dev) ?? room.dev.find((one) => one.metrics.includes("ekg"));
}

// Everything a cell shows, as plain text and one class; compared before it is drawn.
export function cellView(cell, room, now) {
  const found = choose(cell.keys, room.obs, now);
  const devices = room.dev.filter((device) => device.metrics.some((key) => cell.keys.includes(key)));
  const dead = devices.length > 0 && devices.every(down);
  const cuff = cell.keys.includes("bp") && room.obs.cuff_pressure;
  const inflating = cuff && aged(cuff, now).is === "fresh" ? `inflating ${text(cuff)}` : "";
  if (!found) {
    return { num: "– –", cls: "none", flag: "", code: "", meta: inflating || (dead ? `◆ ${deviceWord(devices[0])}` : ""),
      cyan: dead && !inflating, key: cell.keys[0] };
  }
  const { reading, age, is } = found;
  const by = state.metrics[reading.k]?.by ?? "";
  const view = { num: text(reading), cls: "has", flag: "", code: "", meta: "", cyan: false, key: reading.k, reading, age, is };
  if (is === "gone") {
    return Object.assign(view, { num: "– –", cls: "gone", meta: `◷ ${time.short(age)}`, cyan: dead });
  }
  if (reading.v === null || reading.v === undefined) {
    return Object.assign(view, { num: "– –", cls: "none", meta: reading.reason || "invalid" });
  }
  if (is === "stale") {
    return Object.assign(view, { cls: "stale", meta: inflating || `◷ ${time.short(age)}`, cyan: true });
  }
  if (reading.q === "artefact") {
    return Object.assign(view, { cls: "noisy", flag: "?", meta: "≈ noisy" });
  }
  const level = levelClass(reading.lv);
  if (level) Object.assign(view, { cls: `has ${level}`, flag: mark(reading.f), code: reading.f });
  // [text, shorter text for a narrow cell]: the age is never what is cut off.
  const parts = [[by, continuous(reading.k) ? by : ""]];
  if (reading.late) parts.push([`late ${time.short(reading.late * 1000)}`, `late ${time.short(reading.late * 1000)}`]);
  if (unchecked(reading)) parts.push(["not checked", "⊘"]);
  if (!continuous(reading.k)) parts.push([time.short(age), reading.late ? "" : time.short(age)]);
  const [wide, tight] = [0, 1].map((n) => parts.map((part) => part[n]).filter(Boolean).join(" · "));
  return Object.assign(view, inflating ? { meta: inflating } : { meta: wide, tight });
}

// The EKG of a room: drawing, or a word why not.
export function ekgView(room, lastSample, now) {
  const device = ekgDevice(room);
  const last = Math.max(lastSample, room.ekg?.last ?? 0);
  const silent = now - last > state.policy.ekg.stale * 1000;
  const since = last || device?.since;
  const ago = since ? `last ${time.long(now - since)} ago` : "";
  if (!silent) return { drawn: true, tag: "", ago: "", trouble: false };
  if (device && down(device)) return { drawn: false, tag: `◆ ${device.title} ${deviceWord(device)}`, ago, trouble: true };
  if (room.ekg) return { drawn: false, tag: "◆ No EKG signal", ago, trouble: true };
  if (device) return { drawn: false, tag: "EKG ready, no signal yet", ago: "", trouble: false };
  return { drawn: false, tag: "EKG not attached", ago: "", trouble: false };
}

export const alarmsOf = (room) => [...state.alarms.values()].filter((alarm) => alarm.room === room.id);

// One word for the whole room: crit, med, low, ok or empty.
export function roomState(room, lastSample, now) {
  let worst = 0;
  for (const reading of Object.values(room.obs)) {
    if (aged(reading, now).is === "fresh" && reading.q !== "artefact") worst = Math.max(worst, RANK[reading.lv ?? "normal"]);
  }
  const priorities = alarmsOf(room).map((alarm) => alarm.pr);
  if (worst === 3 || priorities.includes("high")) return "crit";
  if (worst === 2 || priorities.includes("med")) return "med";
  if (priorities.includes("low") || room.dev.some(down) || ekgView(room, lastSample, now).trouble) return "low";
  return vacant(room, now) ? "empty" : "ok";
}

// Nobody bound and nothing measured: the room is free. Old values of nobody do not keep it busy.
export function vacant(room, now) {
  return !room.patient && !room.ekg && Object.values(room.obs).every((reading) => aged(reading, now).is !== "fresh");
}

export function sortedAlarms() {
  const all = [...state.alarms.values()];
  return all.sort((a, b) => PRIORITY[a.pr] - PRIORITY[b.pr] || a.since - b.since || (a.id < b.id ? -1 : 1));
}

export const SHAPES = { crit: "▲▲", med: "▲", low: "◆", high: "▲▲", ok: "•", empty: "" };
