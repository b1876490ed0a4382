"""What an agent says and how it leaves: summaries in, lines, batches, a spool and an uplink out."""
