"""The ledger: SQL as the truth for progress, outcomes, dead letters and the rows that handlers leave."""
