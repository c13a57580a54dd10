// Logs in and out by Django's own form, in a frame that the browser lets this page fill in (its guard is off).
const frame = document.createElement('iframe');

function loaded() {
  return new Promise((resolve) => frame.addEventListener('load', resolve, { once: true }));
}

async function open(path) {
  frame.src = api + path;
  await loaded();
  return frame.contentDocument;
}

async function logIn(name, password) {
  const form = (await open('/accounts/login/')).forms[0];
  form.elements.username.value = name;
  form.elements.password.value = password;
  form.submit();
  await loaded();
  return [new URL(frame.contentWindow.location).pathname, frame.contentWindow.location.origin === api];
}

async function mine() {
  return JSON.parse((await open('/notes/mine/')).body.innerText);
}

async function test() {
  document.documentElement.append(frame);
  const refused = await mine();
  const wrong = await logIn('ann', 'wrong');
  const right = await logIn('ann', 'secret');
  const first = await mine();
  const token = frame.contentDocument.cookie.match(/csrftoken=(\w+)/)[1];
  const headers = { 'content-type': 'application/json', 'x-csrftoken': token };
  const write = { method: 'PATCH', headers, body: JSON.stringify({ text: 'New.' }) };
  const written = (await frame.contentWindow.fetch('/notes/2/', write)).status;
  return { refused: refused.detail, wrong, right, first: first.texts[1], written, second: (await mine()).texts[1] };
}
