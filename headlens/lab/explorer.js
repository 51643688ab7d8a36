// The explorer's page. Python (scene.py) sends arrays and words; here they become colours, and mouse and keyboard become
// questions. One question is out at a time: what is asked while Python computes is sent when it has answered.

const QUERY = "#00e5ff";  // of the patch that looks
const PATIENCE = 6000;  // milliseconds until a silent kernel is spoken of
const STEPS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
const HELP = ["Click a patch of the image to look from there, or use the arrow keys on it; Escape clears.",
  "Click a head in a grid to open it, or use the arrow keys there."];

export default {
  render({ model, el }) {
    const page = build(el, model.get("fixed"));
    let later = {}, hover = null, bitmap = null, silence = 0, tried = "", wanted = page.quantity.value;

    // What is asked, and what of it is shown

    const asked = () => ({ ...model.get("asked"), ...later });
    const busy = () => model.get("asked").turn !== model.get("answered");
    const head = () => [asked(), model.get("scene")].map((each) => parsed(each.head)).find(exists);
    const layers = (stream = head().stream) => model.get("fixed").streams[stream];  // the last one first
    // Where no head of the stream has a learned weight, grids are of effects, and the choice is there again elsewhere.
    const weights = () => wanted === "weights" && learned(model.get("fixed").weights[head().stream]);
    const table = (kind) => kind !== "heads" ? model.get("scene")[kind]
      : (weights() ? model.get("fixed").weights : model.get("picture").effects)[head().stream];
    const grid = (kind) => kind === "heads" ? [layers().length, model.get("fixed").heads] : model.get("picture").grid;
    const query = () => same(asked().patch, model.get("scene").patch) ? model.get("scene").query : asked().patch;
    const cellOf = ({ layer, number }) => [layers().indexOf(layer), number];
    const opened = ([row, column]) => named({ stream: head().stream, layer: layers()[row], number: column });

    function exists(head) {
      const { streams, heads } = model.get("fixed");
      return head && streams[head.stream]?.includes(head.layer) && head.number < heads;
    }

    function ask(change) {
      later = { ...later, ...change };
      next();
    }

    function next() {
      if (Object.keys(later).length && !busy()) {
        const question = { ...asked(), turn: model.get("asked").turn + 1 };
        later = {};
        model.set("asked", question);
        model.save_changes();
      }
      update();
    }

    // Mouse and keyboard

    const choose = (kind, cell) => ask(kind === "heads" ? { head: opened(cell) } : { patch: cell });

    function moved(cell, key, [rows, columns]) {
      const [down, right] = STEPS[key];
      return cell ? [clamp(cell[0] + down, rows), clamp(cell[1] + right, columns)] : [rows >> 1, columns >> 1];
    }

    function point(kind, cell) {
      if (hover?.kind === kind && same(hover?.cell, cell)) return;
      hover = cell && { kind, cell };
      draw();
      tell();
    }

    for (const { canvas, kind } of page.panels) {
      canvas.addEventListener("pointermove", (event) => point(kind, cellAt(canvas, event, grid(kind))));
      canvas.addEventListener("pointerleave", () => point(kind, null));
      canvas.addEventListener("click", (event) => choose(kind, cellAt(canvas, event, grid(kind))));
      if (canvas.tabIndex === 0) canvas.addEventListener("keydown", (event) => {
        const clears = event.key === "Escape" && kind !== "heads";
        if (event.ctrlKey || event.altKey || event.metaKey || !(clears || event.key in STEPS)) return;
        event.preventDefault();
        hover = null;  // words are of what the keys choose, wherever the mouse rests
        if (clears) ask({ patch: null });
        else choose(kind, moved(kind === "heads" ? cellOf(head()) : query(), event.key, grid(kind)));
      });
    }

    const open = (image) => ask({ image, patch: null });
    page.image.addEventListener("change", () => open(page.image.selectedIndex));
    page.steps.forEach((button, at) => button.addEventListener("click", () =>
      open(clamp(asked().image + (at ? 1 : -1), page.image.length))));
    for (const radio of page.streams) radio.addEventListener("change", () => {
      const { layer, number } = head(), [last, first] = [layers(radio.value).at(0), layers(radio.value).at(-1)];
      ask({ head: named({ stream: radio.value, layer: Math.min(Math.max(layer, first), last), number }) });
    });
    const enter = () => page.head.value === tried || ask({ head: tried = page.head.value });
    page.head.addEventListener("keydown", (event) => event.key === "Enter" && enter());
    page.head.addEventListener("blur", enter);
    page.quantity.addEventListener("change", () => { wanted = page.quantity.value; });
    for (const control of [page.quantity, page.outline]) control.addEventListener("change", update);

    // What is seen

    function update() {
      const scene = model.get("scene"), picture = model.get("picture"), at = asked();
      clearTimeout(silence);
      if (busy()) silence = setTimeout(() => { page.late.hidden = false; }, PATIENCE);
      page.late.hidden = true;
      page.root.classList.toggle("busy", busy());
      page.root.setAttribute("aria-busy", busy());
      page.error.textContent = busy() ? "" : model.get("error");
      page.image.selectedIndex = at.image;
      page.steps[0].disabled = at.image === 0;
      page.steps[1].disabled = at.image === page.image.length - 1;
      for (const radio of page.streams) radio.checked = radio.value === head().stream;
      page.quantity.value = weights() ? "weights" : "effects";
      for (const option of page.quantity.options)
        option.disabled = option.value === "weights" && !learned(model.get("fixed").weights[head().stream]);
      if (!model.get("error") || !page.head.matches(":focus")) page.head.value = tried = at.head;
      page.title.textContent = scene.title;
      page.facts.replaceChildren(...scene.facts.map((line) => element(null, "p", {}, line)));
      page.root.style.setProperty("--shape", `${picture.shape[1]} / ${picture.shape[0]}`);
      page.root.style.setProperty("--heads", `${1.6 * grid("heads")[1]} / ${grid("heads")[0]}`);
      for (const { canvas, kind, number, caption, why } of page.panels) {
        const shown = kind === "photo" ? { title: picture.name } : table(kind).maps[number];
        caption.textContent = shown.title;
        why.textContent = shown.why ?? "";
        canvas.hidden = "why" in shown;
      }
      for (const [kind, bar] of Object.entries(page.scales)) scale(bar, table(kind), model.get("fixed").colours);
      page.rows.textContent = `Rows are layers, from ${layers().at(0)} at the top to ${layers().at(-1)}.`;
      tell();
      draw();
    }

    function tell() {  // of what is under the mouse; else of the patch that is chosen
      const { kind, cell } = hover ?? { cell: asked().patch };
      const { domains } = model.get("fixed");
      const values = (of) => table(of).maps.map((map, at) =>
        map.values ? `${domains[at]} ${written(float(map.values, cell[0] * grid(kind)[1] + cell[1]), table(of).centre)}` : "");
      const line = (of) => `${table(of).label}: ${values(of).filter(Boolean).join(", ") || "–"}`;
      const lines = !cell ? [] : kind === "heads" ? [opened(cell), line("heads")]
        : [`row ${cell[0]}, column ${cell[1]}`, line("attention"), line("contribution")];
      page.live.textContent = lines.join("\n");
    }

    function draw() {
      const { outline } = model.get("picture"), { colours } = model.get("fixed");
      for (const { canvas, kind, number } of page.panels) {
        const context = canvas.getContext("2d"), size = grid(kind), values = kind !== "photo" && table(kind).maps[number].values;
        context.clearRect(0, 0, canvas.width, canvas.height);
        if (kind === "photo" && bitmap) {
          context.imageSmoothingQuality = "high";
          context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
        } else if (values) paint(context, values, size, table(kind), colours);
        const over = hover && (hover.kind === "heads") === (kind === "heads") && hover.cell;
        if (kind === "heads") {
          gaps(context, size);
          box(context, cellOf(head()), size, 1.5, "black", "white");
        } else {
          if (page.outline.checked) lines(context, outline);
          if (query() && kind !== "contribution") box(context, query(), size, 1.5, QUERY, "black");
        }
        if (over) box(context, over, size, 1, "white", "black");
      }
    }

    async function develop() {
      const { png } = model.get("picture"), made = await createImageBitmap(new Blob([png], { type: "image/png" }));
      if (png === model.get("picture").png) bitmap = made;  // else another one came meanwhile
      draw();
    }

    const leave = sharp(page.panels.map(({ canvas }) => canvas), draw);
    const answers = ["change:asked", "change:answered", "change:scene", "change:error"];
    for (const name of answers) model.on(name, next);
    model.on("change:picture", develop);
    develop();
    update();
    return () => {
      leave();
      clearTimeout(silence);
      for (const name of answers) model.off(name, next);
      model.off("change:picture", develop);
    };
  },
};

