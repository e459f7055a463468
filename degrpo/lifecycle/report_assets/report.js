// Puts the run's data on the page.

const data = JSON.parse(document.getElementById("data").textContent);
const at = (id) => document.getElementById(id);
const steps = [data.states[0][0], data.states.at(-1)[0]];
const average = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
const duration = (seconds) => (seconds < 120 ? `${number(seconds, 0)} s` : seconds < 7200 ? `${number(seconds / 60, 1)} min` : `${number(seconds / 3600, 1)} h`);
const signed = (value, digits) => `${value >= 0 ? "+" : ""}${number(value, digits)}`;

// First and last quarter, since single steps are noisy.
function rewardTrend() {
  const means = data.rewards.map((row) => row[1]);
  const quarter = Math.max(1, Math.floor(means.length / 4));
  return means.length ? [average(means.slice(0, quarter)), average(means.slice(-quarter))] : null;
}

function savedShare() {
  const { visits, visits_saved: saved } = data.compute;
  return saved > 0 ? saved / (visits + saved) : 0;
}

function drawHeader() {
  const { compute } = data;
  const last = Object.fromEntries(data.statuses.map((name, i) => [name, data.states.at(-1)[i + 1]]));
  const total = data.states.at(-1).slice(1).reduce((sum, count) => sum + count, 0);
  const trend = rewardTrend();
  const sentences = [`${plural(total, "sample")} over ${plural(data.states.length, "step")}.`];
  if (trend) sentences.push(`Mean reward went from ${number(trend[0])} in the first quarter to ${number(trend[1])} in the last.`);
  const aside = last.cooldown + last.removed;
  sentences.push(aside ? `${plural(aside, "sample")} ${aside === 1 ? "is" : "are"} set aside at the end.` : "No sample is set aside at the end.");
  at("summary").textContent = sentences.join(" ");
  const figures = [
    ["Reward", trend ? number(trend[1]) : "–", trend ? `${signed(trend[1] - trend[0])} since the first quarter` : null],
    ["Visits", whole(compute.visits), `${whole(compute.response_tokens)} response tokens`],
    ["Saved by cooling", `${number(Math.max(0, compute.visits_saved), 1)} visits`, `${number(100 * savedShare(), 0)}% of what uniform passes need`],
    ["Time", duration(compute.generate_seconds + compute.learn_seconds), `${duration(compute.generate_seconds)} generating`],
    ["Failed visits", whole(compute.failures), compute.failures ? "reasons are in the table" : null],
  ];
  at("figures").append(...figures.map(([name, value, note]) => h("div", null, h("dt", null, name), h("dd", null, value, note ? h("small", null, note) : null))));
}

function drawEvaluation() {
  const { evaluation } = data;
  if (!evaluation) return at("evaluation").append(h("p", null, "This run was not evaluated before and after."));
  const score = (value) => h("td", null, number(value, 3));
  const change = ({ before, after }) => {
    const moved = known(before) && known(after) ? after - before : null;
    return h("td", { class: `change ${moved > 0 ? "rise" : moved < 0 ? "fall" : ""}` }, known(moved) ? signed(moved, 3) : "–");
  };
  at("evaluation").append(
    h("h3", null, "Mean reward of greedy answers"),
    h("table", null,
      h("thead", null, h("tr", null, h("th", { scope: "col" }), ...["before", "after", "change"].map((name) => h("th", { scope: "col" }, name)))),
      h("tbody", null, evaluation.rows.map((row) => h("tr", null, h("th", { scope: "row" }, row.label), score(row.before), score(row.after), change(row))))));
  const constant = evaluation.best_constant;
  if (!known(constant)) return;
  const reward = typeof constant === "number" ? constant : constant.reward;
  at("evaluation").append(h("p", null, `The best single answer to everything earns ${number(reward, 3)}${constant.text ? `: “${constant.text}”` : "."}`));
}

function drawStates() {
  const last = data.states.at(-1);
  at("states-legend").append(...data.statuses
    .map((name, i) => [name, last[i + 1], data.states.some((row) => row[i + 1])])
    .filter(([, , ever]) => ever)
    .map(([name, count]) => h("span", { class: `ink-${name}` }, h("i"), h("span", null, `${name} `), h("b", null, count))));
  statesChart(at("states-chart"), data.states, data.statuses);
  scatterChart(at("scatter-chart"), data.samples, { limits: data.limits, threshold: data.threshold, open: openSample });
}

