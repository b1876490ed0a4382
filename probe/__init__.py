"""coloprobe's agent side: packets in, summaries out over MQTT; every command starts in `probe.cli`."""

__version__ = "0.1.0"
