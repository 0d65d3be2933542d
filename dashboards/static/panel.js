// The panel at the right: a room in detail, all alarms, the parts behind the board, or help. Never modal.
import { Cell, ends, set, span } from "./cell.js";
import { HELP, LEGEND } from "./help.js";
import { readings } from "./history.js";
import { ring } from "./rings.js";
import { chip } from "./strip.js";
import { Sweep } from "./sweep.js";
import { block, deviceRow, place, reason, system } from "./rows.js";
import { aged, state, vacant } from "./state.js";
import { who } from "./tile.js";
import * as time from "./time.js";
import { cellView, ekgView } from "./view.js";

const REFRESH_MS = 15000;

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
    const close = span("close", "Close ✕", "button");
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
    const mark = span("mark", "");
    const mv = block("mv");
    const parts = { reasons: block("card reasons"), devices: block("card"), history: block("card history"), trends: block("card trends") };
    const body = block("panel-body",
      span("", "Readings", "h3"), block("card cellbox", block("cells", ...cells.map((cell) => cell.root))),
      span("", "EKG", "h3"), block("card", block("well", canvas, scale, mv, mark, veil)),
      span("", "Last 30 minutes", "h3"), parts.trends,
      span("", "How each number was judged", "h3"), parts.reasons,
      span("", "Devices", "h3"), parts.devices,
      span("", "Readings of the last 30 minutes", "h3"), parts.history);
    const head = this.head(room.title || room.id, "", "");
    this.show(from, `Room ${room.title || id}`, (now) => this.paintRoom(id, now, { head, cells, parts, veil, canvas, mv, mark }), head, body);
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

  paintRoom(id, now, { head, cells, parts, veil, canvas, mv, mark }) {
    const room = state.rooms.get(id);
    if (!room) return this.close();
    const free = vacant(room, now);
    set(head.querySelector("h2"), room.patient?.name || (free ? "No visit" : "No patient bound"));
    const visit = room.visit?.since ? `visit ${time.steady(now - room.visit.since)}` : "";
    const sim = room.sim ? "simulated, not a patient's" : "";
    set(head.querySelector(".line"), [who(room), visit, sim].filter(Boolean).join(", "));
    for (const cell of cells) cell.paint(cellView(cell.cell, room, now));
    const ekg = ekgView(room, ring(room.i), now);
    veil.hidden = ekg.drawn;
    veil.classList.toggle("plain", !ekg.trouble);
    canvas.hidden = !ekg.drawn;
    ends(veil.children[0], ekg.head, ekg.tail);
    mark.hidden = !ekg.mark;
    set(mark, ekg.mark);
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
    const key = JSON.stringify(shown.map((r) => [r.k, r.id, r.av, r.f, r.ts, aged(r, now, room).is, Math.floor((now - r.ts) / 5000)]));
    rewrite(root, key, () => shown.sort((a, b) => place(a.k) - place(b.k)).flatMap((reading) => reason(reading, now, room)));
    root.hidden = shown.length === 0;
  }

  devices(room, root, now) {
    rewrite(root, JSON.stringify([room.dev, Math.floor(now / 5000)]), () =>
      room.dev.length ? room.dev.map((device) => deviceRow(device, now)) : [block("device", span("quiet", "No devices seen in this room."))]);
  }

  alarms(strip, open, from) {
    const list = block("listed");
    const update = (now) => document.body.classList.contains("dead") || rewrite(list, JSON.stringify([strip.list(), Math.floor(now / 1000)]), () =>
      strip.list().map((alarm) => chip(alarm, open, now).firstElementChild));
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
