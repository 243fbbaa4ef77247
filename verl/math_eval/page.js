"use strict";
// Everything a model wrote reaches the page through textContent, never as markup.
const index = JSON.parse(document.getElementById("index").textContent);
const PER_PAGE = 20;
const F = index.flags;
const CHOICES = {
  "all": () => true,
  "right": (f) => f & F["right"],
  "wrong": (f) => !(f & F["right"]),
  "wrong, not truncated": (f) => !(f & F["right"]) && !(f & F["truncated"]),
  "truncated": (f) => f & F["truncated"],
  "no answer": (f) => f & F["no answer"],
  "ungraded": (f) => f & F["ungraded"],
  "undecided": (f) => f & F["undecided"],
  "ends in a loop": (f) => f & F["loop"],
};

const all = []; // one entry per sample: where it is, and what the filters need
index.benchmarks.forEach((benchmark, b) => {
  benchmark.problems.forEach(([chunk, position, flags, tokens], problem) => {
    flags.forEach((f, sample) => all.push({ b, problem, chunk, position, sample, flags: f, tokens: tokens[sample] }));
  });
});

let found = all;
let page = 0;
let drawing = 0; // number of the newest drawing: a slower one that was overtaken gives up

const at = (id) => document.getElementById(id);

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

const unpacked = new Map();
function chunk(number) {
  if (!unpacked.has(number)) {
    if (unpacked.size > 40) unpacked.delete(unpacked.keys().next().value);
    unpacked.set(number, unpack(at("chunk" + number).textContent));
  }
  return unpacked.get(number);
}

async function unpack(encoded) {
  const bytes = Uint8Array.from(atob(encoded), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

function term(list, name, value) {
  if (value === undefined || value === null || value === "") return;
  list.append(element("dt", "", name), element("dd", "", String(value)));
}

function card(entry, problem) {
  const sample = problem.samples[entry.sample];
  const right = Boolean(entry.flags & F["right"]);
  const article = element("article", right ? "right" : "wrong");
  const head = element("div", "head");
  head.append(element("b", "", problem.problem), element("span", "dim", "sample " + sample.sample));
  head.append(element("span", "badge " + (right ? "right" : "wrong"), right ? "right" : "wrong"));
  for (const name of ["truncated", "no answer", "ungraded", "undecided", "loop"]) {
    if (entry.flags & F[name]) head.append(element("span", "badge other", name));
  }
  head.append(element("span", "dim", entry.tokens + " tokens, " + sample.finish_reason));
  const facts = element("dl");
  term(facts, "gold", problem.gold);
  term(facts, "found", sample.extracted);
  term(facts, "how", sample.method + (sample.reason ? "; " + sample.reason : ""));
  if (sample.legacy !== null && sample.legacy !== undefined && sample.legacy !== right) {
    term(facts, "original's rules", sample.legacy ? "right" : "wrong");
  }
  for (const [name, value] of Object.entries(problem.details)) term(facts, name, value);
  const prompt = element("details");
  prompt.append(element("summary", "", "prompt"), element("pre", "", problem.prompt));
  article.append(head, facts, prompt, element("pre", "text", sample.text));
  return article;
}

function select() {
  const wanted = at("benchmark").value;
  const passes = CHOICES[at("show").value];
  const number = at("problem").value.trim();
  found = all.filter((e) =>
    (wanted === "all" || index.benchmarks[e.b].name === wanted) && passes(e.flags) && (number === "" || idNumber(e) === number));
  const order = at("order").value;
  if (order !== "file") found.sort((x, y) => (order === "long" ? y.tokens - x.tokens : x.tokens - y.tokens));
}

// The address says what is shown, so that a view can be kept or sent: #benchmark=math500&show=wrong&page=2
const CONTROLS = ["benchmark", "show", "problem", "order"];

function readAddress() {
  const asked = new URLSearchParams(location.hash.slice(1));
  for (const id of CONTROLS) if (asked.has(id)) at(id).value = asked.get(id);
  page = (Number(asked.get("page")) || 1) - 1;
}

function writeAddress() {
  const said = new URLSearchParams();
  for (const id of CONTROLS) if (at(id).value !== DEFAULTS[id]) said.set(id, at(id).value);
  if (page) said.set("page", page + 1);
  history.replaceState(null, "", "#" + said);
}

function turn(pages) {
  page += pages;
  draw();
}

const idNumber = (entry) => String(index.benchmarks[entry.b].ids[entry.problem]);

async function draw() {
  const mine = ++drawing;
  const pages = Math.max(1, Math.ceil(found.length / PER_PAGE));
  page = Math.min(Math.max(page, 0), pages - 1);
  const shown = found.slice(page * PER_PAGE, (page + 1) * PER_PAGE);
  at("count").textContent =
    found.length + " of " + all.length + " samples" +
    (index.left_out ? " (" + index.left_out + " more are in samples.jsonl only)" : "") + ", page " + (page + 1) + " of " + pages;
  writeAddress();
  at("back").disabled = page === 0;
  at("next").disabled = page === pages - 1;
  try {
    const chunks = await Promise.all(shown.map((entry) => chunk(entry.chunk)));
    if (mine !== drawing) return;
    at("list").replaceChildren(...shown.map((entry, i) => card(entry, chunks[i][entry.position])));
  } catch (error) {
    at("list").replaceChildren(element("p", "", "The samples cannot be unpacked (" + error +
      "). This page needs a browser with DecompressionStream: Chrome 80, Firefox 113, Safari 16.4 or newer."));
  }
  if (!shown.length) at("list").replaceChildren(element("p", "dim", "No such samples."));
  scrollTo(0, 0);
}

function option(select, value, text) {
  const made = element("option", "", text);
  made.value = value;
  select.append(made);
}

document.title = "Samples of " + index.label;
at("title").textContent = "Samples of " + index.label;
option(at("benchmark"), "all", "all");
for (const benchmark of index.benchmarks) option(at("benchmark"), benchmark.name, benchmark.name);
for (const name of Object.keys(CHOICES)) {
  const count = all.filter((e) => CHOICES[name](e.flags)).length;
  option(at("show"), name, name + " (" + count + ")");
}
const DEFAULTS = Object.fromEntries(CONTROLS.map((id) => [id, at(id).value]));
for (const id of CONTROLS) {
  at(id).addEventListener(at(id).tagName === "SELECT" ? "change" : "input", () => {
    select();
    page = 0;
    draw();
  });
}
at("back").addEventListener("click", () => turn(-1));
at("next").addEventListener("click", () => turn(1));
addEventListener("keydown", (event) => {
  if (event.target.tagName === "INPUT" || event.target.tagName === "SELECT") return;
  if (event.key === "ArrowLeft") turn(-1);
  if (event.key === "ArrowRight") turn(1);
});
readAddress();
select();
draw();
