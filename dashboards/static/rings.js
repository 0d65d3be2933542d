// A ring of timed samples for each room, and the binary frames that fill them (layout: dashboards/frames.py).

export const SIZE = 8192;
const BACK_MS = 1000;
export const LEAD_OFF = 1;
export const ARTEFACT = 2;
export const GAP = 8;

export class Ring {
  constructor() {
    this.values = new Int16Array(SIZE);
    this.times = new Float64Array(SIZE);
    this.flags = new Uint8Array(SIZE);
    this.count = 0;
    this.last = 0; // server ms of the newest sample
    this.step = 4; // ms between samples
    this.clears = 0;
  }

  push(t0, rate, values, flags) {
    if (!Number.isFinite(t0) || !(rate > 0)) return;
    if (t0 < this.last - BACK_MS) this.clear(); // a clock was set: what is drawn ahead of it is of no time
    this.step = 1000 / rate;
    for (let i = 0; i < values.length; i += 1) {
      const t = t0 + i * this.step;
      if (t <= this.last) continue; // the fitted line stepped back: never draw two samples at one place
      const at = this.count % SIZE;
      this.values[at] = values[i];
      this.times[at] = t;
      this.flags[at] = flags & (i === 0 ? 255 : ~GAP);
      this.count += 1;
      this.last = t;
    }
  }

  // Other counts a step, or another source: old samples mean nothing beside new ones.
  clear() {
    this.count = 0;
    this.last = 0;
    this.clears += 1;
  }

  first() {
    return Math.max(0, this.count - SIZE);
  }
}

const rings = new Map();

export function ring(index) {
  if (!rings.has(index)) rings.set(index, new Ring());
  return rings.get(index);
}

export function clearAll() {
  for (const one of rings.values()) one.clear();
}

export function fill(buffer) {
  const view = new DataView(buffer);
  if (view.byteLength < 16 || view.getUint8(0) !== 1 || view.getUint8(1) !== 1) return;
  const blocks = view.getUint16(2, true);
  const serverMs = view.getFloat64(8, true);
  let at = 16;
  for (let i = 0; i < blocks && at + 16 <= view.byteLength; i += 1) {
    const room = view.getUint16(at, true);
    const flags = view.getUint8(at + 3);
    const n = view.getUint16(at + 4, true);
    const rate = view.getUint16(at + 6, true);
    const offsetUs = view.getInt32(at + 12, true);
    const values = new Int16Array(buffer, at + 16, n);
    ring(room).push(serverMs + offsetUs / 1000, rate, values, flags);
    at += 16 + 2 * n + ((2 * n) % 4);
  }
}
