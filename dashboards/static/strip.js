// The alarm strip, its counters, and what a screen reader hears of a new alarm.
import { set, span } from "./cell.js";
import { aged, SHAPES, sortedAlarms, state, text } from "./state.js";
import * as time from "./time.js";

const SPEAK_MS = 3000;
const byId = (id) => document.getElementById(id);

// `SpO₂ 84 %`: the value that alarms as it stands now. Where that value is old, or inside the limit again while the
// alarm lasts, the words of the alarm itself.
function says(alarm, now) {
  const reading = state.rooms.get(alarm.room)?.obs[alarm.k];
  if (alarm.tech || !reading || reading.v === null || aged(reading, now).is !== "fresh") return alarm.txt;
  if (reading.lv !== "abnormal" && reading.lv !== "critical") return alarm.txt;
  const cell = state.cells.find((one) => one.keys.includes(alarm.k));
  const name = cell ? cell.label : state.metrics[alarm.k]?.title ?? alarm.k;
  const unit = alarm.k === "bp" ? "" : state.metrics[alarm.k]?.u ?? "";
  return `${name} ${text(reading)} ${unit}`.trim();
}

// Where the reading was taken leads; a notice of the system has no room to open.
export function chip(alarm, open, now) {
  const item = document.createElement("li");
  const root = document.createElement(alarm.room ? "button" : "div");
  if (alarm.room) {
    root.type = "button";
    root.addEventListener("click", () => open(alarm.room, root));
  }
  root.className = `chip ${alarm.pr}`;
  root.dataset.alarm = alarm.id;
  const shape = span("shape", SHAPES[alarm.pr]);
  shape.setAttribute("aria-hidden", "true");
  const room = state.rooms.get(alarm.room);
  root.append(shape, span("", alarm.room ? `Rm ${room?.title || alarm.room}` : alarm.who), span("txt", says(alarm, now)));
  if (alarm.lim) root.append(span("", alarm.lim, "small"));
  root.append(span("age", "", "small"));
  item.append(root);
  return item;
}

export class Strip {
  constructor(open, filter) {
    this.open = open;
    this.filter = "";
    this.chips = new Map();
    this.spoken = null;
    this.spokenAt = -Infinity;
    this.counters = [...document.querySelectorAll(".counter")];
    for (const counter of this.counters) {
      counter.addEventListener("click", () => filter(this.filter === counter.dataset.filter ? "" : counter.dataset.filter));
    }
  }

  list() {
    const notices = state.sys.notices.map((notice) => ({ ...notice, id: `sys/${notice.id}`, pr: "low", room: "" }));
    const alarms = sortedAlarms();
    return [...alarms.filter((alarm) => alarm.pr !== "low"), ...notices, ...alarms.filter((alarm) => alarm.pr === "low")];
  }

  paint(words, now) {
    const list = this.list();
    const wanted = new Set();
    list.forEach((alarm, place) => {
      const key = [alarm.id, alarm.pr, alarm.txt, alarm.lim, alarm.since].join("|");
      wanted.add(key);
      let item = this.chips.get(key);
      if (!item) {
        item = chip(alarm, this.open, now);
        this.chips.set(key, item);
      }
      set(item.querySelector(".txt"), says(alarm, now));
      set(item.querySelector(".age"), alarm.since ? time.long(now - alarm.since) : "");
      if (byId("chips").children[place] !== item) byId("chips").insertBefore(item, byId("chips").children[place] ?? null);
    });
    for (const [key, item] of this.chips) {
      if (wanted.has(key)) continue;
      item.remove();
      this.chips.delete(key);
    }
    const calm = byId("calm");
    calm.hidden = list.length > 0;
    byId("chips").hidden = list.length === 0;
    const flagged = words.filter((word) => word === "crit" || word === "med").length;
    const none = flagged ? `No alarm is active. Flagged values in ${flagged} ${flagged === 1 ? "room" : "rooms"}.` : "No active alarms";
    set(calm, document.body.classList.contains("waiting") ? "Connecting" : none);
    byId("all").hidden = list.length === 0;
    set(byId("all"), `All ${list.length}`);
    this.count(words);
    this.speak(now);
  }

  count(words) {
    for (const counter of this.counters) {
      const n = words.filter((word) => word === counter.dataset.filter).length;
      set(counter.querySelector("b"), String(n));
      counter.classList.toggle("some", n > 0);
      counter.setAttribute("aria-pressed", String(this.filter === counter.dataset.filter));
      const label = `${n} ${n === 1 ? "room" : "rooms"} ${counter.querySelector(".word").textContent}`;
      if (counter.getAttribute("aria-label") !== label) counter.setAttribute("aria-label", label);
    }
  }

  // One sentence at a time, and at most one each three seconds.
  speak(now) {
    const alarms = sortedAlarms();
    if (this.spoken === null) this.spoken = new Set(alarms.map((alarm) => alarm.id));
    const fresh = alarms.find((alarm) => !this.spoken.has(alarm.id));
    for (const id of this.spoken) if (!state.alarms.has(id)) this.spoken.delete(id);
    if (!fresh || now - this.spokenAt < SPEAK_MS) return;
    this.spoken.add(fresh.id);
    this.spokenAt = now;
    set(byId(fresh.pr === "high" ? "alert" : "status"), `Room ${fresh.room}: ${fresh.txt} ${fresh.lim}`.trim());
  }
}
