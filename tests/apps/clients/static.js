const { execFileSync } = require('node:child_process');
const { createHash } = require('node:crypto');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const { base, Client, neverOlder, print } = require('./client');

const client = new Client({ fields: ['content-range', 'accept-ranges', 'content-length'] });
const dir = fs.mkdtempSync(path.join(os.tmpdir(), 'wget-'));
process.on('exit', () => fs.rmSync(dir, { recursive: true }));

// Bytes that differ everywhere.
function film(seed, length = 3_000_000) {
  const bytes = Buffer.alloc(length);
  let state = seed;
  for (let at = 0; at + 4 <= length; at += 4) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    bytes.writeUInt32LE(state, at);
  }
  return bytes;
}

// Downloads with the first bytes already there.
function wget(name, there = Buffer.alloc(0)) {
  const file = path.join(dir, name);
  fs.writeFileSync(file, there);
  execFileSync('wget', ['--continue', '--no-proxy', '--quiet', '--tries=1', `${base}/files/${name}`], { cwd: dir });
  const bytes = fs.readFileSync(file);
  const digest = createHash('sha256').update(bytes).digest('hex');
  print({ step: `wget -c ${name} from ${there.length}`, status: 0, body: `${bytes.length} bytes, ${digest}` });
}

// Reads the beginning and leaves.
async function abandon(name, length) {
  const controller = new AbortController();
  const answer = await fetch(`${base}/files/${name}`, { signal: controller.signal });
  const parts = [];
  for await (const part of answer.body) {
    parts.push(part);
    if (parts.reduce((sum, { length }) => sum + length, 0) >= length) break;
  }
  controller.abort();
  return Buffer.concat(parts).subarray(0, length);
}

(async () => {
  const [first, second] = [film(1), film(2)];
  await client.put('/files/film.bin', first);

  // The first that is asked for is the rest; then a part of what is stored; then all of it.
  wget('film.bin', first.subarray(0, 1_000_000));
  wget('film.bin', first.subarray(0, 2_999_999));
  wget('film.bin');
  wget('film.bin', first);
  for (const range of ['bytes=0-9', 'bytes=2999990-', 'bytes=-5', 'bytes=5-5', 'lines=1-2']) {
    await client.get('/files/film.bin', { headers: { range } });
  }
  await client.send('HEAD', '/files/film.bin', { is: 'hit' });

  // After a write the rest is that of the new one.
  await client.put('/files/film.bin', second);
  wget('film.bin', second.subarray(0, 1_000_000));
  await client.get('/files/film.bin', { headers: { range: 'bytes=100-199' }, is: 'hit' });

  // A part of the old one is no part of the new one: If-Range says so.
  const { headers } = await client.get('/files/film.bin', { show: false });
  await client.put('/files/film.bin', first);
  await client.get('/files/film.bin', { headers: { range: 'bytes=10-19', 'if-range': headers.etag } });

  // Who leaves in the middle goes on later.
  await client.put('/files/film.bin', second);
  const there = await abandon('film.bin', 500_000);
  wget('film.bin', there);

  for (const page of ['/', '/index.html', '/style.css', '/files/words.txt', '/files/none.txt', '/files']) {
    await client.get(page);
    await client.get(page);
  }
  await client.put('/files/none.txt', 'Something.');
  await client.get('/files/none.txt');

  // The server looks at a file's length before it opens it: all have the same.
  await client.put('/files/words.txt', 'Word 000.');
  await neverOlder({
    write: (round) => client.put('/files/words.txt', `Word ${String(round).padStart(3, '0')}.`, { show: false }),
    read: async () => Number((await client.get('/files/words.txt', { show: false })).text.match(/\d+/)?.[0] ?? 0),
  });
})();
