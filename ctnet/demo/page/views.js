// The answers: a picture for each model, and what its colors mean.

const pictures = element.querySelector(".pictures");
const legend = element.querySelector(".legend");
const hint = element.querySelector(".hint");

function make(name, className, text = "") {
  const node = document.createElement(name);
  if (className) node.className = className;
  node.textContent = text;
  return node;
}

function figure(index) {
  while (pictures.children.length <= index) {
    const node = make("figure");
    node.append(make("img"), make("figcaption"));
    pictures.append(node);
  }
  return pictures.children[index];
}

async function show({ model, source, text, times }, index) {
  const node = figure(index);
  const image = node.querySelector("img");
  const next = new Image();
  next.src = source;
  // Swapped once it is decoded, the picture does not flicker.
  await next.decode();
  image.src = source;
  image.style.maxWidth = `calc(var(--result-room) * ${next.naturalWidth / next.naturalHeight})`;
  image.alt = text;
  node.querySelector("figcaption").replaceChildren(
    make("strong", "", model), make("span", "", times));
}

function block({ title, color, share, rows }) {
  const node = make("section");
  const head = make("h4");
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

watch("value", async () => {
  const value = props.value;
  if (!value?.pictures) return;
  await Promise.all(value.pictures.map(show));
  // A newer answer may have come while these pictures were decoded.
  if (props.value.number !== value.number) return;
  while (pictures.children.length > value.pictures.length) pictures.lastChild.remove();
  pictures.dataset.count = value.pictures.length;
  pictures.dataset.number = value.number;
  legend.replaceChildren(...value.legend.map(block));
  hint.textContent = value.legend.length ? "" : value.hint;
  hint.hidden = value.legend.length > 0;
});
