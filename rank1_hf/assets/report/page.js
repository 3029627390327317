// Shows the judgments that stand in the page as JSON (see rank1_hf/viewing/report.py for what is in it).
// All text from the data enters the document as text nodes, through el() and nothing else: it is never markup.
"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const two = data.names.length === 2;
const byId = (id) => document.getElementById(id);

const CHUNK = 50; // rows that are put into the page at a time
const LONG = 20000; // characters of a passage that are shown before one asks for the rest
const INVISIBLE = /[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f\u202a-\u202e\u2066-\u2069]/g;

// ---- making elements

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children.filter((child) => child !== null).map((child) => (child instanceof Node ? child : visible(child))));
  return node;
}
const el = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes = {}, ...children) =>
  fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

// Control characters, and the marks that turn the direction of what follows, are named instead of obeyed.
function visible(value) {
  return String(value).replace(INVISIBLE, (c) => `⟨U+${c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`);
}

const whole = (n) => n.toLocaleString("en");
const signed = (x, digits = 2) => (x < 0 ? "−" : "+") + Math.abs(x).toFixed(digits);
const percent = (p) => (p < 0.0005 ? "< 0.1 %" : `${(100 * p).toFixed(p < 0.0995 ? 1 : 0)} %`);
const mean = (values) => values.reduce((sum, value) => sum + value, 0) / Math.max(values.length, 1);
const level = (x) => Math.round(9 * Math.min(1, Math.max(0, x ?? 0)));
const several = (n, noun) => `${whole(n)} ${noun}${n === 1 ? "" : "s"}`;

// ---- what is known of a row

const first = (row) => row.runs.find((run) => run !== null);
const scored = (run) => run !== null && run.error === null;
const forced = (run) => scored(run) && run.ended !== "closed";
const bothScored = (row) => two && row.runs.every(scored);
const verdictsDiffer = (row) => bothScored(row) && row.runs[0].label !== row.runs[1].label;
const logOdds = (run) => run.log_odds ?? (run.label ? Infinity : -Infinity); // JSON has no infinity
const difference = (row) => (bothScored(row) ? Math.abs(logOdds(row.runs[0]) - logOdds(row.runs[1])) || 0 : -1);
const relevant = (row) => row.grade !== null && row.grade > 0;
const irrelevant = (row) => row.grade !== null && row.grade <= 0;
const queryOf = (row) => data.queries[row.query] ?? null;
const passageOf = (row) => data.passages[row.passage] ?? null;
const searched = (row) =>
  (row.text ??= [queryOf(row), passageOf(row), ...(row.ids ?? []), ...row.runs.map((run) => run?.pieces.join(""))].join("\n").toLowerCase());
const any = (test) => (row) => row.runs.some((run) => run !== null && test(run));
const everything = () => true;

// ---- what can be chosen: a label, and a test or the key of an order (smallest first)

const some = (test) => data.rows.some(any(test));
const traced = some((run) => run.trace);
const doubted = some((run) => run.entropy !== null);
const judged = data.rows.some((row) => row.grade !== null);
const choices = {
  verdict: [
    ["all", everything],
    ["true", any((run) => run.label === true)],
    ["false", any((run) => run.label === false)],
    ["none: could not be judged", any((run) => run.error !== null)],
  ],
  judged: [
    ["all", everything],
    ["relevant", relevant],
    ["not relevant", irrelevant],
    ["without a grade", (row) => row.grade === null],
    ["judged relevant, found false", (row) => relevant(row) && row.runs.some((run) => run?.label === false)],
    ["judged not relevant, found true", (row) => irrelevant(row) && row.runs.some((run) => run?.label === true)],
  ],
  ended: [
    ["all", everything],
    ["closed by the model", any((run) => run.ended === "closed")],
    ["closed by force", any(forced)],
    ["passage cut to fit", any((run) => run.truncated)],
  ],
  differ: [
    ["all", everything],
    ["verdicts differ", verdictsDiffer],
    ["chains differ", (row) => row.diverges !== null],
    ["chains are equal", (row) => bothScored(row) && row.diverges === null],
  ],
  order: [
    ["ranking", () => 0],
    ["as given", (row) => row.index],
    ["least sure verdict", (row) => (scored(first(row)) ? Math.abs(logOdds(first(row))) : Infinity)],
    ["longest chain", (row) => -first(row).n_chain_tokens],
    ...(doubted ? [["highest mean entropy", (row) => -(first(row).entropy ?? 0)]] : []),
    ...(two ? [["largest difference", (row) => -difference(row)]] : []),
  ],
  shade: [["entropy"], ...(traced ? [["margin"]] : []), ["none"]],
};
const filters = ["verdict", "judged", "ended", "differ"];
const chosen = (name) => choices[name][byId(name).selectedIndex];

