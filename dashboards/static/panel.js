// The panel at the right: a room in detail, all alarms, the parts behind the board, or help. Never modal.
import { Cell, set, span } from "./cell.js";
import { readings } from "./history.js";
import { ring } from "./rings.js";
import { chip } from "./strip.js";
import { Sweep } from "./sweep.js";
import { aged, cellView, deviceWord, down, ekgView, levelClass, mark, number, state, text, unchecked, vacant } from "./state.js";
import { who } from "./tile.js";
import * as time from "./time.js";

const REFRESH_MS = 15000;

const block = (cls, ...children) => {
  const element = document.createElement("div");
  element.className = cls;
  element.append(...children);
  return element;
};

// Replace the children only when what they say changed.
function rewrite(root, key, build) {
  if (root.dataset.key === key) return;
  root.dataset.key = key;
  root.replaceChildren(...build());
}

export class Panel {
  constructor(root) {
    this.root = root;
    this.id = null;
    this.from = null;
    this.update = null;
  }

  show(from, label, update, ...children) {
    this.clean();
    this.from = from;
    this.update = update;
    this.root.setAttribute("aria-label", label);
    this.root.replaceChildren(...children);
    this.root.hidden = false;
    this.root.scrollTop = 0;
    this.root.querySelector(".close").focus({ preventScroll: true });
  }

  clean() {
    this.sweep?.close();
    this.sweep = null;
    this.id = null;
    this.update = null;
    clearInterval(this.timer);
  }

  close() {
    if (this.root.hidden) return;
    this.clean();
    this.root.hidden = true;
    this.root.replaceChildren();
    this.from?.focus?.({ preventScroll: true });
  }

  tick(now) {
    if (!this.root.hidden) this.update?.(now);
  }

  head(badge, title, line) {
    const close = span("close", "Close", "button");
    close.type = "button";
    close.addEventListener("click", () => this.close());
    const words = block("title", span("", title, "h2"), span("line", line, "p"));
    return block("panel-head", ...(badge ? [span("badge", badge)] : []), words, close);
  }

  room(id, from) {
    const room = state.rooms.get(id);
    if (!room) return;
    const cells = state.cells.map((cell) => new Cell(cell));
    const canvas = document.createElement("canvas");
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", "EKG, no signal");
    const scale = span("scale", "");
    const veil = block("veil", span("tag", ""), span("ago", ""));
    const mv = block("mv");
    const parts = { reasons: block("card reasons"), devices: block("card"), history: block("card history"), trends: block("card trends") };
    const body = block("panel-body",
      span("", "Readings", "h3"), block("card", block("cells", ...cells.map((cell) => cell.root))),
      span("", "EKG", "h3"), block("card", block("well", canvas, scale, mv, veil)),
      span("", "Last 30 minutes", "h3"), parts.trends,
      span("", "How each number was judged", "h3"), parts.reasons,
      span("", "Devices", "h3"), parts.devices,
      span("", "Readings of the last 30 minutes", "h3"), parts.history);
    const head = this.head(room.title || room.id, "", "");
    this.show(from, `Room ${room.title || id}`, (now) => this.paintRoom(id, now, { head, cells, parts, veil, canvas, mv }), head, body);
    this.id = id;
    this.sweep = new Sweep(canvas, ring(room.i), {
      line: 1.9,
      onScale: (shown) => {
        set(scale, [shown.lead, shown.speed, shown.gain].filter(Boolean).join("  "));
        canvas.setAttribute("aria-label", `EKG ${shown.lead || "lead not named"}, ${shown.speed}, ${shown.gain}`);
      },
    });
    this.sweep.fresh = true;
    const load = () => readings(id, parts.history, parts.trends, () => this.id === id);
    load();
    this.timer = setInterval(load, REFRESH_MS);
    this.tick(time.now());
  }

  paintRoom(id, now, { head, cells, parts, veil, canvas, mv }) {
    const room = state.rooms.get(id);
    if (!room) return this.close();
    const free = vacant(room, now);
    set(head.querySelector("h2"), room.patient?.name || (free ? "No visit" : "No patient bound"));
    const visit = room.visit?.since ? `visit ${time.long(now - room.visit.since)}` : "";
    const sim = room.sim ? "simulated, not a patient's" : "";
    set(head.querySelector(".line"), [who(room), visit, sim].filter(Boolean).join(", "));
    for (const cell of cells) cell.paint(cellView(cell.cell, room, now));
    const ekg = ekgView(room, ring(room.i).last, now);
    veil.hidden = ekg.drawn;
    veil.classList.toggle("plain", !ekg.trouble);
    canvas.hidden = !ekg.drawn;
    set(veil.children[0], ekg.tag);
    set(veil.children[1], ekg.ago);
    if (room.ekg) this.sweep?.use({ lead: room.ekg.lead, cal: room.ekg.cal, uv: state.uv, div: room.ekg.div });
    mv.hidden = !ekg.drawn || !room.ekg?.cal;
    if (this.sweep) mv.style.height = `${this.sweep.gain * this.sweep.mm}px`;
    this.reasons(room, parts.reasons, now);
    this.devices(room, parts.devices, now);
    return undefined;
  }

