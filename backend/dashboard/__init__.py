"""Web pages with the state and figures of projects, for users without ML knowledge."""
