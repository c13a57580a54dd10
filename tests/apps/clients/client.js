// Sends requests with axios and prints each answer as one line of JSON, for the test to compare.
const axios = require('axios');
const { createHash } = require('node:crypto');

const base = process.argv[2];

// A browser of its own: it keeps cookies. `fields` are those that are compared.
class Client {
  constructor({ headers = {}, fields = [] } = {}) {
    this.headers = headers;
    this.fields = ['content-type', 'location', ...fields];
    this.cookies = new Map();
  }

  // `is`: what Cache-Status must contain when Larder stands in front. `raw`: the body is compared as it came, compressed.
  async send(method, path, { data, headers = {}, is, raw = false, show = true } = {}) {
    const cookie = [...this.cookies].map((pair) => pair.join('=')).join('; ');
    const answer = await axios.request({
      method,
      url: base + path,
      data,
      headers: { ...(cookie && { cookie }), ...this.headers, ...headers },
      responseType: 'arraybuffer',
      decompress: !raw,
      maxRedirects: 0,
      validateStatus: () => true,
      proxy: false,
    });
    for (const line of answer.headers['set-cookie'] ?? []) {
      const [name, value] = line.split(';')[0].split('=');
      /expires=thu, 01 jan 1970/i.test(line) ? this.cookies.delete(name) : this.cookies.set(name, value);
    }
    const body = Buffer.from(answer.data);
    // Which fields a 304 repeats is left to who makes it (RFC 9110 section 15.4.5).
    const names = answer.status === 304 ? [] : this.fields;
    const fields = Object.fromEntries(names.map((name) => [name, answer.headers[name]]));
    if (show) report({ step: `${method} ${path}`, status: answer.status, fields, body, cache: answer.headers['cache-status'], is });
    return { status: answer.status, headers: answer.headers, text: body.toString(), json: () => JSON.parse(body) };
  }

  get(path, options) {
    return this.send('GET', path, options);
  }

  post(path, data, options) {
    return this.send('POST', path, { data, ...options });
  }

  put(path, data, options) {
    return this.send('PUT', path, { data, ...options });
  }

  delete(path, options) {
    return this.send('DELETE', path, options);
  }
}

// Long bodies and bytes are compared by their digest.
function report({ body, ...rest }) {
  const text = body.toString();
  const short = text.length < 1000 && !text.includes('\ufffd');
  const shown = short ? text : `${body.length} bytes, ${createHash('sha256').update(body).digest('hex')}`;
  print({ ...rest, body: shown });
}

// The address is another one behind Larder.
function print(line) {
  console.log(JSON.stringify(line).replaceAll(base, 'BASE'));
}

// One writes, in turn, what two read all the while: the writer must read what it has written, and nobody may read an
// older one than they have read before.
async function neverOlder({ write, read, rounds = 10 }) {
  let written = 0;
  const faults = [];
  const watch = async () => {
    let seen = 0;
    while (written < rounds) {
      const value = await read();
      if (value < seen) faults.push(`a reader saw ${value} after ${seen}`);
      seen = value;
    }
  };
  const work = async () => {
    for (let round = 1; round <= rounds; round++) {
      await write(round);
      const value = await read();
      if (value !== round) faults.push(`the writer read ${value} after it had written ${round}`);
      written = round;
    }
  };
  await Promise.all([work(), watch(), watch()]).finally(() => (written = rounds));
  print({ step: 'never older', status: 0, fields: {}, body: faults.join('; ') || 'right' });
}

module.exports = { base, Client, neverOlder, print };