  reasons(room, root, now) {
    const shown = Object.values(room.obs).filter((reading) => reading.k !== "cuff_pressure");
    const key = JSON.stringify(shown.map((r) => [r.k, r.id, r.av, r.f, r.ts, aged(r, now).is, Math.floor((now - r.ts) / 5000)]));
    rewrite(root, key, () => shown.sort((a, b) => place(a.k) - place(b.k)).flatMap((reading) => reason(reading, now)));
    root.hidden = shown.length === 0;
  }

  devices(room, root, now) {
    rewrite(root, JSON.stringify([room.dev, Math.floor(now / 5000)]), () =>
      room.dev.length ? room.dev.map((device) => deviceRow(device, now)) : [block("device", span("quiet", "No devices seen in this room."))]);
  }

  alarms(strip, open, from) {
    const list = block("listed");
    const update = (now) => rewrite(list, JSON.stringify([strip.list(), Math.floor(now / 1000)]), () =>
      strip.list().map((alarm) => {
        const item = chip(alarm, open, now).firstElementChild;
        set(item.querySelector(".age"), alarm.since ? time.long(now - alarm.since) : "");
        return item;
      }));
    this.show(from, "All alarms", update, this.head("", "All alarms", "most urgent first, then the oldest"), block("panel-body", list));
    this.tick(time.now());
  }

  system(from) {
    const body = block("panel-body");
    const update = (now) => rewrite(body, JSON.stringify([state.sys, Math.floor(now / 5000)]), () => system(now));
    this.show(from, "System", update, this.head("", "System", "the parts behind this board"), body);
    this.tick(time.now());
  }

  help(from) {
    const legend = document.createElement("dl");
    legend.className = "legend";
    for (const [sign, meaning] of LEGEND) legend.append(span("", sign, "dt"), span("", meaning, "dd"));
    const body = block("panel-body prose", ...HELP.map((line) => span("", line, "p")), span("", "Signs", "h3"), legend);
    this.show(from, "Help", null, this.head("", "Help", "what this board is, and what it is not"), body);
  }
}

function reason(reading, now) {
  const title = state.metrics[reading.k]?.title ?? reading.k;
  const unit = reading.u;
  const { age, is } = aged(reading, now);
  const parts = reading.parts
    ? Object.entries(reading.parts).map(([name, part]) => [{ sys: "Systolic", dia: "Diastolic", map: "Mean" }[name], number(reading.k, part.v), part])
    : [[title, reading.v === null || reading.v === undefined ? "– –" : text(reading), reading]];
  const facts = [
    `${time.minute(reading.ts)}, ${time.long(age)} ago${is === "fresh" ? "" : `, ${is}`}`,
    reading.unc >= 1000 ? `± ${time.long(reading.unc)}` : "", reading.late ? `arrived ${time.long(reading.late * 1000)} late` : "",
    `from ${reading.dev}`, reading.method ? `method ${reading.method}` : "", reading.derived ? "computed from the trace" : "",
    reading.raw ? `device said ${reading.raw}` : "", reading.quality?.length ? `status: ${reading.quality.join(", ").replaceAll("_", " ")}` : "",
    reading.reason ?? "", reading.sim ? "simulated" : "",
  ].filter(Boolean).join(" · ");
  return parts.map(([label, value, part], index) => {
    const row = block("reason", span("what", label));
    const says = block("says");
    const level = levelClass(part.lv);
    if (part.f && part.f !== "N") says.append(span(`chipflag ${level}`, `${mark(part.f)} ${part.f}`.trim()));
    if (unchecked(part)) says.append(span("chipflag unchecked", "not checked"));
    says.append(`${value} ${unit}`);
    row.append(says);
    row.append(...because(part));
    if (part.ne) row.append(span("more", `not checked: ${part.ne}`));
    if (index === parts.length - 1) row.append(span("more", facts));
    return row;
  });
}

