"""Names and shapes that cross a process border: errors, ids, routes, and the JSON of requests, answers and events."""
