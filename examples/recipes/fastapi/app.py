"""A shop: products that everybody may see, and orders of who has a token."""

from contextlib import asynccontextmanager
from datetime import datetime, timedelta, timezone
from typing import Annotated

import jwt
from fastapi import Depends, FastAPI, HTTPException, Query, Response
from fastapi.middleware.gzip import GZipMiddleware
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel
from sqlmodel import Field, Session, SQLModel, create_engine, select

SECRET = "keep it elsewhere, and at least 32 bytes long"
engine = create_engine("sqlite:///shop.db", connect_args={"check_same_thread": False, "timeout": 20})


class ProductBase(SQLModel):
    name: str
    price: int
    stock: int = 0


class Product(ProductBase, table=True):
    id: int | None = Field(default=None, primary_key=True)


class PublicProduct(ProductBase):
    id: int


class OrderBase(SQLModel):
    product_id: int = Field(foreign_key="product.id")
    count: int


class Order(OrderBase, table=True):
    id: int | None = Field(default=None, primary_key=True)
    buyer: str = Field(index=True)


class PublicOrder(OrderBase):
    id: int
    buyer: str


class Login(BaseModel):
    name: str
    password: str


@asynccontextmanager
async def lifespan(_: FastAPI):
    SQLModel.metadata.create_all(engine)
    with Session(engine) as session:
        if not session.exec(select(Product)).first():
            session.add_all([Product(name=name, price=price, stock=5) for name, price in [("Tea", 4), ("Cup", 9), ("Pot", 30)]])
            session.commit()
    yield


def session():
    with Session(engine) as session:
        yield session


def buyer(credentials: Annotated[HTTPAuthorizationCredentials, Depends(HTTPBearer())]) -> str:
    try:
        return jwt.decode(credentials.credentials, SECRET, algorithms=["HS256"])["sub"]
    except jwt.InvalidTokenError as error:
        raise HTTPException(401, "The token is not valid.", {"WWW-Authenticate": "Bearer"}) from error


Database = Annotated[Session, Depends(session)]
Buyer = Annotated[str, Depends(buyer)]
app = FastAPI(lifespan=lifespan)
app.add_middleware(GZipMiddleware, minimum_size=200)


@app.post("/token")
def token(login: Login):
    if login.password != "secret":
        raise HTTPException(403, "The password is wrong.")
    expires = datetime.now(timezone.utc) + timedelta(hours=1)
    return {"token": jwt.encode({"sub": login.name, "exp": expires}, SECRET, algorithm="HS256")}


@app.get("/products")
def products(database: Database, most: Annotated[int, Query(ge=0)] = 1000) -> list[PublicProduct]:
    return database.exec(select(Product).where(Product.price <= most).order_by(Product.id)).all()


@app.get("/products/{product_id}")
def product(product_id: int, database: Database) -> PublicProduct:
    return database.get(Product, product_id) or not_found()


@app.post("/products", status_code=201)
def new_product(product: ProductBase, database: Database, response: Response, _: Buyer) -> PublicProduct:
    return saved(Product(**product.model_dump()), database, response)


@app.put("/products/{product_id}")
def change_product(product_id: int, change: ProductBase, database: Database, _: Buyer) -> PublicProduct:
    product = database.get(Product, product_id) or not_found()
    product.sqlmodel_update(change.model_dump())
    return saved(product, database)


@app.get("/orders")
def orders(database: Database, buyer: Buyer) -> list[PublicOrder]:
    return database.exec(select(Order).where(Order.buyer == buyer).order_by(Order.id)).all()


@app.get("/orders/{order_id}")
def order(order_id: int, database: Database, buyer: Buyer) -> PublicOrder:
    return own(order_id, database, buyer)


@app.post("/orders", status_code=201)
def new_order(order: OrderBase, database: Database, buyer: Buyer, response: Response) -> PublicOrder:
    product = database.get(Product, order.product_id) or not_found()
    if product.stock < order.count:
        raise HTTPException(409, f"There are only {product.stock} of it.")
    product.stock -= order.count
    database.add(product)
    return saved(Order(buyer=buyer, **order.model_dump()), database, response)


@app.delete("/orders/{order_id}", status_code=204)
def cancel(order_id: int, database: Database, buyer: Buyer):
    order = own(order_id, database, buyer)
    product = database.get(Product, order.product_id)
    product.stock += order.count
    database.add(product)
    database.delete(order)
    database.commit()


def own(order_id: int, database: Session, buyer: str) -> Order:
    order = database.get(Order, order_id)
    return order if order and order.buyer == buyer else not_found()


def saved(row, database: Session, response: Response | None = None):
    database.add(row)
    database.commit()
    database.refresh(row)
    if response:
        response.headers["Location"] = f"/{type(row).__name__.lower()}s/{row.id}"
    return row


def not_found():
    raise HTTPException(404, "There is no such thing.")