// ---- the ranking

const list = byId("rows");
const sentinel = el("div");
let shown = [];

function select() {
  const words = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const tests = filters.map((name) => chosen(name)[1]).filter((test) => test !== everything);
  const key = chosen("order")[1];
  shown = data.rows
    .filter((row) => tests.every((test) => test(row)) && words.every((word) => searched(row).includes(word)))
    .sort((a, b) => key(a) - key(b) || 0); // Infinity - Infinity is no number
  list.replaceChildren(sentinel);
  more();
  fillScreen();
  byId("count").value = `${whole(shown.length)} of ${whole(data.rows.length)}`;
  byId("none").hidden = shown.length > 0;
  const open = shown.length > 0 && shown.every((row) => row.node?.open);
  byId("all").setAttribute("aria-pressed", open);
  byId("all").textContent = open ? "Close all" : "Open all";
}

function more(n = CHUNK) {
  const start = list.childElementCount - 1;
  sentinel.before(...shown.slice(start, start + n).map((row) => (row.node ??= rowView(row))));
}

// Rows are made as one comes near them: thousands that nobody looks at would cost seconds.
function fillScreen() {
  while (list.childElementCount <= shown.length && sentinel.getBoundingClientRect().top < 2 * innerHeight) more();
}

function rowView(row) {
  const details = el("details", {}, el("summary", {}, ...cells(row)));
  details.addEventListener("toggle", () => (details.open ? unfold(row) : fillScreen()));
  return details;
}

function unfold(row) {
  if (row.node.childElementCount === 1) row.node.append(judgmentView(row));
}

function cells(row) {
  const run = first(row);
  const text = passageOf(row) ?? run.error ?? run.pieces.join("");
  const what = el("span", { class: "what" }, el("span", {}, text.slice(0, 300).trim() || "(no text)"));
  if (data.queries.length > 1) what.append(el("span", { class: "asked" }, (queryOf(row) ?? "").slice(0, 300)));
  const named = row.ids && (row.ids[0] !== queryOf(row) || row.ids[1] !== passageOf(row));
  if (named) what.append(el("span", { class: "ids" }, `query ${row.ids[0].slice(0, 100)} · document ${row.ids[1].slice(0, 100)}`));
  const chips = el("span", { class: "chips" });
  if (judged) chips.append(el("span", { class: relevant(row) ? "chip relevant" : "chip" }, row.grade === null ? "no grade" : `grade ${row.grade}`));
  if (verdictsDiffer(row)) chips.append(el("span", { class: "chip parts" }, "verdicts differ"));
  else if (row.diverges) chips.append(el("span", { class: "chip parts" }, "chains diverge"));
  if (row.remarks.length) chips.append(el("span", { class: "chip parts" }, row.remarks.map((each) => each.split(":")[0]).join(", ")));
  if (row.runs.some(forced)) chips.append(el("span", { class: "chip" }, `closed by force: ${row.runs.find(forced).ended}`));
  if (row.runs.some((each) => each?.truncated)) chips.append(el("span", { class: "chip" }, "passage cut"));
  return [
    el("span", { class: "rank" }, run.rank ?? "–"),
    el("span", { class: "scores" }, ...row.runs.map(scoreView)),
    el("span", { class: "n" }, scored(run) ? whole(run.n_chain_tokens) : "–"),
    what,
    chips,
  ];
}

