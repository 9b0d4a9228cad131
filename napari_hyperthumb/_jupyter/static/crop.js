// The whole image made small, with the part that is explored; drag the frame, or click, to explore another.
function render({ model, el }) {
  el.classList.add("ht-view", "ht-crop");
  const title = document.createElement("p"), map = document.createElement("div");
  const picture = document.createElement("img"), frame = document.createElement("i");
  map.className = "map";
  map.tabIndex = 0;
  map.setAttribute("role", "application");
  map.setAttribute("aria-label", "Part of the image that is explored; arrow keys move it");
  picture.alt = "The whole image";
  picture.draggable = false;
  map.append(picture, frame);
  el.append(title, map);
  let address = null, wanted = null;

  function place() {
    const [height, width] = model.get("shape");
    const [[top, bottom], [left, right]] = wanted || model.get("region");
    title.textContent = `Part of the ${width}×${height} image: drag the frame`;
    const at = { left: left / width, top: top / height, width: (right - left) / width, height: (bottom - top) / height };
    for (const [key, share] of Object.entries(at)) frame.style[key] = `${100 * share}%`;
  }
  function show() {
    if (address) URL.revokeObjectURL(address);
    address = URL.createObjectURL(new Blob([model.get("overview")], { type: "image/png" }));
    picture.src = address;
    place();
  }
  function centre(event) {
    const box = map.getBoundingClientRect(), [height, width] = model.get("shape");
    return [(event.clientY - box.top) / box.height * height, (event.clientX - box.left) / box.width * width];
  }
  function around([row, column]) {
    const [height, width] = model.get("shape"), [[top, bottom], [left, right]] = model.get("region");
    const [h, w] = [bottom - top, right - left];
    const y = Math.min(Math.max(0, row - h / 2), height - h), x = Math.min(Math.max(0, column - w / 2), width - w);
    return [[y, y + h], [x, x + w]];
  }
  function ask() {
    const [[top, bottom], [left, right]] = wanted;
    model.send({ crop: { row: (top + bottom) / 2, column: (left + right) / 2 } });
  }
  map.addEventListener("pointerdown", (event) => {
    map.setPointerCapture(event.pointerId);
    map.focus();
    wanted = around(centre(event));
    place();
    event.preventDefault();
  });
  map.addEventListener("pointermove", (event) => {
    if (!event.buttons) return;
    wanted = around(centre(event));
    place();
  });
  map.addEventListener("pointerup", () => { if (wanted) ask(); });
  map.addEventListener("keydown", (event) => {
    const way = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!way) return;
    const [[top, bottom], [left, right]] = model.get("region");
    const step = (bottom - top) / 4;
    wanted = around([(top + bottom) / 2 + way[0] * step, (left + right) / 2 + way[1] * step]);
    place();
    ask();
    event.preventDefault();
    event.stopPropagation();
  });
  const moved = () => { wanted = null; place(); };
  model.on("change:region", moved);
  model.on("change:overview", show);
  show();
  return () => {
    model.off("change:region", moved);
    model.off("change:overview", show);
    if (address) URL.revokeObjectURL(address);
  };
}
export default { render };
