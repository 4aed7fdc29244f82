
"use strict";
const columns = {{ columns | tojson }}, rows = {{ rows | tojson }};
const STEP = 50;
const get = id => document.getElementById(id);
const articles = new Map(Array.from(document.querySelectorAll("article"), a => [a.dataset.video, a]));
const texts = rows.map(row => row.filter(x => typeof x === "string").join(" ").toLowerCase());
let limit = STEP;
get("without-script").remove();

function element(name, text, className) {
  const node = document.createElement(name);
  if (text !== undefined) node.textContent = text;
  if (className) node.className = className;
  return node;
}

function matchingRows() {
  const words = get("query").value.toLowerCase().split(/\s+/).filter(Boolean);
  const key = Number(get("key").value), order = Number(get("order").value);
  const indices = rows.map((_, i) => i).filter(i => words.every(word => texts[i].includes(word)));
  const compare = (a, b) => typeof a === "string" ? a.localeCompare(b) : a - b;
  return indices.sort((i, j) => order * compare(rows[i][key], rows[j][key]) || i - j);
}

function draw() {
  const indices = matchingRows(), body = get("videos").tBodies[0];
  body.replaceChildren(...indices.slice(0, limit).map(i => {
    const line = element("tr");
    columns.forEach((column, k) => {
      if (k > 0 && column.digits === undefined) {
        line.append(element("td", rows[i][k], "text"));
        return;
      }
      if (k > 0) { line.append(element("td", (rows[i][k] * column.factor).toFixed(column.digits))); return; }
      const head = element("th");
      head.scope = "row";
      const article = articles.get(rows[i][0]);
      if (article) { const link = element("a", rows[i][0]); link.href = "#" + article.id; head.append(link); }
      else head.textContent = rows[i][0];
      line.append(head);
    });
    return line;
  }));
  get("more").hidden = indices.length <= limit;
  get("count").textContent = indices.length + " of " + rows.length + " videos";
  const visible = new Set(indices.map(i => rows[i][0]));
  for (const [video, article] of articles) article.hidden = !visible.has(video);
  get("sections").append(...indices.map(i => articles.get(rows[i][0])).filter(Boolean));
  const key = Number(get("key").value), direction = get("order").value === "1" ? "ascending" : "descending";
  get("videos").tHead.rows[0].childNodes.forEach((head, k) => {
    if (k === key) head.setAttribute("aria-sort", direction); else head.removeAttribute("aria-sort");
  });
}

columns.forEach((column, k) => {
  const head = element("th", undefined, k > 0 && column.digits === undefined ? "text" : "");
  const button = element("button", column.name);
  button.type = "button";
  button.addEventListener("click", () => {
    if (Number(get("key").value) === k) get("order").value = -Number(get("order").value);
    else { get("key").value = k; get("order").value = column.digits === undefined ? 1 : -1; }
    draw();
  });
  head.scope = "col";
  head.append(button);
  get("videos").tHead.rows[0].append(head);
  const option = element("option", column.name);
  option.value = k;
  get("key").append(option);
});
// Text above each box that is wider than the page; shadows at its sides mark the same, also without JavaScript.
const observer = new ResizeObserver(boxes => boxes.forEach(({ target }) => showHint(target.closest(".scroll"))));
function showHint(box) { box.previousElementSibling.hidden = box.scrollWidth <= box.clientWidth; }
document.querySelectorAll(".scroll").forEach(box => {
  const hint = element("p", "scroll sideways for the rest →", "hint");
  hint.hidden = true;
  box.before(hint);
  observer.observe(box);
  observer.observe(box.firstElementChild);
});
get("key").value = {{ rank_column }};
get("query").addEventListener("input", () => { limit = STEP; draw(); });
get("key").addEventListener("change", draw);
get("order").addEventListener("change", draw);
get("more").addEventListener("click", () => { limit += 4 * STEP; draw(); });
draw();
