// What the painter draws: photograph, palette, borders and cursor; and how much of it is seen.

const MOST_BORDERS = 20000; // pixel sides; random palettes have more, and no regions to tell apart
const LARGEST_ZOOM = 12;
const ARM = 9; // of a cross, in pixels of the photograph

let drawn = false;
function redraw() {
  if (!drawn) {
    drawn = true;
    requestAnimationFrame(() => { drawn = false; draw(); });
  }
}

function draw() {
  const { grid, photo } = state;
  if (!grid || !photo) return;
  const pixels = new ImageData(grid.width, grid.height);
  const colors = new Uint32Array(256);
  state.tasks.forEach((task, id) => {
    const [red, green, blue] = [1, 3, 5].map((i) => parseInt(task.color.slice(i, i + 2), 16));
    colors[id] = (255 << 24) | (blue << 16) | (green << 8) | red;
  });
  const values = new Uint32Array(pixels.data.buffer);
  for (let i = 0; i < values.length; i++) values[i] = colors[grid.ids[i]];
  tint.width = grid.width;
  tint.height = grid.height;
  tint.getContext("2d").putImageData(pixels, 0, 0);
  context.imageSmoothingEnabled = true;
  context.drawImage(photo, 0, 0, canvas.width, canvas.height);
  context.globalAlpha = state.strength;
  context.imageSmoothingEnabled = false;
  context.drawImage(tint, 0, 0, canvas.width, canvas.height);
  context.globalAlpha = 1;
  drawBorders();
  drawCursor();
  if (state.other) outline(cross(state.other), 2);
}

function scales() {
  return [canvas.width / state.grid.width, canvas.height / state.grid.height];
}

function cross(at, path = new Path2D()) {
  const [across, down] = scales();
  const [x, y] = [(at.x + 0.5) * across, (at.y + 0.5) * down];
  path.moveTo(x - ARM, y);
  path.lineTo(x + ARM, y);
  path.moveTo(x, y - ARM);
  path.lineTo(x, y + ARM);
  return path;
}

function outline(path, width) {
  // In pixels of the screen, however large the canvas is shown.
  const pixel = canvas.width / canvas.getBoundingClientRect().width;
  for (const [color, times] of [["rgba(0,0,0,.75)", 2], ["#fff", 1]]) {
    context.strokeStyle = color;
    context.lineWidth = times * width * pixel;
    context.stroke(path);
  }
}

function drawBorders() {
  const { grid } = state;
  const borders = grid.borders(MOST_BORDERS);
  if (!borders || !state.strength) return;
  const [across, down] = scales();
  const path = new Path2D();
  for (const [x0, y0, x1, y1] of borders) {
    path.moveTo(x0 * across, y0 * down);
    path.lineTo(x1 * across, y1 * down);
  }
  outline(path, 1);
}

function drawCursor() {
  const { grid, cursor, from, tool } = state;
  if (!cursor) return;
  const [across, down] = scales();
  const path = new Path2D();
  if (tool === "box" && from) {
    const [left, right] = [Math.min(from.x, cursor.x), Math.max(from.x, cursor.x) + 1];
    const [top, bottom] = [Math.min(from.y, cursor.y), Math.max(from.y, cursor.y) + 1];
    path.rect(left * across, top * down, (right - left) * across, (bottom - top) * down);
  } else if (state.corners.length) {
    const ends = tool === "polygon" ? [...state.corners, cursor] : state.corners;
    ends.forEach(({ x, y }, i) => path[i ? "lineTo" : "moveTo"]((x + 0.5) * across, (y + 0.5) * down));
  } else {
    const radius = Math.max(2, state.size * across);
    if (tool === "brush") {
      path.arc((cursor.x + 0.5) * across, (cursor.y + 0.5) * down, radius, 0, 2 * Math.PI);
    }
    if (tool !== "brush" || state.keys) cross(cursor, path);
  }
  outline(path, 2);
}

// ---- zoom

function zoom(factor, at = null) {
  const stage = find(".stage").getBoundingClientRect();
  const [x, y] = at ? [at.clientX - stage.left, at.clientY - stage.top] : [stage.width / 2, stage.height / 2];
  const next = Math.min(LARGEST_ZOOM, Math.max(1, state.zoom * factor));
  state.left = x - ((x - state.left) * next) / state.zoom;
  state.top = y - ((y - state.top) * next) / state.zoom;
  state.zoom = next;
  pan(0, 0);
}

function pan(across, down) {
  // The photograph never leaves the stage.
  const [width, height] = [canvas.offsetWidth, canvas.offsetHeight];
  state.left = Math.min(0, Math.max(width * (1 - state.zoom), state.left + across));
  state.top = Math.min(0, Math.max(height * (1 - state.zoom), state.top + down));
  canvas.style.transform = state.zoom === 1 ? "" : `translate(${state.left}px, ${state.top}px) scale(${state.zoom})`;
  find("[data-act=fit]").hidden = state.zoom === 1;
  redraw();
}

// ---- two fingers: zoom and move

const fingers = new Map();

function holdFinger(event) {
  if (event.pointerType === "touch") fingers.set(event.pointerId, event);
  if (fingers.size !== 2) return;
  // What the first finger began was no stroke.
  if (state.corners.length > 1 && state.tool === "polygon") state.corners.pop();
  else cancel();
}

function middle() {
  const [one, two] = fingers.values();
  const [clientX, clientY] = [(one.clientX + two.clientX) / 2, (one.clientY + two.clientY) / 2];
  return { clientX, clientY, apart: Math.hypot(one.clientX - two.clientX, one.clientY - two.clientY) };
}

function pinch(event) {
  const before = middle();
  fingers.set(event.pointerId, event);
  const after = middle();
  zoom(after.apart / Math.max(1, before.apart), before);
  pan(after.clientX - before.clientX, after.clientY - before.clientY);
}
