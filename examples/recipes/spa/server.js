// An API for a single-page application on another origin.
const http = require('node:http');

const origins = ['https://app.example.com', 'https://beta.example.com'];
const todos = new Map(); // by token
let plans = ['free', 'team'];

const server = http.createServer(async (req, res) => {
  let body = '';
  for await (const piece of req) body += piece;
  const { origin, authorization } = req.headers;
  if (origins.includes(origin)) {
    res.setHeader('Access-Control-Allow-Origin', origin);
    res.setHeader('Access-Control-Expose-Headers', 'Cache-Status');
  }
  const send = (status, value) => res.writeHead(status, { 'Content-Type': 'application/json' }).end(JSON.stringify(value));
  if (req.method === 'OPTIONS') {
    res.writeHead(204, {
      'Access-Control-Allow-Methods': 'GET, POST', 'Access-Control-Allow-Headers': 'authorization, content-type',
      'Access-Control-Max-Age': '7200',
    }).end();
  } else if (req.url === '/api/plans') {
    send(200, plans);
  } else if (!authorization) {
    send(401, { error: 'a token is needed' });
  } else if (req.url === '/api/admin/plans') {
    send(200, (plans = JSON.parse(body)));
  } else {
    const own = todos.get(authorization) ?? [];
    todos.set(authorization, own);
    if (req.method === 'POST') own.push(JSON.parse(body));
    send(200, own);
  }
});
server.listen(process.env.PORT ?? 3000, '127.0.0.1', () => console.log(`http://127.0.0.1:${server.address().port} `));
