// What the page knows, and pure answers about it. Flags, times and order come from the server; none is made here.
import * as time from "./time.js";
import { ekgView } from "./view.js";

export const state = {
  rooms: new Map(), alarms: new Map(), policy: {}, metrics: {}, cells: [], sys: { band: null, notices: [] }, uv: 1,
};

export const RANK = { normal: 0, notice: 1, abnormal: 2, critical: 3 };
const DOWN = new Set(["lost", "off", "unreachable"]);
const PRIORITY = { high: 0, med: 1, low: 2 };
const MARKS = { HH: "▲▲", H: "▲", L: "▼", LL: "▼▼", A: "" };

export function take(snap) {
  time.zone(snap.tz);
  Object.assign(state, { policy: snap.policy, metrics: snap.metrics, cells: snap.cells, sys: snap.sys, uv: snap.uv });
  state.rooms = new Map(snap.rooms.map((room) => [room.id, room]));
  state.alarms = new Map(snap.alarms.map((alarm) => [alarm.id, alarm]));
}

// Age and freshness of a reading: fresh, stale or gone, by the server's policy and the server's clock. Whatever its
// age, nothing is fresh that was taken before this visit, at a time nobody is sure of, or by a device that is gone.
export function aged(reading, now, room) {
  const age = Math.max(0, now - reading.ts);
  const { stale, gone } = state.policy[reading.k] ?? { stale: 0, gone: 0 };
  if (gone > 0 && age > gone * 1000) return { age, is: "gone" };
  const cut = reading.unsure || before(reading, room) || (continuous(reading.k) && silenced(reading, room));
  return { age, is: cut || age > stale * 1000 ? "stale" : "fresh" };
}

// Taken before the visit of this room began: it may be another person's.
export const before = (reading, room) => Boolean(room?.visit && reading.ts < room.visit.since);

function silenced(reading, room) {
  const device = room?.dev.find((one) => one.id === `${reading.by}/${reading.dev}`);
  return device !== undefined && down(device);
}

export const continuous = (key) => state.metrics[key]?.pace === "continuous";

// The reading a cell shows: fresh before stale, continuous before episodic, the worse flag first, then the server's
// order of keys; among old ones the youngest.
export function choose(keys, room, now) {
  let best = null;
  for (let i = 0; i < keys.length; i += 1) {
    const reading = room.obs[keys[i]];
    if (!reading) continue;
    const { age, is } = aged(reading, now, room);
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

export const alarmsOf = (room) => [...state.alarms.values()].filter((alarm) => alarm.room === room.id);

// What is the matter in a room: each kind by itself, since a red value never makes a dead device well. `word` is the
// worst of them, or ok or empty.
export function roomState(room, ring, now) {
  const priorities = new Set(alarmsOf(room).map((alarm) => alarm.pr));
  const levels = new Set();
  for (const reading of Object.values(room.obs)) {
    if (reading.q !== "artefact" && aged(reading, now, room).is === "fresh") levels.add(reading.lv);
  }
  const crit = levels.has("critical") || priorities.has("high");
  const med = levels.has("abnormal") || priorities.has("med");
  const low = priorities.has("low") || room.dev.some(down) || ekgView(room, ring, now).trouble;
  const calm = vacant(room, now) ? "empty" : "ok";
  return { crit, med, low, word: crit ? "crit" : med ? "med" : low ? "low" : calm };
}

// Nobody bound and nothing measured: the room is free. Old values of nobody do not keep it busy.
export function vacant(room, now) {
  return !room.patient && !room.ekg && Object.values(room.obs).every((reading) => aged(reading, now, room).is !== "fresh");
}

export function sortedAlarms() {
  const all = [...state.alarms.values()];
  return all.sort((a, b) => PRIORITY[a.pr] - PRIORITY[b.pr] || a.since - b.since || (a.id < b.id ? -1 : 1));
}

// Unconfirmed by a number: the value that raised an alarm is old, gone, or never came.
export function unseen(alarm, now) {
  const room = state.rooms.get(alarm.room);
  if (alarm.tech || !room || (alarm.k !== "bp" && !state.metrics[alarm.k])) return null;
  const reading = room.obs[alarm.k];
  if (!reading) return { age: null };
  const { age, is } = aged(reading, now, room);
  return is === "fresh" ? null : { age };
}

// A gateway that is gone takes all its devices along: one line says it for all of them.
export const gatewaysDown = () => new Set((state.sys.gateways ?? []).filter((one) => !one.online).map((one) => one.id));

export const SHAPES = { crit: "▲▲", med: "▲", low: "◆", high: "▲▲", ok: "•", empty: "" };
