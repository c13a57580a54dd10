const { io } = require('socket.io-client');
const { base, Client, print } = require('./client');

const client = new Client({ fields: ['etag'] });
const once = (emitter, event) => new Promise((resolve) => emitter.once(event, resolve));
const show = (step, body) => print({ step, status: 0, fields: {}, body: JSON.stringify(body) });

async function connect(transports) {
  const socket = io(base, { transports, forceNew: true, reconnection: false });
  const failed = once(socket, 'connect_error').then((error) => Promise.reject(error));
  await Promise.race([once(socket, 'connect'), failed]);
  if (transports.length > 1 && socket.io.engine.transport.name === 'polling') await once(socket.io.engine, 'upgrade');
  show(`connected by ${transports}`, socket.io.engine.transport.name);
  return socket;
}

(async () => {
  const sockets = [];
  for (const transports of [['polling'], ['websocket'], ['polling', 'websocket']]) sockets.push(await connect(transports));

  // Bytes, there and back, more than one frame of them.
  const bytes = Buffer.alloc(200_000, 'abcdefg');
  for (const socket of sockets) show('digest', await socket.emitWithAck('digest', bytes));

  // From one to another: long polls must not wait for one another, nor share an answer.
  for (const [from, to] of [[0, 1], [1, 0], [2, 0], [0, 2]]) {
    const heard = once(sockets[to], 'whisper');
    sockets[from].emit('whisper', sockets[to].id, `from ${from} to ${to}`);
    show('whisper', await heard);
  }

  // A message by HTTP is told to all; who reads it by HTTP sees it.
  await client.get('/messages');
  await client.get('/messages', { is: 'hit' });
  for (let round = 1; round <= 5; round++) {
    const heard = Promise.all(sockets.map(async (socket) => {
      const { id } = await once(socket, 'message');
      const read = await client.get('/messages', { headers: { 'cache-control': 'no-cache' }, show: false });
      return [id, read.json().length];
    }));
    await client.post('/messages', { text: `Message ${round}` });
    await client.get('/messages');
    show('heard', await heard);
    await client.get('/messages', { is: 'hit' });
  }

  await client.get('/socket.io/socket.io.min.js');
  await client.get('/socket.io/socket.io.min.js');
  await client.get('/socket.io/?EIO=4&transport=none');
  await client.get('/socket.io/?EIO=4&transport=polling&sid=none');
  for (const socket of sockets) socket.disconnect();
})();
