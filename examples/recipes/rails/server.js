// Stands in for a Rails application: the same fields that Rails sends, without Rails.
const http = require('node:http');
const { createHash, randomBytes } = require('node:crypto');

let posts = [{ id: 1, title: 'First' }, { id: 2, title: 'Second' }];
const names = new Map(); // what the sessions hold: user names

// The cookie store encrypts the session anew each time: another value with the same content.
const cookie = (user) => `_blog_session=${user}--${randomBytes(4).toString('hex')}; path=/; HttpOnly; SameSite=Lax`;
const user = (req) => /_blog_session=(\w+)--/.exec(req.headers.cookie ?? '')?.[1];

const server = http.createServer(async (req, res) => {
  let body = '';
  for await (const piece of req) body += piece;
  const send = (status, value, fields = {}) => {
    const text = JSON.stringify(value);
    const etag = `W/"${createHash('md5').update(text).digest('hex')}"`;
    const session = user(req) ? { 'Set-Cookie': cookie(user(req)) } : {};
    res.writeHead(status, {
      'Content-Type': 'application/json; charset=utf-8', 'Content-Length': Buffer.byteLength(text), ETag: etag,
      'Cache-Control': 'max-age=0, private, must-revalidate', Vary: 'Accept', ...session, ...fields,
    }).end(text);
  };
  const id = Number(/^\/posts\/(\d+)/.exec(req.url)?.[1]);
  // expires_in 5.minutes, public: true
  const forAll = { 'Cache-Control': 'max-age=300, public' };
  if (req.method === 'GET' && req.url.startsWith('/posts.json')) return send(200, posts, forAll);
  if (req.method === 'GET' && id) return send(200, posts.find((post) => post.id === id), forAll);
  if (req.method === 'PATCH' && id) {
    posts = posts.map((post) => (post.id === id ? { ...post, ...JSON.parse(body) } : post));
    return send(200, posts.find((post) => post.id === id));
  }
  if (req.url === '/login') return send(200, { user: body }, { 'Set-Cookie': cookie(body) });
  if (!user(req)) return send(401, { error: 'log in first' });
  if (req.method === 'PATCH') names.set(user(req), JSON.parse(body).name);
  // response.headers["Larder-Cache-Control"] = "max-age=60"
  send(200, { user: user(req), name: names.get(user(req)) ?? user(req) }, { 'Larder-Cache-Control': 'max-age=60' });
});
server.listen(process.env.PORT ?? 3000, '127.0.0.1', () => console.log(`http://127.0.0.1:${server.address().port} `));
