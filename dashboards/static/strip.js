// The alarm strip, its counters, and what a screen reader hears of a new alarm.
import { set, span } from "./cell.js";
import { aged, gatewaysDown, RANK, SHAPES, sortedAlarms, state, text, unseen } from "./state.js";
import * as time from "./time.js";

const SPEAK_MS = 3000;
const byId = (id) => document.getElementById(id);

// `SpO₂ 84 %`: the value that alarms as it stands now. Where that value is old, or milder again while the alarm
// lasts (`Resp 24` beside `≥ 25` would be a riddle), the words of the alarm itself.
function says(alarm, now) {
  if (alarm.gw) return `offline, ${behind(alarm.gw)}`;
  const room = state.rooms.get(alarm.room);
  const reading = room?.obs[alarm.k];
  if (alarm.tech || !reading || reading.v === null || aged(reading, now, room).is !== "fresh") return alarm.txt;
  if (RANK[reading.lv ?? "normal"] < (alarm.pr === "high" ? RANK.critical : RANK.abnormal)) return alarm.txt;
  const cell = state.cells.find((one) => one.keys.includes(alarm.k));
  const name = cell ? cell.label : state.metrics[alarm.k]?.title ?? alarm.k;
  const unit = alarm.k === "bp" ? "" : state.metrics[alarm.k]?.u ?? "";
  return `${name} ${text(reading)} ${unit}`.trim();
}

function behind(gateway) {
  const n = [...state.rooms.values()].reduce((sum, room) => sum + room.dev.filter((device) => device.gw === gateway).length, 0);
  return n === 0 ? "its devices are not read" : `${n} ${n === 1 ? "device" : "devices"}`;
}

// A device's own alarm says nothing new while its gateway is gone.
function covered(alarm, gone) {
  if (!alarm.tech || !alarm.dev || gone.size === 0) return false;
  return state.rooms.get(alarm.room)?.dev.some((device) => device.name === alarm.dev && gone.has(device.gw)) ?? false;
}

// Where the reading was taken leads; a notice of the system has no room to open.
export function chip(alarm, open, now) {
  const item = document.createElement("li");
  const root = document.createElement(alarm.room ? "button" : "div");
  if (alarm.room) {
    root.type = "button";
    root.addEventListener("click", () => open(alarm.room, root));
  }
  root.dataset.alarm = alarm.id;
  const shape = span("shape", SHAPES[alarm.pr]);
  shape.setAttribute("aria-hidden", "true");
  const room = state.rooms.get(alarm.room);
  root.append(shape, span("where", alarm.room ? `Rm ${room?.title || alarm.room}` : alarm.who), span("txt", ""));
  if (alarm.lim) root.append(span("lim", alarm.lim, "small"));
  root.append(span("age", "", "small"));
  if (alarm.sim) root.append(span("sim", "SIM"));
  item.append(root);
  refresh(item, alarm, now);
  return item;
}

// What changes while an alarm lasts: its value, its age, and whether any value still stands behind it.
function refresh(item, alarm, now) {
  const root = item.firstElementChild;
  const lost = unseen(alarm, now);
  const cls = `chip ${alarm.pr}${lost ? " nodata" : ""}`;
  if (root.className !== cls) root.className = cls;
  set(root.querySelector(".txt"), says(alarm, now));
  const since = alarm.since ? time.long(now - alarm.since) : "";
  set(root.querySelector(".age"), lost ? `no data${lost.age === null ? "" : ` ${time.short(lost.age)}`}` : since);
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
    const gone = gatewaysDown();
    const alarms = sortedAlarms().filter((alarm) => !covered(alarm, gone));
    return [...alarms.filter((alarm) => alarm.pr !== "low"), ...notices, ...alarms.filter((alarm) => alarm.pr === "low")];
  }

  paint(states, now) {
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
      refresh(item, alarm, now);
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
    const flagged = states.filter((one) => one.crit || one.med).length;
    const none = flagged ? `No alarm is active. Flagged values in ${flagged} ${flagged === 1 ? "room" : "rooms"}.` : "No active alarms";
    set(calm, document.body.classList.contains("waiting") ? "Connecting" : none);
    byId("all").hidden = list.length === 0;
    set(byId("all"), `All ${list.length}`);
    this.count(states);
    this.speak(now);
  }

  count(states) {
    for (const counter of this.counters) {
      const n = states.filter((one) => one[counter.dataset.filter]).length;
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
    set(byId(fresh.pr === "high" ? "alert" : "status"), `Room ${state.rooms.get(fresh.room)?.title || fresh.room}: ${fresh.txt} ${fresh.lim}`.trim());
  }
}
