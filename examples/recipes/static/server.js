// A folder of files, which may be replaced.
const express = require('express');
const fs = require('node:fs');
const path = require('node:path');
const { pipeline } = require('node:stream');

const app = express();
app.use(express.static('public'));

app.put('/files/:name', (req, res) => {
  const name = path.join('public/files', path.basename(req.params.name));
  const fresh = `${name}.${process.hrtime.bigint()}.part`;
  pipeline(req, fs.createWriteStream(fresh), (error) => {
    if (error) return fs.rm(fresh, { force: true }, () => {});
    fs.rename(fresh, name, () => res.status(204).end());
  });
});

const server = app.listen(process.env.PORT ?? 3000, '127.0.0.1', () => {
  console.log(`listening on http://127.0.0.1:${server.address().port}`);
});
