"""Dead letters say where in the code they failed; of those that are there already that is not known."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Extend dead letters."""
    op.add_column("dead_letters", sa.Column("place", sa.Text))
    op.add_column("dead_letters", sa.Column("traceback", sa.Text))
