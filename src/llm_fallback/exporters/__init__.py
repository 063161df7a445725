"""Listeners that export calls: to JSON lines, and to OpenTelemetry and Prometheus, which are extras."""