function scoreView(run, number) {
  const name = { "data-run": visible(data.names[number]) };
  if (!scored(run)) return el("span", { ...name, class: "score no-score" }, run === null ? "not in this run" : "no score");
  const bar = el("span", { class: "bar" });
  bar.style.setProperty("--share", `${100 * run.score}%`);
  return el("span", { ...name, class: run.label ? "score yes" : "score" }, bar, el("span", {}, run.score.toFixed(3)), el("span", {}, run.label));
}

// ---- one judgment

function judgmentView(row) {
  const view = el("div", { class: "judgment" });
  if (data.queries.length > 1) view.append(el("div", {}, el("h3", {}, "Query"), el("div", { class: "passage" }, queryOf(row) ?? "")));
  view.append(el("div", { class: "runs" }, ...row.runs.map((run, i) => runView(run, i, row.diverges?.[i] ?? null))));
  if (row.remarks.length) view.append(el("div", {}, el("h3", {}, "Findings"), el("ul", {}, ...row.remarks.map((each) => el("li", {}, each)))));
  const attentive = row.runs.find((run) => run?.trace?.attention);
  const read = attentive ? attentionView(attentive.trace) : passageOf(row) === null ? "" : passageView(passageOf(row));
  (two ? view : view.querySelector(".thought")).append(read); // below both chains, or beside the curves of the one
  return view;
}

function runView(run, number, parting) {
  const thought = el("div", { class: "thought" }, el("h3", {}, two ? data.names[number] : typeof run?.entropy === "number" ? "Chain, darker where the model was less sure" : "Chain"));
  const section = el("section", { class: "run" }, thought);
  if (!scored(run)) {
    thought.append(el("p", { class: "problem" }, run === null ? "This run does not have this pair." : run.error));
    return section;
  }
  const trace = run.trace;
  const entropies = trace ? trace.entropies : entropiesOfWords(run);
  const spans = run.pieces.map((piece, i) => {
    const span = el("span", { class: "t" }, i === 0 ? piece.trimStart() : piece);
    if (entropies[i]) span.classList.add(`e${level(1 - Math.exp(-entropies[i]))}`);
    if (trace) span.classList.add(`m${level(Math.exp(-(trace.margins[i] ?? Infinity)))}`);
    if (i >= run.kept) span.classList.add("dropped");
    if (i === parting) span.classList.add("parts");
    return span;
  });
  const chain = el("div", { class: "chain" }, ...spans);
  if (parting === spans.length) chain.append(el("span", { class: "t parts" }, " ends here, the other goes on"));
  const plots = el("div", { class: "plots" });
  thought.append(chain, endView(run), el("p", { class: "facts" }, facts(run)));
  let belief = null;
  if (run.belief.length) {
    belief = curve("Belief: log-odds if closed here", run.belief, "token", CAPTIONS.belief, (point) => {
      spans.forEach((span, i) => span.classList.toggle("point", point !== null && i === point[2] - 1));
    });
    plots.append(belief.node);
  }
  if (trace?.lens) plots.append(curve("Lens: log-odds read from each layer", trace.lens.map((y, i) => [i, y]), "layer", CAPTIONS.lens).node);
  if (trace && spans.length) {
    chain.setAttribute("aria-label", "Chain. The arrow keys go from token to token.");
    inspectable(chain, spans, (i) => tokenTip(run, i), (i) => belief?.cursor(i));
  }
  if (plots.childElementCount) {
    section.classList.add("traced");
    section.append(plots);
  }
  return section;
}

