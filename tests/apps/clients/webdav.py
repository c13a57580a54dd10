import re

from client import BASE, Client, never_older



class DavClient(Client):
    """Its answers tell the time of day."""

    def send(self, method, path, summary=lambda answer: re.sub(r"\d{4}-\d\d-\d\d [\d:.]+", "", answer.text), **options):
        return super().send(method, path, summary=summary, **options)


client = DavClient(["accept-ranges", "content-range", "dav"])
FILES = ["/list.txt", "/copy.txt", "/drafts/letter.txt", "/drafts/b.txt", "/sent/letter.txt", "/sent/b.txt"]


def hrefs(answer):
    return "\n".join(sorted(re.findall("<ns0:href>(.*?)</ns0:href>", answer.text)))


def names(answer):
    return "\n".join(sorted(set(re.findall(r"[\w-]+\.txt|drafts|sent", answer.text))))


def read_all():
    for path in FILES + FILES[:2]:
        client.get(path)
    for path in ["/", "/drafts/", "/sent/"]:
        client.get(path, summary=names)
        client.send("PROPFIND", path, headers={"Depth": "1"}, summary=hrefs)


def to(path):
    return {"Destination": BASE + path}


read_all()
client.get("/list.txt", is_="hit")
client.get("/list.txt", headers={"Range": "bytes=4-8"}, is_="hit")
client.send("OPTIONS", "/")

client.put("/drafts/b.txt", data="A second one.")
read_all()
client.put("/list.txt", data="Buy butter.")
read_all()
client.send("COPY", "/list.txt", headers=to("/copy.txt"))
read_all()
client.send("COPY", "/drafts/b.txt", headers=to("/copy.txt"))
read_all()
client.send("COPY", "/list.txt", headers={**to("/copy.txt"), "Overwrite": "F"})
client.send("MKCOL", "/sent/")
client.send("MOVE", "/drafts/letter.txt", headers=to("/sent/letter.txt"))
read_all()
client.send("MOVE", "/drafts/", headers={**to("/sent/"), "Overwrite": "T"})
read_all()
client.delete("/sent/")
read_all()
client.delete("/sent/")

# A lock keeps others from writing, not from reading.
LOCK = '<lockinfo xmlns="DAV:"><lockscope><exclusive/></lockscope><locktype><write/></locktype><owner>ann</owner></lockinfo>'
locked = client.send("LOCK", "/list.txt", data=LOCK, headers={"Timeout": "Second-600"}, show=False)
token = locked.headers["Lock-Token"]
client.put("/list.txt", data="Somebody else's.", summary=lambda answer: "")
client.get("/list.txt")
client.put("/list.txt", data="Buy salt.", headers={"If": f"({token})"})
client.get("/list.txt")
client.send("UNLOCK", "/list.txt", headers={"Lock-Token": token})
client.put("/list.txt", data="Buy honey.")
client.get("/list.txt")
client.get("/list.txt", is_="hit")

# No readers beside the writer: the server empties a file before it writes it.
never_older(
    lambda number: client.put("/copy.txt", data=f"Number {number:03}.", show=False),
    lambda: lambda: int(re.search(r"\d+", client.get("/copy.txt", show=False).text)[0]),
    readers=0,
)
