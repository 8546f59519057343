"""The table acme_orders."""

from datetime import datetime
from typing import ClassVar

from sqlalchemy import MetaData, Text
from sqlmodel import Field, SQLModel

from pipeline.ledger.columns import NAMING, utcnow


class AcmeModel(SQLModel):
    metadata: ClassVar[MetaData] = MetaData(naming_convention=NAMING)


class Order(AcmeModel, table=True):
    __tablename__ = "acme_orders"

    order_id: str = Field(primary_key=True, sa_type=Text)
    customer: str = Field(sa_type=Text)
    amount: float
    currency: str = Field(sa_type=Text)
    status: str = Field(default="placed", sa_type=Text)
    request_id: str = Field(sa_type=Text)
    created_at: datetime = Field(default_factory=utcnow)