// Of a chain that was kept without its trace only the mean over each sentence is known.
function entropiesOfWords(run) {
  const found = [];
  for (const [, , stop, entropy] of run.belief) while (found.length < stop) found.push(entropy);
  return found;
}

function endView(run) {
  const verdict = el("b", { class: run.label ? "yes" : "" }, run.label);
  const how = {
    closed: null,
    budget: "Cut: the budget was used up. ",
    eos: "Cut: the model stopped without closing. ",
    context: "Cut: the context has no room for more. ",
    stopped: "Cut: a rule stopped it. ",
  }[run.ended];
  const dropped = run.kept < run.pieces.length ? "The unfinished sentence was dropped and the chain " : "The chain was ";
  return el(
    "p", { class: "end" },
    how && el("span", { class: "forced" }, how, dropped, "closed for the model. "),
    el("code", {}, "</think>"), " ", verdict, ` with p ${run.score.toFixed(4)}, log-odds ${signed(logOdds(run))}`,
  );
}

function facts(run) {
  const said = [`rank ${run.rank}`];
  if (run.n_prompt_tokens) said.push(`prompt ${several(run.n_prompt_tokens, "token")}`, `chain ${several(run.n_chain_tokens, "token")}`);
  if (run.truncated) said.push("the passage was cut at its end to fit");
  if (run.entropy !== null) said.push(`entropy ${run.entropy.toFixed(2)} nats a token`);
  if (run.trace?.seconds) said.push(`${run.trace.seconds.toFixed(1)} s`);
  return said.join(" · ");
}

function passageView(text) {
  const passage = el("div", { class: "passage" }, text.slice(0, LONG));
  const view = el("section", {}, el("h3", {}, "Passage"), passage);
  if (text.length > LONG) {
    const rest = el("button", { type: "button" }, `Show all ${whole(text.length)} characters`);
    rest.addEventListener("click", () => (passage.replaceChildren(visible(text)), rest.remove()));
    view.append(rest);
  }
  return view;
}

function attentionView(trace) {
  // Models put much of their attention on the very first token whatever it is, so the scale ends below the few largest.
  const top = [...trace.attention].sort((a, b) => a - b)[Math.floor(0.97 * (trace.attention.length - 1))] || 1;
  const spans = trace.prompt.map((text, i) => el("span", { class: `t a${level(trace.attention[i] / top)}` }, text));
  const prompt = el("div", { class: "passage", "aria-label": "Prompt. The arrow keys go from token to token." }, ...spans);
  inspectable(prompt, spans, (i) => [
    el("code", {}, spaces(trace.prompt[i])), el("p", {}, `${(100 * trace.attention[i]).toFixed(2)} % of the verdict's attention`),
  ]);
  return el("section", {}, el("h3", {}, "Prompt, shaded by the verdict's attention"), prompt);
}

// ---- tokens under the pointer or the arrow keys

const tip = byId("tip");