function drawCompute() {
  const { compute, events } = data;
  computeChart(at("compute-chart"), data.samples);
  const row = (name, spent, saved) => h("tr", null, h("th", { scope: "row" }, name), h("td", null, spent), h("td", null, saved));
  const seconds = compute.generate_seconds + compute.learn_seconds;
  const kinds = Object.entries(events).filter(([, count]) => count);
  at("compute").append(
    h("table", null,
      h("thead", null, h("tr", null, h("th", { scope: "col" }), h("th", { scope: "col" }, "spent"), h("th", { scope: "col" }, "saved"))),
      h("tbody", null,
        row("Visits", whole(compute.visits), number(compute.visits_saved, 1)),
        row("Response tokens", whole(compute.response_tokens), whole(compute.tokens_saved)),
        row("Generating and learning", duration(seconds), duration(Math.max(0, compute.seconds_saved))))),
    h("p", null, `Events: ${kinds.map(([kind, count]) => `${kind} ${whole(count)}`).join(", ")}.`));
}

function drawHeldOut() {
  const answered = data.held_out.filter((one) => one.before || one.after).slice(0, 12);
  at("held-out").hidden = !answered.length;
  at("held-out-cards").append(...answered.map((one) => h("article", null, thumbnail(one),
    h("div", null, h("div", { class: "question" }, one.question), replies([["truth", { text: one.answer }], ["before", one.before], ["after", one.after]])))));
}

