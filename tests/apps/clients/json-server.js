const { Client, neverOlder } = require('./client');

const client = new Client({ fields: ['link', 'x-total-count', 'etag'] });
const lists = ['/posts', '/posts?_page=1&_limit=2', '/posts?author=ann&_sort=likes&_order=desc', '/posts?id=1&id=3', '/posts?q=butter'];
const related = ['/posts?_embed=comments', '/posts/1?_embed=comments', '/comments?_expand=post', '/posts/1/comments', '/comments/2'];

async function readAll(is) {
  for (const path of [...lists, ...related]) await client.get(path, { is });
}

(async () => {
  await readAll('stored');
  await readAll('hit');
  const { headers } = await client.get('/posts/1');
  await client.get('/posts/1', { headers: { 'if-none-match': headers.etag } });

  await client.post('/posts', { title: 'Honey', author: 'ann', likes: 5 });
  await readAll();
  await client.get('/posts/4');
  await client.send('PATCH', '/posts/1', { data: { title: 'Rye bread' } });
  await readAll();
  await client.get('/posts/4', { is: 'hit' });
  await client.put('/posts/2', { title: 'Salted butter', author: 'bob', likes: 9 });
  await readAll();
  await client.post('/posts/1/comments', { body: 'More of it.' });
  await readAll();
  await client.put('/comments/2', { postId: 1, body: 'And hot.' });
  await readAll();
  await client.delete('/comments/1');
  await readAll();
  await client.delete('/posts/1');
  await readAll();
  await readAll();

  // Writes that it refuses or finds nothing for.
  await client.put('/posts/77', { title: 'Nothing' });
  await client.post('/posts', { id: 2, title: 'Twice' });
  await client.delete('/posts/77');
  await readAll();

  // Without a family: what it says itself counts.
  await client.get('/db');
  await client.get('/');

  await neverOlder({
    write: (round) => client.send('PATCH', '/posts/3', { data: { likes: 100 + round }, show: false }),
    read: async () => {
      const { likes } = (await client.get('/posts/3', { show: false })).json();
      return Math.max(0, likes - 100);
    },
  });
})();
