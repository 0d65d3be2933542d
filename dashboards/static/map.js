// The room map at the bottom of small screens: one button a room, with its state as a shape.
import { set, span } from "./cell.js";
import { SHAPES } from "./state.js";

export class RoomMap {
  constructor(root, jump) {
    Object.assign(this, { root, jump, spots: new Map() });
  }

  paint(rooms, states) {
    for (const [id, room] of rooms) {
      let spot = this.spots.get(id);
      if (!spot) {
        spot = document.createElement("button");
        spot.type = "button";
        const shape = span("shape", "");
        shape.setAttribute("aria-hidden", "true");
        spot.append(span("", room.title || id), shape);
        spot.addEventListener("click", () => this.jump(id));
        this.spots.set(id, spot);
        this.root.append(spot);
      }
      const { word, low } = states.get(id) ?? { word: "ok", low: false };
      const cls = `spot ${word}`;
      if (spot.className !== cls) spot.className = cls;
      set(spot.querySelector(".shape"), `${SHAPES[word]}${low && word !== "low" ? SHAPES.low : ""}`);
      const label = `Room ${room.title || id}, ${{ crit: "critical", med: "abnormal", low: "device trouble", ok: "normal", empty: "available" }[word]}${low && word !== "low" ? ", device trouble" : ""}`;
      if (spot.getAttribute("aria-label") !== label) spot.setAttribute("aria-label", label);
    }
    for (const [id, spot] of this.spots) {
      if (rooms.has(id)) continue;
      spot.remove();
      this.spots.delete(id);
    }
  }
}