// Heads, cells and numbers

const named = ({ stream, layer, number }) => `L${layer}H${number}${stream === "global" ? "" : `/${stream}`}`;

function parsed(name) {
  const found = /^\s*L(\d+)H(\d+)(?:\/(local|global))?\s*$/.exec(name);
  return found && { stream: found[3] ?? "global", layer: Number(found[1]), number: Number(found[2]) };
}

const learned = ({ maps }) => maps.some(({ values }) => values);
const clamp = (place, count) => Math.min(Math.max(place, 0), count - 1);
const same = (one, other) => String(one ?? null) === String(other ?? null);

function cellAt(canvas, event, [rows, columns]) {
  const { left, top, width, height } = canvas.getBoundingClientRect();
  return [clamp(Math.floor((event.clientY - top) / height * rows), rows),
    clamp(Math.floor((event.clientX - left) / width * columns), columns)];
}

const float = (values, at) => values.getFloat32(4 * at, true);

function written(value, centre) {  // with a plus where values are parts of a sum, even about 0
  if (Number.isNaN(value)) return "–";
  return (value < 0 ? "−" : centre === 0 && value > 0 ? "+" : "") + Number(Math.abs(value).toPrecision(3));
}

const palette = ({ centre }, colours) => colours[centre === null ? "rising" : "signed"];

