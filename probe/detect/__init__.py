"""Windows in, events out: what changed, when it began and ended, and which windows prove it."""
