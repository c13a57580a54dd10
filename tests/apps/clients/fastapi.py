from client import Client, never_older

FIELDS = ["content-encoding", "www-authenticate", "allow"]
anyone = Client(FIELDS)


def log_in(name):
    token = anyone.post("/token", json={"name": name, "password": "secret"}, show=False).json()["token"]
    return Client(FIELDS, {"Authorization": f"Bearer {token}"})


def read_products(client, is_=None):
    for path in ["/products", "/products?most=10", "/products/1", "/products/2"]:
        client.get(path, is_=is_)


read_products(anyone, "stored")
read_products(anyone, "hit")
anyone.get("/products?most=-1")
anyone.get("/products/none")
anyone.get("/products/99")
anyone.get("/openapi.json")
for encoding in ["gzip", "identity", "gzip", "identity"]:
    anyone.get("/openapi.json", headers={"Accept-Encoding": encoding})
    anyone.get("/products", headers={"Accept-Encoding": encoding})

# JWT: each sees their own; a bad token sees nothing.
anyone.post("/token", json={"name": "ann", "password": "wrong"})
ann, bob, forged = log_in("ann"), log_in("bob"), Client(FIELDS, {"Authorization": "Bearer a.b.c"})
read_products(ann, "hit")
for client in [ann, bob, anyone, forged]:
    client.get("/orders")
for client in [ann, bob]:
    client.get("/orders", is_="hit")

# An order changes the stock, for everybody.
ann.post("/orders", json={"product_id": 1, "count": 2})
for client in [ann, bob, forged]:
    client.get("/orders")
    client.get("/orders/1")
read_products(anyone)
read_products(bob, "hit")
bob.post("/orders", json={"product_id": 1, "count": 4})
bob.post("/orders", json={"product_id": 1, "count": 3})
bob.post("/orders", json={"product_id": 1})
forged.post("/orders", json={"product_id": 1, "count": 3})
read_products(anyone)
bob.delete("/orders/1")
ann.delete("/orders/1")
for client in [ann, bob]:
    client.get("/orders")
    client.get("/orders/1")
read_products(anyone)

# Products.
ann.put("/products/2", json={"name": "Big cup", "price": 11, "stock": 1})
read_products(anyone)
anyone.get("/products/4")
ann.post("/products", json={"name": "Spoon", "price": 2})
anyone.get("/products/4")
anyone.post("/products", json={"name": "Nothing", "price": 2})
read_products(anyone)
anyone.send("DELETE", "/products/1")
anyone.send("OPTIONS", "/products/1")


def read():
    reader = Client()
    return lambda: reader.get("/products/3", show=False).json()["price"] - 30


never_older(lambda number: ann.put("/products/3", json={"name": "Pot", "price": 30 + number}, show=False), read)
