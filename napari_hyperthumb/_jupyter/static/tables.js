// Quantisation tables as heat maps on one logarithmic colour scale, the steps written into their cells.
const VIRIDIS = [[68, 1, 84], [65, 68, 135], [42, 120, 142], [34, 168, 132], [122, 209, 81], [253, 231, 37]];
const FREQUENCIES = "Step of the coefficient with horizontal frequency";

const LEAST = 2, MOST = 64; // fixed, so that colours at two rates compare; few steps lie beyond

function colour(step) {
  const share = Math.log(step / LEAST) / Math.log(MOST / LEAST);
  const t = Math.min(1, Math.max(0, share)) * (VIRIDIS.length - 1);
  const i = Math.min(Math.floor(t), VIRIDIS.length - 2);
  return VIRIDIS[i].map((from, k) => Math.round(from + (VIRIDIS[i + 1][k] - from) * (t - i)));
}

function render({ model, el }) {
  el.classList.add("ht-view", "ht-tables");
  function redraw() {
    const side = document.createElement("div");
    side.className = "side";
    side.textContent = "high    vertical frequency    low";
    el.replaceChildren(side);
    for (const [index, table] of model.get("tables").entries()) {
      const figure = document.createElement("figure"), title = document.createElement("figcaption");
      const steps = table.flat();
      title.textContent = `${["Luma", "Chroma"][index]} steps `;
      const small = document.createElement("small");
      small.textContent = `${Math.min(...steps)} to ${Math.max(...steps)}`;
      title.append(small);
      const grid = document.createElement("div");
      grid.className = "grid";
      steps.forEach((step, at) => {
        const cell = document.createElement("b"), rgb = colour(step);
        cell.textContent = step;
        cell.title = `${FREQUENCIES} ${at % 8}, vertical ${Math.floor(at / 8)}: ${step}`;
        cell.style.background = `rgb(${rgb.join(",")})`;
        cell.style.color = rgb[0] * 0.3 + rgb[1] * 0.59 + rgb[2] * 0.11 > 130 ? "#111" : "#fff";
        grid.append(cell);
      });
      const ends = document.createElement("p");
      for (const text of ["low", "horizontal frequency", "high"]) {
        ends.append(Object.assign(document.createElement("span"), { textContent: text }));
      }
      figure.append(title, grid, ends);
      el.append(figure);
    }
  }
  model.on("change:tables", redraw);
  redraw();
  return () => model.off("change:tables", redraw);
}
export default { render };
