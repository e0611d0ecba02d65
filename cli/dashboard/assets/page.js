// The page works without this script. The script keeps it current, and adds keys.

const base = new URL("..", import.meta.url);
const live = document.getElementById("live");
const lost = document.getElementById("lost");
const form = document.getElementById("filter");

// --- Times: "in 42 min" instead of the absolute time.

const units = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];

function relative(date) {
  const seconds = Math.round((date - Date.now()) / 1000);
  const distance = Math.abs(seconds);
  const at = units.findIndex(([size]) => distance >= size);
  const [size, unit] = units[at < 0 ? units.length - 1 : at];
  let text = `${Math.floor(distance / size)} ${unit}`;
  if (size > 60 && distance < 10 * size) {
    const [next, nextUnit] = units[at + 1];
    const rest = Math.floor((distance % size) / next);
    if (rest > 0) text += ` ${rest} ${nextUnit}`;
  }
  return seconds > 0 ? `in ${text}` : `${text} ago`;
}

function showTimes(root) {
  for (const time of root.querySelectorAll("time")) {
    const date = new Date(time.dateTime);
    time.title = date.toLocaleString();
    const text = relative(date);
    if (time.textContent !== text) time.textContent = text;
  }
}
showTimes(document);
setInterval(() => showTimes(document), 1000);

// --- Updates: the server sends fragments that have changed; only the nodes that differ are replaced,
// so focus, selection and scroll position stay.

function patch(old, fresh) {
  if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.data !== fresh.data) old.data = fresh.data;
    return;
  }
  for (const { name, value } of [...fresh.attributes]) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  for (const { name } of [...old.attributes]) if (!fresh.hasAttribute(name) && name !== "open") old.removeAttribute(name);
  patchChildren(old, fresh);
}

function patchChildren(old, fresh) {
  const byID = new Map();
  for (const child of old.children) if (child.id) byID.set(child.id, child);
  let at = old.firstChild;
  for (const node of [...fresh.childNodes]) {
    const same = node.id ? byID.get(node.id) : at && !at.id && at.nodeName === node.nodeName ? at : null;
    if (!same) {
      old.insertBefore(node, at);
      flash(node);
      continue;
    }
    if (same === at) at = at.nextSibling;
    else old.insertBefore(same, at);
    if (!same.isEqualNode(node)) {
      patch(same, node);
      flash(same);
    }
  }
  while (at) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}

function flash(node) {
  if (node.nodeName !== "TR") return;
  node.classList.add("changed");
  node.addEventListener("animationend", () => node.classList.remove("changed"), { once: true });
}

function update(id, html) {
  const fragment = document.getElementById(id);
  const fresh = new DOMParser().parseFromString(html, "text/html").body;
  showTimes(fresh);
  for (const changed of document.querySelectorAll(`#${CSS.escape(id)} .changed`)) changed.classList.remove("changed");
  if (fragment) {
    const focused = document.activeElement;
    patchChildren(fragment, fresh);
    if (focused.isConnected && focused !== document.activeElement) focused.focus({ preventScroll: true }); // its row has moved
    return;
  }
  const added = document.createElement("div"); // such as the users that a search finds
  added.id = id;
  added.append(...fresh.childNodes);
  document.getElementById("main").append(added);
}

let stream = null;

function connect() {
  stream?.close();
  const page = location.href.startsWith(base.href) ? location.href.slice(base.href.length).split("#")[0] : "";
  stream = new EventSource(new URL(`stream?page=${encodeURIComponent(page)}`, base));
  stream.onopen = () => connected(true);
  stream.onerror = () => connected(false);
  stream.onmessage = (event) => {
    const fragments = JSON.parse(event.data);
    for (const [id, html] of Object.entries(fragments)) update(id, html);
    if (fragments.targets !== undefined && !fragments.users && !new URLSearchParams(location.search).get("q")) document.getElementById("users")?.remove();
    document.documentElement.dataset.updates = Number(document.documentElement.dataset.updates ?? 0) + 1;
  };
}

function connected(is) {
  live.hidden = false;
  live.classList.toggle("lost", !is);
  live.textContent = is ? "Live" : "Reconnecting";
  lost.hidden = is;
  if (!is) lost.textContent = "No connection to keyferry dashboard: this page shows the last known state. If you stopped the command, run it again and use its new link.";
}

// Browsers allow six connections to one server: a hidden page needs none.
document.addEventListener("visibilitychange", () => {
  if (document.hidden) stream?.close();
  else connect();
});
addEventListener("pagehide", () => stream?.close());
if (!document.hidden) connect();

// --- Search as you type.

let typing = 0;
function search() {
  const query = new URLSearchParams([...new FormData(form)].filter(([, value]) => value));
  history.replaceState(null, "", `${location.pathname}${query.size ? `?${query}` : ""}`);
  connect();
}
form.addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(search, 120);
});
form.addEventListener("submit", (event) => {
  event.preventDefault();
  search();
});
form.querySelector("button").hidden = true;

// --- The check of a Pod.

document.getElementById("check")?.addEventListener("submit", async (event) => {
  event.preventDefault();
  const button = event.target.querySelector("button");
  button.disabled = true;
  button.textContent = "Checking";
  let text = "";
  try {
    const response = await fetch(event.target.action, { method: "POST" });
    const result = new DOMParser().parseFromString(await response.text(), "text/html").querySelector(".checks");
    document.querySelector("#checked .checks")?.remove();
    if (result) document.getElementById("checked").append(result);
    else text = `The check failed: ${response.status} ${response.statusText}. `;
  } catch {
    text = "The check failed: no connection to keyferry dashboard. ";
  }
  button.disabled = false;
  button.textContent = `${text}Check again`;
});

// --- Keys.

const keys = document.getElementById("keys");
document.getElementById("keyhint").hidden = false;
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const field = event.target.closest?.("input, select, textarea");
  if (field) {
    if (event.key === "Escape") field.blur();
    return;
  }
  if (keys.open) return;
  switch (event.key) {
    case "/":
      event.preventDefault();
      form.q.select();
      form.q.focus();
      break;
    case "?":
      keys.showModal();
      break;
    case "j":
    case "k": {
      const links = [...document.querySelectorAll("tbody td.name a")];
      const at = links.indexOf(document.activeElement);
      const step = event.key === "j" ? 1 : -1;
      links[at < 0 ? 0 : Math.max(0, Math.min(links.length - 1, at + step))]?.focus();
      break;
    }
  }
});
