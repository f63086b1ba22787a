"""From run directories to a report for people: read (data), say (content), draw (plots), render (html, markdown)."""
