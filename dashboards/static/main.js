// Wires the parts: feed in, tiles, strip, map and panel out. One tick a second ages everything from server time.
import { set } from "./cell.js";
import { Feed } from "./feed.js";
import { layout } from "./grid.js";
import { RoomMap } from "./map.js";
import { Panel } from "./panel.js";
import * as rings from "./rings.js";
import { Strip } from "./strip.js";
import { state, take } from "./state.js";
import * as sweep from "./sweep.js";
import * as time from "./time.js";
import { RoomTile } from "./tile.js";

const byId = (id) => document.getElementById(id);
const grid = byId("grid");
const tiles = new Map();
const panel = new Panel(byId("panel"));
const strip = new Strip(open, filter);
const map = new RoomMap(byId("map"), jump);
const stats = { paints: 0, paintMs: 0, worstMs: 0 };
const FIRST_MS = 5000; // a page that never got its first snapshot says so after this
const dirty = new Set();
let frozen = null;

calibrate();

function open(id, from) {
  panel.room(id, from);
}

function filter(word) {
  strip.filter = word;
  paintFrame();
}

function jump(id) {
  tiles.get(id)?.scrollIntoView({ block: "center", behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
  tiles.get(id)?.ui.open.focus({ preventScroll: true });
}

// Millimetres on this screen, once somebody measured them; until then CSS's own.
function calibrate() {
  try {
    const measured = Number(localStorage.getItem("mm"));
    if (measured > 1 && measured < 20) document.documentElement.style.setProperty("--mm", `${measured}px`);
  } catch {
    // no storage: the default holds
  }
}

function arrange() {
  for (const [id, room] of state.rooms) {
    if (tiles.has(id)) continue;
    const tile = new RoomTile();
    grid.append(tile);
    tiles.set(id, tile.build(room, open));
  }
  for (const [id, tile] of tiles) {
    if (state.rooms.has(id)) continue;
    tile.remove();
    tiles.delete(id);
  }
  grid.querySelector(":scope > .norooms")?.remove();
  if (tiles.size === 0) {
    const none = document.createElement("p");
    none.className = "norooms";
    none.textContent = "No rooms yet. Add rooms under [board] in the settings.";
    grid.append(none);
  }
  layout(grid, Math.max(1, tiles.size));
}

function paintTile(id) {
  const room = state.rooms.get(id);
  const begun = performance.now();
  tiles.get(id)?.paint(room, time.now());
  stats.paints += 1;
  stats.paintMs += performance.now() - begun;
}

// What concerns all tiles together: counters, dimming, map, bands.
function paintFrame() {
  const now = time.now();
  const states = new Map([...tiles].map(([id, tile]) => [id, tile.is ?? { word: "ok" }]));
  const chosen = strip.filter;
  for (const [id, tile] of tiles) tile.classList.toggle("dim", chosen !== "" && !states.get(id)[chosen]);
  byId("nomatch").hidden = chosen === "" || [...states.values()].some((one) => one[chosen]);
  band(now);
  // Without a link every age of an alarm stays as it was last known to be true.
  frozen = document.body.classList.contains("dead") ? frozen ?? now : null;
  strip.paint([...states.values()], frozen ?? now);
  map.paint(state.rooms, states);
  const simulated = [...state.rooms.values()].some((room) => room.sim);
  byId("simulated").hidden = !simulated;
  byId("simline").hidden = !simulated;
  for (const clock of [byId("clock"), byId("bandclock")]) set(clock, time.known() ? time.clock(now) : "–:––");
  panel.tick(now);
}

// No link, or nothing behind it: said in place of the top bar, so that no tile moves.
function band(now) {
  const dead = !feed.live && (feed.heard !== null || performance.now() > FIRST_MS);
  const behind = feed.live ? state.sys.band : null;
  const trouble = dead || behind !== null;
  byId("band").hidden = !trouble;
  if (document.body.classList.contains("dead") !== trouble) {
    document.body.classList.toggle("dead", trouble);
    sweep.restyle();
    set(byId("alert"), trouble ? "Not live. Values are old and alarms are not running. Check patients." : "");
  }
  if (!trouble) return;
  const since = dead ? now - (performance.now() - (feed.heard ?? 0)) : behind.since;
  const head = `Not live${since ? ` for ${time.long(now - since)}` : ""}: ${dead ? "no word from the server" : behind.txt}.`;
  set(document.querySelector(".band-head"), head);
  set(document.querySelector(".band-text"), "Values are old and alarms are not running. Check patients.");
}

function flush() {
  for (const id of dirty) paintTile(id);
  if (dirty.size) paintFrame();
  dirty.clear();
}

function touch(id) {
  if (dirty.size === 0) requestAnimationFrame(flush);
  dirty.add(id);
}

const apply = {
  obs(message) {
    const room = state.rooms.get(message.room);
    if (room) Object.assign(room.obs, message.obs);
    touch(message.room);
  },
  room(message) {
    const before = state.rooms.get(message.room.id);
    // Counts of another source or scale mean nothing beside the old ones.
    const source = (ekg) => [ekg?.dev, ekg?.lead, ekg?.div, ekg?.cal].join("|");
    if (before?.ekg && source(before.ekg) !== source(message.room.ekg)) rings.ring(message.room.i).clear();
    state.rooms.set(message.room.id, message.room);
    if (!before) arrange();
    touch(message.room.id);
  },
  alarm({ alarm }) {
    if (alarm.ended) state.alarms.delete(alarm.id);
    else state.alarms.set(alarm.id, alarm);
    touch(alarm.room);
  },
  sys(message) {
    state.sys = message.sys;
    paintFrame();
  },
};

const feed = new Feed({
  snap(message) {
    if (reloadFor(message.page)) return;
    document.body.classList.remove("waiting");
    rings.clearAll();
    take(message);
    arrange();
    for (const id of tiles.keys()) paintTile(id);
    queueMicrotask(paintFrame);
  },
  event: (message) => apply[message.t]?.(message),
  frame: (data) => rings.fill(data),
  link: () => queueMicrotask(paintFrame),
  outdated: () => reloadFor("newer") || set(byId("calm"), "Update needed: reload this page"),
});

// Another version of the page is being served: reload, but once only.
function reloadFor(page) {
  const mine = document.querySelector("meta[name=version]").content;
  if (!page || page === mine || sessionStorage.getItem("reloaded") === page) return false;
  sessionStorage.setItem("reloaded", page);
  location.reload();
  return true;
}

setInterval(() => {
  for (const id of tiles.keys()) paintTile(id);
  paintFrame();
}, 1000);
new ResizeObserver(() => layout(grid, Math.max(1, tiles.size))).observe(grid);
byId("all").addEventListener("click", (event) => panel.alarms(strip, open, event.currentTarget));
for (const id of ["live", "bandopen"]) byId(id).addEventListener("click", (event) => panel.system(event.currentTarget));
byId("help").addEventListener("click", (event) => panel.help(event.currentTarget));
byId("showall").addEventListener("click", () => filter(""));
byId("theme").addEventListener("click", () => {
  const root = document.documentElement;
  root.dataset.theme = root.dataset.theme === "dark" ? "light" : "dark";
  try {
    localStorage.setItem("theme", root.dataset.theme);
  } catch {
    // not kept, still switched
  }
  sweep.restyle();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") panel.close();
  if (event.key === "?" && !event.ctrlKey) panel.help(byId("help"));
  if (event.key.startsWith("Arrow") && event.target.closest?.("room-tile")) move(event);
});

// Arrow keys go from tile to tile as the eye does.
function move(event) {
  const list = [...tiles.values()];
  const columns = getComputedStyle(grid).gridTemplateColumns.split(" ").length;
  const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key];
  const next = list[list.indexOf(event.target.closest("room-tile")) + (step ?? 0)];
  if (!next) return;
  event.preventDefault();
  next.ui.open.focus();
}

sweep.run();
// For support and tests: what this page believes and how long its work takes. No patient data leaves through it.
globalThis.board = { state, feed, tiles, rings, stats, sweep: sweep.stats, time };
