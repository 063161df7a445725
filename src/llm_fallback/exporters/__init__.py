"""What listeners can export to: OpenTelemetry and Prometheus, each an extra."""