// Drawing, in device pixels

function paint(context, values, [rows, columns], of, colours) {
  const { low, high } = of, table = palette(of, colours), cells = new ImageData(columns, rows);
  for (let at = 0; at < rows * columns; at++) {
    const share = (float(values, at) - low) / (high - low);
    if (Number.isNaN(share)) continue;  // stays transparent: there is no such head
    const colour = clamp(Math.floor(share * 256), 256);
    for (let channel = 0; channel < 3; channel++) cells.data[4 * at + channel] = table.getUint8(3 * colour + channel);
    cells.data[4 * at + 3] = 255;
  }
  const small = new OffscreenCanvas(columns, rows);
  small.getContext("2d").putImageData(cells, 0, 0);
  context.imageSmoothingEnabled = false;
  context.drawImage(small, 0, 0, context.canvas.width, context.canvas.height);
  context.imageSmoothingEnabled = true;
}

function gaps(context, [rows, columns]) {
  const { width, height } = context.canvas, pixel = Math.max(1, Math.round(devicePixelRatio / 2));
  for (let row = 1; row < rows; row++) context.clearRect(0, Math.round(row / rows * height), width, pixel);
  for (let at = 1; at < columns; at++) context.clearRect(Math.round(at / columns * width), 0, pixel, height);
}

function box(context, [row, column], [rows, columns], thick, colour, around) {  // around the cell, within the canvas
  const pixel = devicePixelRatio, line = thick * pixel, { width, height } = context.canvas;
  const edge = (place, count, length) => Math.min(Math.max(place / count * length, line), length - line);
  const [left, right] = [edge(column, columns, width), edge(column + 1, columns, width)];
  const [top, bottom] = [edge(row, rows, height), edge(row + 1, rows, height)];
  for (const [wide, stroke] of [[line + 1.5 * pixel, around], [line, colour]]) {
    context.lineWidth = wide;
    context.strokeStyle = stroke;
    context.strokeRect(left - line / 2, top - line / 2, right - left + line, bottom - top + line);
  }
}

function lines(context, each) {
  const { width, height } = context.canvas;
  for (const [line, stroke] of [[2.5, "white"], [1, "black"]]) {
    context.lineWidth = line * devicePixelRatio;
    context.strokeStyle = stroke;
    context.beginPath();
    for (const points of each) points.forEach(([x, y], at) => context[at ? "lineTo" : "moveTo"](x * width, y * height));
    context.stroke();
  }
}

function scale(bar, of, colours) {
  const { label, low, high, centre } = of, table = palette(of, colours);
  const steps = Array.from({ length: 33 }, (_, at) => 3 * Math.min(8 * at, 255)).map((at) =>
    `rgb(${table.getUint8(at)} ${table.getUint8(at + 1)} ${table.getUint8(at + 2)})`);
  bar.querySelector("i").style.background = `linear-gradient(to right, ${steps.join(", ")})`;
  const texts = [...[low, (low + high) / 2, high].map((value) => written(value, centre)), label];
  bar.querySelectorAll("span").forEach((span, at) => { span.textContent = texts[at]; });
}

