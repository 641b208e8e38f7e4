// Where the painter's photographs and palettes come from: files, the clipboard, the last visit.

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

async function takeFile(file) {
  const palette = await isPalette(file);
  hand(palette && state.grid ? "#load-palette" : "#photograph", file);
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
  takeFile(files[0]);
});
document.addEventListener("paste", (event) => {
  const file = [...event.clipboardData.files].find(({ type }) => type.startsWith("image/"));
  if (!file) return;
  event.preventDefault();
  takeFile(file);
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
restore();
