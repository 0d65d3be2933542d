// The socket: connects for ever, counts events, notices silence, and hands over what came. It draws nothing.
import * as time from "./time.js";

const WAITS = [0.5, 1, 2, 4, 8, 10];
const CONNECT_MS = 4000;
const STEP_MS = 2000; // no network is this late and still live

export class Feed {
  // `on` has snap, event, frame, link. `link(true|false, lastHeard)` tells whether the page is live.
  constructor(on) {
    this.on = on;
    this.seq = -1;
    this.boot = "";
    this.live = false;
    this.heard = null;
    this.silentMs = null;
    this.tries = 0;
    this.socket = null;
    this.resyncing = false;
    this.resyncs = 0;
    this.pings = new Map();
    this.pingId = 0;
    this.connect();
    setInterval(() => this.watch(), 250);
    setInterval(() => this.ping(), 5000);
    document.addEventListener("visibilitychange", () => this.seen());
  }

  connect() {
    clearTimeout(this.retry);
    const url = `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/ws`;
    const socket = new WebSocket(url);
    socket.binaryType = "arraybuffer";
    this.socket = socket;
    this.opening = performance.now();
    socket.onopen = () => {
      if (document.hidden) this.say({ t: "sub", hidden: true });
      for (let i = 0; i < 5; i += 1) setTimeout(() => this.ping(), i * 200);
    };
    socket.onmessage = (event) => this.socket === socket && this.receive(event.data);
    socket.onclose = () => this.socket === socket && this.lost();
  }

  say(message) {
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(message));
  }

  ping() {
    this.pingId += 1;
    this.pings.set(this.pingId, performance.now());
    if (this.pings.size > 16) this.pings.delete(this.pings.keys().next().value);
    this.say({ t: "ping", id: this.pingId });
  }

  lost() {
    this.socket = null;
    this.resyncing = false;
    this.tell(false);
    const wait = WAITS[Math.min(this.tries, WAITS.length - 1)] * (0.7 + 0.6 * Math.random());
    this.tries += 1;
    this.retry = setTimeout(() => this.connect(), wait * 1000);
  }

  // A socket that is open but silent is as dead as a closed one. The time comes with the snapshot's policy.
  watch() {
    const at = performance.now();
    const socket = this.socket;
    if (!socket) return;
    const silent = this.live && this.silentMs !== null && at - this.heard > this.silentMs;
    const stuck = !this.live && at - Math.max(this.opening, this.heard ?? 0) > CONNECT_MS;
    if (!silent && !stuck) return;
    this.socket = null;
    socket.close();
    this.lost();
  }

  // A hidden page gets nothing; when it is seen again it starts from a snapshot and replays nothing.
  seen() {
    if (document.hidden) this.say({ t: "sub", hidden: true });
    else if (this.socket) this.resync();
    else this.connect();
  }

  resync() {
    this.resyncing = true;
    this.resyncs += 1;
    this.say({ t: "sub", resync: true, hidden: false });
  }

  tell(live) {
    if (live === this.live && live) return;
    this.live = live;
    this.on.link(live);
  }

  receive(data) {
    this.heard = performance.now();
    if (typeof data !== "string") {
      if (!this.resyncing && this.live) this.on.frame(data);
      return;
    }
    const message = JSON.parse(data);
    if (message.t === "snap") this.snap(message);
    else if (message.t === "pong") this.pong(message);
    else if (message.t === "hb") this.beat(message);
    else if (message.seq !== undefined) this.event(message);
  }

  snap(message) {
    if (message.v !== 1) return this.on.outdated();
    if (message.boot !== this.boot || !time.known() || !this.live) time.begin(message.now);
    this.boot = message.boot;
    this.seq = message.seq;
    this.silentMs = message.policy.link.stale * 1000;
    this.resyncing = false;
    this.tries = 0;
    this.on.snap(message);
    this.tell(true);
    return undefined;
  }

  pong(message) {
    const sent = this.pings.get(message.id);
    if (sent === undefined) return;
    this.pings.delete(message.id);
    time.learn(message.now, sent, performance.now());
  }

  // After a suspend or a step of either clock the page's time is wrong: begin again from the server's.
  beat(message) {
    if (!document.hidden && !this.resyncing && Math.abs(message.now - time.now()) > STEP_MS) {
      this.pings.clear();
      time.begin(message.now);
      this.resync();
      return;
    }
    if (!document.hidden && !this.resyncing && message.seq !== this.seq) this.resync();
  }

  event(message) {
    if (this.resyncing || document.hidden || message.seq <= this.seq) return;
    if (message.seq !== this.seq + 1) {
      this.resync();
      return;
    }
    this.seq = message.seq;
    this.on.event(message);
  }
}
