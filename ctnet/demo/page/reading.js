// What the network says where the pointer is, on the photograph or on an answer.

const ASK_EVERY = 100; // milliseconds between questions while the pointer moves
const output = element.querySelector("output");
let at = null;
let asked = 0;
let timer = null;

function ask() {
  timer = null;
  asked = Date.now();
  if (!at) return;
  props.value = at;
  trigger("point");
}

function askSoon() {
  if (at && !timer) timer = setTimeout(ask, Math.max(0, asked + ASK_EVERY - Date.now()));
}

document.addEventListener("ctnet-point", ({ detail }) => {
  at = detail && { x: detail.x, y: detail.y };
  if (!at) output.textContent = "";
  askSoon();
});
// An edit changes what is there.
document.addEventListener("ctnet-shown", askSoon);

watch("value", () => {
  const texts = props.value?.texts;
  if (texts) output.textContent = at ? texts.filter(Boolean).join(" | ") : "";
});
