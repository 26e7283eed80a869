"use strict";

const UNITS = ["bytes", "kB", "MB", "GB", "TB", "PB"];

function formatBytes(count) {
  let scale = 0;
  while (scale + 1 < UNITS.length && count >= 1000) {
    count /= 1000;
    scale += 1;
  }
  return `${scale ? count.toPrecision(4) : count} ${UNITS[scale]}`;
}

function formatSeconds(seconds) {
  if (seconds >= 1) return `${seconds.toPrecision(4)} s`;
  return seconds >= 1e-3 ? `${(seconds * 1e3).toPrecision(4)} ms` : `${(seconds * 1e6).toPrecision(4)} µs`;
}

// What one curve says of a moment: its bytes and the op that runs there.
function moment(data, curve, seconds, title) {
  if (!curve.bytes.length || seconds > curve.seconds) return `${title}: the step is over`;
  const span = Math.min(curve.bytes.length - 1, Math.floor((seconds / curve.seconds) * curve.bytes.length));
  const [operator, phase, module, line] = data.ops[curve.ops[span]];
  const again = curve.again[span] ? ", recomputed" : "";
  return [`${title}: ${formatBytes(curve.bytes[span])}`, `${operator} (${phase}${again})`, module, line].filter(Boolean).join("\n");
}

function watch(figure) {
  const data = JSON.parse(figure.querySelector("script").textContent);
  const tooltip = figure.querySelector(".tooltip");
  const cursor = figure.querySelector(".cursor");
  const hide = () => { tooltip.hidden = cursor.hidden = true; };
  for (const drawing of figure.querySelectorAll(".drawing svg")) {
    const show = (event) => {
      const box = drawing.getBoundingClientRect();
      const outer = figure.getBoundingClientRect();
      const scale = box.width / drawing.viewBox.baseVal.width;
      const x = event.clientX - box.left;
      const share = (x / scale - data.margins.left) / (drawing.viewBox.baseVal.width - data.margins.left - data.margins.right);
      if (share < 0 || share > 1) return hide();
      const seconds = share * data.seconds;
      const at = data.timed ? formatSeconds(seconds) : `execution ${Math.round(seconds)}`;
      tooltip.textContent = [
        at, moment(data, data.plan, seconds, "This plan"), moment(data, data.unplanned, seconds, "Without recomputation"),
      ].join("\n\n");
      tooltip.hidden = cursor.hidden = false;
      const left = box.left - outer.left + x;
      cursor.style.left = `${left}px`;
      cursor.style.top = `${box.top - outer.top + data.margins.top * scale}px`;
      cursor.style.height = `${box.height - (data.margins.top + data.margins.bottom) * scale}px`;
      const room = outer.width - tooltip.offsetWidth;
      tooltip.style.left = `${Math.max(0, share < 0.5 ? Math.min(left + 12, room) : left - 12 - tooltip.offsetWidth)}px`;
    };
    drawing.addEventListener("pointermove", show);
    drawing.addEventListener("pointerdown", show);
    drawing.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") hide(); });
  }
}

function sortable(section) {
  const body = section.querySelector("tbody");
  const heads = [...section.querySelectorAll("th")];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const order = (row) => row.cells[column].dataset.order;
    const numbers = [...body.rows].every((row) => row.cells[column].classList.contains("number"));
    const first = numbers ? "descending" : "ascending";
    const other = numbers ? "ascending" : "descending";
    const direction = head.getAttribute("aria-sort") === first ? other : first;
    const sign = direction === "ascending" ? 1 : -1;
    const number = (row) => (order(row) === "inf" ? Infinity : Number(order(row)));
    const compare = numbers ? (a, b) => Math.sign(number(a) - number(b)) || 0
      : (a, b) => order(a).localeCompare(order(b), "en", { numeric: true });
    body.append(...[...body.rows].sort((a, b) => sign * compare(a, b)));
    heads.forEach((h) => h.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", direction);
  }));
}

function filterable(section) {
  const fields = [...section.querySelectorAll("[data-column]")];
  if (!fields.length) return;
  const rows = [...section.querySelector("tbody").rows];
  const apply = () => {
    let shown = 0;
    for (const row of rows) {
      const fits = fields.every((field) => {
        const text = row.cells[field.dataset.column].textContent.trim();
        return field.tagName === "SELECT" ? !field.value || text === field.value : text.includes(field.value.trim());
      });
      row.hidden = !fits;
      shown += fits;
    }
    section.querySelector("output").textContent = shown < rows.length ? `${shown} of ${rows.length} rows` : "";
  };
  fields.forEach((field) => field.addEventListener("input", apply));
}

document.querySelectorAll("figure.chart").forEach(watch);
document.querySelectorAll("section").forEach((section) => { sortable(section); filterable(section); });
