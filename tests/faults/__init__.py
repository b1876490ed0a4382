"""A network with two agents in, sixteen faults and what `coloprobe diagnose` says of them out."""
