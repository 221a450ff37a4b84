"""What happened: records, spool, store, export."""
