"""Statistics on arrays: audit set, queue order, metrics, quality gate, forecast. No I/O."""
