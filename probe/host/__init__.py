"""Nothing in, facts about this host out: its clock's quality, the agent's own cost, addresses and routes."""
