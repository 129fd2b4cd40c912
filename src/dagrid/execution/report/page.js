"use strict";
(() => {
  const told = JSON.parse(document.getElementById("told").textContent);
  const graph = document.getElementById("graph");
  const root = document.documentElement;
  if (!graph) { root.dataset.ready = "true"; return; }
  const pan = document.getElementById("pan");
  const details = document.getElementById("details");
  const boxes = [...graph.querySelectorAll(".n")];
  const edges = [...graph.querySelectorAll(".e")];
  const above = boxes.map(() => []), below = boxes.map(() => []);
  for (const edge of edges) {
    above[edge.dataset.b].push(+edge.dataset.a);
    below[edge.dataset.a].push(+edge.dataset.b);
  }
  const where = boxes.map((box) => box.getAttribute("transform").match(/[-\d.]+/g).map(Number));

  let chosen = -1, stop = 0;

  // Growth: what came later than the chosen step is hidden.
  const slider = document.getElementById("step");
  const marks = [...document.querySelectorAll(".growth b")];
  const last = told.steps.length - 1;
  let shown = last;
  const born = told.boxes.map((box) => box.births[0]);
  const grow = (step) => {
    shown = step;
    boxes.forEach((box, at) => {
      box.classList.toggle("later", born[at] > step);
      box.classList.toggle("fresh", step > 0 && step < last && told.boxes[at].births.includes(step));
      const { births, label } = told.boxes[at];
      if (births.length > 1) {
        const there = step === last ? births.length : births.filter((each) => each <= step).length;
        box.querySelector("text").textContent = label.replace(/[\d,]+$/, there.toLocaleString("en"));
      }
    });
    for (const edge of edges) edge.classList.toggle("later", Math.max(born[edge.dataset.a], born[edge.dataset.b]) > step);
    for (const mark of marks) mark.classList.toggle("later", +mark.dataset.step > step);
    const said = document.getElementById("step-said");
    if (said) said.textContent = told.steps[step][1];
    slider.setAttribute("aria-valuetext", told.steps[step][1]);
    if (chosen >= 0 && born[chosen] > step) choose(-1);
    if (born[stop] > step) focusable(born.findIndex((each) => each <= step));
    root.dataset.step = step;
    root.dataset.shown = told.steps[step][0];
  };
  // Details of the chosen box; one box at a time takes the focus, the arrow keys go from box to box.
  const choose = (at) => {
    if (chosen >= 0) boxes[chosen].classList.remove("chosen");
    for (const edge of edges) edge.classList.toggle("near", +edge.dataset.a === at || +edge.dataset.b === at);
    chosen = at;
    graph.classList.toggle("chosen-one", at >= 0);
    details.hidden = at < 0;
    details.replaceChildren();
    if (at < 0) return;
    boxes[at].classList.add("chosen");
    focusable(at);
    const heading = document.createElement("h3"), list = document.createElement("dl");
    heading.textContent = told.boxes[at].label;
    for (const [key, value] of told.boxes[at].details) {
      const term = document.createElement("dt"), words = document.createElement("dd");
      term.textContent = key;
      words.textContent = value;
      list.append(term, words);
    }
    details.append(heading, list);
  };
  const focusable = (at) => {
    if (at < 0) return;
    boxes[stop].setAttribute("tabindex", "-1");
    stop = at;
    boxes[at].setAttribute("tabindex", "0");
  };
  const near = (at, among) => among.filter((one) => born[one] <= shown)
    .sort((a, b) => Math.abs(where[a][0] - where[at][0]) - Math.abs(where[b][0] - where[at][0]))[0];
  const beside = (at, side) => {
    const [x, y] = where[at];
    const row = boxes.map((_, one) => one).filter((one) => where[one][1] === y && side * (where[one][0] - x) > 0);
    return near(at, row);
  };
  graph.addEventListener("click", (event) => {
    const box = event.target.closest(".n");
    choose(box && +box.dataset.n !== chosen ? +box.dataset.n : -1);
  });
  graph.addEventListener("keydown", (event) => {
    const box = event.target.closest(".n");
    if (!box) return;
    const at = +box.dataset.n;
    const next = { ArrowUp: () => near(at, above[at]), ArrowDown: () => near(at, below[at]),
      ArrowLeft: () => beside(at, -1), ArrowRight: () => beside(at, 1) }[event.key];
    if (next) {
      event.preventDefault();
      const to = next();
      if (to === undefined) return;
      focusable(to);
      boxes[to].focus();
      if (chosen >= 0) choose(to);
    } else if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      choose(at === chosen ? -1 : at);
    } else if (event.key === "Escape") choose(-1);
  });
  focusable(0);
  if (slider) {
    slider.addEventListener("input", () => grow(+slider.value));
    grow(+slider.value);
  }

  // Size: a drawing that is a little too wide is made to fit, a much wider one is scrolled.
  const [width, height] = [+graph.getAttribute("width"), +graph.getAttribute("height")];
  const fit = () => Math.min(1, pan.clientWidth / width);
  let zoom = 1;
  const resize = (to) => {
    zoom = Math.min(Math.max(to, 0.05), 4);
    graph.setAttribute("width", width * zoom);
    graph.setAttribute("height", height * zoom);
  };
  for (const button of document.querySelectorAll("[data-zoom]")) {
    button.addEventListener("click", () => {
      const way = button.dataset.zoom;
      resize(way === "fit" ? fit() : way === "in" ? zoom * 1.25 : zoom / 1.25);
    });
  }
  resize(Math.max(fit(), 0.62));
  pan.scrollLeft = (pan.scrollWidth - pan.clientWidth) / 2;
  root.dataset.ready = "true";
})();
