// The painter by keyboard.

const STEP = 4; // pixels that an arrow key moves the cursor by
const TOOLS = { b: "brush", x: "box", l: "lasso", p: "polygon", f: "fill" };
const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

function move([across, down], distance) {
  const { width, height } = state.grid;
  const at = state.cursor ?? { x: width >> 1, y: height >> 1 };
  state.keys = true;
  const [x, y] = [at.x + across * distance, at.y + down * distance];
  proceed({ x: Math.min(width - 1, Math.max(0, x)), y: Math.min(height - 1, Math.max(0, y)) });
  point(state.cursor);
  if (distance) say(`column ${state.cursor.x}, row ${state.cursor.y}: ${shown(state.grid.at(state.cursor))}`);
}

function onCanvasKey(event) {
  if (event.key in MOVES) {
    move(MOVES[event.key], event.shiftKey ? 1 : STEP);
  } else if (event.key === " " || event.key === "Enter") {
    if (event.repeat) return true;
    if (event.key === " " && state.cursor && !state.keys && !state.before) {
      // With the pointer over the canvas, Space and a drag move the photograph.
      state.space = true;
      return true;
    }
    move([0, 0], 0);
    if (state.tool === "polygon" && event.key === "Enter" && state.corners.length > 2) finish(state.cursor);
    else if ((state.tool === "box" || state.tool === "lasso") && state.before) finish(state.cursor);
    else begin(state.cursor);
    if (state.tool === "fill") finish(state.cursor);
    if (state.tool !== "brush" && state.before) say("first corner set; move, then Space again");
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
  } else if (key in TOOLS) {
    choose("tool", TOOLS[key]);
  } else if (key === "?") {
    find("dialog").showModal();
  } else if (key === "+" || key === "-") {
    zoom(key === "+" ? 1.25 : 0.8);
  } else if (key === "home") {
    zoom(0);
  } else if (key === "[" || key === "]") {
    resize(state.size + (key === "]" ? 2 : -2));
  } else {
    used = false;
  }
  if (used) event.preventDefault();
});
canvas.addEventListener("keyup", (event) => {
  if (event.key === " " || event.key === "Enter") {
    state.space = false;
    if (state.tool === "brush" && state.before) finish(state.cursor);
  }
});
canvas.addEventListener("blur", () => {
  cancel();
  state.cursor = null;
  state.keys = state.space = false;
  redraw();
});

