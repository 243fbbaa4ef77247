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
const several = index.models.length > 1; // then an entry is a problem with the samples of every model
if (several) {
  const problems = new Map();
  index.benchmarks.forEach((benchmark, b) => {
    benchmark.problems.forEach(([chunk, position, flags, tokens], problem) => {
      const key = benchmark.name + "/" + benchmark.ids[problem];
      if (!problems.has(key)) problems.set(key, { b, problem, models: index.models.map(() => null), tokens: 0 });
      const entry = problems.get(key);
      entry.models[benchmark.model] = { chunk, position, flags, tokens };
      entry.tokens = Math.max(entry.tokens, ...tokens);
    });
  });
  all.push(...problems.values());
} else {
  index.benchmarks.forEach((benchmark, b) => {
    benchmark.problems.forEach(([chunk, position, flags, tokens], problem) => {
      flags.forEach((f, sample) => all.push({ b, problem, chunk, position, sample, flags: f, tokens: tokens[sample] }));
    });
  });
}
// Of the samples of a model at a problem, the share that is right; undefined where it was not asked.
const share = (entry, model) =>
  entry.models[model] && entry.models[model].flags.filter((f) => f & F["right"]).length / entry.models[model].flags.length;
const PAIRED = {
  "all": () => true,
  "gained": (e) => share(e, 0) < 0.5 && share(e, index.models.length - 1) >= 0.5,
  "lost": (e) => share(e, 0) >= 0.5 && share(e, index.models.length - 1) < 0.5,
  "different": (e) => share(e, 0) !== share(e, index.models.length - 1),
  "nobody right": (e) => index.models.every((_, m) => share(e, m) === 0),
};
const passes = several
  ? (name) => PAIRED[name]
  : (name) => (entry) => CHOICES[name](entry.flags);

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

// Formulas between $..$, $$..$$, \\(..\\) and \\[..\\]; a "$" before a blank, or one that closes after one, is money.
const FORMULA = /\$\$([^$]+)\$\$|\\\[([\s\S]+?)\\\]|\\\(([\s\S]+?)\\\)|\$(?!\s)((?:[^$\\\n]|\\[^\n])+?)(?<!\s)\$(?!\d)/g;

function written(tag, className, text) {
  const made = element(tag, className);
  if (!at("maths").checked) {
    made.append(...marked(text));
    return made;
  }
  let start = 0;
  for (const match of text.matchAll(FORMULA)) {
    made.append(...marked(text.slice(start, match.index)));
    made.append(formula(match));
    start = match.index + match[0].length;
  }
  made.append(...marked(text.slice(start)));
  return made;
}

// MathML, made by KaTeX with DOM calls; what it cannot read stays as it was written.
function formula(match) {
  const made = element("span", "");
  const tex = match[1] || match[2] || match[3] || match[4];
  try {
    katex.render(tex, made, { output: "mathml", displayMode: Boolean(match[1] || match[2]), throwOnError: true,
      trust: false, strict: "ignore", maxExpand: 200 });
  } catch (error) {
    made.textContent = match[0];
  }
  made.title = match[0];
  return made;
}

// The text with what is searched for marked.
function marked(text) {
  const wanted = at("search").value.toLowerCase();
  if (!wanted) return [text];
  const parts = [];
  const lower = text.toLowerCase();
  let start = 0;
  for (let i = lower.indexOf(wanted); i >= 0; i = lower.indexOf(wanted, start)) {
    parts.push(text.slice(start, i), element("mark", "", text.slice(i, i + wanted.length)));
    start = i + wanted.length;
  }
  parts.push(text.slice(start));
  return parts;
}

// One problem, a column per model, in it every sample of that model.
function paired(entry, problems) {
  const some = problems.find((problem) => problem);
  const article = element("article", "");
  const head = element("div", "head");
  head.append(element("b", "", some.problem));
  index.models.forEach((name, m) => {
    if (problems[m]) head.append(element("span", "dim", name + ": " + Math.round(100 * share(entry, m)) + " % right"));
  });
  const facts = element("dl");
  term(facts, "gold", some.gold);
  for (const [name, value] of Object.entries(some.details)) term(facts, name, value);
  const columns = element("div", "columns");
  problems.forEach((problem, m) => {
    const column = element("div", "");
    column.append(element("h2", "", index.models[m]));
    if (!problem) column.append(element("p", "dim", "not asked"));
    (problem ? problem.samples : []).forEach((sample, i) => {
      const right = Boolean(entry.models[m].flags[i] & F["right"]);
      const shown = element("details");
      shown.open = i === 0;
      const line = element("summary", "");
      line.append("sample " + sample.sample + " ", element("span", "badge " + (right ? "right" : "wrong"), right ? "right" : "wrong"),
        " " + (sample.extracted || "no answer"));
      shown.append(line, written("pre", "text", sample.text));
      column.append(shown);
    });
    columns.append(column);
  });
  article.append(head, written("div", "question", some.question || some.prompt), facts, columns);
  return article;
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
  if (problem.question) article.append(head, written("div", "question", problem.question), facts, prompt);
  else article.append(head, facts, prompt);
  article.append(written("pre", "text", sample.text));
  return article;
}

