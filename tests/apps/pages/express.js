// What only a browser does with the application: it blocks what the answer does not let this origin read, sends the cookies
// that it was given, and keeps answers of its own.
const results = {};

async function ask(method, path, data, cache = 'default') {
  const init = { method, cache, credentials: 'include' };
  if (data) Object.assign(init, { headers: { 'content-type': 'application/json' }, body: JSON.stringify(data) });
  const answer = await fetch(api + path, init);
  const text = await answer.text();
  return { status: answer.status, body: text && JSON.parse(text), hit: /; hit/.test(answer.headers.get('cache-status')) };
}

function message() {
  return new Promise((resolve) => addEventListener('message', ({ data }) => resolve(data), { once: true }));
}

// Two origins read the same article in turn, each several times.
async function cors() {
  const frame = document.createElement('iframe');
  frame.src = `${other}/frame`;
  const ready = message();
  document.documentElement.append(frame);
  await ready;
  const statuses = [];
  for (let round = 0; round < 3; round++) {
    statuses.push((await ask('GET', '/articles/2', null, 'no-store')).status);
    const read = message();
    frame.contentWindow.postMessage(`${api}/articles/2`, other);
    statuses.push((await read)[0]);
  }
  return statuses;
}

async function cookies() {
  const seen = [(await ask('GET', '/me')).status];
  await ask('POST', '/login', { name: 'ann', password: 'secret' });
  seen.push((await ask('GET', '/me')).body.name);
  const again = await ask('GET', '/me', null, 'no-store');
  seen.push(again.body.name, again.hit);
  await ask('POST', '/logout');
  seen.push((await ask('GET', '/me')).status);
  return seen;
}

// No reload, no cache mode: the browser may use what it has.
async function titles() {
  const seen = [];
  for (const title of ['first', 'second', 'third']) {
    await ask('PUT', '/articles/3', { title });
    seen.push((await ask('GET', '/articles/3')).body.title);
    seen.push((await ask('GET', '/articles')).body[2].title);
  }
  return seen;
}

// The application says max-age=60 of this one.
async function latest() {
  const seen = [];
  for (const title of ['first', 'second', 'third']) {
    await ask('PUT', '/articles/3', { title });
    seen.push((await ask('GET', '/articles/latest')).body.title);
  }
  return seen;
}

async function test() {
  const tests = { cors, cookies, titles, latest };
  for (const name in tests) results[name] = await tests[name]();
  return results;
}
