// One ring a room, and the binary frames that fill them (layout: dashboards/frames.py).
import { Ring } from "./sweep.js";

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