// The order of the tile, then the rest by name.
function place(key) {
  const keys = state.cells.flatMap((cell) => cell.keys);
  return keys.includes(key) ? keys.indexOf(key) : keys.length + key.charCodeAt(0);
}

function because({ why, f }) {
  if (!why) return [];
  const says = [why.text, why.limit ? `limit ${why.limit}` : ""].filter(Boolean).join(", ");
  const from = [`rule ${why.rule}`, why.source, why.evidence ? `evidence ${why.evidence}` : ""].filter(Boolean).join(" · ");
  return f === "N" ? [span("more", `normal by ${from}`)] : [span("more strong", says), span("more", from)];
}

function deviceRow(device, now) {
  const row = block(`device${down(device) ? " down" : ""}`);
  const since = device.since ? ` for ${time.long(now - device.since)}` : "";
  row.append(span("what", device.title), span("state", `${down(device) ? "◆ " : ""}${deviceWord(device)}${since}`));
  const faults = Object.entries(device.faults).map(([code, count]) => `${code.replaceAll("_", " ")} ${count}`);
  const missing = Object.entries(state.sys.ingest?.missing ?? {}).filter(([key]) => key.startsWith(`${device.id}/`))
    .map(([key, seconds]) => `${seconds} s of ${state.metrics[key.split("/")[2]]?.title ?? key} never received`);
  const facts = [
    device.reason, ...missing, device.battery === null ? "" : `battery ${device.battery} %`,
    device.lost ? `${device.lost} samples lost` : "", faults.length ? `faults: ${faults.join(", ")}` : "no faults",
    device.model, `${device.name} on ${device.gw}`, device.transport, device.sim ? "simulated" : "",
  ].filter(Boolean).join(" · ");
  row.append(span("more", facts));
  return row;
}

function system(now) {
  const { broker, ingest, gateways, faults } = state.sys;
  const since = (ms) => (ms ? ` for ${time.long(now - ms)}` : "");
  const row = (title, up, word, more) => {
    const element = block(`device${up ? "" : " down"}`, span("what", title), span("state", `${up ? "" : "◆ "}${word}`));
    if (more) element.append(span("more", more));
    return element;
  };
  const refused = Object.entries(ingest?.refused ?? {}).map(([why, n]) => `${n} refused: ${why}`);
  const rows = [
    row("Message broker", broker.up, (broker.up ? "connected" : "not connected") + since(broker.since), broker.up ? "" : broker.why),
    row("Checking and storing", Boolean(ingest?.online), ingest ? (ingest.online ? "running" : "down") + since(ingest.since) : "not heard of",
      [ingest?.store_fault ? `not storing: ${ingest.store_fault}` : "", ingest?.profile ? `profile ${ingest.profile}` : "",
        ingest?.rules ? `rules ${ingest.rules.slice(0, 12)}` : "", ...refused].filter(Boolean).join(" · ")),
    ...gateways.map((one) => row(`Gateway ${one.id}`, one.online, (one.online ? "online" : "offline") + since(one.since),
      [`${one.backlog} waiting to be stored`, `${one.refused} refused`, one.clock_off ? `clock off by ${one.clock_off} ms` : ""].filter(Boolean).join(" · "))),
  ];
  const counted = Object.entries(faults).map(([what, n]) => block("device", span("what", what), span("state", String(n))));
  const none = block("device", span("quiet", "None since the board started."));
  return [span("", "Services", "h3"), block("card", ...rows), span("", "Messages not shown, by reason", "h3"), block("card", ...(counted.length ? counted : [none]))];
}

const HELP = [
  "This is a secondary display. The bedside device alarms first, and what it shows counts. Not for diagnosis.",
  "Values are as old as the age beside them. Grey and thin means too old to act on. Two dashes mean there is no value.",
  "A blue-green band in place of the top bar means this page is not live: alarms are not running. Look after the patients themselves.",
  "Press a tile for every number's rule, limit and source, the trace with its grid, and the devices. Esc closes. Arrow keys move between rooms.",
];
const LEGEND = [
  ["▲▲ ▼▼", "critical, HH above or LL below"], ["▲ ▼", "abnormal, H above or L below"], ["A", "notice, no alarm"],
  ["◆", "device, link or service trouble"], ["◷ 2m", "stale: last value this long ago"], ["≈ ?", "noisy signal, not judged"],
  ["not checked ⊘", "no rule could judge it; the reason is in the room's details"], ["– –", "no value"],
  ["late 4m", "arrived this long after it was taken"], ["SIM", "simulated, not a patient's"],
];