// Canvases have as many pixels as the screen has in their place, also when a page is zoomed.
function sharp(canvases, draw) {
  const fit = () => {
    for (const canvas of canvases) {
      const { left, right, top, bottom } = canvas.getBoundingClientRect();
      const [width, height] = [[left, right], [top, bottom]].map(([from, to]) =>
        Math.round(to * devicePixelRatio) - Math.round(from * devicePixelRatio));
      Object.assign(canvas, { width, height });
    }
    draw();
  };
  const watch = new ResizeObserver(fit);
  for (const canvas of canvases) watch.observe(canvas);
  addEventListener("resize", fit);
  return () => {
    watch.disconnect();
    removeEventListener("resize", fit);
  };
}

// The page itself

function element(parent, tag, attributes = {}, words = "") {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.textContent = words;
  parent?.append(made);
  return made;
}

function build(el, { names, domains, streams, weights, made_by: madeBy }) {
  const root = element(el, "div", { class: "headlens", "data-lm-suppress-shortcuts": "true" });
  root.style.setProperty("--domains", domains.length);
  const bar = element(root, "div", { class: "bar" });
  const control = (name, tag, attributes = {}) =>
    element(element(bar, "label", {}, name), tag, { "aria-label": name, ...attributes });
  const image = control("image", "select");
  for (const name of names) element(image, "option", {}, name);
  const steps = [["‹", "previous image"], ["›", "next image"]].map(([sign, title]) =>
    element(bar, "button", { type: "button", "aria-label": title, title }, sign));
  const choice = element(bar, "span", { role: "radiogroup", "aria-label": "stream" });
  const group = `headlens-${Math.random()}`;  // a page may show several
  const radios = Object.keys(streams).map((value) => {
    const label = element(choice, "label"), radio = element(label, "input", { type: "radio", name: group, value });
    label.append(value);
    return radio;
  });
  const head = control("head", "input", { type: "text", size: 10, spellcheck: "false" });
  const quantity = control("grids", "select");
  if (Object.values(weights).some(learned)) element(quantity, "option", { value: "weights" }, "head weights");
  element(quantity, "option", { value: "effects" }, "direct effects");
  const outline = control("outline", "input", { type: "checkbox", checked: "" });
  element(bar, "span", { class: "working", role: "status" }, "computing…");
  const late = element(root, "div", { class: "late", role: "status" },
    "Python has not answered yet: its kernel is busy with another cell, or has stopped.");
  const error = element(root, "div", { class: "error", role: "alert" });

  const maps = element(root, "div", { class: "maps" }), panels = [], scales = {};
  const panel = (kind, number, about) => {
    const figure = element(maps, "figure"), caption = element(figure, "figcaption");
    const role = about.endsWith(".") ? { role: "application", tabindex: 0 } : { role: "img" };  // the former takes keys
    const canvas = element(figure, "canvas", { class: kind, "aria-label": about, ...role });
    panels.push({ canvas, kind, number, caption, why: element(figure, "p", { class: "why" }) });
  };
  panel("photo", 0, `the image. ${HELP[0]}`);
  const said = element(maps, "div", { class: "said" });
  const title = element(said, "b"), facts = element(said, "div"), live = element(said, "p", { "aria-live": "polite" });
  domains.forEach((name, number) => {
    panel("attention", number, `${name}: attention to each patch`);
    panel("contribution", number, `${name}: contribution of each patch`);
    panel("heads", number, `${name}: heads by layer, the last at the top. ${HELP[1]}`);
  });
  for (const kind of ["attention", "contribution", "heads"]) {
    scales[kind] = element(maps, "div", { class: "scale" });
    element(scales[kind], "i");
    for (let text = 0; text < 4; text++) element(scales[kind], "span");
  }
  const rows = element(scales.heads, "small"), help = element(root, "div", { class: "help" });
  for (const line of [HELP.join(" "), madeBy]) element(help, "p", {}, line);
  return { root, image, steps, streams: radios, head, quantity, outline, late, error, panels, scales, rows, title, facts, live };
}
