// A small magazine: articles, a login, and photos that are uploaded.
const compression = require('compression');
const cors = require('cors');
const express = require('express');
const session = require('express-session');
const multer = require('multer');

const app = express();
app.use(compression());
app.use(cors({ origin: true, credentials: true, exposedHeaders: ['Cache-Status'] }));
app.use(express.json());
app.use(session({ name: 'sid', secret: 'keep it elsewhere', resave: false, saveUninitialized: false }));

const text = 'Every word of it was weighed twice. '.repeat(40);
const articles = new Map([1, 2, 3].map((id) => [id, { id, title: `Article ${id}`, text }]));
const photos = [];

app.get('/articles', (req, res) => {
  const found = [...articles.values()].filter(({ title }) => title.includes(req.query.title ?? ''));
  res.json(found.map(({ id, title }) => ({ id, title, teaser: text.slice(0, 400) })));
});

// Browsers may keep it, too: the app says for how long.
app.get('/articles/latest', (req, res) => {
  res.set('Cache-Control', 'public, max-age=60');
  res.json([...articles.values()].at(-1) ?? null);
});

app.get('/articles/:id', (req, res) => {
  const article = articles.get(Number(req.params.id));
  article ? res.json(article) : res.status(404).json({ error: 'no such article' });
});

app.post('/articles', (req, res) => {
  const id = Math.max(0, ...articles.keys()) + 1;
  articles.set(id, { id, text, ...req.body });
  res.status(201).location(`/articles/${id}`).json(articles.get(id));
});

app.put('/articles/:id', (req, res) => {
  const id = Number(req.params.id);
  articles.set(id, { id, text, ...req.body });
  res.json(articles.get(id));
});

app.delete('/articles/:id', (req, res) => {
  articles.delete(Number(req.params.id));
  res.status(204).end();
});

app.post('/login', (req, res) => {
  if (req.body.password !== 'secret') return res.status(403).json({ error: 'wrong password' });
  req.session.user = { name: req.body.name, visits: 0 };
  res.json(req.session.user);
});

app.get('/me', (req, res) => {
  req.session.user ? res.json(req.session.user) : res.status(401).json({ error: 'not logged in' });
});

app.put('/me', (req, res) => {
  Object.assign(req.session.user, req.body);
  res.json(req.session.user);
});

app.post('/logout', (req, res) => req.session.destroy(() => res.status(204).end()));

app.post('/photos', multer().single('photo'), (req, res) => {
  photos.push(req.file);
  res.status(201).location(`/photos/${photos.length}`).json({ bytes: req.file.size, name: req.file.originalname });
});

app.get('/photos', (req, res) => res.json(photos.map(({ originalname }) => originalname)));

app.get('/photos/:id', (req, res) => {
  const photo = photos[req.params.id - 1];
  photo ? res.type(photo.mimetype).send(photo.buffer) : res.status(404).json({ error: 'no such photo' });
});

const server = app.listen(process.env.PORT ?? 3000, '127.0.0.1', () => {
  console.log(`listening on http://127.0.0.1:${server.address().port}`);
});
