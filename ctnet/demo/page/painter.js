// The painter: photograph and palette on a canvas. Tells the server of edits by the event "edit",
// and takes photographs and palettes from it through the component's value.

const SEND_EVERY = 120; // milliseconds between the edits that are sent while one paints
const HISTORY = 60; // palettes that can be undone
const STEP = 4; // pixels that an arrow key moves the cursor by

const find = (selector) => element.querySelector(selector);
const canvas = find("canvas");
const drop = find(".drop");
const status = find(".status");
const context = canvas.getContext("2d");
const tint = document.createElement("canvas");
const state = {
  grid: null, photo: null, serial: 0, tasks: [], task: 0, tool: "brush", size: 14, strength: 0.55,
  undo: [], redo: [], before: null, from: null, last: null, cursor: null, keys: false, held: false,
  sent: 0, timer: null, restoring: null,
};
const keeper = new Keeper();

function say(text) {
  status.textContent = text;
}

function shown(id) {
  return id === NOTHING ? "nothing" : state.tasks[id].title;
}

// ---- drawing

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
  drawCursor();
}

function drawCursor() {
  const { grid, cursor, from, tool } = state;
  if (!cursor) return;
  const [across, down] = [canvas.width / grid.width, canvas.height / grid.height];
  const path = new Path2D();
  if (tool === "box" && from) {
    const [left, right] = [Math.min(from.x, cursor.x), Math.max(from.x, cursor.x) + 1];
    const [top, bottom] = [Math.min(from.y, cursor.y), Math.max(from.y, cursor.y) + 1];
    path.rect(left * across, top * down, (right - left) * across, (bottom - top) * down);
  } else {
    const [x, y] = [(cursor.x + 0.5) * across, (cursor.y + 0.5) * down];
    const arm = tool === "brush" ? state.size * across : 9;
    if (tool === "brush") path.arc(x, y, Math.max(2, arm), 0, 2 * Math.PI);
    if (tool !== "brush" || state.keys) {
      path.moveTo(x - 9, y);
      path.lineTo(x + 9, y);
      path.moveTo(x, y - 9);
      path.lineTo(x, y + 9);
    }
  }
  for (const [color, width] of [["rgba(0,0,0,.75)", 4], ["#fff", 2]]) {
    context.strokeStyle = color;
    context.lineWidth = width;
    context.stroke(path);
  }
}

// ---- choices

function press(buttons, chosen) {
  buttons.forEach((button) => button.setAttribute("aria-pressed", String(button === chosen)));
}

function choose(kind, value) {
  cancel();
  state[kind] = value;
  const buttons = [...element.querySelectorAll(`[data-${kind}]`)];
  press(buttons, buttons.find((button) => button.dataset[kind] === String(value)));
  say(kind === "task" ? `paints ${shown(value)}` : `tool: ${value}`);
  redraw();
}

function showTasks() {
  const entries = state.tasks.map((task, id) => [id, task.title, task.color, String(id + 1)]);
  const buttons = [...entries, [NOTHING, "nothing", null, "0"]].map(([id, title, color, key]) => {
    const button = document.createElement("button");
    const swatch = document.createElement("i");
    const name = document.createElement("span");
    const hint = document.createElement("kbd");
    button.type = "button";
    button.dataset.task = id;
    button.title = `Paint ${title} (${key})`;
    swatch.className = color ? "" : "none";
    if (color) swatch.style.background = color;
    name.textContent = title;
    hint.textContent = key.length === 1 ? key : "";
    button.append(swatch, name, hint);
    button.addEventListener("click", () => choose("task", id));
    return button;
  });
  find(".tasks").replaceChildren(...buttons);
}

function resize(size) {
  state.size = Math.min(60, Math.max(1, size));
  find("[data-size]").value = state.size;
  redraw();
}

// ---- edits and history

function showHistory() {
  find("[data-act=undo]").disabled = !state.undo.length;
  find("[data-act=redo]").disabled = !state.redo.length;
}

function remember(ids) {
  state.undo.push(ids);
  if (state.undo.length > HISTORY) state.undo.shift();
  state.redo = [];
  showHistory();
}

function keep() {
  const { grid, tasks, undo } = state;
  keeper.keep({
    ids: grid.ids.slice(), width: grid.width, height: grid.height,
    tasks: tasks.map((task) => task.name), undo: undo.slice(-20),
  });
}

function send() {
  keep();
  clearTimeout(state.timer);
  state.timer = null;
  state.sent = Date.now();
  props.value = { kind: "edit", serial: state.serial, ids: toBase64(state.grid.ids) };
  trigger("edit");
}

function sendSoon() {
  const wait = state.sent + SEND_EVERY - Date.now();
  if (wait <= 0) send();
  else if (!state.timer) state.timer = setTimeout(send, wait);
}

function step(from, to) {
  if (!state[from].length) return;
  cancel();
  state[to].push(state.grid.ids.slice());
  state.grid.ids.set(state[from].pop());
  showHistory();
  say(from === "undo" ? "undone" : "done again");
  redraw();
  send();
}

