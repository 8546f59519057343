"""Dead letters can be grouped, redriven and discarded; who did so is kept."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from alembic import op

from pipeline.ledger.columns import UTCDateTime, big_id, json_type

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_PLACE: Final = ("consumer_group", "stream", "incarnation", "message_offset")


def upgrade() -> None:
    """Extend dead letters, and create operators' actions."""
    _extend_dead_letters()
    _create_indexes()
    _operator_actions()


def _extend_dead_letters() -> None:
    with op.batch_alter_table("dead_letters") as table:
        table.add_column(sa.Column("original", sa.Text))
        table.add_column(sa.Column("ordering_key", sa.Text))
        table.add_column(sa.Column("order_known", sa.Boolean, nullable=False, server_default=sa.false()))
        table.add_column(sa.Column("overtaken_by", sa.Text))
        table.add_column(sa.Column("job", sa.Text, nullable=False, server_default=""))
        table.add_column(sa.Column("closing", json_type()))
        table.add_column(sa.Column("fingerprint", sa.Text, nullable=False, server_default=""))
        table.add_column(sa.Column("redrives", sa.Integer, nullable=False, server_default="0"))
        table.add_column(sa.Column("request", sa.Text))
        table.add_column(sa.Column("from_start", sa.Boolean, nullable=False, server_default=sa.false()))
        table.add_column(sa.Column("forced", sa.Boolean, nullable=False, server_default=sa.false()))
        table.add_column(sa.Column("outcome", sa.Text))
        table.drop_constraint("uq_dead_letters_message", type_="unique")
        table.create_unique_constraint("uq_dead_letters_message", [*_PLACE, "route", "job"])


def _create_indexes() -> None:
    waiting = sa.text(
        "state IN ('open', 'redriving') AND order_known AND overtaken_by IS NULL AND ordering_key IS NOT NULL"
    )
    redriving = sa.text("state = 'redriving'")
    op.create_index("ix_dead_letters_fingerprint", "dead_letters", ["fingerprint"])
    op.create_index("ix_dead_letters_request", "dead_letters", ["request"])
    op.create_index(
        "ix_dead_letters_redriving", "dead_letters", list(_PLACE), sqlite_where=redriving, postgresql_where=redriving
    )
    op.create_index(
        "ix_dead_letters_waiting", "dead_letters", ["consumer_group", "stream", "route", "ordering_key"],
        sqlite_where=waiting, postgresql_where=waiting,
    )  # fmt: skip


def _operator_actions() -> None:
    op.create_table(
        "operator_actions",
        sa.Column("id", big_id(), nullable=False),
        sa.Column("at", UTCDateTime(), nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("dead_letter", sa.BigInteger),
        sa.Column("request", sa.Text),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("details", json_type(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_operator_actions"),
    )
    op.create_index("ix_operator_actions_dead_letter", "operator_actions", ["dead_letter"])
    op.create_index("ix_operator_actions_request", "operator_actions", ["request"])
