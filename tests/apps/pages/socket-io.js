// The application's own script, from another origin.
const script = document.createElement('script');
script.src = `${api}/socket.io/socket.io.min.js`;

async function test() {
  await new Promise((resolve, reject) => {
    script.onload = resolve;
    script.onerror = () => reject(new Error('the script does not load'));
    document.documentElement.append(script);
  });
  const seen = [];
  for (const transports of [['polling'], ['websocket']]) {
    const socket = io(api, { transports, forceNew: true });
    await new Promise((resolve) => socket.once('connect', resolve));
    const heard = new Promise((resolve) => socket.once('message', resolve));
    const text = `by ${transports}`;
    const init = { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify({ text }) };
    await fetch(`${api}/messages`, init);
    const read = await (await fetch(`${api}/messages`)).json();
    seen.push((await heard).text, read.at(-1).text);
    socket.disconnect();
  }
  return seen;
}
