// Two pictures of one size under a line that can be dragged, with zoom and pan. Nothing of that asks the kernel.
const MAX_HEIGHT = 560, REACH = 16;

async function bitmap(bytes) {
  if (!bytes || !bytes.byteLength) return null;
  const type = bytes.getUint8(0) === 0x42 ? "image/bmp" : "image/png"; // BMP begins with "BM"
  return createImageBitmap(new Blob([bytes], { type }));
}

function button(text, title, action) {
  const made = document.createElement("button");
  made.type = "button";
  made.textContent = text;
  made.title = title;
  made.setAttribute("aria-label", title);
  made.addEventListener("click", action);
  return made;
}

function render({ model, el }) {
  el.classList.add("ht-view", "ht-swipe");
  const canvas = document.createElement("canvas");
  canvas.tabIndex = 0;
  canvas.setAttribute("role", "img");
  const context = canvas.getContext("2d");
  const tags = ["left", "right"].map((side) => {
    const tag = document.createElement("div");
    tag.className = `ht-tag ${side}`;
    return tag;
  });
  const legend = document.createElement("div");
  legend.className = "ht-legend";
  const tools = document.createElement("div");
  tools.className = "ht-tools";
  const readout = document.createElement("output");
  const hint = document.createElement("span");
  hint.textContent = "Drag the line or the picture; click, then wheel to zoom";
  tools.append(
    button("−", "Zoom out", () => zoomAt(size.w / 2, size.h / 2, 1 / 1.5)),
    button("+", "Zoom in", () => zoomAt(size.w / 2, size.h / 2, 1.5)),
    button("1:1", "One pixel of the picture is one of the screen", () => actual()),
    button("Fit", "The whole picture", () => { fitted = true; fit(); draw(); }),
    readout, hint,
  );
  el.append(canvas, ...tags, legend, tools);

  let left = null, right = null, size = { w: 0, h: 0 };
  let zoom = 1, x = 0, y = 0, fitted = true, drag = null, alive = true, loading = 0;

  const ratio = () => window.devicePixelRatio || 1;
  const split = () => model.get("split") * size.w;

  function fit() {
    if (!left) return;
    zoom = Math.min(size.w / left.width, size.h / left.height);
    if (zoom * ratio() > 1) zoom = Math.floor(zoom * ratio()) / ratio(); // every pixel stays a square
    x = (size.w - left.width * zoom) / 2;
    y = (size.h - left.height * zoom) / 2;
  }

  function actual() {
    if (left) zoomAt(size.w / 2, size.h / 2, 1 / (zoom * ratio()));
  }

  function zoomAt(cx, cy, factor) {
    if (!left) return;
    const next = Math.min(Math.max(zoom * factor, 0.05), 40);
    x = cx - (cx - x) * (next / zoom);
    y = cy - (cy - y) * (next / zoom);
    zoom = next;
    fitted = false;
    draw();
  }

  function layout() {
    const wide = el.clientWidth;
    if (!wide) return;
    const share = left ? left.height / left.width : 0.75;
    size = { w: wide, h: Math.round(Math.min(MAX_HEIGHT, Math.max(240, wide * share))) };
    canvas.style.height = `${size.h}px`;
    canvas.width = Math.round(size.w * ratio());
    canvas.height = Math.round(size.h * ratio());
    if (fitted) fit();
    draw();
  }

  function place(picture, side) {
    if (!picture || !left) return;
    context.imageSmoothingEnabled = zoom * ratio() < 1;
    context.imageSmoothingQuality = "high";
    if (side === "right" && model.get("true_size")) {
      // One of its pixels is as large as one of the original: in the right half, where the line shows it.
      const w = picture.width * zoom, h = picture.height * zoom;
      context.drawImage(picture, x + 0.75 * left.width * zoom - w / 2, y + (left.height * zoom - h) / 2, w, h);
      return;
    }
    context.drawImage(picture, x, y, left.width * zoom, left.height * zoom);
  }

  function draw() {
    if (!size.w) return;
    const at = split();
    context.setTransform(ratio(), 0, 0, ratio(), 0, 0);
    context.clearRect(0, 0, size.w, size.h);
    for (const [picture, side, from, to] of [[left, "left", 0, at], [right, "right", at, size.w]]) {
      context.save();
      context.beginPath();
      context.rect(from, 0, to - from, size.h);
      context.clip();
      place(picture, side);
      context.restore();
    }
    context.fillStyle = "rgba(0,0,0,.45)";
    context.fillRect(at - 2, 0, 4, size.h);
    context.fillStyle = "#fff";
    context.fillRect(at - 1, 0, 2, size.h);
    context.beginPath();
    context.arc(at, size.h / 2, 13, 0, 7);
    context.shadowColor = "rgba(0,0,0,.5)";
    context.shadowBlur = 5;
    context.fill();
    context.shadowBlur = 0;
    context.fillStyle = "#33363b";
    for (const way of [-1, 1]) {
      context.beginPath();
      context.moveTo(at + way * 9, size.h / 2);
      context.lineTo(at + way * 3, size.h / 2 - 5);
      context.lineTo(at + way * 3, size.h / 2 + 5);
      context.fill();
    }
    readout.textContent = `${Math.round(zoom * ratio() * 100)}%`;
    tags[0].style.maxWidth = `${Math.max(0, Math.min(0.6 * size.w, at - 36))}px`;
    tags[1].style.maxWidth = `${Math.max(0, Math.min(0.6 * size.w, size.w - at - 36))}px`;
    for (const [tag, room] of [[tags[0], at], [tags[1], size.w - at]]) tag.hidden = room < 60;
  }

  function words() {
    tags[0].textContent = model.get("left_label");
    tags[1].textContent = model.get("right_label");
    canvas.setAttribute("aria-label", `Left: ${tags[0].textContent}. Right: ${tags[1].textContent}`);
    const { colours, low, high } = model.get("legend");
    legend.hidden = !colours;
    if (!colours) return;
    const [bar, ends] = [document.createElement("i"), document.createElement("p")];
    bar.style.background = `linear-gradient(90deg, ${colours.join(",")})`;
    ends.append(...[low, high].map((text) => Object.assign(document.createElement("span"), { textContent: text })));
    legend.replaceChildren(bar, ends);
  }

  // Pictures are decoded off the page's thread; one that is overtaken by a newer one is dropped.
  async function load(both) {
    const turn = ++loading, frame = model.get("frame");
    const [a, b] = await Promise.all([both || !left ? bitmap(model.get("left")) : left, bitmap(model.get("right"))]);
    if (!alive || turn !== loading) return;
    const resized = !left || !a || a.width !== left.width || a.height !== left.height;
    left = a;
    right = b;
    words();
    if (resized) {
      fitted = true;
      layout();
    } else draw();
    requestAnimationFrame(() => { // painted: the kernel may know
      el.dataset.shown = frame;
      model.set("shown", frame);
      model.save_changes();
    });
  }

  const near = (event) => Math.abs(event.offsetX - split()) < REACH;
  function move(event) {
    if (!drag) {
      canvas.classList.toggle("line", near(event));
      return;
    }
    if (drag.line) {
      model.set("split", Math.min(1, Math.max(0, event.offsetX / size.w)));
    } else {
      x += event.offsetX - drag.x;
      y += event.offsetY - drag.y;
      fitted = false;
      drag = { x: event.offsetX, y: event.offsetY };
    }
    draw();
  }
  function release() {
    if (drag?.line) model.save_changes();
    drag = null;
    canvas.classList.remove("pan");
  }
  canvas.addEventListener("pointerdown", (event) => {
    canvas.focus();
    canvas.setPointerCapture(event.pointerId);
    drag = { line: near(event), x: event.offsetX, y: event.offsetY };
    canvas.classList.toggle("pan", !drag.line);
    event.preventDefault();
  });
  canvas.addEventListener("pointermove", move);
  canvas.addEventListener("pointerup", release);
  canvas.addEventListener("pointercancel", release);
  canvas.addEventListener("dblclick", () => { fitted = true; fit(); draw(); });
  canvas.addEventListener("wheel", (event) => {
    // Scrolling through a notebook must not get stuck on a picture: only one that was clicked zooms.
    if (!event.ctrlKey && canvas.getRootNode().activeElement !== canvas) return;
    event.preventDefault();
    zoomAt(event.offsetX, event.offsetY, Math.exp(-Math.sign(event.deltaY) * Math.min(Math.abs(event.deltaY), 100) * 0.002));
  }, { passive: false });
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -0.02, ArrowRight: 0.02 }[event.key];
    const factor = { "+": 1.25, "=": 1.25, "-": 0.8 }[event.key];
    if (step) {
      model.set("split", Math.min(1, Math.max(0, model.get("split") + step)));
      model.save_changes();
      draw();
    } else if (factor) zoomAt(size.w / 2, size.h / 2, factor);
    else if (event.key === "0") { fitted = true; fit(); draw(); } else return;
    event.preventDefault();
    event.stopPropagation(); // Jupyter has keys of its own
  });

  const renewed = () => load(false), replaced = () => load(true);
  model.on("change:frame", renewed);
  model.on("change:left", replaced);
  model.on("change:split", draw);
  const observer = new ResizeObserver(layout);
  observer.observe(el);
  load(true);
  return () => {
    alive = false;
    observer.disconnect();
    model.off("change:frame", renewed);
    model.off("change:left", replaced);
    model.off("change:split", draw);
  };
}
export default { render };
