// A chat: messages are written and read by HTTP; sockets tell who is there that there are new ones.
const cors = require('cors');
const express = require('express');
const { createHash } = require('node:crypto');
const { createServer } = require('node:http');
const { Server } = require('socket.io');

const app = express();
const server = createServer(app);
const io = new Server(server, { cors: { origin: '*' } });
const messages = [];

app.use(cors());
app.use(express.json());
app.get('/messages', (req, res) => res.json(messages));
app.post('/messages', (req, res) => {
  const message = { id: messages.length + 1, text: req.body.text };
  messages.push(message);
  io.emit('message', message);
  res.status(201).json(message);
});

io.on('connection', (socket) => {
  socket.on('digest', (bytes, answer) => answer(createHash('sha256').update(bytes).digest('hex')));
  socket.on('whisper', (to, text) => io.to(to).emit('whisper', text));
});

server.listen(process.env.PORT ?? 3000, '127.0.0.1', () => {
  console.log(`listening on http://127.0.0.1:${server.address().port}`);
});
