"use strict";
// Charts as SVG. Text reaches the page through text nodes only, never as markup.

const SVG = "http://www.w3.org/2000/svg";
const MINUS = "\u2212";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}
const h = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
const s = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

const known = (value) => value !== null && value !== undefined;
const plural = (count, word) => `${whole(count)} ${word}${count === 1 ? "" : "s"}`;
const whole = (value) => Math.round(value).toLocaleString("en").replace("-", MINUS);

function number(value, digits = 2) {
  if (!known(value)) return "–";
  const size = Math.abs(value);
  if (size >= 1000) return whole(value);
  if (digits > 2 && size > 0 && size < 0.5 * 10 ** -digits) return value.toExponential(1).replace("-", MINUS);
  return value.toFixed(size >= 100 ? 0 : digits).replace("-", MINUS);
}

// Round numbers from `low` to `high`, about `count` of them, and the digits that they need.
function ticks(low, high, count) {
  const rough = (high - low || 1) / count;
  const unit = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * unit).find((size) => size >= rough * 0.999);
  const first = Math.ceil(low / step - 1e-9);
  const last = Math.floor(high / step + 1e-9);
  const values = Array.from({ length: last - first + 1 }, (_, i) => (first + i) * step);
  return { values, digits: Math.max(0, -Math.floor(Math.log10(step) + 1e-9)) };
}

const tip = {
  node: null,
  show(event, text) {
    this.node = this.node || document.getElementById("tip");
    this.node.textContent = text;
    this.node.hidden = false;
    const box = event.target.getBoundingClientRect();
    const x = event.clientX || box.x + box.width / 2;
    const y = event.clientY || box.y;
    const { offsetWidth: width, offsetHeight: height } = this.node;
    this.node.style.left = `${Math.max(8, Math.min(x + 14, innerWidth - width - 8))}px`;
    this.node.style.top = `${y + 18 + height > innerHeight ? y - height - 12 : y + 18}px`;
  },
  hide() {
    if (this.node) this.node.hidden = true;
  },
};

