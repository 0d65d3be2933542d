// Runs in the board's page before the page's own code, and watches it from outside: what comes over the socket, what
// text stands in a cell, what is inked on a canvas. It asks nothing of the page's own code.
// A frame is known to be painted when the next one begins: all `painted` times are that moment.
(() => {
  const ROOMS = new Set(globalThis.__rooms);
  const INK = 64; // alpha of 255: antialiasing at the foot of a line is no ink
  const ABOVE = 8; // px over the resting line at which only a spike is inked
  const JOIN = 4; // px: new ink this close to old is the other flank of the same spike
  const came = [];
  const texts = [];
  const inks = [];
  const waiting = [];
  const canvases = new Map();
  let frames = 0;
  let inFrame = false;

  globalThis.WebSocket = class extends WebSocket {
    constructor(...rest) {
      super(...rest);
      this.addEventListener("message", (event) => came.push([performance.now(), event.data]));
    }
  };

  // A change made by an animation callback is painted with this frame, any other with the next.
  new MutationObserver((records) => {
    for (const { target } of records) {
      if (!target.classList?.contains("num")) continue;
      const room = target.closest("room-tile")?.dataset.room;
      const cell = target.closest(".cell").dataset.cell;
      if (ROOMS.has(room)) waiting.push([frames + (inFrame ? 1 : 2), room, cell, target.textContent]);
    }
  }).observe(document, { subtree: true, childList: true });

  const afterFrame = new MessageChannel();
  afterFrame.port1.onmessage = () => { inFrame = false; };

  function ink(room, one) {
    const { canvas, context, row } = one;
    const now = performance.now();
    const data = context.getImageData(0, row, canvas.width, 1).data;
    let fresh = -1;
    for (let x = 0; x < canvas.width; x += 1) {
      const inked = data[4 * x + 3] > INK ? 1 : 0;
      if (inked && !one.inked[x]) {
        if (fresh < 0 && !one.inked.slice(Math.max(0, x - JOIN), x).includes(1)) fresh = x;
        else if (fresh >= 0 && x - fresh > JOIN) {
          inks.push([room, now, height(one, fresh)]);
          fresh = x;
        }
      }
    }
    if (fresh >= 0) inks.push([room, now, height(one, fresh)]);
    for (let x = 0; x < canvas.width; x += 1) one.inked[x] = data[4 * x + 3] > INK ? 1 : 0;
  }

  // Pixels from the resting line to the top of the ink at x.
  function height({ canvas, context, base }, x) {
    const width = Math.min(JOIN, canvas.width - x);
    const data = context.getImageData(x, 0, width, base).data;
    for (let i = 3; i < data.length; i += 4) if (data[i] > INK) return base - Math.floor(i / 4 / width);
    return 0;
  }

  // The resting line is the row with the most ink.
  function look(room) {
    const canvas = document.querySelector(`room-tile[data-room="${room}"] canvas`);
    const context = canvas.getContext("2d");
    const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
    const rows = new Array(canvas.height).fill(0);
    for (let i = 3; i < data.length; i += 4) if (data[i] > INK) rows[Math.floor(i / 4 / canvas.width)] += 1;
    const base = rows.indexOf(Math.max(...rows));
    canvases.set(room, { canvas, context, base, row: base - ABOVE, inked: new Uint8Array(canvas.width).fill(1) });
    return base;
  }

  function step() {
    requestAnimationFrame(step); // first in line in each frame, since asked for before the page asks
    const now = performance.now();
    frames += 1;
    inFrame = true;
    afterFrame.port2.postMessage(0);
    for (let i = 0; i < waiting.length; ) {
      const [due, room, cell, text] = waiting[i];
      if (due > frames) i += 1;
      else {
        texts.push([room, cell, text, now]);
        waiting.splice(i, 1);
      }
    }
    for (const [room, one] of canvases) ink(room, one);
  }
  requestAnimationFrame(step);

  // Readings and spikes of our rooms in what came over the socket, by the layout in dashboards/frames.py.
  function arrived() {
    const readings = [];
    const spikes = [];
    let index = new Map();
    for (const [at, data] of came) {
      if (typeof data === "string") {
        const message = JSON.parse(data);
        if (message.t === "snap") index = new Map(message.rooms.map((room) => [room.i, room.id]));
        const room = message.t === "room" ? message.room : { id: message.room, obs: message.obs };
        if (!["obs", "room"].includes(message.t) || !ROOMS.has(room.id)) continue;
        for (const key of ["spo2", "rr"]) if (room.obs[key]) readings.push([room.id, key, room.obs[key].v, at]);
        continue;
      }
      const view = new DataView(data);
      for (let b = 0, from = 16; b < view.getUint16(2, true); b += 1) {
        const [room, n] = [index.get(view.getUint16(from, true)), view.getUint16(from + 4, true)];
        if (ROOMS.has(room)) for (const value of new Int16Array(data, from + 16, n)) if (value > 100) spikes.push([room, value, at]);
        from += 16 + 2 * n + ((2 * n) % 4);
      }
    }
    return { readings, spikes };
  }

  globalThis.latency = {
    look: () => [...ROOMS].map(look),
    result: () => ({ ...arrived(), texts, inks, frames }),
  };
})();
