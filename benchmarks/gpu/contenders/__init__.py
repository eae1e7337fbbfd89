"""Programs that measure one thing each: ``measure(options)`` returns the reading as plain types."""
