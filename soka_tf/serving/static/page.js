"use strict";

// A photograph goes to the server as it is; what comes back is drawn as text and images
// only: no name, the file's or a student's, is ever read as HTML.

const byId = (id) => document.getElementById(id);
const element = (kind, fields = {}, children = []) => {
  const made = Object.assign(document.createElement(kind), fields);
  made.append(...children);
  return made;
};
let asked = 0; // of several photographs only the last one's answer is shown

function say(text) { byId("status").textContent = text; }
function fail(text) {
  say("");
  byId("error").textContent = text;
  byId("result").hidden = true; // it is another photograph's
}

async function predict(file) {
  const number = ++asked;
  byId("error").textContent = "";
  const most = Number(document.body.dataset.mostBytes);
  if (file.size > most) {
    fail(`${file.name} is too large: at most ${document.body.dataset.mostMb} MiB are allowed.`);
    return;
  }
  say(`Predicting ${file.name} …`);
  let answer;
  try {
    const response = await fetch("predict", {
      method: "POST",
      headers: { "Content-Type": "application/octet-stream" },
      body: file,
    });
    answer = await response.json();
  } catch (error) {
    answer = { error: "The server does not answer. Is its command still running?" };
  }
  if (number !== asked) return;
  if (answer.error) {
    fail(`${file.name}: ${answer.error}`);
    return;
  }
  show(answer, file.name);
}

function show(trial, name) {
  const each = trial.students
    .map((one) => `${one.name} ${seconds(one.seconds)}`)
    .join(", ");
  say(`${name}, ${trial.width} × ${trial.height} pixels: done in `
    + `${seconds(trial.seconds)} (the network alone: ${each}).`);
  const pictures = [{ title: "photograph", address: trial.photograph }];
  const answers = trial.students.map((student) => drawn(student, trial, name, pictures));
  byId("answers").replaceChildren(...answers);
  for (const [side, chosen] of [["left", 0], ["right", 1]]) {
    const before = byId(side).selectedIndex;
    byId(side).replaceChildren(...pictures.map((one, i) => new Option(one.title, i)));
    byId(side).selectedIndex = before >= 0 ? before : chosen;
    byId(side).onchange = () => lay(side, pictures);
    lay(side, pictures);
  }
  byId("result").hidden = false;
}

function seconds(value) {
  return value < 1 ? `${Math.max(1, Math.round(value * 1000))} ms` : `${value.toFixed(1)} s`;
}

function drawn(student, trial, name, pictures) {
  const several = trial.students.length > 1;
  const figures = student.maps.map((map) => {
    const title = several ? `${map.title}, ${student.name}` : map.title;
    const index = pictures.push({ title, address: map.picture }) - 1;
    const compare = element("button", {
      type: "button",
      className: "button",
      textContent: "Compare with photograph",
    });
    compare.setAttribute("aria-label", `Compare with photograph: ${title}`);
    compare.addEventListener("click", () => {
      byId("left").selectedIndex = 0;
      byId("right").selectedIndex = index;
      lay("left", pictures);
      lay("right", pictures);
      byId("compare-title").scrollIntoView();
      byId("slider").focus({ preventScroll: true });
    });
    const download = element("a", {
      className: "button",
      href: map.raw,
      download: `${name.replace(/\.[^.]*$/, "")}_domain_${map.task}.png`,
      textContent: `${map.bits}-bit PNG`,
    });
    download.setAttribute("aria-label", `Download ${title} as a ${map.bits}-bit PNG`);
    return element("figure", {}, [
      element("figcaption", {}, [
        element("h3", { textContent: map.title }),
        element("span", { className: "faint", textContent: map.unit }),
      ]),
      element("img", { className: "picture", src: map.picture, alt: `Map of ${title}` }),
      scale(map),
      element("div", { className: "actions" }, [compare, download]),
    ]);
  });
  return element("section", {}, [
    element("h2", { textContent: student.name }),
    element("div", { className: "grid" }, figures),
  ]);
}

function scale(map) {
  const { bar, low, high, label, names } = map.scale;
  const box = element("div", { className: "scale" });
  if (names) {
    box.append(element("ul", { className: "names" }, names.map(([name, colour]) => {
      const square = element("span");
      square.style.backgroundColor = `rgb(${colour.join(" ")})`;
      return element("li", {}, [square, name]);
    })));
  } else if (bar) {
    box.append(
      element("img", { src: bar, alt: `Colours from ${low} to ${high} ${label}` }),
      element("div", { className: "ends" }, [
        element("span", { textContent: low }),
        element("span", { className: "faint", textContent: label }),
        element("span", { textContent: high }),
      ]),
    );
  } else {
    box.append(element("span", { className: "faint", textContent: label }));
  }
  return box;
}

function lay(side, pictures) {
  const picture = pictures[byId(side).selectedIndex] || pictures[0];
  const image = byId(`${side}-picture`);
  image.src = picture.address;
  image.alt = `${side === "left" ? "Left" : "Right"} of the line: ${picture.title}`;
}

function split() {
  const at = Number(byId("slider").value);
  byId("right-picture").style.clipPath = `inset(0 0 0 ${at}%)`;
  byId("divider").style.left = `${at}%`;
}

function follow(event) {
  if (event.type === "pointermove" && !(event.buttons & 1)) return;
  const box = byId("stage").getBoundingClientRect();
  byId("slider").value = (100 * (event.clientX - box.left)) / box.width;
  split();
}

byId("slider").addEventListener("input", split);
byId("stage").addEventListener("pointerdown", follow);
byId("stage").addEventListener("pointermove", follow);
byId("stage").addEventListener("dragstart", (event) => event.preventDefault());
byId("file").addEventListener("change", (event) => {
  if (event.target.files.length) predict(event.target.files[0]);
});
for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    byId("drop").classList.toggle("over", kind === "dragenter" || kind === "dragover");
    if (kind !== "drop") return;
    const [file] = event.dataTransfer.files;
    if (file) predict(file);
    else fail("This is no file. Drop a photograph from a folder.");
  });
}
split();