function begin(at) {
  state.before = state.grid.ids.slice();
  state.from = state.last = state.cursor = at;
  if (state.tool === "brush") state.grid.disc(at.x, at.y, state.size, state.task);
  proceed(at);
}

function proceed(at) {
  state.cursor = at;
  if (state.before && state.tool === "brush") {
    state.grid.stroke(state.last, at, state.size, state.task);
    state.last = at;
    sendSoon();
  }
  redraw();
}

function finish(at) {
  const { before, grid, task } = state;
  if (!before) return;
  if (state.tool === "box") grid.box(state.from, at, task);
  if (state.tool === "fill") grid.fill(at.x, at.y, task);
  state.before = state.from = null;
  if (before.some((id, i) => id !== grid.ids[i])) {
    remember(before);
    say(`painted ${shown(task)}`);
    send();
  }
  redraw();
}

function cancel() {
  if (!state.before) return;
  state.grid.ids.set(state.before);
  state.before = state.from = null;
  sendSoon();
  redraw();
}

// ---- pointer

function place(event) {
  const frame = canvas.getBoundingClientRect();
  return {
    x: Math.floor(((event.clientX - frame.left) / frame.width) * state.grid.width),
    y: Math.floor(((event.clientY - frame.top) / frame.height) * state.grid.height),
  };
}

canvas.addEventListener("pointerdown", (event) => {
  if (!state.grid || event.button > 0 || !event.isPrimary) return;
  event.preventDefault();
  canvas.focus({ preventScroll: true });
  canvas.setPointerCapture(event.pointerId);
  state.keys = false;
  begin(place(event));
});
canvas.addEventListener("pointermove", (event) => {
  if (!state.grid || !event.isPrimary) return;
  const parts = event.getCoalescedEvents?.() ?? [];
  for (const part of parts.length ? parts : [event]) proceed(place(part));
});
canvas.addEventListener("pointerup", (event) => event.isPrimary && finish(place(event)));
canvas.addEventListener("pointercancel", cancel);
canvas.addEventListener("pointerleave", () => {
  if (!state.before && !state.keys) { state.cursor = null; redraw(); }
});

// ---- keyboard

const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

function move([across, down], distance) {
  const { width, height } = state.grid;
  const at = state.cursor ?? { x: width >> 1, y: height >> 1 };
  state.keys = true;
  proceed({
    x: Math.min(width - 1, Math.max(0, at.x + across * distance)),
    y: Math.min(height - 1, Math.max(0, at.y + down * distance)),
  });
}

function onCanvasKey(event) {
  if (event.key in MOVES) {
    move(MOVES[event.key], event.shiftKey ? 1 : STEP);
  } else if (event.key === " " || event.key === "Enter") {
    if (event.repeat) return true;
    move([0, 0], 0);
    if (state.tool === "box" && state.before) finish(state.cursor);
    else begin(state.cursor);
    if (state.tool === "fill") finish(state.cursor);
    if (state.tool === "box" && state.before) say("first corner set; move, then Space again");
  } else if (event.key === "Escape" && state.before) {
    cancel();
  } else {
    return false;
  }
  return true;
}

document.addEventListener("keydown", (event) => {
  // Anywhere on the page, but where one types or chooses from a list.
  if (!state.grid || event.altKey || event.target.closest?.("input:not([type=radio]):not([type=range]), textarea, [role=listbox]")) return;
  const key = event.key.toLowerCase();
  let used = true;
  if (event.ctrlKey || event.metaKey) {
    if (key === "z") step(...(event.shiftKey ? ["redo", "undo"] : ["undo", "redo"]));
    else if (key === "y") step("redo", "undo");
    else used = false;
  } else if (event.target === canvas && onCanvasKey(event)) {
    used = true;
  } else if (key === "0") {
    choose("task", NOTHING);
  } else if (/^[1-9]$/.test(key) && Number(key) <= state.tasks.length) {
    choose("task", Number(key) - 1);
  } else if (key in { b: 1, x: 1, f: 1 }) {
    choose("tool", { b: "brush", x: "box", f: "fill" }[key]);
  } else if (key === "[" || key === "]") {
    resize(state.size + (key === "]" ? 2 : -2));
  } else {
    used = false;
  }
  if (used) event.preventDefault();
});
canvas.addEventListener("keyup", (event) => {
  if (event.key === " " || event.key === "Enter") {
    if (state.tool === "brush" && state.before) finish(state.cursor);
  }
});
canvas.addEventListener("blur", () => {
  cancel();
  state.cursor = null;
  state.keys = false;
  redraw();
});

// ---- buttons and files

element.querySelectorAll("[data-tool]").forEach((button) => {
  button.addEventListener("click", () => choose("tool", button.dataset.tool));
});
find("[data-act=undo]").addEventListener("click", () => step("undo", "redo"));
find("[data-act=redo]").addEventListener("click", () => step("redo", "undo"));
find("[data-size]").addEventListener("input", (event) => resize(Number(event.target.value)));
find("[data-strength]").addEventListener("input", (event) => {
  state.strength = Number(event.target.value) / 100;
  redraw();
});

