"""The table acme_tickets."""

from typing import ClassVar

from sqlalchemy import MetaData, Text
from sqlmodel import Field, SQLModel

from pipeline.ledger.columns import NAMING


class AcmeModel(SQLModel):
    metadata: ClassVar[MetaData] = MetaData(naming_convention=NAMING)


class Ticket(AcmeModel, table=True):
    __tablename__ = "acme_tickets"

    key: str = Field(primary_key=True, sa_type=Text)
    project: str = Field(sa_type=Text)
    title: str = Field(sa_type=Text)
