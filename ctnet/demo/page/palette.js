// Task ids on a grid, a byte a pixel: what brush, box and fill do to them. Ids stay exact, since no
// picture with smoothed edges is ever read back.

const NOTHING = 255;

function toBase64(bytes) {
  let text = "";
  for (let i = 0; i < bytes.length; i += 8192) {
    text += String.fromCharCode(...bytes.subarray(i, i + 8192));
  }
  return btoa(text);
}

function fromBase64(text) {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}

class Grid {
  constructor(width, height, ids) {
    this.width = width;
    this.height = height;
    this.ids = ids;
  }

  inside(x, y) {
    return x >= 0 && y >= 0 && x < this.width && y < this.height;
  }

  at({ x, y }) {
    return this.ids[y * this.width + x];
  }

  disc(x, y, radius, id) {
    const [left, right] = [Math.max(0, Math.ceil(x - radius)), Math.min(this.width - 1, Math.floor(x + radius))];
    const [top, bottom] = [Math.max(0, Math.ceil(y - radius)), Math.min(this.height - 1, Math.floor(y + radius))];
    for (let row = top; row <= bottom; row++) {
      for (let column = left; column <= right; column++) {
        if ((column - x) ** 2 + (row - y) ** 2 <= radius ** 2) {
          this.ids[row * this.width + column] = id;
        }
      }
    }
  }

  stroke(from, to, radius, id) {
    const steps = Math.max(1, Math.ceil(Math.hypot(to.x - from.x, to.y - from.y) / Math.max(1, radius / 3)));
    for (let i = 0; i <= steps; i++) {
      this.disc(from.x + ((to.x - from.x) * i) / steps, from.y + ((to.y - from.y) * i) / steps, radius, id);
    }
  }

  box(from, to, id) {
    const left = Math.max(0, Math.min(from.x, to.x));
    const right = Math.min(this.width - 1, Math.max(from.x, to.x));
    for (let row = Math.max(0, Math.min(from.y, to.y)); row <= Math.min(this.height - 1, Math.max(from.y, to.y)); row++) {
      this.ids.fill(id, row * this.width + left, row * this.width + right + 1);
    }
  }

  // Fills a polygon of corners {x, y} by the even-odd rule; a pixel counts by its center.
  polygon(corners, id) {
    for (let row = 0; row < this.height; row++) {
      const cuts = [];
      corners.forEach((from, i) => {
        const to = corners[(i + 1) % corners.length];
        if (from.y <= row !== to.y <= row) {
          cuts.push(from.x + ((row - from.y) * (to.x - from.x)) / (to.y - from.y));
        }
      });
      cuts.sort((a, b) => a - b);
      for (let i = 0; i + 1 < cuts.length; i += 2) {
        const [left, right] = [Math.max(0, Math.ceil(cuts[i])), Math.min(this.width - 1, Math.floor(cuts[i + 1]))];
        if (left <= right) this.ids.fill(id, row * this.width + left, row * this.width + right + 1);
      }
    }
  }

  // The borders between regions, as [x, y, x, y] between corners of pixels; null if there are too many.
  borders(most) {
    const found = [];
    for (let y = 0; y < this.height; y++) {
      for (let x = 0; x < this.width; x++) {
        const at = y * this.width + x;
        if (x + 1 < this.width && this.ids[at] !== this.ids[at + 1]) found.push([x + 1, y, x + 1, y + 1]);
        if (y + 1 < this.height && this.ids[at] !== this.ids[at + this.width]) found.push([x, y + 1, x + 1, y + 1]);
      }
      if (found.length > most) return null;
    }
    return found;
  }

  fill(x, y, id) {
    if (!this.inside(x, y)) return;
    const old = this.ids[y * this.width + x];
    if (old === id) return;
    const waiting = [y * this.width + x];
    while (waiting.length) {
      const at = waiting.pop();
      if (this.ids[at] !== old) continue;
      const row = at - (at % this.width);
      let [left, right] = [at, at];
      while (left > row && this.ids[left - 1] === old) left--;
      while (right < row + this.width - 1 && this.ids[right + 1] === old) right++;
      this.ids.fill(id, left, right + 1);
      for (let i = left; i <= right; i++) {
        if (i >= this.width && this.ids[i - this.width] === old) waiting.push(i - this.width);
        if (i + this.width < this.ids.length && this.ids[i + this.width] === old) waiting.push(i + this.width);
      }
    }
  }
}
