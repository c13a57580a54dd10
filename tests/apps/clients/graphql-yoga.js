const { base, Client, neverOlder, print } = require('./client');

const client = new Client({ fields: ['allow'] });
const ask = (query, { variables, accept = 'application/json', ...options } = {}) => {
  const parameters = new URLSearchParams({ query, ...(variables && { variables: JSON.stringify(variables) }) });
  return client.get(`/graphql?${parameters}`, { headers: { accept }, ...options });
};
const change = (query, variables, options) => client.post('/graphql', { query, variables }, options);
const [all, one] = ['{ books { id title copies } }', 'query ($id: ID!) { book(id: $id) { title copies } }'];

async function readAll(is) {
  await ask(all, { is });
  await ask('{ books(title: "m") { title } }', { is });
  for (const id of ['1', '2', '4']) await ask(one, { variables: { id }, is });
}

// Waits for the first event, whose arrival must not depend on another.
async function subscription(title) {
  const url = `${base}/graphql?${new URLSearchParams({ query: 'subscription { added { title } }' })}`;
  const controller = new AbortController();
  const answer = await fetch(url, { headers: { accept: 'text/event-stream' }, signal: controller.signal });
  await change('mutation ($title: String!) { add(title: $title) { id } }', { title });
  let text = '';
  for await (const part of answer.body) {
    text += Buffer.from(part).toString();
    if (text.includes(title)) break;
  }
  controller.abort();
  const body = text.split('\n').filter((line) => line.startsWith('data: ')).join('\n');
  print({ step: `subscription ${title}`, status: answer.status, fields: { type: answer.headers.get('content-type') }, body });
}

(async () => {
  await readAll('stored');
  await readAll('hit');

  // Its form is that which the client accepts.
  for (let round = 0; round < 2; round++) {
    for (const accept of ['application/json', 'application/graphql-response+json', 'text/html']) {
      await ask('{ books { title } }', { accept });
    }
  }
  await ask('{ books { nothing } }');
  await ask('{ books { nothing } }', { accept: 'application/graphql-response+json' });
  await ask('{');
  await ask('mutation { add(title: "By GET") { id } }');

  await change('mutation { add(title: "Villette") { id title } }');
  await readAll();
  await readAll('hit');
  await change('mutation ($id: ID!) { setCopies(id: $id, copies: 7) { copies } }', { id: '2' });
  await readAll();
  await change('mutation { setCopies(id: "none", copies: 7) { copies } }');
  await readAll();
  await change(all);
  await client.get('/graphql');

  await subscription('Shirley');
  await subscription('Agnes Grey');
  await readAll();

  await neverOlder({
    write: (round) => change('mutation ($n: Int!) { setCopies(id: "1", copies: $n) { id } }', { n: 100 + round }, { show: false }),
    read: async () => {
      const { data } = (await ask('{ book(id: "1") { copies } }', { show: false })).json();
      return Math.max(0, data.book.copies - 100);
    },
  });
})();
