// Rate-distortion curves with the operating point; a click or a drag on the plot asks for that rate.
const W = 400, H = 280, BOX = { left: 44, right: W - 10, top: 12, bottom: H - 42 };
const RATES = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20];
const SVG = "http://www.w3.org/2000/svg";

function node(parent, name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  parent.append(made);
  return made;
}

let views = 0;

function render({ model, el }) {
  el.classList.add("ht-view", "ht-curves");
  const clip = `ht-clip-${++views}`;
  const svg = node(el, "svg", { viewBox: `0 0 ${W} ${H}`, role: "img",
    "aria-label": "PSNR against bits per pixel; click to go to a rate" });
  let x, y, marker = null;

  function scales(curves) {
    const own = curves.filter((curve) => curve.scale);
    const rates = own.flatMap((curve) => curve.points.map((p) => p[0]));
    const quality = own.flatMap((curve) => curve.points.map((p) => p[1]));
    const low = Math.log(Math.min(...rates) / 1.3), high = Math.log(Math.max(...rates) * 1.3);
    const bottom = Math.floor(Math.min(...quality) - 2), top = Math.ceil(Math.max(...quality) + 2);
    x = { to: (v) => BOX.left + (Math.log(v) - low) / (high - low) * (BOX.right - BOX.left),
      from: (px) => Math.exp(low + (px - BOX.left) / (BOX.right - BOX.left) * (high - low)) };
    y = { to: (v) => BOX.bottom - (v - bottom) / (top - bottom) * (BOX.bottom - BOX.top), bottom, top };
  }

  function redraw() {
    const curves = model.get("curves");
    svg.replaceChildren();
    marker = null;
    if (!curves.some((curve) => curve.scale)) return;
    scales(curves);
    const inside = node(node(svg, "defs", {}), "clipPath", { id: clip });
    node(inside, "rect", { x: BOX.left, y: BOX.top, width: BOX.right - BOX.left, height: BOX.bottom - BOX.top });
    for (const rate of RATES) {
      const at = x.to(rate);
      if (at < BOX.left || at > BOX.right) continue;
      node(svg, "line", { class: "grid", x1: at, x2: at, y1: BOX.top, y2: BOX.bottom });
      node(svg, "text", { x: at, y: BOX.bottom + 15, "text-anchor": "middle" }, rate);
    }
    const step = [1, 2, 5, 10].find((s) => (y.top - y.bottom) / s <= 7) || 20;
    for (let level = Math.ceil(y.bottom / step) * step; level <= y.top; level += step) {
      const at = y.to(level);
      node(svg, "line", { class: "grid", x1: BOX.left, x2: BOX.right, y1: at, y2: at });
      node(svg, "text", { x: BOX.left - 6, y: at + 4, "text-anchor": "end" }, level);
    }
    node(svg, "rect", { class: "frame", x: BOX.left, y: BOX.top, width: BOX.right - BOX.left, height: BOX.bottom - BOX.top });
    node(svg, "text", { class: "soft", x: (BOX.left + BOX.right) / 2, y: H - 8, "text-anchor": "middle" },
      "bits per pixel (click to go there)");
    node(svg, "text", { class: "soft", x: -(BOX.top + BOX.bottom) / 2, y: 13, "text-anchor": "middle",
      transform: "rotate(-90)" }, "PSNR, dB");
    const lines = node(svg, "g", { "clip-path": `url(#${clip})` });
    for (const { colour, points, scale } of [...curves].sort((a, b) => (a.scale ? 1 : 0) - (b.scale ? 1 : 0))) {
      node(lines, "polyline", { points: points.map((p) => `${x.to(p[0])},${y.to(p[1])}`).join(" "), fill: "none",
        stroke: colour, "stroke-width": scale ? 2.6 : 1.4, "stroke-linejoin": "round" });
    }
    const rows = curves.length;
    node(svg, "rect", { class: "key", x: BOX.right - 127, y: BOX.bottom - 8 - 15 * rows, width: 123, height: 15 * rows + 4 });
    curves.forEach(({ name, colour, scale }, index) => {
      const at = BOX.bottom - 10 - 15 * (curves.length - 1 - index);
      node(svg, "line", { x1: BOX.right - 121, x2: BOX.right - 103, y1: at, y2: at, stroke: colour,
        "stroke-width": scale ? 2.6 : 1.4 });
      node(svg, "text", { x: BOX.right - 97, y: at + 4 }, name);
    });
    marker = node(svg, "g", { "clip-path": `url(#${clip})` });
    marker.cross = [node(marker, "line", { class: "cross" }), node(marker, "line", { class: "cross" })];
    marker.dot = node(marker, "circle", { class: "point", r: 6 });
    move();
  }

  function move() {
    if (!marker) return;
    const point = model.get("point");
    marker.setAttribute("visibility", point.length ? "visible" : "hidden");
    if (!point.length) return;
    const [cx, cy] = [x.to(point[0]), y.to(point[1])];
    marker.dot.setAttribute("cx", cx);
    marker.dot.setAttribute("cy", cy);
    const ends = [{ x1: cx, x2: cx, y1: cy, y2: BOX.bottom }, { x1: BOX.left, x2: cx, y1: cy, y2: cy }];
    marker.cross.forEach((line, i) => Object.entries(ends[i]).forEach(([k, v]) => line.setAttribute(k, v)));
  }

  // The point of our curves nearest to the pointer, on the segments between measured points.
  function nearest(px, py) {
    let found = null;
    for (const { points, scale } of model.get("curves").filter((curve) => curve.scale)) {
      for (let i = 0; i + 1 < points.length; i++) {
        const [ax, ay, bx, by] = [x.to(points[i][0]), y.to(points[i][1]), x.to(points[i + 1][0]), y.to(points[i + 1][1])];
        const length = (bx - ax) ** 2 + (by - ay) ** 2 || 1;
        const t = Math.min(1, Math.max(0, ((px - ax) * (bx - ax) + (py - ay) * (by - ay)) / length));
        const [cx, cy] = [ax + t * (bx - ax), ay + t * (by - ay)];
        const far = Math.hypot(px - cx, py - cy);
        if (!found || far < found.far) found = { far, scale, bpp: x.from(cx) };
      }
    }
    return found;
  }

  let asked = null, down = false;
  function go(event) {
    const box = svg.getBoundingClientRect();
    const found = nearest((event.clientX - box.left) / box.width * W, (event.clientY - box.top) / box.height * H);
    if (!found) return;
    if (asked === null) requestAnimationFrame(() => { // at most one request a frame
      model.send({ go: asked });
      asked = null;
    });
    asked = { bpp: found.bpp, scale: found.scale };
  }
  svg.addEventListener("pointerdown", (event) => {
    if (!x) return;
    down = true;
    svg.setPointerCapture(event.pointerId);
    go(event);
    event.preventDefault();
  });
  svg.addEventListener("pointermove", (event) => down && go(event));
  for (const name of ["pointerup", "pointercancel"]) svg.addEventListener(name, () => { down = false; });

  model.on("change:curves", redraw);
  model.on("change:point", move);
  redraw();
  return () => {
    model.off("change:curves", redraw);
    model.off("change:point", move);
  };
}
export default { render };
