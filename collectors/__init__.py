"""The fan-in: MQTT batches in, validated points in a sink and acknowledgements out; keeps no state."""