async function select() {
  const mine = ++selecting;
  const wanted = at("benchmark").value;
  const accepts = passes(at("show").value);
  const number = at("problem").value.trim();
  const kept = all.filter((e) =>
    (wanted === "all" || index.benchmarks[e.b].name === wanted) && accepts(e) && (number === "" || idNumber(e) === number));
  const order = at("order").value;
  if (order !== "file") kept.sort((x, y) => (order === "long" ? y.tokens - x.tokens : x.tokens - y.tokens));
  const text = at("search").value.toLowerCase();
  found = kept;
  if (text) {
    at("count").textContent = "searching";
    found = [];
    for (const entry of kept) {
      if (await holds(entry, text)) found.push(entry);
      if (mine !== selecting) return false; // another choice was made meanwhile
    }
  }
  return mine === selecting;
}
let selecting = 0;

async function holds(entry, text) {
  const has = (problem, samples) =>
    [problem.question || problem.prompt, problem.gold, ...samples.flatMap((s) => [s.text, s.extracted])].some(
      (part) => String(part || "").toLowerCase().includes(text));
  if (!several) {
    const problem = (await chunk(entry.chunk))[entry.position];
    return has(problem, [problem.samples[entry.sample]]);
  }
  for (const place of entry.models) {
    if (!place) continue;
    const problem = (await chunk(place.chunk))[place.position];
    if (has(problem, problem.samples)) return true;
  }
  return false;
}

// The address says what is shown, so that a view can be kept or sent: #benchmark=math500&show=wrong&page=2
const CONTROLS = ["benchmark", "show", "problem", "order", "search"];

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
    found.length + " of " + all.length + (several ? " problems" : " samples") +
    (index.left_out ? " (" + index.left_out + " more are in samples.jsonl only)" : "") + ", page " + (page + 1) + " of " + pages;
  writeAddress();
  at("back").disabled = page === 0;
  at("next").disabled = page === pages - 1;
  try {
    const cards = await Promise.all(shown.map(shownCard));
    if (mine !== drawing) return;
    at("list").replaceChildren(...cards);
  } catch (error) {
    at("list").replaceChildren(element("p", "", "The samples cannot be unpacked (" + error +
      "). This page needs a browser with DecompressionStream: Chrome 80, Firefox 113, Safari 16.4 or newer."));
  }
  if (!shown.length) at("list").replaceChildren(element("p", "dim", "No such samples."));
  scrollTo(0, 0);
}

async function shownCard(entry) {
  if (!several) return card(entry, (await chunk(entry.chunk))[entry.position]);
  const places = entry.models.map(async (place) => place && (await chunk(place.chunk))[place.position]);
  return paired(entry, await Promise.all(places));
}

function option(select, value, text) {
  const made = element("option", "", text);
  made.value = value;
  select.append(made);
}

document.title = "Samples of " + index.models.join(" and ");
at("title").textContent = document.title;
if (several) document.body.className = "wide";
option(at("benchmark"), "all", "all");
for (const name of new Set(index.benchmarks.map((b) => b.name))) option(at("benchmark"), name, name);
for (const name of Object.keys(several ? PAIRED : CHOICES)) {
  const count = all.filter(passes(name)).length;
  option(at("show"), name, name + " (" + count + ")");
}
const DEFAULTS = Object.fromEntries(CONTROLS.map((id) => [id, at(id).value]));
for (const id of CONTROLS) {
  at(id).addEventListener(at(id).tagName === "SELECT" ? "change" : "input", async () => {
    if (!(await select())) return;
    page = 0;
    draw();
  });
}
at("maths").addEventListener("change", draw);
at("back").addEventListener("click", () => turn(-1));
at("next").addEventListener("click", () => turn(1));
addEventListener("keydown", (event) => {
  if (event.target.tagName === "INPUT" || event.target.tagName === "SELECT") return;
  if (event.key === "ArrowLeft") turn(-1);
  if (event.key === "ArrowRight") turn(1);
});
readAddress();
select().then((done) => done && draw());