function inspectable(box, spans, describe, moved = () => {}) {
  const places = new Map(spans.map((span, i) => [span, i]));
  let at = null, last = 0;
  const go = (i) => {
    if (at !== null) spans[at].classList.remove("on");
    at = i;
    moved(i);
    tip.hidden = i === null;
    if (i === null) return;
    last = i;
    spans[i].classList.add("on");
    showTip(spans[i], describe(i));
  };
  box.tabIndex = 0;
  box.setAttribute("role", "group");
  box.addEventListener("mouseover", (event) => places.has(event.target) && go(places.get(event.target)));
  box.addEventListener("mouseleave", () => go(null));
  box.addEventListener("focus", () => box.matches(":focus-visible") && go(last));
  box.addEventListener("blur", () => go(null));
  box.addEventListener("keydown", (event) => {
    const to = { ArrowRight: last + (at === null ? 0 : 1), ArrowLeft: last - 1, Home: 0, End: spans.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    const i = Math.min(Math.max(to, 0), spans.length - 1);
    spans[i].scrollIntoView({ block: "nearest" });
    go(i);
  });
}

function showTip(anchor, content) {
  tip.replaceChildren(...content);
  tip.hidden = false;
  const box = anchor.getClientRects()[0] ?? anchor.getBoundingClientRect();
  const below = box.bottom + 8;
  tip.style.left = `${Math.max(8, Math.min(box.left, innerWidth - tip.offsetWidth - 8))}px`;
  tip.style.top = `${below + tip.offsetHeight > innerHeight ? box.top - tip.offsetHeight - 8 : below}px`;
}

const spaces = (text) => text.replaceAll(" ", "␣").replaceAll("\n", "⏎").replaceAll("\t", "⇥");

function tokenTip(run, i) {
  const { logprobs, alternatives, margins, entropies } = run.trace;
  const line = (text, share) => el("tr", {}, el("td", {}, el("code", {}, spaces(text))), el("td", {}, share === null ? "" : percent(share)));
  const p = logprobs[i] === null ? null : Math.exp(logprobs[i]);
  const said = [el("table", {}, line(run.pieces[i], p))];
  if (p === null) said.push(el("p", {}, `token ${i + 1} · inserted, not generated by the model`));
  else {
    said[0].append(line(alternatives[i], p * Math.exp(-(margins[i] ?? Infinity))));
    said.push(el("p", {}, `token ${i + 1} · entropy ${entropies[i].toFixed(2)} nats · margin ${margins[i]?.toFixed(2) ?? "∞"}`));
  }
  const before = run.belief.filter(([n]) => n <= i).at(-1);
  if (before) said.push(el("p", {}, `belief before it ${signed(before[1])}`));
  return said;
}

// ---- curves of log-odds

const CAPTIONS = {
  belief: "A dot: the verdict if the chain were closed there. The large dot: the verdict. Above the dotted line: true.",
  lens: "A dot: the verdict read from one layer. The large dot: the last layer. Above the dotted line: true.",
};

function curve(title, points, unit, caption, onPoint = () => {}) {
  const [width, height, left, right, top, bottom] = [280, 132, 36, 38, 10, 20];
  const ys = points.map(([, y]) => y).filter((y) => y !== null);
  const [low, high] = [Math.min(0, ...ys), Math.max(0, ...ys, Math.min(...ys) < 0 ? 0 : 1)];
  const end = Math.max(...points.map(([x]) => x), 1);
  const x = (value) => left + (value / end) * (width - left - right);
  const y = (value) => top + ((high - value) / (high - low || 1)) * (height - top - bottom);
  const [lastX, lastY] = points.at(-1);
  const sign = (value) => (value > 0 ? "yes" : "");
  const cursor = svg("line", { class: "cursor", y1: top, y2: height - bottom, visibility: "hidden" });
  const radius = points.length > 24 ? 1.75 : 3.25;
  const dots = points.map((point) => {
    const [n, value] = point;
    const dot = svg("circle", { class: sign(value), cx: x(n), cy: y(value), r: n === lastX ? 4.5 : radius });
    dot.addEventListener("mouseenter", () => {
      onPoint(point);
      showTip(dot, [el("span", {}, `${unit} ${n}: log-odds ${signed(value)}, p ${(1 / (1 + Math.exp(-value))).toFixed(3)}`)]);
    });
    dot.addEventListener("mouseleave", () => (onPoint(null), (tip.hidden = true)));
    return dot;
  });
  const ticks = [0, high, low].filter((value, i) => i === 0 || Math.abs(y(value) - y(0)) > 12);
  const chart = svg(
    "svg",
    { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${title}: from ${signed(points[0][1])} to ${signed(lastY)}` },
    svg("line", { class: "axis", x1: left, x2: left, y1: top, y2: height - bottom }),
    svg("line", { class: "zero", x1: left, x2: width - right, y1: y(0), y2: y(0) }),
    ...ticks.map((value) => svg("text", { x: left - 5, y: y(value) + 3.5, "text-anchor": "end" }, value === 0 ? "0" : signed(value, 1))),
    svg("text", { x: left, y: height - 5 }, points[0][0]),
    svg("text", { x: width - right, y: height - 5, "text-anchor": "end" }, `${unit} ${lastX}`),
    svg("polyline", { class: "line", points: points.map(([n, value]) => `${x(n)},${y(value)}`).join(" ") }),
    cursor,
    ...dots,
    svg("text", { class: `last ${sign(lastY)}`, x: x(lastX) + 8, y: y(lastY) + 4 }, signed(lastY, 1)),
  );
  return {
    node: el("figure", { class: "curve" }, el("h3", {}, title), chart, el("figcaption", {}, caption)),
    cursor(n) {
      cursor.setAttribute("visibility", n === null ? "hidden" : "visible");
      if (n !== null) for (const side of ["x1", "x2"]) cursor.setAttribute(side, x(n));
    },
  };
}

// ---- tables

function tableView({ title, columns, rows, n_texts: texts, note }) {
  const attributes = (i) => ({ "data-column": visible(columns[i]), ...(i < texts ? {} : { class: "number" }) });
  const line = (tag, cells) => el("tr", {}, ...cells.map((cell, i) => el(tag, attributes(i), ...(cell === "" ? [] : [cell]))));
  const table = el("table", {}, el("thead", {}, line("th", columns)), el("tbody", {}, ...rows.map((row) => line("td", row))));
  return el("section", { class: "table" }, el("h2", {}, title), table, note ? el("p", {}, note) : null);
}

// ---- the head, the controls and the keyboard

function counted(label) {
  const [, test] = choices.judged.find(([name]) => name === label);
  return `${whole(data.rows.filter(test).length)} ${label}`;
}

function summary() {
  const runs = data.rows.map((row) => row.runs[0]).filter(scored);
  const lost = data.rows.filter((row) => row.runs[0] && !scored(row.runs[0])).length;
  const said = [several(data.rows.length, "passage") + (data.queries.length > 1 ? ` for ${several(data.queries.length, "query").replace("querys", "queries")}` : "")];
  if (two) {
    const both = data.rows.filter(bothScored);
    const agree = both.filter((row) => !verdictsDiffer(row)).length;
    const equal = both.filter((row) => row.diverges === null).length;
    said.push(`verdicts agree on ${whole(agree)} of ${whole(both.length)}`, `chains are equal in ${whole(equal)}`);
  } else if (runs.length) {
    said.push(`${whole(runs.filter((run) => run.label).length)} found relevant`);
    said.push(`chains of ${Math.round(mean(runs.map((run) => run.n_chain_tokens)))} tokens on average`);
    if (judged) said.push(...["judged relevant, found false", "judged not relevant, found true"].map(counted));
    if (runs.some(forced)) said.push(`${whole(runs.filter(forced).length)} closed by force`);
  }
  if (lost) said.push(`${whole(lost)} could not be judged`);
  return said.join(" · ");
}

function madeView(made) {
  const row = (name) => made.rows.find(([label]) => label === name)?.slice(1) ?? [];
  const short = [...new Set(["model", "dtype", "device", "started"].flatMap(row).filter(Boolean))].join(" · ");
  return el("details", { id: "made" }, el("summary", {}, `How it was made${short ? `: ${short}` : ""}`), tableView(made));
}

function legend() {
  const swatch = (colour) => {
    const mark = el("span", { class: "mark swatch" });
    mark.style.setProperty("--of", `var(--${colour})`);
    return mark;
  };
  const sample = (name, text) => el("span", { class: `mark ${name}` }, text);
  const has = (test) => data.rows.some((row) => row.runs.some((run) => scored(run) && test(run)));
  return [
    [has((run) => run.label), swatch("true"), "teal: true, found relevant"],
    [has((run) => !run.label), swatch("false"), "clay: false, found not relevant"],
    [has(everything), sample("bar", ""), "the bar and the number: the score, p(true)"],
    [judged, sample("chip", "grade"), "the judged grade: 1 or more is relevant"],
    [doubted, swatch("doubt"), `amber: the darker a ${traced ? "token" : "word"}, the less sure the model was`],
    [has((run) => run.trace?.attention), swatch("attention"), "blue: the darker a token of the prompt, the more the verdict attends to it"],
    [two, swatch("parts"), "violet and ≠: where the two chains diverge"],
    [has((run) => run.kept < run.pieces.length), sample("t dropped", "text"), "struck through: dropped when the chain was closed for the model"],
  ].filter(([there]) => there).map(([, mark, text]) => el("li", {}, mark, text));
}

function toggleAll() {
  const open = !shown.every((row) => row.node?.open);
  more(shown.length);
  for (const row of shown) {
    row.node.open = open;
    if (open) unfold(row);
  }
  byId("all").setAttribute("aria-pressed", open);
  byId("all").textContent = open ? "Close all" : "Open all";
}

function showEverything() {
  byId("search").value = "";
  for (const name of filters) byId(name).selectedIndex = 0;
  select();
}

function onKey(event) {
  const target = event.target;
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (target.matches("input, select")) {
    if (event.key === "Escape") target.blur();
    return;
  }
  const row = target.closest("#rows details");
  if (event.key === "/") {
    event.preventDefault();
    byId("search").focus();
  } else if (event.key === "Escape" && row) {
    row.open = false;
    row.querySelector("summary").focus();
  } else if ((event.key === "ArrowDown" || event.key === "ArrowUp") && (target === document.body || target.matches("summary"))) {
    const next = event.key === "ArrowDown" ? (row ? row.nextElementSibling : list.firstElementChild) : row?.previousElementSibling;
    if (next?.matches("details")) {
      event.preventDefault();
      next.querySelector("summary").focus();
    }
  }
}

function start() {
  document.documentElement.classList.toggle("two", two);
  const query = data.queries.length === 1 ? data.queries[0] : "";
  byId("query").append(visible(query));
  byId("query").hidden = query === "";
  byId("summary").append(summary());
  if (data.made) document.querySelector("header").append(madeView(data.made));
  byId("legend").append(...legend());
  byId("tables").append(...data.tables.map(tableView));
  for (const name of ["summary", "controls", "legend", "judgments"]) byId(name).hidden = data.tables.length > 0 && data.rows.length === 0;
  byId("heading").append(
    el("span", {}, ""), el("span", { class: "scores" }, ...data.names.map((name) => el("span", {}, two ? name : "score"))),
    el("span", { class: "n" }, "tokens"), el("span", {}, data.passages.length ? "passage" : "chain"),
  );
  for (const [name, options] of Object.entries(choices)) {
    byId(name).append(...options.map(([label]) => el("option", {}, label)));
    byId(name).addEventListener("change", select);
  }
  byId("comparing").hidden = !two;
  byId("judging").hidden = !judged;
  byId("shading").hidden = !doubted;
  const shade = () => (list.dataset.shade = chosen("shade")[0]);
  byId("shade").addEventListener("change", shade);
  shade();
  byId("search").addEventListener("input", select);
  byId("controls").addEventListener("submit", (event) => event.preventDefault());
  byId("clear").addEventListener("click", showEverything);
  byId("all").addEventListener("click", toggleAll);
  document.addEventListener("keydown", onKey);
  document.addEventListener("scroll", () => (fillScreen(), (tip.hidden = true)), { passive: true });
  addEventListener("beforeprint", () => {
    more(shown.length);
    if (data.made) byId("made").open = true;
  });
  addEventListener("resize", fillScreen);
  select();
}

start();
