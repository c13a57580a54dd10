"""Sends requests with requests and prints each answer as one line of JSON, for the test to compare."""

import hashlib
import json
import sys
import threading

import requests

BASE = sys.argv[1]


class Client:
    """A browser of its own: it keeps cookies. `fields` are those that are compared."""

    def __init__(self, fields=(), headers=None):
        self.session = requests.Session()
        self.session.trust_env = False
        self.session.headers.update(headers or {})
        self.fields = ["content-type", "location", *fields]

    def send(self, method, path, show=True, is_=None, summary=None, **options):
        """`is_`: what Cache-Status must contain when Larder stands in front. `summary`: what of the answer is compared instead
        of its body and the fields that tell its length."""
        answer = self.session.request(method, BASE + path, allow_redirects=False, timeout=20, **options)
        if show:
            # Which fields a 304 repeats is left to who makes it (RFC 9110 section 15.4.5).
            names = [] if answer.status_code == 304 else self.fields
            fields = {name: answer.headers.get(name) for name in names}
            body = answer.content
            if summary:
                fields.pop("content-length", None)
                body = summary(answer).encode()
            report(f"{method} {path}", answer.status_code, fields, body, answer.headers.get("cache-status"), is_)
        return answer

    def get(self, path, **options):
        return self.send("GET", path, **options)

    def post(self, path, **options):
        return self.send("POST", path, **options)

    def put(self, path, **options):
        return self.send("PUT", path, **options)

    def patch(self, path, **options):
        return self.send("PATCH", path, **options)

    def delete(self, path, **options):
        return self.send("DELETE", path, **options)


def report(step, status, fields, body, cache=None, is_=None):
    """Long bodies and bytes are compared by their digest. The address is another one behind Larder."""
    try:
        text = body.replace(BASE.encode(), b"BASE").decode()
    except UnicodeDecodeError:
        text = None
    if text is None or len(text) > 1000:
        body = body.replace(BASE.encode(), b"BASE")
        text = f"{len(body)} bytes, {hashlib.sha256(body).hexdigest()}"
    line = {"step": step, "status": status, "fields": fields, "body": text, "cache": cache, "is": is_}
    print(json.dumps(line).replace(BASE, "BASE"), flush=True)


def never_older(write, read, rounds=10, readers=2):
    """One writes, in turn, what others read all the while: the writer must read what it has written, and nobody may read an
    older one than they have read before. `read` makes a reader."""
    faults, ended = [], threading.Event()

    def watch():
        seen, mine = 0, read()
        while not ended.is_set():
            value = mine()
            if value < seen:
                faults.append(f"a reader saw {value} after {seen}")
            seen = value

    readers = [threading.Thread(target=watch) for _ in range(readers)]
    for reader in readers:
        reader.start()
    mine = read()
    for number in range(1, rounds + 1):
        write(number)
        value = mine()
        if value != number:
            faults.append(f"the writer read {value} after it had written {number}")
    ended.set()
    for reader in readers:
        reader.join()
    report("never older", 0, {}, ("; ".join(faults) or "right").encode())
