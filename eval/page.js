"use strict";
// Tables that sort, and the error browser. Text of articles reaches the page through textContent only.

for (const table of document.querySelectorAll("table.sorts")) {
  const headers = [...table.tHead.rows[0].cells];
  headers.forEach((header, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    header.append(button);
    button.addEventListener("click", () => {
      const descending = header.getAttribute("aria-sort") !== "descending";
      headers.forEach((other) => other.removeAttribute("aria-sort"));
      header.setAttribute("aria-sort", descending ? "descending" : "ascending");
      const key = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent;
      const rows = [...table.tBodies[0].rows].filter((row) => !row.classList.contains("total"));
      const numeric = rows.every((row) => key(row) === "" || !Number.isNaN(Number(key(row))));
      const order = numeric ? (a, b) => Number(key(a)) - Number(key(b)) : (a, b) => key(a).localeCompare(key(b));
      rows.sort((a, b) => (descending ? order(b, a) : order(a, b)));
      const totals = [...table.tBodies[0].rows].filter((row) => row.classList.contains("total"));
      table.tBodies[0].append(...rows, ...totals);
    });
  });
}

const PAGE = 20;
const data = JSON.parse(document.getElementById("articles").textContent);
const list = document.getElementById("list");
const status = document.getElementById("status");
const more = document.getElementById("more");
const filters = Object.fromEntries(["label", "kind", "slice", "value", "find"].map((name) => [name, document.getElementById(name)]));
let found = [];
let shown = 0;

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function options(select, values) {
  select.replaceChildren(...values.map(([value, text]) => {
    const option = element("option", "", text);
    option.value = value;
    return option;
  }));
}

// Offsets count code points; a JavaScript string counts UTF-16 units.
function marked(points, spans, wrong, label) {
  const box = element("div");
  let done = 0;
  for (const [start, end, name, score] of spans) {
    box.append(points.slice(done, start).join(""));
    const mark = element("mark", name, points.slice(start, end).join(""));
    if (wrong.has(start + ":" + end)) mark.classList.add("wrong");
    if (label && name !== label) mark.classList.add("faded");
    mark.append(element("small", "", name));
    mark.title = score === undefined ? name : name + " " + score.toFixed(3);
    box.append(mark);
    done = end;
  }
  box.append(points.slice(done).join(""));
  return box;
}

function side(title, content) {
  const box = element("div", "side");
  box.append(element("h4", "", title), content);
  return box;
}

function render(article) {
  const points = Array.from(article.text);
  const errors = article.errors.filter(wanted);
  const wrong = [new Set(), new Set()];
  for (const error of errors) {
    error.annotated.forEach((at) => wrong[0].add(at[0] + ":" + at[1]));
    error.predicted.forEach((at) => wrong[1].add(at[0] + ":" + at[1]));
  }
  const box = element("article");
  const slices = Object.entries(article.slices).map(([name, value]) => name + ": " + value).join(" · ");
  box.append(element("h3", "", article.id), element("div", "soft", slices));
  const kinds = element("ul", "errors");
  for (const error of errors) {
    const at = (error.annotated[0] || error.predicted[0]);
    kinds.append(element("li", "", error.kind + ": " + error.label + " “" + points.slice(at[0], at[1]).join("") + "”"));
  }
  if (!article.errors.length) kinds.append(element("li", "right", "everything right"));
  const sides = element("div", "sides");
  sides.append(
    side("annotated", marked(points, article.annotated, wrong[0], filters.label.value)),
    side("predicted", marked(points, article.predicted, wrong[1], filters.label.value)),
  );
  box.append(kinds, sides);
  return box;
}

function wanted(error) {
  const { label, kind } = filters;
  return (!label.value || error.label === label.value || error.predicted.some((at) => at[2] === label.value))
    && (!kind.value || kind.value === "any" || error.kind === kind.value);
}

function matches(article) {
  const { label, kind, slice, value, find } = filters;
  if (slice.value && value.value && article.slices[slice.value] !== value.value.slice(1)) return false;
  if (find.value && !(article.id + "\n" + article.text).toLowerCase().includes(find.value.toLowerCase())) return false;
  if (kind.value) return article.errors.some(wanted);
  return !label.value || [...article.annotated, ...article.predicted].some((span) => span[2] === label.value);
}

function showMore() {
  list.append(...found.slice(shown, shown + PAGE).map(render));
  shown = Math.min(shown + PAGE, found.length);
  more.hidden = shown >= found.length;
  status.textContent = `${found.length.toLocaleString("en")} of ${data.length.toLocaleString("en")} articles match, ${shown.toLocaleString("en")} shown.`;
}

function update() {
  found = data.filter(matches);
  shown = 0;
  list.replaceChildren();
  showMore();
}

function fillValues() {
  const name = filters.slice.value;
  const values = [...new Set(data.map((article) => article.slices[name]))].filter((value) => value !== undefined).sort();
  options(filters.value, [["", "all"], ...values.map((value) => ["=" + value, value])]);
  filters.value.disabled = !name;
}

const sliceNames = data.length ? Object.keys(data[0].slices) : [];
options(filters.slice, [["", "all articles"], ...sliceNames.map((name) => [name, name])]);
fillValues();
filters.slice.addEventListener("change", () => { fillValues(); update(); });
for (const name of ["label", "kind", "value"]) filters[name].addEventListener("change", update);
filters.find.addEventListener("input", update);
more.addEventListener("click", showMore);
for (const button of document.querySelectorAll("button.kind")) {
  button.addEventListener("click", () => {
    filters.kind.value = button.dataset.kind;
    filters.label.value = button.dataset.label || "";
    update();
    document.getElementById("browser").scrollIntoView();
  });
}
update();