function drawMetrics() {
  const order = ["loss", "rollout", "optim", "reward", "lifecycle", "time", "perf", "eval"];
  const place = ({ name }) => order.indexOf(name.split("/")[0]);
  const metrics = [...data.metrics].sort((a, b) => place(a) - place(b) || a.name.localeCompare(b.name));
  at("metrics-section").hidden = !metrics.length;
  const first = metrics.filter(({ name }) => /^(loss|optim|rollout)\//.test(name)).slice(0, 8);
  const draw = (frame, list) => list.forEach(({ name, points }) => {
    const box = h("div", { class: "chart" });
    frame.append(h("figure", null, h("figcaption", null, h("span", null, name), h("b", null, number(points.at(-1)[1], 3))), box));
    lineChart(box, name, points);
  });
  const shown = first.length ? first : metrics.slice(0, 8);
  const rest = metrics.filter((one) => !shown.includes(one));
  draw(at("metrics"), shown);
  const more = at("more-metrics");
  more.hidden = !rest.length;
  more.firstElementChild.textContent = `${plural(rest.length, "more metric")}`;
  more.addEventListener("toggle", () => draw(more.lastElementChild, rest), { once: true });
}

function drawRun() {
  at("facts").append(...data.facts.map(([name, value]) => h("div", null, h("dt", null, name), h("dd", null, value))));
  const total = Object.values(data.events).reduce((sum, count) => sum + count, 0);
  at("audit").textContent = data.audit.length
    ? `The log is not complete.\n${data.audit.join("\n")}`
    : `The log is complete: ${whole(total)} events without a gap, and every proposed sample was trained on or has a reason why not.`;
  at("audit").classList.toggle("broken", data.audit.length > 0);
}

function thumbnail(one) {
  const pictures = data.clips[one.clip];
  return pictures ? h("img", { class: "thumb", src: pictures.face, alt: "", width: 72, height: 72 }) : h("div", { class: "thumb none" }, "no picture");
}

function replies(list) {
  const given = list.filter(([, reply]) => reply);
  if (!given.length) return h("p", { class: "note" }, "No responses were kept.");
  return h("dl", { class: "replies" }, given.flatMap(([name, { text, reward }]) => [
    h("dt", null, name), h("dd", null, text || "(empty)"), h("dd", { class: "score" }, known(reward) ? number(reward, 3) : ""),
  ]));
}

// What is drawn for an event under a sample's curve, and in which status's colour.
const GLYPHS = {
  trained: ["●", "discover"], failed: ["×", "removed"], probed: ["◇", "cooldown"], decayed: ["◆", "decayed"],
  cooled: ["▼", "cooldown"], revived: ["▲", "active"], removed: ["■", "removed"],
};

function glyphLegend(events) {
  const kinds = Object.keys(GLYPHS).filter((kind) => events.some(([, event]) => event === kind));
  return h("div", { class: "glyphs" }, kinds.map((kind) => h("span", null, h("span", { class: `ink-${GLYPHS[kind][1]}` }, GLYPHS[kind][0]), ` ${kind}`)));
}

// Step by step: state and reward, shaded where the sample was set aside, and what happened below.

function lifeChart(frame, one) {
  chart(frame, 190, `State and reward of sample ${one.id} over the steps`, (svg, width, height) => {
    const rewards = one.curve.map((p) => p[1]).filter(known);
    const scale = plane(svg, { width, height, x: steps, y: [0, Math.max(1, ...rewards)], yTicks: 2, left: 30, right: 12, bottom: 50 });
    let start = null;
    const shade = (end) => svg.append(s("rect", { class: "aside-band", x: scale.x(start), width: Math.max(1, scale.x(end) - scale.x(start)), y: scale.top, height: scale.bottom - scale.top }));
    for (const [step, event] of one.events) {
      if (event === "cooled" || event === "removed") start = start ?? step;
      if (event === "revived" && start !== null) shade(step), (start = null);
    }
    if (start !== null) shade(steps[1]);
    const line = (column, kind) => s("path", { class: kind, d: path(one.curve.filter((p) => known(p[column])).map((p) => [scale.x(p[0]), scale.y(p[column])])) });
    svg.append(line(1, "line quiet"), line(2, "line"));
    const stacked = {};
    for (const [step, event, , reason] of one.events.filter(([, event]) => GLYPHS[event])) {
      const level = (stacked[step] = (stacked[step] ?? -1) + 1);
      const [glyph, status] = GLYPHS[event];
      svg.append(s("text", { class: `fill-${status}`, x: scale.x(step), y: height - 14 + level * 12, "text-anchor": "middle",
        onpointermove: (e) => tip.show(e, `step ${step}: ${event}${reason ? `\n${reason}` : ""}`), onpointerleave: () => tip.hide() }, glyph));
    }
  });
}

function eventTable(events) {
  const rows = events.map(([step, event, version, reason, detail, reward, utility, state, flags]) => {
    const why = [reason, flags.length ? `flags: ${flags.join(", ")}` : "", detail].filter(Boolean).join("\n");
    const cell = (value) => h("td", { class: "num" }, known(value) ? number(value, 3) : "");
    return h("tr", null, h("td", { class: "num" }, step), h("td", null, event), h("td", { class: "num" }, version), cell(reward), cell(utility), cell(state), h("td", { class: "why" }, why));
  });
  const head = [["step", "num"], ["event"], ["policy", "num"], ["reward", "num"], ["utility", "num"], ["state", "num"], ["why"]];
  return h("div", { class: "events-frame", tabindex: 0, role: "region", "aria-label": "events" }, h("table", { class: "events" },
    h("thead", null, h("tr", null, head.map(([name, kind]) => h("th", { scope: "col", class: kind }, name)))), h("tbody", null, rows)));
}

function lifeOf(one) {
  const pictures = data.clips[one.clip];
  const curve = h("div", { class: "chart" });
  const facts = [`id ${one.id}`, one.source, one.targets?.length ? `targets: ${one.targets.join(", ")}` : "", one.probes ? plural(one.probes, "probe") : "",
    one.failures ? plural(one.failures, "failed visit") : "", one.visits_saved > 0 ? `about ${number(one.visits_saved, 1)} visits saved` : ""];
  const body = h("div", { class: "life" },
    h("div", { class: "wide" }, pictures ? h("div", { class: "strip" }, pictures.strip.map((src) => h("img", { src, alt: "" }))) : null, h("code", null, facts.filter(Boolean).join(" · "))),
    h("div", null, h("h3", null, "Responses"), replies([["best", one.best], ["worst", one.worst], ["before RL", one.before], ["after RL", one.after]])),
    h("div", null, h("h3", null, "State (blue) and reward (grey)"), curve, glyphLegend(one.events)),
    h("div", { class: "wide" }, h("h3", null, plural(one.events.length, "event")), eventTable(one.events)));
  return { body, draw: () => lifeChart(curve, one) };
}

const gain = (one) => (known(one.reward_first) ? one.reward_last - one.reward_first : null);
const COLUMNS = [
  { name: "Clip", key: (one) => one.source || "" },
  { name: "Question and target answer", key: (one) => one.question || one.id },
  { name: "Status", key: (one) => data.statuses.indexOf(one.status) },
  { name: "Visits", key: (one) => one.visits, number: true, down: true },
  { name: "State", key: (one) => one.state, down: true },
  { name: "Utility", key: (one) => one.utility, number: true, down: true },
  { name: "Reward, first to last", key: gain, down: true },
  { name: "Tokens", key: (one) => one.tokens, number: true, down: true },
];
const BY_VISITS = 3;

function sampleBody(one) {
  const moved = gain(one);
  const cell = (index, attributes, ...children) => h("td", { "data-label": COLUMNS[index].name, ...attributes }, ...children);
  const details = h("details", null, h("summary", null, "Life of this sample"));
  let life = null;
  details.addEventListener("toggle", () => {
    if (life || !details.open) return;
    life = lifeOf(one);
    details.append(life.body);
    life.draw();
  });
  const body = h("tbody", { id: `sample-${one.id}` },
    h("tr", { class: "row" },
      h("td", { class: "clip", rowspan: 2 }, thumbnail(one)),
      h("td", { class: "what" }, h("div", { class: "question" }, one.question || one.id), h("div", { class: "answer" }, one.answer || "not in the corpus any more")),
      cell(2, null, h("span", { class: `status ink-${one.status}` }, h("i"), h("span", null, one.status))),
      cell(3, { class: "number" }, one.visits),
      cell(4, null, sparkline(one.curve, steps, 2, [0, 1]), number(one.state)),
      cell(5, { class: "number" }, number(one.utility, 3)),
      cell(6, { class: "wide" }, sparkline(one.curve, steps, 1, rewardRange), `${number(one.reward_first)} → ${number(one.reward_last)} `,
        moved ? h("span", { class: moved > 0 ? "rise" : "fall" }, signed(moved)) : null),
      cell(7, { class: "number" }, whole(one.tokens))),
    h("tr", { class: "more" }, h("td", { colspan: COLUMNS.length - 1 }, details)));
  return { one, body, details, text: [one.id, one.question, one.answer, one.source, one.status, ...(one.targets || [])].join(" ").toLowerCase() };
}

const means = data.samples.flatMap((one) => one.curve.map((p) => p[1])).filter(known);
const rewardRange = [Math.min(...means, 1), Math.max(...means, 0)];
const rows = data.samples.map(sampleBody);
const hiddenStatuses = new Set();
const headers = COLUMNS.map((column, index) => h("th", { scope: "col", class: column.number ? "number" : null },
  h("button", { type: "button", onclick: () => sortBy(index) }, column.name)));

function sortBy(index, reverse) {
  const header = headers[index];
  const { key, down } = COLUMNS[index];
  const descending = reverse ?? (header.hasAttribute("aria-sort") ? header.getAttribute("aria-sort") === "ascending" : Boolean(down));
  headers.forEach((other) => other.removeAttribute("aria-sort"));
  header.setAttribute("aria-sort", descending ? "descending" : "ascending");
  const compare = (a, b) => {
    const [x, y] = [key(a.one), key(b.one)];
    if (!known(x) || !known(y)) return known(y) - known(x); // the unknown come last either way
    return (typeof x === "string" ? x.localeCompare(y) : x - y) * (descending ? -1 : 1);
  };
  rows.sort(compare);
  at("samples").append(...rows.map((row) => row.body));
}

function filterRows() {
  const words = at("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  let count = 0;
  for (const { one, body, text } of rows) {
    const shown = !hiddenStatuses.has(one.status) && words.every((word) => text.includes(word));
    body.hidden = !shown;
    count += shown;
  }
  const note = data.not_shown ? ` The page holds the ${rows.length} most visited; ${plural(data.not_shown, "more sample")} are in the log.` : "";
  at("samples-note").textContent = `${whole(count)} of ${plural(rows.length, "sample")}.${note}`;
}

function drawSamples() {
  const statuses = data.statuses.filter((name) => data.samples.some((one) => one.status === name));
  const toggle = (name) => h("button", { type: "button", "aria-pressed": "true", onclick: (event) => {
    const off = !hiddenStatuses.delete(name) && hiddenStatuses.add(name);
    event.currentTarget.setAttribute("aria-pressed", off ? "false" : "true");
    filterRows();
  } }, h("i", { class: `ink-${name}` }), name);
  const choices = COLUMNS.map((column, index) => h("option", { value: index, selected: index === BY_VISITS }, `sort by ${column.name.toLowerCase()}`));
  at("controls").append(
    h("input", { id: "filter", type: "search", placeholder: "Find a question, answer, target or id", "aria-label": "Find samples", oninput: filterRows }),
    ...(statuses.length > 1 ? statuses.map(toggle) : []),
    h("select", { class: "sort", "aria-label": "Sort by", onchange: (event) => sortBy(Number(event.target.value), Boolean(COLUMNS[event.target.value].down)) }, choices));
  at("samples").append(h("thead", null, h("tr", null, headers)));
  sortBy(BY_VISITS, true);
  filterRows();
}

function openSample(id) {
  const row = rows.find(({ one }) => one.id === id);
  row.body.hidden = false;
  row.details.open = true;
  row.body.scrollIntoView({ block: "start" });
}

drawHeader();
if (data.rewards.length) rewardChart(at("reward-chart"), data.rewards);
drawEvaluation();
drawStates();
drawCompute();
drawHeldOut();
drawSamples();
drawMetrics();
drawRun();