// Draws now and again whenever the width changes, so that text keeps its size.
function chart(frame, height, label, draw) {
  const drawn = () => {
    const width = Math.max(180, Math.floor(frame.clientWidth));
    if (width === frame.drawnWidth) return;
    frame.drawnWidth = width;
    const svg = s("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
    draw(svg, width, height);
    frame.replaceChildren(svg);
  };
  new ResizeObserver(drawn).observe(frame);
  drawn();
}

// Scales, grid and axis labels of a chart with steps (or another number) along x.
function plane(svg, { width, height, x, y, left = 44, right = 10, top = 10, bottom = 26, xTicks, yTicks = 4, xLabel, yLabel }) {
  const scale = {
    x: (v) => left + ((v - x[0]) / (x[1] - x[0] || 1)) * (width - left - right),
    y: (v) => height - bottom - ((v - y[0]) / (y[1] - y[0] || 1)) * (height - top - bottom),
    unx: (pixel) => x[0] + ((pixel - left) / (width - left - right)) * (x[1] - x[0]),
    left, right: width - right, top, bottom: height - bottom,
  };
  const rows = ticks(y[0], y[1], yTicks);
  for (const v of rows.values) {
    svg.append(s("line", { class: "grid", x1: left, x2: width - right, y1: scale.y(v), y2: scale.y(v) }));
    svg.append(s("text", { x: left - 8, y: scale.y(v) + 4, "text-anchor": "end" }, number(v, rows.digits)));
  }
  const columns = ticks(x[0], x[1], xTicks || Math.max(2, Math.floor(width / 90)));
  for (const v of xTicks === 0 ? [] : columns.values) {
    svg.append(s("text", { x: scale.x(v), y: height - bottom + 18, "text-anchor": "middle" }, number(v, columns.digits)));
  }
  svg.append(s("line", { class: "axis", x1: left, x2: width - right, y1: scale.bottom, y2: scale.bottom }));
  if (xLabel) svg.append(s("text", { x: width - right, y: height - bottom - 7, "text-anchor": "end" }, xLabel));
  if (yLabel) svg.append(s("text", { x: 0, y: 14 }, yLabel));
  return scale;
}

const path = (points) => points.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");

// The range of `values` with a little air, and 0 or 1 inside when they are near.
function range(values, { floor = null } = {}) {
  let low = Math.min(...values);
  let high = Math.max(...values);
  if (low === high) [low, high] = [low - (Math.abs(low) || 1) * 0.5, high + (Math.abs(high) || 1) * 0.5];
  const air = (high - low) * 0.06;
  return [floor === null ? low - air : Math.min(floor, low), high + air];
}

// A vertical line that follows the pointer and names the nearest step's numbers.
function crosshair(svg, scale, points, text) {
  const line = s("line", { class: "cross", y1: scale.top, y2: scale.bottom, visibility: "hidden" });
  const nearest = (event) => {
    const x = scale.unx(event.clientX - svg.getBoundingClientRect().left);
    return points.reduce((best, p) => (Math.abs(p[0] - x) < Math.abs(best[0] - x) ? p : best));
  };
  const target = s("rect", {
    x: scale.left, y: scale.top, width: Math.max(0, scale.right - scale.left), height: Math.max(0, scale.bottom - scale.top),
    fill: "transparent",
    onpointermove: (event) => {
      const point = nearest(event);
      line.setAttribute("x1", scale.x(point[0]));
      line.setAttribute("x2", scale.x(point[0]));
      line.setAttribute("visibility", "visible");
      tip.show(event, text(point));
    },
    onpointerleave: () => {
      line.setAttribute("visibility", "hidden");
      tip.hide();
    },
  });
  svg.append(line, target);
}

function rewardChart(frame, rewards) {
  chart(frame, 300, `Mean reward over ${rewards.length} steps`, (svg, width, height) => {
    const steps = rewards.map((r) => r[0]);
    const y = range(rewards.flatMap((r) => r.slice(1)));
    const scale = plane(svg, { width, height, x: [steps[0], steps.at(-1)], y: [Math.max(0, y[0]), y[1]], xLabel: "step" });
    const upper = rewards.map((r) => [scale.x(r[0]), scale.y(r[3])]);
    const lower = rewards.map((r) => [scale.x(r[0]), scale.y(r[2])]).reverse();
    svg.append(s("path", { class: "band", d: `${path([...upper, ...lower])}Z` }));
    svg.append(s("path", { class: "line", d: path(rewards.map((r) => [scale.x(r[0]), scale.y(r[1])])) }));
    if (rewards.length <= 60) svg.append(...rewards.map((r) => s("circle", { class: "dot", r: 3.2, cx: scale.x(r[0]), cy: scale.y(r[1]) })));
    crosshair(svg, scale, rewards, (r) => `step ${r[0]}: mean ${number(r[1], 3)}\nmiddle half ${number(r[2], 3)} to ${number(r[3], 3)}`);
  });
}

function statesChart(frame, states, statuses) {
  chart(frame, 300, "Samples by status over the steps", (svg, width, height) => {
    const total = states[0].slice(1).reduce((sum, count) => sum + count, 0);
    const first = states[0][0];
    const end = states.at(-1)[0] + 1;
    const scale = plane(svg, { width, height, x: [first, end], y: [0, total], xLabel: null });
    let floor = states.map(() => 0);
    statuses.forEach((status, k) => {
      const roof = floor.map((value, i) => value + states[i][k + 1]);
      const edge = (heights) => states.flatMap(([step], i) => [[scale.x(step), scale.y(heights[i])], [scale.x(states[i + 1]?.[0] ?? end), scale.y(heights[i])]]);
      svg.append(s("path", { class: `area fill-${status}`, d: `${path([...edge(roof), ...edge(floor).reverse()])}Z` }));
      floor = roof;
    });
    crosshair(svg, scale, states, (row) => `step ${row[0]}\n${statuses.map((name, k) => `${name} ${row[k + 1]}`).filter((_, k) => row[k + 1]).join("\n")}`);
  });
}

function scatterChart(frame, samples, { limits, threshold, open }) {
  const shown = samples.filter((one) => known(one.state) && known(one.utility));
  if (!shown.length) return frame.append(h("p", { class: "note" }, "No sample has a utility and a state yet."));
  chart(frame, 334, "Utility against state, a point for each sample", (svg, width, height) => {
    const y = [0, range(shown.map((one) => one.utility), { floor: 0 })[1]];
    const scale = plane(svg, { width, height, x: [0, 1], y, xTicks: 5, top: 32, xLabel: "state", yLabel: "utility" });
    const guide = (x1, y1, x2, y2, name, x, y, anchor) => svg.append(s("line", { class: "guide", x1, y1, x2, y2 }), s("text", { class: "small", x, y, "text-anchor": anchor }, name));
    const upright = (limit, name, anchor, shift) => guide(scale.x(limit), scale.top, scale.x(limit), scale.bottom, name, scale.x(limit) + shift, scale.top + 3, anchor);
    upright(limits.remove, "cools down", "start", 6);
    upright(limits.keep, "decayed", "end", -6);
    if (known(threshold) && threshold <= y[1]) guide(scale.left, scale.y(threshold), scale.right, scale.y(threshold), "threshold", scale.left + 6, scale.y(threshold) - 6, "start");
    for (const one of shown) {
      const text = `${one.id}\n${one.status}, ${plural(one.visits, "visit")}\nstate ${number(one.state)}, utility ${number(one.utility, 3)}${one.question ? `\n${one.question}` : ""}`;
      const show = (event) => tip.show(event, text);
      const choose = () => open(one.id);
      svg.append(s("circle", {
        class: `point fill-${one.status}`, r: 4 + Math.min(6, Math.sqrt(one.visits)), cx: scale.x(one.state), cy: scale.y(one.utility),
        tabindex: 0, role: "button", "aria-label": text.replaceAll("\n", ", "),
        onpointermove: show, onpointerleave: () => tip.hide(), onfocus: show, onblur: () => tip.hide(), onclick: choose,
        onkeydown: (event) => (event.key === "Enter" || event.key === " ") && (event.preventDefault(), choose()),
      }));
    }
  });
}

function computeChart(frame, samples) {
  chart(frame, 240, "Visits of each sample, and visits saved by cooling", (svg, width, height) => {
    const top = Math.max(...samples.map((one) => one.visits + Math.max(0, one.visits_saved)), 1);
    const scale = plane(svg, { width, height, x: [0, samples.length], y: [0, top * 1.05], xTicks: 0, bottom: 12 });
    svg.append(s("defs", null, s("pattern", { id: "hatch", width: 5, height: 5, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" },
      s("line", { class: "hatch", x1: 0, y1: 0, x2: 0, y2: 5 }))));
    const step = scale.x(1) - scale.x(0);
    const gap = Math.min(6, step * 0.25);
    samples.forEach((one, i) => {
      const saved = Math.max(0, one.visits_saved);
      const bar = (kind, low, high) => s("rect", { class: kind, x: scale.x(i) + gap / 2, width: Math.max(0.5, step - gap), y: scale.y(high), height: Math.max(0, scale.y(low) - scale.y(high)) });
      const text = `${one.id}\n${plural(one.visits, "visit")}, ${whole(one.tokens)} tokens, ${number(one.seconds, 1)} s${saved ? `\nabout ${number(saved, 1)} visits saved` : ""}`;
      svg.append(s("g", { onpointermove: (event) => tip.show(event, text), onpointerleave: () => tip.hide() },
        bar(`fill-${one.status}`, 0, one.visits), saved ? bar("saved", one.visits, one.visits + saved) : null,
        s("rect", { x: scale.x(i), width: step, y: scale.top, height: scale.bottom - scale.top, fill: "transparent" })));
    });
  });
}

function lineChart(frame, name, points) {
  chart(frame, 104, `${name} over the steps`, (svg, width, height) => {
    const y = range(points.map((p) => p[1]));
    const scale = plane(svg, { width, height, x: [points[0][0], points.at(-1)[0]], y, yTicks: 2, xTicks: 3, left: 46, bottom: 22, top: 6 });
    svg.append(s("path", { class: "line", d: path(points.map((p) => [scale.x(p[0]), scale.y(p[1])])) }));
    crosshair(svg, scale, points, (p) => `step ${p[0]}: ${number(p[1], 4)}`);
  });
}

function sparkline(curve, steps, column, [low, high]) {
  const [width, height] = [96, 26];
  const x = (step) => 3 + ((step - steps[0]) / (steps[1] - steps[0] || 1)) * (width - 6);
  const y = (value) => height - 4 - ((value - low) / (high - low || 1)) * (height - 8);
  const points = curve.filter((p) => known(p[column])).map((p) => [x(p[0]), y(p[column])]);
  const svg = s("svg", { width, height, viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" });
  svg.append(s("line", { class: "grid", x1: 0, x2: width, y1: height - 3.5, y2: height - 3.5 }));
  if (points.length) svg.append(s("path", { class: "line", d: path(points) }), s("circle", { class: "dot", r: 2.8, cx: points.at(-1)[0], cy: points.at(-1)[1] }));
  return svg;
}
