"""Show a report: JSON, Markdown, HTML. Pure functions of `Report`."""
