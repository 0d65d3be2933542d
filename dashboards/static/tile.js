// <room-tile>: one room of the grid, built once from the template.
import { Cell, ends, set } from "./cell.js";
import { ring } from "./rings.js";
import { Sweep } from "./sweep.js";
import { down, roomState, state, vacant } from "./state.js";
import * as time from "./time.js";
import { cellView, ekgView } from "./view.js";

const FIELDS = ["tile", "badge", "aside", "open", "name", "who", "sim", "mins", "well", "scale", "mark", "veil", "tag", "ago", "cells", "free"];

export class RoomTile extends HTMLElement {
  build(room, open) {
    this.append(document.getElementById("tile").content.cloneNode(true));
    this.ui = Object.fromEntries(FIELDS.map((name) => [name, this.querySelector(`.${name}`)]));
    this.canvas = this.querySelector("canvas");
    this.cells = state.cells.map((cell) => new Cell(cell));
    this.ui.cells.append(...this.cells.map((cell) => cell.root));
    this.ui.open.addEventListener("click", () => open(room.id, this.ui.open));
    this.dataset.room = room.id;
    this.ring = ring(room.i);
    this.sweep = new Sweep(this.canvas, this.ring, { line: 1.6, onScale: (shown) => this.scale(shown) });
    return this;
  }

  scale({ lead, speed, gain, standard, narrow }) {
    set(this.ui.scale, narrow ? (standard ? "" : gain) : [lead, speed, gain].filter(Boolean).join("  "));
    this.canvas.setAttribute("aria-label", `EKG ${lead || "lead not named"}, ${speed}, ${gain}`);
  }

  paint(room, now) {
    const { ui } = this;
    const free = vacant(room, now);
    this.is = roomState(room, this.ring, now);
    const { word } = this.is;
    const ekg = ekgView(room, this.ring, now);
    const unbound = !room.patient && !free;
    const cls = ["tile", word, free ? "vacant" : "", unbound ? "unbound" : ""].filter(Boolean).join(" ");
    if (ui.tile.className !== cls) ui.tile.className = cls;
    set(ui.badge, room.title || room.id);
    ui.aside.hidden = !this.is.low;
    set(ui.name, room.patient?.name || (free ? "No visit" : "No patient bound"));
    set(ui.who, who(room));
    set(ui.mins, room.visit?.since ? time.steady(now - room.visit.since) : "");
    ui.sim.hidden = !room.sim;
    const views = this.cells.map((cell) => [cell, cellView(cell.cell, room, now)]);
    for (const [cell, view] of views) cell.paint(view);
    this.paintEkg(room, ekg);
    ui.free.hidden = !free;
    if (free) this.paintEmpty(room);
    this.name(room, views, word);
  }

  paintEkg(room, ekg) {
    const { ui } = this;
    ui.veil.hidden = ekg.drawn;
    ui.veil.classList.toggle("plain", !ekg.trouble);
    ui.scale.hidden = !ekg.drawn;
    ends(ui.tag, ekg.head, ekg.tail);
    set(ui.ago, ekg.ago);
    ui.mark.hidden = !ekg.mark;
    set(ui.mark, ekg.mark);
    if (room.ekg) this.sweep.use({ lead: room.ekg.lead, cal: room.ekg.cal, uv: state.uv, div: room.ekg.div });
  }

  paintEmpty(room) {
    const [head, line] = this.ui.free.children;
    const ready = room.dev.filter((device) => !down(device)).length;
    set(head, "Available");
    const all = room.dev.length;
    set(line, all === 0 ? "No devices seen" : ready === all ? `All ${all} devices ready` : `${ready} of ${all} devices ready`);
  }

  // What a screen reader says of the room; numbers are not live regions.
  name(room, views, word) {
    const words = [{ crit: "critical", med: "abnormal" }[word], this.is.low ? "device trouble" : ""].filter(Boolean).join(", ");
    const flagged = views.filter(([, view]) => view.code && view.is === "fresh").map(([cell, view]) => `${cell.cell.label} ${view.num} ${view.code}`);
    const label = [`Room ${room.title || room.id}`, room.patient?.name, words, ...flagged].filter(Boolean).join(", ");
    if (this.ui.tile.getAttribute("aria-label") !== label) this.ui.tile.setAttribute("aria-label", label);
  }

  disconnectedCallback() {
    this.sweep?.close();
  }
}

export function who(room) {
  if (!room.patient) return "";
  const sex = { female: "F", male: "M" }[room.patient.sex] ?? "";
  return [sex, room.patient.age ?? ""].filter((part) => part !== "").join(" ");
}

customElements.define("room-tile", RoomTile);