// gradio's own buttons send files: what is dropped here is handed to their inputs.
function chooser(name) {
  let node = document.querySelector(name);
  while (node && !node.matches("input[type=file]")) node = node.previousElementSibling;
  return node;
}
function hand(name, file) {
  const one = new DataTransfer();
  one.items.add(file);
  const input = chooser(name);
  input.files = one.files;
  input.dispatchEvent(new Event("change", { bubbles: true }));
}
drop.addEventListener("click", () => document.querySelector("#photograph").click());

// A palette is an indexed PNG, which no camera makes: byte 25 of its header says so.
async function isPalette(file) {
  const head = new Uint8Array(await file.slice(0, 26).arrayBuffer());
  return String.fromCharCode(...head.slice(1, 4)) === "PNG" && head[25] === 3;
}

function mayReplace() {
  if (!state.undo.length || state.restoring) return true;
  return confirm("Take another photograph? What is painted on this one can then not be undone.");
}
element.addEventListener("dragover", (event) => {
  event.preventDefault();
  element.classList.add("over");
});
element.addEventListener("dragleave", () => element.classList.remove("over"));
element.addEventListener("drop", (event) => {
  event.preventDefault();
  element.classList.remove("over");
  const files = event.dataTransfer.files;
  if (!files.length) return say("that is no file; save the image first, then drop it here");
  if (files.length > 1) say(`one file at a time: the first of ${files.length} is taken`);
  const file = files[0];
  isPalette(file).then((palette) => hand(palette && state.grid ? "#load-palette" : "#photograph", file));
});

// Whatever way a photograph comes, it is asked for before it replaces painted work, and kept.
document.addEventListener("change", (event) => {
  if (!event.target.matches?.("input[type=file]") || event.target !== chooser("#photograph")) return;
  const file = event.target.files[0];
  if (!file) return;
  if (mayReplace()) {
    keeper.next = { file };
  } else {
    event.stopImmediatePropagation();
    event.target.value = "";
  }
}, true);
document.addEventListener("click", (event) => {
  const example = event.target.closest?.("#examples button[data-name]");
  if (!example) return;
  if (mayReplace()) keeper.next = { example: example.dataset.name };
  else event.stopImmediatePropagation();
}, true);
addEventListener("beforeunload", (event) => {
  if (state.timer) event.preventDefault();
});

// ---- what the server sends

function take(ids) {
  state.before = state.from = null;
  state.grid.ids.set(fromBase64(ids));
}

function open(message) {
  const photo = new Image();
  photo.onload = () => {
    state.photo = photo;
    canvas.width = photo.naturalWidth;
    canvas.height = photo.naturalHeight;
    // As wide as there is room, unless it would be too high to be seen at once.
    canvas.style.maxWidth = `calc(var(--canvas-room) * ${photo.naturalWidth / photo.naturalHeight})`;
    canvas.hidden = false;
    drop.hidden = true;
    redraw();
    // On a phone what was tapped lies above the photograph.
    if (window.innerWidth <= 640) element.scrollIntoView({ block: "start" });
  };
  photo.src = message.photo;
  state.grid = new Grid(message.width, message.height, new Uint8Array(message.width * message.height));
  state.serial = message.serial;
  state.undo = [];
  state.redo = [];
  if (keeper.next) keeper.keep({ source: keeper.next });
  keeper.next = null;
}

// After a reload the photograph is sent again, as it was sent first, and the palette painted on it.
async function restore() {
  const entry = await keeper.read();
  if (!entry?.source || state.grid) return;
  state.restoring = entry;
  say("taking up what was here before");
  const { file, example } = entry.source;
  if (file) return hand("#photograph", file);
  const button = [...document.querySelectorAll("#examples button[data-name]")]
    .find((node) => node.dataset.name === example);
  if (button) button.click();
  else state.restoring = null;
}

function paintAgain({ ids, width, height, tasks, undo }) {
  state.restoring = null;
  const same = tasks?.join() === state.tasks.map((task) => task.name).join();
  if (!ids || !same || width !== state.grid.width || height !== state.grid.height) return;
  state.grid.ids.set(ids);
  state.undo = undo;
  showHistory();
  say("taken up where it was left");
  send();
}

watch("value", () => {
  const message = props.value;
  if (!message || !["open", "palette"].includes(message.kind)) return;
  if (message.kind === "open") open(message);
  else remember(state.before ?? state.grid.ids.slice());
  take(message.ids);
  state.tasks = message.tasks;
  showTasks();
  choose("task", state.task === NOTHING || state.task < state.tasks.length ? state.task : 0);
  showHistory();
  say(message.text);
  redraw();
  if (message.kind === "open" && state.restoring) paintAgain(state.restoring);
  else keep();
});
restore();
