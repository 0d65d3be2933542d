// What a cell and a trace show, as plain words and classes: asked each second, drawn only when they changed.
import { ARTEFACT, LEAD_OFF } from "./rings.js";
import { aged, before, choose, continuous, down, levelClass, mark, state, text, unchecked } from "./state.js";
import * as time from "./time.js";

const STATES = { lost: "link lost", off: "off", unreachable: "gateway offline", connecting: "connecting" };
export const deviceWord = (device) => STATES[device.state] ?? device.state;

// A device in a word or two, by what it measures: its full title is for the panel.
const ROLES = [["ekg", "EKG monitor"], ["spo2", "Oximeter"], ["bp", "Cuff"], ["temp", "Thermometer"], ["glu", "Glucometer"], ["weight", "Scale"]];
export const role = (device) => ROLES.find(([key]) => device.metrics.includes(key))?.[1] ?? device.title;

export function ekgDevice(room) {
  return room.dev.find((device) => device.id === room.ekg?.dev) ?? room.dev.find((one) => one.metrics.includes("ekg"));
}

// [wide, tight] pieces of a meta line, the most important first: what is cut off is never the age or a warning.
const join = (parts, n) => parts.map((part) => part[n]).filter(Boolean).join(" · ");

export function cellView(cell, room, now) {
  const found = choose(cell.keys, room, now);
  const devices = room.dev.filter((device) => device.metrics.some((key) => cell.keys.includes(key)));
  const dead = devices.length > 0 && devices.every(down);
  const cuff = cell.keys.includes("bp") && room.obs.cuff_pressure;
  const rising = cuff && aged(cuff, now, room).is === "fresh" ? text(cuff) : "";
  if (!found) {
    return { num: "– –", cls: "none", flag: "", code: "", meta: rising ? `inflating ${rising}` : dead ? `◆ ${deviceWord(devices[0])}` : "",
      cyan: dead && !rising, key: cell.keys[0] };
  }
  const { reading, age, is } = found;
  const { num, cls, flag = "", code = "", parts, cyan = false } = shown(reading, age, is, room, dead);
  if (rising) parts.splice(parts[0][1] === "⊘" ? 2 : 1, 0, [`↑${rising}`, `↑${rising}`]);
  return { num, cls, flag, code, cyan, meta: join(parts, 0), tight: join(parts, 1), key: reading.k, reading, age, is };
}

function shown(reading, age, is, room, dead) {
  const clock = [`◷ ${time.short(age)}`, `◷ ${time.short(age)}`];
  const level = before(reading, room) ? "" : levelClass(reading.lv);
  const held = level && level !== "notice" ? { flag: mark(reading.f), code: reading.f } : {};
  const was = held.code ? ` was-${level}` : "";
  if (is === "gone") return { num: "– –", cls: `gone${was}`, parts: [clock], cyan: true, ...held };
  if (reading.v === null || reading.v === undefined) {
    return { num: "– –", cls: "none", parts: [[reading.reason || "invalid", reading.reason || "invalid"]] };
  }
  const by = state.metrics[reading.k]?.by ?? "";
  const num = text(reading);
  if (is === "stale") {
    const parts = reading.unsure ? [["◷ time?", "◷ time?"], [time.short(age), ""]] : [clock];
    if (dead && continuous(reading.k)) parts.push(["device gone", ""]);
    if (before(reading, room)) parts.push(["before visit", ""]);
    return { num, cls: `stale${was}`, parts, cyan: true, ...held };
  }
  if (reading.q === "artefact") return { num, cls: "noisy", flag: "?", parts: [["≈ noisy", "≈ noisy"]] };
  const parts = [];
  if (unchecked(reading)) parts.push(["⊘ not checked", "⊘"]);
  if (!continuous(reading.k)) parts.push([time.calm(age), time.calm(age)]);
  const late = reading.late ? `late ${time.short(reading.late * 1000)}` : "";
  parts.push([late, late], [by, continuous(reading.k) ? by : ""]);
  return { num, cls: level ? `has ${level}` : "has", flag: level ? mark(reading.f) : "", code: level ? reading.f : "", parts };
}

// The EKG of a room: drawing, or a word why not. `mark` is what is wrong with a trace that is drawn.
export function ekgView(room, ring, now) {
  const device = ekgDevice(room);
  const last = ring.last || room.ekg?.last || 0;
  const gone = device && down(device) && now - device.since > state.policy.down.stale * 1000;
  const silent = Math.abs(now - last) > state.policy.ekg.stale * 1000;
  const since = last || device?.since;
  const ago = since ? `last ${time.long(now - since)} ago` : "";
  const no = { drawn: false, head: "", tail: "", ago: "", trouble: false, mark: "" };
  if (gone) return { ...no, head: `◆ ${role(device)}`, tail: deviceWord(device), ago, trouble: true };
  if (!silent) {
    const flags = ring.count ? ring.flags[(ring.count - 1) % ring.flags.length] : 0;
    const off = (flags & LEAD_OFF) !== 0;
    const words = off ? "◆ Lead off" : flags & ARTEFACT ? "≈ Artefact, rate unreliable" : "";
    return { ...no, drawn: true, trouble: off, mark: words };
  }
  if (room.ekg) return { ...no, tail: "◆ No EKG signal", ago, trouble: true };
  return { ...no, tail: device ? "EKG ready, no signal yet" : "EKG not attached" };
}
