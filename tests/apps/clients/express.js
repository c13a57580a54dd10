const { Client, neverOlder } = require('./client');

const fields = ['content-encoding', 'access-control-allow-origin', 'access-control-allow-credentials', 'etag'];

(async () => {
  const anyone = new Client({ fields });

  // Reads, and each kind of write between them.
  await anyone.get('/articles');
  await anyone.get('/articles', { is: 'hit' });
  await anyone.get('/articles?title=2');
  await anyone.get('/articles/1');
  const { headers } = await anyone.get('/articles/1', { is: 'hit' });
  await anyone.get('/articles/1', { headers: { 'if-none-match': headers.etag }, is: 'hit' });
  await anyone.get('/articles/4');
  await anyone.get('/articles/latest', { is: 'stored' });
  await anyone.post('/articles', { title: 'Another 2' });
  await anyone.get('/articles/4');
  await anyone.get('/articles/latest');
  await anyone.get('/articles');
  await anyone.get('/articles?title=2');
  await anyone.get('/articles?title=2', { is: 'hit' });
  await anyone.put('/articles/1', { title: 'A better title' });
  await anyone.get('/articles/1', { is: 'stored' });
  await anyone.get('/articles/1', { is: 'hit' });
  await anyone.get('/articles/4', { is: 'hit' });
  await anyone.delete('/articles/4');
  await anyone.get('/articles/4');
  await anyone.get('/articles');
  await anyone.get('/articles/latest');

  // compression: who takes gzip, brotli or nothing gets that; all of them one ETag.
  for (const encoding of ['gzip', 'identity', 'br', 'gzip', 'identity']) {
    await anyone.get('/articles/2', { headers: { 'accept-encoding': encoding }, raw: true });
  }
  await anyone.get('/articles/2', { headers: { 'accept-encoding': 'gzip' }, raw: true, is: 'hit' });

  // cors: each origin is told its own name.
  const [a, b] = ['http://a.test', 'http://b.test'].map((origin) => new Client({ fields, headers: { origin } }));
  for (const client of [a, b, a, b]) await client.get('/articles/3');
  await a.get('/articles/3', { is: 'hit' });
  const preflight = { 'access-control-request-method': 'PUT', 'access-control-request-headers': 'content-type' };
  await b.send('OPTIONS', '/articles/3', { headers: preflight });

  // express-session: each sees what is theirs, and nothing of it when they have left.
  const [ann, bob] = [new Client({ fields }), new Client({ fields })];
  await ann.get('/me');
  await ann.post('/login', { name: 'ann', password: 'wrong' });
  await ann.get('/me');
  for (const [client, name] of [[ann, 'ann'], [bob, 'bob']]) await client.post('/login', { name, password: 'secret' });
  for (const client of [ann, bob]) await client.get('/me');
  for (const client of [ann, bob]) await client.get('/me', { is: 'hit' });
  await anyone.get('/me');
  await ann.put('/me', { visits: 7 });
  await ann.get('/me', { is: 'stored' });
  await bob.get('/me');
  await ann.get('/articles/1', { is: 'hit' });
  await ann.post('/logout');
  await ann.get('/me');
  await bob.get('/me');

  // multer: a form with a file.
  const photo = Buffer.from(Array.from({ length: 200000 }, (_, at) => (at * 7) % 256));
  await anyone.get('/photos/1');
  await anyone.get('/photos');
  const form = new FormData();
  form.append('photo', new Blob([photo], { type: 'image/png' }), 'sea.png');
  await anyone.post('/photos', form);
  await anyone.get('/photos');
  await anyone.get('/photos/1');
  await anyone.get('/photos/1', { is: 'hit' });

  await neverOlder({
    write: (round) => anyone.put('/articles/1', { title: 'x', round }, { show: false }),
    read: async () => (await anyone.get('/articles/1', { show: false })).json().round ?? 0,
  });
})();
