// The answers: a picture for each model, and what its colors mean.

const CLEAR = 12; // difference of a channel, of 255, that counts as one
const PALE = 0.75; // share of white where two answers agree

const pictures = element.querySelector(".pictures");
const compare = element.querySelector(".compare");
const legend = element.querySelector(".legend");
const hint = element.querySelector(".hint");
let images = []; // decoded, as they were sent

function make(name, className, text = "") {
  const node = document.createElement(name);
  if (className) node.className = className;
  node.textContent = text;
  return node;
}

function figure(index) {
  while (pictures.children.length <= index) {
    const node = make("figure");
    const frame = make("div", "frame");
    frame.append(make("img"), make("i", "mark"));
    node.append(frame, make("figcaption"));
    follow(frame);
    pictures.append(node);
  }
  return pictures.children[index];
}

async function decoded({ source }) {
  const image = new Image();
  image.src = source;
  // Swapped once it is decoded, the picture does not flicker.
  await image.decode();
  return image;
}

function show({ model, text, times }, index) {
  const node = figure(index);
  const image = node.querySelector("img");
  image.src = images[index].src;
  const { naturalWidth, naturalHeight } = images[index];
  const { style } = node.querySelector(".frame");
  style.maxWidth = `calc(var(--result-room) * ${naturalWidth / naturalHeight})`;
  style.setProperty("--aspect", naturalWidth / naturalHeight);
  image.alt = text;
  node.querySelector("figcaption").replaceChildren(make("strong", "", model), make("span", "", times));
}

// ---- two models

function pixels(image) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0);
  return [canvas, context, context.getImageData(0, 0, canvas.width, canvas.height)];
}

// The second answer where it differs from the first, and the first, pale, where it does not.
function showDifference([one, other]) {
  const [, , first] = pixels(images[0]);
  const [canvas, context, second] = pixels(images[1]);
  let different = 0;
  for (let i = 0; i < second.data.length; i += 4) {
    const clear = [0, 1, 2].some((c) => Math.abs(first.data[i + c] - second.data[i + c]) > CLEAR);
    different += clear;
    for (let c = i; !clear && c < i + 3; c++) {
      second.data[c] = first.data[c] + PALE * (255 - first.data[c]);
    }
  }
  context.putImageData(second, 0, 0);
  const image = pictures.children[1].querySelector("img");
  image.src = canvas.toDataURL();
  const share = Math.round((400 * different) / second.data.length);
  image.alt = `${other} where it differs from ${one}: ${share} % of the pixels`;
  pictures.children[1].querySelector("figcaption").replaceChildren(make("span", "", image.alt));
}

function arrange(value) {
  compare.hidden = images.length < 2;
  const way = compare.hidden ? "side" : compare.dataset.way;
  pictures.dataset.way = way;
  compare.querySelector("[data-wipe]").hidden = way !== "wipe";
  value.pictures.forEach(show);
  if (way === "difference") showDifference(value.pictures.map(({ model }) => model));
}

compare.addEventListener("click", ({ target }) => {
  if (!target.dataset.show) return;
  compare.dataset.way = target.dataset.show;
  compare.querySelectorAll("button").forEach((button) => {
    button.setAttribute("aria-pressed", String(button === target));
  });
  arrange(shown);
});
compare.addEventListener("input", ({ target }) => pictures.style.setProperty("--wipe", `${target.value}%`));

// ---- the pointer, here and on the photograph

function follow(frame) {
  const tell = (detail) => document.dispatchEvent(new CustomEvent("ctnet-point", { detail }));
  frame.addEventListener("pointermove", (event) => {
    const { naturalWidth: width, naturalHeight: height } = frame.querySelector("img");
    const box = frame.getBoundingClientRect();
    const x = Math.floor(((event.clientX - box.left) / box.width) * width);
    const y = Math.floor(((event.clientY - box.top) / box.height) * height);
    if (x >= 0 && y >= 0 && x < width && y < height) tell({ x, y, width, height, from: "views" });
  });
  frame.addEventListener("pointerleave", () => tell(null));
}
document.addEventListener("ctnet-point", ({ detail }) => {
  pictures.classList.toggle("pointed", detail !== null);
  if (!detail) return;
  pictures.style.setProperty("--x", `${(100 * (detail.x + 0.5)) / detail.width}%`);
  pictures.style.setProperty("--y", `${(100 * (detail.y + 0.5)) / detail.height}%`);
});

// ---- legend

function block({ title, color, share, rows }) {
  const node = make("section");
  const head = make("h3");
  const swatch = make("i");
  swatch.style.background = color;
  head.append(swatch, make("span", "", title), make("small", "", share));
  const list = make("ul");
  for (const { colors, text } of rows) {
    const entry = make("li");
    const chip = make("i", colors.length > 1 ? "ramp" : "");
    chip.style.background = colors.length > 1 ? `linear-gradient(90deg, ${colors})` : colors[0];
    entry.append(chip, make("span", "", text));
    list.append(entry);
  }
  node.append(head, list);
  return node;
}

let latest = 0;
let shown = null;
watch("value", async () => {
  const value = props.value;
  if (!value?.pictures) return;
  latest = value.number;
  const found = await Promise.all(value.pictures.map(decoded));
  // A newer answer may have come while these pictures were decoded.
  if (latest !== value.number) return;
  images = found;
  shown = value;
  while (pictures.children.length > value.pictures.length) pictures.lastChild.remove();
  arrange(value);
  pictures.dataset.count = value.pictures.length;
  pictures.dataset.number = value.number;
  legend.replaceChildren(...value.legend.map(block));
  hint.textContent = value.legend.length ? "" : value.hint;
  hint.hidden = value.legend.length > 0;
  document.dispatchEvent(new Event("ctnet-shown"));
});
