"""The handler acme-orders: keeps each order as a row, its amount in one currency."""

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field
from sqlmodel import col, update

from acme_orders.tables import Order
from pipeline import Context, Event, Handler, Reject, Setup, Skip


class OrderPlaced(BaseModel):
    order_id: str = Field(min_length=1)
    customer: str
    amount: float = Field(gt=0)
    currency: str = "EUR"


class OrderCancelled(BaseModel):
    order_id: str = Field(min_length=1)


class OrdersOptions(BaseModel):
    """``[stage.acme-orders]``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    currency: str = Field("EUR", description="The currency that amounts are kept in.")
    minimum: float = Field(0, ge=0, description="Smaller orders are left out.")


class OrdersHandler(Handler[OrdersOptions]):
    name = "acme-orders"
    Options = OrdersOptions
    models: ClassVar = {"order.placed": OrderPlaced, "order.cancelled": OrderCancelled}
    resources = ("acme-rates",)

    async def start(self, setup: Setup) -> None:
        self.log = setup.log
        self.rates = setup.resource("acme-rates")

    async def handle(self, event: Event[Any], context: Context) -> None:
        match event.model:
            case OrderPlaced() as placed:
                await self.placed(placed, context)
            case OrderCancelled() as cancelled:
                order = update(Order).where(col(Order.order_id) == cancelled.order_id)
                context.execute(order.values(status="cancelled"))
            case _:
                raise Reject(f"not an order: {event.routing_key}", kind="unknown_event")

    async def placed(self, placed: OrderPlaced, context: Context) -> None:
        rate = await self.rates.rate(placed.currency, self.options.currency)
        amount = round(placed.amount * rate, 2)
        if amount < self.options.minimum:
            raise Skip(f"{amount} {self.options.currency} is too little")
        context.add(
            Order(
                order_id=placed.order_id,
                customer=placed.customer,
                amount=amount,
                currency=self.options.currency,
                request_id=context.request_id,
            )
        )
        self.log.info("order %s of %s", placed.order_id, placed.customer)
