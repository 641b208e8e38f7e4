// The painter: photograph and palette on a canvas. Tells the server of edits by the event "edit",
// and takes photographs and palettes from it through the component's value. drawing.js, keyboard.js
// and sources.js are its other parts.

const SEND_EVERY = 120; // milliseconds between the edits that are sent while one paints
const HISTORY = 60; // palettes that can be undone
const NEAR = 10; // pixels of the screen within which a click on the first corner closes a polygon

const find = (selector) => element.querySelector(selector);
const canvas = find("canvas");
const drop = find(".drop");
const status = find(".status");
const context = canvas.getContext("2d");
const tint = document.createElement("canvas");
const state = {
  grid: null, photo: null, serial: 0, tasks: [], task: 0, tool: "brush", size: 14, strength: 0.55,
  undo: [], redo: [], before: null, from: null, last: null, cursor: null, keys: false, held: false,
  sent: 0, timer: null, restoring: null, corners: [], zoom: 1, left: 0, top: 0, pan: null, space: false,
  other: null,
};
const keeper = new Keeper();

function say(text) {
  status.textContent = text;
}

function shown(id) {
  return id === NOTHING ? "nothing" : state.tasks[id].title;
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
    hint.ariaHidden = "true";
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
  if (state.tool === "polygon" && state.before) return addCorner(at);
  state.before = state.grid.ids.slice();
  state.from = state.last = state.cursor = at;
  if (state.tool === "lasso" || state.tool === "polygon") state.corners = [at];
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
  if (state.before && state.tool === "lasso") state.corners.push(at);
  redraw();
}

function addCorner(at) {
  const [first] = state.corners;
  const near = NEAR / (canvas.getBoundingClientRect().width / state.grid.width);
  if (state.corners.length > 2 && Math.hypot(at.x - first.x, at.y - first.y) <= near) return finish(at);
  state.corners.push(at);
  say(`corner ${state.corners.length}; Enter or the first corner closes`);
  redraw();
}

function finish(at) {
  const { before, grid, task } = state;
  if (!before) return;
  if (state.corners.length) grid.polygon(state.corners, task);
  state.corners = [];
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
  state.corners = [];
  sendSoon();
  redraw();
}

// ---- pointer

// The pointers on photograph and answers are one: each side shows where the other's is.
function point(at) {
  if (state.before) return;
  const { width, height } = state.grid;
  const inside = at && state.grid.inside(at.x, at.y);
  const detail = inside ? { x: at.x, y: at.y, width, height, from: "painter" } : null;
  document.dispatchEvent(new CustomEvent("ctnet-point", { detail }));
}
document.addEventListener("ctnet-point", ({ detail }) => {
  const other = detail?.from === "views" ? detail : null;
  if (!other && !state.other) return;
  state.other = other;
  redraw();
});

function place(event) {
  const frame = canvas.getBoundingClientRect();
  return {
    x: Math.floor(((event.clientX - frame.left) / frame.width) * state.grid.width),
    y: Math.floor(((event.clientY - frame.top) / frame.height) * state.grid.height),
  };
}

canvas.addEventListener("pointerdown", (event) => {
  if (!state.grid || event.button > 1) return;
  event.preventDefault();
  canvas.focus({ preventScroll: true });
  canvas.setPointerCapture(event.pointerId);
  holdFinger(event);
  if (!event.isPrimary) return;
  state.keys = false;
  if (state.space || event.button === 1) state.pan = event;
  else begin(place(event));
});
canvas.addEventListener("pointermove", (event) => {
  if (fingers.size > 1 && fingers.has(event.pointerId)) return pinch(event);
  if (!state.grid || !event.isPrimary) return;
  if (state.pan) {
    pan(event.clientX - state.pan.clientX, event.clientY - state.pan.clientY);
    state.pan = event;
    return;
  }
  point(place(event));
  const parts = event.getCoalescedEvents?.() ?? [];
  for (const part of parts.length ? parts : [event]) proceed(place(part));
});
canvas.addEventListener("pointerup", (event) => {
  fingers.delete(event.pointerId);
  if (!event.isPrimary) return;
  if (!state.pan && state.tool !== "polygon") finish(place(event));
  state.pan = null;
});
canvas.addEventListener("pointercancel", (event) => {
  fingers.delete(event.pointerId);
  cancel();
});
canvas.addEventListener("dblclick", (event) => {
  if (state.tool === "polygon" && state.corners.length > 2) finish(place(event));
});
canvas.addEventListener("wheel", (event) => {
  // Without a focus the wheel scrolls the page.
  if (!state.grid || !(event.ctrlKey || document.activeElement === canvas)) return;
  event.preventDefault();
  zoom(Math.exp(-event.deltaY / 300), event);
}, { passive: false });
canvas.addEventListener("pointerleave", () => {
  if (state.grid) point(null);
  if (!state.before && !state.keys) { state.cursor = null; redraw(); }
});

// ---- buttons and files

element.querySelectorAll("[data-tool]").forEach((button) => {
  button.addEventListener("click", () => choose("tool", button.dataset.tool));
});
find("[data-act=undo]").addEventListener("click", () => step("undo", "redo"));
find("[data-act=redo]").addEventListener("click", () => step("redo", "undo"));
find("[data-act=fit]").addEventListener("click", () => zoom(0));
find("[data-act=keys]").addEventListener("click", () => find("dialog").showModal());
find("[data-size]").addEventListener("input", (event) => resize(Number(event.target.value)));
find("[data-strength]").addEventListener("input", (event) => {
  state.strength = Number(event.target.value) / 100;
  redraw();
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
  zoom(0);
  if (keeper.next) keeper.keep({ source: keeper.next });
  keeper.next = null;
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
