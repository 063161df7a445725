"""What servers say, read once: events of a stream, chunks of a reply, faults in every provider's words."""
