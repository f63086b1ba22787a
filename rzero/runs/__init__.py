"""A run's book: what is done, what was posed, what is said to the person who waits."""
