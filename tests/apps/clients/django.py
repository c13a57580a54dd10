import re

from client import BASE, Client, never_older

# No ETag: it is a digest of addresses, too.
FIELDS = ["content-encoding", "allow", "x-content-type-options"]
LISTS = ["/notes/", "/notes/?page=2", "/notes/?page=3", "/notes/1/", "/notes/2/", "/notes/5/"]


class Person(Client):
    """A browser: it fills in the form, and sends the token of its cookie with each write."""

    def __init__(self, name):
        super().__init__(FIELDS, {"Origin": BASE})
        self.name = name

    def log_in(self, password="secret"):
        form = self.get("/accounts/login/", show=False).text
        token = re.search('name="csrfmiddlewaretoken" value="(.+?)"', form)[1]
        data = {"username": self.name, "password": password, "csrfmiddlewaretoken": token}
        return self.post("/accounts/login/", data=data, show=password == "secret")

    def write(self, method, path, json=None, show=True):
        headers = {"X-CSRFToken": self.session.cookies.get("csrftoken", "")}
        return self.send(method, path, json=json, headers=headers, show=show)

    def read_all(self, is_=None):
        for path in LISTS:
            self.get(path, is_=is_ if path != "/notes/2/" and "page=3" not in path else None)


anyone, ann, bob = Client(FIELDS), Person("ann"), Person("bob")

for path in ["/notes/", "/notes/?page=2", "/notes/1/", "/notes/5/"]:
    anyone.get(path, is_="stored")
    anyone.get(path, is_="hit")
anyone.get("/notes/2/")
anyone.get("/notes/mine/")
anyone.get("/notes")

# gzip: who takes it gets it, nobody else.
for encoding in ["gzip", "identity", "gzip", "identity"]:
    anyone.get("/notes/5/", headers={"Accept-Encoding": encoding})
etag = anyone.get("/notes/5/", show=False).headers["etag"]
anyone.get("/notes/5/", headers={"If-None-Match": etag}, is_="hit")

# Sessions: nobody sees what is another's.
ann.log_in("wrong")
ann.get("/notes/mine/")
ann.log_in()
bob.log_in()
for person in [ann, bob, ann, bob]:
    person.get("/notes/mine/")
    person.read_all()
ann.read_all("hit")
ann.get("/notes/mine/", is_="hit")
anyone.get("/notes/2/")
anyone.get("/notes/mine/")

# CSRF: a write without the token, or from another origin, changes nothing.
ann.post("/notes/", json={"text": "Without a token."})
token = {"X-CSRFToken": ann.session.cookies["csrftoken"]}
ann.post("/notes/", json={"text": "From elsewhere."}, headers={**token, "Origin": "http://evil.test"})
anyone.post("/notes/", json={"text": "From nobody."})
ann.get("/notes/mine/", is_="hit")

# Writes.
ann.write("POST", "/notes/", {"text": "A new one.", "public": False})
for person in [ann, bob]:
    person.get("/notes/mine/")
    person.read_all()
ann.write("PATCH", "/notes/6/", {"public": True})
ann.write("PATCH", "/notes/3/", {"text": "It is bob's."})
for person in [anyone, ann, bob]:
    person.get("/notes/6/")
    person.get("/notes/?page=2")
ann.write("PUT", "/notes/6/", {"text": "A better one.", "public": True})
anyone.get("/notes/6/")
ann.write("DELETE", "/notes/6/")
for person in [anyone, ann, bob]:
    person.get("/notes/6/")
    person.get("/notes/?page=2")


def read():
    reader = Client()
    return lambda: int((re.findall(r"\d+", reader.get("/notes/1/", show=False).json()["text"]) or [0])[0])


never_older(lambda number: ann.write("PATCH", "/notes/1/", {"text": f"Number {number}"}, show=False), read)

ann.get("/notes/mine/")
ann.write("POST", "/accounts/logout/")
ann.get("/notes/mine/")
bob.get("/notes/mine/")
