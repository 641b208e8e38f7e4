// Thumbnails of the examples: a click asks the server for one.

element.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-name]");
  if (!button) return;
  props.value = { name: button.dataset.name };
  trigger("example");
});
