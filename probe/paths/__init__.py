"""Where packets go in, the routers on their way out: multi-flow path tracing, in a child process with scapy.

records    what is asked of a trace, and what it says: one JSON object a line
identity   a flow's fixed header fields, and how a probe is told from the others of its flow
replies    bytes of an answer -> which probe it answers, and how
hops       which probe goes next, and what the answers make of each hop
mtu        the largest packet that gets through, and where larger ones end
memory     a path's id, which a silent router does not change
graph      several flows' hops -> one graph for people to read
wire       the sockets
child      all of it together, in a process of its own: the one that imports scapy
"""
