"""From text and JSON to typed objects: strict about structure, lazy about content."""
