"""One run on several processes: starting them, what they agree on, what they average, what they save together."""
